"""Long work on a device: started, watched, paused and stopped by any client, one at a time for each device.

A job runs in a thread of its own. Between its steps pictures are rendered, so that sliders stay alive.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dnnlib.errors import InvalidArgument
from generation.projection.targets import Target
from studio_server.workers import RenderWorker, sentence_of

_MAX_JOBS = 20
_MAX_POINTS = 400  # of the curve
_NEWS_SEC = 0.1


class Stopped(Exception):
    """Raised in a job that a user has stopped before it has a result."""


class Job:
    """One piece of long work.

    Args:
        number: Different for each.
        kind: What it does, for the page.
        title: What the user sees.
        worker: The device.
        on_news: Called from the job's thread when something has changed.

    Attributes:
        result: What it has made: latents, or the number of a file.
        picture: The last picture, encoded.
        photograph: What a projection looks for.
    """

    def __init__(self, number: int, kind: str, title: str, worker: RenderWorker, on_news: Callable[[Job], None]):
        self.number, self.kind, self.title, self.worker = number, kind, title, worker
        self.state, self.text, self.progress = 'waiting', '', 0.0
        self.values: list[float] = []
        self.picture = b''
        self.details: dict[str, Any] = {}
        self.result: Any = None
        self.photograph: Target | None = None
        self._on_news, self._last_news = on_news, 0.0
        self._may_run = threading.Event()
        self._may_run.set()
        self._is_stopped = False
        self._holds_device = False

    def describe(self) -> dict[str, Any]:
        """Return what the page shows."""
        values = self.values[:: max(len(self.values) // _MAX_POINTS, 1)]
        return {
            'number': self.number,
            'kind': self.kind,
            'title': self.title,
            'state': self.state,
            'text': self.text,
            'progress': self.progress,
            'values': values,
            'has_result': self.result is not None,
            'details': self.details,
        }

    def run(self, work: Callable[[Job], None]) -> None:
        """Do the work; its errors become the text of the job."""
        try:
            self._wait()
            self._take_device()
            work(self)
            self._set_state('stopped' if self._is_stopped else 'done')
        except Stopped:
            self._set_state('stopped')
        except Exception as error:  # a network can raise anything, and the page must say that the job is over
            self.text = sentence_of(error)
            self._set_state('failed')
        finally:
            self._give_device()

    def step(self, progress: float, text: str = '', picture: Callable[[], bytes] | None = None) -> bool:
        """Report a step, let pictures be rendered, and wait while the job is paused.

        Args:
            progress: From 0 to 1.
            text: What the user sees.
            picture: Makes a picture, which is called now and then only.

        Returns:
            Whether the job has been stopped, and should end with the result that it has.
        """
        self.progress, self.text = progress, text
        if time.monotonic() - self._last_news >= _NEWS_SEC or progress >= 1:
            if picture is not None:
                self.picture = picture()
            self._tell()
        self._give_device()
        self._wait()
        self._take_device()
        return self._is_stopped

    def made(self, folder: str, number: str) -> None:
        """Take a file of `--outdir` as the result; pages can remove it and bring it back by its folder and number."""
        self.details['made'] = {'folder': folder, 'number': number}
        self.result = number

    def pause(self) -> None:
        """Wait before the next step."""
        self._may_run.clear()

    def resume(self) -> None:
        """Go on."""
        self._may_run.set()

    def stop(self) -> None:
        """End after this step."""
        self._is_stopped = True
        self._may_run.set()

    @property
    def is_stopped(self) -> bool:
        """Whether a user has stopped it."""
        return self._is_stopped

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ('done', 'stopped', 'failed')

    def _wait(self) -> None:
        if not self._may_run.is_set():
            self._set_state('paused')
            self._may_run.wait()
        if self.state != 'running':
            self._set_state('running')
        if self._is_stopped and self.progress == 0:
            self.text = 'Stopped before the first step: there is no result.'
            raise Stopped

    def _set_state(self, state: str) -> None:
        self.state = state
        self._tell()

    def _tell(self) -> None:
        self._last_news = time.monotonic()
        self._on_news(self)

    def _take_device(self) -> None:
        self.worker.gate.acquire()
        self._holds_device = True

    def _give_device(self) -> None:
        if self._holds_device:
            self._holds_device = False
            self.worker.gate.release()


class Jobs:
    """All jobs of a server; finished ones are forgotten, the oldest first.

    Args:
        on_news: See `Job`.

    Attributes:
        is_closing: Whether all jobs are being stopped, because the server ends.
    """

    def __init__(self, on_news: Callable[[Job], None]):
        self._on_news = on_news
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._threads: dict[RenderWorker, ThreadPoolExecutor] = {}
        self.is_closing = False

    def start(self, kind: str, title: str, worker: RenderWorker, work: Callable[[Job], None]) -> Job:
        """Start a job, or let it wait for others on the same device.

        Raises:
            ValueError: Too many jobs wait already.
        """
        if len(self._jobs) >= _MAX_JOBS:
            over = [number for number, job in self._jobs.items() if job.is_over]
            if not over:
                raise InvalidArgument('job', f'{_MAX_JOBS} jobs are running or waiting: stop one of them first.')
            del self._jobs[over[0]]
        job = Job(next(self._numbers), kind, title, worker, self._on_news)
        self._jobs[job.number] = job
        if worker not in self._threads:
            self._threads[worker] = ThreadPoolExecutor(1, thread_name_prefix='job')
        self._threads[worker].submit(job.run, work)
        return job

    def get(self, number: int) -> Job:
        """Return a job."""
        if number not in self._jobs:
            raise InvalidArgument('job', f'There is no job {number}.')
        return self._jobs[number]

    def all(self) -> list[Job]:
        """Return all jobs, oldest first."""
        return list(self._jobs.values())

    def close(self) -> None:
        """Stop all jobs."""
        self.is_closing = True
        for job in self._jobs.values():
            job.stop()
        for threads in self._threads.values():
            threads.shutdown(wait=True, cancel_futures=True)
