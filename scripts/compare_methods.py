"""An experiment: train with several methods for few images on equal terms, and compare what comes out.

Trains each of --methods with each of --seeds by `train.py`, and measures the networks by `calc_metrics.py`: all of
--metrics at the end, --curve-metric also on the way. For each seed `--subset` selects other images, the same for all
methods. Writes to --outdir:

  comparison.json           the results of all runs that are complete, for --merge and for other programs
  comparison.md             a table with means over seeds and intervals, and the options of all methods
  curves.png, curves.svg    the curve metric, the signs of D's outputs for reals, and the strength of ADA
  grid.png                  images of the same latents by each method, below real ones
  runs/METHOD/seedN/        the runs themselves, and messages.txt

The same command continues what was cut off, and repeats nothing that is complete. Methods and seeds may be added, and a
larger --kimg continues all runs.
SIGTERM and Ctrl-C save the trainings that are running, and end with status 75.

    python scripts/compare_methods.py --data=photos32.zip --subset=500 --methods=noaug,ada,relativistic+ada \\
        --methods=mine:"--aug=ada --gamma=0.01" --seeds=0,1 --kimg=100 --outdir=out/comparison
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from dnnlib.cli import PATH, Command, FiniteFloat, SeedRange, check_outdir, usage_error, usage_errors
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFolder
from dnnlib.signals import STOPPED_STATUS
from metrics import metric_table
from metrics.curves import require_matplotlib
from metrics.features import detectors as detector_files
from network_files.snapshots import complete_snapshots
from scripts.comparison.figures import draw_curves, draw_grid, page
from scripts.comparison.methods import METHODS, Method, parse_methods, parse_options
from scripts.comparison.processes import Failed, Plan, Processes, Stopped, check, make_run, seconds_as_text
from scripts.comparison.results import Comparison, Settings, read_comparison
from training.data.digest import content_sha256
from training.dataset import ImageFolderDataset

FAILED_STATUS = 1


# ---------------------------------------------------------------------------------------------------------------------
# Preparation


def detector_digests(folder: str | None) -> dict[str, str]:
    """Return the label of the detectors in a folder and the SHA-256 of their files; {} for the published ones."""
    if folder is None:
        return {}
    found = {'label': detector_files.label_of(folder) or ''}
    for name in detector_files.URLS:
        path = detector_files.locate(name, folder)
        if path is not None:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def make_settings(data: str, detectors: str | None, values: dict[str, Any]) -> Settings:
    """Check the options that all runs have in common, and return them."""
    with usage_errors('--train-options'):
        common = parse_options(values['train_options'], '--train-options')
    with usage_errors('--metrics'):
        metrics = metric_table.parse_names(values['metrics'])
        if not metrics:
            raise ValueError('there is nothing to compare: name at least one metric.')
    with usage_errors('--curve-metric'):
        metric_table.find_metric(values['curve_metric'])
    with usage_errors('--detectors'):
        digests = detector_digests(detectors)
    with usage_errors('--data'):
        dataset = ImageFolderDataset(data)
        digest = content_sha256(dataset)
    dataset.close()
    return Settings(
        data=dataset.name,
        data_sha256=digest,
        subset=values['subset'],
        kimg=values['kimg'],
        train_options=list(common),
        metrics=list(metrics),
        curve_metric=values['curve_metric'],
        detectors=digests,
    )


def open_comparison(settings: Settings, outdir: Path, merged: tuple[str, ...]) -> Comparison:
    """Return the comparison of the output folder, if there is one, with the runs of other files.

    The runs of a shorter comparison in the output folder are left out: they are going to be continued.

    Raises:
        ValueError: A file cannot be used, or has other settings.
    """
    comparison = Comparison(settings, [])
    stored = outdir / 'comparison.json'
    if stored.exists():
        before = read_comparison(stored)
        is_shorter = before.settings.kimg < settings.kimg
        before.settings = dataclasses.replace(before.settings, kimg=settings.kimg) if is_shorter else before.settings
        comparison.merge(before, str(stored))
        comparison.runs = [] if is_shorter else comparison.runs
    for path in merged:
        comparison.merge(read_comparison(path), path)
    return comparison


def make_plans(
    comparison: Comparison, methods: list[Method], seeds: list[int], outdir: Path, **values: Any
) -> list[Plan]:
    """Return the runs that are missing: all methods with the first seed, then with the next one.

    Raises:
        ValueError: A method has other options than in the runs that exist.
    """
    known = {run.key for run in comparison.runs}
    plans = []
    for method in methods:
        comparison.check_options(method.name, method.options, '--methods')
    for seed in seeds:
        for method in methods:
            folder = outdir / 'runs' / method.name / f'seed{seed}'
            if (method.name, seed) not in known:
                plans.append(Plan(comparison.settings, method, seed, folder, **values))
    return plans


def check_plans(plans: list[Plan], processes: Processes) -> None:
    """Check the options of each method before anything is trained.

    Raises:
        click.BadParameter: They cannot be used.
    """
    for plan in {plan.method: plan for plan in reversed(plans)}.values():
        try:
            check(plan, processes)
        except Failed as error:
            raise usage_error('--methods', f'{plan.method.name}: {error}') from error


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def make_runs(comparison: Comparison, plans: list[Plan], processes: Processes, at_once: int, outdir: Path) -> list[str]:
    """Make all runs, and write everything again after each of them; return the messages of those that failed.

    Raises:
        Stopped: The processes were told to stop.
    """
    failures = []
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(make_run, plan, processes): plan for plan in plans}
        try:
            for future in concurrent.futures.as_completed(futures):
                plan = futures[future]
                try:
                    run = future.result()
                except Failed as error:
                    failures.append(f'{plan.title}: {error}')
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
                comparison.add(run)
                comparison.save(outdir / 'comparison.json')
                write_figures(comparison, outdir, plan.data)
                values = ', '.join(f'{name} {run.last(name):.4g}' for name in run.results)
                print(f'{plan.title}: {values} (after {seconds_as_text(start)})', flush=True)
        except (Stopped, KeyboardInterrupt) as error:
            processes.stop()
            for future in futures:
                future.cancel()
            raise Stopped from error
    return failures


def write_figures(comparison: Comparison, outdir: Path, data: str) -> None:
    """Write the table, the curves and the grid."""
    with atomic_file(outdir / 'comparison.md') as file:
        file.write(page(comparison).encode())
    draw_curves(comparison, [outdir / 'curves.png', outdir / 'curves.svg'])
    networks = {}
    for method in comparison.methods():
        folder = outdir / 'runs' / method / f'seed{comparison.runs_of(method)[0].seed}'
        run_dirs = sorted(folder.glob('[0-9]*-*'))
        if run_dirs:  # merged runs have left no networks here
            networks[method] = complete_snapshots(run_dirs[-1])[-1]
    if networks:
        dataset = ImageFolderDataset(data)
        draw_grid(networks, dataset, outdir / 'grid.png')
        dataset.close()


def stop_on_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does."""

    def interrupt(*_args: Any) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


# ---------------------------------------------------------------------------------------------------------------------
# Command line

COUNT = click.IntRange(min=1)


@click.command(cls=Command)
@click.option('--data', type=PATH, required=True, metavar='ZIP|DIR', help='Images, as written by dataset_tool.py')
@click.option('--subset', type=COUNT, metavar='N', help='Train on N images, selected by the seed', show_default='all')
@click.option(
    '--methods',
    'method_texts',
    multiple=True,
    required=True,
    metavar='NAME,...|NAME:OPTIONS',
    help=f'Methods to compare; can be given several times. Any of {", ".join(METHODS)}, or options of train.py',
)
@click.option('--seeds', type=SeedRange(), default='0,1,2', show_default=True, help='Seeds, with a run of each method')
@click.option('--kimg', type=FiniteFloat(min=0, min_open=True), required=True, help='Length of each training')
@click.option('--outdir', type=OutputFolder(), required=True, metavar='DIR', help='Folder for runs and results')
@click.option('--train-options', default='--cfg=tiny', show_default=True, help='Options of train.py for all runs')
@click.option(
    '--metrics', default='fid5k_full,kid5k_full,prdc5k3_full', show_default=True, help='Metrics at the end of a run'
)
@click.option('--curve-metric', default='fid5k_full', show_default=True, help='Metric at each snapshot')
@click.option('--snapshots', type=COUNT, default=6, show_default=True, help='Snapshots of each run')
@click.option('--detectors', type=PATH, metavar='DIR', show_default='the published ones', help='As in calc_metrics.py')
@click.option('--at-once', type=COUNT, default=1, show_default=True, help='Runs at a time')
@click.option('--threads', type=COUNT, show_default='all cores, divided by --at-once', help='Threads of each process')
@click.option(
    '--merge',
    'merged',
    type=PATH,
    multiple=True,
    metavar='FILE.json',
    help='Add the runs of another comparison.json with the same settings; can be given several times',
)
def main(
    data: str,
    detectors: str | None,
    seeds: list[int],
    outdir: str,
    method_texts: tuple[str, ...],
    merged: tuple[str, ...],
    at_once: int,
    **values: Any,
) -> None:
    """Compare methods for few images: train with each of them, and measure the networks."""
    # Check the options, and find the runs that are missing.
    check_outdir(outdir)
    require_matplotlib()
    with usage_errors('--methods'):
        methods = parse_methods(method_texts)
    settings = make_settings(data, detectors, values)
    folder = Path(outdir)
    with usage_errors('--merge'):
        comparison = open_comparison(settings, folder, merged)
    how = {
        'data': data,
        'detectors': detectors,
        'snapshots': values['snapshots'],
        'threads': values['threads'] or max((os.cpu_count() or 1) // at_once, 1),
    }
    with usage_errors('--methods'):
        plans = make_plans(comparison, methods, seeds, folder, **how)

    # Make them.
    stop_on_sigterm()
    processes = Processes()
    try:
        check_plans(plans, processes)
        print(f'{len(comparison.runs)} runs are complete, {len(plans)} are missing.', flush=True)
        if comparison.runs:
            comparison.save(folder / 'comparison.json')
            write_figures(comparison, folder, data)
        failures = make_runs(comparison, plans, processes, at_once, folder)
    except (Stopped, KeyboardInterrupt):
        print('Stopped, with everything saved; the same command continues.', file=sys.stderr)
        sys.exit(STOPPED_STATUS)

    # Report.
    if comparison.runs:
        print(f'\n{page(comparison)}\nresults  {folder}')
    if failures:
        print(f'{len(failures)} of {len(plans)} runs failed; the same command repeats them.', file=sys.stderr)
        sys.exit(FAILED_STATUS)


if __name__ == '__main__':
    main()
