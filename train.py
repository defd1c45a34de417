"""Train a GAN on a folder or zip archive of images.

This is the command line of training: it parses the options, builds one complete configuration (`training.options`),
checks it (`training.run.preflight`) and passes it to `training.training_loop.launch`. Under `torchrun` every process
runs this file; the first one creates the run directory and prints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dnnlib.cli import (
    BOOL,
    PATH,
    Command,
    FiniteFloat,
    check_outdir,
    device_option,
    resolve_device,
    usage_error,
    usage_errors,
)
from dnnlib.outputs import OutputFolder
from dnnlib.signals import STOPPED_STATUS
from dnnlib.streams import tolerate_lost_output
from dnnlib.util import is_url
from metrics import metric_table
from metrics.cli_types import MetricNames
from training import known_classes
from training.cli_types import KIMG, RESUME_HELP, RESUME_RUN_HELP, CountOrPath, Mirroring, RunSuffix, StoredText
from training.config import DEFAULT_HEURISTIC, DEFAULT_MAX_P
from training.method_options import (
    DEFAULT_AUG,
    DEFAULT_BCR,
    DEFAULT_INSGEN,
    DEFAULT_POSTHOC_EMA,
    DEFAULT_TARGETS,
    canonical_bcr,
    canonical_diffaugment,
    canonical_insgen,
    canonical_posthoc_ema,
)
from training.options import LATEST, VERIFY_DATA, Options
from training.presets import AUGPIPE_NAMES, DEFAULT_AUGPIPE, LOSS_NAMES, PRESET_NAMES
from training.schema import ARCHITECTURES, MAX_P, PRECISIONS
from training.tracker_options import canonical_tracker
from training.transfer_options import NO_RESUME, resume_source

if TYPE_CHECKING:
    from metrics.evaluation import SnapshotMetrics
    from training.config import TrainingConfig
    from training.dataset import ImageFolderDataset
    from training.run.preflight import Finding
    from training.run.resuming import ResumedRun
    from training.transfer import Pretrained

# ---------------------------------------------------------------------------------------------------------------------
# Option types


SEED = click.IntRange(min=0, max=2**31 - 1)
COUNT = click.IntRange(min=1)
COUNT_OR_ZERO = click.IntRange(min=0)
FRACTION = FiniteFloat(min=0, max=1)
POSITIVE = FiniteFloat(min=0, min_open=True)
MAX_STRENGTH = FiniteFloat(min=0, min_open=True, max=MAX_P)
NOT_NEGATIVE = FiniteFloat(min=0)

BY_PRESET = 'by --cfg'


def option(
    name: str, kind: click.ParamType, help_text: str, default: str | bool = True, metavar: str | None = None
) -> Callable:
    """Return the decorator for an option whose default value is that of `Options`.

    Args:
        name: Name of the option, such as '--batch-gpu'.
        kind: Type of its value.
        help_text: Help text.
        default: Text to show as the default; True shows the value itself.
        metavar: Placeholder for the value in the help.
    """
    value = getattr(Options, name.removeprefix('--').replace('-', '_'), None)
    return click.option(name, type=kind, default=value, show_default=default, metavar=metavar, help=help_text)


@click.command(cls=Command)
# Output
@option('--outdir', OutputFolder(), 'Folder in which the run gets a new folder  [required]', metavar='DIR')
@option('--snap', COUNT, 'Ticks between two snapshots (images and network pickle)')
@option('--tick', KIMG, 'Thousands of images between two status lines')
@click.option(
    '--metrics',
    type=MetricNames(),
    metavar='NAME,...|none',
    default=','.join(Options.metrics),
    show_default=True,
    help='Quality metrics of each snapshot, as in calc_metrics.py',
)
@option('--detectors', PATH, 'Folder with replacements for the detectors of the metrics', 'the published ones', 'DIR')
@option('--keep-states', COUNT, 'Number of training states to keep, newest first')
@option('--report', BOOL, 'Write report.html at each snapshot: curves, images, what to try next')
@option(
    '--tracker', StoredText('wandb|trackio|mlflow,...', canonical_tracker), 'Also log there: docs/trackers.md', 'none'
)
@option('--desc', RunSuffix(), "Text to append to the name of the run's folder")
@click.option(
    '-n', '--dry-run', is_flag=True, help='Print the complete configuration and stop without writing anything'
)
# Dataset
@option('--data', PATH, 'Images, as written by dataset_tool.py  [required]', metavar='ZIP|DIR')
@option('--cond', BOOL, 'Train a conditional model on the labels of the dataset')
@option('--subset', COUNT, 'Use only N images, selected by --seed', 'all', 'N')
@option('--mirror', Mirroring(), 'Also show mirror images: x or 1 from left to right, y upside down, xy both')
@option('--validation', CountOrPath(), 'Images held out of training: N of them, selected by --seed, or others', 'none')
@option('--strict-data', BOOL, 'Stop at an image that cannot be read, instead of using another one in its place')
@option('--verify-data', click.Choice(VERIFY_DATA), 'Images to read before training: sample decodes 100 of them')
# Preset, and numbers that replace its own
@option(
    '--cfg',
    click.Choice(PRESET_NAMES),
    'Preset; auto adapts to resolution and GPUs, tiny and small-data are for small images on a CPU',
)
@option('--gamma', NOT_NEGATIVE, 'Weight of the R1 penalty', BY_PRESET)
@option('--gamma2', NOT_NEGATIVE, 'Weight of the R2 penalty of --loss=relativistic', '--gamma')
@option('--d-reg-interval', COUNT, 'Steps between two with these penalties; 1: in each step', BY_PRESET)
@option('--kimg', KIMG, 'Length of the training in thousands of images', BY_PRESET)
@option('--batch', COUNT, 'Images per step, over all GPUs', BY_PRESET)
@option(
    '--batch-gpu', COUNT, 'Images per GPU at once; fewer need less memory and more time', "what fits the preset's GPUs"
)
@option('--cbase', COUNT, 'Channels of a layer, times its resolution', BY_PRESET)
@option('--cmax', COUNT, 'Maximum number of channels of a layer', BY_PRESET)
@option('--glr', POSITIVE, 'Learning rate of the generator', BY_PRESET)
@option('--dlr', POSITIVE, 'Learning rate of the discriminator', BY_PRESET)
@option('--map-depth', COUNT, 'Layers of the mapping network', BY_PRESET)
@option('--mbstd-group', COUNT, 'Images that share one minibatch standard deviation', BY_PRESET)
# Loss
@option(
    '--loss',
    click.Choice(LOSS_NAMES),
    'relativistic compares real and generated images in pairs, with R1 and R2',
    BY_PRESET,
)
@option('--lecam', NOT_NEGATIVE, 'Weight of LeCam, which holds back the outputs of D', 'none', 'W')
@click.option(
    '--bcr',
    type=StoredText('W|W,W', canonical_bcr),
    is_flag=False,
    flag_value=DEFAULT_BCR,
    default=Options.bcr,
    show_default='none',
    help=f'Weight of the consistency of D for transformed images, real and generated; --bcr alone: {DEFAULT_BCR}',
)
@click.option(
    '--insgen',
    type=StoredText('W|W,W', canonical_insgen),
    is_flag=False,
    flag_value=DEFAULT_INSGEN,
    default=Options.insgen,
    show_default='none',
    help='Weights for D and G of instance discrimination, with which D recognizes each image in another view; '
    f'--insgen alone: {DEFAULT_INSGEN}',
)
# Augmentation
@option(
    '--aug', click.Choice(['noaug', 'ada', 'fixed']), 'No augmentation, adaptive, or with strength --p', DEFAULT_AUG
)
@option('--p', FRACTION, 'Augmentation strength of --aug=fixed', metavar='P')
@option('--init-p', FRACTION, 'Initial augmentation strength of --aug=ada', '0', 'P')
@option('--max-p', MAX_STRENGTH, 'Largest augmentation strength of --aug=ada', f'{DEFAULT_MAX_P:g}', 'P')
@option(
    '--target',
    FRACTION,
    'What --aug=ada and --apa aim at',
    f'{DEFAULT_TARGETS["rt"]}, with rv {DEFAULT_TARGETS["rv"]}',
    'T',
)
@option('--augpipe', click.Choice(AUGPIPE_NAMES), 'b(lit) g(eom) c(olor) f(ilter) n(oise) c(utout)', DEFAULT_AUGPIPE)
@option(
    '--diffaugment',
    StoredText('list', canonical_diffaugment),
    'Differentiable augmentations at full strength, in addition to --aug: color, translation, cutout',
    'none',
    'NAME,...',
)
@click.option(
    '--apa',
    type=BOOL,
    is_flag=False,
    flag_value=True,
    default=Options.apa,
    show_default='0',
    help='Show D generated images among the real ones, the more of them the more it overfits (see --target)',
)
@option(
    '--ada-heuristic',
    click.Choice(list(DEFAULT_TARGETS)),
    "Measure of overfitting: rt is the mean sign of D's output for real images, rv compares with --validation",
    DEFAULT_HEURISTIC,
)
# Averages of the generator
@click.option(
    '--posthoc-ema',
    type=StoredText('L,L', canonical_posthoc_ema),
    is_flag=False,
    flag_value=DEFAULT_POSTHOC_EMA,
    default=Options.posthoc_ema,
    show_default='none',
    help='Lengths of two more averages of the generator, from which scripts/posthoc_ema.py makes one of any length '
    f'after the training; --posthoc-ema alone: {DEFAULT_POSTHOC_EMA}',
)
# Transfer learning
@option('--resume', PATH, RESUME_HELP, NO_RESUME, 'NAME|PATH|URL|DIR')
@option('--arch', click.Choice(ARCHITECTURES), 'Architecture of the file of --resume, or of --cfg', 'file')
@option('--resume-kimg', NOT_NEGATIVE, 'Thousands of images that count as shown when the run starts', '0', 'KIMG')
@option('--resume-optimizer', BOOL, "Take Adam's moments from the training state beside the file of --resume")
@option('--freezed', COUNT_OR_ZERO, 'Freeze the first N layers of the discriminator', '0', 'N')
@option(
    '--freezeg', COUNT_OR_ZERO, "Freeze the first N layers of the generator's synthesis, with their styles", '0', 'N'
)
@option('--freezem', COUNT_OR_ZERO, "Freeze the first N layers of the generator's mapping network", '0', 'N')
@option('--freezee', BOOL, "Freeze the generator's embedding of the label")
# Resuming an interrupted run
@option('--resume-run', PATH, RESUME_RUN_HELP, metavar='DIR|latest')
# Execution
@option('--seed', SEED, 'Random seed')
@option('--gpus', COUNT, 'Processes, one per GPU (on a CPU they share it)', '1, or as many as torchrun started')
@device_option()
@option('--workers', COUNT_OR_ZERO, 'Processes per GPU that decode images; 0: the main process does', '3, on a CPU 0')
@option('--precision', click.Choice(PRECISIONS), 'Of the highest layers (fp16, bf16) or of all', 'fp16, on a CPU fp32')
@option('--fp32', BOOL, 'Full precision everywhere, without clamping activations')
@option('--nhwc', BOOL, 'Channels-last memory layout in half-precision layers')
@option('--nobench', BOOL, 'Let cuDNN choose its algorithms without timing them')
@option('--allow-tf32', BOOL, 'Allow TensorFloat-32 in matrix products and convolutions')
@option('--cuda-graphs', BOOL, 'Run each phase as a CUDA graph: the same results, sooner (no GPU has shown it yet)')
@option('--deterministic', BOOL, 'Bit-identical results on CUDA, somewhat slower (a CPU always gives them)')
def main(**values: Any) -> None:
    """Train a generative adversarial network (StyleGAN2 with adaptive discriminator augmentation) on your own images.

    \b
    Images of 16 or 32 pixels, on a CPU:
      python train.py --outdir=runs --data=digits.zip --cfg=tiny --cond=1 --metrics=none
    Start from a network trained on faces, with mirror images, on two GPUs:
      python train.py --outdir=runs --data=cats.zip --gpus=2 --mirror=1 --resume=ffhq256
    Resume a run that was interrupted, bit for bit:
      python train.py --resume-run=runs/00000-cats-auto1
    Show what a command would do, without doing it:
      python train.py --outdir=runs --data=cats.zip --gpus=2 --dry-run
    """
    context = click.get_current_context()
    given = {name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    with usage_errors():
        is_complete = run_training(Options(**values), given)
    if not is_complete:
        sys.exit(STOPPED_STATUS)  # stopped by a signal: a loop around this command can tell


def run_training(options: Options, given: set[str]) -> bool:
    """Train, or only check in a dry run.

    Args:
        options: Options of the command line.
        given: Names of the options that were given explicitly.

    Returns:
        False if a signal has stopped the training, with everything saved.

    Raises:
        InvalidArgument: An option that cannot be used.
    """
    from reporting.writing import snapshot_report
    from torch_utils import launcher
    from training import training_loop
    from training.options import build_config, open_training_set, resume_latest_as_run
    from training.run import provenance
    from training.run.resuming import find_run, resumed_config

    # Find the run to resume, if any.
    options, given = resume_latest_as_run(options, given)
    check_required(options)
    is_first = launcher.is_first_process()
    run = find_run(options, given, required=is_first)
    if run is not None:
        options = run.options
    device = resolve_device(options.device)
    num_gpus = launcher.number_of_processes(options.gpus, device)
    if options.resume_run is not None and not is_first:
        return options.dry_run or training_loop.join(num_gpus, str(device))

    # Build the complete configuration.
    check_outdir(options.outdir)
    dataset = open_training_set(options)
    source = open_source(options) if run is None and is_first else None  # other processes learn from the first one
    if run is None:
        config = build_config(options, dataset, str(device), num_gpus, source)
    else:
        config = resumed_config(run, dataset, str(device), num_gpus)

    # Check it. The images of a resumed run were read when it started.
    if is_first:
        verify_data = options.verify_data if run is None or 'verify_data' in given else 'none'
        checks = run_checks(config, dataset, options, run, verify_data)
        start = describe_start(config, dataset, source) if run is None else ''

        # Create the run directory.
        if run is None:
            set_run_dir(config, options, dataset.name)
        print_summary(config, dataset, checks, start, is_resumed=run is not None, dry_run=options.dry_run)
        print_note_on_resume(options)
        if not options.dry_run:
            provenance.record(config, dataset, device)  # it closes the dataset
    if options.dry_run or not is_first:
        dataset.close()
    if options.dry_run:
        return True
    tolerate_lost_output()  # the log of the run has the text
    return training_loop.launch(config, snapshot_metrics(config), run is not None, snapshot_report(config))


def check_required(options: Options) -> None:
    """Require `--outdir` and `--data`, unless the run itself knows them."""
    if options.resume_run not in (None, LATEST):
        return
    for name in ('outdir', 'data'):
        if getattr(options, name) is None:
            raise click.UsageError(f"Missing option '--{name}'.")


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def run_checks(
    config: TrainingConfig,
    dataset: ImageFolderDataset,
    options: Options,
    run: ResumedRun | None,
    verify_data: str,
) -> list[Finding]:
    """Check whatever can be checked before the training, and return the findings."""
    from training.run import preflight, resuming, tracking

    check_metrics(config)
    tracking.check_installed(config.trackers)
    if run is not None:
        resuming.check_networks(run, config, dataset)
    if run is not None and run.has_moved_data:
        check_moved_dataset(run, dataset)
    checks = preflight.check_run(config, dataset, options.outdir, verify_data)
    if metric_table.needing_detector(config.metrics):
        checks.append(check_detectors(config, dataset, download=not options.dry_run))
    return checks


def open_source(options: Options) -> Pretrained | None:
    """Open the networks of --resume, if any. A dry run downloads nothing, and assumes the architecture of --cfg."""
    from training import transfer

    path = resume_source(options.resume, ask_hub=not options.dry_run)
    if path is None or (options.dry_run and is_url(path)):
        return None
    with usage_errors('--resume'):
        return transfer.open_pretrained(path)


def describe_start(config: TrainingConfig, dataset: ImageFolderDataset, source: Pretrained | None) -> str:
    """Check that the run can start from the networks of --resume; return what it takes and what it changes."""
    from training import setup
    from training.run import moments

    if config.resume_optimizer and config.resume_pkl is not None:
        moments.state_beside(config.resume_pkl)
    if source is None:
        return ''
    with usage_errors('--resume'):
        return f'\n{setup.check_resume(config, dataset, source)}\n'


def check_moved_dataset(run: ResumedRun, dataset: ImageFolderDataset) -> None:
    """Require that the dataset at a new path has the same content."""
    from training.data.digest import content_sha256
    from training.run import provenance

    known = provenance.dataset_sha256(run.run_dir)
    if known is None or content_sha256(dataset) != known:
        reason = 'is not the same dataset as' if known else 'cannot be compared with'
        original = (run.config.options or {}).get('data')
        raise usage_error(
            '--data',
            f'{run.options.data!r} {reason} that of {run.run_dir!r}, {original!r}: '
            'use the same images and labels in the same order, or start a new run.',
        )


def check_metrics(config: TrainingConfig) -> None:
    """Check that there is a generator for metrics of equivariance, and held-out images for those that require them."""
    names = metric_table.requiring_held_out(config.metrics)
    if names and config.validation_set_kwargs is None:
        raise usage_error('--metrics', f'{", ".join(names)} needs images held out of the training: add --validation.')
    names = metric_table.needing_transform(config.metrics)
    if names and config.G_kwargs['class_name'] == known_classes.GENERATOR:
        raise usage_error(
            '--metrics',
            f'{", ".join(names)} cannot be computed for StyleGAN2: only the input of networks of StyleGAN3 can be '
            'moved and rotated. Use --cfg=stylegan3-t or stylegan3-r, or other metrics.',
        )


def check_detectors(config: TrainingConfig, dataset: ImageFolderDataset, download: bool) -> Finding:
    """Load the detectors of the metrics, and download missing ones if `download` is set."""
    from metrics import evaluation
    from metrics.features.detectors import DetectorError
    from training.run.preflight import Finding

    try:
        evaluation.check_detectors(config.metrics, config.detectors, dataset.resolution, download)
    except DetectorError as error:
        reason = str(error).removesuffix('.')
        option = '--detectors' if config.detectors else '--metrics'
        raise usage_error(option, f'{reason}; or train without metrics: --metrics=none.') from error
    source = config.detectors or ('the published ones' if download else 'the published ones, if already downloaded')
    names = metric_table.needing_detector(config.metrics)
    return Finding('detectors', f'for {", ".join(names)}: {source}')


# ---------------------------------------------------------------------------------------------------------------------
# Preparation


def set_run_dir(config: TrainingConfig, options: Options, dataset_name: str) -> None:
    """Create the directory of a new run and store the configuration in it. A dry run only determines its name."""
    from training.options import run_description
    from training.run.run_dir import RunDir, create_run_dir, next_run_dir

    name = run_description(options, dataset_name, config.num_gpus)
    if options.dry_run:
        config.run_dir = next_run_dir(options.outdir, name)
        return
    with usage_errors('--outdir'):
        config.run_dir = create_run_dir(options.outdir, name)
        config.save(RunDir(config.run_dir).options_json)


def print_summary(
    config: TrainingConfig,
    dataset: ImageFolderDataset,
    checks: list[Finding],
    start: str,
    is_resumed: bool,
    dry_run: bool,
) -> None:
    """Print a summary of the run, what it starts from, and the findings of the checks.

    A dry run prints them to stderr, and the configuration as JSON to stdout.
    """
    from training.options import describe
    from training.run import preflight

    summary = f'{describe(config, dataset, is_resumed)}\n{start}{preflight.table(checks)}'
    if dry_run:
        print(config.to_json())
        print(f'\n{summary}\nDry run: nothing was written.', file=sys.stderr)
    else:
        print(summary, flush=True)


def print_note_on_resume(options: Options) -> None:
    """Say what `--resume=RUN` does, since `--resume-run=RUN` may have been meant."""
    if options.resume_run in (None, LATEST) and os.path.isdir(options.resume or ''):
        print(
            f'Note: a new run starts from the newest network of {options.resume} (see Start). '
            f'To continue that run instead, use --resume-run={options.resume}.',
            file=sys.stderr,
        )


def snapshot_metrics(config: TrainingConfig) -> SnapshotMetrics | None:
    """Return the function that the training loop calls with each snapshot."""
    if not config.metrics:
        return None
    from metrics.evaluation import SnapshotMetrics

    return SnapshotMetrics.of_training(config)


if __name__ == '__main__':
    main()
