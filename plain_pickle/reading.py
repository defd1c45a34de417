"""Read pickles without executing anything that they name.

A pickle is a program for a small stack machine, and Python's own machine lets that program import and call anything,
and trusts the sizes and types that it states. The machine of `plain_pickle.machine` executes the same instructions but
cannot import: a global is a key into a table of readers, which create numbers, text, containers and arrays of numbers.
Any other name is refused.

Memory and time are bounded by a small multiple of the file and by MAX_INSTRUCTIONS: arrays are views of bytes that the
file really contains, and an instruction of two bytes cannot copy megabytes again and again (`machine.Budget`). Numbers
and strings from the file are quoted in errors only if their size is known to be small.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

from plain_pickle.machine import Budget, Machine
from plain_pickle.readers import READERS


def loads(data: bytes, readers: dict[str, Any] = READERS, keep_foreign: bool = False) -> Any:
    """Read the object in a pickle.

    Args:
        data: A whole pickle, protocol 0 to 5. Strings of Python 2 are decoded as Latin-1.
        readers: Functions and constants by dotted name; functions are called with the arguments in the pickle.
        keep_foreign: As in `machine.Machine`.

    Raises:
        machine.RefusedGlobal: The pickle contains a name that is not in the table.
        pickle.UnpicklingError: It is damaged, or not a pickle.
    """
    machine = Machine(io.BytesIO(data), readers, Budget(len(data)), keep_foreign=keep_foreign)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # about odd backslashes in the strings of old protocols
        return machine.run()
