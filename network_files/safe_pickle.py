"""Read pickles without executing anything that they name.

A pickle is a program for a small stack machine, and Python's own machine lets that program import and call anything.
The machine of `network_files.pickle_machine` executes the same instructions but cannot import: a global is a key into a
table of readers (`network_files.pickle_readers`), which create numbers, containers, arrays and tensors. Any other name
is refused.

Persistent objects (see `torch_utils.persistence`) are returned as `PersistentObject`: class name, source text, state.
`network_files.persistent` builds networks from them.

Memory and time are bounded by a small multiple of the file and by MAX_INSTRUCTIONS: arrays and tensors are views of
bytes that the file really contains, and an instruction of two bytes cannot copy megabytes again and again (`Budget`).
Numbers and strings from the file are quoted in errors only if their size is known to be small.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

from network_files.pickle_machine import (
    MAX_INSTRUCTIONS,
    Budget,
    ForeignObject,
    Global,
    Machine,
    PersistentObject,
    RefusedGlobal,
)
from network_files.pickle_readers import READERS

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
    machine = Machine(io.BytesIO(data), READERS | (readers or {}), Budget(len(data)), keep_foreign=keep_foreign)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # about odd backslashes in the strings of old protocols
        return machine.run()
