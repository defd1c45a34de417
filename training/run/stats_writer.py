"""Numbers of a run: status line, `stats.jsonl`, TensorBoard and the progress bar."""

import contextlib
import json
import os
import sys
import threading
import time

import torch

from dnnlib import EasyDict
from dnnlib.cli import error_sentence
from dnnlib.files import RetryingFile
from dnnlib.progress import progress_bar
from dnnlib.text import format_time
from torch_utils import training_stats

try:
    import resource
except ImportError:  # Windows
    resource = None


def _summary_writer(run_dir, start_nimg):
    """A TensorBoard writer, or None where TensorBoard is not installed.

    A run that goes on tells a TensorBoard that is watching to drop the steps that are repeated.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f'No TensorBoard files: {error} (pip install tensorboard)')
        return None
    return SummaryWriter(run_dir, purge_step=_step(start_nimg) + 1 if start_nimg else None)


@contextlib.contextmanager
def _quiet_tensorboard_threads():
    """TensorBoard writes in threads of its own, and raises their errors again in its callers: one report will do."""
    previous = threading.excepthook

    def hook(args):
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith('tensorboard')):
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


def _step(cur_nimg):
    """TensorBoard's step: thousands of images."""
    return int(cur_nimg / 1e3)


def _peak_cpu_memory_gib():
    if resource is None:
        return float('nan')
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2 ** (30 if sys.platform == 'darwin' else 20)  # macOS counts in bytes.


class RunStatistics:
    """Gathers the statistics of every tick; the main rank writes them.

    Args:
        run_dir: Where the files go.
        world: Ranks.
        total_kimg: Length of the run, for the progress bar.
        start_nimg: Images shown before, where a run goes on.
    """

    def __init__(self, run_dir, world, total_kimg, start_nimg=0):
        self.world = world
        self.collector = training_stats.Collector()
        self.start_time = self.tick_end_time = self.tick_start_time = time.time()
        self._maintenance_sec = 0.0
        self.jsonl = self.tensorboard = self.progress = None
        self._quiet_threads = contextlib.ExitStack()
        if world.is_main:
            self.jsonl = RetryingFile(os.path.join(run_dir, 'stats.jsonl'))
            self.tensorboard = _summary_writer(run_dir, start_nimg)
            self._quiet_threads.enter_context(_quiet_tensorboard_threads())
            bar_format = '{l_bar}{bar}| {n:.1f}/{total:.1f} kimg [{elapsed}<{remaining}]'
            self.progress = progress_bar(round(total_kimg, 3), 'kimg', bar_format=bar_format, leave=True)

    def state_dict(self):
        """Seconds so far, of the run and of the tick, and what the collector has seen."""
        now = time.time()
        return dict(
            elapsed_sec=now - self.start_time,
            tick_sec=now - self.tick_start_time,
            collector=self.collector.state_dict(),
        )

    def load_state_dict(self, state):
        """Go on as if no time had passed since `state_dict`."""
        now = time.time()
        self.start_time, self.tick_start_time = now - state['elapsed_sec'], now - state['tick_sec']
        self.tick_end_time = now
        self.collector.load_state_dict(state['collector'])

    def show_progress(self, cur_nimg):
        if self.progress is not None and not self.progress.disable:
            self.progress.update(min(cur_nimg / 1000, self.progress.total) - self.progress.n)

    def start_tick(self):
        """Time from the end of the last tick to here is maintenance."""
        self.tick_start_time = time.time()
        self._maintenance_sec = self.tick_start_time - self.tick_end_time

    def end_tick(self, tick, cur_nimg, tick_nimg, total_kimg, augment_p):
        """Print the status line of the tick that ends here, and collect its statistics for `write`."""
        device = self.world.device
        now = time.time()
        tick_sec = now - self.tick_start_time
        gpu_gib = reserved_gib = 0.0
        if device.type == 'cuda':
            gpu_gib = torch.cuda.max_memory_allocated(device) / 2**30
            reserved_gib = torch.cuda.max_memory_reserved(device) / 2**30
            torch.cuda.reset_peak_memory_stats(device)
        elapsed_sec = now - self.start_time
        sec_per_kimg = tick_sec / max(tick_nimg, 1) * 1e3
        left_sec = max(total_kimg - cur_nimg / 1e3, 0) * elapsed_sec / max(cur_nimg / 1e3, 1e-9) if cur_nimg else 0

        def shown(name, value):
            return training_stats.report0(name, value)

        fields = [
            f'tick {shown("Progress/tick", tick):<5d}',
            f'kimg {shown("Progress/kimg", cur_nimg / 1e3):<8.1f}',
            f'time {format_time(shown("Timing/total_sec", elapsed_sec)):<12s}',
            f'sec/tick {shown("Timing/sec_per_tick", tick_sec):<7.1f}',
            f'sec/kimg {shown("Timing/sec_per_kimg", sec_per_kimg):<7.2f}',
            f'maintenance {shown("Timing/maintenance_sec", self._maintenance_sec):<6.1f}',
            f'cpumem {shown("Resources/cpu_mem_gb", _peak_cpu_memory_gib()):<6.2f}',
            f'gpumem {shown("Resources/peak_gpu_mem_gb", gpu_gib):<6.2f}',
            f'augment {shown("Progress/augment", augment_p):.3f}',
        ]
        shown('Resources/peak_gpu_mem_reserved_gb', reserved_gib)
        shown('Timing/total_hours', elapsed_sec / 3600)
        shown('Timing/total_days', elapsed_sec / 86400)
        self.collector.update()
        if self.world.is_main:
            line = ' '.join(fields) + (f'  left {format_time(left_sec)}' if left_sec else '')
            self.progress.clear()
            print(line, flush=True)
            self.progress.refresh()
        self.tick_end_time = now

    def write(self, cur_nimg, metrics):
        """Write the statistics of the tick that has ended, with the metrics (name → value) of its snapshot.

        What cannot be written waits, and `check_written` says so; TensorBoard goes without.
        """
        if not self.world.is_main:
            return
        now = self.tick_end_time
        values = self.collector.as_dict()
        for name, value in metrics.items():
            values[f'Metrics/{name}'] = EasyDict(num=1, mean=value, std=0.0)
        was_waiting = self.jsonl.error is not None
        self.jsonl.write(json.dumps(dict(values, timestamp=now)) + '\n')
        if self.jsonl.error is not None and not was_waiting:
            print(f'Warning: {error_sentence(self.jsonl.error)}; the statistics wait for room.')
        if self.tensorboard is not None:
            step = _step(cur_nimg)
            with self._giving_up_tensorboard():
                for name, value in values.items():
                    self.tensorboard.add_scalar(name, value.mean, global_step=step, walltime=now)
                self.tensorboard.flush()

    @contextlib.contextmanager
    def _giving_up_tensorboard(self):
        """Within this context TensorBoard may fail to write: it is then missing from here on."""
        try:
            yield
        except OSError as error:
            print(
                f'Warning: no more TensorBoard files until the run is resumed ({error_sentence(error)}); stats.jsonl '
                'goes on.'
            )
            self.tensorboard = None

    def check_written(self):
        """Try again to write what waits. Raises OSError where lines of stats.jsonl cannot be written."""
        if self.jsonl is not None:
            self.jsonl.write('')
            if self.jsonl.error is not None:
                raise self.jsonl.error

    def close(self):
        if self.jsonl is not None:
            self.jsonl.close()
        if self.tensorboard is not None:
            with self._giving_up_tensorboard():
                self.tensorboard.close()
        if self.progress is not None:
            self.progress.close()
        self._quiet_threads.close()
