"""The option `--direction` of all scripts that make images: what it means, and what it adds to w."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch

from dnnlib.cli import BOOL, parse_int_list
from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt, join_excerpts
from generation.editing import directions
from generation.editing.style_layers import check_layers
from generation.projected_latents import ProjectedLatents

_FORM = 'FILE:NAME:STRENGTH[:LAYERS]'
_MAX_STRENGTH = 1e6


@dataclass(frozen=True)
class Step:
    """A step along a direction in a file, as a command line describes it.

    Args:
        path: The file.
        name: Name of the direction.
        strength: Length of the step in standard deviations.
        layers: The only layers to change. None: those of the direction.
    """

    path: str
    name: str
    strength: float
    layers: list[int] | None = None


class StepType(click.ParamType):
    """A step such as `edits.safetensors:pca0:2.5` or `edits.safetensors:pca0:2.5:0-3`."""

    name = _FORM

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Step:
        if isinstance(value, Step):
            return value
        parts = str(value).split(':')
        # A file name may contain colons. The last but one part is a strength if layers follow it.
        has_layers = len(parts) > 3 and _number(parts[-2]) is not None
        layers = parts.pop() if has_layers else None
        path, name, strength = [':'.join(parts[:-2]), *parts[-2:]] if len(parts) > 2 else ('', '', '')
        number = _number(strength)
        if not path or not name or number is None:
            self.fail(
                f'expected {_FORM}, such as edits.safetensors:pca0:2, got {excerpt(repr(value), 150)}.', param, ctx
            )
        if not abs(number) <= _MAX_STRENGTH:
            self.fail(f'{strength} is out of range: use a strength of at most {_MAX_STRENGTH:,.0f}.', param, ctx)
        try:
            return Step(path, name, number, None if layers is None else parse_int_list(layers))
        except ValueError as error:
            self.fail(f'layers: {error}', param, ctx)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Edit:
    """What `--direction` and `--any-directions` say."""

    steps: tuple[Step, ...] = ()
    any_network: bool = False

    def offset(self, G: Any) -> torch.Tensor | None:
        """Return what to add to w, float32 [num_ws, w_dim]; None without steps.

        Raises:
            InvalidArgument: Argument 'direction': a file, a name or a layer cannot be used.
        """
        total: torch.Tensor | None = None
        for step in self.steps:
            known = directions.read(step.path, G, self.any_network)
            if step.name not in known:
                raise InvalidArgument(
                    'direction',
                    f'Unknown direction {excerpt(step.name, 60)!r}: {step.path} has {join_excerpts(known, 20, 60)}.',
                )
            layers = None if step.layers is None else check_layers(G, step.layers, 'direction')
            offset = known[step.name].offset(step.strength, layers)
            if step.strength != 0 and not offset.any():
                raise InvalidArgument(
                    'direction',
                    f'{excerpt(step.name, 60)!r} does not change layers {join_excerpts(layers or [], 20)}, only '
                    f'{join_excerpts(known[step.name].layers, 20)}: use some of these.',
                )
            total = offset if total is None else total + offset
        return total

    def apply_to_projected(self, G: Any, projected: ProjectedLatents) -> ProjectedLatents:
        """Return edited latents with the same noise."""
        offset = self.offset(G)
        return projected if offset is None else ProjectedLatents(projected.ws + offset.numpy(), projected.noise)


def direction_options() -> Callable[[Callable], Callable]:
    """Return the decorator for `--direction` and `--any-directions`, together the argument `edit`, an `Edit`."""
    step = click.option(
        '--direction',
        'direction_steps',
        type=StepType(),
        multiple=True,
        help='Move w along a direction that edit.py directions has written, after truncation, e.g. '
        'edits.safetensors:pca0:2 or edits.safetensors:pca0:-1.5:0-3 for these layers only; strength 1 is one standard '
        'deviation of w; may be given several times',
    )
    any_directions = click.option(
        '--any-directions',
        type=BOOL,
        default=False,
        show_default=True,
        help='Accept directions of another network, for networks of which one was trained from the other',
    )

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def call(*args: Any, direction_steps: tuple[Step, ...], any_directions: bool, **kwargs: Any) -> Any:
            return command(*args, edit=Edit(direction_steps, any_directions), **kwargs)

        return step(any_directions(call))

    return decorate
