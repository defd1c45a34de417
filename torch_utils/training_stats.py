"""Statistics reported from anywhere in the code, accumulated over time and ranks.

`report(name, values)` adds to the count, sum and sum of squares stored under a name, on the device of the values and
without synchronizing with it. A `Collector` reads what was reported since its last update, reduced over all ranks. All
ranks must report the same names. Moments of CUDA devices stay there until somebody asks for a number, so that an update
waits for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

import dnnlib

T = TypeVar('T')

# Moments are tensors [count, sum, sum of squares].
_pending: dict[str, dict[torch.device, torch.Tensor]] = {}  # by name and device: of this rank, not yet reduced
_totals: dict[str, torch.Tensor] = {}  # by name: of all ranks, everything reduced so far, float64 on CUDA or the CPU
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
    """Return [count, sum, sum of squares] of everything reduced so far, by name, on the CPU, for `set_state`."""
    return on_host(_totals)


def pending() -> dict[str, dict[str, torch.Tensor]]:
    """Return the moments of this rank that have not been reduced yet, by name and device, for `set_state`."""
    result: dict[str, dict[str, torch.Tensor]] = {}
    for name, by_device in _pending.items():
        moments_of = {str(device): moments.to('cpu', copy=True) for device, moments in by_device.items()}
        result[name] = {device: moments for device, moments in moments_of.items() if moments.any()}
    return result


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
                _add_pending(name, moments.to('cpu' if device_name == 'cpu' else device, copy=True))


def on_host(moments_by_name: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return moments on the CPU by name; all those of a device are copied together, which waits for it once."""
    by_device: dict[torch.device, list[str]] = {}
    for name, moments in moments_by_name.items():
        by_device.setdefault(moments.device, []).append(name)
    rows: dict[str, torch.Tensor] = {}
    for names in by_device.values():
        rows.update(zip(names, torch.stack([moments_by_name[name] for name in names]).cpu().unbind()))
    return {name: rows[name].clone() for name in moments_by_name}


def _add_pending(name: str, moments: torch.Tensor) -> None:
    """Add to the moments of a name in place: a CUDA graph that reports keeps adding to the same memory."""
    by_device = _pending.setdefault(name, {})
    if moments.device in by_device:
        by_device[moments.device].add_(moments)
    else:
        by_device[moments.device] = moments


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


def _take_pending(name: str) -> torch.Tensor:
    """Return the pending moments of a name, on a CUDA device if some are there, and set them to zero."""
    parts = list(_pending.get(name, {}).values())
    device = next((part.device for part in parts if part.device.type == 'cuda'), torch.device('cpu'))
    total = torch.zeros(3, device=device, dtype=torch.float64)
    for part in parts:
        total += part.to(device=device, dtype=torch.float64)
        part.zero_()
    return total


def _reduce(names: Sequence[str]) -> None:
    """Move the pending moments of these names into the totals."""
    if not names:
        return
    rows = [_take_pending(name) for name in names]
    if _reduction['device'] is not None:
        device = torch.device(_reduction['device'])
        table = torch.stack([row.to(device=device, dtype=_accumulation_dtype(device)) for row in rows])  # [names, 3]
        torch.distributed.all_reduce(table)
        rows = list(table if device.type == 'cuda' else table.to(device='cpu', dtype=torch.float64))
    for name, moments in zip(names, rows):
        _totals[name] = _total(_totals, name, moments.device) + moments


def _total(totals_by_name: Mapping[str, torch.Tensor], name: str, device: torch.device) -> torch.Tensor:
    """Return the moments of a name on a device; zeros for one that has none."""
    if name in totals_by_name:
        return totals_by_name[name].to(device)
    return torch.zeros(3, dtype=torch.float64, device=device)


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
        self._on_host: dict[str, torch.Tensor] | None = None  # the same, once a number has been asked for
        self.update()
        self._moments.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this collector; with `totals` and `pending` it determines its next values."""
        return dict(seen=on_host(self._seen), moments=dict(self._host_moments()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._seen, self._moments, self._on_host = dict(state['seen']), dict(state['moments']), None

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
            total = _totals[name]
            fresh = total - _total(self._seen, name, total.device)
            self._seen[name] = total
            if name in self._moments:
                fresh = torch.where(fresh[0] != 0, fresh, self._moments[name].to(total.device))
            self._moments[name] = fresh
        self._on_host = None

    def moments(self, name: str, device: torch.device) -> torch.Tensor:
        """Return [count, sum, sum of squares] of what was reported between the last two updates, float64."""
        return _total(self._moments, name, device)

    def _host_moments(self) -> dict[str, torch.Tensor]:
        """Return the moments of all names that have numbers, on the CPU; waits for the devices, once an update."""
        if self._on_host is None:
            self._on_host = {name: moments for name, moments in on_host(self._moments).items() if moments[0] != 0}
        return self._on_host

    def _triple(self, name: str) -> list[float]:
        return self._host_moments().get(name, torch.zeros(3, dtype=torch.float64)).tolist()

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
