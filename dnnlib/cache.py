"""The cache of downloads: where files are, whether they are intact, and how processes share partial downloads.

A URL has these files in the folder `downloads` of the cache, where KEY is the MD5 of the URL:

    KEY_name            the complete file, which appears in one step after it was checked
    KEY.partial         the part that has arrived so far
    KEY.partial.json    which version of the file that is, as the server identified it
    KEY.lock            locked by the process that downloads; the lock ends with the process

The published code uses the same cache and assumes that every file KEY_... is complete, hence the dots.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dnnlib.errors import DownloadError
from dnnlib.json_input import read_json
from dnnlib.schema import Integer, Optional, Record, Text

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows does not have this module: each process downloads for itself

_CHUNK_BYTES = 1 << 18
_LOCK_POLL_SEC = 0.1
_WAIT_NOTICE_SEC = 3
_SILENT_HOLDER_SEC = 600
_STALE_PARTIAL_SEC = 7 * 24 * 3600
_NOTE_BYTES = 1 << 18
_PARTIAL_NAME = re.compile(r'[0-9a-f]{32}(\.[0-9a-f]{32})?\.(partial(\.json)?|lock)')

# Headers of a server, which become headers of the next request: printable ASCII.
_MAX_NOTE_BYTES = 10_000
_HEADER = Text(1000, pattern=r'[\x20-\x7e]*', kind='a header')
_NOTE = Record({'etag': _HEADER, 'last_modified': _HEADER, 'size': Optional(Integer(0, 2**62))})

WEB_PAGE = 'it is a web page instead of a file; open the address in a browser to see why'

# ---------------------------------------------------------------------------------------------------------------------
# Paths


def make_cache_dir_path(*parts: str) -> str:
    """Return a path inside the cache: `DNNLIB_CACHE_DIR` or, by default, `~/.cache/dnnlib`. Nothing is created.

    Raises:
        DownloadError: The user has no home folder and `DNNLIB_CACHE_DIR` is not set.
    """
    root = os.environ.get('DNNLIB_CACHE_DIR')
    if not root:
        try:
            root = os.path.join(Path.home(), '.cache', 'dnnlib')
        except RuntimeError as error:
            raise DownloadError('Cannot find a home folder: set DNNLIB_CACHE_DIR to a folder for downloads') from error
    return os.path.join(os.path.expanduser(root), *parts)


def cache_key(url: str) -> str:
    """Return the MD5 of a URL, with which the names of its files in the cache start."""
    return hashlib.md5(url.encode('utf-8'), usedforsecurity=False).hexdigest()


def cache_path(url: str, cache_dir: str | None = None) -> Path:
    """Return the path of the cached download of `url`, where the file may also be stored by hand."""
    folder = Path(os.path.expanduser(cache_dir or make_cache_dir_path('downloads')))
    name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) or 'download'
    return folder / f'{cache_key(url)}_{re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:]}'


def cached_file(url: str, cache_dir: str | None = None, sha256: str | None = None) -> Path | None:
    """Return the path of an intact cached download of `url`, or None.

    Other programs may have stored it under another name; only the MD5 at the start of the name has to match.
    """
    path = cache_path(url, cache_dir)
    candidates = dict.fromkeys([path, *sorted(path.parent.glob(f'{cache_key(url)}_*'))])
    return next((file for file in candidates if file.is_file() and find_defect(file, sha256) is None), None)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def find_defect(path: str | os.PathLike, sha256: str | None) -> str | None:
    """Return why this is not the requested file, or None if it looks intact and has the checksum, if one is given."""
    with open(path, 'rb') as file:
        head = file.read(256)
    if not head:
        return 'the file is empty'
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith((b'<!doctype html', b'<html')):
        return WEB_PAGE
    return checksum_defect(path, sha256)


def checksum_defect(path: str | os.PathLike, sha256: str | None) -> str | None:
    """Return how the checksum of a file differs from `sha256`, or None if it matches or `sha256` is None."""
    if sha256 is None:
        return None
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() == sha256.lower():
        return None
    return f'the SHA-256 of the file is {digest.hexdigest()}, expected {sha256.lower()}'


# ---------------------------------------------------------------------------------------------------------------------
# Partial files


@dataclasses.dataclass(frozen=True)
class FileVersion:
    """How a server identifies a version of a file.

    Args:
        etag: `ETag` header, or ''.
        last_modified: `Last-Modified` header, or ''.
        size: Bytes of the complete file, or None if unknown.
    """

    etag: str = ''
    last_modified: str = ''
    size: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> FileVersion:
        """Return the version in a parsed note.

        Raises:
            ValueError, TypeError: It is not a note.
        """
        version = cls(**value)
        if not isinstance(version.etag, str) or not isinstance(version.last_modified, str):
            raise ValueError('the headers are not text')
        if version.size is not None and type(version.size) is not int:
            raise ValueError('the size is not an integer')
        return version

    @property
    def validator(self) -> str:
        """Value for If-Range, which does not accept weak ETags (RFC 9110, 13.1.5), or '' without a strong one."""
        return self.etag if self.etag and not self.etag.startswith('W/') else self.last_modified

    def contradicts(self, other: FileVersion) -> bool:
        """Return whether a property that both versions have differs."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return any(ours and theirs and ours != theirs for ours, theirs in pairs)


class PartialFile:
    """The part of a file that has arrived, and a note beside it with the version of the file.

    Without a note a later attempt cannot use the part.

    Args:
        path: Where the part is stored.
    """

    def __init__(self, path: Path):
        self.path = path
        self._note = path.with_name(path.name + '.json')

    @property
    def size(self) -> int:
        """Number of bytes that have arrived."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resumable_version(self) -> FileVersion | None:
        """Return the version of the file that this is a part of, or None if the download must start over."""
        try:
            stored = read_json(self._note, _MAX_NOTE_BYTES)
            _NOTE.check(stored, str(self._note))
            version = FileVersion(**stored)
            is_consistent = 0 < self.size <= (version.size or self.size)
        except (OSError, ValueError):
            return None
        return version if is_consistent and version.validator else None

    def start(self, version: FileVersion) -> None:
        """Discard the present part and store the version of the next one."""
        self.discard()
        if version.validator:
            self._note.write_text(json.dumps(dataclasses.asdict(version)), encoding='utf-8')

    def discard(self) -> None:
        """Delete the part and its note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Rename the complete file to `target`."""
        with open(self.path, 'rb+') as file:
            os.fsync(file.fileno())  # otherwise the name could survive a power failure without the content
        os.replace(self.path, target)
        self._note.unlink(missing_ok=True)


def remove_stale_partials(folder: Path) -> None:
    """Delete partial files, and the lock files of killed processes, that no process has touched for a week."""
    oldest = time.time() - _STALE_PARTIAL_SEC
    for path in (*folder.glob('*.partial*'), *folder.glob('*.lock')):
        with contextlib.suppress(OSError):  # it belongs to another user, or is already gone
            if _PARTIAL_NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink()


# ---------------------------------------------------------------------------------------------------------------------
# One process at a time


class _LocksUnavailable(Exception):
    """This system, file system or folder does not let this process lock files."""


@contextlib.contextmanager
def exclusive_partial(folder: Path, url: str, verbose: bool) -> Iterator[PartialFile]:
    """Yield the partial file of a URL, for exclusive use by this thread of this process.

    Waits for another process that downloads the same URL. If files cannot be locked, the partial file has a unique name
    and is deleted when the block ends.
    """
    stem = folder / cache_key(url)
    lock_path, shared_path = stem.with_name(stem.name + '.lock'), stem.with_name(stem.name + '.partial')
    lock = _wait_for_lock(lock_path, shared_path, url, verbose)
    shared = lock is not None and (not shared_path.exists() or os.access(shared_path, os.W_OK))
    partial = PartialFile(shared_path if shared else stem.with_name(f'{stem.name}.{uuid.uuid4().hex}.partial'))
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):
            if not shared or partial.resumable_version() is None:
                partial.discard()
        if lock is not None:
            with contextlib.suppress(OSError):
                lock_path.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # if only closed, a forked child would still hold the lock
            lock.close()


def _wait_for_lock(path: Path, partial_path: Path, url: str, verbose: bool) -> BinaryIO | None:
    """Return the locked lock file, or None if files cannot be locked or the process that holds it makes no progress."""
    start = last_progress = time.monotonic()
    notified, size = not verbose, None
    try:
        while (lock := _try_to_lock(path)) is None:
            now = time.monotonic()
            if not notified and now - start >= _WAIT_NOTICE_SEC:
                print(f'Waiting for another process that is downloading {url}', file=sys.stderr, flush=True)
                notified = True
            current_size = PartialFile(partial_path).size
            if current_size != size:
                size, last_progress = current_size, now
            if now - last_progress >= _SILENT_HOLDER_SEC:
                return None
            time.sleep(_LOCK_POLL_SEC)
    except _LocksUnavailable:
        return None
    return lock


def _try_to_lock(path: Path) -> BinaryIO | None:
    if fcntl is None:
        raise _LocksUnavailable
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, 'ab'))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _LocksUnavailable from error
        # The previous holder may have deleted the file that is now locked; such a lock excludes nobody.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                stack.pop_all()
                return file
    return None
