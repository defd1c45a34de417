"""Statistics reported from anywhere in the code, accumulated over time and ranks.

`report(name, values)` adds to the count, sum and sum of squares stored under a name, on the device of the values and
without synchronizing with it. A `Collector` reads what was reported since its last update, reduced over all ranks. All
ranks must report the same names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

import dnnlib

T = TypeVar('T')

# Moments are tensors [count, sum, sum of squares].
_pending: dict[str, dict[torch.device, torch.Tensor]] = {}  # by name and device: of this rank, not yet reduced
_totals: dict[str, torch.Tensor] = {}  # by name: of all ranks, everything reduced so far, float64 on the CPU
_reduction: dict[str, Any] = dict(rank=0, device=None)


def init_multiprocessing(rank: int, sync_device: torch.device | None) -> None:
    """Set the rank of this process, and the device to reduce on; None for a single process."""
    _reduction.update(rank=rank, device=sync_device)


def reset() -> None:
    """Forget everything reported so far, and the reduction over ranks."""
    _pending.clear()
    _totals.clear()
    init_multiprocessing(rank=0, sync_device=None)


def totals() -> dict[str, torch.Tensor]:
    """Return [count, sum, sum of squares] of everything reduced so far, by name, for `set_state`."""
    return dict(_totals)


def pending() -> dict[str, dict[str, torch.Tensor]]:
    """Return the moments of this rank that have not been reduced yet, by name and device, for `set_state`."""
    return {
        name: {str(device): moments.cpu() for device, moments in by_device.items()}
        for name, by_device in _pending.items()
    }


def set_state(
    totals_before: dict[str, torch.Tensor],
    pending_before: Sequence[dict[str, dict[str, torch.Tensor]]],
    device: torch.device,
) -> None:
    """Continue from the `totals` of an earlier process and the `pending` moments of several, which are added up.

    Args:
        totals_before: Result of `totals`.
        pending_before: Results of `pending`, on one or several ranks.
        device: Device of this process, for moments that were not on the CPU.
    """
    _totals.clear()
    _totals.update(totals_before)
    _pending.clear()
    for rank_pending in pending_before:
        for name, by_device in rank_pending.items():
            _pending.setdefault(name, {})
            for device_name, moments in by_device.items():
                _add_pending(name, moments.to('cpu' if device_name == 'cpu' else device))


def _add_pending(name: str, moments: torch.Tensor) -> None:
    by_device = _pending.setdefault(name, {})
    device = moments.device
    by_device[device] = by_device[device] + moments if device in by_device else moments


def _accumulation_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == 'mps' else torch.float64


def report(name: str, value: T) -> T:
    """Add numbers to a statistic and return them unchanged. Infinities and NaN are ignored.

    Args:
        name: Any text; slashes group statistics, as in 'Loss/G/loss'.
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


def report0(name: str, value: T) -> T:
    """Report the value of rank 0 only; must be called on all ranks."""
    report(name, value if _reduction['rank'] == 0 else [])
    return value


def _reduce(names: Sequence[str]) -> None:
    """Move the pending moments of these names into the totals."""
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
    """Mean, standard deviation and count of the statistics whose names match `regex`, between two updates.

    Args:
        regex: Regular expression that must match the whole name.
        keep_previous: Keep the values of a statistic that nothing was reported for since the last update.
    """

    def __init__(self, regex: str = '.*', keep_previous: bool = True):
        self._regex = re.compile(regex)
        self._keep_previous = keep_previous
        self._seen: dict[str, torch.Tensor] = {}  # totals at the last update
        self._moments: dict[str, torch.Tensor] = {}  # between the last two updates
        self.update()
        self._moments.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this collector; with `totals` and `pending` it determines its next values."""
        return dict(seen=dict(self._seen), moments=dict(self._moments))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._seen, self._moments = dict(state['seen']), dict(state['moments'])

    def names(self) -> list[str]:
        """Return the sorted names of the matching statistics reported so far."""
        return sorted(name for name in _pending.keys() | _totals.keys() if self._regex.fullmatch(name))

    def update(self) -> None:
        """Read everything reported since the last update. Collective."""
        names = self.names()
        _reduce(names)
        if not self._keep_previous:
            self._moments.clear()
        for name in names:
            fresh = _totals[name] - self._seen.get(name, torch.zeros(3, dtype=torch.float64))
            self._seen[name] = _totals[name]
            if fresh[0] != 0:
                self._moments[name] = fresh

    def _triple(self, name: str) -> list[float]:
        return self._moments.get(name, torch.zeros(3, dtype=torch.float64)).tolist()

    def num(self, name: str) -> int:
        """Return the count of numbers reported between the last two updates."""
        return int(self._triple(name)[0])

    def mean(self, name: str) -> float:
        """Return their mean, or NaN without numbers."""
        count, total, _squares = self._triple(name)
        return total / count if count else float('nan')

    def std(self, name: str) -> float:
        """Return their standard deviation, or NaN without numbers."""
        count, total, squares = self._triple(name)
        if not count:
            return float('nan')
        return float(np.sqrt(max(squares / count - (total / count) ** 2, 0)))

    def as_dict(self) -> dnnlib.EasyDict:
        """Return EasyDict(num, mean, std) of all matching statistics, by name."""

        def row(name: str) -> dnnlib.EasyDict:
            return dnnlib.EasyDict(num=self.num(name), mean=self.mean(name), std=self.std(name))

        return dnnlib.EasyDict({name: row(name) for name in self.names()})

    def __getitem__(self, name: str) -> float:
        return self.mean(name)
