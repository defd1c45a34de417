"""Walk through plain data of a file, which may be small in the file but practically endless."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any


class TooDeep(ValueError):
    """Data that is nested too deeply."""


def walk(value: Any, max_depth: int) -> Iterator[Any]:
    """Yield a value and everything inside it, including the keys of dicts, each as often as it occurs.

    The caller counts: a list that contains its predecessor twice, again and again, has 2 ** levels values. Memory is
    proportional to the depth, whatever the containers hold.

    Args:
        value: Anything; only dicts, lists, tuples and sets are entered.
        max_depth: Number of containers around a value.

    Raises:
        TooDeep: It is nested more deeply.
    """
    pending = [iter([value])]
    while pending:
        for item in pending[-1]:
            yield item
            contents = _contents(item)
            if contents is not None:
                if len(pending) > max_depth:
                    raise TooDeep
                pending.append(contents)
                break
        else:
            pending.pop()


def _contents(value: Any) -> Iterator[Any] | None:
    if isinstance(value, Mapping):
        return itertools.chain.from_iterable(value.items())
    return iter(value) if isinstance(value, (list, tuple, set, frozenset)) else None
