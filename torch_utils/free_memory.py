"""How much memory is free: of the machine, within the limit of a container, and of GPUs."""

import concurrent.futures
import multiprocessing
from pathlib import Path

import torch

_CGROUPS = Path('/sys/fs/cgroup')


def free_ram_bytes() -> int | None:
    """What new processes can get before the system kills some, or starts to swap; None where it does not tell."""
    free = [room for room in (_free_of_linux(), *_rooms_of_control_groups()) if room is not None]
    return max(min(free), 0) if free else None


def _free_of_linux() -> int | None:
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:  # Another system.
        return None
    kib = [int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
    return kib[0] * 1024 if kib else None


def _rooms_of_control_groups() -> list[int]:
    """What is left below each limit that holds for this process (of a container, a Slurm job, a service)."""
    try:
        memberships = Path('/proc/self/cgroup').read_text(encoding='utf-8').splitlines()
    except OSError:
        return []
    rooms = []
    for membership in memberships:
        _number, controllers, path = membership.split(':', 2)
        if controllers == '':
            root, names = _CGROUPS, ('memory.max', 'memory.current', ('inactive_file', 'active_file'))
        elif 'memory' in controllers.split(','):
            root = _CGROUPS / 'memory'
            names = ('memory.limit_in_bytes', 'memory.usage_in_bytes', ('total_inactive_file', 'total_active_file'))
        else:
            continue
        # In a container the path may be the one outside of it, of which only the end is to be seen here: the root.
        group = root / path.strip('/')
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                rooms += _room(folder, *names)
    return rooms


def _room(folder: Path, limit_name: str, usage_name: str, cached: tuple[str, ...]) -> list[int]:
    """[limit - usage], where files that the system has cached do not count as used; [] without a limit."""
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (limit_name, usage_name))
        statistics = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
    except OSError:
        return []
    if limit == 'max':
        return []
    return [int(limit) - int(usage) + sum(int(statistics.get(name, 0)) for name in cached)]


def free_cuda_bytes(indices: list[int]) -> int | None:
    """Free memory of the fullest of these CUDA devices, None where one does not answer.

    Asking takes some hundreds of MB on each device for as long as the process lives, so another process asks.
    """
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return min(pool.submit(_free_of_devices, indices).result())
        except RuntimeError:  # A device without room to ask, or with a driver that fails: training will say which.
            return None


def _free_of_devices(indices: list[int]) -> list[int]:
    return [torch.cuda.mem_get_info(index)[0] for index in indices]
