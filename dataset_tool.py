"""Make a dataset for training from a folder of images or one of the well-known collections."""

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from dataset_conversion.convert import Summary, UnusableImages, convert, describe_shape
from dataset_conversion.sources import DIGITS, open_source
from dataset_conversion.transforms import RESIZE_FILTERS, Transform
from dataset_conversion.writer import check_destination, is_archive, leftovers
from dataset_format.images import ALPHA_RULES, CONVERSION_RULES
from dataset_format.sizes import SIZE_RULE
from dnnlib.cli import BOOL, PATH, Command
from dnnlib.machine import available_cores

HELP = f"""\
Make a dataset for training: images of one size, as uncompressed PNGs in a zip archive or folder, with labels.

\b
--source is one of
  FOLDER                       images in it and its subfolders, ordered by name
  FILE.zip                     likewise
  NAME_lmdb                    a folder of LSUN (needs the package lmdb)
  cifar-10-python.tar.gz       CIFAR-10, training set, with labels
  train-images-idx3-ubyte.gz   MNIST, padded to 32x32; its labels in
                               train-labels-idx1-ubyte.gz beside it
  digits                       the 8x8 digits of scikit-learn, with labels,
                               scaled to 32x32 unless a size is given

--dest is written in full or not at all. An archive of that name is replaced; a folder must be new or empty. The same
images give the same bytes.

Images must come out in a size that the networks can have: {SIZE_RULE}, such as 256x256, 96x64
(3x2 times 32) or 48x48 (3x3 times 16). They are such already, or --resolution (or --width and --height) scales them,
after --transform has cropped them. center-crop takes the largest central part with the proportions of --resolution,
for a square one the central square. center-crop-wide does so too, but leaves out images smaller than that, and centres
the result on a black square as wide as it.

Labels come from a dataset.json in the source: {{"labels": [["a/1.png", 3], ...]}}, a class counted from 0 or a list of
numbers for each image, named by its path in the source. An additional "class_names": ["cat", ...] is kept. Every
image must have a label, and every label its image. With --subfolders-as-labels the folders of the first level are
the classes instead, numbered in the order of their names.

{CONVERSION_RULES}

An image that cannot be used makes the conversion fail; --skip-bad leaves it out. Either way such images are listed.
"""


SWITCH = dict(type=BOOL, default=False, is_flag=False, flag_value='1')  # --skip-bad, --skip-bad=1, --skip-bad=0


class Resolution(click.ParamType):
    """WIDTHxHEIGHT, as a pair of integers."""

    name = 'WxH'

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d*)[xX]([1-9]\d*)', str(value))
        if match is None:
            self.fail(f'{value!r} is not of the form WIDTHxHEIGHT, such as 256x256.', param, ctx)
        return int(match[1]), int(match[2])


@click.command(cls=Command, help=HELP)
@click.option('--source', type=PATH, required=True, help='Where the images come from.')
@click.option('--dest', type=PATH, required=True, help='Archive (NAME.zip) or folder to write.')
@click.option('--max-images', type=click.IntRange(min=1), metavar='N', help='Convert the first N images only.')
@click.option(
    '--resize-filter',
    type=click.Choice(list(RESIZE_FILTERS)),
    default='lanczos',
    show_default=True,
    help='How images are scaled, in the way of Pillow.',
)
@click.option(
    '--transform', 'crop', type=click.Choice(['center-crop', 'center-crop-wide']), help='Crop before scaling.'
)
@click.option('--width', type=click.IntRange(min=1), metavar='W', help='Scale to this width.')
@click.option('--height', type=click.IntRange(min=1), metavar='H', help='Scale to this height.')
@click.option('--resolution', type=Resolution(), metavar='WxH', help='Both at once.')
@click.option(
    '--alpha',
    type=click.Choice(ALPHA_RULES),
    default=ALPHA_RULES[0],
    show_default=True,
    help='Transparent images: refuse them, keep the alpha channel, or put them on white.',
)
@click.option('--subfolders-as-labels', **SWITCH, help='Make the folders of the first level the classes.')
@click.option('--skip-bad', **SWITCH, help='Leave out images that cannot be used, and list them.')
@click.option('--workers', type=click.IntRange(min=1), metavar='N', help='Processes.  [default: one per core]')
def main(
    source: str,
    dest: str,
    max_images: int | None,
    resize_filter: str,
    crop: str | None,
    width: int | None,
    height: int | None,
    resolution: tuple[int, int] | None,
    alpha: str,
    subfolders_as_labels: bool,
    skip_bad: bool,
    workers: int | None,
) -> None:
    if resolution is not None and (width or height):
        raise click.UsageError('--resolution says both sizes: leave out --width and --height.')
    width, height = resolution or (width, height)
    try:
        transform = Transform(crop, width, height, resize_filter, alpha)
        check_destination(Path(dest))
        check_apart(source, dest)
        images = open_source(source, subfolders_as_labels)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if images.default_size and not (width or height):
        transform = Transform(crop, images.default_size, images.default_size, resize_filter, alpha)
    for path in leftovers(Path(dest)):
        click.echo(f'{path} is left from a run that was killed; you may delete it if none is at work.', err=True)

    try:
        with signals_as_exceptions():
            summary = convert(images, Path(dest), transform, max_images, skip_bad, workers or available_cores())
    except UnusableImages as error:
        list_images('cannot be used', error.bad)
        raise click.ClickException(str(error)) from error
    list_images('left out', summary.bad)
    click.echo(summary_line(summary, dest))


def check_apart(source: str, dest: str) -> None:
    """Raise ValueError where writing `dest` would change `source`."""
    if source == DIGITS:
        return
    source_path, dest_path = Path(source).resolve(), Path(dest).resolve()
    if source_path == dest_path:
        raise ValueError(f'--dest={dest} is the source itself; give another name.')
    if source_path in dest_path.parents and not is_archive(dest_path):
        raise ValueError(
            f'--dest={dest} lies in the source, and its images would be taken for more of that; '
            'give a folder elsewhere.'
        )


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let a request to end (kill, closed terminal) end the block by SystemExit, so that it clears away its files."""

    def leave(signal_number: int, _frame: object) -> None:
        sys.exit(128 + signal_number)

    requests = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]
    former = {request: signal.signal(request, leave) for request in requests}
    try:
        yield
    finally:
        for request, handler in former.items():
            signal.signal(request, handler)


def list_images(verdict: str, images: list[tuple[str, str]]) -> None:
    for name, reason in images:
        click.echo(f'{verdict}: {name}: {reason}', err=True)


def summary_line(summary: Summary, dest: str) -> str:
    parts = [
        f'{dest}: {summary.num_images} images, {describe_shape(summary.shape)}',
        f'{summary.num_classes} classes' if summary.num_classes else None,
        f'{summary.num_bytes / 2**20:.1f} MiB',
        f'{len(summary.bad)} bad ones left out' if summary.bad else None,
        f'{len(summary.skipped)} too small ones left out' if summary.skipped else None,
        f'{summary.elapsed_sec:.1f} s ({summary.num_images / summary.elapsed_sec:.0f} images/s)',
    ]
    return ', '.join(filter(None, parts))


if __name__ == '__main__':
    main()
