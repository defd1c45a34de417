"""Examples that give a linear direction: seeds, classes, projected pictures, or numbers that belong to seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import torch

from dnnlib.cli import PATH, SeedRange
from dnnlib.errors import InvalidArgument
from dnnlib.json_input import read_json
from dnnlib.schema import Integer, ListIn, ListOf, Number, Record
from generation import latents, projected_latents

_LABELS = Record(
    {'labels': ListOf(ListIn((Integer(0, latents.MAX_SEED), Number(-1e9, 1e9))), 1_000_000, min_length=2)},
    required=['labels'],
)
"""Content of the file of --labels."""


@dataclass
class Examples:
    """What a linear direction is made from: one kind of the options --from-… and --to-…, or --labels."""

    from_seeds: list[int] | None = None
    to_seeds: list[int] | None = None
    from_class: str | None = None
    to_class: str | None = None
    from_projected: Sequence[str] = ()
    to_projected: Sequence[str] = ()
    labels: str | None = None

    @property
    def kind(self) -> str:
        """'seeds', 'class', 'projected', 'labels', or '' if nothing is given.

        Raises:
            InvalidArgument: Argument 'method': several kinds are given, or only one end of a direction.
        """
        ends = {
            'seeds': (self.from_seeds, self.to_seeds),
            'class': (self.from_class, self.to_class),
            'projected': (self.from_projected, self.to_projected),
            'labels': (self.labels, self.labels),
        }
        given = [kind for kind, pair in ends.items() if any(pair)]
        if len(given) > 1:
            raise InvalidArgument('method', f'a direction is made from {given[0]} or from {given[1]}, not from both.')
        if given and not all(ends[given[0]]):
            raise InvalidArgument('method', f'use both --from-{given[0]} and --to-{given[0]}.')
        return given[0] if given else ''

    def check(self) -> None:
        """Check everything that can be checked before the network is opened.

        Raises:
            InvalidArgument: The examples contradict each other, or cannot be read.
        """
        if self.kind == 'seeds':
            assert self.from_seeds and self.to_seeds
            latents.check_seeds(self.from_seeds, 'from_seeds')
            latents.check_seeds(self.to_seeds, 'to_seeds')
            both = set(self.from_seeds) & set(self.to_seeds)
            if both:
                raise InvalidArgument(
                    'to_seeds', f'seed {min(both)} is in --from-seeds as well: use it in one of them.'
                )
        elif self.kind == 'labels':
            self.read_labels()
        for path in [*self.from_projected, *self.to_projected]:
            projected_latents.check_readable(path)

    def read_labels(self) -> tuple[list[int], list[float]]:
        """Return the seeds and the numbers of --labels.

        Raises:
            InvalidArgument: Argument 'labels': the file cannot be read.
        """
        assert self.labels is not None
        try:
            content = read_json(self.labels)
            _LABELS.check(content, self.labels)
        except OSError as error:
            raise InvalidArgument('labels', f'{self.labels}: {error.strerror or error}.') from error
        except ValueError as error:
            raise InvalidArgument('labels', str(error)) from error
        seeds, numbers = zip(*content['labels'])
        return list(seeds), list(numbers)

    def latents_and_numbers(
        self, data: dict[str, Any], G: Any, class_text: str | None, label: Sequence[float] | None, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents of the examples and a number for each: 0 where the direction begins, 1 where it ends.

        Args:
            data: Content of the network file.
            G: Generator on `device`.
            class_text: Class of the seeds, for conditional networks.
            label: Label of the seeds.
            device: Device of G.

        Returns:
            float32 [N, num_ws, w_dim], float32 [N].

        Raises:
            InvalidArgument: A class or a file cannot be used.
        """
        kind = self.kind
        if kind == 'projected':
            ends = [
                np.concatenate([projected_latents.read(path, G).ws for path in paths])
                for paths in (self.from_projected, self.to_projected)
            ]
            return torch.from_numpy(np.concatenate(ends)), _zeros_and_ones(*map(len, ends))
        if kind == 'class':
            if G.c_dim == 0:
                raise InvalidArgument('from_class', 'this network has no classes: use seeds or projected pictures.')
            labels = [
                _label_of(argument, text, data, device)
                for argument, text in (('from_class', self.from_class), ('to_class', self.to_class))
            ]
            w = torch.cat([latents.sample_w(G, c) for c in labels]).float()  # of the same z in both
            return w[:, None].expand(-1, G.num_ws, -1), _zeros_and_ones(len(w) // 2, len(w) // 2)
        if kind == 'labels':
            seeds, numbers = self.read_labels()
        else:
            assert self.from_seeds and self.to_seeds
            seeds = [*self.from_seeds, *self.to_seeds]
            numbers = _zeros_and_ones(len(self.from_seeds), len(self.to_seeds)).tolist()
        c = latents.make_label(data, class_text, label, device)
        return latents.ws_of_seeds(G, seeds, c), torch.tensor(numbers)


def _label_of(argument: str, text: str | None, data: dict[str, Any], device: torch.device) -> torch.Tensor:
    try:
        return latents.make_label(data, text, None, device)
    except InvalidArgument as error:
        raise InvalidArgument(argument, str(error)) from error


def _zeros_and_ones(num_zeros: int, num_ones: int) -> torch.Tensor:
    return torch.cat([torch.zeros(num_zeros), torch.ones(num_ones)])


def example_options() -> Callable[[Callable], Callable]:
    """Return the decorator for the options that give examples, together the argument `examples`."""
    decorators = [
        click.option('--from-seeds', type=SeedRange(), help='linear: seeds where the direction begins, e.g. 0,3,7-9'),
        click.option('--to-seeds', type=SeedRange(), help='linear: seeds where it ends'),
        click.option('--from-class', metavar='CLASS', help='linear: class where the direction begins'),
        click.option('--to-class', metavar='CLASS', help='linear: class where it ends'),
        click.option(
            '--from-projected',
            type=PATH,
            multiple=True,
            metavar='NPZ',
            help='linear: latents of pictures where the direction begins (projector.py); may be given several times',
        ),
        click.option(
            '--to-projected', type=PATH, multiple=True, metavar='NPZ', help='linear: latents of pictures where it ends'
        ),
        click.option(
            '--labels',
            type=PATH,
            metavar='JSON',
            help='linear: numbers that belong to seeds, {"labels": [[SEED, NUMBER], …]}; they rise in the direction',
        ),
    ]

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def call(*args: Any, **kwargs: Any) -> Any:
            examples = Examples(**{name: kwargs.pop(name) for name in Examples.__dataclass_fields__})
            return command(*args, examples=examples, **kwargs)

        for decorator in reversed(decorators):
            call = decorator(call)
        return call

    return decorate
