"""Options and checks that the scripts for generating images share.

Only this module and the commands in `generation/editing` use click.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import torch

from dataset_format.sizes import Resolution, sides
from dnnlib.cli import (
    BOOL,
    PATH,
    FiniteFloat,
    SeedRange,
    Size,
    cuda_graphs_option,
    device_option,
    resolve_device,
    usage_error,
    usage_errors,
    warn_if_not_cuda,
)
from dnnlib.errors import InvalidArgument
from dnnlib.outputs import OutputFolder
from dnnlib.text import excerpt
from generation.image_transforms import MAX_SHIFT, Shift
from generation.latents import Truncation, mean_of_w
from generation.projected_latents import noise_buffers
from generation.video import NoEncoder, require_encoder
from network_files.cli_types import NetworkFile
from network_files.reading import open_network
from torch_utils import inference_graphs

_MAX_PICTURE_PIXELS = 2**30  # 3 gigabytes


class Numbers(click.ParamType):
    """A list of finite numbers such as `0.2,1,0`."""

    name = 'NUMBERS'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            numbers = [float(text) for text in value.split(',')]
        except ValueError:
            self.fail(f'expected numbers separated by commas, such as 0.2,1,0, got {value!r}.', param, ctx)
        if not all(map(math.isfinite, numbers)):
            self.fail(f'{value!r} contains numbers that are not finite.', param, ctx)
        return numbers


class ShiftType(click.ParamType):
    """A shift X,Y in image sides, such as `0.2,-0.1`."""

    name = 'X,Y'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, tuple) else self._parse(value, param, ctx)

    def _parse(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Shift:
        try:
            x, y = (float(number) for number in text.split(','))
        except ValueError:
            self.fail(f'expected two numbers such as 0.2,-0.1, got {excerpt(repr(text), 100)}.', param, ctx)
        if not (abs(x) <= MAX_SHIFT and abs(y) <= MAX_SHIFT):  # NaN included
            self.fail(f'{text} is out of range: use numbers from -{MAX_SHIFT} to {MAX_SHIFT}.', param, ctx)
        return x, y


class ShiftList(ShiftType):
    """Shifts separated by slashes, such as `0,0/0.1,0/0.2,0`."""

    name = 'X,Y[/X,Y…]'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, list) else [self._parse(text, param, ctx) for text in value.split('/')]


# ---------------------------------------------------------------------------------------------------------------------
# Options


def network_option() -> Callable:
    """Return the decorator for `--network`."""
    return click.option(
        '--network',
        type=NetworkFile(),
        required=True,
        metavar='PKL|URL|DIR',
        help='Network file, hf://owner/name on a hub, or directory of a training run for its newest network',
    )


def seeds_option(help_text: str) -> Callable:
    """Return the decorator for `--seeds`."""
    return click.option('--seeds', type=SeedRange(), help=help_text)


def projected_w_option(help_text: str, multiple: bool = False) -> Callable:
    """Return the decorator for `--projected-w`, one path or several."""
    return click.option('--projected-w', type=PATH, multiple=multiple, metavar='NPZ|NPY|PT', help=help_text)


def outdir_option() -> Callable:
    """Return the decorator for `--outdir`."""
    return click.option('--outdir', type=OutputFolder(), required=True, metavar='DIR', help='Output folder')


def grid_option(help_text: str, default: str | None = None) -> Callable:
    """Return the decorator for `--grid`, argument `grid_size`: (columns, rows)."""
    return click.option(
        '--grid',
        'grid_size',
        type=Size(example='8x4'),
        metavar='WxH',
        default=default,
        show_default=default is not None,
        help=help_text,
    )


class FiniteFloats(click.ParamType):
    """One finite number or several, such as `0.5,0.7,1`."""

    name = 'PSI'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        single = FiniteFloat()
        return tuple(single.convert(text.strip(), param, ctx) for text in str(value).split(','))


def trunc_option(several: str | None = None) -> Callable:
    """Return the decorator for `--trunc`, argument `truncation_psi`.

    Args:
        several: What a list of several values gives, for the help. None: only one value is possible.
    """
    series = f'; a list such as 0,0.5,1 gives {several}' if several else ''
    return click.option(
        '--trunc',
        'truncation_psi',
        type=FiniteFloats() if several else FiniteFloat(),
        default='1',
        show_default=True,
        metavar='PSI[,PSI…]' if several else 'PSI',
        help=f'Truncation: 1 keeps the full variety, values towards 0 give more typical images{series}',
    )


def trunc_cutoff_option() -> Callable:
    """Return the decorator for `--trunc-cutoff`, argument `truncation_cutoff`."""
    return click.option(
        '--trunc-cutoff',
        'truncation_cutoff',
        type=click.IntRange(min=0),
        metavar='N',
        show_default='all',
        help='Apply --trunc to the first N layers only, the coarse ones',
    )


def truncation_options(several: str | None = None) -> Callable[[Callable], Callable]:
    """Return the decorator for `--trunc`, `--trunc-cutoff` and `--trunc-to`, together the argument `truncation`.

    Args:
        several: See `trunc_option`.
    """
    towards = click.option(
        '--trunc-to',
        'truncation_towards',
        type=click.Choice(['mean', 'class']),
        default='mean',
        show_default=True,
        help='Truncate towards the mean of all classes, or towards that of the own class, for conditional networks',
    )

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def call(
            *args: Any, truncation_psi: Any, truncation_cutoff: int | None, truncation_towards: str, **kwargs: Any
        ) -> Any:
            psi = truncation_psi if isinstance(truncation_psi, tuple) else (truncation_psi,)
            return command(*args, truncation=Truncation(psi, truncation_cutoff, truncation_towards), **kwargs)

        return trunc_option(several)(trunc_cutoff_option()(towards(call)))

    return decorate


def translate_option() -> Callable:
    """Return the decorator for `--translate`, argument `shifts`."""
    return click.option(
        '--translate',
        'shifts',
        type=ShiftList(),
        help='Shift the images to the right and down, in image sides, e.g. 0.3,-0.1 (only StyleGAN3); a list such as '
        '0,0/0.1,0/0.2,0 gives several images of each latent',
    )


def rotate_option() -> Callable:
    """Return the decorator for `--rotate`, argument `rotations`."""
    return click.option(
        '--rotate',
        'rotations',
        type=Numbers(),
        metavar='DEG[,DEG…]',
        help='Rotate the images counterclockwise before they are shifted, in degrees (only StyleGAN3); a list such as '
        '0,15,30 gives several images of each latent',
    )


def class_option(
    name: str = '--class',
    help_text: str = 'Class to generate, for conditional networks',
    metavar: str = 'NAME|INDEX|#INDEX',
) -> Callable:
    """Return the decorator for `--class` or a similar option, argument `class_text`."""
    argument = name.removeprefix('--').replace('-', '_') + '_text'
    return click.option(
        name, argument, metavar=metavar, help=f'{help_text} (write #3 for index 3 if names are numbers)'
    )


def label_option(
    name: str = '--label',
    help_text: str = 'Label to generate, for networks whose labels are not classes, e.g. 0.2,1,0',
    multiple: bool = False,
) -> Callable:
    """Return the decorator for `--label` or a similar option."""
    return click.option(name, type=Numbers(), metavar='N,N,…', help=help_text, multiple=multiple)


def noise_mode_option() -> Callable:
    """Return the decorator for `--noise-mode`."""
    return click.option(
        '--noise-mode',
        type=click.Choice(['const', 'random', 'none']),
        default='const',
        show_default=True,
        help='Fine detail: the noise stored in the network, new noise for each image, or no noise',
    )


def batch_option() -> Callable:
    """Return the decorator for `--batch`, argument `batch_size`."""
    return click.option(
        '--batch',
        'batch_size',
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help='Images computed at once; affects speed only',
    )


def save_video_option(file_name: str) -> Callable:
    """Return the decorator for `--save-video`: see `has_encoder`."""
    return click.option('--save-video', type=BOOL, default=True, show_default=True, help=f'Write {file_name}')


def detectors_option() -> Callable:
    """Return the decorator for `--detectors`, argument `detector_dir`, of commands that compare images by LPIPS."""
    return click.option(
        '--detectors',
        'detector_dir',
        type=PATH,
        metavar='DIR',
        help='Folder with vgg16.pt, to use instead of downloading it',
    )


def execution_options(cuda_graphs: bool = True) -> Callable[[Callable], Callable]:
    """Return the decorator for `--trust-pickle`, `--cuda-graphs` and `--device`: see `open_generator`.

    Args:
        cuda_graphs: Whether the command uses `--cuda-graphs`.
    """
    trust_pickle = click.option(
        '--trust-pickle', is_flag=True, help='Run the code inside the pickle (only if you trust its author)'
    )
    graphs = cuda_graphs_option() if cuda_graphs else lambda command: command
    return lambda command: trust_pickle(graphs(device_option()(command)))


# ---------------------------------------------------------------------------------------------------------------------
# Network


def open_generator(
    network: str, trust_pickle: bool, device: str, cuda_graphs: bool = False
) -> tuple[dict[str, Any], Any, torch.device]:
    """Open the network that a script was called with.

    Args:
        network: Value of `--network`.
        trust_pickle: Value of `--trust-pickle`.
        device: Value of `--device`.
        cuda_graphs: Value of `--cuda-graphs`; it applies until the command ends.

    Returns:
        (content of the network file, its G_ema on the device, the device)

    Raises:
        click.BadParameter: The device is not available, or the network cannot be opened.
    """
    torch_device = resolve_device(device)
    with usage_errors('--network'):
        data = open_network(network, trust=trust_pickle)
    if cuda_graphs:
        warn_if_not_cuda('--cuda-graphs=1', torch_device)
        click.get_current_context().with_resource(inference_graphs.replaying())
    return data, data['G_ema'].to(torch_device), torch_device


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_picture_size(grid_size: tuple[int, int] | None, resolution: Resolution, argument: str = 'grid') -> None:
    """Raise InvalidArgument if a grid of (columns, rows) images would not fit into memory; None: there is no grid."""
    columns, rows = grid_size or (1, 1)
    height, width = sides(resolution)
    if columns * rows * height * width > _MAX_PICTURE_PIXELS:
        raise InvalidArgument(
            argument,
            f'a grid of {columns}x{rows} images would have {columns * width}x{rows * height} pixels: '
            f'use fewer images, for {_MAX_PICTURE_PIXELS:,} pixels or less.',
        )


def has_encoder(is_required: bool) -> bool:
    """Return whether videos can be written; it is a usage error if the user requested one, otherwise a notice."""
    try:
        require_encoder()
    except NoEncoder as error:
        if is_required:
            raise usage_error('--save-video', f'{error}; or use --save-video=0.') from error
        print(f'No video will be written: {error}', file=sys.stderr)
        return False
    return True


def check_trunc_cutoff(G: Any, truncation_psi: float, truncation_cutoff: int | None) -> None:
    """Raise InvalidArgument if the network has fewer layers; print a notice if there is nothing to cut off."""
    if truncation_cutoff is None:
        return
    if truncation_cutoff > G.num_ws:
        raise InvalidArgument(
            'trunc_cutoff',
            f'{truncation_cutoff} is too large: this network has {G.num_ws} layers, use 0 to {G.num_ws}.',
        )
    if truncation_psi == 1:
        print('Warning: --trunc-cutoff has no effect, since --trunc is 1.', file=sys.stderr)


def warn_about_ignored(
    option: str,
    seeds: Sequence[int] | None,
    class_text: str | None,
    label: object,
    truncation_psi: float,
    truncation_cutoff: int | None = None,
) -> None:
    """Print which options have no effect because `option` provides the latents w."""
    given = {
        '--seeds': seeds is not None,
        '--class': class_text is not None,
        '--label': label not in (None, ()),
        '--trunc': truncation_psi != 1,
        '--trunc-cutoff': truncation_cutoff is not None,
    }
    _warn_about(given, f'is ignored, since {option} is given')


def _warn_about(given: dict[str, bool], reason: str) -> None:
    for name in [name for name, is_given in given.items() if is_given]:
        print(f'Warning: {name} {reason}.', file=sys.stderr)


def check_truncation(G: Any, truncation: Truncation) -> None:
    """Raise InvalidArgument if the network has fewer layers or no mean; print which options have no effect."""
    check_trunc_cutoff(G, 0 if truncation.is_active else 1, truncation.cutoff)
    is_towards_class = truncation.towards == 'class'
    if truncation.is_active:
        _warn_about(
            {'--trunc-to=class': is_towards_class and G.c_dim == 0}, 'is ignored, since the network has no classes'
        )
        if G.c_dim == 0 or not is_towards_class:
            mean_of_w(G)
    else:
        _warn_about({'--trunc-to': is_towards_class}, 'has no effect, since --trunc is 1')


def warn_about_ignored_latents(
    option: str,
    seeds: Sequence[int] | None,
    class_text: str | None,
    label: object,
    truncation: Truncation,
    has_circle: bool = False,
) -> None:
    """Print which options, among them `--circle`, have no effect because `option` provides the latents w."""
    warn_about_ignored(option, seeds, class_text, label, 0 if truncation.is_active else 1, truncation.cutoff)
    _warn_about(
        {'--trunc-to': truncation.towards != 'mean', '--circle': has_circle}, f'is ignored, since {option} is given'
    )


def warn_if_unconditional(c_dim: int, values: dict[str, object]) -> None:
    """Print which options have no effect because the network is not conditional.

    Args:
        c_dim: Size of the network's labels.
        values: Value of each option that selects a label, or None if it is not given.
    """
    for name, value in values.items():
        if c_dim == 0 and value is not None:
            text = f'{name}={value}' if isinstance(value, str) else name
            print(f'Warning: {text} is ignored, since the network is not conditional.', file=sys.stderr)


def warn_if_without_noise(G: Any, option: str, is_given: bool) -> None:
    """Print that an option has no effect if it is given and the network has no noise."""
    if is_given and not noise_buffers(G):
        print(f'Warning: {option} is ignored, since the network has no noise.', file=sys.stderr)
