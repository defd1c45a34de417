"""Try files on readers in processes that are watched from outside, and replaced when they end or hang."""

from __future__ import annotations

import contextlib
import encodings.cp437  # noqa: F401  # so that zipfile need not import it while imports are forbidden
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scripts.fuzzing.campaign import Outcomes
from scripts.fuzzing.file_reader import FileReader, use_cache_of
from scripts.fuzzing.sandbox import (
    OPENED,
    REFUSED,
    Sandbox,
    Watch,
    current_memory_mib,
    fault,
    is_fault,
    patience_sec,
    peak_memory_mib,
    reset_peak_memory,
)

_MAX_OUTCOME_LETTERS = 1000
_READY = b'ready\n'


@dataclass(frozen=True)
class Trial:
    """A file to try on a reader."""

    reader: FileReader
    name: str
    content: bytes


class Worker:
    """A process that tries every `stride`-th file of a campaign.

    Args:
        readers: Readers to try the files on in turn.
        folder: Where their files are; they may read nothing else.
        first: Number of the first file.
        stride: Distance of the numbers.
        seed: Random seed of the campaign.
        limit_sec: Time for one file.
    """

    def __init__(
        self, readers: list[FileReader], folder: Path, first: int, stride: int, seed: int, limit_sec: float = 10
    ):
        self._readers, self._folder, self._seed, self._limit_sec = readers, folder, seed, limit_sec
        self._next, self._stride = first, stride

    def _reader_of(self, number: int) -> FileReader:
        return self._readers[number // self._stride % len(self._readers)]

    def trial(self, number: int) -> Trial:
        """Return the file with this number."""
        rng = random.Random(f'{self._seed} {number}')
        reader = self._reader_of(number)
        name = rng.choice(list(reader.files))
        mutate = rng.choice(reader.mutations)
        content = mutate(reader.files[name], rng, list(reader.files.values()))
        return Trial(reader, f'{mutate.__name__} of {name} for {reader.name}, number {number}', content)

    def run(self, count: int, outcomes: Outcomes) -> Iterator[None]:
        """Try the files below the number `count`; yield after each outcome."""
        while self._next < count:
            receiver, sender = os.pipe()
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                os.close(receiver)
                self._work_in_child(count, sender)
            os.close(sender)
            try:
                with open(receiver, 'rb') as answers:
                    yield from self._collect(answers, count, outcomes)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def _collect(self, answers: BinaryIO, count: int, outcomes: Outcomes) -> Iterator[None]:
        """Add the outcomes that a child process reports, until it has finished, ends or hangs."""
        if answers.readline() != _READY:
            raise RuntimeError('the readers do not accept their valid files; see the error above')
        while self._next < count:
            ready, _, _ = select.select([answers], [], [], patience_sec(self._limit_sec))
            seconds, name, outcome = _parse(answers.readline().decode() if ready else '')
            has_answered = outcome != ''
            if not has_answered:
                outcome = fault('its process ended' if ready else f'more than {patience_sec(self._limit_sec)} s')
            reader = self._reader_of(self._next)
            outcomes.add(reader.name, name, outcome, seconds)
            if is_fault(outcome):
                trial = self.trial(self._next)
                outcomes.save(trial.name, reader.path.name, trial.content, outcome)
            self._next += self._stride
            yield
            if not has_answered:
                return

    def _work_in_child(self, count: int, sender: int) -> None:
        try:
            use_cache_of(self._folder)
            watch = Watch(self._folder)
            sandboxes = {reader.name: self._sandbox(reader, watch) for reader in self._readers}
            os.write(sender, _READY)
            for number in range(self._next, count, self._stride):
                trial = self.trial(number)
                start = time.perf_counter()
                outcome = _try_within_memory(sandboxes[trial.reader.name], trial.content)
                line = ' '.join(outcome.split())[:_MAX_OUTCOME_LETTERS]
                answer = f'{time.perf_counter() - start:.3f}\t{trial.name}\t{line}\n'
                os.write(sender, answer.encode(errors='replace'))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def _sandbox(self, reader: FileReader, watch: Watch) -> Sandbox:
        """Return the sandbox of a reader that has read its valid files, which also imports what it imports late."""
        sandbox = Sandbox(
            reader.read, reader.refusal, watch, self._limit_sec, memory_mib=reader.memory_mib, place=reader.place
        )
        for name, content in reader.files.items():
            with contextlib.suppress(*(reader.refusal if isinstance(reader.refusal, tuple) else [reader.refusal])):
                sandbox.read(sandbox.place(content))
            outcome = sandbox.try_here(content)
            if outcome != (REFUSED if name in reader.refused else OPENED):
                raise ValueError(f'the valid file {name!r} for {reader.name}: {outcome}')
        return sandbox


def _parse(answer: str) -> tuple[float, str, str]:
    """Return seconds, name of the trial and outcome; an answer that is not complete has no outcome."""
    seconds, _, rest = answer.partition('\t')
    name, _, outcome = rest.partition('\t')
    return (float(seconds), name, outcome.rstrip('\n')) if outcome.endswith('\n') else (0.0, '', '')


def _try_within_memory(sandbox: Sandbox, content: bytes) -> str:
    reset_peak_memory()
    before_mib = current_memory_mib()
    outcome = sandbox.try_here(content)
    memory_mib, bound_mib = peak_memory_mib() - before_mib, sandbox.memory_bound_mib(len(content))
    if memory_mib > bound_mib and not is_fault(outcome):
        outcome = fault(f'{memory_mib:.0f} MiB of memory, more than {bound_mib:.0f}')
    return outcome


def run_side_by_side(workers: list[Worker], count: int, outcomes: Outcomes, progress: Callable[[], object]) -> None:
    """Run workers to the file number `count`, and report each outcome to `progress`."""
    running = [worker.run(count, outcomes) for worker in workers]
    while running:
        for steps in running[:]:
            try:
                next(steps)
                progress()
            except StopIteration:
                running.remove(steps)
