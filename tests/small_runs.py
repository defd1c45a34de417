"""Training runs on a few images of 8x8 pixels in processes of their own, for tests that disturb them from outside."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image

ROOT = Path(__file__).resolve().parent.parent
SMALL = ['--cfg=tiny', '--cbase=32', '--cmax=4', '--batch=8', '--mbstd-group=4', '--device=cpu', '--metrics=none']

# A program that resumes the run in a directory. Its exit status is 75 if a signal has stopped it.
RESUME = """
import sys
from pathlib import Path
from training.config import TrainingConfig
from training.training_loop import launch
config = TrainingConfig.from_json(Path(sys.argv[1], 'training_options.json').read_text())
config.run_dir = sys.argv[1]
sys.exit(0 if launch(config, resume=True) else 75)
"""


def write_images(folder, count=24):
    """A folder dataset of noisy gray levels, RGB."""
    folder.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for index in range(count):
        pixels = np.clip(60 + 60 * (index % 3) + rng.randn(8, 8, 3) * 20, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'img{index:08d}.png')
    return folder


def train(data, outdir, *args):
    """The command of a small training."""
    return words(sys.executable, ROOT / 'train.py', f'--data={data}', f'--outdir={outdir}', *SMALL, *args)


def train_after(patches, data, outdir, *args):
    """The same, after running other Python code, such as code that makes something fail."""
    return words(
        sys.executable,
        '-c',
        f'{patches}\nimport train\ntrain.main()',
        f'--data={data}',
        f'--outdir={outdir}',
        *SMALL,
        *args,
    )


def torchrun(data, outdir, *args):
    """The command of a small training in two processes of `torchrun`."""
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    return words(*launcher, *train(data, outdir, *args)[1:])


def resume(run_dir):
    """The command that resumes a run."""
    return words(sys.executable, '-c', RESUME, run_dir)


def words(*args):
    return [str(arg) for arg in args]


def finish(command, timeout=250, **kwargs):
    """Run a command to its end, and return a CompletedProcess with text."""
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, **kwargs
    )


def environment():
    return {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'PYTHONDONTWRITEBYTECODE': '1',
        'OMP_NUM_THREADS': '1',
        'PYTHONUNBUFFERED': '1',
    }


class Running:
    """Context manager that runs a command in a process group of its own, and collects what it prints."""

    def __init__(self, command, **kwargs):
        self._command, self._kwargs = command, kwargs
        self.out = self.err = ''

    def __enter__(self):
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **self._kwargs,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (('out', self.process.stdout), ('err', self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()
        return self

    def _read(self, name, stream):
        for line in stream:
            setattr(self, name, getattr(self, name) + line)

    def __exit__(self, *_exception):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def wait_until(self, condition, timeout=120):
        """Wait for `condition()`, or for a text in the output."""
        is_met = condition if callable(condition) else lambda: condition in self.out
        deadline = time.monotonic() + timeout
        while not is_met():
            assert self.process.poll() is None, f'ended with {self.process.returncode}:\n{self.out}\n{self.err}'
            assert time.monotonic() < deadline, f'still waiting:\n{self.out}\n{self.err}'
            time.sleep(0.02)

    def wait(self, timeout=120):
        """Wait for the end of the command, and return its exit status and the seconds that this took."""
        start = time.monotonic()
        self.process.wait(timeout)
        for reader in self._readers:
            reader.join()
        return self.process.returncode, time.monotonic() - start

    def started_by(self, pid=None, but='resource_tracker'):
        """The processes that a process has started (by default, the command itself), in the order of their numbers."""
        pid = self.process.pid if pid is None else pid
        children = map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split())
        return sorted(child for child in children if but not in Path(f'/proc/{child}/cmdline').read_text())


def only(folder, pattern='*'):
    """The one file or folder there that matches."""
    (found,) = folder.glob(pattern)
    return found


def last_network(run_dir):
    """Bytes of the newest network pickle."""
    return sorted(run_dir.glob('network-snapshot-*.pkl'))[-1].read_bytes()
