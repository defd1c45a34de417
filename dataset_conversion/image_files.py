"""Sources of encoded images: folders, zip archives and LSUN databases."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.source_types import Reader, Source
from dataset_format.images import BadImage, is_image_name
from dataset_format.labels import LABEL_FILE, Label, join_names, match_labels, parse_label_file
from dnnlib.errors import InvalidArgument

# ---------------------------------------------------------------------------------------------------------------------
# Folders and zip archives


@dataclass(frozen=True)
class FolderReader:
    """Reads the files of a folder by name."""

    root: Path

    def read(self, ticket: str) -> bytes:
        try:
            return (self.root / ticket).read_bytes()
        except OSError as error:
            raise BadImage(f'unreadable ({error.strerror})') from error


def open_folder(path: Path, subfolders_as_labels: bool = False) -> Source:
    """List the images in a folder and its subfolders."""

    def fail(error: OSError) -> None:
        raise ValueError(f'{path}: {error.filename} cannot be listed ({error.strerror}).') from error

    files = [
        (Path(root) / name).relative_to(path).as_posix()
        for root, _folders, names in os.walk(path, followlinks=True, onerror=fail)
        for name in names
    ]
    label_path = path / LABEL_FILE
    label_content = label_path.read_bytes() if label_path.is_file() else None
    return _source_of_files(str(path), files, FolderReader(path), label_content, subfolders_as_labels)


class ZipReader:
    """Reads the files of a zip archive by name."""

    def __init__(self, path: Path):
        self.path = path
        self._zip: zipfile.ZipFile | None = None

    def read(self, ticket: str) -> bytes:
        try:
            if self._zip is None:
                self._zip = zipfile.ZipFile(self.path)
            return self._zip.read(ticket)
        except Exception as error:  # zipfile raises all kinds of errors for damage, encryption, unknown compression
            raise BadImage(f'unreadable (the archive is damaged here: {error})') from error

    def __getstate__(self) -> dict[str, Any]:
        return {'path': self.path, '_zip': None}


def open_zip(path: Path, subfolders_as_labels: bool = False) -> Source:
    """List the images in a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted({name for name in archive.namelist() if not name.endswith('/')})
            label_content = archive.read(LABEL_FILE) if LABEL_FILE in files else None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f'{path} is not a complete zip archive ({error}).') from error
    return _source_of_files(str(path), files, ZipReader(path), label_content, subfolders_as_labels)


def _source_of_files(
    source: str, files: list[str], reader: Reader, label_content: bytes | None, subfolders_as_labels: bool
) -> Source:
    names = sorted(filter(is_image_name, files))
    if not names:
        raise ValueError(f'{source} contains no images: none of its {len(files)} files has an image extension.')
    labels, class_names = None, None
    if subfolders_as_labels:
        labels, class_names = _label_by_folder(names, source)
    elif label_content is not None:
        label_file = f'{LABEL_FILE} of {source}'
        table = parse_label_file(label_content, label_file)
        class_names = table.class_names
        if table.by_name is not None:
            labels = match_labels(names, table.by_name, label_file)
    return Source(names, names, reader, labels, class_names)


def _label_by_folder(names: list[str], source: str) -> tuple[list[Label], list[str]]:
    """Label each image by its first folder; classes are numbered in the order of their names."""
    outside = [name for name in names if '/' not in name]
    if outside:
        raise InvalidArgument(
            'subfolders_as_labels',
            f'{len(outside)} images of {source} are not in a subfolder ({join_names(outside)}); move them to the '
            'folder of their class.',
        )
    folders = [name.split('/', maxsplit=1)[0] for name in names]
    class_names = sorted(set(folders))
    if len(class_names) < 2:
        raise InvalidArgument(
            'subfolders_as_labels',
            f'all images of {source} are in the same folder {class_names[0]}; there must be at least two folders at '
            'the first level, one per class.',
        )
    class_index = {name: index for index, name in enumerate(class_names)}
    return [class_index[folder] for folder in folders], class_names


# ---------------------------------------------------------------------------------------------------------------------
# LSUN: a database of encoded images


class LmdbReader:
    """Reads the values of an LMDB database by key."""

    def __init__(self, path: Path):
        self.path = path
        self._transaction: Any = None

    def read(self, ticket: bytes) -> bytes:
        if self._transaction is None:
            self._transaction = _open_lmdb_environment(self.path).begin()
        content = self._transaction.get(ticket)
        if content is None:
            raise BadImage('unreadable (its key is no longer in the database)')
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {'path': self.path, '_transaction': None}


def open_lmdb(path: Path) -> Source:
    """List the images of an LSUN database."""
    environment = _open_lmdb_environment(path)
    try:
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    finally:
        environment.close()
    if not keys:
        raise ValueError(f'{path} is an empty database.')
    return Source([key.decode(errors='backslashreplace') for key in keys], keys, LmdbReader(path))


def _open_lmdb_environment(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ValueError(f'{path} is an LSUN database, which requires the package lmdb: pip install lmdb') from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f'{path} cannot be opened as an LSUN database ({error}).') from error
