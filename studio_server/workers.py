"""One worker for each device: it renders for all clients in turn, and shares the device with long jobs.

Of each view of a client, only the newest request is rendered. What a client has not read yet is not rendered again, so
a client that never reads costs one picture for each of its views.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dnnlib.errors import error_sentence
from dnnlib.text import message_line
from studio_server.networks import NetworkStore

Message = bytes
Work = Callable[[], Message]

MAX_VIEWS = 64  # of a client
_MAX_REPLIES = 200  # that wait for a client


def sentence_of(error: BaseException) -> str:
    """Return what a user sees of an error; unexpected ones are printed with their traceback."""
    sentence = error_sentence(error) if isinstance(error, (ValueError, OSError)) else None
    if sentence is None:
        traceback.print_exception(error)
        sentence = f'{type(error).__name__}: {error}' if str(error) else type(error).__name__
    return message_line(sentence, 500)


class Outbox:
    """Messages that wait for a client. A newer one takes the place of an older one under the same key."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._arrived = asyncio.Event()

    def put(self, key: str, message: Message) -> None:
        """Add a message, from the thread of the event loop."""
        if key not in self._messages and len(self._messages) >= _MAX_REPLIES:
            self._messages.popitem(last=False)
        self._messages[key] = message
        self._arrived.set()

    def has(self, key: str) -> bool:
        """Return whether a message under this key waits."""
        return key in self._messages

    async def get(self) -> Message:
        """Return the oldest message, as soon as there is one."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popitem(last=False)[1]


class Client:
    """One open page.

    Args:
        number: Different for each.
    """

    def __init__(self, number: int):
        self.number = number
        self.outbox = Outbox()
        self.requests: OrderedDict[str, tuple[RenderWorker, Work]] = OrderedDict()

    def request(self, view: str, worker: RenderWorker, work: Work) -> None:
        """Ask for a picture of a view, instead of what that view has asked for before."""
        if view not in self.requests and len(self.requests) >= MAX_VIEWS:
            self.requests.popitem(last=False)
        self.requests[view] = worker, work
        worker.notice(self)

    def sent(self) -> None:
        """Let workers look again at this client, whose outbox has become shorter."""
        for worker in {worker for worker, _work in self.requests.values()}:
            worker.notice(self)

    def next_for(self, worker: RenderWorker) -> tuple[str, Work] | None:
        """Remove and return the oldest request of this client for a worker that can be sent."""
        for view, (wanted, work) in self.requests.items():
            if wanted is worker and not self.outbox.has(view):
                del self.requests[view]
                return view, work
        return None


class Gate:
    """Lets either pictures or one step of a job use a device; pictures come first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_busy = False
        self._num_waiting = 0

    @contextlib.contextmanager
    def picture(self) -> Iterator[None]:
        """Use the device for a picture."""
        with self._condition:
            self._num_waiting += 1
            self._condition.wait_for(lambda: not self._is_busy)
            self._num_waiting -= 1
            self._is_busy = True
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Take the device for a step of a job, when no picture waits."""
        with self._condition:
            self._condition.wait_for(lambda: not self._is_busy and self._num_waiting == 0)
            self._is_busy = True

    def release(self) -> None:
        """Give the device back."""
        with self._condition:
            self._is_busy = False
            self._condition.notify_all()


class RenderWorker:
    """Renders on one device, in a thread of its own.

    Args:
        store: The networks on that device.
    """

    def __init__(self, store: NetworkStore):
        self.store = store
        self.gate = Gate()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='render')
        self._waiting: deque[Client] = deque()
        self._arrived = asyncio.Event()

    def notice(self, client: Client) -> None:
        """Look at the requests of a client, after those of all others that wait."""
        if client not in self._waiting:
            self._waiting.append(client)
        self._arrived.set()

    async def run(self) -> None:
        """Render until cancelled."""
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            client = self._waiting.popleft()
            request = client.next_for(self)
            if request is None:
                continue
            self._waiting.append(client)
            view, work = request
            client.outbox.put(view, await self.call(work))

    async def call(self, work: Callable[[], Any]) -> Any:
        """Run a function in the thread of this worker, alone on the device."""

        def alone() -> Any:
            with self.gate.picture():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, alone)

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
