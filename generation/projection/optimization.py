"""Find the latent and the noise with which a generator reproduces a given picture.

This is the optimization of arXiv 1912.04958, appendix D, with the published numbers: w starts at the mean of W and
follows the gradient of a perceptual distance, while decaying noise is added to it. The noise maps of the synthesis
network are optimized as well, with a penalty on correlations between pixels, so that they do not encode the picture.
Networks without noise, such as those of StyleGAN3, have only w to optimize.

Shapes: C image channels, H W height and width, L number of w vectors of the generator (`num_ws`), D features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataset_format.sizes import Resolution, sides
from generation.latents import sample_w
from generation.projected_latents import ProjectedLatents, noise_buffers, use_projected_noise
from torch_utils import images, precision
from torch_utils.inference_graphs import Replayed

FeatureFunction = Callable[[torch.Tensor], torch.Tensor]
"""Maps float32 [N, 3, H, W] from 0 to 255 to [N, D]; squared distances measure how different two images look."""

_MAX_FEATURE_INPUT, _MIN_FEATURE_INPUT = 256, 32  # VGG16 halves its input five times
_MIN_NOISE_LEVEL = 8


@dataclass(frozen=True)
class ProjectionSettings:
    """Settings of the optimization; the defaults are the published numbers.

    Args:
        num_steps: Number of updates.
        seed: Seed of all noise.
        space: 'w' optimizes one vector w for all layers, 'w+' one for each.
        learning_rate: Maximum learning rate.
        noise_weight: Weight of the penalty on correlations in the noise maps.
        ramp_up: Fraction of the run in which the learning rate rises.
        ramp_down: Fraction of the run in which the learning rate falls.
        w_noise: Initial standard deviation of the noise added to w, in standard deviations of W.
        w_noise_until: Fraction of the run after which no noise is added to w.
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
    """Mean [w_dim] of W, and its standard deviation: the root of the mean squared distance from the mean."""

    mean: torch.Tensor
    deviation: float


@dataclass(frozen=True)
class Candidate:
    """The inputs of one rendered image, and its distance from the target.

    Args:
        step: Number of updates made before.
        distance: Squared distance of the features.
        ws: float32 [1, L, w_dim] as rendered, including the noise added to w.
        noise: float32 [H, W] by the name of a noise buffer of `G.synthesis`.
    """

    step: int
    distance: float
    ws: torch.Tensor
    noise: dict[str, torch.Tensor]

    def to_latents(self) -> ProjectedLatents:
        """Return the latent and the noise in the form that is written to a file."""
        noise = {name: buffer.detach().cpu().numpy()[np.newaxis] for name, buffer in self.noise.items()}
        return ProjectedLatents(self.ws.cpu().numpy(), noise)


@dataclass(frozen=True)
class ProjectionResult:
    """The result of a projection.

    Args:
        last: After all updates, as in the published projector.
        best: The candidate with the lowest distance.
        distances: Distances after 0, 1, ..., num_steps updates.
    """

    last: Candidate
    best: Candidate
    distances: list[float]


# ---------------------------------------------------------------------------------------------------------------------
# Optimization


@precision.tensor_float32(False)
def project(
    G: Any,
    target: np.ndarray,
    features: FeatureFunction,
    statistics: WStatistics,
    settings: ProjectionSettings,
    on_render: Callable[[int, float, torch.Tensor], bool | None] | None = None,
) -> ProjectionResult:
    """Find the w and the noise with which `G` reproduces the target. `G` itself is not changed.

    Random numbers are drawn on the CPU, so that they are the same on every device.

    Args:
        G: Generator on the device of the statistics.
        target: uint8 [C, H, W] of the size of G's images.
        features: Features whose distance is minimized, on the same device.
        statistics: Statistics of G for the class of the target, from `measure_w`.
        settings: Settings of the optimization.
        on_render: Called num_steps + 1 times with the number of updates so far, the distance, and the image
            [1, C, H, W]. If it returns True, the optimization ends with what it has.

    Raises:
        ValueError: The distance became infinite or NaN.
    """
    device = statistics.mean.device
    synthesis = _frozen(G.synthesis)
    random = torch.Generator().manual_seed(settings.seed)
    noise = _initial_noise(G, random, device)
    num_vectors = G.num_ws if settings.space == 'w+' else 1
    w = statistics.mean.repeat(1, num_vectors, 1).requires_grad_()  # [1, 1 or L, w_dim]
    optimizer = torch.optim.Adam(optimized := [w, *noise.values()], betas=(0.9, 0.999))
    with torch.no_grad():
        target_features = features(feature_input(torch.from_numpy(target).to(device, torch.float32)[None]))

    @Replayed
    def evaluate(added: torch.Tensor) -> list[torch.Tensor]:
        """Return distance [], image [1, C, H, W], ws [1, L, w_dim] and the gradients with this noise added to w."""
        ws = (w + added).repeat(1, G.num_ws // num_vectors, 1)
        image = _synthesize(synthesis, ws, noise)
        distance = (features(feature_input((image + 1) * 127.5)) - target_features).square().sum()
        loss = distance + settings.noise_weight * noise_penalty(noise.values())
        gradients = torch.autograd.grad(loss, optimized, materialize_grads=True)
        return [distance.detach(), image.detach(), ws.detach(), *gradients]

    distances: list[float] = []
    best: Candidate | None = None
    for step in range(settings.num_steps + 1):
        progress = step / settings.num_steps
        added = torch.randn(w.shape, generator=random).to(device) * w_noise_at(progress, statistics.deviation, settings)
        distance, image, ws, *gradients = evaluate(added)
        candidate = Candidate(step, _check_finite(distance.item(), step), ws, noise)
        is_over = on_render is not None and on_render(step, candidate.distance, image) is True
        distances.append(candidate.distance)
        if best is None or candidate.distance < best.distance:
            best = _copy(candidate)
        if is_over or step == settings.num_steps:
            break
        _update(optimizer, gradients, learning_rate_at(progress, settings), noise.values())
    assert best is not None
    return ProjectionResult(_copy(candidate), best, distances)


def _initial_noise(G: Any, random: torch.Generator, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(buffer.shape, generator=random).to(device).requires_grad_()
        for name, buffer in noise_buffers(G).items()
    }


def _update(
    optimizer: torch.optim.Optimizer,
    gradients: Sequence[torch.Tensor],
    learning_rate: float,
    noise: Iterable[torch.Tensor],
) -> None:
    (group,) = optimizer.param_groups
    group['lr'] = learning_rate
    for parameter, gradient in zip(group['params'], gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    for buffer in noise:
        standardize_(buffer)


def _synthesize(synthesis: torch.nn.Module, ws: torch.Tensor, noise: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return float32 images, with these tensors in place of the network's noise buffers; gradients flow to them."""
    return torch.func.functional_call(synthesis, noise, (ws,), {'noise_mode': 'const', 'force_fp32': True})


def _check_finite(distance: float, step: int) -> float:
    if not math.isfinite(distance):
        raise ValueError(
            f'The distance to the target became {distance} in step {step}: use a lower --lr or --noise-weight.'
            if step > 0
            else f'The distance to the target is {distance} at the start: the images of the network are not finite.'
        )
    return distance


def _copy(candidate: Candidate) -> Candidate:
    """Copy the noise, which the optimizer changes in place."""
    noise = {name: buffer.detach().clone() for name, buffer in candidate.noise.items()}
    return Candidate(candidate.step, candidate.distance, candidate.ws, noise)


def _frozen(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


@precision.tensor_float32(False)
@torch.no_grad()
def render(G: Any, candidate: Candidate) -> np.ndarray:
    """Return the image of a candidate, uint8 [C, H, W]: the same as `generate.py --projected-w` renders."""
    with use_projected_noise(G, candidate.to_latents(), 0):
        return images.to_uint8(G.synthesis(candidate.ws, noise_mode='const', force_fp32=True))[0].cpu().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Start and schedule


@torch.no_grad()
def measure_w(G: Any, label: torch.Tensor, num_samples: int = 10_000) -> WStatistics:
    """Measure mean and standard deviation of w over a fixed set of random z, without truncation.

    Args:
        G: Generator.
        label: float32 [1, c_dim] on the device of G: the class of all samples.
        num_samples: Number of samples, more than 1.
    """
    w = sample_w(G, label, num_samples)
    mean = w.mean(dim=0)
    deviation = (w - mean).square().sum().div(num_samples).sqrt()
    return WStatistics(mean.to(label.device, torch.float32), deviation.item())


def learning_rate_at(progress: float, settings: ProjectionSettings) -> float:
    """Return the learning rate: linear ramp-up, constant, cosine ramp-down. `progress` runs from 0 to 1."""
    rise = min(progress / settings.ramp_up, 1)
    left = min((1 - progress) / settings.ramp_down, 1)
    return settings.learning_rate * rise * (1 - math.cos(math.pi * left)) / 2


def w_noise_at(progress: float, w_deviation: float, settings: ProjectionSettings) -> float:
    """Return the standard deviation of the noise added to w."""
    left = max(1 - progress / settings.w_noise_until, 0)
    return settings.w_noise * w_deviation * left**2


# ---------------------------------------------------------------------------------------------------------------------
# Distance and noise


def feature_input(image: torch.Tensor) -> torch.Tensor:
    """Convert an image [1, C, H, W] from 0 to 255 to the input of the features, [1, 3, H', W'].

    Gray is repeated three times. Larger images are averaged down to 256 pixels on the longer side; images smaller than
    32 pixels, too small for the feature network, are enlarged by repeating pixels to 32 on the shorter side.

    An image with alpha becomes two images, on white and on black, which together determine its alpha: [2, 3, H', W'].
    """
    size = feature_input_size(list(image.shape[2:]))
    if image.shape[1] in (2, 4):
        image = torch.cat([images.on_background(image, shade) for shade in (255, 0)])
    if max(image.shape[2:]) > max(size):
        image = torch.nn.functional.interpolate(image, size=size, mode='area')
    elif max(image.shape[2:]) < max(size):
        image = torch.nn.functional.interpolate(image, size=size, mode='nearest')
    return image.expand(-1, 3, -1, -1)


def feature_input_size(resolution: Resolution) -> tuple[int, int]:
    """Return the (height, width) of `feature_input` for images of a resolution."""
    height, width = sides(resolution)
    scale = min(_MAX_FEATURE_INPUT / max(height, width), 1)
    scale = max(scale, _MIN_FEATURE_INPUT / min(height, width))
    return round(height * scale), round(width * scale)


def noise_penalty(noise: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the correlation of neighboring pixels of noise maps [H, W] at all scales (arXiv 1912.04958, appendix D).

    It is the sum of the squared autocorrelations at a distance of one pixel in x and y, over all levels of all maps.
    """
    correlations = [
        (level * level.roll(1, dims=axis)).mean() for buffer in noise for level in _levels(buffer) for axis in (0, 1)
    ]
    return torch.stack(correlations).square().sum() if correlations else torch.zeros([])


def _levels(buffer: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the map, and smaller and smaller averages of it, each half as large, down to 8 pixels."""
    yield buffer
    while min(buffer.shape) > _MIN_NOISE_LEVEL:
        buffer = torch.nn.functional.avg_pool2d(buffer[None, None], kernel_size=2)[0, 0]
        yield buffer


@torch.no_grad()
def standardize_(buffer: torch.Tensor) -> None:
    """Normalize in place to mean 0 and mean square 1."""
    buffer -= buffer.mean()
    buffer *= buffer.square().mean().rsqrt()
