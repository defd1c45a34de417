"""From the options of `train.py` to the complete configuration of a run.

`Options` holds the values of the command line. `build_config` combines it with the preset (`training.presets`) and the
dataset into a `training.config.TrainingConfig`, and rejects combinations that do not work.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataset_format.images import CHANNEL_KINDS
from dataset_format.sizes import (
    Resolution,
    describe_size,
    describe_unusable_size,
    is_usable_size,
    level_of,
    sides,
)
from dnnlib.errors import InvalidArgument
from network_files.changes.architectures import synthesis_keywords
from training import known_classes, schema
from training.architecture import Wishes, kwargs_from_file
from training.batch_sizes import batch_per_process, check_batch_gpu
from training.config import TrainingConfig
from training.held_out import describe_held_out, training_set_size, validation_set_kwargs
from training.method_options import (
    MethodOptions,
    augmentation_fields,
    d_reg_interval,
    description_parts,
    first_given,
    insgen_queue,
    method_loss_kwargs,
    named_numbers,
    parse_posthoc_ema,
)
from training.presets import RESUME_SOURCES, STYLEGAN2, STYLEGAN3_R, Preset, get_preset
from training.tracker_options import parse_tracker
from training.transfer_options import (
    NO_RESUME,
    TransferOptions,
    check_frozen,
    checked_source,
    config_fields,
    for_generator_of,
)

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset
    from training.transfer import Pretrained

MIN_RESOLUTION = 8
VERIFY_DATA = ('none', 'headers', 'sample', 'all')
LATEST = 'latest'  # of --resume-run: the newest run with the same options

# A pretrained discriminator overfits quickly, so the augmentation strength must be able to follow.
_MAGNITUDE_HALF_LIFE_NIMG = 20_000  # of the running mean squares in StyleGAN3's layers
_ADA_SPEED_UP_ON_RESUME = 5
_ADAM = {'class_name': known_classes.OPTIMIZER, 'betas': [0, 0.99], 'eps': 1e-8}

# ---------------------------------------------------------------------------------------------------------------------
# Options


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions, TransferOptions):
    """The options of `train.py` with their defaults. None means that the preset or a rule decides."""

    outdir: str
    data: str
    dry_run: bool = False
    desc: str | None = None
    # Dataset
    cond: bool = False
    subset: int | None = None
    mirror: bool | str = False  # True is 'x'; or 'y', 'xy'
    strict_data: bool = False
    # Preset, and numbers that replace its own
    cfg: str = 'auto'
    gamma: float | None = None
    kimg: float | None = None
    batch: int | None = None
    batch_gpu: int | None = None
    cbase: int | None = None
    cmax: int | None = None
    glr: float | None = None
    dlr: float | None = None
    map_depth: int | None = None
    mbstd_group: int | None = None
    # Resuming an interrupted run
    resume_run: str | None = None
    # Checks before the start
    verify_data: str = 'sample'
    # Output
    metrics: tuple[str, ...] = ('fid50k_full',)
    detectors: str | None = None
    snap: int = 50
    tick: float = 4
    keep_states: int = 2
    report: bool = True
    tracker: str | None = None  # names of schema.TRACKERS
    seed: int = 0
    # Execution
    gpus: int | None = None
    device: str = 'auto'
    workers: int | None = None
    precision: str | None = None  # one of schema.PRECISIONS
    fp32: bool = False
    nhwc: bool = False
    nobench: bool = False
    allow_tf32: bool = False
    cuda_graphs: bool = False
    deterministic: bool = False

    def to_stored(self) -> dict[str, Any]:
        """Return the options that are stored with a run and identify it when it is resumed.

        Paths are absolute, because a run may be resumed from another working directory.
        """
        stored = {name: value for name, value in dataclasses.asdict(self).items() if name not in PER_CALL_OPTIONS}
        stored['metrics'] = list(self.metrics)
        for name in PATH_OPTIONS:
            if isinstance(stored[name], str) and os.path.exists(stored[name]):
                stored[name] = os.path.abspath(stored[name])
        return stored

    def check(self) -> None:
        """Check the values against the rules with which they will be read when the run is resumed.

        Raises:
            InvalidArgument: A value is out of range.
        """
        for name, value in self.to_stored().items():
            try:
                schema.COMMAND_LINE.keys[name].check(value, 'the value')
            except ValueError as error:
                raise InvalidArgument(name, str(error)) from error


PATH_OPTIONS = ('data', 'resume', 'detectors', 'validation')
PER_CALL_OPTIONS = ('outdir', 'dry_run', 'resume_run', 'verify_data')  # not stored with the run


def resume_latest_as_run(options: Options, given: set[str]) -> tuple[Options, set[str]]:
    """Rewrite `--resume=latest` as `--resume-run=latest`, in the options and in the set of the options given."""
    if options.resume != LATEST:
        return options, given
    if options.resume_run not in (None, LATEST):
        raise InvalidArgument(
            'resume', f'{LATEST} and --resume-run={options.resume_run} name two different runs: use only one of them.'
        )
    return dataclasses.replace(options, resume=None, resume_run=LATEST), given - {'resume'} | {'resume_run'}


# ---------------------------------------------------------------------------------------------------------------------
# Dataset


def open_training_set(options: Options) -> ImageFolderDataset:
    """Open the dataset of `--data`, without subset and mirroring, and check that networks can be trained on it.

    Raises:
        InvalidArgument: It cannot be opened, or has the wrong image size or too few images.
    """
    dataset = _construct_dataset(
        {'class_name': known_classes.DATASET, 'path': options.data, 'use_labels': options.cond}
    )
    height, width = sides(dataset.resolution)
    if min(height, width) < MIN_RESOLUTION:
        raise InvalidArgument(
            'data',
            f'the images of {options.data!r} are {width}x{height}, but training needs {MIN_RESOLUTION} or more '
            'pixels per side: convert them with dataset_tool.py --resolution=WxH.',
        )
    if not is_usable_size(width, height):
        raise InvalidArgument(
            'data',
            f'images of {options.data!r}: {describe_unusable_size(width, height)}; convert them with dataset_tool.py '
            '--resolution=WxH.',
        )
    if options.subset is not None and options.subset > len(dataset):
        raise InvalidArgument(
            'subset',
            f'requested {options.subset} images, but {options.data!r} has only {len(dataset)}: '
            f'use a number from 1 to {len(dataset)}.',
        )
    return dataset


def _construct_dataset(kwargs: dict[str, Any]) -> ImageFolderDataset:
    try:
        return known_classes.construct(kwargs, known_classes.DATASETS, cache_mib=0)
    except (ValueError, OSError) as error:
        raise InvalidArgument('data', str(error)) from error


def _training_set_kwargs(options: Options, dataset: ImageFolderDataset) -> dict[str, Any]:
    kwargs = {
        'class_name': known_classes.DATASET,
        'path': options.data,
        'use_labels': options.cond,
        'max_size': len(dataset),
        'xflip': options.mirror in (True, 'xy'),
        **({'yflip': True} if options.mirror in ('y', 'xy') else {}),
        'resolution': dataset.resolution,
    }
    num_images = training_set_size(len(dataset), options.subset, options.validation)
    if num_images < len(dataset):
        kwargs.update(max_size=num_images, random_seed=options.seed)  # the seed selects the images
    return kwargs


def data_loader_kwargs(workers: int | None, device: str) -> dict[str, Any]:
    """Return the keywords of the data loader for `--workers`; None selects the default for the device.

    Decoding must not keep a GPU waiting, but on a CPU worker processes would only compete with the networks for cores.
    """
    num_workers = first_given(workers, 0 if device == 'cpu' else 3)
    prefetching = {'prefetch_factor': 2} if num_workers > 0 else {}  # not accepted by the loader without workers
    return dict(num_workers=num_workers, pin_memory=device.startswith('cuda'), **prefetching)


# ---------------------------------------------------------------------------------------------------------------------
# Configuration


def build_config(
    options: Options, dataset: ImageFolderDataset, device: str, num_gpus: int, source: Pretrained | None = None
) -> TrainingConfig:
    """Build the configuration of a run over `num_gpus` processes on `device`, without `run_dir`.

    Args:
        options: Options of the command line.
        dataset: The dataset.
        device: Device of the run.
        num_gpus: Number of processes.
        source: The networks to start from, whose architecture the run gets. None: that of the preset.

    Raises:
        InvalidArgument: Some options are out of range, or do not work together, or not with the dataset.
    """
    options.check()
    source = None if options.arch == 'preset' else source
    preset = for_generator_of(get_preset(options.cfg, dataset.resolution, num_gpus), source)
    batch_size, batch_gpu, mbstd_group = _batch_sizes(options, preset, num_gpus)
    total_kimg = first_given(options.kimg, preset.total_kimg)
    resume_pkl = checked_source(options, total_kimg, ask_hub=not options.dry_run)
    training_set_kwargs = _training_set_kwargs(options, dataset)
    networks = _network_kwargs(options, preset, dataset.resolution, batch_size, mbstd_group, device, source)
    check_frozen(options, networks, dataset)
    return TrainingConfig(
        num_gpus=num_gpus,
        device=device,
        training_set_kwargs=training_set_kwargs,
        validation_set_kwargs=validation_set_kwargs(options.validation, training_set_kwargs, dataset, options.seed),
        data_loader_kwargs=data_loader_kwargs(options.workers, device),
        **networks,
        G_opt_kwargs=dict(_ADAM, lr=first_given(options.glr, preset.lr)),
        D_opt_kwargs=dict(_ADAM, lr=first_given(options.dlr, preset.d_lr)),
        loss_kwargs=_loss_kwargs(options, preset, training_set_kwargs['max_size'], batch_size, resume_pkl is None),
        batch_size=batch_size,
        batch_gpu=batch_gpu,
        total_kimg=total_kimg,
        ema_kimg=preset.ema_kimg,
        ema_rampup=preset.ema_rampup if resume_pkl is None else None,
        posthoc_ema=parse_posthoc_ema(options.posthoc_ema),
        **augmentation_fields(options),
        ada_kimg=preset.ada_kimg if resume_pkl is None else preset.ada_kimg / _ADA_SPEED_UP_ON_RESUME,
        G_reg_interval=preset.G_reg_interval,
        D_reg_interval=d_reg_interval(options, preset.d_reg_interval),
        **_output_fields(options),
        random_seed=options.seed,
        **config_fields(options, resume_pkl),
        cudnn_benchmark=not options.nobench,
        allow_tf32=options.allow_tf32 or options.precision == 'tf32',
        half_dtype='bfloat16' if options.precision == 'bf16' else 'float16',
        cuda_graphs=checked_cuda_graphs(options, device),
        deterministic=options.deterministic,
        options=options.to_stored(),
        strict_data=options.strict_data,
    )


def _output_fields(options: Options) -> dict[str, Any]:
    """Return the fields of TrainingConfig that say what is written, how often, and who gets it."""
    return dict(
        kimg_per_tick=options.tick,
        image_snapshot_ticks=options.snap,
        network_snapshot_ticks=options.snap,
        metrics=list(options.metrics),
        detectors=options.detectors,
        keep_states=options.keep_states,
        trackers=parse_tracker(options.tracker),
    )


def checked_cuda_graphs(options: Options, device: str) -> bool:
    """Return whether the phases run as CUDA graphs on a device.

    Raises:
        InvalidArgument: They cannot.
    """
    if options.cuda_graphs and not device.startswith('cuda'):
        raise InvalidArgument('cuda_graphs', f'1 needs a CUDA device, but this run is on {device}: remove it.')
    return options.cuda_graphs


def _batch_sizes(options: Options, preset: Preset, num_gpus: int) -> tuple[int, int, int]:
    """Return the images per step, the images a process handles at once, and the images of an mbstd group."""
    batch_size = first_given(options.batch, preset.batch_size)
    per_process = batch_per_process(batch_size, num_gpus)
    fits_reference_gpu = per_process if options.batch is not None else preset.batch_size // preset.reference_gpus
    batch_gpu = first_given(options.batch_gpu, min(fits_reference_gpu, per_process))
    # The layer never compares more images than it gets, so the group of a preset shrinks with a small batch.
    mbstd_group = first_given(options.mbstd_group, min(preset.mbstd_group, batch_gpu))
    check_batch_gpu(batch_size, num_gpus, batch_gpu, mbstd_group)
    return batch_size, batch_gpu, mbstd_group


def _loss_kwargs(
    options: Options, preset: Preset, num_images: int, batch_size: int, from_scratch: bool
) -> dict[str, Any]:
    return {
        **method_loss_kwargs(options, first_given(options.gamma, preset.r1_gamma), preset.loss),
        'style_mixing_prob': preset.style_mixing_prob,
        'pl_weight': preset.pl_weight,
        **(_blur(preset, batch_size) if from_scratch else {}),
        **insgen_queue(options, num_images, batch_size),
    }


def _blur(preset: Preset, batch_size: int) -> dict[str, Any]:
    """Return the keywords of the loss for the blur at the start of training; {} without blur.

    Whatever the batch size, the blur fades in as many steps as in the preset.
    """
    if preset.blur_kimg == 0:
        return {}
    return {'blur_init_sigma': preset.blur_sigma, 'blur_fade_kimg': preset.blur_kimg * batch_size / preset.batch_size}


def _network_kwargs(
    options: Options,
    preset: Preset,
    resolution: Resolution,
    batch_size: int,
    mbstd_group: int,
    device: str,
    source: Pretrained | None,
) -> dict[str, Any]:
    """Return `G_kwargs` and `D_kwargs`.

    Half precision is used on CUDA only. Elsewhere activations are clamped nevertheless, so that a network trained on a
    CPU computes the same as on a GPU; `--fp32` and the precisions fp32 and tf32 turn both off.
    """
    channel_base = first_given(options.cbase, preset.channel_base)
    _check_channel_base(channel_base, resolution)
    if options.fp32 and options.precision is not None:
        raise InvalidArgument('precision', f'{options.precision} and --fp32 contradict each other: use one of them.')
    full_precision = options.fp32 or options.precision in ('fp32', 'tf32')
    shared = {
        'channel_base': channel_base,
        'channel_max': first_given(options.cmax, preset.channel_max),
        'num_fp16_res': preset.num_fp16_res if device.startswith('cuda') and not full_precision else 0,
        'conv_clamp': None if full_precision else preset.conv_clamp,
    }
    layout = {'fp16_channels_last': True} if options.nhwc else {}
    frozen = {'freeze_layers': options.freezed} if options.freezed else {}
    G_common = {
        'z_dim': preset.z_dim,
        'w_dim': preset.w_dim,
        'mapping_kwargs': {'num_layers': first_given(options.map_depth, preset.mapping_layers)},
    }
    if preset.generator == STYLEGAN2:
        G_kwargs = {'class_name': known_classes.GENERATOR, **G_common, 'synthesis_kwargs': dict(shared, **layout)}
    else:
        G_kwargs = {**G_common, **_stylegan3_kwargs(preset, shared, batch_size)}
    D_kwargs = dict(
        class_name=known_classes.DISCRIMINATOR,
        architecture=preset.d_architecture,
        **shared,
        block_kwargs=dict(**layout, **frozen),
        mapping_kwargs={} if preset.d_mapping_layers is None else {'num_layers': preset.d_mapping_layers},
        epilogue_kwargs={'mbstd_group_size': mbstd_group, **_mbstd_channels(preset, shared)},
    )
    if source is not None:
        wishes = Wishes(options.cbase, options.cmax, options.map_depth, full_precision)
        beta = _magnitude_ema_beta(batch_size)
        G_kwargs, D_kwargs = kwargs_from_file(source, resolution, wishes, G_kwargs, D_kwargs, beta)
        for kwargs in (G_kwargs, D_kwargs):
            _check_channel_base(synthesis_keywords(kwargs)['channel_base'], resolution)
    return {'G_kwargs': G_kwargs, 'D_kwargs': D_kwargs}


def _mbstd_channels(preset: Preset, widths: Mapping[str, Any]) -> dict[str, int]:
    """Return the keyword for several standard deviations: as many as the preset has, or fewer if D has few channels."""
    channels = min(widths['channel_base'] // 4, widths['channel_max'])
    number = math.gcd(preset.mbstd_channels, channels)
    return {} if number == 1 else {'mbstd_num_channels': number}


def _check_channel_base(channel_base: int, resolution: Resolution) -> None:
    level = level_of(*sides(resolution))
    if channel_base < level:
        raise InvalidArgument(
            'cbase',
            f'{channel_base} leaves no channels at {describe_size(resolution)} (a layer has cbase / resolution '
            f'channels): use {level} or more.',
        )


def _magnitude_ema_beta(batch_size: int) -> float:
    return float(0.5 ** (batch_size / _MAGNITUDE_HALF_LIFE_NIMG))


def _stylegan3_kwargs(preset: Preset, shared: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Return the class of StyleGAN3's generator and the keywords of its synthesis network."""
    kwargs = {
        'class_name': known_classes.GENERATOR_STYLEGAN3,
        **shared,
        'magnitude_ema_beta': _magnitude_ema_beta(batch_size),
        **preset.more_synthesis_kwargs,
    }
    if preset.generator == STYLEGAN3_R:  # its 1x1 convolutions have fewer weights, so it gets more channels
        kwargs |= {
            'channel_base': 2 * shared['channel_base'],
            'channel_max': 2 * shared['channel_max'],
            'conv_kernel': 1,
            'use_radial_filters': True,
        }
    return kwargs


# ---------------------------------------------------------------------------------------------------------------------
# Descriptions


_MIRRORED = {
    (False, False): '',
    (True, False): ' and their mirror images',
    (False, True): ' and their vertical mirror images',
    (True, True): ' and their mirror images, horizontal and vertical',
}


def run_description(options: Options, dataset_name: str, num_gpus: int) -> str:
    """Return the name of the run directory after its number: the dataset, and each option that shapes the result."""
    parts = [dataset_name]
    if options.cond:
        parts.append('cond')
    if options.subset is not None:
        parts.append(f'subset{options.subset}')
    if options.mirror:
        parts.append('mirror' if options.mirror is True else f'mirror{options.mirror}')
    parts.append(f'auto{num_gpus}' if options.cfg == 'auto' else options.cfg)
    parts += named_numbers(gamma=options.gamma, kimg=options.kimg, batch=options.batch)
    parts += description_parts(options)
    if options.resume == NO_RESUME:
        parts.append(NO_RESUME)
    elif options.resume is not None:
        parts.append(f'resume{options.resume if options.resume in RESUME_SOURCES else "custom"}')
    if options.arch == 'preset':
        parts.append('archpreset')
    parts += named_numbers(freezed=options.freezed, freezeg=options.freezeg, freezem=options.freezem)
    if options.freezee:
        parts.append('freezee')
    if options.desc is not None:
        parts.append(options.desc)
    return '-'.join(parts)


def describe(config: TrainingConfig, dataset: ImageFolderDataset, is_resumed: bool = False) -> str:
    """Return a summary of a run, one fact per line."""
    data = config.training_set_kwargs
    num_images = min(data.get('max_size') or len(dataset), len(dataset))
    labels = f'{dataset.label_dim} numbers per image' if data.get('use_labels') else 'not used'
    rounds = config.batch_size // (config.batch_gpu * config.num_gpus)
    accumulated = f' x {rounds} rounds of accumulation' if rounds > 1 else ''
    processes = '1 process' if config.num_gpus == 1 else f'{config.num_gpus} processes'
    facts = {
        'Output': config.run_dir,
        'Data': data['path'],
        'Images': f'{num_images:,}{_MIRRORED[bool(data.get("xflip")), bool(data.get("yflip"))]}',
        'Resolution': f'{describe_size(dataset.resolution)} {CHANNEL_KINDS[dataset.num_channels]}',
        'Labels': labels,
        'Device': f'{config.device}, {processes}',
        'Batch': f'{config.batch_size} = {config.num_gpus} x {config.batch_gpu} images{accumulated}',
        'Duration': f'{config.total_kimg:,} kimg (thousands of real images shown)',
        'Start': 'from the newest training state' if is_resumed else config.resume_pkl or 'from scratch',
    }
    if config.validation_set_kwargs is not None:
        facts['Validation'] = describe_held_out(config.validation_set_kwargs)
    return '\n'.join(f'{name + ":":<12}{fact}' for name, fact in facts.items())
