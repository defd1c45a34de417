"""What ends a training and is not a bug, in a sentence with the way out."""

import contextlib
import re
import time

import torch
from torch.utils.data._utils import signal_handling

from training.dataset import ImageError

_OUT_OF_CPU_MEMORY = re.compile("DefaultCPUAllocator|can't allocate memory|not enough memory|std::bad_alloc")
_WORKER_ENDED = re.compile(r'DataLoader worker \(pid\S* (?P<pid>[\d, ]+)\) (?P<how>(?:is|exited) [^.]+)')


# How long a process that has ended may leave its connection broken before the system says that it has ended.
_PATIENCE_SEC = 2


@contextlib.contextmanager
def errors_as_sentences(config):
    """What other data, options or more memory help against becomes a ValueError that says so, raised here."""
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(out_of_memory(config, 'the GPU')) from error
    except MemoryError as error:
        raise ValueError(out_of_memory(config, 'this machine')) from error
    except (ConnectionError, EOFError) as error:  # An image that comes from another process, or something else.
        text = _death_of_a_worker(_PATIENCE_SEC)
        if text is None:
            raise
        raise ValueError(_worker_ended(text)) from error
    except RuntimeError as error:
        sentence = _sentence(str(error), config)
        if sentence is None:
            raise
        raise ValueError(sentence) from error


def _sentence(text, config):
    if 'DataLoader worker' in text:
        return _worker_ended(_death_of_a_worker() or text)
    if _OUT_OF_CPU_MEMORY.search(text):
        return out_of_memory(config, 'this machine')
    return None


def _death_of_a_worker(patience_sec=0):
    """What PyTorch says of a process of its data loaders that has died, None where there is none.

    PyTorch says it once, by raising an error wherever the program is when a signal comes: also while it prints another.
    Whoever has asked is not told again.
    """
    deadline = time.monotonic() + patience_sec
    try:
        while True:
            signal_handling._error_if_any_worker_fails()
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)
    except RuntimeError as error:
        return str(error)


def _worker_ended(text):
    match = _WORKER_ENDED.search(text)
    which = f' (process {match["pid"]} {match["how"]})' if match else ''
    return (
        f'A process that reads images has ended{which}, perhaps for want of memory: use fewer --workers, or none '
        '(0), or give a container more shared memory (docker --ipc=host).'
    )


def out_of_memory(config, whose):
    """A sentence with the values of --batch-gpu that need less.

    Args:
        config: `training.config.TrainingConfig`.
        whose: Memory, in words.
    """
    what = f'The memory of {whose} is too small for {config.batch_gpu} images at once'
    smaller = smaller_batches(config)
    if not smaller:
        return f'{what}: use a smaller --cbase or --cmax, or images of a lower resolution.'
    values = ' or '.join(str(value) for value in smaller)
    return (
        f'{what}: add --batch-gpu={values} (which leaves the batch as it is and takes more time), or use a smaller '
        '--cbase or --cmax.'
    )


def smaller_batches(config):
    """What --batch-gpu could be instead, largest first: divisors of a process's share of the batch.

    The discriminator compares images in groups; fewer at once than a group would be another training, but for those
    that cannot be avoided.
    """
    share = config.batch_size // config.num_gpus
    group = config.D_kwargs.get('epilogue_kwargs', {}).get('mbstd_group_size') or 1
    divisors = [size for size in range(config.batch_gpu - 1, 0, -1) if share % size == 0]
    whole_groups = [size for size in divisors if size % group == 0]
    return whole_groups or divisors
