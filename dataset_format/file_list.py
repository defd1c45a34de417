"""The files of a collection of images, in a folder or a zip archive: which there are, and what they are called.

Conversion, training and metrics list folders and archives with these functions, so that they agree on the names. What
operating systems add on their own (`__MACOSX`, `._x.png`, `.DS_Store`, `Thumbs.db`) is neither an image nor a label
file.
"""

from __future__ import annotations

import errno
import os
import posixpath
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_format.images import is_hidden_name, is_image_name
from dataset_format.labels import LABEL_FILE
from dataset_format.names import normal_name
from dnnlib.text import excerpt

_UTF8_FLAG = 0x800  # of an entry of a zip archive: its name is in UTF-8


@dataclass(frozen=True)
class FileList:
    """The files of a folder or archive.

    Args:
        source: How error messages refer to the folder or archive.
        stored_names: Name of each file as it is stored, relative to the folder, by its name in normal form.
        images: Names of the images in normal form, sorted.
        label_files: Likewise those of all files that are called `dataset.json`.
    """

    source: str
    stored_names: dict[str, str]
    images: list[str]
    label_files: list[str]

    def label_file(self) -> str | None:
        """Return the name of the label file, at whatever depth it is, or None without one.

        Raises:
            ValueError: There are several.
        """
        if len(self.label_files) > 1:
            first, second = (excerpt(repr(name)) for name in self.label_files[:2])
            raise ValueError(
                f'{self.source} contains {len(self.label_files)} label files, such as {first} and {second}; keep '
                'one for all images, or use the folders one by one.'
            )
        return self.label_files[0] if self.label_files else None

    def names_for_labels(self, label_file: str) -> Sequence[str]:
        """Return the names of the images relative to the folder of a label file, as the file names them."""
        folder = posixpath.dirname(label_file)
        if not folder:
            return self.images
        prefix = f'{folder}/'
        return [
            name[len(prefix) :] if name.startswith(prefix) else posixpath.relpath(name, folder) for name in self.images
        ]


def _file_list(source: str, files: Iterable[tuple[str, str]]) -> FileList:
    """Sort files, each given by its name and the name as it is stored."""
    stored_names: dict[str, str] = {}
    images, label_files = [], []
    for readable, stored in files:
        name = normal_name(readable)
        is_image = is_image_name(name)
        is_label_file = posixpath.basename(name) == LABEL_FILE and not is_hidden_name(name)
        if name not in stored_names:
            images += [name] if is_image else []
            label_files += [name] if is_label_file else []
        elif (is_image or is_label_file) and stored_names[name] != stored:
            first, second = (excerpt(ascii(spelling)) for spelling in (stored_names[name], stored))
            raise ValueError(
                f'{source} contains {excerpt(repr(name))} twice, stored as {first} and {second}; rename or remove one '
                'of them.'
            )
        stored_names[name] = stored
    return FileList(source, stored_names, sorted(images), sorted(label_files))


# ---------------------------------------------------------------------------------------------------------------------
# Zip archives


def list_archive(archive: zipfile.ZipFile, source: str) -> FileList:
    """List the files of a zip archive.

    Args:
        archive: Open archive. `stored_names` are the names that it knows.
        source: How error messages refer to it.

    Raises:
        ValueError: Two images, or two label files, have the same name in normal form.
    """
    files = ((_readable_name(info), info.filename) for info in archive.infolist())
    return _file_list(source, ((name, stored) for name, stored in files if not name.endswith(('/', '\\'))))


def _readable_name(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry. macOS writes names in UTF-8 without the flag that says so, and Python then reads
    them in the code page of MS-DOS; text in another encoding is practically never valid UTF-8.
    """
    if info.flag_bits & _UTF8_FLAG or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode('cp437').decode('utf-8')
    except UnicodeError:
        return info.filename


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def list_folder(path: Path, source: str) -> FileList:
    """List the files in a folder and its subfolders.

    Links to folders are followed, but no folder is listed twice, whatever links lead to it, and a link to a folder in
    which it lies is not followed. A folder keeps its own name, rather than that of a link to it; of several links, the
    first one in the order of names counts. Links to files are files: a picture may be there twice on purpose.

    Args:
        path: The folder.
        source: How error messages refer to it.

    Raises:
        ValueError: A folder cannot be listed, or two images or two label files have the same name in normal form.
    """
    try:
        return _file_list(source, ((name, name) for name in _walk(path)))
    except OSError as error:
        raise ValueError(f'{source}: {error.filename} cannot be listed ({error.strerror}).') from error


def _walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files relative to `root`, with forward slashes."""
    listed: set[tuple[int, int] | str] = set()
    links = deque([''])
    while links:
        folders = [links.popleft()]
        while folders:
            folder = folders.pop()
            identity = _identity(root / folder)
            if identity in listed:
                continue
            listed.add(identity)
            files, subfolders, new_links = _entries(root, folder)
            yield from files
            folders += reversed(subfolders)
            links += [link for link in new_links if not _lies_inside(root / link)]


def _entries(root: Path, folder: str) -> tuple[list[str], list[str], list[str]]:
    """Return the paths of the files, the folders, and the links to folders that are directly in a folder, sorted."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    prefix = f'{folder}/' if folder else ''
    with os.scandir(root / folder) as entries:
        for entry in entries:
            kind = files if not _is_folder(entry) else links if entry.is_symlink() else folders
            kind.append(prefix + entry.name)
    return sorted(files), sorted(folders), sorted(links)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _lies_inside(link: Path) -> bool:
    """Return whether a link to a folder lies in that folder, directly or deeper."""
    target = _identity(link)
    here = link.parent.resolve()
    return any(_identity(folder) == target for folder in (here, *here.parents))


def _identity(path: Path) -> tuple[int, int] | str:
    """Return what two names of the same folder have in common."""
    stat = os.stat(path)
    return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(path)  # some file systems have no numbers
