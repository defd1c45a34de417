"""HTTP requests that end in time, whatever a server, a proxy or a redirect sends.

The timeouts of requests and urllib3 apply to each operation of a socket: a server that sends a byte of its header every
few seconds, or "100 Continue" for ever, passes them all. Here a request has one deadline until the header of the last
response is complete, and the bodies of redirects are not read. `ConnectionCutter.cut` ends whatever is going on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import requests
import requests.adapters
import requests.auth


class DeadlineExceeded(Exception):
    """The header of the last response was not complete in time."""


class ConnectionCutter:
    """The connections of a request, which another thread can shut down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[socket.socket] = []
        self._is_cut = False

    def add(self, connection: Any) -> None:
        """Remember a connection; shut it down if `cut` has been called before."""
        with self._lock, contextlib.suppress(OSError, AttributeError):
            # A second handle, because TLS takes the first one over.
            self._handles.append(connection.dup())
            if self._is_cut:
                self._handles[-1].shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Shut all connections down, and those that are still to come."""
        with self._lock:
            self._is_cut = True
            for handle in self._handles:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the handles. The connections themselves are closed by their responses."""
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()


class _Adapter(requests.adapters.HTTPAdapter):
    """Reports all connections, direct ones and those to proxies, to a `ConnectionCutter`."""

    def __init__(self, cutter: ConnectionCutter):
        self._cutter = cutter
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: self._watched(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def _watched(self, pool: Any) -> Any:
        if hasattr(pool, 'is_watched'):
            return pool
        cutter = self._cutter

        class WatchedConnection(pool.ConnectionCls):
            def _new_conn(self) -> Any:  # called before TLS and before the tunnel of a proxy
                connection = super()._new_conn()
                cutter.add(connection)
                return connection

        return type(pool.__name__, (pool,), {'ConnectionCls': WatchedConnection, 'is_watched': True})


class _Session(requests.Session):
    """Follows no redirects by itself: it would read the whole body of each."""

    def resolve_redirects(self, *_args: Any, **_kwargs: Any) -> Iterator[Any]:
        return iter(())


@contextlib.contextmanager
def response_to(
    url: str,
    headers: dict[str, str],
    timeouts_sec: tuple[float, float],
    deadline_sec: float,
    max_redirects: int,
    authorization: str | None = None,
) -> Iterator[tuple[requests.Response, ConnectionCutter]]:
    """Send a GET request, and yield the response, of which only the header has been read, and what cuts it off.

    Args:
        url: http or https address.
        headers: Headers of the request.
        timeouts_sec: For a connection, and between two pieces of data.
        deadline_sec: From the call to the complete header, including name resolution, proxies, TLS and redirects.
        max_redirects: Number of redirects that are followed.
        authorization: Header of this name for the host of `url`. Others, to which it redirects, do not get it.

    Raises:
        DeadlineExceeded: There was no response within `deadline_sec`.
        requests.RequestException: The request failed, or was redirected too often.
        ValueError: A URL is not valid.
    """
    cutter = ConnectionCutter()
    with _Session() as session, contextlib.closing(cutter):
        for scheme in ('http://', 'https://'):
            session.mount(scheme, _Adapter(cutter))

        def get() -> requests.Response:
            return _get(session, url, headers, timeouts_sec, max_redirects, authorization)

        try:
            response = _call_within(deadline_sec, get)
        except BaseException:
            cutter.cut()
            raise
        with response:
            yield response, cutter


def _get(
    session: requests.Session,
    url: str,
    headers: dict[str, str],
    timeouts_sec: tuple[float, float],
    max_redirects: int,
    authorization: str | None,
) -> requests.Response:
    first_origin = _origin(url)
    for _ in range(max_redirects + 1):
        auth = _Authorization(authorization) if authorization and _origin(url) == first_origin else None
        response = session.get(url, headers=headers, stream=True, timeout=timeouts_sec, auth=auth)
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        url = urllib.parse.urljoin(response.url, target)
    raise requests.TooManyRedirects


def _origin(url: str) -> tuple[str, str]:
    address = urllib.parse.urlsplit(url)
    return address.scheme, address.netloc.lower()


class _Authorization(requests.auth.AuthBase):
    """Sets a header; as a header of its own, requests would replace it by what the user's netrc has for the host."""

    def __init__(self, value: str):
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers['Authorization'] = self._value
        return request


def _call_within(limit_sec: float, function: Callable[[], requests.Response]) -> requests.Response:
    """Return the result of a function that runs in another thread, since not all it does has a timeout.

    Raises:
        DeadlineExceeded: It takes longer. The thread goes on until the caller cuts its connections.
    """
    results: list[requests.Response | BaseException] = []
    is_late = False
    lock = threading.Lock()

    def run() -> None:
        try:
            result: requests.Response | BaseException = function()
        except BaseException as error:
            result = error
        with lock:
            results.append(result)
            if is_late and isinstance(result, requests.Response):
                result.close()

    thread = threading.Thread(target=run, name='http request', daemon=True)
    thread.start()
    thread.join(limit_sec)
    with lock:
        is_late = not results
    if is_late:
        raise DeadlineExceeded
    result = results[0]
    if isinstance(result, BaseException):
        cause = result.__context__
        try:
            raise result
        finally:
            result.__context__ = cause  # not the error, if any, that this thread is dealing with
    return result


@contextlib.contextmanager
def minimum_speed(
    cutter: ConnectionCutter, num_bytes: Callable[[], int], min_bytes: int, window_sec: float
) -> Iterator[list[int]]:
    """Within this context, cut the connection if fewer than `min_bytes` arrive in `window_sec`.

    Yields:
        An empty list; when the connection is cut, it contains the number of bytes in the last window.
    """
    done = threading.Event()
    too_few: list[int] = []

    def watch() -> None:
        before = num_bytes()
        while not done.wait(window_sec):
            now = num_bytes()
            if now - before < min_bytes:
                too_few.append(now - before)
                cutter.cut()
                return
            before = now

    thread = threading.Thread(target=watch, name='http speed', daemon=True)
    thread.start()
    try:
        yield too_few
    finally:
        done.set()
        thread.join()
