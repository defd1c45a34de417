"""Who may talk to the server: nobody but the page that it serves, in the browser of whoever knows its address.

A page of another site can send requests to this machine, and can make its own host name point here ("DNS rebinding").
So every request must name a host that this server goes by, and must not come from another page. A server that other
machines can reach asks for a token as well. (Starlette's TrustedHostMiddleware compares names with a list; here any
address is as good as another, but no name that somebody else may own.)
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_PARAMETER = 'token'
_COOKIE = 'studio-token'
_LOCAL_NAMES = ('localhost',)
_REFUSED = 1008  # of WebSocket: the message violates a policy

_HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cross-Origin-Opener-Policy': 'same-origin',
}


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Args:
        host: Address that it is bound to.
        token: What every request must know, or None.
    """

    host: str
    token: str | None

    def reason_to_refuse(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None."""
        request = HTTPConnection(scope)
        host = request.headers.get('host', '')
        if not self._is_own_name(_name_of(host)):
            return 'This server does not go by that name: open the address that studio.py has printed.'
        if any(_host_of(origin) != host for origin in request.headers.getlist('origin')):
            return 'Another page must not use this server.'
        site, mode = request.headers.get('sec-fetch-site', 'none'), request.headers.get('sec-fetch-mode')
        is_opened = mode == 'navigate' and scope.get('method') == 'GET' and scope['path'] == '/'
        if site not in ('none', 'same-origin') and not is_opened:
            return 'Another page must not use this server.'
        given = (request.query_params.get(TOKEN_PARAMETER), request.cookies.get(_COOKIE))
        if self.token is not None and not any(_is_same(text, self.token) for text in given):
            return 'The token is missing or wrong: open the address that studio.py has printed.'
        return None

    def _is_own_name(self, name: str) -> bool:
        """Return whether a host name cannot be that of another site."""
        if name in _LOCAL_NAMES:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            # Names that others own resolve to any address; those of this machine are its own.
            return self.token is not None and name in (self.host.lower(), socket.gethostname().lower())
        return self.token is not None or address.is_loopback


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    if host.startswith('['):
        return host[1:].partition(']')[0]
    return host.partition(':')[0].lower().rstrip('.')


def _host_of(origin: str) -> str | None:
    """Return the host and port in an Origin header, or None if it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as http://[
        return None


def _is_same(given: str | None, token: str) -> bool:
    """Compare in a time that does not depend on where a guess goes wrong."""
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


class Guard:
    """Middleware that refuses requests by the rules of `Access`, and adds the headers that restrict the page."""

    def __init__(self, app: ASGIApp, access: Access):
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope['type'] == 'lifespan':
            await self._app(scope, receive, send)
            return
        reason = self._access.reason_to_refuse(scope)
        if scope['type'] == 'websocket':
            if reason is None:
                await self._app(scope, receive, send)
            else:
                await send({'type': 'websocket.close', 'code': _REFUSED, 'reason': reason})
            return

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = MutableHeaders(scope=message)
                headers.update({'Cache-Control': 'no-store', **_HEADERS})
                if self._access.token is not None and reason is None and scope['path'] == '/':
                    cookie = f'{_COOKIE}={self._access.token}; HttpOnly; SameSite=Strict; Path=/'
                    headers.append('Set-Cookie', cookie)
            await send(message)

        app: ASGIApp | Response = self._app if reason is None else PlainTextResponse(reason, status_code=403)
        await app(scope, receive, send_with_headers)
