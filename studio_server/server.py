"""The web server: the page, a WebSocket for pictures, and requests that change files.

A message of a client is one JSON object, such as `{"view": "main", "id": 5, "spec": {...}}`. The answer is the size of
a JSON header in four bytes, the header, and the picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from dnnlib.json_input import parse_json
from dnnlib.text import message_line
from reporting.style import STYLE
from studio_server.guard import Access, Guard
from studio_server.studio import PAGE_DIR, Studio, finite, packed
from studio_server.workers import Client, sentence_of

MAX_CLIENTS = 64
MAX_MESSAGE_BYTES = 2**20
MAX_UPLOAD_BYTES = 2**26
SEND_SEC = 20
"""How long a client may take to receive a message."""

_TOO_MANY = 1013  # of WebSocket: try again later
_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)  # PyTorch raises RuntimeError where memory does not suffice


def make_app(studio: Studio, access: Access) -> Guard:
    """Return the application."""
    pages = StaticFiles(directory=PAGE_DIR)
    server = _Server(studio)
    routes = [
        Route('/', server.page),
        Mount('/page', pages),
        Route('/state', server.state),
        Route('/do/{action}', server.do, methods=['POST']),
        Route('/upload', server.upload, methods=['POST']),
        Route('/files/{name:path}', server.file),
        Route('/report.css', server.report_style),
        Route('/runs/{index:int}', server.run),
        Route('/runs/{index:int}/{picture}.webp', server.run_picture),
        WebSocketRoute('/pictures', server.pictures),
    ]
    handlers: dict[Any, Any] = {HTTPException: _problem, **dict.fromkeys(_ERRORS, _problem)}
    return Guard(Starlette(routes=routes, lifespan=server.lifespan, exception_handlers=handlers), access)


class _Server:
    """What the routes share."""

    def __init__(self, studio: Studio):
        self._studio = studio
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Run the workers while the server runs."""
        self._studio.start(asyncio.get_running_loop())
        tasks = [asyncio.create_task(worker.run()) for worker in self._studio.workers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self._studio.close()

    # -----------------------------------------------------------------------------------------------------------------
    # Requests

    async def page(self, _request: Request) -> Response:
        """The page."""
        return FileResponse(PAGE_DIR / 'index.html')

    async def state(self, _request: Request) -> Response:
        """What a page needs to know when it opens: networks, shelf, jobs."""
        return JSONResponse(finite(await self._studio.state()))

    async def do(self, request: Request) -> Response:
        """Do something that changes files or jobs."""
        body = await _body_of(request, MAX_MESSAGE_BYTES)
        content = parse_json(body, 'The request', MAX_MESSAGE_BYTES)
        return JSONResponse(finite(await self._studio.do(request.path_params['action'], content)))

    async def upload(self, request: Request) -> Response:
        """Take a photograph; it is decoded as the projector does."""
        return JSONResponse(await self._studio.take_photograph(await _body_of(request, MAX_UPLOAD_BYTES)))

    async def file(self, request: Request) -> Response:
        """A file that was made here."""
        path = self._studio.made_file(request.path_params['name'])
        if path is None:
            raise HTTPException(404, 'There is no such file.')
        return FileResponse(path)

    async def report_style(self, _request: Request) -> Response:
        """The style sheet of charts."""
        return Response(STYLE, media_type='text/css')

    async def run(self, request: Request) -> Response:
        """The state of a training run."""
        return JSONResponse(finite(await self._studio.run_state(request.path_params['index'])))

    async def run_picture(self, request: Request) -> Response:
        """A picture of a training run."""
        content = await self._studio.run_picture(request.path_params['index'], request.path_params['picture'])
        return Response(content, media_type='image/webp')

    # -----------------------------------------------------------------------------------------------------------------
    # Pictures

    async def pictures(self, socket: WebSocket) -> None:
        """Serve one page: its requests come in, pictures and news of jobs go out."""
        if len(self._studio.clients) >= MAX_CLIENTS:
            await socket.close(_TOO_MANY, f'{MAX_CLIENTS} pages are open already.')
            return
        client = Client(next(self._numbers))
        self._studio.clients.add(client)
        try:
            await socket.accept()
            tasks = [asyncio.create_task(part(socket, client)) for part in (self._send, self._receive)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # it is gone, or does not read
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._studio.clients.discard(client)
            client.requests.clear()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, asyncio.TimeoutError):
                await asyncio.wait_for(socket.close(), 1)

    async def _send(self, socket: WebSocket, client: Client) -> None:
        while True:
            message = await client.outbox.get()
            await asyncio.wait_for(socket.send_bytes(message), SEND_SEC)
            client.sent()

    async def _receive(self, socket: WebSocket, client: Client) -> None:
        while True:
            text = await socket.receive_text()
            arrived = time.perf_counter()
            view, header = 'errors', {}
            try:
                content = parse_json(text, 'The request', MAX_MESSAGE_BYTES)
                request = self._studio.parse_picture(content)
                view, header = request['view'], {'view': request['view'], 'id': request['id']}
                worker = self._studio.worker_of(request['spec']['network'])
            except ValueError as error:
                client.outbox.put(view, packed({**header, 'error': message_line(error, 500)}))
                continue

            def work(request: Any = request, header: Any = header, arrived: float = arrived) -> bytes:
                waited_ms = 1000 * (time.perf_counter() - arrived)
                try:
                    more, content = self._studio.picture(request)
                    return packed({**header, **more, 'waited_ms': waited_ms}, content)
                except Exception as error:  # a network can raise anything, and must not end the worker
                    return packed({**header, 'error': sentence_of(error)})

            client.request(view, worker, work)


async def _body_of(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request; HTTPException if it is larger."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > max_bytes:
            raise HTTPException(413, f'A request of this kind has at most {max_bytes:,} bytes.')
    return bytes(content)


async def _problem(_request: Request, error: Exception) -> Response:
    """Answer with one sentence instead."""
    if isinstance(error, HTTPException):
        return JSONResponse({'error': error.detail}, error.status_code)
    return JSONResponse({'error': sentence_of(error)}, 400)
