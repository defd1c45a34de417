"""Source of emoji: the npm package emoji-datasource-google, which has Noto Emoji as PNGs and a table of them.

`npm pack emoji-datasource-google` downloads it as one file. Of the emoji in its table `emoji.json`, those are taken
that have an image, with their category as label. Two kinds are left out: the skin tone variants, which repeat the same
picture up to 25 times, and the category Component, which has nothing but the five skin tones as patches of color.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.source_types import Source
from dataset_conversion.tar_files import read_members
from dnnlib.json_input import MAX_BYTES, parse_json
from dnnlib.schema import Flag, ListOf, Record, Text
from dnnlib.text import excerpt

EMOJI_PACKAGE = 'emoji-datasource-google'

_ARCHIVE_NAME = re.compile(rf'{EMOJI_PACKAGE}[-.\w]*\.tgz')
_TABLE = 'package/emoji.json'
_IMAGE_FOLDER = 'package/img/google/64/'
_LEFT_OUT = 'Component'
_WHAT = f'the npm package {EMOJI_PACKAGE}'
_MAX_PACKAGE_BYTES = 2**29  # version 16.0.0 expands to 78 million bytes, and most of them are sheets of all emoji
_MAX_IMAGES_BYTES = 2**26  # those of version 16.0.0 have 11 million
_MAX_EMOJI = 20_000

_EMOJI_TABLE = ListOf(
    Record(
        {
            'short_name': Text(100),
            'category': Text(100),
            'image': Text(100, pattern=r'[0-9a-f-]+\.png', kind='the name of an image'),
            'has_img_google': Flag(),
        },
        required=['short_name', 'category', 'image', 'has_img_google'],
        ignores_others=True,
    ),
    max_length=_MAX_EMOJI,
)


def is_emoji_package(path: Path) -> bool:
    """Return whether a file has the name that `npm pack` gives to the package."""
    return _ARCHIVE_NAME.fullmatch(path.name) is not None


@dataclass(frozen=True)
class BytesReader:
    """Returns the bytes of image files, which are their own tickets."""

    def read(self, ticket: bytes) -> bytes:
        return ticket

    def sizes(self, tickets: Sequence[bytes]) -> list[int]:
        return [len(ticket) for ticket in tickets]


def open_emoji(path: Path) -> Source:
    """Read the 64x64 images of the package, named CATEGORY/SHORT_NAME.png, with their categories as labels.

    Raises:
        ValueError: The file is not this package, is damaged, or exceeds a limit.
    """
    table, images = _read_package(path)
    file_of: dict[str, str] = {}
    for emoji in table:
        if not emoji['has_img_google'] or emoji['category'] == _LEFT_OUT:
            continue
        name = f'{_folder_name(emoji["category"])}/{emoji["short_name"]}.png'
        if name in file_of:
            raise ValueError(f'{_TABLE} of {path} names {excerpt(name)} twice; download the package again.')
        if emoji['image'] not in images:
            raise ValueError(
                f'{_IMAGE_FOLDER}{emoji["image"]} of {path} is missing, although {_TABLE} names it; download the '
                'package again.'
            )
        file_of[name] = emoji['image']
    if not file_of:
        raise ValueError(f'{_TABLE} of {path} names no image; this is not {_WHAT}.')
    names = sorted(file_of)
    categories = [name.split('/')[0] for name in names]
    class_names = sorted(set(categories))
    labels: list[Any] = [class_names.index(category) for category in categories]
    return Source(names, [images[file_of[name]] for name in names], BytesReader(), labels, class_names)


def _read_package(path: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the table of emoji, and the content of the images by file name."""
    table: Any = None
    images: dict[str, bytes] = {}
    num_bytes = 0
    members = read_members(path, _is_wanted, _WHAT, _MAX_PACKAGE_BYTES, MAX_BYTES)
    for name, content in members:
        if name == _TABLE:
            table = parse_json(content, f'{_TABLE} of {path}')
            continue
        images[name.removeprefix(_IMAGE_FOLDER)] = content
        num_bytes += len(content)
        if num_bytes > _MAX_IMAGES_BYTES or len(images) > _MAX_EMOJI:
            raise ValueError(
                f'{path} has more than {_MAX_EMOJI:,} images in {_IMAGE_FOLDER}, or more than {_MAX_IMAGES_BYTES:,} '
                f'bytes of them; this is not {_WHAT}.'
            )
    if table is None:
        raise ValueError(f'{path} has no {_TABLE}; this is not {_WHAT}.')
    _EMOJI_TABLE.check(table, f'{_TABLE} of {path}')
    return table, images


def _is_wanted(name: str) -> bool:
    return name == _TABLE or (name.startswith(_IMAGE_FOLDER) and name.endswith('.png'))


def _folder_name(category: str) -> str:
    """Return a category as the name of a folder: 'Food & Drink' becomes 'food-drink'."""
    return '-'.join(re.findall(r'\w+', category.lower())) or 'other'
