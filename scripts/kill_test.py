"""A run that is killed again and again, and must end as if nothing had happened.

Trains a small network twice from the same command: once to the end, and once with SIGKILL to all its processes at
random moments, each time followed by the same command with `--resume=latest`. In the end the network pickles and the
images of both runs must be the same bytes, every file must be readable, and the statistics must have every tick once
and the same numbers in it, but for times and memory. Exit status 1 where something differs.

    python scripts/kill_test.py --kills=50
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import PIL.Image

from dnnlib.cli import PATH, Command
from network_files.reading import open_network
from training.run import checkpoint

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES, RESOLUTION = 24, 16
BATCHES_PER_TICK, BATCH_SIZE = 8, 8
NOT_REPEATABLE = ('Timing/', 'Resources/', 'timestamp')


def write_dataset(folder, seed):
    """Colour noise, in two classes."""
    rng = np.random.RandomState(seed)
    labels = []
    folder.mkdir(parents=True)
    for index in range(NUM_IMAGES):
        name = f'img{index:08d}.png'
        PIL.Image.fromarray(rng.randint(256, size=[RESOLUTION, RESOLUTION, 3], dtype=np.uint8)).save(folder / name)
        labels.append([name, index % 2])
    (folder / 'dataset.json').write_text(json.dumps(dict(labels=labels)))


def command_of(outdir, data, ticks, extra):
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


def start(command, log):
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def run_to_the_end(command, log):
    """Seconds from the start to the first tick, and from there to the end."""
    begin = time.monotonic()
    process = start(command, log)
    first = None
    while process.poll() is None:
        if first is None and 'tick 0' in Path(log.name).read_text():
            first = time.monotonic()
        time.sleep(0.02)
    if process.returncode != 0:
        raise click.ClickException(f'training failed: see {log.name}')
    return first - begin, time.monotonic() - first


def kill_and_resume(command, log, kills, set_up_sec, training_sec, rng):
    """Kill the run `kills` times, then let it end; returns how often it was killed, and how often started."""
    killed = started = 0
    while True:
        process = start(command, log)
        started += 1
        if killed < kills:
            # Some die while they are still reading the state; on average the training takes all the kills to its end.
            delay = rng.uniform(0, set_up_sec + 2.2 * training_sec / kills)
            try:
                process.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
                continue
        if process.wait() != 0:
            raise click.ClickException(f'resuming failed after {killed} kills: see {log.name}')
        return killed, started


def read_every_file(run_dir):
    """Raises some error where a file is damaged; returns how many there are."""
    files = [path for path in run_dir.iterdir() if path.is_file()]
    for path in files:
        if path.name.startswith('.'):
            raise ValueError(f'{path} was left behind')
        if path.suffix == '.pkl':
            open_network(str(path))
        elif path.suffix == '.pt':
            checkpoint.read(path)
        elif path.suffix == '.png':
            PIL.Image.open(path).load()
        elif path.suffix == '.json':
            json.loads(path.read_text())
        elif path.suffix == '.jsonl':
            statistics_of(path)
        elif 'tfevents' in path.name:
            scalars_of(path)
    return len(files)


def statistics_of(path):
    """The repeatable part of each line."""
    lines = path.read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(NOT_REPEATABLE)}
        for line in lines
    ]


def scalars_of(path):
    """(name, step, value) of all repeatable scalars in an event file, as far as TensorBoard is installed."""
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


def differences(expected_dir, actual_dir):
    """Sentences about what differs between two finished runs."""
    found = []
    for pattern in ('network-snapshot-*.pkl', '*.png'):
        expected, actual = (
            {path.name: path.read_bytes() for path in folder.glob(pattern)} for folder in (expected_dir, actual_dir)
        )
        found += [
            f'{name} differs'
            for name in sorted(expected.keys() | actual.keys())
            if expected.get(name) != actual.get(name)
        ]
    expected, actual = (statistics_of(folder / 'stats.jsonl') for folder in (expected_dir, actual_dir))
    if expected != actual:
        found.append(f'stats.jsonl differs ({len(actual)} lines in place of {len(expected)})')
    expected, actual = (
        sorted(scalar for path in folder.glob('events.*') for scalar in scalars_of(path))
        for folder in (expected_dir, actual_dir)
    )
    if str(expected) != str(actual):  # as text: NaN is to equal NaN
        found.append(f'the TensorBoard files differ ({len(actual)} scalars in place of {len(expected)})')
    expected, actual = (
        [line.split()[1] for line in (folder / 'log.txt').read_text().splitlines() if line.startswith('tick ')]
        for folder in (expected_dir, actual_dir)
    )
    if expected != actual:
        found.append(f'log.txt has the ticks {" ".join(actual)}')
    return found


@click.command(cls=Command)
@click.option('--kills', type=click.IntRange(min=1), default=50, show_default=True, help='How often to kill the run')
@click.option(
    '--ticks',
    type=click.IntRange(min=2),
    show_default='2 for each kill',
    help='Length of the run; each tick writes a snapshot',
)
@click.option('--seed', type=int, default=0, show_default=True, help='Of the moments')
@click.option('--outdir', type=PATH, show_default='a temporary folder', help='Where the runs are kept')
@click.argument('extra', nargs=-1)
def main(kills, ticks, seed, outdir, extra):
    """Kill a small run at random moments and compare it with one that was left alone.

    EXTRA are options for train.py, after a --, such as -- --gpus=2 --workers=1
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(outdir or temporary)
        write_dataset(root / 'data', seed)
        commands = [command_of(root / name, root / 'data', ticks or 2 * kills, extra) for name in ('alone', 'killed')]
        with open(root / 'alone.txt', 'wb') as log:
            set_up_sec, training_sec = run_to_the_end(commands[0], log)
        print(f'Left alone: {set_up_sec:.1f} s to the first tick, then {training_sec:.1f} s of training', flush=True)
        with open(root / 'killed.txt', 'wb') as log:
            killed, started = kill_and_resume(commands[1], log, kills, set_up_sec, training_sec, random.Random(seed))
        (alone,) = (root / 'alone').glob('*-*')
        run_dirs = [path for path in (root / 'killed').glob('*-*') if (path / 'training_options.json').is_file()]
        if len(run_dirs) != 1:
            raise click.ClickException(f'there are {len(run_dirs)} runs where one was to go on')
        num_files = read_every_file(run_dirs[0])
        found = differences(alone, run_dirs[0])
        lines = len(statistics_of(run_dirs[0] / 'stats.jsonl'))
        if found:
            raise click.ClickException('; '.join(found))
    print(
        f'Killed {killed} times, started {started} times: {num_files} files readable, network pickles and images '
        f'equal to the byte, {lines} lines in stats.jsonl, none lost or doubled'
    )


if __name__ == '__main__':
    main()
