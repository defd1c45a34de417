"""Tune a generator until it shows given photographs exactly: pivotal tuning (arXiv 2106.05744).

The latents of the photographs, found by projection, stay as they are (the pivots), and the synthesis network learns to
turn them into the photographs. Latents around the pivots are kept in place by the locality regularization: their images
should remain those of the original network. The mapping network, and with it the distribution of w, does not change.

Legend: n photographs, C image channels, H W height and width, L number of w vectors of the generator.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataset_format.sizes import describe_size, sides
from dnnlib.errors import InvalidArgument
from generation.projected_latents import ProjectedLatents
from generation.projection.optimization import FeatureFunction, feature_input
from torch_utils import precision

_NUM_DRIFT_IMAGES = 32


@dataclass(frozen=True)
class TuningSettings:
    """Settings of the optimization.

    Args:
        num_steps: Number of updates.
        batch_size: Photographs in each update.
        learning_rate: Learning rate of Adam.
        l2_weight: Weight of the mean squared difference of pixels, which are from -1 to +1.
        locality_weight: Weight of the locality regularization; 0 leaves it out.
        locality_samples: Latents of the locality regularization in each update.
        locality_distance: Their distance from the pivot, in standard deviations of w.
        seed: Seed of these latents, and of the order of the photographs.
    """

    num_steps: int = 350
    batch_size: int = 4
    learning_rate: float = 1e-3
    l2_weight: float = 1
    locality_weight: float = 0.1
    locality_samples: int = 1
    locality_distance: float = 1
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """How similar an image is to its photograph.

    Args:
        distance: Squared distance of the features, as the projector measures it.
        l2: Mean squared difference of pixels, which are from -1 to +1.
    """

    distance: float
    l2: float


@dataclass(frozen=True)
class TuningResult:
    """A tuned generator.

    Args:
        G: The generator, on the device of the original.
        before: How similar each image was to its photograph before.
        after: How similar it is now.
        drift: Mean squared distance of the features of images before and after, over random latents that have
            nothing to do with the photographs.
        num_steps: Number of updates that were made.
    """

    G: Any
    before: list[Fit]
    after: list[Fit]
    drift: float
    num_steps: int


Progress = Callable[[int, float, dict[int, torch.Tensor]], bool | None]
"""Called with the number of updates so far, the loss that the next one reduces (NaN after the last one), and the images
[1, C, H, W] that were rendered for it, by the index of their photograph. If it returns True, the optimization ends with
what it has."""


@precision.tensor_float32(False)
def tune(
    G: Any,
    photographs: Sequence[np.ndarray],
    pivots: ProjectedLatents,
    features: FeatureFunction,
    settings: TuningSettings,
    device: torch.device | str = 'cpu',
    on_step: Progress | None = None,
) -> TuningResult:
    """Tune a copy of the generator. `G` itself is not changed.

    Random numbers are drawn on the CPU, so that they are the same on every device.

    Args:
        G: Generator.
        photographs: uint8 [C, H, W] of the size of G's images, n of them.
        pivots: Their latents, n of them, with noise if it was found by projection.
        features: Features whose distance is minimized, on the device of G.
        settings: Settings of the optimization.
        device: Device of G.
        on_step: See `Progress`.

    Raises:
        InvalidArgument: Argument 'target': a photograph has another size, or their number is not that of the pivots.
            Argument 'lr' or 'network': the loss is infinite or NaN.
    """
    check_photographs(photographs, pivots, G)
    original, tuned = (copy.deepcopy(G).eval().requires_grad_(False) for _ in range(2))
    tuned.synthesis.requires_grad_(True)
    targets = [Target.of(pixels, features, device) for pixels in photographs]
    images_of = _Renderer(pivots, device)
    locality = Locality(original, features, settings, device)
    random = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(tuned.synthesis.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999))
    before, num_steps = _measure(images_of, original.synthesis, targets, features), settings.num_steps
    order: list[int] = []
    for step in range(settings.num_steps):
        order = order or torch.randperm(len(targets), generator=random).tolist()
        batch, order = order[: settings.batch_size], order[settings.batch_size :]
        total, rendered = 0.0, {}
        for index in batch:
            image = images_of(tuned.synthesis, index)
            loss = photograph_loss(image, targets[index], features, settings.l2_weight) / len(batch)
            loss.backward()
            total, rendered[index] = total + loss.item(), image.detach()
        if settings.locality_weight > 0:
            total += locality.backward(tuned, images_of.ws[batch], random)
        _check_finite(total, step)
        if on_step is not None and on_step(step, total, rendered) is True:
            num_steps = step
            break
        optimizer.step()
        optimizer.zero_grad()

    tuned.requires_grad_(False)
    after = _measure(images_of, tuned.synthesis, targets, features)
    if on_step is not None:
        with torch.no_grad():
            on_step(num_steps, math.nan, {i: images_of(tuned.synthesis, i) for i in range(len(targets))})
    return TuningResult(tuned, before, after, _drift(original, tuned, features, device), num_steps)


# ---------------------------------------------------------------------------------------------------------------------
# Losses


@dataclass(frozen=True)
class Target:
    """What an image is compared with.

    Args:
        pixels: float [1 or 2, 1 or 3, H, W] from -1 to +1; with alpha on white and on black.
        features: Features of the photograph.
    """

    pixels: torch.Tensor
    features: torch.Tensor

    @staticmethod
    @torch.no_grad()
    def of(photograph: np.ndarray, features: FeatureFunction, device: torch.device | str) -> Target:
        """Return the target for a photograph uint8 [C, H, W]."""
        image = torch.from_numpy(photograph).to(device, torch.float32)[None] / 127.5 - 1
        return Target.of_image(image, features)

    @staticmethod
    @torch.no_grad()
    def of_image(image: torch.Tensor, features: FeatureFunction) -> Target:
        """Return the target for an image [1, C, H, W] from -1 to +1."""
        return Target(without_alpha(image), features(feature_input((image + 1) * 127.5)))


def photograph_loss(image: torch.Tensor, target: Target, features: FeatureFunction, l2_weight: float) -> torch.Tensor:
    """Return the squared distance of features plus the weighted mean squared difference of pixels.

    Args:
        image: [1, C, H, W] from -1 to +1.
        target: What it should show.
        features: Features.
        l2_weight: Weight of the pixels.
    """
    distance, l2 = compare(image, target, features)
    return distance + l2_weight * l2


def compare(image: torch.Tensor, target: Target, features: FeatureFunction) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squared distance of features, and the mean squared difference of pixels."""
    distance = (features(feature_input((image + 1) * 127.5)) - target.features).square().sum()
    return distance, (without_alpha(image) - target.pixels).square().mean()


def without_alpha(image: torch.Tensor) -> torch.Tensor:
    """Return an image [1, C, H, W] from -1 to +1 on white and on black, [2, C - 1, H, W], if it has alpha.

    The colors of transparent pixels do not matter, and the two pictures determine alpha. Like colors, alpha is not
    clamped, so that pixels which are too transparent or too opaque have gradients.
    """
    if image.shape[1] not in (2, 4):
        return image
    cover = (image[:, -1:] + 1) / 2
    return torch.cat([image[:, :-1] * cover + shade * (1 - cover) for shade in (1, -1)])


class Locality:
    """The locality regularization: images around the pivots remain those of the original network.

    Args:
        original: The original generator.
        features: Features.
        settings: Settings of the optimization.
        device: Device of the generator.
    """

    def __init__(self, original: Any, features: FeatureFunction, settings: TuningSettings, device: torch.device | str):
        self._original, self._features, self._settings = original, features, settings
        self._radius = settings.locality_distance * w_deviation(original, device)

    def latents(self, pivots: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Return latents on the way from pivots to random w: `locality_samples` of them, [N, L, w_dim].

        The random w of conditional networks are those of random classes.
        """
        count = self._settings.locality_samples
        ws = _random_ws(self._original, count, random, pivots.device)
        chosen = pivots[torch.randint(len(pivots), [count], generator=random).to(pivots.device)]
        return interpolate(chosen, ws, self._radius)

    def backward(self, tuned: Any, pivots: torch.Tensor, random: torch.Generator) -> float:
        """Add the gradients of the weighted regularization to those of the tuned network; return its value."""
        settings, total = self._settings, 0.0
        for w in self.latents(pivots, random).split(1):
            with torch.no_grad():
                target = Target.of_image(_render(self._original.synthesis, w), self._features)
            loss = photograph_loss(_render(tuned.synthesis, w), target, self._features, settings.l2_weight)
            loss = loss * (settings.locality_weight / settings.locality_samples)
            loss.backward()
            total += loss.item()
        return total


@torch.no_grad()
def w_deviation(G: Any, device: torch.device | str, num_samples: int = 4000) -> float:
    """Return the standard deviation of w over all classes: the root of the mean squared distance from the mean."""
    ws = _random_ws(G, num_samples, torch.Generator().manual_seed(0), device)[:, 0].cpu().double()
    return (ws - ws.mean(dim=0)).square().sum(dim=1).mean().sqrt().item()


@torch.no_grad()
def _random_ws(G: Any, count: int, random: torch.Generator, device: torch.device | str) -> torch.Tensor:
    """Return w of random z and random classes, [count, L, w_dim]."""
    z = torch.randn([count, G.z_dim], generator=random)
    c = torch.zeros([count, G.c_dim])
    if G.c_dim > 0:
        c[torch.arange(count), torch.randint(G.c_dim, [count], generator=random)] = 1
    return G.mapping(z.to(device), c.to(device))


def interpolate(pivots: torch.Tensor, ws: torch.Tensor, distance: float) -> torch.Tensor:
    """Return the points at a distance from the pivots towards other latents: all [N, L, w_dim].

    Each of the L vectors has this distance.
    """
    way = ws - pivots
    return pivots + distance * way / way.norm(dim=2, keepdim=True).clamp(min=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Rendering


class _Renderer:
    """Renders the pivots, each with its own noise; gradients flow to the network."""

    def __init__(self, pivots: ProjectedLatents, device: torch.device | str):
        self.ws = torch.from_numpy(pivots.ws).to(device)  # [n, L, w_dim]
        self._noise = {name: torch.from_numpy(array).to(device) for name, array in pivots.noise.items()}

    def __call__(self, synthesis: torch.nn.Module, index: int) -> torch.Tensor:
        noise = {name: array[index] for name, array in self._noise.items()}
        return _render(synthesis, self.ws[index : index + 1], noise)


def _render(synthesis: torch.nn.Module, ws: torch.Tensor, noise: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Return images, with these tensors in place of the network's own noise."""
    options = {'noise_mode': 'const', 'force_fp32': True}
    return torch.func.functional_call(synthesis, noise or {}, (ws,), options)


@torch.no_grad()
def _measure(
    images_of: _Renderer, synthesis: torch.nn.Module, targets: list[Target], features: FeatureFunction
) -> list[Fit]:
    pairs = [compare(images_of(synthesis, index), target, features) for index, target in enumerate(targets)]
    return [Fit(distance.item(), l2.item()) for distance, l2 in pairs]


@torch.no_grad()
def _drift(original: Any, tuned: Any, features: FeatureFunction, device: torch.device | str) -> float:
    distances = []
    for w in _random_ws(original, _NUM_DRIFT_IMAGES, torch.Generator().manual_seed(1), device).split(1):
        target = Target.of_image(_render(original.synthesis, w), features)
        distances.append(compare(_render(tuned.synthesis, w), target, features)[0].item())
    return sum(distances) / len(distances)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_photographs(photographs: Sequence[np.ndarray], pivots: ProjectedLatents, G: Any) -> None:
    """Raise InvalidArgument, argument 'target', if photographs do not match the pivots and the network."""
    if len(photographs) != len(pivots):
        raise InvalidArgument(
            'target',
            f'{len(photographs)} photographs do not match {len(pivots)} latents: use one of each, in one order.',
        )
    expected = (G.img_channels, *sides(G.img_resolution))
    for index, pixels in enumerate(photographs):
        if pixels.shape != expected:
            size = describe_size(list(pixels.shape[1:]))
            raise InvalidArgument(
                'target',
                f'photograph {index} has {size} pixels and {pixels.shape[0]} channels, but the images of this network '
                f'have {describe_size(G.img_resolution)} and {G.img_channels}: convert it first.',
            )


def _check_finite(loss: float, step: int) -> None:
    if math.isfinite(loss):
        return
    if step == 0:
        raise InvalidArgument('network', f'the loss is {loss} at the start: the images of the network are not finite.')
    raise InvalidArgument('lr', f'the loss became {loss} in step {step}: use a lower rate.')
