"""The files of a dataset, in a folder or a zip archive; both look the same to the reader."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

from dataset_format.file_list import list_archive, list_folder
from dnnlib.files import open_regular
from training.data.decoding import ImageError


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
            with open_regular(path) as file:
                return file.read(limit)
        except OSError as error:
            raise ImageError(f'{path} cannot be read: {error.strerror}.') from error

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
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None
        self.listing = list_archive(self._handle(), str(path))

    def _handle(self) -> zipfile.ZipFile:
        if self._zip is None or self._zip_pid != os.getpid():
            try:
                self._zip, self._zip_pid = zipfile.ZipFile(self._path), os.getpid()
            except (zipfile.BadZipFile, UnicodeDecodeError) as error:
                raise ImageError(
                    f'{self._path} is not a complete zip archive ({error}); make it again with '
                    'dataset_tool.py, or copy it again.'
                ) from error
            except OSError as error:
                raise ImageError(f'{self._path} cannot be opened: {error.strerror}.') from error
        return self._zip

    def read(self, name: str, limit: int = -1) -> bytes:
        """Return the content of a file, or its first `limit` bytes; `name` is in normal form."""
        try:
            with self._handle().open(self.listing.stored_names[name]) as file:
                return file.read(limit)
        except Exception as error:  # damaged archives raise many kinds of errors (BadZipFile, zlib.error, EOFError)
            raise ImageError(
                f'{self._path} is damaged at {name} ({error}); make it again with dataset_tool.py, or copy it again.'
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
        return hashlib.sha256(f'{file_digest} {members}'.encode()).hexdigest(), last_change

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
        digest.update(f'{name}\0{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n'.encode())
    return digest.hexdigest(), max(max(stat.st_mtime, stat.st_ctime) for _name, stat in stats)
