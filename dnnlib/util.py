"""What every layer above leans on.

Three stories: names turned into objects (configurations are JSON, so classes are named by text), output that a user
reads (durations, the log file of a run), and files that may live behind a URL (`open_url` and its cache).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import sys
import threading
import time
import types
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO

# ---------------------------------------------------------------------------------------------------------------------
# Attribute dictionary


class EasyDict(dict):
    """A dict whose items can be read, set and deleted as attributes too: `d.lr = 0.1` is `d["lr"] = 0.1`.

    Network pickles hold `init_kwargs` of this type under the name `dnnlib.util.EasyDict`, so it stays a plain dict
    underneath, with no state of its own.
    """

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        raise AttributeError(f'EasyDict has no item {key!r}')

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        if key not in self:
            raise AttributeError(f'EasyDict has no item {key!r}')
        del self[key]


# ---------------------------------------------------------------------------------------------------------------------
# Objects by name


def _import_if_there(module_name: str) -> types.ModuleType | None:
    """The module, or None where there is none of this name; an error inside an existing module passes through."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ''
        if module_name == missing or module_name.startswith(missing + '.'):
            return None
        raise


def get_obj_by_name(name: str) -> Any:
    """The object with the dotted name `package.module.Class[.attribute]`.

    Raises ImportError where no such module or attribute exists.
    """
    parts = name.split('.')
    for module_length in range(len(parts) - 1, 0, -1):
        module = _import_if_there('.'.join(parts[:module_length]))
        if module is None:
            continue
        found: Any = module
        for depth, attribute in enumerate(parts[module_length:], start=module_length):
            if not hasattr(found, attribute):
                raise ImportError(f'{".".join(parts[:depth])} has nothing named {attribute!r} (looking for {name!r})')
            found = getattr(found, attribute)
        return found
    raise ImportError(f'no module found for {name!r}: the name must read package.module.object')


def call_func_by_name(*args: Any, func_name: str, **kwargs: Any) -> Any:
    """Call the function (or class) with the given dotted name."""
    function = get_obj_by_name(func_name)
    if not callable(function):
        raise TypeError(f'{func_name!r} is a {type(function).__name__} and cannot be called')
    return function(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Construct an object from a configuration such as `dict(class_name="torch.optim.Adam", lr=0.002)`."""
    return call_func_by_name(*args, func_name=class_name, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Output for people


def format_time(seconds: float) -> str:
    """A duration in its two or three largest units: `42s`, `3m 07s`, `5h 03m 07s`, `2d 05h 03m`."""
    minutes, secs = divmod(round(seconds), 60)
    hours, mins = divmod(minutes, 60)
    days, hrs = divmod(hours, 24)
    if days:
        return f'{days}d {hrs:02d}h {mins:02d}m'
    if hours:
        return f'{hours}h {mins:02d}m {secs:02d}s'
    if minutes:
        return f'{minutes}m {secs:02d}s'
    return f'{secs}s'


class _Tee:
    """A stream that behaves like `stream` and copies all text to the log of its `logger`."""

    def __init__(self, logger: Logger, stream: TextIO):
        self._logger = logger
        self._stream = stream

    def write(self, text: str) -> int:
        self._logger.write(text)
        self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
        self._logger.flush()

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno, buffer, ...
        return getattr(self._stream, name)


class Logger:
    """While open, text printed to stdout or stderr goes to `file_name` as well.

    `terminal` is the standard error from before: progress bars write there, so that they stay out of the file.

        with Logger("run/log.txt"):
            print("on the screen and in the file")
    """

    def __init__(self, file_name: str | os.PathLike, file_mode: str = 'a', should_flush: bool = True):
        self._file_name = file_name
        self.terminal: TextIO = sys.stderr
        self._saved_stdout: TextIO = sys.stdout
        self._should_flush = should_flush
        self._lock = threading.Lock()
        self._file: IO[str] | None = open(file_name, file_mode, encoding='utf-8')
        self._tee_stdout = _Tee(self, sys.stdout)
        self._tee_stderr = _Tee(self, sys.stderr)
        sys.stdout, sys.stderr = self._tee_stdout, self._tee_stderr

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def write(self, text: str) -> None:
        """Text for the file only. After `close` it is dropped: the screen has it."""
        with self._lock, os_errors_named(self._file_name):
            if self._file is None:
                return
            self._file.write(text)
            if self._should_flush:
                self._file.flush()

    def flush(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Put the streams of before back and close the file. A second call does nothing."""
        if sys.stdout is self._tee_stdout:
            sys.stdout = self._saved_stdout
        if sys.stderr is self._tee_stderr:
            sys.stderr = self.terminal
        with self._lock, os_errors_named(self._file_name):
            file, self._file = self._file, None
            if file is not None:
                file.close()


# ---------------------------------------------------------------------------------------------------------------------
# Files and URLs


@contextlib.contextmanager
def os_errors_named(path: str | os.PathLike) -> Iterator[None]:
    """An OSError from within that names no file (such as that the disk is full, at a write) names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


class DownloadError(OSError):
    """A URL that gave no file; the message is a sentence for the user."""


_CHUNK_BYTES = 1 << 20
_CONNECT_AND_READ_TIMEOUT_SEC = (20, 60)
_FIRST_RETRY_DELAY_SEC = 0.25
_LONGEST_RETRY_DELAY_SEC = 4.0
_STATUS_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}


def is_url(text: Any) -> bool:
    """True for an http or https address with a host."""
    if not isinstance(text, str):
        return False
    address = urllib.parse.urlsplit(text) if '://' in text else None
    return address is not None and address.scheme in ('http', 'https') and bool(address.netloc)


def make_cache_dir_path(*parts: str) -> str:
    """Path inside the cache: `DNNLIB_CACHE_DIR`, else `~/.cache/dnnlib`. Nothing is created."""
    root = os.environ.get('DNNLIB_CACHE_DIR') or os.path.join(Path.home(), '.cache', 'dnnlib')
    return os.path.join(os.path.expanduser(root), *parts)


def open_url(
    url_or_path: str | os.PathLike,
    cache_dir: str | None = None,
    verbose: bool = True,
    num_attempts: int = 10,
) -> BinaryIO:
    """Open a local file (`~` expanded, `file://` understood) or the cached download of a URL for binary reading.

    A download goes to `<cache>/downloads/<md5 of the URL>_<name>` and appears there only when it is complete. Raises
    OSError with a sentence that names the file or URL.
    """
    location = os.fspath(url_or_path)
    if is_url(location):
        return open(_cached_download(location, cache_dir, verbose, num_attempts), 'rb')
    if location.startswith('file://'):
        location = urllib.request.url2pathname(urllib.parse.urlsplit(location).path)
    return open(os.path.expanduser(location), 'rb')


def _cached_download(url: str, cache_dir: str | None, verbose: bool, num_attempts: int) -> Path:
    """Path of the cached file of `url`, downloaded first where it is not there yet."""
    folder = Path(cache_dir or make_cache_dir_path('downloads'))
    url_md5 = hashlib.md5(url.encode('utf-8'), usedforsecurity=False).hexdigest()
    cached = sorted(folder.glob(f'{url_md5}_*'))
    if cached:
        return cached[0]

    name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) or 'download'
    safe_name = re.sub(r'[^A-Za-z0-9._-]', '_', name)[-100:]
    target = folder / f'{url_md5}_{safe_name}'
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f'partial-{uuid.uuid4().hex}-{safe_name}'
    try:
        _download_with_retries(url, partial, verbose, num_attempts)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _download_with_retries(url: str, path: Path, verbose: bool, num_attempts: int) -> None:
    import requests

    if verbose:
        print(f'Downloading {url}', file=sys.stderr, flush=True)
    delay_sec = _FIRST_RETRY_DELAY_SEC
    for attempt in range(1, num_attempts + 1):
        try:
            _download_once(url, path, verbose)
            return
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            reason = f'the server answered {status}' if status is not None else str(error)
            if attempt == num_attempts or (status is not None and status not in _STATUS_WORTH_RETRYING):
                raise DownloadError(
                    f'could not download {url} ({reason}; attempt {attempt} of {num_attempts}): check the address and '
                    'the network, or download the file yourself and give its path'
                ) from error
        time.sleep(delay_sec)
        delay_sec = min(delay_sec * 2, _LONGEST_RETRY_DELAY_SEC)


def _download_once(url: str, path: Path, verbose: bool) -> None:
    """One attempt, streamed to `path`. Raises requests.RequestException where another attempt may help."""
    import requests
    from tqdm import tqdm

    # Compressed transfer would hide the file's length, which is how a cut connection is recognised.
    headers = {'Accept-Encoding': 'identity'}
    with requests.get(url, stream=True, headers=headers, timeout=_CONNECT_AND_READ_TIMEOUT_SEC) as response:
        response.raise_for_status()
        length = response.headers.get('Content-Length', '')
        expected_bytes = int(length) if length.isdigit() and 'Content-Encoding' not in response.headers else None
        received_bytes = 0
        with (
            open(path, 'wb') as file,
            tqdm(
                total=expected_bytes, unit='B', unit_scale=True, leave=False, disable=None if verbose else True
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK_BYTES):
                if received_bytes == 0:
                    _refuse_web_page(url, response.headers.get('Content-Type', ''), chunk)
                file.write(chunk)
                received_bytes += len(chunk)
                bar.update(len(chunk))
    if expected_bytes is not None and received_bytes != expected_bytes:
        raise requests.ConnectionError(f'got {received_bytes} of {expected_bytes} bytes')
    if received_bytes == 0:
        raise requests.ConnectionError('the file is empty')


def _refuse_web_page(url: str, content_type: str, first_bytes: bytes) -> None:
    """Servers answer a wrong or expired link with a page and status 200; it must not end up in the cache."""
    head = first_bytes[:256].lstrip().lower()
    if content_type.lower().startswith('text/html') or head.startswith((b'<!doctype html', b'<html')):
        raise DownloadError(
            f'{url} gives a web page instead of a file: open it in a browser, find the direct link, or download the '
            'file yourself and give its path'
        )
