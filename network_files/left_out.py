"""Objects beside the networks of a file: plain data is kept, objects of foreign classes are left out by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from dnnlib.text import excerpt
from network_files.construction import Allowance
from network_files.errors import NetworkPickleError
from network_files.generations import KNOWN_CLASSES
from network_files.plain_values import TooDeep, walk
from network_files.safe_pickle import ForeignObject, Global, PersistentObject

_MAX_DEPTH = 50
_MAX_LISTED = 5


def foreign_part(value: Any, where: str, allowance: Allowance) -> str | None:
    """Return the class, or other name, of a foreign object in `value`; None if it is plain data.

    Args:
        value: What `safe_pickle.loads` returned for a key that does not belong to a network.
        where: Name of the value in errors: 'FILE: class_names'.
        allowance: Limit for the whole file; the values are subtracted.

    Raises:
        NetworkPickleError: It contains a network, or is small in the file but practically endless, such as a list that
            contains itself.
    """
    found = None
    try:
        for item in walk(value, _MAX_DEPTH):
            allowance.spend_item(where)
            if isinstance(item, PersistentObject) and item.class_name in KNOWN_CLASSES:
                raise NetworkPickleError(
                    f'{where} contains a {item.class_name}, but only G, D, G_ema and augment_pipe may be networks'
                )
            if isinstance(item, (PersistentObject, ForeignObject)):
                found = item.class_name
            elif isinstance(item, Global):
                found = item.name
    except TooDeep:
        raise NetworkPickleError(f'{where} cannot be used: it is too deeply nested') from None
    return None if found is None else excerpt(found)


def warn(name: str, left_out: Mapping[Any, str]) -> None:
    """Say in one line what is left out of a file.

    Args:
        name: Name of the file.
        left_out: Reasons by key.
    """
    if left_out:
        texts = [f'{excerpt(key, 40)} ({reason})' for key, reason in list(left_out.items())[:_MAX_LISTED]]
        more = f' and {len(left_out) - _MAX_LISTED} more' if len(left_out) > _MAX_LISTED else ''
        print(f'Warning: {name} is opened without {", ".join(texts)}{more}.', file=sys.stderr)
