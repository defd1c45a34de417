"""The contact sheet of a check: thumbnails of each kind of problem in a row, with duplicates beside their originals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from dataset_conversion.checking.rules import KINDS, CheckResult, Finding
from dataset_format.images import paste_on_white
from dnnlib.files import atomic_file
from dnnlib.text import excerpt

COLUMNS = 12
MAX_ROWS = 4  # of a kind

_CELL, _GAP, _MARGIN = 96, 6, 16
_HEADING, _CAPTION = 34, 14
_BACKGROUND, _INK, _FRAME = (250, 250, 250), (20, 20, 20), (120, 120, 120)
_MISSING = (225, 205, 205)

ReadPicture = Callable[[int], PIL.Image.Image | None]


def save_contact_sheet(path: Path, result: CheckResult, names: Sequence[str], read: ReadPicture) -> None:
    """Write the picture as PNG; without findings it says so.

    Args:
        path: File to write.
        result: Findings.
        names: Names of the images.
        read: Returns an image by its index, in mode LA or RGBA, or None if it cannot be read.
    """
    strips = [_strip(kind, items, names, read) for kind, items in result.findings.items()]
    width = 2 * _MARGIN + COLUMNS * (_CELL + _GAP) - _GAP
    height = 2 * _MARGIN + sum(strip.height for strip in strips) + (0 if strips else _HEADING)
    sheet = PIL.Image.new('RGB', (width, height), _BACKGROUND)
    top = _MARGIN
    for strip in strips:
        sheet.paste(strip, (_MARGIN, top))
        top += strip.height
    if not strips:
        _write(sheet, (_MARGIN, top), f'No problems found in {result.num_images:,} images.', 18)
    with atomic_file(path) as file:
        sheet.save(file, format='png')


def _strip(kind: str, items: Sequence[Finding], names: Sequence[str], read: ReadPicture) -> PIL.Image.Image:
    """Draw the heading of a kind and its first images; repetitions as pairs with the original at the left."""
    has_pairs = items[0].other is not None
    shown = items[: COLUMNS * MAX_ROWS // (2 if has_pairs else 1)]
    cells: list[tuple[int, str]] = []
    for item in shown:
        cells += [] if item.other is None else [(item.other, '=')]
        cells.append((item.index, names[item.index]))
    pitch = _CELL + _CAPTION + _GAP
    rows = -(-len(cells) // COLUMNS)
    strip = PIL.Image.new('RGB', (COLUMNS * (_CELL + _GAP), _HEADING + rows * pitch + _GAP), _BACKGROUND)
    rest = f' (the first {len(shown)})' if len(shown) < len(items) else ''
    _write(strip, (0, 4), f'{KINDS[kind].title}: {len(items):,}{rest}', 18)
    for position, (index, caption) in enumerate(cells):
        left = position % COLUMNS * (_CELL + _GAP)
        top = _HEADING + position // COLUMNS * pitch
        strip.paste(_cell(read(index)), (left, top))
        text = 'original of' if caption == '=' else caption
        _write(strip, (left, top + _CELL), _fitting(text), 10)
    return strip


def _cell(picture: PIL.Image.Image | None) -> PIL.Image.Image:
    """Return a picture on white in a square; small ones are enlarged without smoothing, so that pixels stay visible."""
    cell = PIL.Image.new('RGB', (_CELL, _CELL), 'white')
    draw = PIL.ImageDraw.Draw(cell)
    if picture is None:
        draw.rectangle((0, 0, _CELL, _CELL), fill=_MISSING)
        _write(cell, (8, _CELL // 2 - 8), 'unreadable', 12)
    else:
        factor = (_CELL - 2) / max(picture.size)
        size = (max(round(picture.width * factor), 1), max(round(picture.height * factor), 1))
        if factor < 1:
            picture = picture.reduce(max(int(1 / factor), 1)) if max(picture.size) > 4 * _CELL else picture
            small = picture.convert('RGBA').resize(size, PIL.Image.Resampling.BICUBIC)
        else:
            small = picture.convert('RGBA').resize(size, PIL.Image.Resampling.NEAREST)
        cell.paste(paste_on_white(small), ((_CELL - size[0]) // 2, (_CELL - size[1]) // 2))
    draw.rectangle((0, 0, _CELL - 1, _CELL - 1), outline=_FRAME)
    return cell


def _fitting(text: str) -> str:
    """Return the end of a name, which tells more than its beginning, as far as there is room below a cell."""
    text = excerpt(text).encode('ascii', errors='replace').decode()
    return text if len(text) <= 17 else f'..{text[-15:]}'


def _write(image: PIL.Image.Image, position: tuple[int, int], text: str, size: int) -> None:
    PIL.ImageDraw.Draw(image).text(position, text, fill=_INK, font=PIL.ImageFont.load_default(size=size))
