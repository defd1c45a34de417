"""Kill a run again and again, and check that it ends as if nothing had happened.

Trains a small network twice with the same command: once without interruption, and once with SIGKILL to all its
processes at random moments, each time followed by the same command with `--resume=latest`. In the end, the network
pickles and the images of both runs must be identical to the byte, every file must be readable, and the statistics must
contain every tick exactly once, with the same numbers except for times and memory. Exit status 1 if anything differs.

    python scripts/kill_test.py --kills=50
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import PIL.Image

from dnnlib.cli import Command
from dnnlib.outputs import OutputFolder
from network_files.reading import open_network
from training.run import checkpoint
from training.run.run_dir import RunDir, list_run_dirs

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES, RESOLUTION = 24, 16
BATCHES_PER_TICK, BATCH_SIZE = 8, 8
NOT_REPEATABLE = ('Timing/', 'Resources/', 'timestamp')


# ---------------------------------------------------------------------------------------------------------------------
# Training


def write_dataset(folder: Path, seed: int) -> None:
    """Write images of color noise in two classes."""
    rng = np.random.RandomState(seed)
    labels = []
    folder.mkdir(parents=True)
    for index in range(NUM_IMAGES):
        name = f'img{index:08d}.png'
        PIL.Image.fromarray(rng.randint(256, size=[RESOLUTION, RESOLUTION, 3], dtype=np.uint8)).save(folder / name)
        labels.append([name, index % 2])
    (folder / 'dataset.json').write_text(json.dumps(dict(labels=labels)))


def training_command(outdir: Path, data: Path, ticks: int, extra: Sequence[str]) -> list[str]:
    """Return the command that starts or resumes a run."""
    tick_kimg = BATCHES_PER_TICK * BATCH_SIZE / 1000
    return [
        sys.executable,
        str(ROOT / 'train.py'),
        f'--outdir={outdir}',
        f'--data={data}',
        '--cfg=tiny',
        '--cond=1',
        '--cbase=64',
        '--cmax=8',
        f'--batch={BATCH_SIZE}',
        f'--tick={tick_kimg}',
        f'--kimg={ticks * tick_kimg}',
        '--snap=1',
        '--metrics=none',
        '--device=cpu',
        '--resume=latest',
        *extra,
    ]


def start(command: list[str], log: BinaryIO) -> subprocess.Popen:
    """Start a command in a process group of its own."""
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def run_to_end(command: list[str], log: BinaryIO) -> tuple[float, float]:
    """Run a command; return the seconds from its start to the first tick, and from there to its end."""
    begin = time.monotonic()
    process = start(command, log)
    first_tick = None
    while process.poll() is None:
        if first_tick is None and 'tick 0' in Path(log.name).read_text():
            first_tick = time.monotonic()
        time.sleep(0.02)
    if process.returncode != 0 or first_tick is None:
        raise click.ClickException(f'Training failed: see {log.name}.')
    return first_tick - begin, time.monotonic() - first_tick


def kill_and_resume(
    command: list[str],
    log: BinaryIO,
    kills: int,
    at_least: int,
    last_line: bytes,
    longest_sec: float,
    rng: random.Random,
) -> tuple[int, int]:
    """Kill the run at up to `kills` random moments, then let it end.

    Args:
        command: Starts or resumes the run.
        log: File for its messages.
        kills: How often to kill it.
        at_least: Until it was killed so often, a process that says `last_line` is killed at once.
        last_line: Start of the status line of the last tick but one.
        longest_sec: The longest time before a process is killed.
        rng: Chooses the moments.

    Returns:
        How often the run was killed, and how often started.
    """
    killed = started = 0
    while True:
        begin = os.path.getsize(log.name)
        process = start(command, log)
        started += 1
        if killed < kills:
            end = time.monotonic() + rng.uniform(0, longest_sec)
            while process.poll() is None and time.monotonic() < end:
                if killed < at_least and last_line in Path(log.name).read_bytes()[begin:]:
                    break
                time.sleep(0.02)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
                continue
        if process.wait() != 0:
            raise click.ClickException(f'Resuming failed after {killed} kills: see {log.name}.')
        return killed, started


# ---------------------------------------------------------------------------------------------------------------------
# Comparison


def read_every_file(run_dir: RunDir) -> int:
    """Return the number of files in a run directory; raise an error if one of them is damaged."""
    paths = [path for path in Path(run_dir.path).iterdir() if path.is_file()]
    for path in paths:
        if path.name.startswith('.'):
            raise ValueError(f'{path} was left behind.')
        if path.suffix == '.pkl':
            open_network(str(path))
        elif path.suffix == '.pt':
            checkpoint.read(path)
        elif path.suffix == '.png':
            PIL.Image.open(path).load()
        elif path.suffix == '.json':
            json.loads(path.read_text())
        elif path.suffix == '.jsonl':
            read_statistics(path)
        elif is_event_file(path):
            read_scalars(path)
    return len(paths)


def read_statistics(path: str | Path) -> list[dict[str, Any]]:
    """Return the repeatable part of each line of a JSONL file."""
    lines = Path(path).read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(NOT_REPEATABLE)}
        for line in lines
    ]


def is_event_file(path: Path) -> bool:
    """Return whether TensorBoard wrote the file."""
    return 'tfevents' in path.name


def read_scalars(path: Path) -> list[tuple[str, int, float]]:
    """Return (name, step, value) of all repeatable scalars in an event file; [] if TensorBoard is not installed."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError:
        return []
    return [
        (value.tag, event.step, float(value.tensor.float_val[0]))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if not value.tag.startswith(NOT_REPEATABLE)
    ]


def pickles_and_images(run_dir: RunDir) -> dict[str, bytes]:
    """Return the content of each network pickle and image, by file name."""
    paths = [*run_dir.network_pkls(), *Path(run_dir.path).glob('*.png')]
    return {path.name: path.read_bytes() for path in paths}


def all_scalars(run_dir: RunDir) -> list[tuple[str, int, float]]:
    """Return the sorted scalars of all event files of a run."""
    event_files = filter(is_event_file, run_dir.appended_files())
    return sorted(scalar for path in event_files for scalar in read_scalars(path))


def logged_ticks(run_dir: RunDir) -> list[str]:
    """Return the number of the tick in each status line of a run's log."""
    return [line.split()[1] for line in Path(run_dir.log_txt).read_text().splitlines() if line.startswith('tick ')]


def find_differences(expected_dir: RunDir, actual_dir: RunDir) -> list[str]:
    """Return a sentence for each difference between two finished runs."""

    def read_both(read: Callable[[RunDir], Any]) -> tuple[Any, Any]:
        return read(expected_dir), read(actual_dir)

    expected, actual = read_both(pickles_and_images)
    names = sorted(expected.keys() | actual.keys())
    differences = [f'{name} differs' for name in names if expected.get(name) != actual.get(name)]
    expected, actual = read_both(lambda run_dir: read_statistics(run_dir.stats_jsonl))
    if expected != actual:
        differences.append(f'stats.jsonl differs ({len(actual)} lines instead of {len(expected)})')
    expected, actual = read_both(all_scalars)
    if str(expected) != str(actual):  # compared as text, so that NaN equals NaN
        differences.append(f'the TensorBoard files differ ({len(actual)} scalars instead of {len(expected)})')
    expected, actual = read_both(logged_ticks)
    if expected != actual:
        differences.append(f'log.txt has the ticks {" ".join(actual)}')
    return differences


# ---------------------------------------------------------------------------------------------------------------------
# Command


@click.command(cls=Command)
@click.option('--kills', type=click.IntRange(min=1), default=50, show_default=True, help='How often to kill the run')
@click.option(
    '--at-least', type=click.IntRange(min=0), default=0, show_default=True, help='Fail if it was killed less often'
)
@click.option(
    '--ticks',
    type=click.IntRange(min=2),
    show_default='2 for each kill',
    help='Length of the run; each tick writes a snapshot',
)
@click.option('--seed', type=int, default=0, show_default=True, help='Seed of the random moments')
@click.option('--outdir', type=OutputFolder(), show_default='a temporary folder', help='Where to keep the runs')
@click.argument('extra', nargs=-1)
def main(kills: int, at_least: int, ticks: int | None, seed: int, outdir: str | None, extra: tuple[str, ...]) -> None:
    """Kill a small run at random moments and compare it with one that was not interrupted.

    EXTRA are options for train.py, after a --, such as -- --gpus=2 --workers=1
    """
    num_ticks = ticks or 2 * kills
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(outdir or temporary)
        write_dataset(root / 'data', seed)
        undisturbed_command, killed_command = (
            training_command(root / name, root / 'data', num_ticks, extra) for name in ('alone', 'killed')
        )
        with open(root / 'alone.txt', 'wb') as log:
            set_up_sec, training_sec = run_to_end(undisturbed_command, log)
        print(f'Undisturbed: {set_up_sec:.1f} s to the first tick, then {training_sec:.1f} s of training', flush=True)
        with open(root / 'killed.txt', 'wb') as log:
            rng = random.Random(seed)
            # Some runs die while they read the state. On average, all kills together let the training reach its end.
            longest_sec = set_up_sec + 2.2 * training_sec / kills
            last_line = f'tick {num_ticks - 1} '.encode()
            killed, started = kill_and_resume(killed_command, log, kills, at_least, last_line, longest_sec, rng)

        (undisturbed,) = map(RunDir, list_run_dirs(str(root / 'alone')))
        run_dirs = [RunDir(path) for path in list_run_dirs(str(root / 'killed'))]
        run_dirs = [run_dir for run_dir in run_dirs if os.path.isfile(run_dir.options_json)]
        if len(run_dirs) != 1:
            raise click.ClickException(f'Expected one run that is resumed, found {len(run_dirs)}.')
        num_files = read_every_file(run_dirs[0])
        differences = find_differences(undisturbed, run_dirs[0])
        num_lines = len(read_statistics(run_dirs[0].stats_jsonl))
        if killed < at_least:
            raise click.ClickException(
                f'The run ended after {killed} of {at_least} kills: use more --ticks or --kills.'
            )
        if differences:
            raise click.ClickException('; '.join(differences))
    print(
        f'Killed {killed} times, started {started} times: {num_files} files readable, network pickles and images '
        f'identical to the byte, {num_lines} lines in stats.jsonl, none lost or duplicated'
    )


if __name__ == '__main__':
    main()
