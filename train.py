"""Train a GAN on a folder or zip of images.

The command line of training: options are parsed here, made into one complete configuration by `training.config`, and
handed to `training.training_loop.launch`. Under `torchrun` every process runs this file; the first one makes the run
directory and prints.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dnnlib.cli import BOOL, PATH, Command, FiniteFloat, check_outdir, device_option, resolve_device, usage_errors
from dnnlib.signals import STOPPED_STATUS
from dnnlib.util import is_url
from metrics.names import MetricNames
from training import config as cfg
from training.config import Options, wrong

if TYPE_CHECKING:
    import torch

    from metrics.evaluation import SnapshotMetrics
    from training.dataset import ImageFolderDataset
    from training.run.preflight import Finding
    from training.run.resuming import KeptRun

BY_PRESET = 'by --cfg'
POSITIVE_INT = click.IntRange(min=1)
FRACTION = FiniteFloat(min=0, max=1)
LEARNING_RATE = FiniteFloat(min=0, min_open=True)


class ThousandsOfImages(FiniteFloat):
    """A positive number, whole (an int, as it appears in the names of folders) or with a fraction, for a quick try."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        return int(number) if number.is_integer() else number


class RunSuffix(click.ParamType):
    """Text that can end the name of a folder everywhere."""

    name = 'text'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r'[A-Za-z0-9._+=-]{1,100}', value) is None:
            self.fail(
                f"{value!r} becomes part of a folder's name: use up to 100 letters, digits and any of . _ + = -",
                param,
                ctx,
            )
        return value


KIMG = ThousandsOfImages(min=0, min_open=True)


@click.command(cls=Command)
# Where, and what is written
@click.option('--outdir', type=PATH, metavar='DIR', help='Folder that gets a new folder for this run  [required]')
@click.option(
    '--snap',
    type=POSITIVE_INT,
    default=Options.snap,
    show_default=True,
    help='Ticks between two snapshots (images and network pickle)',
)
@click.option(
    '--tick', type=KIMG, default=Options.tick, show_default=True, help='Thousands of images between two status lines'
)
@click.option(
    '--metrics',
    type=MetricNames(),
    metavar='NAME,...|none',
    default=','.join(Options.metrics),
    show_default=True,
    help='Quality metrics at each snapshot, as in calc_metrics.py',
)
@click.option(
    '--detectors',
    type=PATH,
    metavar='DIR',
    show_default='the published ones',
    help='Folder with files that stand in for the detectors of the metrics',
)
@click.option(
    '--keep-states',
    type=POSITIVE_INT,
    default=Options.keep_states,
    show_default=True,
    help='Training states to keep, one beside each network pickle: the newest ones',
)
@click.option('--desc', type=RunSuffix(), help="Text to end the name of the run's folder with")
@click.option('-n', '--dry-run', is_flag=True, help='Print the complete configuration and stop, with nothing written')
# Data set
@click.option('--data', type=PATH, metavar='ZIP|DIR', help='Images, as dataset_tool.py makes them  [required]')
@click.option(
    '--cond',
    type=BOOL,
    default=Options.cond,
    show_default=True,
    help='Train a conditional model on the labels of the data set',
)
@click.option(
    '--subset', type=POSITIVE_INT, metavar='N', show_default='all', help='Use only N images, picked by --seed'
)
@click.option(
    '--mirror', type=BOOL, default=Options.mirror, show_default=True, help="Show each image's mirror image as well"
)
@click.option(
    '--strict-data',
    type=BOOL,
    default=Options.strict_data,
    show_default=True,
    help='Stop at an image that cannot be read; otherwise another one is shown in its place',
)
@click.option(
    '--verify-data',
    type=click.Choice(cfg.VERIFY_DATA),
    default=Options.verify_data,
    show_default=True,
    help='Read of the images, before the training: nothing, headers, headers and 100 images, everything',
)
# Preset, and what replaces its numbers
@click.option(
    '--cfg',
    type=click.Choice(cfg.PRESET_NAMES),
    default=Options.cfg,
    show_default=True,
    help='Preset; auto fits itself to resolution and GPUs, tiny is for small images on a CPU',
)
@click.option('--gamma', type=FiniteFloat(min=0), show_default=BY_PRESET, help='Weight of the R1 penalty')
@click.option('--kimg', type=KIMG, show_default=BY_PRESET, help='Length of the training in thousands of images')
@click.option('--batch', type=POSITIVE_INT, show_default=BY_PRESET, help='Images a step, over all GPUs')
@click.option(
    '--batch-gpu',
    type=POSITIVE_INT,
    show_default="what fits the preset's GPUs",
    help='Images that a GPU handles at once; fewer need less memory and more time',
)
@click.option('--cbase', type=POSITIVE_INT, show_default=BY_PRESET, help='Channels of a layer, times its resolution')
@click.option('--cmax', type=POSITIVE_INT, show_default=BY_PRESET, help='Channels of a layer, at most')
@click.option('--glr', type=LEARNING_RATE, show_default=BY_PRESET, help='Learning rate of the generator')
@click.option('--dlr', type=LEARNING_RATE, show_default=BY_PRESET, help='Learning rate of the discriminator')
@click.option('--map-depth', type=POSITIVE_INT, show_default=BY_PRESET, help='Layers of the mapping network')
@click.option(
    '--mbstd-group',
    type=POSITIVE_INT,
    show_default=BY_PRESET,
    help='Images that share one minibatch standard deviation',
)
# Augmentation
@click.option(
    '--aug',
    type=click.Choice(['noaug', 'ada', 'fixed']),
    show_default=cfg.DEFAULT_AUG,
    help='Augment not at all, adaptively, or with the strength --p',
)
@click.option('--p', type=FRACTION, metavar='P', help='Augmentation strength, with --aug=fixed')
@click.option(
    '--init-p', type=FRACTION, metavar='P', show_default='0', help='Augmentation strength that --aug=ada starts from'
)
@click.option(
    '--target',
    type=FRACTION,
    show_default=str(cfg.DEFAULT_ADA_TARGET),
    help="Overfitting that --aug=ada holds: the mean sign of the discriminator's output for real images",
)
@click.option(
    '--augpipe',
    type=click.Choice(cfg.AUGPIPE_NAMES),
    show_default=cfg.DEFAULT_AUGPIPE,
    help='Which augmentations: b(lit) g(eom) c(olor) f(ilter) n(oise) c(utout)',
)
# Start from a trained network
@click.option(
    '--resume',
    type=PATH,
    metavar='NAME|PATH|URL',
    show_default=cfg.NO_RESUME,
    help=f'Network pickle to start from: {", ".join(cfg.RESUME_SOURCES)}, a file or a URL; '
    f'{cfg.LATEST}: as --resume-run={cfg.LATEST}',
)
@click.option(
    '--freezed',
    type=click.IntRange(min=0),
    metavar='N',
    show_default='0',
    help='Keep the first N layers of the discriminator as they are',
)
# Go on with a run
@click.option(
    '--resume-run',
    type=PATH,
    metavar='DIR|latest',
    help='Go on with the run in this folder, or with the newest in --outdir that has the same options (where '
    'there is none, start it); options that do not change its result may be given anew',
)
# Execution
@click.option(
    '--seed', type=click.IntRange(min=0, max=2**31 - 1), default=Options.seed, show_default=True, help='Random seed'
)
@click.option(
    '--gpus',
    type=POSITIVE_INT,
    show_default='1, or what torchrun started',
    help='Processes, one a GPU (on a CPU, all share it)',
)
@device_option()
@click.option(
    '--workers',
    type=click.IntRange(min=0),
    default=Options.workers,
    show_default='3, on a CPU 0',
    help='Processes that decode images, for each GPU; 0 decodes in the training process',
)
@click.option(
    '--fp32',
    type=BOOL,
    default=Options.fp32,
    show_default=True,
    help='Full precision throughout, with activations unclamped',
)
@click.option(
    '--nhwc',
    type=BOOL,
    default=Options.nhwc,
    show_default=True,
    help='Channels-last memory layout for half-precision layers',
)
@click.option(
    '--nobench',
    type=BOOL,
    default=Options.nobench,
    show_default=True,
    help='Let cuDNN choose its algorithms without timing them',
)
@click.option(
    '--allow-tf32',
    type=BOOL,
    default=Options.allow_tf32,
    show_default=True,
    help='Allow TensorFloat-32 for matrix products and convolutions',
)
@click.option(
    '--deterministic',
    type=BOOL,
    default=Options.deterministic,
    show_default=True,
    help='The same numbers to the bit each time, on CUDA at some cost in speed; a CPU needs no telling',
)
def main(**values: Any) -> None:
    """Train a generative adversarial network (StyleGAN2 with adaptive discriminator augmentation) on your own images.

    \b
    Images of 16 or 32 pixels, on a CPU:
      python train.py --outdir=runs --data=digits.zip --cfg=tiny --cond=1 --metrics=none
    From a network trained on faces, with mirror images, on two GPUs:
      python train.py --outdir=runs --data=cats.zip --gpus=2 --mirror=1 --resume=ffhq256
    Go on with a run that was interrupted, to the bit where it stopped:
      python train.py --resume-run=runs/00000-cats-auto1
    What a command would do, without doing it:
      python train.py --outdir=runs --data=cats.zip --gpus=2 --dry-run
    """
    from torch_utils import distributed
    from training import training_loop
    from training.run import preflight, resuming

    context = click.get_current_context()
    given = {name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    options, given = cfg.resume_latest_as_run(Options(**values), given)
    require_places(options)
    is_first = distributed.is_first_process()
    run = resuming.find_run(options, given, required=is_first)
    if run is not None:
        options = run.options
    device = resolve_device(options.device)
    num_gpus = distributed.number_of_processes(options.gpus, device)
    if options.resume_run is not None and not is_first:
        if not options.dry_run:
            exit_unless(training_loop.join(num_gpus, str(device)))
        return
    check_outdir(options.outdir)
    dataset = cfg.open_training_set(options)
    if run is None:
        config = cfg.build_config(options, dataset, str(device), num_gpus)
    else:
        config = resuming.continued_config(run, dataset, str(device), num_gpus)

    if is_first:
        if run is not None and run.has_moved_data:
            check_moved_dataset(run, dataset)
        # A run that goes on had its images read when it started.
        verify_data = options.verify_data if run is None or 'verify_data' in given else 'none'
        checks = preflight.check_run(config, dataset, options.outdir, verify_data)
        starts_from_pickle = run is None and config.resume_pkl is not None
        if starts_from_pickle and not (options.dry_run and is_url(config.resume_pkl)):
            check_resume(config, dataset)
        if config.metrics:
            checks.append(check_detectors(config, dataset, download=not options.dry_run))
        desc = cfg.run_description(options, dataset.name, num_gpus)
        if options.dry_run:
            config.run_dir = config.run_dir or cfg.next_run_dir(options.outdir, desc)
            print(config.to_json())
            print(
                f'\n{cfg.describe(config, dataset, run is not None)}\n{preflight.table(checks)}\n'
                'Dry run: nothing was written.',
                file=sys.stderr,
            )
            return
        if run is None:
            config.run_dir = cfg.create_run_dir(options.outdir, desc)
            config.save(os.path.join(config.run_dir, cfg.OPTIONS_FILE))
        print(f'{cfg.describe(config, dataset, run is not None)}\n{preflight.table(checks)}', flush=True)
        record_provenance(config, dataset, device)
    elif options.dry_run:
        return
    else:
        dataset.close()

    exit_unless(training_loop.launch(config, snapshot_metrics(config), resume=run is not None))


def exit_unless(complete: bool) -> None:
    """A training that a signal has stopped has an exit status of its own: a loop around it can tell."""
    if not complete:
        sys.exit(STOPPED_STATUS)


def require_places(options: Options) -> None:
    """Only a run that goes on knows its places by itself."""
    if options.resume_run not in (None, cfg.LATEST):
        return
    for name in ('outdir', 'data'):
        if getattr(options, name) is None:
            raise click.UsageError(f"Missing option '--{name}'.")


def check_moved_dataset(run: KeptRun, dataset: ImageFolderDataset) -> None:
    """A run goes on with a dataset from another place only where that is the same one."""
    from metrics.features.cache import content_sha256
    from training.run import provenance

    known = provenance.dataset_sha256(run.run_dir)
    if known is None or content_sha256(dataset) != known:
        reason = 'is another dataset than' if known else 'cannot be compared with'
        raise wrong(
            '--data',
            f'{run.options.data!r} {reason} that of {run.run_dir!r}, {run.config.options["data"]!r}: '
            'give the same images and labels in the same order, or start a new run.',
        )


def record_provenance(config: cfg.TrainingConfig, dataset: ImageFolderDataset, device: torch.device) -> None:
    from metrics.features.cache import content_sha256
    from training.run import provenance

    def digest() -> str:
        try:
            return content_sha256(dataset, shown=False)
        finally:
            dataset.close()

    provenance.record_start(config.run_dir, config.options, device)
    provenance.record_dataset(config.run_dir, digest)


def snapshot_metrics(config: cfg.TrainingConfig) -> SnapshotMetrics | None:
    """What the training loop calls with each snapshot."""
    if not config.metrics:
        return None
    from metrics.evaluation import SnapshotMetrics
    from metrics.options import Settings

    workers = config.data_loader_kwargs['num_workers']
    settings = Settings(
        config.training_set_kwargs, seed=config.random_seed, detectors=config.detectors, workers=workers
    )
    return SnapshotMetrics(config.metrics, settings)


def check_detectors(config: cfg.TrainingConfig, dataset: ImageFolderDataset, download: bool) -> Finding:
    """Metrics that lack their detectors would fail at every snapshot; `download` brings those that are not here."""
    from metrics import evaluation
    from metrics.features.detectors import DetectorError
    from training.run.preflight import Finding

    try:
        evaluation.check_detectors(config.metrics, config.detectors, dataset.resolution, download)
    except DetectorError as error:
        reason = str(error).removeprefix('--detectors: ').removesuffix('.')
        raise wrong('--metrics', f'{reason}; or train without metrics: --metrics=none.') from error
    where = config.detectors or ('the published ones' if download else 'the published ones, as far as they are here')
    return Finding('detectors', f'for {", ".join(config.metrics)}: {where}')


def check_resume(config: cfg.TrainingConfig, dataset: ImageFolderDataset) -> None:
    from training import setup

    with usage_errors('--resume'):
        setup.check_resume(config, dataset)


if __name__ == '__main__':
    main()
