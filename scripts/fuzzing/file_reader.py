"""A reader of files as the campaigns of `scripts/fuzz_files.py` see it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.fuzzing.mutations import Mutation


@dataclass(frozen=True)
class FileReader:
    """A reader and what to try on it.

    Attributes:
        name: What it reads.
        path: Where a file is placed before it is read; other files that the reader needs are beside it.
        files: Valid files by name.
        mutations: Changes to try, each as likely as the others.
        read: The reader, a function of `path`.
        refusal: The errors that it raises for a file that it refuses.
        memory_mib: Memory that it may use, in addition to 8 times the file.
        refused: Names of intact files that it must refuse.
    """

    name: str
    path: Path
    files: dict[str, bytes]
    mutations: list[Mutation]
    read: Callable[[Path], object]
    refusal: type[Exception] | tuple[type[Exception], ...]
    memory_mib: float = 400
    refused: frozenset[str] = frozenset()

    def place(self, content: bytes) -> Path:
        """Write a file to where the reader finds it."""
        self.path.write_bytes(content)
        return self.path


def use_cache_of(folder: Path) -> None:
    """Make this process use the cache of the readers in a folder."""
    os.environ['DNNLIB_CACHE_DIR'] = str(folder / 'cache')


def new_folder(folder: Path) -> Path:
    """Create a folder and return it."""
    folder.mkdir(parents=True)
    return folder
