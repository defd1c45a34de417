"""Run the web server until it is interrupted."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import dataclass

from studio_server.settings import Settings

_PACKAGES = ('starlette', 'uvicorn', 'websockets')
_MAX_CONNECTIONS = 256
_MAX_HEADER_BYTES = 2**15


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Args:
        host: The address as it was given.
        listener: The bound socket.
        secret: A token to use if other machines can reach the address.
    """

    host: str
    listener: socket.socket
    secret: str

    @property
    def token(self) -> str | None:
        """The token that requests need, or None on an address of this machine alone."""
        from studio_server.guard import is_loopback

        return None if is_loopback(self.host) else self.secret

    @property
    def url(self) -> str:
        """What to open in a browser."""
        port = self.listener.getsockname()[1]
        name = socket.gethostname() if self.host in ('0.0.0.0', '::') else self.host
        name = f'[{name}]' if ':' in name else name
        return f'http://{name}:{port}/' + ('' if self.token is None else f'?token={self.token}')


def missing_packages() -> str:
    """Return the packages of the server that are not installed, as text; '' if all are."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return ' and '.join(missing)


def serve(settings: Settings, address: Address) -> None:
    """Serve the page until a signal ends it."""
    import uvicorn

    from studio_server.guard import Access
    from studio_server.server import MAX_MESSAGE_BYTES, make_app
    from studio_server.studio import Studio

    app = make_app(Studio(settings), Access(address.host, address.token))
    config = uvicorn.Config(
        app,
        log_level='warning',
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        http='h11',
        ws='websockets-sansio',
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[address.listener])
