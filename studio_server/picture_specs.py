"""What a client may ask for: the description of a picture, as JSON, and what it means for a network."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.schema import Choice, Integer, ListIn, ListOf, Number, Optional, Record, Rule, Text
from generation import image_transforms, latents, options
from generation.projected_latents import ProjectedLatents, noise_buffers
from studio_server.made_files import NUMBER
from studio_server.networks import Network

ROW = 1000
"""Distance between the seeds of neighboring rows of the plane."""

_MAX_LAYERS = 1000
_LAYERS = ListOf(Integer(0, _MAX_LAYERS), _MAX_LAYERS)
_SEED = Integer(0, latents.MAX_SEED)
_SHIFT = Number(-image_transforms.MAX_SHIFT, image_transforms.MAX_SHIFT)
_EDIT: dict[str, Rule] = {
    'file': Text(40),
    'name': Text(200),
    'strength': Number(-1e6, 1e6),
    'layers': Optional(_LAYERS),
}

SPEC: Rule = Record(
    {
        'network': Integer(0, 9999),
        'snapshot': Optional(Integer(0, 10**9)),
        'seed': _SEED,
        'x': Number(-1e6, 1e6),
        'y': Number(-1e6, 1e6),
        'kept': Optional(NUMBER),
        'class': Optional(Text(1000)),
        'label': Optional(ListOf(Number(-1e30, 1e30), 100_000)),
        'psi': Number(-100, 100),
        'cutoff': Optional(Integer(0, _MAX_LAYERS)),
        'center': Choice(('global', 'class')),
        'mix': ListOf(Record({'seed': _SEED, 'layers': _LAYERS}, required=['seed', 'layers']), 16),
        'noise_mode': Choice(('const', 'random', 'none')),
        'noise_seed': Optional(_SEED),
        'noise_strength': Number(0, 100),
        'edits': ListOf(Record(_EDIT, required=list(_EDIT)), 32),
        'shift': ListIn((_SHIFT, _SHIFT)),
        'rotation': Number(-1e6, 1e6),
    },
    required=['network'],
)
"""A picture. `x` and `y` are the position on the plane of seeds; `kept` is a latent of the shelf in place of a seed;
`edits` are steps along directions."""

_DEFAULTS: dict[str, Any] = {
    'snapshot': None,
    'seed': 0,
    'x': 0,
    'y': 0,
    'kept': None,
    'class': None,
    'label': None,
    'psi': 1,
    'cutoff': None,
    'center': 'global',
    'mix': [],
    'noise_mode': 'const',
    'noise_seed': None,
    'noise_strength': 1,
    'edits': [],
    'shift': [0, 0],
    'rotation': 0,
}


def parse(value: Any) -> dict[str, Any]:
    """Return a complete description of a picture.

    Raises:
        ValueError: It is not one. One sentence.
    """
    SPEC.check(value, 'The picture')
    return {**_DEFAULTS, **value}


@dataclass(frozen=True)
class Latent:
    """The inputs of one picture.

    Args:
        projected: w and, where it is not that of the network, the noise; of one image.
        noise_mode: As for the scripts.
        noise_seed: Seed of random noise.
        transform: See `image_transforms`.
        is_kept: It comes from a file, and is rendered as `generate.py --projected-w` does.
    """

    projected: ProjectedLatents
    noise_mode: str
    noise_seed: int
    transform: np.ndarray | None
    is_kept: bool


def seed_of(spec: dict[str, Any]) -> int | None:
    """Return the seed that a position on the plane stands for, or None between seeds and for what is kept."""
    if spec['kept'] is not None or spec['x'] != int(spec['x']) or spec['y'] != int(spec['y']):
        return None
    return _seed_at(spec['seed'], int(spec['x']), int(spec['y']))


def is_plain(spec: dict[str, Any]) -> bool:
    """Return whether scripts have options for the latent of a picture, apart from its noise; others need a file."""
    is_moved = spec['shift'] != [0, 0] or spec['rotation'] != 0
    if seed_of(spec) is None or len(spec['mix']) > 1:
        return False
    return not (spec['mix'] and (is_moved or spec['edits']))  # of style_mixing.py


def noise_seed_of(spec: dict[str, Any]) -> int:
    """Return the seed of random noise: that of the latent, unless another is given."""
    return spec['noise_seed'] if spec['noise_seed'] is not None else seed_of(spec) or 0


def has_own_noise(spec: dict[str, Any]) -> bool:
    """Return whether a picture has noise that the scripts cannot draw, so that it belongs into the file of the latent.

    Scripts draw random noise from the seed of the latent, and from 0 for a latent in a file.
    """
    if spec['noise_mode'] == 'none':
        return False
    scripts_seed = seed_of(spec) if is_plain(spec) else 0
    return spec['noise_strength'] != 1 or (spec['noise_mode'] == 'random' and noise_seed_of(spec) != scripts_seed)


def _seed_at(seed: int, x: int, y: int) -> int:
    return (seed + x + ROW * y) % (latents.MAX_SEED + 1)


@torch.no_grad()
def latent_of(
    network: Network,
    spec: dict[str, Any],
    read_kept: Callable[[str, Any], ProjectedLatents],
    offset_of: Callable[[Any, Any], torch.Tensor | None],
) -> Latent:
    """Return the inputs of a picture.

    Args:
        network: The network.
        spec: From `parse`.
        read_kept: Reads a latent of the shelf for a generator.
        offset_of: Returns what `edits` add to w for a generator, [num_ws, w_dim] or None.

    Raises:
        ValueError: The network cannot do this. One sentence.
    """
    G = network.G
    noise: dict[str, np.ndarray] = {}
    if spec['kept'] is not None:
        kept = read_kept(spec['kept'], G)
        ws, noise = torch.from_numpy(kept.ws[:1]).to(network.device), {k: v[:1] for k, v in kept.noise.items()}
    else:
        ws = _ws_at(network, spec)
    for part in spec['mix']:
        layers = [layer for layer in part['layers'] if layer < G.num_ws]
        other = _ws_at(network, {**spec, 'seed': part['seed'], 'x': 0, 'y': 0})
        ws = ws.clone()
        ws[:, layers] = other[:, layers]
    offset = offset_of(spec['edits'], G)
    if offset is not None:
        ws = ws + offset.to(ws)
    noise_seed = noise_seed_of(spec)
    if has_own_noise(spec):
        noise = _scaled_noise(network, spec['noise_mode'], noise_seed, spec['noise_strength'], noise)
    return Latent(
        ProjectedLatents(ws.cpu().numpy(), noise),
        'const' if has_own_noise(spec) else spec['noise_mode'],
        noise_seed,
        _transform_of(G, spec),
        spec['kept'] is not None,
    )


def label_of(network: Network, spec: dict[str, Any]) -> torch.Tensor:
    """Return the label [1, c_dim] of a picture; without a class, that of the first one."""
    text = spec['class']
    if text is None and spec['label'] is None and network.G.c_dim > 0:
        text = '#0'
    return latents.make_label(network.data, text, spec['label'], network.device)


def _ws_at(network: Network, spec: dict[str, Any]) -> torch.Tensor:
    """Return w [1, num_ws, w_dim] of a position on the plane: that of a seed, or of a blend of the four around it."""
    G, label = network.G, label_of(network, spec)
    psi, cutoff = spec['psi'], spec['cutoff']
    options.check_trunc_cutoff(G, 0, cutoff)
    is_from_class = spec['center'] == 'class' and psi != 1
    truncation = (1, None) if is_from_class else (psi, cutoff)
    seed = seed_of({**spec, 'kept': None})
    if seed is not None:
        ws = latents.ws_of_seeds(G, [seed], label, *truncation)
    else:
        z = torch.from_numpy(_z_at(spec, G.z_dim)).to(network.device, torch.float32)
        ws = G.mapping(z, label, truncation_psi=truncation[0], truncation_cutoff=truncation[1])
    return latents.truncate(ws, network.center_of(label), [psi], cutoff) if is_from_class else ws


def _z_at(spec: dict[str, Any], z_dim: int) -> np.ndarray:
    """Blend z of the four seeds around a position; networks normalize its length. float64 [1, z_dim]."""
    left, top = math.floor(spec['x']), math.floor(spec['y'])
    right_share, bottom_share = spec['x'] - left, spec['y'] - top
    corners = [
        ((1 - right_share) * (1 - bottom_share), 0, 0),
        (right_share * (1 - bottom_share), 1, 0),
        ((1 - right_share) * bottom_share, 0, 1),
        (right_share * bottom_share, 1, 1),
    ]
    return np.sum(
        [share * _z_of_seed(_seed_at(spec['seed'], left + x, top + y), z_dim) for share, x, y in corners if share > 0],
        axis=0,
    )


_z_of_seed = functools.lru_cache(64)(latents.z_of_seed)  # while the picture is dragged, corners remain the same


def _scaled_noise(
    network: Network, mode: str, seed: int, strength: float, own: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return noise [1, H, W] by the name of its buffer: that of the mode, times the strength."""
    buffers = noise_buffers(network.G)
    if mode == 'random':
        generator = torch.Generator(network.device).manual_seed(seed)
        drawn = {  # in the order and the shapes in which the network draws it
            name: torch.randn([1, 1, *buffer.shape], generator=generator, device=network.device)[0]
            for name, buffer in buffers.items()
        }
        return {name: (noise * strength).cpu().numpy() for name, noise in drawn.items()}
    stored = {name: own.get(name, buffer.cpu().numpy()[np.newaxis]) for name, buffer in buffers.items()}
    return {name: (noise * strength).astype(np.float32) for name, noise in stored.items()}


def _transform_of(G: Any, spec: dict[str, Any]) -> np.ndarray | None:
    if spec['shift'] == [0, 0] and spec['rotation'] == 0:
        return None
    if not image_transforms.is_supported(G):
        raise InvalidArgument('shift', 'This network cannot shift or rotate its images: only those of StyleGAN3 can.')
    return image_transforms.make_transform(tuple(spec['shift']), spec['rotation'])
