"""Projection: the latent and the noise with which a generator shows a given picture.

The optimisation of arXiv 1912.04958, appendix D, with the numbers of the published projector: w starts at W's mean and
follows the gradient of a perceptual distance, while fading noise is added to it; the noise maps of the synthesis
network are optimised along, and kept free of any correlation between pixels, lest they carry the picture themselves.

Shapes: C image channels, H W height and width, L the w vectors a generator takes (`num_ws`), D size of the features.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dataset_format.sizes import Resolution, sides
from generation.projected_latents import Projections, noise_buffers, noise_of
from torch_utils import images, misc

Features = Callable[[torch.Tensor], torch.Tensor]
"""[N, 3, H, W] float32 from 0 to 255 → [N, D], whose squared distance says how different two images look."""

_LARGEST_FEATURE_INPUT, _SMALLEST_FEATURE_INPUT = 256, 32  # the latter: VGG16 halves five times
_SMALLEST_NOISE_LEVEL = 8
_W_SAMPLES_SEED, _W_BATCH = 123, 1000


@dataclass(frozen=True)
class Settings:
    """How to project. The defaults are the published numbers; shares and lengths are parts of the whole run.

    space: 'w': one vector w for all layers; 'w+': one for each.
    noise_weight: Of the penalty on correlation in the noise maps.
    w_noise: Deviation of the noise added to w at first, in deviations of W; it falls to nothing at `w_noise_until`.
    """

    num_steps: int = 1000
    seed: int = 303
    space: str = 'w'
    learning_rate: float = 0.1
    noise_weight: float = 1e5
    ramp_up: float = 0.05
    ramp_down: float = 0.25
    w_noise: float = 0.05
    w_noise_until: float = 0.75


@dataclass(frozen=True)
class WStatistics:
    """W's mean [w_dim] and its deviation, one number: the root of the mean squared distance from the mean."""

    mean: torch.Tensor
    deviation: float


@dataclass(frozen=True)
class Rendering:
    """What an image was rendered from, and how far it was from the target.

    step: Updates made before it.
    ws: float32 [1, L, w_dim], as rendered: with what was added to w.
    noise: Name of a noise buffer of `G.synthesis` → float32 [H, W].
    """

    step: int
    distance: float
    ws: torch.Tensor
    noise: dict[str, torch.Tensor]

    def projections(self) -> Projections:
        """The same for a file."""
        noise = {name: buffer.detach().cpu().numpy()[np.newaxis] for name, buffer in self.noise.items()}
        return Projections(self.ws.cpu().numpy(), noise)


@dataclass(frozen=True)
class Result:
    """`last` is after all updates, as the published projector returns it; `best` has the lowest distance of all.

    distances: After 0, 1, …, num_steps updates.
    """

    last: Rendering
    best: Rendering
    distances: list[float]


# ---------------------------------------------------------------------------------------- the optimisation


@misc.full_precision()
def project(
    G: torch.nn.Module,
    target: np.ndarray,
    features: Features,
    statistics: WStatistics,
    settings: Settings,
    on_render: Callable[[int, float, torch.Tensor], None] | None = None,
) -> Result:
    """Find the w and the noise with which `G` shows the target. `G` itself stays as it is.

    The random numbers are drawn on the CPU, the same for every device.

    Args:
        G: Generator, on the device of the statistics.
        target: uint8 [C, H, W], of the size that G makes.
        features: What distances are measured in, on the same device.
        statistics: Of G, and of the class that is meant (`measure_w`).
        on_render: Called num_steps + 1 times with the updates made so far, the distance, and the image [1, C, H, W].

    Raises:
        ValueError: The distance became infinite or no number.
    """
    device = statistics.mean.device
    synthesis = _frozen(G.synthesis)
    random = torch.Generator().manual_seed(settings.seed)
    noise = {
        name: torch.randn(buffer.shape, generator=random).to(device).requires_grad_()
        for name, buffer in noise_buffers(G).items()
    }
    num_vectors = G.num_ws if settings.space == 'w+' else 1
    w = statistics.mean.repeat(1, num_vectors, 1).requires_grad_()  # [1, 1 or L, w_dim]
    optimizer = torch.optim.Adam([w, *noise.values()], betas=(0.9, 0.999))
    with torch.no_grad():
        wanted = features(feature_input(torch.from_numpy(target).to(device, torch.float32)[None]))

    distances, best = [], None
    for step in range(settings.num_steps + 1):
        progress = step / settings.num_steps
        added = torch.randn(w.shape, generator=random).to(device) * w_noise_at(progress, statistics.deviation, settings)
        ws = (w + added).repeat(1, G.num_ws // num_vectors, 1)  # [1, L, w_dim]
        image = _synthesize(synthesis, ws, noise)  # [1, C, H, W]
        distance = (features(feature_input((image + 1) * 127.5)) - wanted).square().sum()
        rendering = Rendering(step, _finite(distance.item(), step), ws.detach(), noise)
        if on_render is not None:
            on_render(step, rendering.distance, image.detach())
        distances.append(rendering.distance)
        if best is None or rendering.distance < best.distance:
            best = _copy_of(rendering)
        if step < settings.num_steps:
            loss = distance + settings.noise_weight * noise_penalty(noise.values())
            loss.backward(inputs=[w, *noise.values()])
            _update(optimizer, learning_rate_at(progress, settings), noise.values())
    return Result(_copy_of(rendering), best, distances)


def _update(optimizer: torch.optim.Optimizer, learning_rate: float, noise: Iterable[torch.Tensor]) -> None:
    for group in optimizer.param_groups:
        group['lr'] = learning_rate
    optimizer.step()
    optimizer.zero_grad()
    for buffer in noise:
        standardize_(buffer)


def _synthesize(synthesis: torch.nn.Module, ws: torch.Tensor, noise: dict[str, torch.Tensor]) -> torch.Tensor:
    """Images in float32 with these tensors in place of the network's own noise buffers; gradients flow to them."""
    return torch.func.functional_call(synthesis, noise, (ws,), {'noise_mode': 'const', 'force_fp32': True})


def _finite(distance: float, step: int) -> float:
    if not math.isfinite(distance):
        raise ValueError(
            f'The distance to the target became {distance} in step {step}: lower --lr or --noise-weight.'
            if step > 0
            else f'The distance to the target is {distance} at the start: the network makes no finite images.'
        )
    return distance


def _copy_of(rendering: Rendering) -> Rendering:
    """The optimiser changes the noise in place, and what is kept is not to follow."""
    noise = {name: buffer.detach().clone() for name, buffer in rendering.noise.items()}
    return Rendering(rendering.step, rendering.distance, rendering.ws, noise)


def _frozen(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


@misc.full_precision()
@torch.no_grad()
def render(G: torch.nn.Module, rendering: Rendering) -> np.ndarray:
    """The image of a rendering, uint8 [C, H, W]; `generate.py --projected-w` makes the same of its projection."""
    with noise_of(G, rendering.projections(), 0):
        return images.to_uint8(G.synthesis(rendering.ws, noise_mode='const', force_fp32=True))[0].cpu().numpy()


# ------------------------------------------------------------------------------------ where w starts, schedule


@torch.no_grad()
def measure_w(G: torch.nn.Module, label: torch.Tensor, num_samples: int = 10_000) -> WStatistics:
    """Mean and deviation of w over random z, always the same ones, without truncation.

    Args:
        G: Generator.
        label: float32 [1, c_dim], on G's device: the class of all samples.
        num_samples: How many; more than 1.
    """
    mapping = _frozen(G.mapping)
    z = np.random.RandomState(_W_SAMPLES_SEED).randn(num_samples, G.z_dim)
    batches = torch.from_numpy(z.astype(np.float32)).split(_W_BATCH)
    samples = [mapping(batch.to(label.device), label.expand(len(batch), -1))[:, 0].cpu().double() for batch in batches]
    w = torch.cat(samples)  # [num_samples, w_dim]
    mean = w.mean(dim=0)
    deviation = (w - mean).square().sum().div(num_samples).sqrt()
    return WStatistics(mean.to(label.device, torch.float32), deviation.item())


def learning_rate_at(progress: float, settings: Settings) -> float:
    """Rises in a line, stays, and falls along half a cosine. `progress` runs from 0 to 1."""
    rise = min(progress / settings.ramp_up, 1)
    left = min((1 - progress) / settings.ramp_down, 1)
    return settings.learning_rate * rise * (1 - math.cos(math.pi * left)) / 2


def w_noise_at(progress: float, w_deviation: float, settings: Settings) -> float:
    """Deviation of what is added to w."""
    left = max(1 - progress / settings.w_noise_until, 0)
    return settings.w_noise * w_deviation * left**2


# --------------------------------------------------------------------------------------- distance and noise


def feature_input(image: torch.Tensor) -> torch.Tensor:
    """Image [1, C, H, W] from 0 to 255 → [1, 3, H', W'] for the features: gray is repeated, sides are at most 256.

    Larger images are averaged down until the longer side has 256 pixels. Those below 32, which the feature network
    could not take, have their pixels repeated until the shorter side has 32.

    An image with alpha becomes two, on white and on black: what it looks like on these says all about its alpha.
    """
    size = feature_input_size(image.shape[2:])
    if image.shape[1] in (2, 4):
        image = torch.cat([images.on_background(image, shade) for shade in (255, 0)])
    if max(image.shape[2:]) > max(size):
        image = torch.nn.functional.interpolate(image, size=size, mode='area')
    elif max(image.shape[2:]) < max(size):
        image = torch.nn.functional.interpolate(image, size=size, mode='nearest')
    return image.expand(-1, 3, -1, -1)


def feature_input_size(resolution: Resolution) -> tuple[int, int]:
    """Height and width that `feature_input` gives to images of a network's resolution."""
    height, width = sides(resolution)
    scale = min(_LARGEST_FEATURE_INPUT / max(height, width), 1)
    scale = max(scale, _SMALLEST_FEATURE_INPUT / min(height, width))
    return round(height * scale), round(width * scale)


def noise_penalty(noise: Iterable[torch.Tensor]) -> torch.Tensor:
    """How much neighbouring pixels of noise maps [H, W] agree, at all scales (arXiv 1912.04958, appendix D).

    The sum, over all levels of all maps, of the squared autocorrelations at one pixel's distance in x and in y.
    """
    correlations = [
        (level * level.roll(1, dims=axis)).mean() for buffer in noise for level in _levels(buffer) for axis in (0, 1)
    ]
    return torch.stack(correlations).square().sum() if correlations else torch.zeros([])


def _levels(buffer: torch.Tensor) -> Iterator[torch.Tensor]:
    """The map itself, then ever halved by averaging, down to 8 pixels."""
    yield buffer
    while min(buffer.shape) > _SMALLEST_NOISE_LEVEL:
        buffer = torch.nn.functional.avg_pool2d(buffer[None, None], kernel_size=2)[0, 0]
        yield buffer


@torch.no_grad()
def standardize_(buffer: torch.Tensor) -> None:
    """In place: mean 0, then mean square 1."""
    buffer -= buffer.mean()
    buffer *= buffer.square().mean().rsqrt()
