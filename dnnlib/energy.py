"""Meters of energy: of processors by Linux's power capping interface, of NVIDIA cards by their driver.

A meter that cannot be read says nothing: many systems allow only root to read the processor's, and containers hide it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnnlib.files import read_file

POWERCAP = Path('/sys/class/powercap')
_PACKAGE = re.compile(r'intel-rapl:\d+')  # of AMD, too; "psys" contains all packages, "intel-rapl-mmio" repeats them
_PART = re.compile(r'intel-rapl:\d+:\d+')  # of a package; only memory is not counted in it
_MAX_BYTES = 65_536  # what the size of such a file may claim to be; it holds one number or name
_MAX_MICROJOULES = 2**63
_MAX_ZONES = 256


class ProcessorEnergy:
    """The joules that the processor packages of this machine and their memory have used, for all programs on it.

    The counters wrap around, within the hour at 100 W, so read them more often than that.

    Args:
        root: The folder of the zones.
    """

    def __init__(self, root: Path = POWERCAP):
        self._zones = _zones(root)
        self._joules = 0.0
        self._last = self._read()

    def joules(self) -> float | None:
        """Return the energy used since this object was constructed; None, from then on, if a counter is unreadable."""
        now = self._read()
        if self._last is None or now is None:
            self._last = None
            return None
        for (_path, wraps_at), before, value in zip(self._zones, self._last, now):
            used = value - before if value >= before else value - before + wraps_at
            self._joules += max(used, 0) / 1e6
        self._last = now
        return self._joules

    def _read(self) -> list[int] | None:
        values = [_number(path) for path, _wraps_at in self._zones]
        known = [value for value in values if value is not None]
        return known if known and len(known) == len(values) else None


def _zones(root: Path) -> list[tuple[Path, int]]:
    """Return the counters to add up, and the microjoules at which each wraps around."""
    try:
        names = sorted(os.listdir(root))[:_MAX_ZONES]
    except OSError:
        return []
    zones = []
    for name in names:
        label = _text(root / name / 'name') or ''
        is_package = _PACKAGE.fullmatch(name) and label.startswith('package')
        if is_package or (_PART.fullmatch(name) and label == 'dram'):
            wraps_at = _number(root / name / 'max_energy_range_uj')
            if wraps_at:
                zones.append((root / name / 'energy_uj', wraps_at))
    return zones


def _text(path: Path) -> str | None:
    try:
        return read_file(path, _MAX_BYTES).decode('ascii').strip()
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path) or ''
    number = int(text) if re.fullmatch(r'\d{1,20}', text) else None
    return number if number is not None and number <= _MAX_MICROJOULES else None


class CardEnergy:
    """The joules that an NVIDIA card has used, for all programs on it, if the package nvidia-ml-py is installed.

    Args:
        uuid: UUID of the card, as PyTorch gives it.
    """

    def __init__(self, uuid: str | None):
        self._read = None if uuid is None else _reader_of_card(uuid)

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded; None, from then on, if the driver does not say."""
        if self._read is None:
            return None
        try:
            return float(self._read()) / 1e3
        except Exception:  # the error classes are the package's own; with any error, the energy is unknown
            self._read = None
            return None


def _reader_of_card(uuid: str) -> Callable[[], Any] | None:
    """Return a function that returns millijoules, or None if the package, the driver or the card is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f'GPU-{uuid.removeprefix("GPU-")}')
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # the error classes are the package's own
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
