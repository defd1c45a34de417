"""Files that may live behind a URL: `open_url`, its cache, and how a download outlives what networks do to it.

A URL has these files in the folder `downloads` of the cache, where KEY is the MD5 of the URL:

    KEY_name            the whole file: appears in one step, after it was checked
    KEY.partial         what has arrived so far
    KEY.partial.json    which version of the file that is, in the words of the server
    KEY.lock            locked by the process that downloads; its lock ends with it

The published code uses the same cache and takes every file KEY_… for a whole one: hence the dots.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows: each process downloads for itself
    fcntl = None

if TYPE_CHECKING:
    import requests
    import tqdm

_CONNECT_TIMEOUT_SEC = 15
_READ_TIMEOUT_SEC = 30  # without a single byte
_SLOWEST_BYTES_PER_SEC = 1024  # on average over _SLOW_WINDOW_SEC
_SLOW_WINDOW_SEC = 60
_MAX_REDIRECTS = 10
_FIRST_RETRY_DELAY_SEC = 0.25
_LONGEST_RETRY_DELAY_SEC = 4.0
_LONGEST_RETRY_AFTER_SEC = 120
_LOCK_POLL_SEC = 0.1
_WAIT_NOTICE_SEC = 3
_SILENT_HOLDER_SEC = 600
_STALE_PARTIAL_SEC = 7 * 24 * 3600

_CHUNK_BYTES = 1 << 18
_PROGRESS_BYTES = 1 << 20  # so much more than ever before, and an attempt that fails does not count
_STATUS_WORTH_RETRYING = {408, 416, 425, 429, 500, 502, 503, 504}
_PARTIAL_NAME = re.compile(r'[0-9a-f]{32}(\.[0-9a-f]{32})?\.partial(\.json)?')


class DownloadError(OSError):
    """A URL that gave no file; the message is a sentence for the user."""


class _AttemptFailed(Exception):
    """The text is a reason that fits after a colon."""

    def __init__(self, reason: str, retry: bool = True, wait_sec: float = 0):
        super().__init__(reason)
        self.retry = retry
        self.wait_sec = wait_sec


# ---------------------------------------------------------------------------------------------------------------------
# What callers use


def is_url(text: Any) -> bool:
    """True for an http or https address with a host."""
    if not isinstance(text, str) or '://' not in text:
        return False
    try:
        address = urllib.parse.urlsplit(text)
    except ValueError:  # such as http://[
        return False
    return address.scheme in ('http', 'https') and bool(address.netloc)


def make_cache_dir_path(*parts: str) -> str:
    """Path inside the cache: `DNNLIB_CACHE_DIR`, else `~/.cache/dnnlib`. Nothing is created."""
    root = os.environ.get('DNNLIB_CACHE_DIR')
    if not root:
        try:
            root = os.path.join(Path.home(), '.cache', 'dnnlib')
        except RuntimeError as error:
            raise DownloadError(
                'this user has no home folder: set DNNLIB_CACHE_DIR to a folder for downloads'
            ) from error
    return os.path.join(os.path.expanduser(root), *parts)


def cache_path(url: str, cache_dir: str | None = None) -> Path:
    """Where the download of `url` goes, and where it can be put by hand."""
    folder = Path(os.path.expanduser(cache_dir or make_cache_dir_path('downloads')))
    name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) or 'download'
    return folder / f'{_key(url)}_{re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:]}'


def cached_file(url: str, cache_dir: str | None = None, sha256: str | None = None) -> Path | None:
    """The sound file of `url` in the cache, under whatever name after the MD5 of the URL; None where there is none."""
    path = cache_path(url, cache_dir)
    candidates = dict.fromkeys([path, *sorted(path.parent.glob(f'{_key(url)}_*'))])
    return next((file for file in candidates if file.is_file() and _flaw(file, sha256) is None), None)


def open_url(
    url: str | os.PathLike,
    cache_dir: str | None = None,
    num_attempts: int = 10,
    verbose: bool = True,
    *,
    sha256: str | None = None,
) -> BinaryIO:
    """Open a local file or the cached download of a URL for binary reading.

    Args:
        url: http(s) address, file:// address, or path (`~` is expanded).
        cache_dir: Folder of the downloads; None: `downloads` in `DNNLIB_CACHE_DIR`, else in `~/.cache/dnnlib`.
        num_attempts: So many in a row may fail without bringing the download forward.
        verbose: Tell on stderr what is going on, with a progress bar on a terminal.
        sha256: Hexadecimal digest that the file must have. A cached file with another one is downloaded again.

    Raises:
        DownloadError: The URL gave no file, or it is not the one of `sha256`. One sentence.
        OSError: From opening a local file.
    """
    if sha256 is not None and not re.fullmatch(r'[0-9A-Fa-f]{64}', sha256):
        raise ValueError(f'sha256 must be 64 hexadecimal digits, not {sha256!r}')
    location = os.fspath(url)
    if is_url(location):
        return open(_fetch(location, cache_dir, max(num_attempts, 1), verbose, sha256), 'rb')
    file = open(_local_path(location), 'rb')
    flaw = _checksum_flaw(file.name, sha256)
    if flaw is not None:
        file.close()
        raise DownloadError(f'{file.name}: {flaw}')
    return file


def _local_path(location: str) -> str:
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]+)://', location)
    if scheme is None:
        return os.path.expanduser(location)
    if scheme[1].lower() != 'file':
        raise DownloadError(f'{location} is no address of a file: it takes a path, or http://, https:// or file://')
    host, slash, path = location[len(scheme[0]) :].partition('/')
    if not slash or host not in ('', 'localhost'):
        raise DownloadError(f'{location} names no file of this machine: write file:// and the whole path, file:///…')
    return urllib.request.url2pathname(slash + path)


# ---------------------------------------------------------------------------------------------------------------------
# Is it the file?


def _flaw(path: str | os.PathLike, sha256: str | None) -> str | None:
    """Why this is not the file that was meant; None where nothing speaks against it."""
    with open(path, 'rb') as file:
        head = file.read(256)
    if not head:
        return 'the file is empty'
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith((b'<!doctype html', b'<html')):
        return _WEB_PAGE
    return _checksum_flaw(path, sha256)


_WEB_PAGE = 'it is a web page instead of a file; a browser shows what it wants'


def _checksum_flaw(path: str | os.PathLike, sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() == sha256.lower():
        return None
    return f'the SHA-256 of the file is {digest.hexdigest()}, and not {sha256.lower()} as it should be'


# ---------------------------------------------------------------------------------------------------------------------
# The cache


def _key(url: str) -> str:
    return hashlib.md5(url.encode('utf-8'), usedforsecurity=False).hexdigest()


def _fetch(url: str, cache_dir: str | None, num_attempts: int, verbose: bool, sha256: str | None) -> Path:
    """Path of the cached file of `url`, downloaded first where it is not there yet."""
    path = cache_path(url, cache_dir)
    try:
        found = cached_file(url, cache_dir, sha256)
        if found is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_partials(path.parent)
        with _own_partial(path.parent / _key(url), url, verbose) as partial:
            # While this process waited for its turn, another one may have brought the file.
            found = cached_file(url, cache_dir, sha256)
            if found is None:
                _download(url, partial, path, num_attempts, verbose, sha256)
                partial.finish(path)
            return found or path
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f'could not download {url} to {path.parent} ({error.strerror or error}): make room and check the '
            'permissions there, or set DNNLIB_CACHE_DIR to another folder'
        ) from error


def _remove_stale_partials(folder: Path) -> None:
    oldest = time.time() - _STALE_PARTIAL_SEC
    for path in folder.glob('*.partial*'):
        with contextlib.suppress(OSError):  # somebody else's, or already gone
            if _PARTIAL_NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink()


@dataclasses.dataclass(frozen=True)
class _Version:
    """What a server says by which one version of a file is told from the next."""

    etag: str = ''
    last_modified: str = ''
    size: int | None = None  # bytes

    @property
    def validator(self) -> str:
        """For If-Range, which takes no weak ETag (RFC 9110, 13.1.5); empty where the version cannot be told."""
        return self.etag if self.etag and not self.etag.startswith('W/') else self.last_modified

    def contradicts(self, other: _Version) -> bool:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return any(ours and theirs and ours != theirs for ours, theirs in pairs)


class _Partial:
    """The part of a file that has arrived, and the note beside it of which version that is.

    Without a note the part is of no use to a later attempt.
    """

    def __init__(self, path: Path):
        self.path = path
        self._note = path.with_name(path.name + '.json')

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resumable_version(self) -> _Version | None:
        """The version of which this is a part, or None where the download must begin anew."""
        try:
            version = _Version(**json.loads(self._note.read_text(encoding='utf-8')))
            fits = 0 < self.size <= (version.size or self.size)
        except (OSError, ValueError, TypeError):
            return None
        return version if fits and version.validator else None

    def begin(self, version: _Version) -> None:
        self.discard()
        if version.validator:
            self._note.write_text(json.dumps(dataclasses.asdict(version)), encoding='utf-8')

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Becomes the file `target`."""
        with open(self.path, 'rb+') as file:
            os.fsync(file.fileno())  # or the name could outlive a power failure and the bytes not
        os.replace(self.path, target)
        self._note.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# One process at a time


class _NoLocks(Exception):
    """This system, file system or folder has no locks for this process."""


@contextlib.contextmanager
def _own_partial(stem: Path, url: str, verbose: bool) -> Iterator[_Partial]:
    """The partial file of a URL, for this thread of this process alone.

    Where that cannot be had, it is one of its own that goes when the block ends. `stem` is the path without ending.
    """
    lock_path, shared_path = stem.with_name(stem.name + '.lock'), stem.with_name(stem.name + '.partial')
    lock = _wait_for_lock(lock_path, shared_path, url, verbose)
    shared = lock is not None and (not shared_path.exists() or os.access(shared_path, os.W_OK))
    partial = _Partial(shared_path if shared else stem.with_name(f'{stem.name}.{uuid.uuid4().hex}.partial'))
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):
            if not shared or partial.resumable_version() is None:
                partial.discard()
        if lock is not None:
            with contextlib.suppress(OSError):
                lock_path.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing alone leaves it to a forked child
            lock.close()


def _wait_for_lock(path: Path, partial_path: Path, url: str, verbose: bool) -> BinaryIO | None:
    """The locked lock file; None where there are no locks, or where its holder does nothing any more."""
    began = last_progress = time.monotonic()
    told, size = not verbose, None
    try:
        while (lock := _try_to_lock(path)) is None:
            now = time.monotonic()
            if not told and now - began >= _WAIT_NOTICE_SEC:
                _tell(f'Waiting for another process that is downloading {url}')
                told = True
            current_size = _Partial(partial_path).size
            if current_size != size:
                size, last_progress = current_size, now
            if now - last_progress >= _SILENT_HOLDER_SEC:
                return None
            time.sleep(_LOCK_POLL_SEC)
    except _NoLocks:
        return None
    return lock


def _try_to_lock(path: Path) -> BinaryIO | None:
    if fcntl is None:
        raise _NoLocks
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, 'ab'))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _NoLocks from error
        # The holder before may have removed the file that is locked now, which keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                stack.pop_all()
                return file
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Downloads


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _download(url: str, partial: _Partial, target: Path, num_attempts: int, verbose: bool, sha256: str | None) -> None:
    """Bring `partial` to the end, in as many attempts as it takes. `target` is for the message."""
    furthest = partial.size if partial.resumable_version() else 0
    if verbose:
        _tell(f'Downloading {url}' + (f' (going on after {furthest:,} bytes)' if furthest else ''))
    num_failures = 0
    while True:
        try:
            _attempt(url, partial, verbose, sha256)
            return
        except _AttemptFailed as failure:
            if partial.size >= furthest + _PROGRESS_BYTES:
                furthest = partial.size
                num_failures = 0
            num_failures += 1
            if not failure.retry or num_failures >= num_attempts:
                sentence = _failure_sentence(url, failure, num_failures, partial)
                raise DownloadError(sentence + _way_out(target, sha256)) from failure
            backoff_sec = min(_FIRST_RETRY_DELAY_SEC * 2 ** (num_failures - 1), _LONGEST_RETRY_DELAY_SEC)
            wait_sec = max(backoff_sec, failure.wait_sec)
            if verbose:
                _tell(f'  {failure}; next attempt ({num_failures + 1} of {num_attempts}) in {wait_sec:.3g} s')
            time.sleep(wait_sec)


def _failure_sentence(url: str, failure: _AttemptFailed, num_failures: int, partial: _Partial) -> str:
    attempts = f', {num_failures} attempts' if num_failures > 1 else ''
    kept = (
        f'the {partial.size:,} bytes that arrived are kept for the next call; ' if partial.resumable_version() else ''
    )
    return f'could not download {url} ({failure}{attempts}): {kept}'


def _way_out(target: Path, sha256: str | None) -> str:
    flaw = _flaw(target, sha256) if target.is_file() else None
    instead = '' if flaw is None else f' in place of what is there ({flaw})'
    return f'check the address and the network, or get the file another way and put it at the path {target}{instead}'


def _attempt(url: str, partial: _Partial, verbose: bool, sha256: str | None) -> None:
    """Go on with `partial`, or begin it. Returns when it is the whole file; raises _AttemptFailed otherwise."""
    version = partial.resumable_version()
    begun_before = version is not None
    if version is None or partial.size != version.size:
        _request(url, partial, version, verbose)
    flaw = _flaw(partial.path, sha256)
    if flaw is not None:
        partial.discard()
        # What came in several pieces deserves an attempt in one.
        raise _AttemptFailed(flaw, retry=begun_before)


def _request(url: str, partial: _Partial, version: _Version | None, verbose: bool) -> None:
    """Receive what follows on `partial`, a part of `version`; the whole file where that is None or out of date."""
    import requests

    # Uncompressed, since compression hides the length of the file; the connection's end shows whether more was sent.
    headers = {'Accept-Encoding': 'identity', 'Connection': 'close'}
    if version is not None:
        headers.update({'Range': f'bytes={partial.size}-', 'If-Range': version.validator})
    with requests.Session() as session:
        session.max_redirects = _MAX_REDIRECTS
        with _network_errors_as_failures():
            timeouts_sec = (_CONNECT_TIMEOUT_SEC, _READ_TIMEOUT_SEC)
            response = session.get(url, headers=headers, stream=True, timeout=timeouts_sec)
        with response:
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.discard()
            _check_status(response, ranged=version is not None)
            if response.headers.get('Content-Type', '').lower().startswith('text/html'):
                raise _AttemptFailed(_WEB_PAGE, retry=False)
            if response.status_code == HTTPStatus.PARTIAL_CONTENT:
                size = _check_continuation(response, partial, version)
            else:
                begun = _version_of(response, _announced_bytes(response))
                partial.begin(begun)
                size = begun.size
            _receive(response, partial, size, verbose)


# --------------------------------------------------------------------------------------------- heads of answers


def _check_status(response: requests.Response, ranged: bool) -> None:
    status = response.status_code
    if status == HTTPStatus.OK or (ranged and status == HTTPStatus.PARTIAL_CONTENT):
        return
    reason = f'the server answered {status} {http.client.responses.get(status, "")}'.rstrip()
    retry, wait_sec = status in _STATUS_WORTH_RETRYING, _retry_after_sec(response)
    if retry and wait_sec > _LONGEST_RETRY_AFTER_SEC:
        reason, retry = f'{reason} and wants to be left alone for {wait_sec:,.0f} s', False
    raise _AttemptFailed(reason, retry=retry, wait_sec=wait_sec)


def _retry_after_sec(response: requests.Response) -> float:
    """Retry-After, which is a number of seconds or a date; 0 without one."""
    text = response.headers.get('Retry-After', '').strip()
    if re.fullmatch(r'[0-9]{1,18}', text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return max((moment - datetime.datetime.now(datetime.timezone.utc)).total_seconds(), 0)


def _announced_bytes(response: requests.Response) -> int | None:
    """Length of the body as it is sent; None where the server does not say, or counts in chunks instead."""
    length = response.headers.get('Content-Length', '').strip()
    chunked = 'Transfer-Encoding' in response.headers
    return int(length) if re.fullmatch(r'[0-9]{1,18}', length) and not chunked else None


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get('Content-Encoding', '').strip().lower() not in ('', 'identity')


def _version_of(response: requests.Response, size: int | None) -> _Version:
    """The version of the file in an answer; one without any marks where its bytes will not be those of the file."""
    if _is_encoded(response):
        return _Version()
    return _Version(response.headers.get('ETag', ''), response.headers.get('Last-Modified', ''), size)


def _check_continuation(response: requests.Response, partial: _Partial, version: _Version) -> int:
    """The answer must go on exactly where `partial` ends, to the end of the same version. Returns the whole size."""
    pattern = r'bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)'
    match = re.fullmatch(pattern, response.headers.get('Content-Range', '').strip())
    if match is not None and not _is_encoded(response):
        first, last = int(match[1]), int(match[2])
        size = version.size or last + 1 if match[3] == '*' else int(match[3])
        same = not version.contradicts(_version_of(response, size))
        length_fits = _announced_bytes(response) in (None, last + 1 - first)
        if same and length_fits and first == partial.size and last + 1 == size:
            return size
    partial.discard()
    raise _AttemptFailed('the file on the server is not the one that the download began with')


# -------------------------------------------------------------------------------------------- bodies of answers


def _receive(response: requests.Response, partial: _Partial, size: int | None, verbose: bool) -> None:
    """Append the body to `partial`; every piece is in the file before the next is asked for."""
    import urllib3

    raw, expected = response.raw, _announced_bytes(response)  # bytes on the way, not those of an encoded file
    if expected is None and size is not None:
        expected = size - partial.size
    _read_beyond_announced_end(raw)
    with _progress_bar(size, partial.size, verbose) as bar, open(partial.path, 'ab') as file:
        try:
            for piece in _pieces(raw):
                file.write(piece)
                file.flush()
                bar.update(len(piece))
        except urllib3.exceptions.DecodeError as error:
            raise _AttemptFailed('what the server sends cannot be decompressed') from error
        except urllib3.exceptions.HTTPError as error:
            if raw.tell() != expected:
                silent = isinstance(error, urllib3.exceptions.ReadTimeoutError)
                what = f'no data for {_READ_TIMEOUT_SEC} s' if silent else 'the connection broke'
                raise _AttemptFailed(f'{what} after {_extent(partial, size)}') from error
    if expected is not None and raw.tell() > expected:
        partial.discard()
        raise _AttemptFailed(f'the server sent more than the {expected:,} bytes that it announced')
    if expected is not None and raw.tell() < expected:
        raise _AttemptFailed(f'the connection broke after {_extent(partial, size)}')


def _progress_bar(size: int | None, arrived: int, verbose: bool) -> tqdm.tqdm:
    from dnnlib.progress import progress_bar

    return progress_bar(size, 'B', initial=arrived, unit_scale=True, disable=None if verbose else True)


def _extent(partial: _Partial, size: int | None) -> str:
    return f'{partial.size:,} bytes' if size is None else f'{partial.size:,} of {size:,} bytes'


def _read_beyond_announced_end(raw: Any) -> None:
    """Let `raw` read on until the connection ends, where the server ends it after this answer.

    http.client stops at the length that was announced. A server that announces less than it sends would pass for an
    honest one, and the file would be cut.
    """
    inner = getattr(raw, '_fp', None)  # the http.client.HTTPResponse; without it, only this check is missed
    if hasattr(raw, 'read1') and getattr(inner, 'will_close', False):
        inner.length = None
        raw.length_remaining = None


def _pieces(raw: Any) -> Iterator[bytes]:
    """The body as it arrives. Fails where it is so slow that another connection promises more."""
    # read1 does not wait until the chunk is full: nothing is lost when the connection breaks.
    read, chunk_bytes = (raw.read1, _CHUNK_BYTES) if hasattr(raw, 'read1') else (raw.read, 4096)  # urllib3 before 2.2
    window_start, window_bytes = time.monotonic(), 0
    while piece := read(chunk_bytes, decode_content=True):
        yield piece
        window_bytes += len(piece)
        elapsed_sec = time.monotonic() - window_start
        if elapsed_sec >= _SLOW_WINDOW_SEC:
            if window_bytes < _SLOWEST_BYTES_PER_SEC * elapsed_sec:
                raise _AttemptFailed(f'only {window_bytes:,} bytes in {elapsed_sec:.3g} s')
            window_start, window_bytes = time.monotonic(), 0


# ------------------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def _network_errors_as_failures() -> Iterator[None]:
    """What requests raises before there is an answer becomes _AttemptFailed, in words for people."""
    import requests
    import urllib3

    try:
        yield
    except requests.TooManyRedirects as error:
        raise _AttemptFailed(f'the server redirects more than {_MAX_REDIRECTS} times', retry=False) from error
    except ValueError as error:  # InvalidSchema and InvalidURL are some, and urllib.parse has its own
        raise _AttemptFailed('the address, or one it redirects to, is no valid http or https', retry=False) from error
    except requests.exceptions.ProxyError as error:
        raise _AttemptFailed(f'the proxy: {_reason(error)}') from error
    except requests.exceptions.SSLError as error:
        retry = not isinstance(_root(error), ssl.SSLCertVerificationError)
        raise _AttemptFailed(f'no secure connection: {_reason(error)}', retry=retry) from error
    except requests.ConnectTimeout as error:
        raise _AttemptFailed(f'no connection within {_CONNECT_TIMEOUT_SEC} s') from error
    except requests.ReadTimeout as error:
        raise _AttemptFailed(f'no answer within {_READ_TIMEOUT_SEC} s') from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _AttemptFailed(f'no connection: {_reason(error)}') from error
    except OSError as error:  # such as a file of certificates that is not there
        raise _AttemptFailed(_reason(error), retry=False) from error


def _root(error: BaseException) -> BaseException:
    """The error of the system or of http.client around which requests and urllib3 have wrapped theirs."""
    import requests

    below: BaseException | None = error
    while below is not None:
        if isinstance(below, (OSError, http.client.HTTPException)) and not isinstance(below, requests.RequestException):
            return below
        below = below.__cause__ or below.__context__
    return error


def _reason(error: BaseException) -> str:
    """What happened in a few words; requests itself would show its objects."""
    root = _root(error)
    words = getattr(root, 'verify_message', None) or getattr(root, 'strerror', None) or str(root)
    return ' '.join(words.split())[:200] or type(root).__name__
