"""From network output to image files: conversion to 8 bits, PNG files, grids with labels.

Legend: N images, C channels (1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha), H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from dnnlib.files import atomic_file
from dnnlib.text import excerpt

_CHANNELS = (1, 2, 3, 4)
_BLACK, _WHITE = 0, 255
_MIN_FONT_SIZE = 10
_MAX_LABEL = 60  # characters

Font = PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert network output in [-1, +1], float NCHW or CHW, to uint8: x * 127.5 + 128, clamped to [0, 255], truncated.

    Every script and metric uses this function, so that the same network gives the same bytes everywhere.
    """
    return (images.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def on_background(images: torch.Tensor, shade: float, transparent: float = 0, opaque: float = 255) -> torch.Tensor:
    """Place images on a gray background and remove their alpha channel. Differentiable.

    Args:
        images: float [N, C, H, W]; without alpha they are returned as they are. Colors are not premultiplied.
        shade: Value of the background.
        transparent: Alpha value of transparent pixels; lower ones are clamped to it.
        opaque: Alpha value of opaque pixels; higher ones are clamped to it.
    """
    if images.shape[1] not in (2, 4):
        return images
    cover = ((images[:, -1:] - transparent) / (opaque - transparent)).clamp(0, 1)
    return images[:, :-1] * cover + shade * (1 - cover)


def on_white(images: torch.Tensor) -> torch.Tensor:
    """Place uint8 [N, C, H, W] on white and remove the alpha channel, for videos and metrics."""
    if images.shape[1] not in (2, 4):
        return images
    return on_background(images.to(torch.float32), shade=255).round().to(torch.uint8)


def to_pil(image: np.ndarray | torch.Tensor) -> PIL.Image.Image:
    """Convert uint8 HW, HWC or CHW with 1 to 4 channels; a first axis of size 1 to 4 is taken as the channels."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8:
        raise ValueError(f'an image of dtype {array.dtype} cannot be saved: convert it with to_uint8 first')
    if array.ndim == 3 and array.shape[0] in _CHANNELS:
        array = array.transpose(1, 2, 0)  # HWC
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in _CHANNELS):
        raise ValueError(f'an image of shape {list(array.shape)} cannot be saved: it must have 1 to 4 channels')
    return _from_array(array)


def _from_array(array: np.ndarray) -> PIL.Image.Image:
    """Convert uint8 HW or HWC to an image of mode L, LA, RGB or RGBA."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]  # HW
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def from_pil(picture: PIL.Image.Image) -> np.ndarray:
    """Convert an image of mode L, LA, RGB or RGBA to uint8 [C, H, W]."""
    array = np.asarray(picture)
    return array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)


def save_png(image: np.ndarray | torch.Tensor | PIL.Image.Image, path: str | os.PathLike) -> None:
    """Write one image (see `to_pil`) as PNG, complete or not at all."""
    picture = image if isinstance(image, PIL.Image.Image) else to_pil(image)
    with atomic_file(path) as f:
        picture.save(f, format='png')


def image_grid(images: np.ndarray | torch.Tensor, grid_size: tuple[int, int]) -> np.ndarray:
    """Arrange images in reading order on one canvas.

    Args:
        images: uint8 [N, C, H, W]. Cells beyond N stay black, or transparent.
        grid_size: (columns, rows), with at least N cells.

    Returns:
        uint8 [rows * H, columns * W, C], or [rows * H, columns * W] for one channel.
    """
    images = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    columns, rows = grid_size
    if images.ndim != 4 or images.shape[1] not in _CHANNELS:
        raise ValueError(f'a grid needs images of shape [N, 1 to 4, H, W], got {list(images.shape)}')
    if columns < 1 or rows < 1 or columns * rows < len(images):
        raise ValueError(f'a grid of {columns}x{rows} is too small for {len(images)} images')
    num_images, num_channels, height, width = images.shape
    cells = np.zeros([rows * columns, num_channels, height, width], dtype=np.uint8)
    cells[:num_images] = images
    canvas = cells.reshape(rows, columns, num_channels, height, width)
    canvas = canvas.transpose(0, 3, 1, 4, 2)  # rows H columns W C
    canvas = canvas.reshape(rows * height, columns * width, num_channels)
    return canvas[:, :, 0] if num_channels == 1 else canvas


def enlarge_with_margin(images: np.ndarray, min_side: int = 64, margin: int = 2) -> np.ndarray:
    """Repeat the pixels of uint8 [N, C, H, W] until sides have at least `min_side` pixels, and add a white margin."""
    factor = max(-(-min_side // min(images.shape[2:])), 1)  # rounded up
    images = images.repeat(factor, axis=2).repeat(factor, axis=3)
    return np.pad(images, [(0, 0), (0, 0), (margin, margin), (margin, margin)], constant_values=_WHITE)


def save_image_grid(
    images: np.ndarray | torch.Tensor,
    path: str | os.PathLike,
    grid_size: tuple[int, int],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
) -> None:
    """Write a grid (see `image_grid`) as PNG, optionally with labels left of the rows and above the columns.

    Labels may be names from a file: long ones are shortened, and characters that cannot be printed become '?'.
    """
    columns, rows = grid_size
    for labels, count, what in ((row_labels, rows, 'row'), (column_labels, columns, 'column')):
        if labels is not None and len(labels) != count:
            raise ValueError(f'{len(labels)} {what} labels for a grid of {columns}x{rows}')
    picture = _from_array(image_grid(images, grid_size))
    if row_labels is not None or column_labels is not None:
        cell = picture.width // columns, picture.height // rows
        shown = [[excerpt(text, _MAX_LABEL) for text in labels or []] for labels in (row_labels, column_labels)]
        picture = _with_labels(picture, cell, *shown)
    save_png(picture, path)


def _with_labels(
    grid: PIL.Image.Image, cell: tuple[int, int], row_labels: Sequence[str], column_labels: Sequence[str]
) -> PIL.Image.Image:
    cell_width, cell_height = cell
    font = _fitting_font(column_labels, cell_width, max_size=min(max(cell_height // 4, _MIN_FONT_SIZE), 32))
    boxes = [font.getbbox(text) for text in [*row_labels, *column_labels]]
    padding = 4
    line_height = max(int(bottom) for _, _, _, bottom in boxes) + padding
    left = max((int(font.getlength(text)) + 2 * padding for text in row_labels), default=0)
    top = line_height + padding if column_labels else 0

    width = left + grid.width
    picture = PIL.Image.new(grid.mode, (width, top + grid.height), _white(grid.mode))
    picture.paste(grid, (left, top))
    pen = PIL.ImageDraw.Draw(picture)
    for row, text in enumerate(row_labels):
        y = top + row * cell_height + cell_height // 2
        pen.text((left - padding, y), text, fill=_black(grid.mode), font=font, anchor='rm')
    for column, text in enumerate(column_labels):
        x = left + column * cell_width + cell_width // 2
        fitting = _shorten(text, font, cell_width)
        pen.text((x, top - padding), fitting, fill=_black(grid.mode), font=font, anchor='mb')
    return picture


def _fitting_font(column_labels: Sequence[str], cell_width: int, max_size: int) -> Font:
    """Return the largest font in which all labels fit their columns, or the smallest font."""
    for size in range(max_size, _MIN_FONT_SIZE, -1):
        font = PIL.ImageFont.load_default(size=size)
        if all(font.getlength(text) <= cell_width for text in column_labels):
            return font
    return PIL.ImageFont.load_default(size=_MIN_FONT_SIZE)


def _shorten(text: str, font: Font, width: int) -> str:
    """Return the text, or its beginning and an ellipsis if it is too wide; at least one character."""
    if font.getlength(text) <= width:
        return text
    length = len(text) - 1
    while length > 1 and font.getlength(f'{text[:length]}…') > width:
        length -= 1
    return f'{text[:length]}…'


def _white(mode: str) -> tuple[int, ...]:
    return (_WHITE,) * len(mode)


def _black(mode: str) -> tuple[int, ...]:
    """Return black, opaque if the mode has alpha."""
    return tuple(255 if band == 'A' else _BLACK for band in mode)
