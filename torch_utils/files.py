"""Files that are either there as a whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dnnlib.util import os_errors_named


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Binary file to write that takes the place of `path` when the block ends, and vanishes when the block raises.

    Until then it lies beside `path` under a hidden name of its own, so concurrent writers do not meet. Missing parent
    folders are made. Raises OSError where the place is not writable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
    try:
        with os_errors_named(path):
            with open(partial, 'xb') as f:
                yield f
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
