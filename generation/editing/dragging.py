"""Drag points of a generated image to where they should be: DragGAN (arXiv 2305.10973).

Each step moves the latent so that the surroundings of every handle point shift a little towards its target (motion
supervision), and then finds out where the handle points are in the new image (point tracking). Both compare values of
one map of the generator. Nothing else is learned or needed.

The lengths in the paper are for images of 512 pixels. Those of `DragSettings` are for images of any size, and the
defaults follow from it (`default_settings`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataset_format.sizes import sides
from dnnlib.errors import InvalidArgument
from generation.editing.feature_maps import FeatureMaps, as_points, layer_names, offsets
from generation.projected_latents import ProjectedLatents
from torch_utils import images, precision

Point = tuple[float, float]
"""(x, y) in pixels, with (0, 0) at the center of the pixel at the top left."""

MAX_POINTS = 100
SPACES = ('w', 'w+')
_PAPER_SIDE = 512  # pixels
_MAX_STEPS_OF_RADIUS = 100  # 40,000 places around each point


@dataclass(frozen=True)
class DragSettings:
    """Settings of the optimization.

    Args:
        feature_layer: Layer whose map is compared, one of `feature_maps.layer_names`.
        space: 'w+' changes each of the first vectors w by itself, 'w' all of them by the same amount.
        num_layers: Number of vectors w that change, counted from the coarsest. The others keep the appearance.
        learning_rate: Learning rate of Adam.
        motion_radius: Radius of the disc around each point that is moved, in pixels.
        motion_step: Distance that it is moved at once, in pixels; less where the target is nearer.
        tracking_radius: Largest shift in x and in y between two steps that tracking finds, in pixels.
        spacing: Distance between the places that are compared, in pixels.
        tolerance: Distance from the target at which a point has arrived, in pixels.
        mask_weight: Weight of the changes outside the mask.
    """

    feature_layer: str
    space: str
    num_layers: int
    learning_rate: float
    motion_radius: float
    motion_step: float
    tracking_radius: float
    spacing: float
    tolerance: float
    mask_weight: float


def default_settings(G: Any, **changes: Any) -> DragSettings:
    """Return the settings for a generator: the numbers of the paper where the images have 512 pixels.

    Lengths are in proportion to the size of the images, as long as they are not much smaller than a pixel. A pixel of a
    small image needs a larger change of w, hence the learning rate, which rises up to 0.01.

    Args:
        G: Generator.
        changes: Fields of `DragSettings`; None leaves the default.
    """
    height, width = sides(G.img_resolution)
    scale = max(height, width) / _PAPER_SIDE
    defaults: dict[str, Any] = dict(
        feature_layer=default_layer(G),
        space='w+',
        num_layers=min(6, G.num_ws),
        learning_rate=0.002 * min(max(1 / scale, 1) ** 0.5, 5),
        motion_radius=max(3 * scale, 1),
        motion_step=max(scale, 0.5),
        tracking_radius=max(12 * scale, 2),
        spacing=min(max(scale, 0.25), 1),
        tolerance=max(scale, 0.5),
        mask_weight=20,
    )
    return DragSettings(**{**defaults, **{name: value for name, value in changes.items() if value is not None}})


def default_layer(G: Any) -> str:
    """Return the first layer whose map has at least half of the image's pixels along each side, or else the finest.

    Raises:
        InvalidArgument: Argument 'network': the layers of the generator are unknown.
    """
    names = layer_names(G)
    if not names:
        raise InvalidArgument('network', 'its layers are unknown: use a network of StyleGAN2 or StyleGAN3.')
    longest = max(sides(G.img_resolution))
    for name in names:
        module = getattr(G.synthesis, name)
        rate = getattr(module, 'out_sampling_rate', None)
        if (max(sides(module.resolution)) if rate is None else rate) * 2 >= longest:
            return name
    return names[-1]


@dataclass(frozen=True)
class DragState:
    """Where the points are.

    Args:
        step: Number of steps so far.
        points: Current places of the handle points.
        distances: Their distances from the targets, in pixels.
        is_done: Whether all of them have arrived.
        loss: Loss that the last step has reduced; NaN before the first one.
    """

    step: int
    points: list[Point]
    distances: list[float]
    is_done: bool
    loss: float


# ---------------------------------------------------------------------------------------------------------------------
# Session


class DragSession:
    """An image whose points are being dragged. Each call of `step` takes one step, and changes nothing else.

    It works on a copy of `G.synthesis`, so that several sessions can share a generator.

    Args:
        G: Generator.
        latent: One latent, with its noise if it comes from a projection.
        handles: Points to drag.
        targets: Where to drag each of them.
        mask: bool [H, W] of the size of the image, True where the image may change. None: everywhere.
        settings: Settings, see `default_settings`.
        device: Device of G.

    Attributes:
        state: Where the points are now.
        targets: As given.

    Raises:
        InvalidArgument: Argument 'points', 'mask', 'feature_layer', 'space', 'layers', 'motion_radius',
            'tracking_radius' or 'projected_w'.
    """

    def __init__(
        self,
        G: Any,
        latent: ProjectedLatents,
        handles: Sequence[Point],
        targets: Sequence[Point],
        mask: np.ndarray | None,
        settings: DragSettings,
        device: torch.device | str = 'cpu',
    ):
        check_points(handles, targets, G.img_resolution)
        check_mask(mask, G.img_resolution)
        _check_settings(settings, G)
        if latent.ws.shape != (1, G.num_ws, G.w_dim):
            raise InvalidArgument(
                'projected_w',
                f'one latent of shape [1, {G.num_ws}, {G.w_dim}] is needed, not {list(latent.ws.shape)}.',
            )
        self.targets = [(float(x), float(y)) for x, y in targets]
        self.settings = settings
        self._noise = latent.noise
        synthesis = copy.deepcopy(G.synthesis).eval().requires_grad_(False)
        for name, array in latent.noise.items():
            synthesis.get_buffer(name).copy_(torch.from_numpy(array[0]))
        self._maps = FeatureMaps(G, settings.feature_layer, synthesis)
        self._start = torch.from_numpy(latent.ws).to(device, torch.float32)  # [1, num_ws, w_dim]
        rows = settings.num_layers if settings.space == 'w+' else 1
        self._change = torch.zeros([1, rows, G.w_dim], device=device, requires_grad=True)
        self._optimizer = torch.optim.Adam([self._change], lr=settings.learning_rate, betas=(0.9, 0.999))

        self._render()
        self._first = self._features.detach()
        self._points = as_points(handles, self._features)
        self._goals = as_points(targets, self._features)
        self._templates = self._maps.at(self._first, self._points)  # [N, C]
        self._fixed = None  # [h, w], 1 where the map must not change
        if mask is not None:
            self._fixed = 1 - self._maps.weights(torch.from_numpy(mask).to(self._features), self._features)
        self.state = self._make_state(0, math.nan)

    @precision.tensor_float32(False)
    def step(self) -> DragState:
        """Move the latent once, and follow the points.

        Raises:
            InvalidArgument: Argument 'lr' or 'network': the image is not finite.
        """
        settings = self.settings
        loss = motion_loss(self._maps, self._features, self._points, self._goals, settings)
        if self._fixed is not None:
            loss = loss + settings.mask_weight * mask_loss(self._features, self._first, self._fixed)
        value = loss.item()
        _check_finite(value, self.state.step)
        (self._change.grad,) = torch.autograd.grad(loss, [self._change])
        self._optimizer.step()
        self._render()
        with torch.no_grad():
            self._points = track(self._maps, self._features, self._points, self._templates, settings)
        self._points = self._points.clamp(min=0).minimum(self._corner())
        self.state = self._make_state(self.state.step + 1, value)
        return self.state

    @property
    def image(self) -> np.ndarray:
        """The current image, uint8 [channels, H, W]."""
        return images.to_uint8(self._image)[0].cpu().numpy()

    @property
    def latent(self) -> ProjectedLatents:
        """The current latent with its noise, as `generate.py --projected-w` reads it from a file."""
        return ProjectedLatents(self._ws().detach().cpu().numpy(), self._noise)

    def _ws(self) -> torch.Tensor:
        """Return the current latent [1, num_ws, w_dim]."""
        count = self.settings.num_layers
        moved = self._start[:, :count] + self._change
        return torch.cat([moved, self._start[:, count:]], dim=1)

    def _render(self) -> None:
        image, self._features = self._maps.render(self._ws())
        self._image = image.detach()

    def _corner(self) -> torch.Tensor:
        """Return the point at the bottom right, [2]."""
        height, width = self._image.shape[2:]
        return torch.tensor([width - 1, height - 1]).to(self._features)

    def _make_state(self, step: int, loss: float) -> DragState:
        points = [(x, y) for x, y in self._points.tolist()]
        distances = (self._goals - self._points).norm(dim=1).tolist()
        is_done = max(distances) <= self.settings.tolerance
        return DragState(step, points, distances, is_done, loss)


# ---------------------------------------------------------------------------------------------------------------------
# Losses and tracking: N points, C channels, h w size of the map, M places around each point


def motion_loss(
    maps: FeatureMaps, features: torch.Tensor, points: torch.Tensor, targets: torch.Tensor, settings: DragSettings
) -> torch.Tensor:
    """Return how far the surroundings of the points are from a small shift towards the targets.

    It is the first sum of equation 1, with means over places and channels instead of sums, so that the weight of the
    mask does not depend on the layer. Only the shifted places get gradients.

    Args:
        maps: The layer.
        features: Its map [C, h, w].
        points: Current places of the handle points, [N, 2].
        targets: Where they should be, [N, 2].
        settings: `motion_radius`, `motion_step` and `spacing` are used.
    """
    around = offsets(settings.motion_radius, settings.spacing, is_round=True, like=features)  # [M, 2]
    way = targets - points
    distance = way.norm(dim=1, keepdim=True)
    shift = way / distance.clamp(min=1e-12) * distance.clamp(max=settings.motion_step)  # [N, 2]
    places = points[:, None] + around  # [N, M, 2]
    shifted = places + shift[:, None]
    here = maps.at(features, places.reshape(-1, 2)).detach()  # [NM, C]
    there = maps.at(features, shifted.reshape(-1, 2))
    return (there - here).abs().mean() * len(points)


def mask_loss(features: torch.Tensor, first: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute change of a map [C, h, w] where `fixed` [h, w] is 1 (second term of equation 1)."""
    return ((features - first) * fixed).abs().mean()


def track(
    maps: FeatureMaps, features: torch.Tensor, points: torch.Tensor, templates: torch.Tensor, settings: DragSettings
) -> torch.Tensor:
    """Return the places [N, 2] near the points at which the map is most similar to the templates (equation 2).

    Args:
        maps: The layer.
        features: Its map [C, h, w] in the new image.
        points: Places in the image before, [N, 2].
        templates: Values of the map at the handle points of the first image, [N, C].
        settings: `tracking_radius` and `spacing` are used.
    """
    around = offsets(settings.tracking_radius, settings.spacing, is_round=False, like=features)  # [M, 2]
    places = points[:, None] + around  # [N, M, 2]
    values = maps.at(features, places.reshape(-1, 2)).reshape(*places.shape[:2], -1)  # [N, M, C]
    nearest = (values - templates[:, None]).abs().sum(dim=2).argmin(dim=1)  # [N]
    return places[torch.arange(len(points), device=places.device), nearest]


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_points(handles: Sequence[Point], targets: Sequence[Point], resolution: Any) -> None:
    """Raise InvalidArgument, argument 'points', if a point is outside the image, or their numbers are wrong."""
    height, width = sides(resolution)
    if len(handles) != len(targets):
        raise InvalidArgument('points', f'{len(handles)} points do not match {len(targets)} targets: use as many.')
    if not 1 <= len(handles) <= MAX_POINTS:
        raise InvalidArgument('points', f'{len(handles)} points are given: use 1 to {MAX_POINTS}.')
    for kind, points in (('handle', handles), ('target', targets)):
        for index, (x, y) in enumerate(points):
            if not (0 <= x <= width - 1 and 0 <= y <= height - 1):  # NaN included
                raise InvalidArgument(
                    'points',
                    f'{kind} {x:g},{y:g} of point {index} is outside the image: x must be from 0 to {width - 1}, '
                    f'y from 0 to {height - 1}.',
                )


def check_mask(mask: np.ndarray | None, resolution: Any) -> None:
    """Raise InvalidArgument, argument 'mask', if a mask does not have the size of the image."""
    height, width = sides(resolution)
    if mask is not None and mask.shape != (height, width):
        size = 'x'.join(map(str, reversed(mask.shape)))
        raise InvalidArgument(
            'mask',
            f'it has {size} pixels, but the images of this network have {width}x{height}: scale it.',
        )


def _check_finite(loss: float, step: int) -> None:
    if math.isfinite(loss):
        return
    if step == 0:
        raise InvalidArgument('network', f'the loss is {loss} at the start: the images of the network are not finite.')
    raise InvalidArgument('lr', f'the loss became {loss} in step {step + 1}: use a lower rate.')


def _check_settings(settings: DragSettings, G: Any) -> None:
    for name in ('motion_radius', 'tracking_radius'):
        radius = getattr(settings, name)
        largest = settings.spacing * _MAX_STEPS_OF_RADIUS
        if radius > largest:
            raise InvalidArgument(name, f'{radius:g} is too large: use {largest:g} pixels or less.')
    if settings.space not in SPACES:
        raise InvalidArgument('space', f'Unknown space {settings.space!r}: choose w or w+.')
    if not 1 <= settings.num_layers <= G.num_ws:
        raise InvalidArgument(
            'layers',
            f'{settings.num_layers} is too large: this network has {G.num_ws} vectors w, use 1 to {G.num_ws}.',
        )
