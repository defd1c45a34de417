"""Short answers of a server, such as JSON, which are read into memory: bounded in size and time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnnlib.http_transfer import Source, TransferFailed, response_described

_BODY_SEC = 60
_PIECE_BYTES = 1 << 16
_RETRYABLE_STATUS = (408, 425, 429, 500, 502, 503, 504)
_NUM_ATTEMPTS = 3
_RETRY_DELAY_SEC = 0.5


@dataclass(frozen=True)
class Answer:
    """What a server has answered.

    Args:
        status: HTTP status.
        headers: Headers; names in any case.
        body: The whole body, or b'' if the status is not 200.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def get_document(
    url: str, max_bytes: int, authorization: str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a GET request, and read the answer.

    Args:
        url: http or https address.
        max_bytes: Largest body that is read.
        authorization: Header of this name for the host of `url`, or None.
        headers: Other headers.

    Raises:
        TransferFailed: Three requests have failed, or the body is too large or arrives too slowly.
    """
    source = Source(url, authorization=authorization)
    for attempt in range(1, _NUM_ATTEMPTS + 1):
        try:
            answer = _get_once(source, max_bytes, headers or {})
            if answer.status not in _RETRYABLE_STATUS or attempt == _NUM_ATTEMPTS:
                return answer
        except TransferFailed as failure:
            if not failure.retry or attempt == _NUM_ATTEMPTS:
                raise
        time.sleep(_RETRY_DELAY_SEC * attempt)
    raise AssertionError('the last attempt returns or raises')


def _get_once(source: Source, max_bytes: int, headers: Mapping[str, str]) -> Answer:
    import urllib3

    wanted = {'Accept-Encoding': 'identity', 'Connection': 'close', **headers}
    with response_described(source, wanted) as (response, cutter):
        if response.status_code != 200:
            return Answer(response.status_code, response.headers, b'')
        try:
            body = _read(response.raw, max_bytes)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransferFailed('the connection was lost') from error
        finally:
            cutter.cut()
        return Answer(response.status_code, response.headers, body)


def _read(raw: Any, max_bytes: int) -> bytes:
    body = bytearray()
    deadline = time.monotonic() + _BODY_SEC
    while piece := raw.read1(_PIECE_BYTES, decode_content=True):
        body += piece
        if len(body) > max_bytes:
            raise TransferFailed(f'the server sends more than {max_bytes:,} bytes', retry=False)
        if time.monotonic() > deadline:
            raise TransferFailed(f'the answer takes more than {_BODY_SEC} s', retry=False)
    if raw.length_remaining:
        raise TransferFailed('the connection was lost')
    return bytes(body)
