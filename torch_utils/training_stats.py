"""Statistics reported from anywhere in the code, summed up over time and over ranks.

`report(name, values)` adds to the count, sum and sum of squares kept under that name, on the
values' own device and without waiting for it. A `Collector` reads what has come since its last
update, reduced over all ranks. All ranks must report the same names.
"""

import re

import numpy as np
import torch

import dnnlib

_pending = {}  # name → {device: [count, sum, sum of squares] since the last reduction, this rank's}
_totals = {}  # name → the same three over everything reduced so far, all ranks', float64 on the CPU
_reduction = dict(rank=0, device=None)


def init_multiprocessing(rank, sync_device):
    """Tell this process its rank, and the device to reduce on; `sync_device=None`: a single process."""
    _reduction.update(rank=rank, device=sync_device)


def reset():
    """Forget everything reported so far, and the reduction over ranks."""
    _pending.clear()
    _totals.clear()
    init_multiprocessing(rank=0, sync_device=None)


def totals():
    """Name → [count, sum, sum of squares] over everything reduced so far, for `set_state`."""
    return dict(_totals)


def pending():
    """Name → {device's name: the same three of what this rank has not reduced yet}, for `set_state`."""
    return {
        name: {str(device): moments.cpu() for device, moments in by_device.items()}
        for name, by_device in _pending.items()
    }


def set_state(totals_before, pending_before, device):
    """Go on from the `totals` of an earlier process and the `pending` of several, which are added up.

    Args:
        totals_before: What `totals` has returned.
        pending_before: List of what `pending` has returned, on one rank or on several.
        device: Of this process, for what was on one that is not the CPU.
    """
    _totals.clear()
    _totals.update(totals_before)
    _pending.clear()
    for of_rank in pending_before:
        for name, by_device in of_rank.items():
            _pending.setdefault(name, {})
            for device_name, moments in by_device.items():
                _add_pending(name, moments.to('cpu' if device_name == 'cpu' else device))


def _add_pending(name, moments):
    by_device = _pending.setdefault(name, {})
    device = moments.device
    by_device[device] = by_device[device] + moments if device in by_device else moments


def _accumulation_dtype(device):
    return torch.float32 if device.type == 'mps' else torch.float64


def report(name, value):
    """Add numbers to the statistic `name`; returns `value` unchanged. Infinite ones and NaN are left out.

    Args:
        name: Any string; a slash groups it, as in 'Loss/G/loss'.
        value: Tensor, array, number or nested list of any shape; an empty one registers the name.
    """
    values = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value, dtype=np.float64))
    device = values.device
    values = values.flatten().to(_accumulation_dtype(device))
    finite = values.isfinite()
    values = torch.where(finite, values, 0)
    moments = torch.stack([finite.sum().to(values.dtype), values.sum(), values.square().sum()])
    _add_pending(name, moments)
    return value


def report0(name, value):
    """As `report`, with the value of rank 0 alone; to be called on all ranks."""
    report(name, value if _reduction['rank'] == 0 else [])
    return value


def _reduce(names):
    """Move what is pending under these names into the totals."""
    if not names:
        return
    device = torch.device('cpu' if _reduction['device'] is None else _reduction['device'])
    dtype = _accumulation_dtype(device)
    rows = []
    for name in names:
        parts = [moments.to(device=device, dtype=dtype) for moments in _pending.get(name, {}).values()]
        rows.append(torch.stack(parts).sum(dim=0) if parts else torch.zeros(3, device=device, dtype=dtype))
        _pending[name] = {}
    table = torch.stack(rows)  # [names, 3]
    if _reduction['device'] is not None:
        torch.distributed.all_reduce(table)
    for name, moments in zip(names, table.to(device='cpu', dtype=torch.float64)):
        _totals[name] = _totals.get(name, torch.zeros(3, dtype=torch.float64)) + moments


class Collector:
    """Mean, deviation and count of the statistics whose name matches `regex`, between two updates.

    Args:
        regex: Regular expression that a whole name must match.
        keep_previous: A statistic that got nothing since the last update keeps its values.
    """

    def __init__(self, regex='.*', keep_previous=True):
        self._regex = re.compile(regex)
        self._keep_previous = keep_previous
        self._seen = {}  # name → totals at the last update
        self._moments = {}  # name → what came between the last two updates
        self.update()
        self._moments.clear()

    def state_dict(self):
        """What this collector has seen; with `totals` and `pending`, all that its next values depend on."""
        return dict(seen=dict(self._seen), moments=dict(self._moments))

    def load_state_dict(self, state):
        """The inverse of `state_dict`."""
        self._seen, self._moments = dict(state['seen']), dict(state['moments'])

    def names(self):
        """Sorted names of the matching statistics reported so far."""
        return sorted(name for name in _pending.keys() | _totals.keys() if self._regex.fullmatch(name))

    def update(self):
        """Take in everything reported since the last update; to be called on all ranks."""
        names = self.names()
        _reduce(names)
        if not self._keep_previous:
            self._moments.clear()
        for name in names:
            fresh = _totals[name] - self._seen.get(name, torch.zeros(3, dtype=torch.float64))
            self._seen[name] = _totals[name]
            if fresh[0] != 0:
                self._moments[name] = fresh

    def _triple(self, name):
        return self._moments.get(name, torch.zeros(3, dtype=torch.float64)).tolist()

    def num(self, name):
        """How many numbers were reported between the last two updates."""
        return int(self._triple(name)[0])

    def mean(self, name):
        """Their mean; NaN where there were none."""
        count, total, _squares = self._triple(name)
        return total / count if count else float('nan')

    def std(self, name):
        """Their standard deviation; NaN where there were none."""
        count, total, squares = self._triple(name)
        if not count:
            return float('nan')
        return float(np.sqrt(max(squares / count - (total / count) ** 2, 0)))

    def as_dict(self):
        """{name: EasyDict(num, mean, std)} of all matching statistics."""

        def row(name):
            return dnnlib.EasyDict(num=self.num(name), mean=self.mean(name), std=self.std(name))

        return dnnlib.EasyDict({name: row(name) for name in self.names()})

    def __getitem__(self, name):
        return self.mean(name)
