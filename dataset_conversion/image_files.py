"""Sources of encoded images: folders, zip archives and LSUN databases."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.source_types import Reader, Source
from dataset_format.file_list import FileList, list_archive, list_folder
from dataset_format.images import MAX_PIXELS, BadImage, max_file_bytes
from dataset_format.labels import (
    MAX_LABEL_FILE_BYTES,
    Label,
    check_num_classes,
    join_names,
    match_labels,
    parse_label_file,
    sort_class_names,
)
from dnnlib.archives import Archive, EntryTooLarge
from dnnlib.errors import InvalidArgument, raise_if_shortage
from dnnlib.files import read_file
from dnnlib.text import excerpt


def file_too_large(max_bytes: int) -> str:
    """Describe why a file is not read, as the reason of a bad image."""
    return f'too large: it has more than {max_bytes:,} bytes (see --max-pixels)'


# ---------------------------------------------------------------------------------------------------------------------
# Folders and zip archives


@dataclass(frozen=True)
class FolderReader:
    """Reads the files of a folder by name, up to a size."""

    root: Path
    max_bytes: int

    def read(self, ticket: str) -> bytes:
        try:
            return read_file(self.root / ticket, self.max_bytes)
        except OSError as error:
            raise_if_shortage(error)
            raise BadImage(f'unreadable ({error.strerror})') from error
        except ValueError as error:
            raise BadImage(file_too_large(self.max_bytes)) from error

    def sizes(self, tickets: Sequence[str]) -> list[int]:
        def size(path: Path) -> int:
            try:
                return path.stat().st_size
            except OSError:  # reported when the file is read
                return 0

        return [size(self.root / ticket) for ticket in tickets]


def open_folder(path: Path, subfolders_as_labels: bool = False, max_pixels: int = MAX_PIXELS) -> Source:
    """List the images in a folder and its subfolders."""

    def read_labels(name: str) -> bytes:
        return read_file(path / name, MAX_LABEL_FILE_BYTES)

    reader = FolderReader(path, max_file_bytes(max_pixels))
    return _source_of_files(list_folder(path, str(path)), reader, read_labels, subfolders_as_labels)


class ZipReader:
    """Reads the files of a zip archive by name, up to a size."""

    def __init__(self, path: Path, max_bytes: int):
        self.path = path
        self.max_bytes = max_bytes
        self._zip: Archive | None = None

    def read(self, ticket: str) -> bytes:
        try:
            if self._zip is None:
                self._zip = Archive(self.path)
            return self._zip.read_entry(ticket, self.max_bytes)
        except EntryTooLarge as error:
            raise BadImage(file_too_large(self.max_bytes)) from error
        except Exception as error:  # zipfile raises all kinds of errors for damage, encryption, unknown compression
            raise_if_shortage(error)
            raise BadImage(f'unreadable (the archive is damaged here: {excerpt(error)})') from error

    def sizes(self, tickets: Sequence[str]) -> list[int]:
        with Archive(self.path) as archive:
            return [archive.getinfo(ticket).file_size for ticket in tickets]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_zip': None}


def open_zip(path: Path, subfolders_as_labels: bool = False, max_pixels: int = MAX_PIXELS) -> Source:
    """List the images in a zip archive."""
    try:
        with Archive(path) as archive:
            archive.check_overlaps()

            def read_labels(name: str) -> bytes:
                try:
                    return archive.read_entry(name, MAX_LABEL_FILE_BYTES)
                except EntryTooLarge as error:
                    raise ValueError(f'{excerpt(name)} of {path} {error}.') from error

            reader = ZipReader(path, max_file_bytes(max_pixels))
            return _source_of_files(list_archive(archive, str(path)), reader, read_labels, subfolders_as_labels)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f'{path} is not a complete zip archive ({excerpt(error)}).') from error


def _source_of_files(
    files: FileList, reader: Reader, read_labels: Callable[[str], bytes], subfolders_as_labels: bool
) -> Source:
    if not files.images:
        raise ValueError(
            f'{files.source} contains no images: none of its {len(files.stored_names)} files has an image extension.'
        )
    labels, class_names = None, None
    if subfolders_as_labels:
        labels, class_names = _label_by_folder(files.images, files.source)
    elif (label_file := files.label_file()) is not None:
        description = f'{label_file} of {files.source}'
        table = parse_label_file(read_labels(files.stored_names[label_file]), description)
        class_names = table.class_names
        if table.by_name is not None:
            labels = match_labels(files.names_for_labels(label_file), table.by_name, description)
    tickets = [files.stored_names[name] for name in files.images]
    return Source(files.images, tickets, reader, labels, class_names)


def _label_by_folder(names: list[str], source: str) -> tuple[list[Label], list[str]]:
    """Label each image by its first folder; classes are numbered in the order of their names, as numbers if they are.

    Folders that contain all images, such as the one at the top of an archive, do not count.
    """
    start = len(_common_folder(names))
    outside = [name for name in names if '/' not in name[start:]]
    if len(outside) == len(names) and start:
        raise InvalidArgument(
            'subfolders_as_labels',
            f'all images of {source} are in the same folder {excerpt(names[0][: start - 1])}; there must be at least '
            'two folders side by side, one per class.',
        )
    if outside:
        raise InvalidArgument(
            'subfolders_as_labels',
            f'{len(outside)} images of {source} are not in a subfolder ({join_names(outside)}); move them to the '
            'folder of their class.',
        )
    folders = [name[start:].split('/', maxsplit=1)[0] for name in names]
    class_names = sort_class_names(set(folders))
    check_num_classes(len(class_names), source)
    class_index = {name: index for index, name in enumerate(class_names)}
    return [class_index[folder] for folder in folders], class_names


def _common_folder(names: list[str]) -> str:
    """Return the folder that contains all files, with a slash at the end, or '' if it is the top."""
    first, last = min(names), max(names)  # all other names start with whatever these two have in common
    prefix = os.path.commonprefix([first, last])
    return prefix[: prefix.rfind('/') + 1]


# ---------------------------------------------------------------------------------------------------------------------
# LSUN: a database of encoded images


class LmdbReader:
    """Reads the values of an LMDB database by key, up to a size."""

    def __init__(self, path: Path, max_bytes: int):
        self.path = path
        self.max_bytes = max_bytes
        self._transaction: Any = None

    def read(self, ticket: bytes) -> bytes:
        if self._transaction is None:
            self._transaction = _open_lmdb_environment(self.path).begin(buffers=True)
        content = self._transaction.get(ticket)
        if content is None:
            raise BadImage('unreadable (the database no longer contains its key)')
        if len(content) > self.max_bytes:
            raise BadImage(file_too_large(self.max_bytes))
        return bytes(content)

    def sizes(self, tickets: Sequence[bytes]) -> None:
        """Return None: sizes would have to be read with the images."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_transaction': None}


def open_lmdb(path: Path, max_pixels: int = MAX_PIXELS) -> Source:
    """List the images of an LSUN database."""
    environment = _open_lmdb_environment(path)
    try:
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    finally:
        environment.close()
    if not keys:
        raise ValueError(f'{path} is an empty database.')
    return Source(
        [key.decode(errors='backslashreplace') for key in keys], keys, LmdbReader(path, max_file_bytes(max_pixels))
    )


def _open_lmdb_environment(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ValueError(f'{path} is an LSUN database, which requires the package lmdb: pip install lmdb') from error
    try:
        return lmdb.open(os.fsencode(path), readonly=True, lock=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f'{path} cannot be opened as an LSUN database ({excerpt(error)}).') from error
