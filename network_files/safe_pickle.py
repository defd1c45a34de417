"""Read network pickles without executing anything that they name.

`plain_pickle` reads numbers, text, containers and arrays; `network_files.pickle_readers` adds tensors, and persistent
objects (see `torch_utils.persistence`), which are returned as `PersistentObject`: class name, source text, state.
`network_files.persistent` builds networks from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from network_files.pickle_readers import READERS, PersistentObject
from plain_pickle import reading
from plain_pickle.machine import MAX_INSTRUCTIONS, ForeignObject, Global, RefusedGlobal

__all__ = ['MAX_INSTRUCTIONS', 'READERS', 'ForeignObject', 'Global', 'PersistentObject', 'RefusedGlobal', 'loads']


def loads(data: bytes, readers: dict[str, Callable[..., Any]] | None = None, keep_foreign: bool = False) -> Any:
    """Read the object in a pickle: plain data, arrays, tensors on the CPU and `PersistentObject`.

    Args:
        data: A whole pickle, protocol 0 to 5.
        readers: Functions for further globals, by dotted name; they are called with the arguments in the pickle.
        keep_foreign: Represent objects of classes in neither table as `ForeignObject`, and names that are not called as
            `Global`.

    Raises:
        RefusedGlobal: The pickle contains a name that is in neither table, or calls one.
        pickle.UnpicklingError: It is damaged, or not a pickle.
    """
    return reading.loads(data, READERS | (readers or {}), keep_foreign)
