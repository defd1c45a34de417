"""Properties of this machine (processor, cores, free memory), and the setup of its threads and its memory allocator."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path

_CGROUPS = Path('/sys/fs/cgroup')

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1

_SPINNING_VARIABLES = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')
_SPINS = 1000  # tens of microseconds
_ALLOCATOR_VARIABLES = ('MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'MALLOC_TOP_PAD_')

# ---------------------------------------------------------------------------------------------------------------------
# Processor


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def processor_name() -> str:
    """Return the model name of the CPU, or the architecture on systems that do not report a model."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def limit_spinning() -> bool:
    """Let threads of OpenMP that wait for each other spin for microseconds only; return whether this was set.

    By default a thread of GNU's OpenMP, which PyTorch uses on Linux, occupies its core while it waits. If other
    programs need that core, the thread that is waited for may not run, and training beside them takes many times as
    long (`bench/shared_cores.py`). Threads that sleep at once are slower on quiet machines.

    OpenMP reads the setting when it is loaded, so this has no effect after PyTorch was imported. Does nothing if the
    environment says how threads wait (`OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`).
    """
    if any(name in os.environ for name in _SPINNING_VARIABLES):
        return False
    os.environ['GOMP_SPINCOUNT'] = str(_SPINS)
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Memory


@functools.cache
def keep_freed_memory() -> bool:
    """Configure the allocator of this process to keep freed memory for reuse; return whether it was configured.

    By default glibc requests every large block from the kernel and returns it as soon as it is freed. The next tensor
    then starts with pages that the kernel has to clear and map again, one fault for each 4 KiB: in a generator of 1024
    pixels that takes longer than the convolutions. Peak memory hardly changes.

    Only glibc is configured, and only if the environment does not configure its allocator itself (`MALLOC_...`,
    `GLIBC_TUNABLES`). Each process calls this before anything else; forked processes inherit the setting.
    """
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if any(name in os.environ for name in _ALLOCATOR_VARIABLES) or 'glibc.malloc' in tunables:
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        _ = library.gnu_get_libc_version
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    return mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, _NEVER) == 1


def free_ram_bytes() -> int | None:
    """Return how much memory new processes can use before the system swaps or kills, or None if that is unknown.

    Limits of containers, Slurm jobs and services (control groups) are taken into account.
    """
    free = [num_bytes for num_bytes in (_available_on_linux(), *_left_in_control_groups()) if num_bytes is not None]
    return max(min(free), 0) if free else None


def _available_on_linux() -> int | None:
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:  # not Linux
        return None
    kib = [int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
    return kib[0] * 1024 if kib else None


def _left_in_control_groups() -> list[int]:
    """Return the bytes left below each memory limit that applies to this process."""
    try:
        memberships = Path('/proc/self/cgroup').read_text(encoding='utf-8').splitlines()
    except OSError:
        return []
    left = []
    for membership in memberships:
        _number, controllers, path = membership.split(':', 2)
        if controllers == '':
            root, names = _CGROUPS, ('memory.max', 'memory.current', ('inactive_file', 'active_file'))
        elif 'memory' in controllers.split(','):
            root = _CGROUPS / 'memory'
            names = ('memory.limit_in_bytes', 'memory.usage_in_bytes', ('total_inactive_file', 'total_active_file'))
        else:
            continue
        # Inside a container the path may be that of the host, where only the root of the hierarchy is visible here.
        group = root / path.strip('/')
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                left += _left_in_control_group(folder, *names)
    return left


def _left_in_control_group(folder: Path, limit_name: str, usage_name: str, cached: tuple[str, ...]) -> list[int]:
    """Return what a memory limit leaves, as a list of one number; [] without a limit. Cached files count as free."""
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (limit_name, usage_name))
        statistics = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
    except OSError:
        return []
    if limit == 'max':
        return []
    return [int(limit) - int(usage) + sum(int(statistics.get(name, 0)) for name in cached)]
