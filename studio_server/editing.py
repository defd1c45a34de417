"""Directions and blended networks: found on the spot or by edit.py, and kept as the files that edit.py reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from dnnlib.errors import InvalidArgument
from dnnlib.schema import Choice, Integer, ListOf, Optional, Record
from generation import latents
from generation.editing import blending, directions, finding, network_outputs
from generation.editing.directions import Direction
from generation.editing.style_layers import check_layers
from studio_server import commands, picture_specs
from studio_server.jobs import Job
from studio_server.made_files import MadeFiles
from studio_server.networks import Network

FIND_RULES = Record(
    {
        'spec': picture_specs.SPEC,
        'method': Choice(('pca', 'sefa')),
        'count': Integer(1, 100),
        'layers': Optional(ListOf(Integer(0, 1000), 1000, min_length=1)),
    },
    required=['spec', 'method', 'count'],
)
BLEND_RULES = Record(
    {
        'spec': picture_specs.SPEC,
        'other': picture_specs.SPEC,
        'from': Integer(1, 10**5),
        'seam': Integer(0, 10),
        'mapping': Choice(('first', 'second')),
    },
    required=['spec', 'other', 'from'],
)

_MAX_FILES = 500
_MAX_KNOWN = 20  # files whose content is kept in memory


class DirectionFiles:
    """The files of directions: those named at the start, and those in `--outdir`.

    Args:
        made: Where new ones are written.
        given: Files named at the start.
    """

    def __init__(self, made: MadeFiles, given: Sequence[str]):
        self._made, self._given = made, list(given)
        self._known: dict[tuple[str, int], tuple[Any, dict[str, Direction]]] = {}

    def names(self) -> list[dict[str, str]]:
        """Return number and name of every file."""
        given = [{'file': f'given-{index}', 'name': os.path.basename(path)} for index, path in enumerate(self._given)]
        own = [{'file': name, 'name': f'found here, {name}'} for name in self._made.numbers()]
        return [*given, *own][:_MAX_FILES]

    def path_of(self, file: str) -> str:
        """Return the path of a file; ValueError for any other name."""
        kind, _, index = file.partition('-')
        if kind == 'given' and index.isdecimal() and int(index) < len(self._given):
            return self._given[int(index)]
        if file in self._made.numbers():
            return os.fspath(self._made.path(file))
        raise InvalidArgument('direction', f'There is no file of directions {file!r}.')

    def read(self, file: str, G: Any) -> dict[str, Direction]:
        """Return the directions in a file by name, from memory if they were read before for the same generator."""
        path = self.path_of(file)
        key = path, os.stat(path).st_mtime_ns
        known = self._known.get(key)
        if known is None or known[0] is not G:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = known = G, directions.read(path, G)
        return known[1]

    def offset(self, edits: Sequence[dict[str, Any]], G: Any) -> torch.Tensor | None:
        """Return what edits add to w, float32 [num_ws, w_dim]; None without any.

        Raises:
            ValueError: A file or a direction does not exist, or belongs to another network.
        """
        total: torch.Tensor | None = None
        for edit in edits:
            known = self.read(edit['file'], G)
            if edit['name'] not in known:
                raise InvalidArgument('direction', f'{edit["file"]} has no direction {edit["name"]!r}.')
            layers = None if edit['layers'] is None else check_layers(G, edit['layers'], 'direction')
            offset = known[edit['name']].offset(edit['strength'], layers)
            total = offset if total is None else total + offset
        return total

    def find(self, network: Network, request: dict[str, Any]) -> str:
        """Find directions, and return the number of their file.

        Args:
            network: The network.
            request: By `FIND_RULES`; the directions are those of the label of its picture.
        """
        G = network.G
        label = picture_specs.label_of(network, picture_specs.parse(request['spec']))
        w = latents.sample_w(G, label).to(label.device, torch.float32)
        layers = request.get('layers')
        layers = None if layers is None else check_layers(G, layers)
        find = {'pca': finding.principal_components, 'sefa': finding.sefa}[request['method']]
        found = find(G, w, min(request['count'], G.w_dim), layers)
        number = self._made.next()
        directions.write(self._made.path(number), found, G, network=network.path)
        return number


def blend(job: Job, first: Network, second: Network, request: dict[str, Any], networks: MadeFiles) -> None:
    """Blend two networks, and write the result under the next number.

    Args:
        job: The job; its details get the command.
        first: Network of the coarse layers.
        second: Network of the fine layers.
        request: By `BLEND_RULES`.
        networks: Where the network is written.

    Raises:
        ValueError: The networks do not fit together.
    """
    seam, mapping = request.get('seam', 0), request.get('mapping', 'first')
    G = blending.blend(first.G, second.G, request['from'], seam, mapping).cpu()
    number = networks.next()
    path = os.fspath(networks.path(number))
    network_outputs.write(G, (first if mapping == 'first' else second).data, path)
    settings = [f'--from={request["from"]}', f'--seam={seam}', f'--mapping={mapping}']
    job.details['command'] = commands.blend_command(first, second, settings, path)
    job.made('networks', number)
    job.step(1, f'Wrote {path}')
