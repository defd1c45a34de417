"""A rehearsal device: CUDA without a GPU, on the CPU build of PyTorch, for tests.

`install()` makes this process believe that it has GPUs: tensors on `cuda:N` are real ones, in the memory of the CPU
(`device.cpp`), `torch.cuda` answers as on such a machine, and this project's CUDA kernels run in their emulation.
Processes that are started with `environment()` do the same when Python starts, and so do theirs.

    REHEARSAL_DEVICES      number of GPUs
    REHEARSAL_MEMORY_MIB   memory of each
    REHEARSAL_SHARED_RNG   1: random numbers on the devices are the next ones of the CPU's generator, so that a program
                           draws the same numbers on both
    REHEARSAL_COUNTS       file that gets the counters when a process ends, one line of JSON per process
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
MEMORY_MIB = 16 * 1024
_SETTLING_SEC = 0.05  # for autograd's threads of the devices, which may still release tensors


def environment(devices: int = 1, **more: object) -> dict[str, str]:
    """Return the environment variables that install the device in a process; `memory_mib=64` sets one of the above."""
    variables = {'REHEARSAL_DEVICES': str(devices), 'PYTHONPATH': f'{FOLDER / "site"}{os.pathsep}{ROOT}'}
    return variables | {f'REHEARSAL_{name.upper()}': str(value) for name, value in more.items()}


def install(devices: int = 1, memory_mib: int = MEMORY_MIB, shared_rng: bool = False) -> None:
    """Install the device in this process, once and for all, before PyTorch is imported."""
    from tests.rehearsal.backend import backend

    backend().rehearsal_start(devices, memory_mib * 2**20, int(shared_rng))
    from tests.rehearsal import fake_cuda

    fake_cuda.install(devices, memory_mib * 2**20)
    atexit.register(time.sleep, _SETTLING_SEC)
    counts_file = os.environ.get('REHEARSAL_COUNTS')
    if counts_file:
        atexit.register(_append_counts, counts_file)


def _append_counts(path: str) -> None:
    from tests.rehearsal.backend import counts, synchronizations

    line = json.dumps({**counts(), 'by operator': synchronizations()})
    with open(path, 'a', encoding='utf-8') as file:
        file.write(line + '\n')
