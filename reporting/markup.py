"""HTML from text and pictures: escaping, tables, images as data URIs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import PIL.Image

from dataset_format.images import paste_on_white
from dnnlib.text import without_controls

MAX_TEXT = 4000
_MAX_PNG_BYTES = 2**18  # pictures that take more as PNG become JPEG
_JPEG_QUALITY = 85


def escaped(text: Any) -> str:
    """Return a text as HTML shows it: no markup, no control characters, at most `MAX_TEXT` characters."""
    text = str(text)
    text = text if len(text) <= MAX_TEXT else f'{text[: MAX_TEXT - 1]}…'
    # Bytes of file names that are not UTF-8, which no HTML file can contain, are shown as escapes.
    text = text.encode(errors='backslashreplace').decode()
    return html.escape(without_controls(text))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str) -> str:
    """Return a table that scrolls where it is wider than the page; the first cell of a row is its heading."""
    heads = ''.join(f'<th scope="col">{escaped(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escaped(row[0])}</th>{"".join(f"<td>{escaped(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    ]
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escaped(caption)}</caption>'
        f'<thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def picture(image: PIL.Image.Image, alt: str, caption: str, is_small: bool = False) -> str:
    """Return a figure with an image as data URI.

    Args:
        image: Mode L, LA, RGB or RGBA; transparent parts become white.
        alt: What it shows, for those who do not see it.
        caption: Text below it.
        is_small: Its pixels are enlarged without smoothing.
    """
    if image.mode in ('LA', 'RGBA'):
        image = paste_on_white(image)
    file, kind = io.BytesIO(), 'png'
    image.save(file, 'png', optimize=True)
    if file.tell() > _MAX_PNG_BYTES:
        file, kind = io.BytesIO(), 'jpeg'
        image.save(file, 'jpeg', quality=_JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    style = ' class="pixels"' if is_small else ''
    return (
        f'<figure class="picture"><img{style} {size} alt="{escaped(alt)}" src="data:image/{kind};base64,{data}">'
        f'<figcaption>{escaped(caption)}</figcaption></figure>'
    )
