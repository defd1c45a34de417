"""Quality metrics of trained networks.

This is the command line. It checks the options, completes them from the network pickle and the directory of the
training run, and calls `metrics.jobs.run`.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dnnlib.cli import (
    BOOL,
    PATH,
    Command,
    cuda_graphs_option,
    device_option,
    resolve_device,
    usage_error,
    usage_errors,
    warn_if_not_cuda,
)
from dnnlib.json_input import read_json
from dnnlib.schema import shown
from dnnlib.text import excerpt, message_line
from dnnlib.util import is_url
from metrics import metric_table
from metrics.cli_types import MetricNames
from metrics.metric_spec import PathPairs
from metrics.options import DEFAULT_RESAMPLES, SMALL_DATASET, MetricOptions, resamples_for
from network_files.snapshots import complete_snapshots, network_file
from training import known_classes, schema
from training.run.run_dir import RunDir

if TYPE_CHECKING:
    import torch

    from metrics.jobs import MetricJob

WORKERS_ON_CUDA = 3
VERIFY_RESOLUTION = 64


@click.command(cls=Command)
@click.option(
    '--network',
    'networks',
    type=PATH,
    multiple=True,
    metavar='PKL|URL|DIR',
    help='Network file, hf://owner/name, or directory of a run for its latest snapshot; can be given several times',
)
@click.option(
    '--every',
    type=click.IntRange(min=1),
    metavar='N',
    help='Measure every Nth snapshot of training runs, and plot the results over the training',
)
@click.option(
    '--metrics',
    'metric_names',
    type=MetricNames(),
    default='fid50k_full',
    show_default=True,
    metavar='NAME,...',
    help=f'Any of {" ".join(metric_table.EXAMPLES)}, or the same with other numbers of images, such as fid5k_full',
)
@click.option(
    '--data',
    type=PATH,
    metavar='ZIP|DIR',
    show_default='that of the training',
    help='Dataset to compare with',
)
@click.option(
    '--validation',
    type=PATH,
    metavar='ZIP|DIR',
    show_default='those held out of the training, if any',
    help='Images that were not trained on, to compare with (memorization…, …_held_out)',
)
@click.option(
    '--mirror',
    type=BOOL,
    show_default='as in the training',
    help='Add mirrored images to the real ones, for metrics whose names do not end in _full',
)
@click.option(
    '--seed',
    type=click.IntRange(min=0, max=2**31 - 1),
    show_default='that of the training, or 0',
    help='Seed of all random draws',
)
@click.option(
    '--num-samples',
    type=click.IntRange(min=1),
    metavar='N',
    show_default=f'{MetricOptions.num_samples:,}',
    help='Pairs of images for path lengths (ppl…)',
)
@click.option(
    '--bootstrap',
    type=click.IntRange(min=0),
    metavar='N',
    show_default=f'{DEFAULT_RESAMPLES} for datasets below {SMALL_DATASET:,} images, else 0',
    help='Add a 95 % interval to FID, KID and other distances, from N resamples (20 or more; 0 adds none)',
)
@click.option(
    '--detectors',
    'detector_dir',
    type=PATH,
    metavar='DIR',
    show_default='the published ones',
    help='Folder with files that replace the detectors',
)
@click.option(
    '--fetch-detectors',
    is_flag=True,
    help='Download the published detectors into the cache, verify them, and exit',
)
@click.option(
    '--gpus',
    type=click.IntRange(min=1),
    show_default='1, or as started by torchrun',
    help='Number of processes, each with its own GPU (on a CPU, they share it)',
)
@click.option(
    '--batch',
    type=click.IntRange(min=1),
    default=MetricOptions.batch,
    show_default=True,
    help='Images at once; another number means other noise in the networks',
)
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickles (only if you trust their authors)')
@click.option('--verbose', type=BOOL, default=True, show_default=True, help='Show progress')
@cuda_graphs_option()
@device_option()
def main(
    networks: tuple[str, ...],
    every: int | None,
    metric_names: tuple[str, ...],
    data: str | None,
    validation: str | None,
    mirror: bool | None,
    seed: int | None,
    num_samples: int | None,
    bootstrap: int | None,
    detector_dir: str | None,
    fetch_detectors: bool,
    gpus: int | None,
    batch: int,
    trust_pickle: bool,
    verbose: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Compute quality metrics of trained networks.

    \b
    The latest snapshot of a training run:
      python calc_metrics.py --network=runs/00000-photos-auto1
    Several metrics of one network, on two GPUs:
      python calc_metrics.py --network=network.pkl --metrics=fid50k_full,kid50k_full --gpus=2
    Every fifth snapshot, with a plot:
      python calc_metrics.py --network=runs/00000-photos-auto1 --every=5
    """  # fmt: skip
    if fetch_detectors:
        verify_published_detectors(verbose)
        return
    check_usage(networks, metric_names, num_samples, bootstrap, validation, every)
    from torch_utils import launcher

    torch_device = resolve_device(device)
    if cuda_graphs:
        warn_if_not_cuda('--cuda-graphs=1', torch_device)
    with usage_errors():
        num_processes = launcher.number_of_processes(gpus, torch_device)
    options = {
        'batch': batch,
        'verbose': verbose,
        'num_samples': num_samples or MetricOptions.num_samples,
        'workers': WORKERS_ON_CUDA if torch_device.type == 'cuda' else 0,
        'cuda_graphs': cuda_graphs,
    }
    images = Images(data, validation, mirror)
    jobs = [
        make_job(network_pkl, images, seed, bootstrap, detector_dir, trust_pickle, metric_names, options)
        for network in networks
        for network_pkl in list_network_pkls(network, every)
    ]
    check_jobs(jobs, metric_names, with_detectors=launcher.is_first_process())

    from metrics import jobs as metric_jobs

    launcher.launch(metric_jobs.run, num_processes, str(torch_device), jobs, metric_names, every is not None)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_usage(
    networks: tuple[str, ...],
    metric_names: tuple[str, ...],
    num_samples: int | None,
    bootstrap: int | None,
    validation: str | None,
    every: int | None,
) -> None:
    """Check the options that do not depend on files."""
    if not networks:
        raise click.UsageError("Missing option '--network': use a network pickle or the directory of a training run.")
    if not metric_names:
        raise usage_error('--metrics', f'there is nothing to compute. Choose from {", ".join(metric_table.EXAMPLES)}.')
    entries = [metric_table.find_metric(name)[0] for name in metric_names]
    if num_samples is not None and not any(isinstance(entry.needs, PathPairs) for entry in entries):
        raise usage_error(
            '--num-samples',
            f'{num_samples} applies to path lengths (ppl…) only. The names of other metrics contain their number of '
            'images, for example fid5k_full.',
        )
    if bootstrap is not None and 0 < bootstrap < 20:
        raise usage_error('--bootstrap', f'{bootstrap} resamples are too few for an interval. Use 20 or more, or 0.')
    if bootstrap is not None and not any(entry.is_distance for entry in entries):
        raise usage_error(
            '--bootstrap',
            f'resamples are for distances such as FID and KID, not for {", ".join(metric_names)}. Omit it.',
        )
    if validation is not None and not metric_table.using_held_out(metric_names):
        raise usage_error(
            '--validation', f'held-out images are not compared with by {", ".join(metric_names)}. Omit it.'
        )
    if every is not None:
        from metrics.curves import require_matplotlib

        with usage_errors('--every'):
            require_matplotlib()


def check_jobs(jobs: list[MetricJob], metric_names: tuple[str, ...], with_detectors: bool) -> None:
    """Check that each metric can be computed for one of the networks or more."""
    check_transforms(jobs, metric_names)
    check_held_out(jobs, metric_names)
    if with_detectors:
        check_detectors(jobs, metric_names)


def check_detectors(jobs: list[MetricJob], metric_names: tuple[str, ...]) -> None:
    """Load and try the detectors of all jobs before anything else.

    Raises:
        click.BadParameter: No metric can be computed. If some of them can, the others are only announced.
    """
    from dataset_format.sizes import sides
    from metrics import evaluation
    from metrics.features.detectors import DetectorError

    metrics_of: dict[str, list[str]] = {}
    for name in metric_names:
        call = metric_table.find_metric(name)[0].needs.call
        if call is not None:
            metrics_of.setdefault(call.detector, []).append(name)
    needs_none = len(metric_table.needing_detector(metric_names)) < len(metric_names)
    for folder, size in {(job.options.detectors, sides(job.resolution)) for job in jobs}:
        failures: dict[str, str] = {}
        for names in metrics_of.values():
            try:
                evaluation.check_detectors(names, folder, list(size))
            except DetectorError as error:
                failures[', '.join(names)] = str(error)
        if failures and len(failures) == len(metrics_of) and not needs_none:
            raise usage_error('--detectors', next(iter(failures.values())))
        for text, reason in failures.items():
            print(f'Warning: {text} will not be computed: {message_line(reason)}', file=sys.stderr, flush=True)


def check_transforms(jobs: list[MetricJob], metric_names: tuple[str, ...]) -> None:
    """Check that the metrics of equivariance, if there are any, can be computed for one of the networks."""
    names = metric_table.needing_transform(metric_names)
    if names and not any(job.takes_transform for job in jobs):
        raise usage_error(
            '--metrics',
            f'{", ".join(names)} cannot be computed for {excerpt(jobs[0].network)}: only the input of networks of '
            'StyleGAN3 can be moved and rotated. Use such a network, or other metrics.',
        )


def check_held_out(jobs: list[MetricJob], metric_names: tuple[str, ...]) -> None:
    """Check that images were held out for one of the networks, if metrics require that."""
    names = metric_table.requiring_held_out(metric_names)
    if names and all(job.options.held_out_kwargs is None for job in jobs):
        raise usage_error(
            '--metrics',
            f'{", ".join(names)} cannot be computed for {excerpt(jobs[0].network)}: no images were held out of its '
            'training. Use --validation=ZIP|DIR with images that were not trained on, or other metrics.',
        )


def verify_published_detectors(verbose: bool) -> None:
    """Download the published detectors into the cache unless they are there, and try each call of them."""
    from metrics.features import detectors
    from metrics.features.feature_requests import ALL_CALLS

    errors = []
    for name in detectors.URLS:
        try:
            detector = detectors.load(name, verbose=verbose)
            for call in ALL_CALLS:
                if call.detector == name:
                    detectors.check(detector, call, VERIFY_RESOLUTION, 'cpu')
        except detectors.DetectorError as error:
            errors.append(str(error))
        else:
            print(f'{name}: {detectors.locate(name)}\n  SHA-256 {detector.sha256}, works as expected')
    if errors:
        raise click.ClickException('\n'.join(errors))


# ---------------------------------------------------------------------------------------------------------------------
# Networks, and the options that their files provide


def list_network_pkls(network: str, every: int | None) -> list[str]:
    """Return the network pickles that `--network` stands for: itself, or snapshots of a run, oldest first."""
    with usage_errors('--network'):
        if is_url(network) or not os.path.isdir(network):
            if every is not None:
                raise usage_error('--every', f'{network!r} is not the directory of a training run. Omit it.')
            return [network_file(network)]
        snapshots = [str(path) for path in complete_snapshots(network)]
    if every is None:
        return snapshots[-1:]
    return list(dict.fromkeys([*snapshots[::every], snapshots[-1]]))


@dataclass(frozen=True)
class Images:
    """The options that say which real images to compare with."""

    data: str | None
    validation: str | None
    mirror: bool | None


def make_job(
    network: str,
    images: Images,
    seed: int | None,
    bootstrap: int | None,
    detector_dir: str | None,
    trust_pickle: bool,
    metric_names: tuple[str, ...],
    options: dict[str, Any],
) -> MetricJob:
    """Complete the options for one network, and check that its datasets exist and match the network."""
    from generation.image_transforms import is_supported
    from metrics.jobs import MetricJob
    from network_files.reading import open_network

    with usage_errors('--network'):
        content = open_network(network, trust=trust_pickle)
    run_dir, run_options = read_run_options(network)
    trained_on = content['training_set_kwargs']
    if trained_on is None:
        trained_on = run_options.get('training_set_kwargs')
    dataset_kwargs = choose_dataset(network, images, trained_on, run_dir)
    num_images = check_dataset('--data', dataset_kwargs, content['G_ema'])
    held_out_kwargs = None
    if metric_table.using_held_out(metric_names):
        held_out_kwargs = choose_held_out(images.validation, run_options.get('validation_set_kwargs'), dataset_kwargs)
    if held_out_kwargs is not None:
        check_dataset('--validation', held_out_kwargs, content['G_ema'])
    if seed is None:
        seed = run_options.get('random_seed')
    if detector_dir is None and run_options.get('detectors') is not None:
        print_detectors_ignored(run_dir, run_options['detectors'])
    metric_options = MetricOptions(
        dataset_kwargs=dataset_kwargs,
        held_out_kwargs=held_out_kwargs,
        seed=MetricOptions.seed if seed is None else seed,
        detectors=detector_dir,
        bootstrap=resamples_for(num_images, held_out_kwargs) if bootstrap is None else bootstrap,
        **options,
    )
    G = content['G_ema']
    return MetricJob(network, G.img_resolution, metric_options, run_dir, trust_pickle, is_supported(G))


def read_run_options(network: str) -> tuple[str | None, dict[str, Any]]:
    """Return the directory and the options of the training run that contains the pickle; (None, {}) if none does."""
    folder = os.path.dirname(network)
    path = RunDir(folder).options_json
    if is_url(network) or not os.path.isfile(path):
        return None, {}
    with usage_errors('--network'):
        options = read_json(path)
        schema.OPTIONS_FOR_METRICS.check(options, path)
    return folder or os.curdir, options


@functools.cache
def print_detectors_ignored(run_dir: str | None, detectors: str) -> None:
    """Print, once for each run, that the detectors of the training are not used."""
    print(
        f'The training in {run_dir} had the detectors in {excerpt(detectors)!r}, which are not used: such files can '
        'contain code, so only --detectors chooses them.',
        file=sys.stderr,
    )


def choose_dataset(network: str, images: Images, trained_on: Any, run_dir: str | None) -> dict[str, Any]:
    """Return the keywords of the dataset: that of `--data`, or else the one that the network was trained on.

    Those that select the training images are included if the dataset is the one of the training.

    Args:
        network: Path of the network, for messages.
        images: Options.
        trained_on: `training_set_kwargs` of the network, which may be anything. Its class is never constructed unless
            it is this project's own.
        run_dir: Directory of the training run, if there is one.
    """
    kwargs: dict[str, Any] = {'class_name': known_classes.DATASET, 'path': images.data, 'xflip': bool(images.mirror)}
    if trained_on is not None and (images.data is None or run_dir is not None):
        with usage_errors('--network'):
            schema.DATASET_FOR_METRICS.check(trained_on, f'{network}: training_set_kwargs')
    if images.data is not None:
        is_same = run_dir is not None and trained_on is not None and is_training_data(images.data, trained_on, run_dir)
        return kwargs | selection(trained_on) if is_same else kwargs
    if trained_on is None or trained_on.get('path') is None:
        raise click.UsageError(f"Missing option '--data': {network} does not record its training dataset.")
    class_name = trained_on.get('class_name', known_classes.DATASET)
    if class_name != known_classes.DATASET:
        raise click.UsageError(
            f"Missing option '--data': {network} was trained on a dataset of the class {shown(class_name)}, which is "
            'not supported here.'
        )
    kwargs['path'] = os.path.expanduser(trained_on['path'])
    if images.mirror is None:
        kwargs['xflip'] = bool(trained_on.get('xflip'))
        kwargs |= {'yflip': True} if trained_on.get('yflip') else {}
    return kwargs | selection(trained_on)


def selection(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that select images of a dataset."""
    names = ('max_size', 'random_seed', 'skip')
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}


def is_training_data(data: str, trained_on: dict[str, Any], run_dir: str) -> bool:
    """Return whether a dataset is the one that a run was trained on, at the same path or at another one."""
    from training.data.digest import content_sha256
    from training.run import provenance

    if trained_on.get('path') is not None and os.path.realpath(data) == os.path.realpath(trained_on['path']):
        return True
    known = provenance.dataset_sha256(run_dir)
    if known is None:
        return False
    with usage_errors('--data'):
        dataset = known_classes.construct({'class_name': known_classes.DATASET, 'path': data}, known_classes.DATASETS)
        return content_sha256(dataset) == known


def choose_held_out(
    validation: str | None, of_training: dict[str, Any] | None, dataset_kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the keywords of the held-out images: those of `--validation`, or else of the training; None without any.

    Args:
        validation: Value of `--validation`.
        of_training: `validation_set_kwargs` of the training.
        dataset_kwargs: The dataset, which may be that of the training at another path.
    """
    if validation is not None:
        return {'class_name': known_classes.DATASET, 'path': validation}
    if of_training is None:
        return None
    is_part_of_dataset = 'skip' in of_training and 'max_size' in dataset_kwargs
    return {**of_training, 'path': dataset_kwargs['path']} if is_part_of_dataset else of_training


def check_dataset(option: str, kwargs: dict[str, Any], G: torch.nn.Module) -> int:
    """Open a dataset once, to check that it matches the network; return its number of images."""
    from metrics.features.image_sources import open_dataset

    with usage_errors(option):
        dataset = open_dataset(kwargs, xflip=False, G=G, selected_only=True)
        dataset.close()
        return len(dataset)


if __name__ == '__main__':
    main()
