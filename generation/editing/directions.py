"""Directions in the space of w along which images change in one respect, and the files that hold them.

A direction says what to add to each of the num_ws vectors w of an image. Strength 1 is a step of one standard
deviation of w along the direction.

A file of directions is a safetensors file with one tensor [num_ws, w_dim] for each direction, under its name. Its
metadata is a dict of strings: `format` (FORMAT), `version` ('1'), `network` (JSON: what the directions were made for,
with the digest of its mapping network) and `directions` (JSON: a list of `name`, `method`, `layers` and `scale`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dnnlib.errors import InvalidArgument
from dnnlib.files import atomic_file, read_file
from dnnlib.json_input import parse_json
from dnnlib.schema import Integer, ListOf, Number, Record, Text
from dnnlib.text import join_excerpts
from network_files import safetensors_files

FORMAT = 'ada-gan-directions'
NAME_PATTERN = r'[A-Za-z_][\w.-]{0,99}'
"""What the name of a direction may be: never a number, so that it cannot be taken for a strength."""

_VERSION = '1'
_MAX_BYTES = 2**28
_MAX_DIRECTIONS, _MAX_LAYERS = 10_000, 1000
_DESCRIPTIONS = ListOf(
    Record(
        {
            'name': Text(pattern=NAME_PATTERN, kind='a name that begins with a letter'),
            'method': Text(200),
            'layers': ListOf(Integer(0, _MAX_LAYERS), _MAX_LAYERS),
            'scale': Number(0, 1e9),
        },
        required=['name', 'method', 'layers', 'scale'],
        ignores_others=True,
    ),
    _MAX_DIRECTIONS,
    min_length=1,
)
_NETWORK = Record(
    {'mapping_sha256': Text(64), 'num_ws': Integer(1, _MAX_LAYERS), 'w_dim': Integer(1, 2**16)},
    required=['mapping_sha256', 'num_ws', 'w_dim'],
    ignores_others=True,
)


@dataclass
class Direction:
    """A direction in the space of w.

    Args:
        name: Its name, see `NAME_PATTERN`.
        vectors: float32 [num_ws, w_dim]: the direction of each vector w; zero in layers that it leaves alone.
        scale: Length of the step of strength 1, as a factor of `vectors`.
        method: How it was found: 'sefa', 'pca of w', 'seeds'.
        layers: The layers that it changes, ascending.
    """

    name: str
    vectors: torch.Tensor
    scale: float
    method: str
    layers: list[int]

    def offset(self, strength: float = 1, layers: Sequence[int] | None = None) -> torch.Tensor:
        """Return what to add to w, float32 [num_ws, w_dim].

        Args:
            strength: Length of the step in standard deviations; negative: backwards.
            layers: The only layers to change. None: those of the direction. A direction that is the same in all of its
                layers can be applied to any; in other layers than its own it is then that of its first layer.
        """
        step = self.vectors * (strength * self.scale)
        if layers is None:
            return step
        offset = torch.zeros_like(step)
        is_uniform = all(torch.equal(self.vectors[layer], self.vectors[self.layers[0]]) for layer in self.layers)
        for layer in layers:
            offset[layer] = step[self.layers[0] if is_uniform else layer]
        return offset


def make_direction(
    name: str, vector: torch.Tensor, scale: float, method: str, layers: Sequence[int], num_ws: int
) -> Direction:
    """Return the direction that moves some of num_ws layers along one vector [w_dim]."""
    vectors = torch.zeros([num_ws, len(vector)])
    vectors[list(layers)] = vector.detach().cpu().float()
    return Direction(name, vectors, float(scale), method, list(layers))


def apply(ws: torch.Tensor, direction: Direction, strength: float, layers: Sequence[int] | None = None) -> torch.Tensor:
    """Move latents along a direction.

    Args:
        ws: [N, num_ws, w_dim].
        direction: Direction for the same generator.
        strength: See `Direction.offset`.
        layers: See `Direction.offset`.

    Returns:
        [N, num_ws, w_dim], dtype and device of `ws`.
    """
    return ws + direction.offset(strength, layers).to(ws)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def mapping_digest(G: Any) -> str:
    """Return the SHA-256, in hexadecimal, of the parameters of a generator's mapping network.

    Generators with the same mapping network have the same w: blends, and networks that were tuned to photographs with a
    frozen mapping, can use each other's directions.
    """
    digest = hashlib.sha256()
    tensors = {name: tensor for name, tensor in G.mapping.state_dict().items() if name != 'w_avg'}
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name} {list(tensor.shape)};'.encode())
        digest.update(tensor.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(path: str | os.PathLike, directions: Sequence[Direction], G: Any, **details: Any) -> None:
    """Write a file of directions, complete or not at all.

    Args:
        path: File to write.
        directions: Directions with different names.
        G: The generator that they were made for.
        **details: Plain data to keep in the file's description of the network, such as its path.

    Raises:
        ValueError: The safetensors library is missing, or two directions have one name.
    """
    safetensors_files.require_library()
    import safetensors.torch

    names = [direction.name for direction in directions]
    if len(set(names)) < len(names):
        raise ValueError(f'two directions have the same name ({join_excerpts(names)})')
    network = dict(mapping_sha256=mapping_digest(G), num_ws=G.num_ws, w_dim=G.w_dim, **details)
    descriptions = [dict(name=d.name, method=d.method, layers=d.layers, scale=d.scale) for d in directions]
    metadata = dict(format=FORMAT, version=_VERSION, network=json.dumps(network), directions=json.dumps(descriptions))
    tensors = {direction.name: direction.vectors.contiguous() for direction in directions}
    content = safetensors.torch.save(tensors, metadata=metadata)
    with atomic_file(path) as f:
        f.write(content)


def read(path: str | os.PathLike, G: Any, any_network: bool = False) -> dict[str, Direction]:
    """Read the directions in a file, by name, for the generator `G`.

    Args:
        path: File of `write`.
        G: Generator.
        any_network: Accept directions that were made for a generator with another mapping network.

    Raises:
        InvalidArgument: Argument 'direction': the file cannot be read, or belongs to another network. One sentence.
    """
    name = os.fspath(path)
    try:
        network, directions = _parse(read_file(path, _MAX_BYTES), name)
    except (ValueError, OSError) as error:
        reason = f'{name}: {error.strerror}.' if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArgument('direction', reason) from error
    if (network['num_ws'], network['w_dim']) != (G.num_ws, G.w_dim):
        raise InvalidArgument(
            'direction',
            f'{name} has directions for a network with {network["num_ws"]} layers and {network["w_dim"]} numbers in w, '
            f'but this network has {G.num_ws} and {G.w_dim}: make directions for this network with edit.py directions.',
        )
    if network['mapping_sha256'] != mapping_digest(G) and not any_network:
        raise InvalidArgument(
            'direction',
            f'{name} has directions for another network, whose w mean something else: make directions for this network '
            'with edit.py directions, or use --any-directions=1 if one network was trained from the other.',
        )
    return directions


def _parse(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, Direction]]:
    """Return the description of the network, and the directions by name; raise ValueError for any damage."""
    if not safetensors_files.is_safetensors(content):
        raise ValueError(f'{name} is not a file of directions: use one that edit.py directions has written.')
    metadata = safetensors_files.read_metadata(content, name)
    if metadata.get('format') != FORMAT:
        raise ValueError(f'{name} is a safetensors file, but not one of directions.')
    if metadata.get('version') != _VERSION:
        raise ValueError(f'{name} has a version that this program does not read.')
    network = parse_json(str(metadata.get('network')), f'the description of the network in {name}')
    described = parse_json(str(metadata.get('directions')), f'the list of directions in {name}')
    _NETWORK.check(network, f'the description of the network in {name}')
    _DESCRIPTIONS.check(described, f'the list of directions in {name}')
    tensors = safetensors_files.read_tensors(content, name)
    shape = (network['num_ws'], network['w_dim'])
    directions: dict[str, Direction] = {}
    for entry in described:
        vectors = tensors.get(entry['name'])
        if vectors is None or vectors.shape != shape or not vectors.is_floating_point():
            raise ValueError(f'{name} is damaged: {entry["name"]!r} is not a tensor of shape {list(shape)}.')
        if not vectors.isfinite().all():
            raise ValueError(f'{name} is damaged: {entry["name"]!r} has values that are not finite.')
        if not entry['layers'] or max(entry['layers']) >= network['num_ws']:
            raise ValueError(f'{name} is damaged: {entry["name"]!r} has layers that the network does not have.')
        directions[entry['name']] = Direction(
            entry['name'], vectors.float(), float(entry['scale']), entry['method'], sorted(set(entry['layers']))
        )
    return network, directions
