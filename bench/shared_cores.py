"""How do the threads of a training step fare beside other busy programs?

Runs training steps of a small network alone and beside busy processes, with OpenMP's own setting for threads that wait,
with that of this project (`dnnlib.machine.limit_spinning`), and with threads that sleep at once.

    python bench/shared_cores.py            about 3 minutes on 2 cores
    python bench/shared_cores.py --quick    to see that it works
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from bench.options import ResultFiles, benchmark_options
from bench.tables import markdown_table, text_table
from dnnlib.cli import Command
from dnnlib.machine import available_cores, processor_name

SETTINGS: dict[str, dict[str, str]] = {
    "OpenMP's own": {'GOMP_SPINCOUNT': '300000'},  # libgomp's default, which would otherwise be replaced
    "this project's": {},
    'sleeping': {'OMP_WAIT_POLICY': 'passive'},
}
HEADINGS = ('threads that wait', 'busy processes', 'step', 'slowest step')
STEPS, QUICK_STEPS = 20, 2
TIMEOUT_SEC = 300

# Runs in a process of its own, because OpenMP reads its settings once.
_STEPS_PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import dnnlib.cli
import torch
from bench.networks import TrainingStep, training_setup
from torch_utils.distributed import World
device = torch.device('cpu')
config, dataset = training_setup(16, 16, 1, device, 512, 0.5)
step = TrainingStep(World(rank=0, size=1, device=device), config, dataset)
step.run_steps(1)
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    step.run(1)
    print(time.perf_counter() - start, flush=True)
"""


def _stay_busy() -> None:
    while True:
        pass


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes computing while the block runs."""
    context = multiprocessing.get_context('spawn')
    processes = [context.Process(target=_stay_busy, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    time.sleep(1 if count else 0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def step_times_sec(setting: dict[str, str], steps: int) -> list[float]:
    """Return the times of training steps in a new process, in seconds; those before the time limit, if there is any."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(('GOMP_', 'OMP_'))}
    command = [sys.executable, '-c', _STEPS_PROGRAM, str(Path(__file__).resolve().parent.parent), str(steps)]
    try:
        run = subprocess.run(command, env=inherited | setting, stdout=subprocess.PIPE, timeout=TIMEOUT_SEC, check=True)
        output = run.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b''
    return [float(line) for line in output.decode().split()] or [float(TIMEOUT_SEC)]


@click.command(cls=Command)
@benchmark_options('quick', 'json', 'markdown')
def main(quick: bool, json_path: str | None, markdown_path: str | None) -> None:
    """Compare how long training steps take beside busy processes, by the setting for threads that wait."""
    results = ResultFiles('bench/shared_cores.py', json_path, markdown_path)
    rows: list[tuple[str, int, list[float]]] = []
    for busy in (0, 1) if quick else (0, 1, available_cores()):
        with busy_processes(busy):
            for name, setting in SETTINGS.items():
                rows.append((name, busy, step_times_sec(setting, QUICK_STEPS if quick else STEPS)))
    cells = [
        (name, str(busy), *(f'{1e3 * sec:.0f} ms' for sec in (statistics.median(times_sec), max(times_sec))))
        for name, busy, times_sec in rows
    ]
    machine = f'{processor_name()}, {available_cores()} cores'
    print(f'{machine}\n\n{text_table(HEADINGS, cells)}')
    saved = [dict(setting=name, busy=busy, times_sec=times_sec) for name, busy, times_sec in rows]
    results.save(saved, f'{machine}.\n\n{markdown_table(HEADINGS, cells)}')


if __name__ == '__main__':
    main()
