"""Write a dataset to a zip archive or a folder that appears under its name complete or not at all.

Everything is written to a hidden sibling first and renamed at the end. Archives contain no clock times and no
compression, so equal images give equal bytes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

FIXED_DATE_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest date that zip archives support


class Writer(Protocol):
    """A dataset that is being written."""

    def write(self, name: str, content: bytes) -> None:
        """Add a file; `name` has forward slashes."""


def check_destination(dest: Path) -> None:
    """Raise ValueError if `dest` cannot be written, or contains files that must not be overwritten."""
    if is_archive(dest):
        if dest.is_dir():
            raise ValueError(f'{dest} is a folder, although its name ends in .zip; choose another name.')
    elif dest.is_dir():
        if any(dest.iterdir()):
            raise ValueError(f'{dest} is a folder that is not empty; choose a new one, or empty it first.')
    elif dest.exists():
        raise ValueError(f'{dest} is a file; choose a name that ends in .zip, or a new or empty folder.')
    ancestor = next(parent for parent in dest.absolute().parents if parent.exists())
    if not ancestor.is_dir():
        raise ValueError(f'{dest} cannot be created: {ancestor} is not a folder.')
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ValueError(f'{dest} cannot be created: {ancestor} is not writable.')


def is_archive(dest: Path) -> bool:
    """Return whether `dest` is written as a zip archive."""
    return dest.suffix.lower() == '.zip'


def unfinished_files(dest: Path) -> list[Path]:
    """Return the unfinished files of killed conversions beside `dest`; a running conversion has one as well."""
    return sorted(dest.parent.glob(f'{_temporary_prefix(dest)}*')) if dest.parent.is_dir() else []


def _temporary_prefix(dest: Path) -> str:
    return f'.{dest.name}.unfinished-'


@contextmanager
def open_destination(dest: Path) -> Iterator[Writer]:
    """Yield a writer whose files appear as `dest` after the block, and are deleted if the block raises.

    An existing archive is replaced.

    Raises:
        ValueError: The destination cannot be written, for example because the disk is full.
    """
    temporary = dest.parent / f'{_temporary_prefix(dest)}{secrets.token_hex(4)}'
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with _ZipWriter(temporary) if is_archive(dest) else _FolderWriter(temporary) as writer:
            yield writer
        os.replace(temporary, dest)
    except OSError as error:
        raise ValueError(f'{dest} cannot be written: {error.strerror or error}.') from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _ZipWriter:
    def __init__(self, path: Path):
        self._zip = zipfile.ZipFile(path, 'w', compression=zipfile.ZIP_STORED)

    def write(self, name: str, content: bytes) -> None:
        info = zipfile.ZipInfo(name, date_time=FIXED_DATE_TIME)
        info.create_system = 3  # Unix, on every system
        info.external_attr = 0o100644 << 16
        self._zip.writestr(info, content)

    def __enter__(self) -> _ZipWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._zip.close()


class _FolderWriter:
    def __init__(self, path: Path):
        self._path = path
        path.mkdir()
        self._created = {path}

    def write(self, name: str, content: bytes) -> None:
        file_path = self._path / name
        if file_path.parent not in self._created:
            file_path.parent.mkdir(parents=True, exist_ok=True)
            self._created.add(file_path.parent)
        file_path.write_bytes(content)

    def __enter__(self) -> _FolderWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass
