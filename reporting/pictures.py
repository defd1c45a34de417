"""The pictures of a report: grids of the run, generated samples, galleries; all decoded and scaled to few sizes."""

from __future__ import annotations

import os
from pathlib import Path

import PIL.Image

from dataset_format.images import decode, pillow_limit
from dataset_format.sizes import sides
from dnnlib.files import read_file
from reporting.markup import escaped, picture
from reporting.run_record import RunRecord, thinned
from reporting.samples import NUM_NEIGHBORS, Samples

MAX_SNAPSHOTS = 3  # grids beside those of real images and of the start

_MAX_FILE_BYTES = 2**27
_MAX_PIXELS = 2**26  # a grid of a run has 33 million
_GRID_SIDE = 640  # pixels to which grids are cut and scaled
_SMALL_CELL = 64  # images of fewer pixels a side are enlarged without smoothing
_WIDE = 1280  # pixels of galleries
_TALL = 2400
_MAX_GALLERIES = 4


def run_pictures(record: RunRecord, samples: Samples | None) -> str:
    """Return the figures of a run: real images, snapshots, interpolation, nearest training images, galleries."""
    run_dir = record.run_dir
    grids = [(run_dir.reals_png, 'Real images', 'real images'), (run_dir.fakes_init_png, 'Before the training', '')]
    grids += [
        (str(path), f'After {run_dir.fakes_kimg(path):,} kimg', '')
        for path in thinned([path for path in run_dir.fakes_pngs() if run_dir.fakes_kimg(path)], MAX_SNAPSHOTS)
    ]
    figures = []
    for path, caption, alt in grids:
        with record.noting_problems(missing_is_one=False):
            image, is_small = grid_picture(path, record)
            figures.append(picture(image, f'A grid of {alt or "generated images"}', caption, is_small))
    content = f'<div class="pictures">{"".join(figures)}</div>' if figures else ''
    return content + _sample_pictures(samples) + _galleries(record)


def _sample_pictures(samples: Samples | None) -> str:
    if samples is None:
        return ''
    after = '' if samples.kimg is None else f' (after {samples.kimg:,.0f} kimg)'
    strip, is_small = _scaled_samples(samples.strip, samples.strip.height)
    parts = [picture(strip, 'Generated images that change gradually', f'Interpolation in w{after}', is_small)]
    if samples.neighbors is not None:
        searched = (
            f'all {samples.num_training:,}'
            if samples.num_compared == samples.num_training
            else f'{samples.num_compared:,} of {samples.num_training:,}'
        )
        caption = (
            f'Generated images{after} in the first row, and below each the {NUM_NEIGHBORS} nearest of {searched} '
            'training images, by pixels: copies would look the same'
        )
        neighbors, is_small = _scaled_samples(samples.neighbors, samples.neighbors.height // (NUM_NEIGHBORS + 1))
        parts.append(
            picture(neighbors, 'Generated images above the training images nearest to them', caption, is_small)
        )
    elif samples.note:
        parts.append(f'<p>{escaped(samples.note)}</p>')
    return ''.join(parts)


def _scaled_samples(image: PIL.Image.Image, cell: int) -> tuple[PIL.Image.Image, bool]:
    if cell < _SMALL_CELL:
        return _enlarged(image, _SMALL_CELL // cell), True
    return _reduced(image, _WIDE, _TALL), False


def _galleries(record: RunRecord) -> str:
    """Return what the metric `memorization` has left in the directory, the newest first."""
    parts = []
    for path in record.run_dir.memorization_pngs()[::-1][:_MAX_GALLERIES]:
        with record.noting_problems():
            image = _reduced(_read(path), _WIDE, _TALL)
            caption = f'Memorization: generated images and their nearest training images ({path.name})'
            parts.append(picture(image, 'Pairs of generated and training images, the most similar first', caption))
    return ''.join(parts)


def data_pictures(record: RunRecord) -> str:
    """Return the contact sheet of the check of the data, if there is one."""
    if record.contact_sheet is None:
        return ''
    with record.noting_problems():
        image = _reduced(_read(record.contact_sheet), _WIDE, _TALL)
        sheet = picture(image, 'Small pictures of the images in the table above', 'What the check has found')
        return f'<details><summary>Contact sheet</summary>{sheet}</details>'
    return ''


# ---------------------------------------------------------------------------------------------------------------------
# Reading and scaling


def _read(path: str | os.PathLike) -> PIL.Image.Image:
    """Decode an image of the run; ValueError if it is damaged or too large."""
    content = read_file(path, _MAX_FILE_BYTES)
    try:
        image = decode(content, _MAX_PIXELS)
    except ValueError as error:
        raise ValueError(f'{Path(path).name}: {error}') from error
    return image if image.mode in ('L', 'LA', 'RGB', 'RGBA') else image.convert('RGB')


def grid_picture(path: str, record: RunRecord) -> tuple[PIL.Image.Image, bool]:
    """Return the upper left part of a grid in whole images, and whether its pixels were enlarged.

    Raises:
        ValueError: It is damaged or too large.
        OSError: It cannot be read.
    """
    image = _read(path)
    resolution = None if record.config is None else record.config.training_set_kwargs.get('resolution')
    if resolution is None:
        return _reduced(image, _GRID_SIDE, _GRID_SIDE), False
    height, width = sides(resolution if isinstance(resolution, int) else tuple(resolution))
    shown = max(width, height)
    factor = max(_SMALL_CELL // shown, 1)
    columns = max(_GRID_SIDE // max(width * factor, _GRID_SIDE // 6), 1)
    rows = max(_GRID_SIDE // max(height * factor, _GRID_SIDE // 6), 1)
    with pillow_limit(None):
        part = image.crop((0, 0, min(columns * width, image.width), min(rows * height, image.height)))
    if factor > 1:
        return _enlarged(part, factor), True
    return _reduced(part, _GRID_SIDE, _GRID_SIDE), False


def _enlarged(image: PIL.Image.Image, factor: int) -> PIL.Image.Image:
    return image.resize((image.width * factor, image.height * factor), PIL.Image.Resampling.NEAREST)


def _reduced(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Scale an image down to a size at most; of very tall ones, the upper part is kept."""
    if image.width > width:
        image = image.resize((width, max(round(image.height * width / image.width), 1)), PIL.Image.Resampling.BOX)
    return image.crop((0, 0, image.width, min(image.height, height)))
