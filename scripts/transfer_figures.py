"""An experiment: how many images a run needs that starts from a network of another size, or of other classes.

The network is the demo's, trained on digits of 16x16 pixels with 10 classes. One pair of runs learns digits of 32x32
pixels, another one four of the classes, called by their names in another dataset: each pair from scratch and with
`--resume`. Their quality is measured over the training, as in the demo, by detectors that are trained on the digits.

Run `scripts/demo.sh` first, then `python scripts/transfer_figures.py --outdir=out/transfer`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from dataset_format.labels import LABEL_FILE, format_label_file, parse_label_file
from dnnlib.cli import PATH, Command, usage_error
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFolder
from network_files.snapshots import kimg_of
from training.run.run_dir import RunDir, list_run_dirs

ROOT = Path(__file__).resolve().parents[1]
METRIC, RESULT = 'fid2k_full', 'fd-digits2k_full'  # as asked for, and as it is called with such detectors
CLASSES = ('3', '5', '8', '9')
SOURCE = 'network-snapshot-000032.pkl'  # of the demo's run: not yet at its best


@dataclass(frozen=True)
class Task:
    """A pair of runs on one dataset.

    Args:
        name: Name of its folders.
        title: What is learned.
        scratch: Options of the run from scratch: its length, and how often it is measured.
        resumed: Options of the run that starts from the network.
    """

    name: str
    title: str
    scratch: tuple[str, ...]
    resumed: tuple[str, ...]


TASKS = (
    Task('large', '16x16 → 32x32', ('--kimg=60', '--tick=10'), ('--kimg=20', '--tick=4')),
    Task('classes', '10 → 4 classes', ('--kimg=36', '--tick=6'), ('--kimg=12', '--tick=3')),
)


def run(script: str, *args: str) -> None:
    """Run a script of this project with one thread, and stop if it fails."""
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    if subprocess.run([sys.executable, str(ROOT / script), *args], env=environment).returncode != 0:
        raise click.ClickException(f'{script} failed; its message is above.')


def select_classes(source: Path, dest: Path, names: tuple[str, ...]) -> None:
    """Write the images of some classes of a dataset, with these classes numbered in the order of `names`."""
    with zipfile.ZipFile(source) as archive, atomic_file(dest) as file:
        table = parse_label_file(archive.read(LABEL_FILE), LABEL_FILE)
        assert table.by_name is not None and table.class_names is not None
        numbers = {table.class_names.index(name): number for number, name in enumerate(names)}
        chosen = [(name, numbers[label]) for name, label in table.by_name.items() if label in numbers]
        with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as out:
            for name, _number in chosen:
                out.writestr(name, archive.read(name))
            out.writestr(LABEL_FILE, format_label_file(list(chosen), list(names)))


def prepare(demo: Path, outdir: Path) -> dict[str, tuple[Path, Path]]:
    """Return the dataset and the detectors of each task by its name; what exists is not made again."""
    large, classes, detectors = outdir / 'large.zip', outdir / 'classes.zip', outdir / 'detectors'
    if not large.exists():
        run('dataset_tool.py', '--source=digits', f'--dest={large}', '--resolution=32x32')
    if not (detectors / 'detectors.json').exists():
        run('scripts/train_detectors.py', f'--data={large}', f'--dest={detectors}')
    if not classes.exists():
        select_classes(demo / 'digits.zip', classes, CLASSES)
    return {'large': (large, detectors), 'classes': (classes, demo / 'detectors')}


def train_and_measure(folder: Path, data: Path, detectors: Path, *options: str) -> dict[float, float]:
    """Return {kimg: Fréchet distance} of a run, which is trained unless it exists."""
    if not folder.exists():
        fixed = ['--cfg=tiny', '--cond=1', '--snap=1', '--metrics=none', '--report=0', '--device=cpu']
        run('train.py', f'--outdir={folder}', f'--data={data}', *fixed, *options)
    run_dir = RunDir(list_run_dirs(str(folder))[0])
    file = Path(run_dir.metric_jsonl(RESULT))
    if not file.exists():
        args = ['--every=1', f'--metrics={METRIC}', f'--detectors={detectors}', '--device=cpu']
        run('calc_metrics.py', f'--network={run_dir.path}', *args)
    results = [json.loads(line) for line in file.read_text().splitlines()]
    return {float(kimg_of(result['snapshot_pkl']) or 0): result['results'][RESULT] for result in results}


def describe(task: Task, scratch: dict[float, float], resumed: dict[float, float]) -> list[str]:
    """Return the rows of the table for one pair of runs."""
    rows = [f'| {task.title} | from scratch | {kimg:g} | {value:.1f} |' for kimg, value in sorted(scratch.items())]
    return rows + [f'| {task.title} | `--resume` | {kimg:g} | {value:.1f} |' for kimg, value in sorted(resumed.items())]


@click.command(cls=Command)
@click.option('--demo', type=PATH, default='out/demo', show_default=True, metavar='DIR', help='Folder of demo.sh')
@click.option('--network', type=PATH, metavar='PKL', help=f'Network to start from  [default: {SOURCE} of the demo]')
@click.option('--outdir', type=OutputFolder(), required=True, metavar='DIR', help='Folder for datasets and runs')
def main(demo: str, network: str | None, outdir: str) -> None:
    """Compare runs that start from a network of another size, or other classes, with runs from scratch."""
    if network is None:
        runs = list_run_dirs(os.path.join(demo, 'runs')) if os.path.isdir(os.path.join(demo, 'runs')) else []
        network = os.path.join(runs[0], SOURCE) if runs else SOURCE
    if not os.path.isfile(network):
        raise usage_error('--demo', f'{network} does not exist: run scripts/demo.sh first, or name a --network.')
    os.makedirs(outdir, exist_ok=True)
    rows = ['| what is learned | start | kimg | Fréchet distance |', '|---|---|---|---|']
    for task, (data, detectors) in zip(TASKS, prepare(Path(demo), Path(outdir)).values()):
        folder = Path(outdir) / task.name
        scratch = train_and_measure(Path(f'{folder}-scratch'), data, detectors, *task.scratch)
        resume = f'--resume={os.path.abspath(network)}'
        resumed = train_and_measure(Path(f'{folder}-resumed'), data, detectors, *task.resumed, resume)
        rows += describe(task, scratch, resumed)
    print('\n'.join(rows))


if __name__ == '__main__':
    main()
