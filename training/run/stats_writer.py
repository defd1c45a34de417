"""Numbers of a run: the status line, `stats.jsonl`, TensorBoard, trackers and the progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from dnnlib import EasyDict
from dnnlib.errors import error_sentence
from dnnlib.files import RetryingFile
from dnnlib.progress import progress_bar
from dnnlib.text import excerpt, format_time
from torch_utils import training_stats
from torch_utils.distributed import World
from training.run.efficiency import Efficiency, status_fields
from training.run.run_dir import RunDir
from training.run.tracking import Tracking

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None


class RunStatistics:
    """Collect the statistics of every tick; the main rank writes them.

    Args:
        run_dir: Where the files go.
        world: Ranks.
        total_kimg: Length of the run in thousands of images.
        start_nimg: Images shown before, if the run resumes.
        efficiency: Measures what each tick achieves and uses. None: that is left out.
        tracking: Gets the same numbers as TensorBoard, and the image grids. None: no trackers.
    """

    def __init__(
        self,
        run_dir: RunDir,
        world: World,
        total_kimg: float,
        start_nimg: int = 0,
        efficiency: Efficiency | None = None,
        tracking: Tracking | None = None,
    ):
        self.tracking = tracking or Tracking()
        self._world = world
        self._total_kimg = total_kimg
        self._collector = training_stats.Collector()
        self._start_time = self._tick_end_time = self._tick_start_time = time.time()
        self._maintenance_sec = 0.0
        self._efficiency = efficiency
        self._achieved: dict[str, float] = {}  # in the last tick, on the main rank
        self._jsonl: RetryingFile | None = None
        self._tensorboard: SummaryWriter | None = None
        self._bar = None
        self._quiet_threads = contextlib.ExitStack()
        if world.is_main:
            self._jsonl = RetryingFile(run_dir.stats_jsonl)
            self._tensorboard = _open_tensorboard(run_dir, start_nimg)
            self._quiet_threads.enter_context(_tensorboard_threads_silenced())
            bar_format = '{l_bar}{bar}| {n:.1f}/{total:.1f} kimg [{elapsed}<{remaining}]'
            self._bar = progress_bar(round(total_kimg, 3), 'kimg', bar_format=bar_format, leave=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds since the start of the run and of the tick, and what is known of the last tick."""
        now = time.time()
        return dict(
            elapsed_sec=now - self._start_time,
            tick_sec=now - self._tick_start_time,
            collector=self._collector.state_dict(),
            achieved=dict(self._achieved),
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as if no time had passed since `state_dict`."""
        now = time.time()
        self._start_time, self._tick_start_time = now - state['elapsed_sec'], now - state['tick_sec']
        self._tick_end_time = now
        self._collector.load_state_dict(state['collector'])
        self._achieved = dict(state.get('achieved', {}))

    def show_progress(self, cur_nimg: int) -> None:
        """Move the progress bar, and read meters that must be read often."""
        if self._efficiency is not None:
            self._efficiency.poll()
        if self._bar is not None and not self._bar.disable:
            self._bar.update(min(cur_nimg / 1000, round(self._total_kimg, 3)) - self._bar.n)

    def start_tick(self) -> None:
        """Start the clock of a tick. The time since the end of the last one is maintenance."""
        self._tick_start_time = time.time()
        self._maintenance_sec = self._tick_start_time - self._tick_end_time
        if self._efficiency is not None:
            self._efficiency.start_tick()

    def end_tick(self, tick: int, cur_nimg: int, tick_nimg: int, augment_p: float) -> None:
        """Collective: print the status line of the tick that ends here, and collect its statistics for `write`.

        Args:
            tick: Number of the tick.
            cur_nimg: Images shown so far.
            tick_nimg: Images shown in this tick.
            augment_p: Augmentation strength.
        """
        now = time.time()
        tick_sec, elapsed_sec = now - self._tick_start_time, now - self._start_time
        sec_per_kimg = tick_sec / max(tick_nimg, 1) * 1e3
        allocated_gib, reserved_gib = _peak_gpu_memory_gib(self._world.device)
        report = training_stats.report0
        fields = [
            f'tick {report("Progress/tick", tick):<5d}',
            f'kimg {report("Progress/kimg", cur_nimg / 1e3):<8.1f}',
            f'time {format_time(report("Timing/total_sec", elapsed_sec)):<12s}',
            f'sec/tick {report("Timing/sec_per_tick", tick_sec):<7.1f}',
            f'sec/kimg {report("Timing/sec_per_kimg", sec_per_kimg):<7.2f}',
            f'maintenance {report("Timing/maintenance_sec", self._maintenance_sec):<6.1f}',
            f'cpumem {report("Resources/cpu_mem_gb", _peak_cpu_memory_gib()):<6.2f}',
            f'gpumem {report("Resources/peak_gpu_mem_gb", allocated_gib):<6.2f}',
            f'augment {report("Progress/augment", augment_p):.3f}',
        ]
        if self._efficiency is not None:
            self._achieved = self._efficiency.end_tick(tick_sec, tick_nimg)
            fields += status_fields(self._achieved)
        report('Resources/peak_gpu_mem_reserved_gb', reserved_gib)
        report('Timing/total_hours', elapsed_sec / 3600)
        report('Timing/total_days', elapsed_sec / 86400)
        self._collector.update()
        if self._bar is not None:
            left_sec = self._left_sec(cur_nimg, elapsed_sec)
            self._bar.clear()
            print(' '.join(fields).rstrip() + (f'  left {format_time(left_sec)}' if left_sec else ''), flush=True)
            self._bar.refresh()
        self._tick_end_time = now

    def _left_sec(self, cur_nimg: int, elapsed_sec: float) -> float:
        """Return an estimate of the seconds that the rest of the run takes; 0 at the beginning and at the end."""
        cur_kimg = cur_nimg / 1e3
        return max(self._total_kimg - cur_kimg, 0) * elapsed_sec / max(cur_kimg, 1e-9) if cur_nimg else 0

    def write(self, cur_nimg: int, metrics: Mapping[str, float]) -> None:
        """Write the statistics of the tick that has ended, with the metrics of its snapshot by name.

        Lines that cannot be written are kept for later, and `check_written` reports them. TensorBoard is given up.
        """
        if self._jsonl is None:
            return
        values = self._collector.as_dict()
        for name, value in (self._achieved | {f'Metrics/{name}': value for name, value in metrics.items()}).items():
            values[name] = EasyDict(num=1, mean=value, std=0.0)
        was_waiting = self._jsonl.error is not None
        self._jsonl.write(json.dumps(dict(values, timestamp=self._tick_end_time)) + '\n')
        if self._jsonl.error is not None and not was_waiting:
            print(
                f'Warning: {error_sentence(self._jsonl.error)}. The statistics will be written when that works again.'
            )
        means = {name: value.mean for name, value in values.items()}
        self.tracking.log(means, cur_nimg, self._tick_end_time)
        if self._tensorboard is not None:
            step = _tensorboard_step(cur_nimg)
            with self._tensorboard_given_up_on_errors():
                for name, mean in means.items():
                    self._tensorboard.add_scalar(name, mean, global_step=step, walltime=self._tick_end_time)
                self._tensorboard.flush()

    @contextlib.contextmanager
    def _tensorboard_given_up_on_errors(self) -> Iterator[None]:
        """Within this context TensorBoard may fail to write; it is not used any more after that."""
        try:
            yield
        except OSError as error:
            print(
                f'Warning: {error_sentence(error)}. TensorBoard gets no more data until the run is resumed; '
                'stats.jsonl continues.'
            )
            self._tensorboard = None

    def check_written(self) -> None:
        """Try again to write the lines of `stats.jsonl` that could not be written.

        Raises:
            OSError: They still cannot be written.
        """
        if self._jsonl is not None:
            self._jsonl.write('')
            if self._jsonl.error is not None:
                raise self._jsonl.error

    def close(self) -> None:
        """Close the files and the progress bar."""
        if self._jsonl is not None:
            self._jsonl.close()
        if self._tensorboard is not None:
            with self._tensorboard_given_up_on_errors():
                self._tensorboard.close()
        if self._bar is not None:
            self._bar.close()
        self._quiet_threads.close()


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def _peak_cpu_memory_gib() -> float:
    if resource is None:
        return float('nan')
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2 ** (30 if sys.platform == 'darwin' else 20)  # bytes on macOS


def _peak_gpu_memory_gib(device: torch.device) -> tuple[float, float]:
    """Return the peaks of allocated and reserved memory since the last call; 0 without CUDA."""
    if device.type != 'cuda':
        return 0.0, 0.0
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return allocated / 2**30, reserved / 2**30


# ---------------------------------------------------------------------------------------------------------------------
# TensorBoard


def _open_tensorboard(run_dir: RunDir, start_nimg: int) -> SummaryWriter | None:
    """Return a writer, or None if TensorBoard is not installed, does not work or cannot write its file.

    TensorBoard imports TensorFlow if it is installed, and of one that does not fit NumPy it raises all kinds of errors.
    If the run resumes, a TensorBoard that shows it is told to drop the steps that are repeated.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f'No TensorBoard files: {error} (pip install tensorboard)')
        return None
    except Exception as error:
        print(f'No TensorBoard files: it cannot be imported ({excerpt(error)}). stats.jsonl has all values.')
        return None
    try:
        return SummaryWriter(run_dir.path, purge_step=_tensorboard_step(start_nimg) + 1 if start_nimg else None)
    except (OSError, UnicodeEncodeError) as error:  # TensorBoard requires that names of folders are UTF-8
        reason = error_sentence(error) or f'the name of {run_dir.path} is not UTF-8'
        print(f'No TensorBoard files: {reason}. stats.jsonl has all values.')
        return None
    except Exception as error:
        print(f'No TensorBoard files: it does not work ({excerpt(error)}). stats.jsonl has all values.')
        return None


def _tensorboard_step(cur_nimg: int) -> int:
    return int(cur_nimg / 1e3)


@contextlib.contextmanager
def _tensorboard_threads_silenced() -> Iterator[None]:
    """Within this context, threads of TensorBoard do not print the errors that they raise again in their callers."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> Any:
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith('tensorboard')):
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
