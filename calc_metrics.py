"""Quality metrics of trained networks.

The command line: options are parsed and checked here, what is not given is looked up in the pickle and in the
training run's directory, and `metrics.jobs.run` does the work.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataset_format.sizes import sides
from dnnlib.cli import BOOL, PATH, Command, device_option, resolve_device, usage_errors
from dnnlib.util import is_url
from metrics import names
from metrics.names import MetricNames
from metrics.options import Settings

if TYPE_CHECKING:
    import torch

    from metrics.jobs import Job

DEFAULT_SEED = 0
RUN_OPTIONS = 'training_options.json'
DATASET_CLASS = 'training.dataset.ImageFolderDataset'
WORKERS_ON_CUDA = 3
VERIFY_RESOLUTION = 64


def wrong(option: str, sentence: str) -> click.BadParameter:
    return click.BadParameter(sentence, param_hint=f"'{option}'")


@click.command(cls=Command)
@click.option(
    '--network',
    'networks',
    type=PATH,
    multiple=True,
    metavar='PKL|URL|DIR',
    help='Network pickle, or a training run whose last snapshot counts; may be given several times',
)
@click.option(
    '--every',
    type=click.IntRange(min=1),
    metavar='N',
    help='Every Nth snapshot of training runs, with a curve beside the results',
)
@click.option(
    '--metrics',
    type=MetricNames(),
    default='fid50k_full',
    show_default=True,
    metavar='NAME,...',
    help=f'Any of {" ".join(names.PUBLISHED)}, prdc50k3_full (with density and coverage), and the same '
    'with other counts, such as fid5k_full',
)
@click.option('--data', type=PATH, metavar='ZIP|DIR', show_default="the training's", help='Data set to compare with')
@click.option(
    '--mirror',
    type=BOOL,
    show_default="the training's",
    help='Count mirror images as real ones, for metrics whose names do not end in _full',
)
@click.option(
    '--seed',
    type=click.IntRange(min=0, max=2**31 - 1),
    show_default="the training's, else 0",
    help='Of all random draws',
)
@click.option(
    '--num-samples',
    type=click.IntRange(min=1),
    metavar='N',
    show_default=f'{Settings.num_samples:,}',
    help='Pairs of images for the path lengths (ppl…)',
)
@click.option(
    '--bootstrap', type=click.IntRange(min=20), metavar='N', help='Add a 95 % interval to FID and KID, from N resamples'
)
@click.option(
    '--detectors',
    'detectors_dir',
    type=PATH,
    metavar='DIR',
    show_default='the published ones',
    help='Folder with files that stand in for the detectors',
)
@click.option(
    '--fetch-detectors', is_flag=True, help='Download the published detectors into the cache, verify them, and stop'
)
@click.option(
    '--gpus',
    type=click.IntRange(min=1),
    show_default='1, or what torchrun started',
    help='Processes, one a GPU (on a CPU, all share it)',
)
@click.option(
    '--batch',
    type=click.IntRange(min=1),
    default=Settings.batch,
    show_default=True,
    help='Images at once; another number draws other noise in the networks',
)
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickles (only if you trust their makers)')
@click.option('--verbose', type=BOOL, default=True, show_default=True, help='Show progress')
@device_option()
def main(
    networks: tuple[str, ...],
    every: int | None,
    metrics: tuple[str, ...],
    data: str | None,
    mirror: bool | None,
    seed: int | None,
    num_samples: int | None,
    bootstrap: int | None,
    detectors_dir: str | None,
    fetch_detectors: bool,
    gpus: int | None,
    batch: int,
    trust_pickle: bool,
    verbose: bool,
    device: str,
) -> None:
    """Compute quality metrics of trained networks.

    \b
    The last snapshot of a training run:
      python calc_metrics.py --network=runs/00000-photos-auto1
    Several metrics of one network, on two GPUs:
      python calc_metrics.py --network=network.pkl --metrics=fid50k_full,kid50k_full --gpus=2
    Every fifth snapshot, with a curve:
      python calc_metrics.py --network=runs/00000-photos-auto1 --every=5
    """  # fmt: skip
    if fetch_detectors:
        fetch(verbose)
        return
    check_usage(networks, metrics, num_samples, bootstrap)
    from torch_utils import distributed

    torch_device = resolve_device(device)
    num_processes = distributed.number_of_processes(gpus, torch_device)
    choices = {
        'batch': batch,
        'verbose': verbose,
        'bootstrap': bootstrap or 0,
        'num_samples': num_samples or Settings.num_samples,
        'workers': WORKERS_ON_CUDA if torch_device.type == 'cuda' else 0,
    }
    if every is not None:
        require_matplotlib()
    jobs = [
        make_job(pickle_path, data, mirror, seed, detectors_dir, trust_pickle, choices)
        for network in networks
        for pickle_path in snapshots_of(network, every)
    ]
    if distributed.is_first_process():
        check_detectors(jobs, metrics)

    from metrics import jobs as metric_jobs

    distributed.launch(metric_jobs.run, num_processes, str(torch_device), jobs, metrics, every is not None)


# ------------------------------------------------------------------------------------------------
# Checks


def check_usage(
    networks: tuple[str, ...], metrics: tuple[str, ...], num_samples: int | None, bootstrap: int | None
) -> None:
    if not networks:
        raise click.UsageError('Nothing to measure: give --network, a network pickle or the folder of a training run.')
    if not metrics:
        raise wrong('--metrics', f'none leaves nothing to compute: take some of {", ".join(names.PUBLISHED)}.')
    families = {names.parse(name).family for name in metrics}
    if num_samples is not None and 'ppl' not in families:
        raise wrong(
            '--num-samples',
            f'{num_samples} is for path lengths (ppl…) alone; the other metrics have their number of images in their '
            'names, such as fid5k_full.',
        )
    if bootstrap is not None and not families & {'fid', 'kid'}:
        raise wrong('--bootstrap', f'there are intervals for FID and KID, not for {", ".join(metrics)}: drop it.')


def require_matplotlib() -> None:
    from metrics import curves

    try:
        curves.require_matplotlib()
    except ValueError as error:
        raise wrong('--every', str(error)) from error


def check_detectors(jobs: list[Job], metrics: tuple[str, ...]) -> None:
    """Load the detectors once before anything else, for all that the jobs name."""
    from metrics import evaluation
    from metrics.features.detectors import DetectorError

    for folder, size in {(job.settings.detectors, job.size) for job in jobs}:
        try:
            evaluation.check_detectors(metrics, folder, size)
        except DetectorError as error:
            raise wrong('--detectors', str(error).removeprefix('--detectors: ')) from error


def fetch(verbose: bool) -> None:
    """Put the published detectors into the cache and ask each of them something."""
    from metrics.features import detectors
    from metrics.features.detectors import DetectorError

    failures = []
    for name in detectors.URLS:
        try:
            detector = detectors.load(name, verbose=verbose)
            for keywords in detectors.CALLS[name]:
                detectors.check(detector, keywords, VERIFY_RESOLUTION, 'cpu')
        except DetectorError as error:
            failures.append(str(error))
        else:
            print(f'{name}: {detectors.locate(name)}\n  SHA-256 {detector.sha256}, answers as it should')
    if failures:
        raise click.ClickException('\n'.join(failures))


# ------------------------------------------------------------------------------------------------
# Networks, and what their files say


def snapshots_of(network: str, every: int | None) -> list[str]:
    """The pickles that `--network` means: itself, or snapshots of a run in the order of the training."""
    if is_url(network) or not os.path.isdir(network):
        if every is not None:
            raise wrong('--every', f'{network!r} is no folder of a training run: give one with --network, or drop it.')
        return [network]
    from metrics.jobs import kimg_of

    snapshots = [str(path) for path in Path(network).glob('network-snapshot-*.pkl') if kimg_of(path.name) is not None]
    snapshots.sort(key=kimg_of)
    if not snapshots:
        raise wrong('--network', f'{network!r} has no network-snapshot-*.pkl: give the folder of a training run.')
    if every is None:
        return snapshots[-1:]
    return list(dict.fromkeys([*snapshots[::every], snapshots[-1]]))


def make_job(
    network: str,
    data: str | None,
    mirror: bool | None,
    seed: int | None,
    detectors_dir: str | None,
    trust_pickle: bool,
    choices: dict[str, Any],
) -> Job:
    """Complete the options for one network, and check that its dataset is there and fits."""
    from metrics.jobs import Job
    from network_files.reading import open_network

    with usage_errors('--network'):
        content = open_network(network, trust=trust_pickle)
    run_dir, run_options = run_of(network)
    trained_on = content['training_set_kwargs'] or run_options.get('training_set_kwargs')
    dataset_kwargs = choose_dataset(network, data, mirror, trained_on)
    check_dataset(dataset_kwargs, content['G_ema'])
    settings = Settings(
        dataset_kwargs=dataset_kwargs,
        seed=next(value for value in (seed, run_options.get('random_seed'), DEFAULT_SEED) if value is not None),
        detectors=detectors_dir or run_options.get('detectors'),
        **choices,
    )
    return Job(network, sides(content['G_ema'].img_resolution), settings, run_dir, trust_pickle)


def run_of(network: str) -> tuple[str | None, dict[str, Any]]:
    """Directory and options of the training run that the pickle lies in; (None, {}) where it lies in none."""
    folder = os.path.dirname(network)
    path = os.path.join(folder, RUN_OPTIONS)
    if is_url(network) or not os.path.isfile(path):
        return None, {}
    try:
        options = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise wrong('--network', f'{path} beside it cannot be read as JSON ({error}).') from error
    return folder or os.curdir, options if isinstance(options, dict) else {}


def choose_dataset(
    network: str, data: str | None, mirror: bool | None, trained_on: dict[str, Any] | None
) -> dict[str, Any]:
    """Keywords of the dataset: `--data`, else what the network was trained on.

    Files decide on data only: a class of the dataset that a pickle names is not constructed, lest it name another.
    """
    trained_on = trained_on or {}
    if data is None:
        if not isinstance(trained_on.get('path'), str):
            raise click.UsageError(f'Missing option --data: {network} does not say what it was trained on.')
        class_name = trained_on.get('class_name', DATASET_CLASS)
        if class_name != DATASET_CLASS:
            raise click.UsageError(
                f'Missing option --data: {network} was trained on a {class_name!r}, which is not known here.'
            )
    xflip = mirror if mirror is not None else data is None and bool(trained_on.get('xflip'))
    return {'class_name': DATASET_CLASS, 'path': data or os.path.expanduser(trained_on['path']), 'xflip': xflip}


def check_dataset(dataset_kwargs: dict[str, Any], G: torch.nn.Module) -> None:
    from metrics.features.image_sources import open_dataset

    try:
        open_dataset(dataset_kwargs, xflip=False, G=G).close()
    except (ValueError, OSError) as error:
        raise wrong('--data', str(error)) from error


if __name__ == '__main__':
    main()
