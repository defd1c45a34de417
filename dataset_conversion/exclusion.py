"""Lists of images that a conversion leaves out (`--exclude`): one name per line, and after a tab the reason.

What `--bad-list` and `--check` write are such lists. Empty lines and those that begin with '# ' are comments. Names are
compared as they are written here: with escapes for control characters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from dataset_conversion.source_types import Source
from dataset_format.labels import join_names
from dnnlib.files import read_file

_MAX_LIST_BYTES = 2**28


def one_line(text: str) -> str:
    """Replace tabs, line ends and other control characters by escape sequences."""
    return ''.join(char if char.isprintable() or '\udc80' <= char <= '\udcff' else ascii(char)[1:-1] for char in text)


def exclusion_line(name: str, reason: str) -> bytes:
    """Return the line of an image."""
    return f'{_listed_name(name)}\t{one_line(reason)}\n'.encode(errors='surrogateescape')


def _listed_name(name: str) -> str:
    """Return a name as lists have it; one that looks like a comment is escaped."""
    line = one_line(name)
    return f'\\x23{line[1:]}' if line.startswith('# ') else line


def read_exclusions(path: str | os.PathLike) -> list[str]:
    """Return the names in a list.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large.
    """
    text = read_file(path, _MAX_LIST_BYTES).decode('utf-8-sig', errors='surrogateescape')
    names = [line.rstrip('\r').split('\t')[0] for line in text.split('\n')]
    return [name for name in names if name.strip() and not name.startswith('# ') and name != '#']


def without(source: Source, excluded: Sequence[str], list_name: str) -> Source:
    """Return a source without the images of these names.

    Args:
        source: All images.
        excluded: Names as lists have them.
        list_name: How error messages refer to the list.

    Raises:
        ValueError: A name is that of no image, or no images are left.
    """
    left_out = set(excluded)
    names = [_listed_name(name) for name in source.names]
    unknown = sorted(left_out.difference(names))
    if unknown:
        raise ValueError(
            f'{list_name} has {len(unknown)} names that are not in the source ({join_names(unknown)}): the list must '
            'come from the same images.'
        )
    kept = [index for index, name in enumerate(names) if name not in left_out]
    if not kept:
        raise ValueError(f'{list_name} excludes all {len(names)} images.')
    return replace(
        source,
        names=[source.names[index] for index in kept],
        tickets=[source.tickets[index] for index in kept],
        labels=None if source.labels is None else [source.labels[index] for index in kept],
    )
