"""One HTTP request that starts or continues a partial file, with every failure described in a few words."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import http.client
import re
import shutil
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from dnnlib.cache import WEB_PAGE, FileVersion, PartialFile
from dnnlib.text import excerpt

if TYPE_CHECKING:
    import requests

    from dnnlib.http_session import ConnectionCutter

_CONNECT_TIMEOUT_SEC = 15
_READ_TIMEOUT_SEC = 30  # without a single byte
_SLOWEST_BYTES_PER_SEC = 1024  # of the file, on average over each _SLOW_WINDOW_SEC
_SLOW_WINDOW_SEC = 60
_HEADER_SEC = 45  # from the request to the end of the header, with all redirects
_MAX_REDIRECTS = 10
_MAX_UNANNOUNCED_BYTES = 8 << 30  # of a file whose size the server does not announce
_LONGEST_RETRY_AFTER_SEC = 120
_CHUNK_BYTES = 1 << 18
_ENCODED_CHUNK_BYTES = 1 << 14  # which may expand a thousandfold
_ENCODINGS = ('gzip', 'x-gzip', 'deflate')
_RETRYABLE_STATUS = {408, 416, 425, 429, 500, 502, 503, 504}


class TransferFailed(Exception):
    """A request that did not yield the rest of the file.

    Args:
        reason: Text that fits in parentheses.
        retry: Whether another attempt may succeed.
        wait_sec: How long the server asks to wait before the next attempt.
    """

    def __init__(self, reason: str, retry: bool = True, wait_sec: float = 0):
        super().__init__(reason)
        self.retry = retry
        self.wait_sec = wait_sec


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a file is, and what is known of it.

    Args:
        url: http or https address.
        sha256: Hexadecimal digest that the file must have, or None.
        authorization: Header of this name for the host of `url`, or None.
        size: Bytes that the file must have, or None.
        max_bytes: Largest size of the file, or None. Without it and `size`, a file of unknown size is limited to 8 GiB.
    """

    url: str
    sha256: str | None = None
    authorization: str | None = dataclasses.field(default=None, repr=False)
    size: int | None = None
    max_bytes: int | None = None


def transfer(source: Source, partial: PartialFile, version: FileVersion | None, verbose: bool) -> None:
    """Receive the rest of a file.

    Args:
        source: The file.
        partial: What has arrived so far; the rest is appended. If the server has another version, it is replaced.
        version: The version that `partial` is a part of, or None to receive the whole file.
        verbose: Show a progress bar on a terminal.

    Raises:
        TransferFailed: The file is not complete yet, or larger than `source.max_bytes`.
    """
    # Compression would hide the length of the file. When the connection closes, it is known whether more was sent.
    headers = {'Accept-Encoding': 'identity', 'Connection': 'close'}
    if version is not None:
        headers.update({'Range': f'bytes={partial.size}-', 'If-Range': version.validator})
    with contextlib.ExitStack() as stack:
        response, cutter = stack.enter_context(response_described(source, headers))
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.discard()
        _check_header(response, is_ranged=version is not None)
        if version is not None and response.status_code == HTTPStatus.PARTIAL_CONTENT:
            size: int | None = _check_continuation(response, partial, version)
        else:
            new_version = _version_of(response, _announced_bytes(response))
            partial.start(new_version)
            size = new_version.size
        if size is not None and source.max_bytes is not None and size > source.max_bytes:
            raise _too_large(partial, source.max_bytes)
        if source.size is not None:
            if size is not None and size != source.size:
                partial.discard()
                raise TransferFailed(f'the server sends {size:,} bytes instead of {source.size:,}', retry=False)
            size = source.size
        _check_space(partial, size)
        _receive(response, cutter, partial, size, verbose, source.max_bytes)


@contextlib.contextmanager
def response_described(source: Source, headers: dict[str, str]) -> Iterator[tuple[requests.Response, ConnectionCutter]]:
    """Yield the response to a request, of which only the header has been read, and what cuts it off.

    Raises:
        TransferFailed: The server does not respond.
    """
    from dnnlib.http_session import response_to

    timeouts_sec = (_CONNECT_TIMEOUT_SEC, _READ_TIMEOUT_SEC)
    with contextlib.ExitStack() as stack:
        with _request_errors_described():
            response = stack.enter_context(
                response_to(source.url, headers, timeouts_sec, _HEADER_SEC, _MAX_REDIRECTS, source.authorization)
            )
        yield response


# ---------------------------------------------------------------------------------------------------------------------
# Headers


def _check_header(response: requests.Response, is_ranged: bool) -> None:
    """Raise TransferFailed unless the body of a response is a file."""
    _check_status(response, is_ranged)
    if response.headers.get('Content-Type', '').lower().startswith('text/html'):
        raise TransferFailed(WEB_PAGE, retry=False)
    encoding = _encoding(response)
    if encoding not in ('', 'identity', *_ENCODINGS):
        raise TransferFailed(
            f'the server compresses the file ({excerpt(encoding, 40)}) without being asked', retry=False
        )


def _check_space(partial: PartialFile, size: int | None) -> None:
    missing = 0 if size is None else size - partial.size
    free = shutil.disk_usage(partial.path.parent).free
    if missing > free:
        raise TransferFailed(f'it has {size:,} bytes, but {partial.path.parent} has space for {free:,}', retry=False)


def _check_status(response: requests.Response, is_ranged: bool) -> None:
    status = response.status_code
    if status == HTTPStatus.OK or (is_ranged and status == HTTPStatus.PARTIAL_CONTENT):
        return
    reason = f'the server returned {status} {http.client.responses.get(status, "")}'.rstrip()
    retry, wait_sec = status in _RETRYABLE_STATUS, _retry_after_sec(response)
    if retry and wait_sec > _LONGEST_RETRY_AFTER_SEC:
        reason, retry = f'{reason} and asks to wait {wait_sec:,.0f} s', False
    raise TransferFailed(reason, retry=retry, wait_sec=wait_sec)


def _retry_after_sec(response: requests.Response) -> float:
    """Return the delay in Retry-After, which is a number of seconds or a date; 0 without this header."""
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
    """Return the length of the body as it is sent, or None if the server does not announce it."""
    length = response.headers.get('Content-Length', '').strip()
    chunked = 'Transfer-Encoding' in response.headers
    return int(length) if re.fullmatch(r'[0-9]{1,18}', length) and not chunked else None


def _encoding(response: requests.Response) -> str:
    return response.headers.get('Content-Encoding', '').strip().lower()


def _is_encoded(response: requests.Response) -> bool:
    return _encoding(response) not in ('', 'identity')


def _version_of(response: requests.Response, size: int | None) -> FileVersion:
    """Return the version of the file in a response; it is empty if the body is not the plain bytes of the file."""
    if _is_encoded(response):
        return FileVersion()
    return FileVersion(response.headers.get('ETag', ''), response.headers.get('Last-Modified', ''), size)


def _check_continuation(response: requests.Response, partial: PartialFile, version: FileVersion) -> int:
    """Check that the response continues `partial` to the end of the same version; return the size of the file."""
    pattern = r'bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)'
    match = re.fullmatch(pattern, response.headers.get('Content-Range', '').strip())
    if match is not None and not _is_encoded(response):
        first, last = int(match[1]), int(match[2])
        size = version.size or last + 1 if match[3] == '*' else int(match[3])
        is_same_version = not version.contradicts(_version_of(response, size))
        length_fits = _announced_bytes(response) in (None, last + 1 - first)
        if is_same_version and length_fits and first == partial.size and last + 1 == size:
            return size
    partial.discard()
    raise TransferFailed('the file on the server has changed since the download started')


# ---------------------------------------------------------------------------------------------------------------------
# Body


def _receive(
    response: requests.Response,
    cutter: ConnectionCutter,
    partial: PartialFile,
    size: int | None,
    verbose: bool,
    max_bytes: int | None,
) -> None:
    """Append the body to `partial`. Each piece is written before the next one is read."""
    from dnnlib.http_session import minimum_speed
    from dnnlib.progress import progress_bar

    raw, expected = response.raw, _announced_bytes(response)  # bytes as sent; those of an encoded file differ
    if expected is None and size is not None and not _is_encoded(response):
        expected = size - partial.size
    _read_beyond_announced_end(raw)
    disable = None if verbose else True
    min_bytes = int(_SLOWEST_BYTES_PER_SEC * _SLOW_WINDOW_SEC)
    received = 0
    with (
        progress_bar(size, 'B', initial=partial.size, unit_scale=True, disable=disable) as progress,
        open(partial.path, 'ab') as file,
        minimum_speed(cutter, lambda: received, min_bytes, _SLOW_WINDOW_SEC) as too_few,
        _interruptions_described(raw, expected, partial, size, too_few),
    ):
        for piece in _pieces(raw, _is_encoded(response)):
            file.write(piece)
            file.flush()
            received += len(piece)
            progress.update(len(piece))
            _check_amount(raw, expected, partial, size, max_bytes)
    _check_amount(raw, expected, partial, size, max_bytes)
    if expected is None or raw.tell() != expected:
        _check_speed(too_few)
    if (expected is not None and raw.tell() < expected) or (size is not None and partial.size < size):
        raise TransferFailed(f'the connection was lost after {_extent(partial, size)}')


def _check_speed(too_few: list[int]) -> None:
    """Raise TransferFailed if the connection was cut because it was slow: a new one is worth a try."""
    if too_few:
        raise TransferFailed(f'only {too_few[0]:,} bytes in {_SLOW_WINDOW_SEC:.3g} s')


def _check_amount(
    raw: Any, expected: int | None, partial: PartialFile, size: int | None, max_bytes: int | None
) -> None:
    """Raise TransferFailed if the server sends more than it has announced, or more than is reasonable."""
    if expected is not None and raw.tell() > expected:
        partial.discard()
        raise TransferFailed(f'the server sent more than the announced {expected:,} bytes')
    if max_bytes is not None and partial.size > max_bytes:
        raise _too_large(partial, max_bytes)
    if size is not None and partial.size > size:
        partial.discard()
        raise TransferFailed(f'the server sent more than the {size:,} bytes of the file', retry=False)
    if size is None and partial.size > _MAX_UNANNOUNCED_BYTES:
        partial.discard()
        raise TransferFailed(
            f'the server does not announce the size of the file, and has sent {_MAX_UNANNOUNCED_BYTES:,} bytes',
            retry=False,
        )


def _too_large(partial: PartialFile, max_bytes: int) -> TransferFailed:
    """Discard what has arrived, and return the error to raise."""
    partial.discard()
    return TransferFailed(f'the file is larger than expected, which is {max_bytes:,} bytes at most', retry=False)


@contextlib.contextmanager
def _interruptions_described(
    raw: Any, expected: int | None, partial: PartialFile, size: int | None, too_few: list[int]
) -> Iterator[None]:
    """Convert the errors that urllib3 raises while the body arrives to TransferFailed; none if it is complete."""
    import urllib3

    try:
        yield
    except urllib3.exceptions.DecodeError as error:
        _check_speed(too_few)
        raise TransferFailed('the response cannot be decompressed') from error
    except urllib3.exceptions.HTTPError as error:
        if raw.tell() != expected:
            _check_speed(too_few)
            timed_out = isinstance(error, urllib3.exceptions.ReadTimeoutError)
            event = f'no data for {_READ_TIMEOUT_SEC} s' if timed_out else 'the connection was lost'
            raise TransferFailed(f'{event} after {_extent(partial, size)}') from error


def _extent(partial: PartialFile, size: int | None) -> str:
    return f'{partial.size:,} bytes' if size is None else f'{partial.size:,} of {size:,} bytes'


def _read_beyond_announced_end(raw: Any) -> None:
    """Make `raw` read until the connection closes, if the server closes it after this response.

    http.client stops at the announced length. If a server announced less than it sends, the file would be truncated
    without notice.
    """
    inner: Any = getattr(raw, '_fp', None)  # the http.client.HTTPResponse; without it only this check is skipped
    if hasattr(raw, 'read1') and getattr(inner, 'will_close', False):
        inner.length = None
        raw.length_remaining = None


def _pieces(raw: Any, is_encoded: bool) -> Iterator[bytes]:
    """Yield the body as it arrives."""
    # read1 does not wait until the chunk is full, so nothing is lost when the connection breaks.
    read, chunk_bytes = (raw.read1, _CHUNK_BYTES) if hasattr(raw, 'read1') else (raw.read, 4096)  # urllib3 before 2.2
    if is_encoded:
        chunk_bytes = min(chunk_bytes, _ENCODED_CHUNK_BYTES)
    while piece := read(chunk_bytes, decode_content=True):
        yield piece


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@contextlib.contextmanager
def _request_errors_described() -> Iterator[None]:
    """Convert the errors that requests raises before there is a response to TransferFailed with a readable reason."""
    import requests
    import urllib3

    from dnnlib.http_session import DeadlineExceeded

    try:
        yield
    except DeadlineExceeded as error:
        raise TransferFailed(f'no complete response within {_HEADER_SEC} s') from error
    except requests.TooManyRedirects as error:
        raise TransferFailed(f'the server redirected more than {_MAX_REDIRECTS} times', retry=False) from error
    except ValueError as error:  # includes InvalidSchema and InvalidURL, and the errors of urllib.parse
        raise TransferFailed(
            'the URL, or one it redirects to, is not a valid http or https URL', retry=False
        ) from error
    except requests.exceptions.ProxyError as error:
        raise TransferFailed(f'proxy error: {_reason(error)}') from error
    except requests.exceptions.SSLError as error:
        retry = not isinstance(_root_cause(error), ssl.SSLCertVerificationError)
        raise TransferFailed(f'no secure connection: {_reason(error)}', retry=retry) from error
    except requests.ConnectTimeout as error:
        raise TransferFailed(f'no connection within {_CONNECT_TIMEOUT_SEC} s') from error
    except requests.ReadTimeout as error:
        raise TransferFailed(f'no response within {_READ_TIMEOUT_SEC} s') from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransferFailed(f'no connection: {_reason(error)}') from error
    except OSError as error:  # for example, the file of certificates does not exist
        raise TransferFailed(_reason(error), retry=False) from error


def _root_cause(error: BaseException) -> BaseException:
    """Return the error of the system or of http.client that requests and urllib3 have wrapped."""
    import requests

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OSError, http.client.HTTPException)) and not isinstance(cause, requests.RequestException):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _reason(error: BaseException) -> str:
    """Describe an error in a few words; the message of requests itself would show its objects."""
    root = _root_cause(error)
    words = getattr(root, 'verify_message', None) or getattr(root, 'strerror', None) or str(root)
    return ' '.join(words.split())[:200] or type(root).__name__
