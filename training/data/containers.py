"""The files of a dataset, in a folder or a zip archive; both look the same to the reader."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_format.file_list import list_archive, list_folder
from dnnlib.archives import Archive, EntryTooLarge
from dnnlib.errors import raise_if_shortage
from dnnlib.files import open_regular, read_file
from dnnlib.text import excerpt
from training.data.decoding import ImageError

MAX_FILE_BYTES = 2**29  # of an image or of the labels; an uncompressed RGBA image of 8192x8192 has half as many


def open_container(path: Path) -> FolderFiles | ZipFiles:
    """Open the folder or zip archive at `path`.

    Raises:
        ValueError: It does not exist or is something else. One sentence.
    """
    if path.is_dir():
        return FolderFiles(path)
    if not path.exists():
        raise ValueError(f'{path} does not exist; use a zip archive or a folder made by dataset_tool.py.')
    if path.suffix.lower() != '.zip':
        raise ValueError(f'{path} is neither a folder nor a .zip archive; convert the images with dataset_tool.py.')
    if not path.is_file():
        raise ValueError(f'{path} is not a regular file; use a zip archive or a folder made by dataset_tool.py.')
    return ZipFiles(path)


class FolderFiles:
    """The files in a folder and its subfolders.

    Attributes:
        listing: Which files there are.
    """

    def __init__(self, path: Path):
        self._path = path
        self.listing = list_folder(path, str(path))

    def read(self, name: str, limit: int = -1) -> bytes:
        """Return the content of a file, or its first `limit` bytes; `name` is in normal form."""
        path = self._path / self.listing.stored_names[name]
        try:
            if limit < 0:
                return read_file(path, MAX_FILE_BYTES)
            with open_regular(path) as file:
                return file.read(limit)
        except OSError as error:
            raise_if_shortage(error)
            raise ImageError(f'{path} cannot be read: {error.strerror}.') from error
        except ValueError as error:
            raise ImageError(str(error)) from error

    def fingerprint(self) -> tuple[str, float]:
        """Return text that changes when a file is written, and the time of the last change."""
        return _digest_of_stats(
            [(name, _stat(self._path / name)) for name in sorted(self.listing.stored_names.values())]
        )

    def close(self) -> None:
        """Do nothing: no file is kept open."""


class ZipFiles:
    """The files in a zip archive, with one handle per process: a handle shared with a fork would share its position.

    Attributes:
        listing: Which files there are.
    """

    def __init__(self, path: Path):
        self._path = path
        self._zip: Archive | None = None
        self._zip_pid: int | None = None
        with self._errors_named():
            self._handle().check_overlaps()
        self.listing = list_archive(self._handle(), str(path))

    def _handle(self) -> Archive:
        if self._zip is None or self._zip_pid != os.getpid():
            with self._errors_named():
                self._zip, self._zip_pid = Archive(self._path), os.getpid()
        return self._zip

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise ImageError(
                f'{self._path} is not a complete zip archive ({excerpt(error)}); make it again with '
                'dataset_tool.py, or copy it again.'
            ) from error
        except OSError as error:
            raise_if_shortage(error)
            raise ImageError(f'{self._path} cannot be opened: {error.strerror}.') from error

    def read(self, name: str, limit: int = -1) -> bytes:
        """Return the content of a file, or its first `limit` bytes; `name` is in normal form."""
        try:
            stored_name = self.listing.stored_names[name]
            if limit < 0:
                return self._handle().read_entry(stored_name, MAX_FILE_BYTES)
            with self._handle().open(stored_name) as file:
                return file.read(limit)
        except EntryTooLarge as error:
            raise ImageError(f'{excerpt(name)} of {self._path} {error}.') from error
        except Exception as error:  # damaged archives raise many kinds of errors (BadZipFile, zlib.error, EOFError)
            raise_if_shortage(error)
            raise ImageError(
                f'{self._path} is damaged at {excerpt(name)} ({excerpt(error)}); make it again with dataset_tool.py, '
                'or copy it again.'
            ) from error

    def fingerprint(self) -> tuple[str, float]:
        """Return text that changes when the archive is written, and the time of the last change.

        It describes the file that is open, which may differ from the one that is at its path now, and includes the
        checksums of its members.
        """
        archive = self._handle()
        assert archive.fp is not None
        stat = os.fstat(archive.fp.fileno())
        file_digest, last_change = _digest_of_stats([(str(self._path.resolve()), stat)])
        members = [(info.filename, info.file_size, info.CRC) for info in archive.infolist()]
        return hashlib.sha256(f'{file_digest} {members}'.encode(errors='surrogateescape')).hexdigest(), last_change

    def close(self) -> None:
        """Close the archive; it is opened again when it is needed."""
        if self._zip is not None and self._zip_pid == os.getpid():
            self._zip.close()
        self._zip = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_zip': None, '_zip_pid': None}


def _stat(path: Path) -> os.stat_result:
    """Return the metadata of a file, or those of a link that leads nowhere."""
    try:
        return os.stat(path)
    except OSError:
        return os.lstat(path)


def _digest_of_stats(stats: list[tuple[str, os.stat_result]]) -> tuple[str, float]:
    """Return a digest of names and file metadata, and the time of the last change. ctime cannot be set back."""
    digest = hashlib.sha256()
    for name, stat in stats:
        digest.update(
            f'{name}\0{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n'.encode(
                errors='surrogateescape'
            )
        )
    return digest.hexdigest(), max(max(stat.st_mtime, stat.st_ctime) for _name, stat in stats)
