"""Trackers of experiments: wandb, trackio and mlflow get the numbers, the images and the end of a run.

TensorBoard and `stats.jsonl` are written in any case (`training.run.stats_writer`). Each tracker has a process of its
own (`training.run.tracker_process`), to which a thread passes messages from a queue of limited length. So a tracker
that raises errors, hangs or crashes costs a sentence in the log, and the training goes on, bit for bit the same.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from dnnlib.errors import InvalidArgument, error_sentence
from dnnlib.files import write_json
from dnnlib.json_input import read_json
from dnnlib.text import excerpt
from training import schema
from training.config import TrainingConfig
from training.run import tracker_process
from training.run.run_dir import RunDir

STALL_SEC = 120.0  # without an answer, after which a tracker is said to hang
END_SEC = 60.0  # how long the end of a run waits for its trackers
STALLED_END_SEC = 5.0  # ... for one that hangs
QUEUE_LENGTH = 256  # messages
_MAX_ID_BYTES = 4096
_MAX_ANSWER_BYTES = 2**16
_POLL_SEC = 0.05
_QUIET_WAIT_SEC = 3.0  # after which a wait is said

FINISHED, STOPPED, FAILED = 'finished', 'stopped', 'failed'
"""How a run ends: complete, stopped by a signal, or by an error."""


def check_installed(names: Sequence[str]) -> None:
    """Check that the packages of trackers are installed, without importing them.

    Raises:
        InvalidArgument: One is not. The message says how to install it.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # without an origin, it is some folder of that name
            raise InvalidArgument(
                'tracker',
                f"{name} needs the package {name}: pip install 'ada-gan[{name}]' (or pip install {name}); or leave it "
                'out: --tracker=none.',
            )


def shared_config(config: TrainingConfig) -> dict[str, Any]:
    """Return what trackers are told of a configuration: everything but the command line, with names for paths."""
    values = dataclasses.asdict(config)
    for name in ('run_dir', 'options'):
        del values[name]
    return _without_folders(values)


def _without_folders(value: Any, key: str = '') -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(item, name) for name, item in value.items()}
    if isinstance(value, str) and key in ('path', 'resume_pkl', 'detectors'):
        return PurePosixPath(value.split('?')[0].replace('\\', '/')).name
    return value


def run_id(run_dir: RunDir) -> str:
    """Return the identifier of a run, by which trackers continue it: that of its directory, or a new one.

    A file that is not valid is replaced, and one that cannot be written is done without; both are printed.
    """
    path = run_dir.tracker_json
    try:
        content = read_json(path, _MAX_ID_BYTES)
        schema.TRACKER_FILE.check(content, path)
        return content['id']
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        print(f'Warning: {error_sentence(error) or path} The trackers start a new run.')
    identifier = secrets.token_hex(8)
    try:
        write_json({'id': identifier}, path)
    except OSError as error:
        print(f'Warning: {error_sentence(error)}. The trackers will not continue this run when it is resumed.')
    return identifier


class Tracking:
    """The trackers of a run on its main rank; without any, nothing happens.

    Args:
        config: Configuration of the run, whose directory exists. None: no trackers.
    """

    def __init__(self, config: TrainingConfig | None = None):
        self._trackers: list[_Process] = []
        self._run_dir = ''
        if config is None or not config.trackers or config.run_dir is None:
            return
        run_dir = RunDir(config.run_dir)
        start = {
            'id': run_id(run_dir),
            'name': os.path.basename(os.path.abspath(run_dir.path)),
            'run_dir': os.path.abspath(run_dir.path),
            'config': shared_config(config),
        }
        self._run_dir = os.path.abspath(run_dir.path)
        self._trackers = [_Process(name, start) for name in config.trackers]

    def log(self, values: Mapping[str, float], cur_nimg: int, seconds: float) -> None:
        """Pass on numbers by name; those that are not finite are left out.

        Args:
            values: The numbers.
            cur_nimg: Images shown so far.
            seconds: When they were measured, in seconds since 1970.
        """
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.send({'do': 'log', 'step': cur_nimg, 'time': seconds, 'values': finite})

    def image(self, name: str, path: str, cur_nimg: int) -> None:
        """Pass on the image in a file of the run directory, which is complete."""
        for tracker in self._trackers:
            path = os.path.join(self._run_dir, os.path.basename(path))
            tracker.send({'do': 'image', 'step': cur_nimg, 'name': name, 'path': path})

    @contextlib.contextmanager
    def failing_with_run(self) -> Iterator[None]:
        """Within this context, an error also ends the run in all trackers."""
        try:
            yield
        except BaseException:
            self.finish(FAILED)
            raise

    def finish(self, state: str) -> None:
        """End the run in all trackers, for a limited time; after a failure, without waiting."""
        trackers, self._trackers = self._trackers, []
        for tracker in trackers:
            tracker.send({'do': 'finish', 'state': state}, is_last=True)
        deadline = time.monotonic() + END_SEC
        for tracker in trackers:
            tracker.wait(time.monotonic() if state == FAILED else deadline, kill=state != FAILED)


class _Process:
    """The process of one tracker, and the threads that write to it and read its answers."""

    def __init__(self, name: str, start: Mapping[str, Any]):
        self._name = name
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue(QUEUE_LENGTH)
        self._sent: collections.deque[float] = collections.deque()  # when messages without an answer were written
        self._said: set[str] = set()
        self._num_dropped = 0
        self._is_over = self._is_ending = self._is_killed = False
        quiet = {  # what the packages would tell their makers
            'DO_NOT_TRACK': 'true',
            'GRADIO_ANALYTICS_ENABLED': 'False',
            'HF_HUB_DISABLE_TELEMETRY': '1',
            'MLFLOW_DISABLE_TELEMETRY': 'true',
            'WANDB_ERROR_REPORTING': 'false',
        }
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        try:
            search_path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, tracker_process.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**quiet, **os.environ, 'PYTHONPATH': search_path},
                start_new_session=True,  # so that signals of the terminal, which end the training, leave it time to end
            )
            self.send({'do': 'start', 'tracker': name, **start})
            for thread in self._threads:
                thread.start()
        except (OSError, RuntimeError) as error:  # the latter if no thread can be started
            self._is_over = True
            self._say('start', f'{self._name} could not be started ({excerpt(error)})')

    def send(self, message: dict[str, Any], is_last: bool = False) -> None:
        """Put a message into the queue, if there is space, without waiting."""
        if self._is_over:
            return
        if self._is_stalled():
            self._say('stalled', f'{self._name} has not answered for {STALL_SEC:g} seconds')
        if is_last:
            self._is_ending = True
            while self._messages.full():  # what it has to say last comes first
                with contextlib.suppress(queue.Empty):
                    self._messages.get_nowait()
                    self._num_dropped += 1
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self._num_dropped += 1
            self._say('dropped', f'{self._name} is too slow: some numbers and images will be missing there')

    def _is_stalled(self) -> bool:
        try:
            return time.monotonic() - self._sent[0] > STALL_SEC
        except IndexError:  # every message has its answer, or the other thread has just got the last one
            return False

    def wait(self, deadline: float, kill: bool) -> None:
        """Wait for the end of the process until a time of `time.monotonic`; kill it, if it takes longer."""
        if not hasattr(self, '_process'):
            return
        if 'stalled' in self._said:
            deadline = min(deadline, time.monotonic() + STALLED_END_SEC)
        start = time.monotonic()
        try:
            while self._process.poll() is None and time.monotonic() < deadline:
                if time.monotonic() - start > _QUIET_WAIT_SEC and 'waiting' not in self._said:
                    self._said.add('waiting')
                    print(f'Waiting for {self._name}, for {max(deadline - start, 0):.0f} seconds at most', flush=True)
                time.sleep(_POLL_SEC)
            if kill and self._process.poll() is None:
                self._is_killed = True
                self._say('end', f'{self._name} did not finish in time and was stopped: its last data may be missing')
        finally:  # also if a signal interrupts this
            if kill:
                self._kill()
                for thread in self._threads:
                    if thread.ident is not None:
                        thread.join(1)
        if self._num_dropped:
            print(f'{self._num_dropped} messages for {self._name} were dropped; stats.jsonl has all numbers.')

    def _kill(self) -> None:
        """Kill the process and those that it has started."""
        self._is_over = True
        with contextlib.suppress(OSError):
            if hasattr(os, 'killpg'):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()

    def _write(self) -> None:
        """Write the messages; the work of a thread, which may block."""
        assert self._process.stdin is not None
        try:
            while not self._is_over:
                message = self._messages.get()
                self._sent.append(time.monotonic())
                self._process.stdin.write(f'{json.dumps(message)}\n'.encode())
                self._process.stdin.flush()
                if message['do'] == 'finish':
                    break
        except OSError:  # the process has ended, which `_read` reports
            self._is_over = True
        finally:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _read(self) -> None:
        """Read the answers; the work of another thread."""
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            while line := answers.readline(_MAX_ANSWER_BYTES):
                with contextlib.suppress(IndexError):
                    self._sent.popleft()
                self._report(line)
        is_complete = self._is_ending and not self._sent and self._messages.empty()
        if not is_complete and not self._is_killed and 'error' not in self._said:
            self._say('ended', f'the process of {self._name} has ended')
        self._is_over = True
        self._process.wait()
        with contextlib.suppress(queue.Full):
            self._messages.put_nowait({'do': 'finish'})  # wakes up `_write`

    def _report(self, line: bytes) -> None:
        """Print the first answer that is an error."""
        try:
            answer = str(json.loads(line))
        except ValueError:
            answer = 'an answer that cannot be read'
        if answer:
            self._say('error', f'{self._name} has failed ({excerpt(answer, 500)})')

    def _say(self, kind: str, problem: str) -> None:
        """Print a problem of this kind once."""
        if kind not in self._said:
            self._said.add(kind)
            print(f'Warning: {problem}. Training goes on, and stats.jsonl has all numbers.', flush=True)
