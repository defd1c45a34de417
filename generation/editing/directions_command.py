"""`edit.py directions`: find directions in the space of w, and write them and pictures of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from dnnlib.cli import BOOL, Command, FiniteFloat, SeedRange, check_outdir, usage_errors
from dnnlib.errors import InvalidArgument
from dnnlib.progress import track
from dnnlib.text import excerpt
from generation import latents, options
from generation.editing import finding, strips
from generation.editing.directions import NAME_PATTERN, Direction
from generation.editing.directions import write as write_directions
from generation.editing.examples import Examples, example_options
from generation.editing.style_layers import check_layers
from network_files import safetensors_files

_MAX_COUNT = 512
_MAX_SAMPLES_OF_LAYERS = 1000  # whose outputs are in memory
_STEPS = (-3, -2, -1, 0, 1, 2, 3)
_FILE_NAME = 'directions.safetensors'


@dataclass
class StripOptions:
    """What the pictures of directions show.

    Args:
        strips: Whether there are any.
        strip_seeds: Seeds of the rows.
        strip_max: Strength of the last column.
    """

    strips: bool
    strip_seeds: list[int]
    strip_max: float


def strip_options() -> Callable[[Callable], Callable]:
    """Return the decorator for `--strips`, `--strip-seeds` and `--strip-max`, together the argument `pictures`."""
    decorators = [
        click.option('--strips', type=BOOL, default=True, show_default=True, help='Write a picture of each direction'),
        click.option('--strip-seeds', type=SeedRange(), default='0-3', show_default=True, help='Seeds of the pictures'),
        click.option(
            '--strip-max',
            type=FiniteFloat(min=0, min_open=True, max=1000),
            default=3,
            show_default=True,
            help='Largest strength in the pictures, in standard deviations of w',
        ),
    ]

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def call(*args: Any, strips: bool, strip_seeds: list[int], strip_max: float, **kwargs: Any) -> Any:
            return command(*args, pictures=StripOptions(strips, strip_seeds, strip_max), **kwargs)

        for decorator in reversed(decorators):
            call = decorator(call)
        return call

    return decorate


@click.command(cls=Command)
@options.network_option()
@click.option(
    '--method',
    type=click.Choice(['sefa', 'pca', 'linear']),
    required=True,
    help='sefa: factorize the layers that read w; pca: principal components of w or of a layer (GANSpace); linear: '
    'from some examples to others',
)
@options.outdir_option()
@click.option(
    '--count', type=click.IntRange(1, _MAX_COUNT), default=10, show_default=True, help='Directions of sefa and pca'
)
@click.option(
    '--layers',
    'layer_lists',
    type=SeedRange(),
    multiple=True,
    show_default='all',
    help='Layers to factorize and to change, e.g. 0-3; given several times: directions for each of these lists',
)
@click.option(
    '--of',
    'features_of',
    default='w',
    show_default=True,
    metavar='w|LAYER',
    help='What pca decomposes: w, or the output of a layer, by its number or by a name such as b16.conv0 or L3_52_512',
)
@example_options()
@click.option('--name', default='linear', show_default=True, help='Name of the linear direction')
@click.option(
    '--samples',
    'num_samples',
    type=click.IntRange(100, 1_000_000),
    default=10_000,
    show_default=True,
    help=f'Random samples of w to measure, of which layers are computed for {_MAX_SAMPLES_OF_LAYERS:,} at most',
)
@options.class_option(help_text='Only this class, for conditional networks; by default all classes are sampled evenly')
@options.label_option()
@strip_options()
@options.truncation_options()
@options.execution_options()
def directions(
    network: str,
    method: str,
    outdir: str,
    count: int,
    layer_lists: tuple[list[int], ...],
    features_of: str,
    examples: Examples,
    name: str,
    num_samples: int,
    class_text: str | None,
    label: list[float] | None,
    pictures: StripOptions,
    truncation: latents.Truncation,
    trust_pickle: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Find directions in which images change in one respect.

    Writes directions.safetensors, which the option --direction of generate.py, style_mixing.py, gen_video.py and
    `edit.py apply` reads, and NAME.png for each direction: seeds in rows, strengths in columns.

    \b
    Examples:
      python edit.py directions --network=network.pkl --method=sefa --layers=0-3 --layers=4-7 --outdir=out
      python edit.py directions --network=network.pkl --method=pca --count=20 --outdir=out
      python edit.py directions --network=network.pkl --method=pca --of=b16.conv0 --outdir=out
      python edit.py directions --network=network.pkl --method=linear --from-seeds=1,5 --to-seeds=2,8 --outdir=out
      python edit.py directions --network=conditional.pkl --method=linear --from-class=cat --to-class=dog --outdir=out
    """
    with usage_errors():
        check_method(method, examples, name, features_of)
        latents.check_seeds(pictures.strip_seeds, 'strip_seeds')
    check_outdir(outdir)
    safetensors_files.require_library()
    data, G, torch_device = options.open_generator(network, trust_pickle, device, cuda_graphs)

    options.warn_if_unconditional(G.c_dim, {'--class': class_text, '--label': label})
    with usage_errors(values='--method', features_of='--of'):
        options.check_truncation(G, truncation)
        lists = [check_layers(G, layers) for layers in layer_lists] or [check_layers(G, None)]
        check_count(method, count, num_samples, G.w_dim)
        labels = labels_of_samples(data, class_text, label, num_samples, torch_device)
        w = latents.sample_w(G, labels, num_samples).to(torch_device, torch.float32)
        if method == 'linear':
            ws, numbers = examples.latents_and_numbers(data, G, class_text, label, torch_device)
            found = linear_directions(name, ws, numbers, w, lists, examples.kind)
        else:
            found = components(G, method, features_of, w, lists, count)
    path = Path(outdir, _FILE_NAME)
    write_directions(path, found, G, network=network)
    print(f'Wrote {len(found)} directions to {path}')
    if pictures.strips:
        write_strips(G, found, pictures, labels, truncation, outdir)


# ---------------------------------------------------------------------------------------------------------------------
# Directions


def components(
    G: Any, method: str, features_of: str, w: torch.Tensor, lists: Sequence[list[int]], count: int
) -> list[Direction]:
    """Return `count` directions of sefa or pca for each list of layers.

    Raises:
        InvalidArgument: The network has no layer of this name (argument 'features_of').
    """
    found: list[Direction] = []
    for layers in lists:
        suffix = suffix_of(layers, lists)
        if method == 'sefa':
            found += finding.sefa(G, w, count, layers, suffix)
        elif features_of == 'w':
            found += finding.principal_components(G, w, count, layers, suffix)
        else:
            samples = w[:_MAX_SAMPLES_OF_LAYERS]
            found += finding.principal_components_of_layer(G, samples, features_of, count, layers, suffix)
    return found


def linear_directions(
    name: str, ws: torch.Tensor, numbers: torch.Tensor, w: torch.Tensor, lists: Sequence[list[int]], kind: str
) -> list[Direction]:
    """Return the direction between examples for each list of layers; see `finding.linear_direction`."""
    return [
        finding.linear_direction(name + suffix_of(layers, lists), ws, numbers, w, layers, f'linear from {kind}')
        for layers in lists
    ]


def suffix_of(layers: list[int], lists: Sequence[list[int]]) -> str:
    """Return what distinguishes the names of the directions of one list of layers from those of the others."""
    if len(lists) == 1:
        return ''
    is_range = layers == list(range(layers[0], layers[-1] + 1))
    return f'.{layers[0]}-{layers[-1]}' if is_range else '.' + '_'.join(map(str, layers))


def labels_of_samples(
    data: dict[str, Any], class_text: str | None, label: Sequence[float] | None, count: int, device: torch.device
) -> torch.Tensor:
    """Return the labels of samples: [1, c_dim] for one class or without classes, otherwise each class in turn."""
    c_dim = data['G_ema'].c_dim
    if c_dim == 0 or class_text is not None or label is not None:
        return latents.make_label(data, class_text, label, device)
    return torch.eye(c_dim, device=device)[torch.arange(count, device=device) % c_dim]


def write_strips(
    G: Any,
    found: Sequence[Direction],
    pictures: StripOptions,
    labels: torch.Tensor,
    truncation: latents.Truncation,
    outdir: str,
) -> None:
    """Write a picture of each direction."""
    seeds = pictures.strip_seeds
    strengths = [pictures.strip_max * step / max(_STEPS) for step in _STEPS]
    c = labels[torch.arange(len(seeds)) % len(labels)]
    center = latents.truncation_center(G, c, truncation.towards) if truncation.is_active else None
    ws = latents.ws_of_seeds(G, seeds, c, truncation.psi[0], truncation.cutoff, center)
    for direction in track(found, len(found), 'strip'):
        cells = strips.render_strip(G, ws, direction, strengths)
        strips.save_strip(Path(outdir, f'{direction.name}.png'), cells, strengths, [f'seed {seed}' for seed in seeds])
    print(f'Wrote {len(found)} pictures to {outdir}')


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_method(method: str, examples: Examples, name: str, features_of: str) -> None:
    """Check that the options belong to the method.

    Raises:
        InvalidArgument: They do not, or the examples or the name cannot be used.
    """
    if method != 'linear' and examples.kind:
        raise InvalidArgument(
            'method', f'{method} takes no examples: use --method=linear for a direction between them.'
        )
    if method == 'linear' and not examples.kind:
        raise InvalidArgument(
            'method', 'linear needs examples: use --from-seeds and --to-seeds, classes, projected latents, or --labels.'
        )
    if method != 'pca' and features_of != 'w':
        raise InvalidArgument('of', f'{method} decomposes no outputs: use --method=pca.')
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise InvalidArgument(
            'name',
            f'{excerpt(name, 60)!r} cannot be the name of a direction: use a letter first, then letters, digits, "_", '
            '"-" and ".", 100 at most.',
        )
    examples.check()


def check_count(method: str, count: int, num_samples: int, w_dim: int) -> None:
    """Raise InvalidArgument if there are not as many directions."""
    largest = min(w_dim, num_samples - 1)
    if method != 'linear' and count > largest:
        raise InvalidArgument('count', f'{count} is too large: there are {largest} directions for this network.')
