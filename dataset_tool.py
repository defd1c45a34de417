"""Create a dataset for training from a folder of images or a well-known collection, or check images for problems."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from dataset_conversion import exclusion
from dataset_conversion.array_datasets import DIGITS
from dataset_conversion.checking.check import check_images
from dataset_conversion.checking.files import CheckFolder, default_folder
from dataset_conversion.checking.rules import KINDS, CheckResult
from dataset_conversion.convert import Summary, UnusableImages, convert
from dataset_conversion.loading import ALPHA_RULES, CHANNEL_RULES, CONVERSION_RULES
from dataset_conversion.results import describe_shape
from dataset_conversion.source_types import Source
from dataset_conversion.sources import open_source
from dataset_conversion.transforms import RESIZE_FILTERS, Transform
from dataset_conversion.writer import check_destination, is_archive, unfinished_files
from dataset_format.images import MAX_PIXELS
from dataset_format.labels import describe_classes
from dataset_format.sizes import SIZE_RULE
from dnnlib.cli import BOOL, PATH, Command, Size, check_outdir, max_pixels_option, usage_error, usage_errors
from dnnlib.errors import option_name
from dnnlib.files import atomic_file
from dnnlib.machine import available_cores
from dnnlib.outputs import OutputFile, OutputFolder
from dnnlib.text import excerpt, message_line

HELP = f"""\
Create a dataset for training: images of the same size, as uncompressed PNGs in a zip archive or folder, with labels.

\b
--source is one of
  FOLDER                       images in it and its subfolders, ordered by name;
                               linked folders too, but none twice
  FILE.zip                     likewise
  NAME_lmdb                    an LSUN folder (requires the package lmdb)
  cifar-10-python.tar.gz       CIFAR-10, training set, with labels
  train-images-idx3-ubyte.gz   MNIST, padded to 32x32, with the labels in
                               train-labels-idx1-ubyte.gz beside it
  emoji-datasource-google-VERSION.tgz
                               Noto Emoji, 64x64 with alpha, their categories
                               as labels (npm pack emoji-datasource-google);
                               without skin tone variants and the category
                               Component (patches of skin tones)
  digits                       the 8x8 digits of scikit-learn, with labels,
                               scaled to 32x32 unless a size is given

--dest is written completely or not at all. An existing archive is replaced; a folder must be new or empty. The same
images give the same bytes.

Images must have a size that the networks support: {SIZE_RULE}, such as 256x256, 96x64
(3x2 times 32) or 48x48 (3x3 times 16). --resolution (or --width and --height) scales the images, after --transform has
cropped them. center-crop crops to the largest central part with the proportions of --resolution; if that is a square,
to the central square. center-crop-wide does the same, but leaves out images smaller than --resolution and centers the
result on a black square as wide as it.

Labels come from a dataset.json in the source: {{"labels": [["a/1.png", 3], ...]}}, with a class counted from 0 or a
list of numbers for each image, named by its path from the folder of dataset.json. An additional
"class_names": ["cat", ...] is kept. Every image must have a label, and every label an image. With
--subfolders-as-labels the folders at the first level are the classes instead, numbered in the order of their names, or
of the numbers if all names are numbers. For both, the images may be below a top folder, as in an archive of a folder.
It does not matter whether names are written with / or \\, or how accents are encoded.

{CONVERSION_RULES}

An image that cannot be used makes the conversion fail; --skip-bad leaves it out. Such images are listed in both cases,
on the terminal and in the file of --bad-list.

--check looks for problems in images instead of converting them: duplicates and near-duplicates, nearly empty,
transparent, gray, tinted and blurred images, unusual sizes, borders, files that cannot be used, and the balance of the
classes. It changes nothing, but writes a contact sheet (contact-sheet.png), all findings (findings.json) and a list
(exclude.txt) to the folder of --findings. Edit the list, then convert with --exclude=LIST to leave these images out.
"""

# As a flag or with a value: --skip-bad, --skip-bad=1, --skip-bad=0.
SWITCH: dict[str, Any] = dict(type=BOOL, default=False, is_flag=False, flag_value='1')


@click.command(cls=Command, help=HELP)
@click.option('--source', type=PATH, help='Images to convert')
@click.option('--dest', type=OutputFile('dataset', or_folder=True), help='Archive (NAME.zip) or folder to write')
@click.option('--check', type=PATH, metavar='SOURCE', help='Look for problems in these images; convert nothing')
@click.option(
    '--findings',
    type=OutputFolder(),
    metavar='DIR',
    help='Where --check writes what it finds  [default: NAME-check beside the images]',
)
@click.option('--max-images', type=click.IntRange(min=1), metavar='N', help='Convert or check only the first N images')
@click.option('--exclude', type=PATH, metavar='FILE', help='Leave out the images in this list, such as that of --check')
@click.option(
    '--resize-filter',
    type=click.Choice(list(RESIZE_FILTERS)),
    default='lanczos',
    show_default=True,
    help='Filter for scaling images, as in Pillow',
)
@click.option('--transform', 'crop', type=click.Choice(['center-crop', 'center-crop-wide']), help='Crop before scaling')
@click.option('--width', type=click.IntRange(min=1), metavar='W', help='Scale to this width')
@click.option('--height', type=click.IntRange(min=1), metavar='H', help='Scale to this height')
@click.option('--resolution', type=Size('256x256', max_side=99_999), metavar='WxH', help='Scale to this size')
@click.option(
    '--alpha',
    type=click.Choice(ALPHA_RULES),
    default=ALPHA_RULES[0],
    show_default=True,
    help='Refuse transparent images, keep their alpha channel, or place them on white',
)
@click.option(
    '--channels',
    type=click.Choice(CHANNEL_RULES),
    default=CHANNEL_RULES[0],
    show_default=True,
    help='Convert all images to RGB or grayscale, or keep what they are',
)
@click.option('--subfolders-as-labels', **SWITCH, help='Use the folders at the first level as classes')
@click.option('--skip-bad', **SWITCH, help='Leave out images that cannot be used, and list them')
@click.option(
    '--bad-list',
    type=OutputFile('list'),
    metavar='FILE.txt',
    help='Write the names of these images to a file, each with a tab and the reason',
)
@max_pixels_option(MAX_PIXELS, 'images')
@click.option('--workers', type=click.IntRange(min=1), metavar='N', help='Number of processes  [default: one per core]')
def main(**values: Any) -> None:
    arguments = Arguments(**values)
    if arguments.check is None:
        run_conversion(arguments)
    else:
        run_check(arguments)


@dataclass(frozen=True)
class Arguments:
    """The options of the command line."""

    source: str | None
    dest: str | None
    check: str | None
    findings: str | None
    exclude: str | None
    max_images: int | None
    resize_filter: str
    crop: str | None
    width: int | None
    height: int | None
    resolution: tuple[int, int] | None
    alpha: str
    channels: str
    subfolders_as_labels: bool
    skip_bad: bool
    bad_list: str | None
    max_pixels: int
    workers: int | None


# ---------------------------------------------------------------------------------------------------------------------
# Check


def run_check(arguments: Arguments) -> None:
    """Check the images of `--check`, and print a summary."""
    assert arguments.check is not None
    for name in ('source', 'dest', 'bad_list'):
        if getattr(arguments, name) is not None:
            raise usage_error('--check', f'converts nothing: remove {option_name(name)}, or convert without --check.')
    findings = arguments.findings or default_folder(arguments.check)
    with usage_errors('--findings'):
        check_not_in_source(arguments.check, findings)
    check_outdir(os.fspath(findings), '--findings')
    with usage_errors('--check', subfolders_as_labels='--subfolders-as-labels'):
        images = open_source(arguments.check, arguments.subfolders_as_labels, arguments.max_pixels)
    images = without_excluded(images, arguments)
    start_time = time.monotonic()
    with signals_as_exceptions():
        result = check_images(
            images,
            arguments.check,
            Path(findings),
            arguments.max_images,
            arguments.max_pixels,
            arguments.workers or available_cores(),
        )
    click.echo(check_summary(result))
    elapsed_sec = time.monotonic() - start_time
    click.echo(f'{result.num_images:,} images checked in {elapsed_sec:.1f} s; nothing was changed.')
    files = CheckFolder(Path(findings))
    for path in (files.contact_sheet_png, files.findings_json, files.exclude_txt):
        click.echo(f'  {path}')


def check_summary(result: CheckResult) -> str:
    """List the findings of a check: a line for each kind, then the sentences about the whole."""
    lines = [f'{len(items):>7,}  {KINDS[kind].title}: {KINDS[kind].hint}' for kind, items in result.findings.items()]
    return '\n'.join([*(lines or ['No problems found in single images.']), *map(message_line, result.notes)])


def without_excluded(images: Source, arguments: Arguments) -> Source:
    """Return a source without the images in the list of `--exclude`."""
    if arguments.exclude is None:
        return images
    with usage_errors('--exclude'):
        return exclusion.without(images, exclusion.read_exclusions(arguments.exclude), arguments.exclude)


# ---------------------------------------------------------------------------------------------------------------------
# Conversion


def run_conversion(arguments: Arguments) -> None:
    """Convert the images of `--source` to the dataset `--dest`."""
    source, dest = arguments.source, arguments.dest
    if source is None or dest is None:
        raise click.UsageError(f"Missing option '{'--source' if source is None else '--dest'}'.")
    if arguments.findings is not None:
        raise usage_error('--findings', 'is where --check writes: remove it, or add --check.')

    # Check the options.
    transform = transform_of(arguments)
    with usage_errors('--dest'):
        check_destination(Path(dest))
        check_not_in_source(source, dest)
    if arguments.bad_list is not None:
        check_bad_list(arguments.bad_list, dest)
    with usage_errors('--source'):
        images = open_source(source, arguments.subfolders_as_labels, arguments.max_pixels)
    images = without_excluded(images, arguments)
    if images.default_size and not (transform.width or transform.height):
        transform = replace(transform, width=images.default_size, height=images.default_size)
    for path in unfinished_files(Path(dest)):
        click.echo(f'{path} is left over from a killed conversion; delete it unless one is running.', err=True)

    # Convert the images.
    try:
        with signals_as_exceptions():
            summary = convert(
                images,
                Path(dest),
                transform,
                arguments.max_images,
                arguments.skip_bad,
                arguments.workers or available_cores(),
            )
    except UnusableImages as error:
        list_images('cannot be used', error.bad, arguments.bad_list)
        raise click.ClickException(str(error)) from error
    list_images('left out', summary.bad, arguments.bad_list)
    if summary.empty_classes:
        click.echo(f'Warning: {empty_classes_warning(summary.empty_classes, images.class_names)}', err=True)
    click.echo(summary_line(summary, dest))


def transform_of(arguments: Arguments) -> Transform:
    """Return the conversion of each image."""
    width, height = arguments.width, arguments.height
    if arguments.resolution is not None:
        if width or height:
            raise usage_error('--resolution', 'sets the width and the height: remove --width and --height.')
        width, height = arguments.resolution
    size_option = '--resolution' if arguments.resolution else '--width' if width else '--height'
    with usage_errors(crop='--transform', size=size_option):
        return Transform(
            arguments.crop,
            width,
            height,
            arguments.resize_filter,
            arguments.alpha,
            arguments.channels,
            arguments.max_pixels,
        )


def check_not_in_source(source: str, dest: str | Path) -> None:
    """Raise ValueError if writing `dest` would change `source`."""
    if source == DIGITS:
        return
    source_path, dest_path = Path(source).resolve(), Path(dest).resolve()
    if source_path == dest_path:
        raise ValueError(f'{dest} is the source itself; choose another name.')
    if source_path in dest_path.parents and not is_archive(dest_path):
        raise ValueError(f'{dest} is inside the source and would become part of it; choose a folder elsewhere.')


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Within this context, SIGTERM (kill) and SIGHUP (closed terminal) raise SystemExit, so that files are removed."""

    def leave(signal_number: int, _frame: object) -> None:
        sys.exit(128 + signal_number)

    signals = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]
    previous = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_bad_list(bad_list: str, dest: str) -> None:
    """Check that a list can be written beside the dataset, but not into it."""
    check_outdir(os.path.dirname(bad_list) or os.curdir, '--bad-list')
    if Path(dest).resolve() in Path(bad_list).resolve().parents:
        raise usage_error('--bad-list', f'{bad_list} is inside the dataset {dest}; choose another folder.')


def list_images(problem: str, images: list[tuple[str, str]], bad_list: str | None) -> None:
    """Print the (name, reason) of images on stderr, and write them to a file if there is one for them."""
    for name, reason in images:
        click.echo(f'{problem}: {excerpt(name)}: {message_line(reason)}', err=True)
    if bad_list is not None:
        with atomic_file(bad_list) as file:
            for name, reason in images:
                file.write(exclusion.exclusion_line(name, reason))


def empty_classes_warning(classes: list[int], class_names: list[str] | None) -> str:
    """Describe classes without images in one sentence."""
    subject = 'class has' if len(classes) == 1 else 'classes have'
    return (
        f'{len(classes)} {subject} no image: {describe_classes(classes, class_names)}. Networks are made for all '
        'classes from 0 to the largest one, and learn nothing about these.'
    )


def summary_line(summary: Summary, dest: str) -> str:
    """Describe the result of a conversion in one line."""
    assert summary.shape is not None
    parts = [
        f'{dest}: {summary.num_images} images, {describe_shape(summary.shape)}',
        f'{summary.num_classes} classes' if summary.num_classes else None,
        f'{summary.num_bytes / 2**20:.1f} MiB',
        f'{len(summary.bad)} bad ones left out' if summary.bad else None,
        f'{len(summary.skipped)} too small ones left out' if summary.skipped else None,
        f'{summary.elapsed_sec:.1f} s ({summary.num_images / summary.elapsed_sec:.0f} images/s)',
    ]
    return ', '.join(part for part in parts if part is not None)


if __name__ == '__main__':
    main()
