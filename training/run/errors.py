"""Errors that end a training but are not bugs, explained in a sentence that says what to do."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import torch
from torch.utils.data._utils import signal_handling

from training.batch_sizes import smaller_batch_gpus
from training.config import TrainingConfig
from training.data.decoding import ImageError

_OUT_OF_CPU_MEMORY = re.compile("DefaultCPUAllocator|can't allocate memory|not enough memory|std::bad_alloc")
_WORKER_ENDED = re.compile(r'DataLoader worker \(pid\S* (?P<pid>[\d, ]+)\) (?P<how>(?:is|exited) [^.]+)')

# How long to wait, after a connection breaks, for the system to report that a process has ended.
_WORKER_EXIT_SEC = 2


@contextlib.contextmanager
def expected_errors_explained(config: TrainingConfig) -> Iterator[None]:
    """Within this context, errors that the user can fix (data, options, memory) become a ValueError that says how.

    It is raised here, so that `dnnlib.cli.error_sentence` recognizes it as a message of this project.
    """
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(_out_of_memory(config, 'the GPU')) from error
    except MemoryError as error:
        raise ValueError(_out_of_memory(config, 'this machine')) from error
    except (ConnectionError, EOFError) as error:  # perhaps while receiving an image from another process
        failure = _data_loader_failure(_WORKER_EXIT_SEC)
        if failure is None:
            raise
        raise ValueError(_worker_ended(failure)) from error
    except OSError as error:  # one of a data loader process is the text of its traceback
        _in_worker, is_report, sentence = str(error).rpartition('\nOSError: ')
        if not is_report:
            raise
        raise OSError(sentence.strip()) from error
    except RuntimeError as error:
        message = _explanation(str(error), config)
        if message is None:
            raise
        raise ValueError(message) from error


def _explanation(text: str, config: TrainingConfig) -> str | None:
    """Return a sentence for the text of a RuntimeError, or None if it is a bug."""
    if 'DataLoader worker' in text:
        return _worker_ended(_data_loader_failure() or text)
    if _OUT_OF_CPU_MEMORY.search(text):
        return _out_of_memory(config, 'this machine')
    return None


def _data_loader_failure(wait_sec: float = 0) -> str | None:
    """Return PyTorch's message about a data loader process that has died, or None if all are alive.

    PyTorch reports it only once, as an error raised at whatever line a signal interrupts, even while another error is
    being printed. After this call it does not report it again.
    """
    deadline = time.monotonic() + wait_sec
    try:
        while True:
            signal_handling._error_if_any_worker_fails()
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)
    except RuntimeError as error:
        return str(error)


def _worker_ended(text: str) -> str:
    match = _WORKER_ENDED.search(text)
    which = f' (process {match["pid"]} {match["how"]})' if match else ''
    return (
        f'A process that reads images has ended{which}, perhaps for lack of memory: use fewer --workers, or none '
        '(0), or give a container more shared memory (docker --ipc=host).'
    )


def _out_of_memory(config: TrainingConfig, owner: str) -> str:
    """Return a sentence with the values of --batch-gpu that need less memory; `owner` is 'the GPU', for example."""
    problem = f'The memory of {owner} is too small for {config.batch_gpu} images at once'
    smaller = smaller_batch_gpus(config)
    if not smaller:
        return f'{problem}: use a smaller --cbase or --cmax, or images of a lower resolution.'
    values = ' or '.join(str(value) for value in smaller)
    return (
        f'{problem}: add --batch-gpu={values} (the batch stays the same but takes more time), or use a smaller --cbase '
        'or --cmax.'
    )
