"""Options that the scripts which show something have in common."""

import math
import re
from collections.abc import Callable, Sequence

import click

from dataset_format.sizes import Resolution, sides

_LARGEST_PICTURE = 2**30  # pixels: 3 gigabytes


class GridSize(click.ParamType):
    """`WxH`: columns and rows."""

    name = 'WxH'

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d{0,3})[xX×]([1-9]\d{0,3})', value.strip())
        if match is None:
            self.fail(f'{value!r} is no grid: write columns x rows, such as 8x4.', param, ctx)
        return int(match[1]), int(match[2])


class Numbers(click.ParamType):
    """`0.2,1,0`: a list of finite numbers."""

    name = 'NUMBERS'

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        try:
            numbers = [float(text) for text in value.split(',')]
        except ValueError:
            self.fail(f'{value!r} is no label: write numbers with commas between them, such as 0.2,1,0.', param, ctx)
        if not all(map(math.isfinite, numbers)):
            self.fail(f'{value!r} has numbers that are not finite.', param, ctx)
        return numbers


def label_option(name: str = '--label', **more) -> Callable:
    help_text = more.pop('help', 'Label to show, for networks whose labels are no classes, e.g. 0.2,1,0')
    return click.option(name, type=Numbers(), metavar='N,N,…', help=help_text, **more)


def _finite(context: click.Context, option: click.Parameter, number: float) -> float:
    if not math.isfinite(number):
        raise click.BadParameter(f'{number} is not a finite number.', context, option)
    return number


def trunc_option() -> Callable:
    return click.option(
        '--trunc', 'truncation_psi', type=float, callback=_finite, default=1, show_default=True, metavar='PSI',
        help='Truncation: 1 keeps all variety, towards 0 images become more typical',
    )  # fmt: skip


def noise_mode_option() -> Callable:
    return click.option(
        '--noise-mode', type=click.Choice(['const', 'random', 'none']), default='const', show_default=True,
        help='Fine detail: the stored noise, fresh noise for each image, or no noise',
    )  # fmt: skip


def batch_option() -> Callable:
    return click.option(
        '--batch', 'batch_size', type=click.IntRange(min=1), default=4, show_default=True,
        help='Images computed at once; changes the speed only',
    )  # fmt: skip


def trust_pickle_option() -> Callable:
    return click.option(
        '--trust-pickle', is_flag=True, help='Run the code inside the pickle (only if you trust its maker)'
    )


def check_picture_size(grid_size: tuple[int, int], resolution: Resolution, option: str = '--grid') -> None:
    """Refuse a grid that would not fit into memory before it is computed. Raises click.BadParameter."""
    columns, rows = grid_size
    height, width = sides(resolution)
    if columns * rows * height * width > _LARGEST_PICTURE:
        raise click.BadParameter(
            f'a picture of {columns}x{rows} images would have {columns * width}x{rows * height} pixels: '
            f'give fewer, for {_LARGEST_PICTURE:,} pixels or less.',
            param_hint=f"'{option}'",
        )


def warn_of_ignored(
    option: str, seeds: Sequence[int] | None, class_text: str | None, label: object, truncation_psi: float
) -> None:
    """Say which options have no effect beside `option`, which brings latents w of its own."""
    given = {
        '--seeds': seeds is not None,
        '--class': class_text is not None,
        '--label': label is not None,
        '--trunc': truncation_psi != 1,
    }
    for name in [name for name, is_given in given.items() if is_given]:
        click.echo(f'Warning: {name} is ignored beside {option}.', err=True)
