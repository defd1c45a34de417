"""What a tick has achieved and used: images and operations per second, the share of the card's peak, and energy.

Operations are those that the networks need (`training.work`), not those that are executed. A share is that of the time
that the cards would need for them at their peak in the precision of each layer. Nothing here waits for a GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import torch

from dnnlib.energy import CardEnergy, ProcessorEnergy
from torch_utils import distributed
from torch_utils.card_peaks import peak_of
from torch_utils.distributed import World
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.work import ImageWork, image_work

IMAGES_PER_SEC = 'Timing/images_per_sec'
TFLOP_PER_SEC = 'Timing/tflop_per_sec'
SHARE_OF_PEAK = 'Timing/share_of_peak'
ENERGY = {'gpu': 'Resources/gpu_energy_wh_per_kimg', 'cpu': 'Resources/cpu_energy_wh_per_kimg'}

_POLL_SEC = 60  # how often counters that wrap around are read
_JOULES_PER_WH = 3600


class Efficiency:
    """Measure the ticks of a run, on all ranks: `start_tick`, `poll` after each batch, then `end_tick`.

    Args:
        world: Ranks.
        config: Configuration of the run.
        dataset: Determines the shapes of images and labels.
    """

    def __init__(self, world: World, config: TrainingConfig, dataset: ImageFolderDataset):
        self._world = world
        work = image_work(config, dataset)
        self._tflop_per_image = work.total / 1e12
        self._peak_sec_per_image = _peak_sec_per_image(world, config, work)
        self._meter = EnergyMeter(world)

    def start_tick(self) -> None:
        """Start to measure."""
        self._meter.start()

    def poll(self) -> None:
        """Read counters before they wrap around. Cheap; call it after each batch."""
        self._meter.poll()

    def end_tick(self, tick_sec: float, tick_nimg: int) -> dict[str, float]:
        """Collective: return what is known of the tick by name, in the units of the names.

        Args:
            tick_sec: Length of the tick.
            tick_nimg: Images shown in it, over all ranks.
        """
        joules = self._meter.end()
        images_per_sec = tick_nimg / max(tick_sec, 1e-9)
        values = {IMAGES_PER_SEC: images_per_sec, TFLOP_PER_SEC: images_per_sec * self._tflop_per_image}
        if self._peak_sec_per_image is not None:
            values[SHARE_OF_PEAK] = images_per_sec * self._peak_sec_per_image
        for kind, used in joules.items():
            values[ENERGY[kind]] = used / _JOULES_PER_WH / (max(tick_nimg, 1) / 1e3)
        return values


def status_fields(values: Mapping[str, float]) -> list[str]:
    """Return what the status line shows of the result of `end_tick`."""
    fields = []
    if IMAGES_PER_SEC in values:
        fields.append(f'images/s {values[IMAGES_PER_SEC]:<7.1f}')
    if TFLOP_PER_SEC in values:
        fields.append(f'TFLOP/s {_significant(values[TFLOP_PER_SEC]):<7s}')
    if SHARE_OF_PEAK in values:
        fields.append(f'peak {values[SHARE_OF_PEAK]:<6.1%}')
    energies = [values[name] for name in ENERGY.values() if name in values]
    if energies:
        fields.append(f'Wh/kimg {_significant(sum(energies)):<7s}')
    return fields


def _significant(number: float) -> str:
    """Format a number with at least three significant digits, without an exponent above 1e-4."""
    return f'{number:.0f}' if abs(number) >= 100 else f'{number:.3g}'


def _peak_sec_per_image(world: World, config: TrainingConfig, work: ImageWork) -> float | None:
    """Return the seconds in which the cards of all ranks could do the work of one image; None if that is unknown."""
    if world.device.type != 'cuda':
        return None
    peak = peak_of(torch.cuda.get_device_name(world.device))
    if peak is None:
        return None
    full_rate = peak.tf32 if config.allow_tf32 and peak.tf32 is not None else peak.fp32
    half_rate = peak.bf16 if config.half_dtype == 'bfloat16' else peak.fp16
    if half_rate is None:
        if work.half > 0:
            return None
        half_rate = full_rate
    return (work.full / full_rate + work.half / half_rate) / 1e12 / world.size


# ---------------------------------------------------------------------------------------------------------------------
# Energy


class EnergyMeter:
    """The joules that all cards of a run, and the processors of all its machines, use between `start` and `end`.

    Args:
        world: Ranks. The first one of each machine reads its processors.
    """

    def __init__(self, world: World):
        self._world = world
        uses_card = world.device.type == 'cuda'
        self._card = CardEnergy(_uuid(world.device)) if uses_card else None
        is_first_here = int(os.environ.get('LOCAL_RANK', world.rank)) == 0
        self._processor = ProcessorEnergy() if is_first_here else None
        self._polled_at = 0.0
        self._before = (float('nan'), float('nan'))

    def start(self) -> None:
        """Start to measure, again or for the first time."""
        self._before = self._read()

    def poll(self) -> None:
        """Read the processor's counters if they have not been read for a minute."""
        if self._processor is not None and time.monotonic() >= self._polled_at + _POLL_SEC:
            self._polled_at = time.monotonic()
            self._processor.joules()

    def end(self) -> dict[str, float]:
        """Collective: return the joules since `start` as 'gpu' and 'cpu'; those that some rank does not know, not."""
        used = torch.tensor(self._read(), dtype=torch.float64) - torch.tensor(self._before, dtype=torch.float64)
        distributed.sum_tensors(self._world, [used])  # on the CPU: no GPU is waited for
        return {kind: value for kind, value in zip(('gpu', 'cpu'), used.tolist()) if value > 0}

    def _read(self) -> tuple[float, float]:
        """Return the counters of this rank: NaN if unknown, a constant if another rank reads it."""
        unknown = float('nan')
        card = None if self._card is None else self._card.joules()
        processor = 0.0 if self._processor is None else self._processor.joules()
        return unknown if card is None else card, unknown if processor is None else processor


def _uuid(device: torch.device) -> str | None:
    """Return the UUID of a CUDA device; None if this version of PyTorch does not know it."""
    uuid = getattr(torch.cuda.get_device_properties(device), 'uuid', None)
    return None if uuid is None else str(uuid)
