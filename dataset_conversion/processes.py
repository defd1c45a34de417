"""Apply a function to many items in several processes, with the results in order.

Items are sent in chunks, and the number of chunks in flight is limited, so that memory stays bounded for any number of
items.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar('Result')


def map_in_processes(
    function: Callable[[Any], Result], items: Sequence[Any], chunk_size: int, workers: int
) -> Generator[Result, None, None]:
    """Yield the function of each item, in order. Close the generator to stop early.

    Args:
        function: Picklable; each process gets a copy of its own.
        items: Arguments.
        chunk_size: Items that are sent to a process at once.
        workers: Number of processes; 1 works in this one.

    Raises:
        ValueError: A process was killed.
    """
    chunks = list(_chunks(items, chunk_size))
    if workers == 1 or len(chunks) == 1:
        for item in items:
            yield function(item)
        return

    workers = min(workers, len(chunks))
    # Spawned processes, not forks: a fork of a process that has threads (those of numpy or tqdm) can hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
        initargs=(function,),
    )
    try:
        in_flight: deque[concurrent.futures.Future] = deque()
        for chunk in chunks:
            with _interrupts_blocked():
                in_flight.append(pool.submit(_apply_to_chunk, chunk))
            if len(in_flight) > 2 * workers:
                yield from in_flight.popleft().result()
        while in_flight:
            yield from in_flight.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            'A worker process was killed, perhaps for lack of memory; use fewer processes (--workers).'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Delay Ctrl-C until the block ends, and block it permanently in processes started in the block.

    A terminal sends it to all processes, but only the main one should react and stop the others.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_function: Callable[[Any], Any]


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems where signals cannot be blocked (Windows)
    _function = function
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the main process does: if it is killed, it cannot stop its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _apply_to_chunk(chunk: Sequence[Any]) -> list[Any]:
    return [_function(item) for item in chunk]
