"""From the options of a command line to the complete configuration of one training run.

`Options` is what the user said, `Preset` a row of numbers that suit a kind of data set, `TrainingConfig` what both
come to: everything the training loop needs, as plain data that goes to `training_options.json` and back.
`build_config` makes the last of the first two and of the data set, and refuses what does not fit together.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from dataset_format.images import CHANNEL_KINDS
from dataset_format.sizes import Resolution, describe_size, is_usable_size, level_of, sides, size_mistake
from dnnlib.files import atomic_file
from dnnlib.util import construct_class_by_name, is_url

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset

MIN_RESOLUTION = 8
OPTIONS_FILE = 'training_options.json'  # in the folder of a run: its TrainingConfig
VERIFY_DATA = ('none', 'headers', 'sample', 'all')

# ---------------------------------------------------------------------------------------------------------------------
# Presets


@dataclass(frozen=True)
class Preset:
    """One complete row of the preset table. `None` means that the row goes without that part."""

    reference_gpus: int  # the numbers were chosen for this many; batch_size / reference_gpus images fit one of them
    total_kimg: int  # length of the training, in thousands of real images shown
    batch_size: int  # images a step, over all GPUs
    mbstd_group: int  # images that share a minibatch standard deviation in the discriminator
    lr: float  # Adam's step size, both networks
    r1_gamma: float  # weight of the R1 penalty
    ema_kimg: float  # half-life of the averaged generator's weights
    ema_rampup: float | None  # the half-life is at most this share of the images shown so far
    z_dim: int
    w_dim: int
    mapping_layers: int
    d_mapping_layers: int | None  # of the discriminator's mapping of the label; None: its constructor's own number
    channel_base: int  # a layer at resolution r has min(channel_base / r, channel_max) channels
    channel_max: int
    num_fp16_res: int  # this many of the highest resolutions run in half precision on CUDA
    conv_clamp: float | None  # activations of convolutions stay within ± this
    d_architecture: str
    style_mixing_prob: float
    pl_weight: float  # weight of the path length penalty
    G_reg_interval: int | None  # as in TrainingConfig
    ada_kimg: float  # the augmentation strength may go from 0 to 1 within this many thousand images


# fmt: off
_PRESETS = {
    'stylegan2': Preset(
        reference_gpus=8, total_kimg=25000, batch_size=32, mbstd_group=4, lr=0.002, r1_gamma=10, ema_kimg=10,
        ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None, channel_base=32768,
        channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet', style_mixing_prob=0.9,
        pl_weight=2, G_reg_interval=4, ada_kimg=500),
    'paper256': Preset(
        reference_gpus=8, total_kimg=25000, batch_size=64, mbstd_group=8, lr=0.0025, r1_gamma=1, ema_kimg=20,
        ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None, channel_base=16384,
        channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet', style_mixing_prob=0.9,
        pl_weight=2, G_reg_interval=4, ada_kimg=500),
    'paper512': Preset(
        reference_gpus=8, total_kimg=25000, batch_size=64, mbstd_group=8, lr=0.0025, r1_gamma=0.5, ema_kimg=20,
        ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None, channel_base=32768,
        channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet', style_mixing_prob=0.9,
        pl_weight=2, G_reg_interval=4, ada_kimg=500),
    'paper1024': Preset(
        reference_gpus=8, total_kimg=25000, batch_size=32, mbstd_group=4, lr=0.002, r1_gamma=2, ema_kimg=10,
        ema_rampup=None, z_dim=512, w_dim=512, mapping_layers=8, d_mapping_layers=None, channel_base=32768,
        channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='resnet', style_mixing_prob=0.9,
        pl_weight=2, G_reg_interval=4, ada_kimg=500),
    # Its generator has no penalty, yet steps with the learning rate and betas of a lazily regularised one (interval 4):
    # the published numbers were found that way.
    'cifar': Preset(
        reference_gpus=2, total_kimg=100000, batch_size=64, mbstd_group=32, lr=0.0025, r1_gamma=0.01, ema_kimg=500,
        ema_rampup=0.05, z_dim=512, w_dim=512, mapping_layers=2, d_mapping_layers=None, channel_base=32768,
        channel_max=512, num_fp16_res=4, conv_clamp=256, d_architecture='orig', style_mixing_prob=0,
        pl_weight=0, G_reg_interval=4, ada_kimg=500),
    # This project's own: images of 16 or 32 pixels on a CPU, in minutes. Few channels and a large step, so that a few
    # thousand steps suffice; z three times as wide as the embedded label (w_dim), lest the classes drown the latents.
    'tiny': Preset(
        reference_gpus=1, total_kimg=90, batch_size=16, mbstd_group=4, lr=0.01, r1_gamma=0.05, ema_kimg=3,
        ema_rampup=0.05, z_dim=192, w_dim=64, mapping_layers=2, d_mapping_layers=2, channel_base=512, channel_max=64,
        num_fp16_res=0, conv_clamp=None, d_architecture='resnet', style_mixing_prob=0, pl_weight=0,
        G_reg_interval=None, ada_kimg=100),
}
# fmt: on

PRESET_NAMES = ('auto', *_PRESETS)


def auto_preset(resolution: int, num_gpus: int) -> Preset:
    """The row of `--cfg=auto`: reasonable numbers for any data set, from its resolution and the GPUs of the run.

    Batch: as many images a GPU as usually fit (4096 / resolution, at most 32), at most 64 together, at least one a GPU.
    R1 weight: grows with the pixels of an image and shrinks with the batch. EMA half-life: 10 kimg at a batch of 32.
    """
    batch_size = max(min(num_gpus * min(4096 // resolution, 32), 64), num_gpus)
    return Preset(
        reference_gpus=num_gpus,
        total_kimg=25000,
        batch_size=batch_size,
        mbstd_group=min(batch_size // num_gpus, 4),
        lr=0.002 if resolution >= 1024 else 0.0025,
        r1_gamma=0.0002 * resolution**2 / batch_size,
        ema_kimg=batch_size * 10 / 32,
        ema_rampup=0.05,
        z_dim=512,
        w_dim=512,
        mapping_layers=2,
        d_mapping_layers=None,
        channel_base=32768 if resolution >= 512 else 16384,
        channel_max=512,
        num_fp16_res=4,
        conv_clamp=256,
        d_architecture='resnet',
        style_mixing_prob=0.9,
        pl_weight=2,
        G_reg_interval=4,
        ada_kimg=500,
    )


def get_preset(name: str, resolution: Resolution, num_gpus: int) -> Preset:
    """The row called `name`, one of PRESET_NAMES; the other arguments matter for `auto` only.

    Images that are not square have the numbers of a square with as many pixels.
    """
    return auto_preset(math.isqrt(math.prod(sides(resolution))), num_gpus) if name == 'auto' else _PRESETS[name]


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation pipes and networks to start from, by name

_AUGMENTATION_GROUPS = {
    'blit': ('xflip', 'rotate90', 'xint'),
    'geom': ('scale', 'rotate', 'aniso', 'xfrac'),
    'color': ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation'),
    'filter': ('imgfilter',),
    'noise': ('noise',),
    'cutout': ('cutout',),
}
_AUGMENTATION_SUMS = {
    'bg': ('blit', 'geom'),
    'bgc': ('blit', 'geom', 'color'),
    'bgcf': ('blit', 'geom', 'color', 'filter'),
    'bgcfn': ('blit', 'geom', 'color', 'filter', 'noise'),
    'bgcfnc': ('blit', 'geom', 'color', 'filter', 'noise', 'cutout'),
}
AUGPIPE_NAMES = (*_AUGMENTATION_GROUPS, *_AUGMENTATION_SUMS)


def augpipe_flags(name: str) -> dict[str, int]:
    """Keywords for `AugmentPipe` that switch on the augmentations of the pipe `name`, one of AUGPIPE_NAMES."""
    groups = _AUGMENTATION_SUMS.get(name, (name,))
    return {augmentation: 1 for group in groups for augmentation in _AUGMENTATION_GROUPS[group]}


_TRANSFER_SOURCES_URL = (
    'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/'
)
RESUME_SOURCES = {
    'ffhq256': _TRANSFER_SOURCES_URL + 'ffhq-res256-mirror-paper256-noaug.pkl',
    'ffhq512': _TRANSFER_SOURCES_URL + 'ffhq-res512-mirror-stylegan2-noaug.pkl',
    'ffhq1024': _TRANSFER_SOURCES_URL + 'ffhq-res1024-mirror-stylegan2-noaug.pkl',
    'celebahq256': _TRANSFER_SOURCES_URL + 'celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl',
    'lsundog256': _TRANSFER_SOURCES_URL + 'lsundog-res256-paper256-kimg100000-noaug.pkl',
}
NO_RESUME = 'noresume'
LATEST = 'latest'  # the newest run with the same options goes on

# A pretrained discriminator overfits at once: the strength has to catch up.
_ADA_SPEED_UP_ON_RESUME = 5

# ---------------------------------------------------------------------------------------------------------------------
# What the user said


@dataclass(frozen=True)
class Options:
    """The options of `train.py`, with their defaults. None: not given, so the preset or a rule decides."""

    outdir: str
    data: str
    dry_run: bool = False
    desc: str | None = None
    # Data set
    cond: bool = False
    subset: int | None = None
    mirror: bool = False
    strict_data: bool = False
    # Preset, and what replaces its numbers
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
    # Augmentation
    aug: str | None = None
    p: float | None = None
    init_p: float | None = None
    target: float | None = None
    augpipe: str | None = None
    # Start from a trained network
    resume: str | None = None
    freezed: int | None = None
    # Go on with a run
    resume_run: str | None = None
    # What is checked first
    verify_data: str = 'sample'
    # What is written, and when
    metrics: tuple[str, ...] = ('fid50k_full',)
    detectors: str | None = None
    snap: int = 50
    tick: float = 4
    keep_states: int = 2
    seed: int = 0
    # Execution
    gpus: int | None = None
    device: str = 'auto'
    workers: int | None = None
    fp32: bool = False
    nhwc: bool = False
    nobench: bool = False
    allow_tf32: bool = False
    deterministic: bool = False

    def to_keep(self) -> dict[str, Any]:
        """What a run keeps of them, by which it is recognised when it goes on: all but where and how it was called.

        Paths are absolute, as it may go on from another folder.
        """
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name not in OF_THE_CALL}
        kept['metrics'] = list(self.metrics)
        for name in PATH_OPTIONS:
            if kept[name] is not None and os.path.exists(kept[name]):
                kept[name] = os.path.abspath(kept[name])
        return kept


PATH_OPTIONS = ('data', 'resume', 'detectors')
OF_THE_CALL = ('outdir', 'dry_run', 'resume_run', 'verify_data')
DEFAULT_AUG = 'ada'
DEFAULT_ADA_TARGET = 0.6
DEFAULT_AUGPIPE = 'bgc'


def resume_latest_as_run(options: Options, given: set[str]) -> tuple[Options, set[str]]:
    """`--resume=latest` is `--resume-run=latest`: the options, and the names of those given, written that way."""
    if options.resume != LATEST:
        return options, given
    if options.resume_run not in (None, LATEST):
        raise wrong('--resume', f'{LATEST} and --resume-run={options.resume_run} name two runs: drop one of the two.')
    return dataclasses.replace(options, resume=None, resume_run=LATEST), given - {'resume'} | {'resume_run'}


def wrong(option: str, sentence: str) -> click.BadParameter:
    """The error for a value of `option` that does not do (exit status 2)."""
    return click.BadParameter(sentence, param_hint=f"'{option}'")


# ---------------------------------------------------------------------------------------------------------------------
# The complete configuration


@dataclass
class TrainingConfig:
    """One training run. The dicts hold a `class_name` and keywords of its constructor, as `dnnlib` constructs them."""

    # Where
    num_gpus: int
    device: str
    # Data
    training_set_kwargs: dict[str, Any]
    data_loader_kwargs: dict[str, Any]
    # Networks; the loop adds c_dim, img_resolution and img_channels
    G_kwargs: dict[str, Any]
    D_kwargs: dict[str, Any]
    # Optimisation
    G_opt_kwargs: dict[str, Any]
    D_opt_kwargs: dict[str, Any]
    loss_kwargs: dict[str, Any]
    batch_size: int  # images a step, over all processes
    batch_gpu: int  # images a process handles at once
    total_kimg: float
    ema_kimg: float
    ema_rampup: float | None
    # Augmentation: strength `augment_p`, from where it moves towards `ada_target` where that is given
    augment_kwargs: dict[str, Any] | None = None
    augment_p: float = 0
    ada_target: float | None = None
    ada_kimg: float = 500
    ada_interval: int = 4
    # Steps between two applications of a network's regulariser; None: it is part of every step
    G_reg_interval: int | None = 4
    D_reg_interval: int | None = 16
    # Output
    run_dir: str | None = None
    options: dict[str, Any] | None = None  # of the command line, by which a run is recognised when it goes on
    kimg_per_tick: float = 4
    image_snapshot_ticks: int = 50
    network_snapshot_ticks: int = 50
    metrics: list[str] = field(default_factory=list)
    detectors: str | None = None  # folder with stand-ins for the detectors of the metrics
    keep_states: int = Options.keep_states  # training states that are kept, the newest ones
    # Execution
    random_seed: int = 0
    resume_pkl: str | None = None
    cudnn_benchmark: bool = True
    allow_tf32: bool = False
    deterministic: bool = False  # the same numbers to the bit each time, on CUDA as on the CPU
    strict_data: bool = False  # an image that cannot be read ends the run, in place of another being shown

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainingConfig:
        """The inverse of `to_json`. Raises ValueError with a sentence where the text is no such configuration."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f'the training options are no JSON: {error}') from error
        if not isinstance(values, dict):
            raise ValueError(f'the training options must be a JSON object, not a {type(values).__name__}')
        fields = {item.name: item for item in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - fields.keys())
        required = [name for name, item in fields.items() if _has_no_default(item)]
        missing = [name for name in required if name not in values]
        if unknown or missing:
            raise ValueError(
                f'the training options do not fit: unknown {unknown or "none"}, missing {missing or "none"}'
            )
        types = typing.get_type_hints(cls)
        for name, value in values.items():
            if not _is_of_type(value, types[name]):
                raise ValueError(f'training option {name!r} is {value!r}, but must be {fields[name].type}')
        return cls(**values)

    def save(self, path: str | os.PathLike) -> None:
        """Write the JSON; the file appears complete or not at all."""
        with atomic_file(path) as file:
            file.write(f'{self.to_json()}\n'.encode())


def _has_no_default(item: dataclasses.Field) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _is_of_type(value: Any, expected: Any) -> bool:
    """Whether a JSON value fits one of this file's annotations; an int does for a float, a bool never for a number."""
    alternatives = typing.get_args(expected) if typing.get_origin(expected) not in (dict, list) else (expected,)
    for alternative in alternatives or (expected,):
        plain = typing.get_origin(alternative) or alternative
        if plain is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return True
        if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return True
    return False


# ---------------------------------------------------------------------------------------------------------------------
# Options → configuration


def open_training_set(options: Options) -> ImageFolderDataset:
    """The data set of `--data` without subset and mirroring, once it is known to open and to suit the networks."""
    dataset = _construct_dataset(
        {'class_name': 'training.dataset.ImageFolderDataset', 'path': options.data, 'use_labels': options.cond}
    )
    height, width = sides(dataset.resolution)
    if min(height, width) < MIN_RESOLUTION:
        raise wrong(
            '--data',
            f'the images of {options.data!r} are {width}x{height}, but training needs {MIN_RESOLUTION} or more '
            'pixels each way: convert them with dataset_tool.py --resolution=WxH.',
        )
    if not is_usable_size(width, height):
        raise wrong(
            '--data',
            f'of the images of {options.data!r}, {size_mistake(width, height)}: convert them with dataset_tool.py '
            '--resolution=WxH.',
        )
    if options.subset is not None and options.subset > len(dataset):
        raise wrong(
            '--subset',
            f'{options.subset} images are asked for, but {options.data!r} has {len(dataset)}: '
            f'give a number from 1 to {len(dataset)}.',
        )
    return dataset


def _construct_dataset(kwargs: dict[str, Any]) -> ImageFolderDataset:
    try:
        return construct_class_by_name(**kwargs, cache_mib=0)
    except (ValueError, OSError) as error:
        raise wrong('--data', str(error)) from error


def build_config(options: Options, dataset: ImageFolderDataset, device: str, num_gpus: int) -> TrainingConfig:
    """The configuration of a run over `num_gpus` processes on `device` (`str(torch.device)`), without `run_dir`."""
    preset = get_preset(options.cfg, dataset.resolution, num_gpus)
    batch_size, batch_gpu, mbstd_group = _batch_sizes(options, preset, num_gpus)
    resume_pkl = _resume_source(options.resume)
    on_cuda = device.startswith('cuda')
    adam = {'class_name': 'torch.optim.Adam', 'betas': [0, 0.99], 'eps': 1e-8}
    return TrainingConfig(
        num_gpus=num_gpus,
        device=device,
        training_set_kwargs=_training_set_kwargs(options, dataset),
        data_loader_kwargs=data_loader_kwargs(options.workers, device),
        **_network_kwargs(options, preset, dataset.resolution, mbstd_group, on_cuda),
        G_opt_kwargs=dict(adam, lr=_given(options.glr, preset.lr)),
        D_opt_kwargs=dict(adam, lr=_given(options.dlr, preset.lr)),
        loss_kwargs={
            'class_name': 'training.loss.StyleGAN2Loss',
            'r1_gamma': _given(options.gamma, preset.r1_gamma),
            'style_mixing_prob': preset.style_mixing_prob,
            'pl_weight': preset.pl_weight,
        },
        batch_size=batch_size,
        batch_gpu=batch_gpu,
        total_kimg=_given(options.kimg, preset.total_kimg),
        ema_kimg=preset.ema_kimg,
        ema_rampup=preset.ema_rampup if resume_pkl is None else None,
        **_augmentation(options),
        ada_kimg=preset.ada_kimg if resume_pkl is None else preset.ada_kimg / _ADA_SPEED_UP_ON_RESUME,
        G_reg_interval=preset.G_reg_interval,
        kimg_per_tick=options.tick,
        image_snapshot_ticks=options.snap,
        network_snapshot_ticks=options.snap,
        metrics=list(options.metrics),
        detectors=options.detectors,
        random_seed=options.seed,
        resume_pkl=resume_pkl,
        cudnn_benchmark=not options.nobench,
        allow_tf32=options.allow_tf32,
        deterministic=options.deterministic,
        options=options.to_keep(),
        keep_states=options.keep_states,
        strict_data=options.strict_data,
    )


def _given(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _training_set_kwargs(options: Options, dataset: ImageFolderDataset) -> dict[str, Any]:
    kwargs = {
        'class_name': 'training.dataset.ImageFolderDataset',
        'path': options.data,
        'use_labels': options.cond,
        'max_size': len(dataset),
        'xflip': options.mirror,
        'resolution': dataset.resolution,
    }
    if options.subset is not None and options.subset < len(dataset):
        kwargs.update(max_size=options.subset, random_seed=options.seed)  # the seed picks which images stay
    return kwargs


def _num_workers(device: str) -> int:
    """Decoding must not keep a GPU waiting; on a CPU its processes would only take the cores from the networks."""
    return 0 if device == 'cpu' else 3


def data_loader_kwargs(workers: int | None, device: str) -> dict[str, Any]:
    """Keywords of the data loader for `--workers` (None: not given)."""
    workers = _given(workers, _num_workers(device))
    prefetching = {'prefetch_factor': 2} if workers > 0 else {}  # the loader refuses the keyword without workers
    return dict(num_workers=workers, pin_memory=device.startswith('cuda'), **prefetching)


def _batch_sizes(options: Options, preset: Preset, num_gpus: int) -> tuple[int, int, int]:
    """Images a step, images a process handles at once (the rest is accumulated), images a minibatch-deviation group."""
    batch_size = _given(options.batch, preset.batch_size)
    share = share_of_batch(batch_size, num_gpus)
    fits_reference_gpu = share if options.batch is not None else preset.batch_size // preset.reference_gpus
    batch_gpu = _given(options.batch_gpu, min(fits_reference_gpu, share))
    # The layer itself never looks at more images than it gets, so a preset's group shrinks with a small batch.
    mbstd_group = _given(options.mbstd_group, min(preset.mbstd_group, batch_gpu))
    check_batch_gpu(batch_size, num_gpus, batch_gpu, mbstd_group)
    return batch_size, batch_gpu, mbstd_group


def share_of_batch(batch_size: int, num_gpus: int) -> int:
    """Images of a batch that each process has; click.BadParameter where they are not the same number for all."""
    if batch_size % num_gpus != 0:
        below = batch_size // num_gpus * num_gpus
        raise wrong(
            '--batch',
            f'a batch of {batch_size} images cannot be split evenly over --gpus={num_gpus}: '
            f'give a multiple of {num_gpus}, such as --batch={below or num_gpus}.',
        )
    return batch_size // num_gpus


def check_batch_gpu(batch_size: int, num_gpus: int, batch_gpu: int, mbstd_group: int) -> None:
    """Refuse a number of images at once that does not divide a process's share, or that has no whole groups."""
    share = share_of_batch(batch_size, num_gpus)
    if share % batch_gpu != 0:
        raise wrong(
            '--batch-gpu',
            f'{batch_gpu} images at once do not divide the {share} images that each of {num_gpus} processes has '
            f'of the batch of {batch_size}: give a divisor of {share}, or another --batch.',
        )
    if batch_gpu % mbstd_group != 0:
        raise wrong(
            '--mbstd-group',
            f'groups of {mbstd_group} images do not divide the {batch_gpu} images that a process handles at once: '
            f'give a divisor of {batch_gpu} with --mbstd-group, or a multiple of {mbstd_group} with --batch-gpu.',
        )


def _network_kwargs(
    options: Options, preset: Preset, resolution: Resolution, mbstd_group: int, on_cuda: bool
) -> dict[str, dict[str, Any]]:
    """`G_kwargs` and `D_kwargs`.

    Half precision is CUDA's. Elsewhere the clamp of the activations stays, so that a network trained on a CPU computes
    what the same network computes on a GPU; `--fp32` drops both.
    """
    channel_base = _given(options.cbase, preset.channel_base)
    level = level_of(*sides(resolution))
    if channel_base < level:
        raise wrong(
            '--cbase',
            f'{channel_base} leaves no channel at {describe_size(resolution)} (a layer has cbase / resolution of '
            f'them): give {level} or more.',
        )
    shared = {
        'channel_base': channel_base,
        'channel_max': _given(options.cmax, preset.channel_max),
        'num_fp16_res': preset.num_fp16_res if on_cuda and not options.fp32 else 0,
        'conv_clamp': None if options.fp32 else preset.conv_clamp,
    }
    layout = {'fp16_channels_last': True} if options.nhwc else {}
    frozen = {'freeze_layers': options.freezed} if options.freezed else {}
    return {
        'G_kwargs': {
            'class_name': 'training.networks_stylegan2.Generator',
            'z_dim': preset.z_dim,
            'w_dim': preset.w_dim,
            'mapping_kwargs': {'num_layers': _given(options.map_depth, preset.mapping_layers)},
            'synthesis_kwargs': dict(shared, **layout),
        },
        'D_kwargs': dict(
            class_name='training.networks_stylegan2.Discriminator',
            architecture=preset.d_architecture,
            **shared,
            block_kwargs=dict(**layout, **frozen),
            mapping_kwargs={} if preset.d_mapping_layers is None else {'num_layers': preset.d_mapping_layers},
            epilogue_kwargs={'mbstd_group_size': mbstd_group},
        ),
    }


def _augmentation(options: Options) -> dict[str, Any]:
    """The fields of TrainingConfig that say what is augmented, and how strongly."""
    aug = _given(options.aug, DEFAULT_AUG)
    if options.p is not None and aug != 'fixed':
        raise wrong('--p', f'{options.p:g} is a fixed strength, which --aug={aug} does not take: add --aug=fixed.')
    if options.init_p is not None and aug != 'ada':
        raise wrong(
            '--init-p', f'{options.init_p:g} is where --aug=ada starts, and means nothing with --aug={aug}: drop it.'
        )
    if options.target is not None and aug != 'ada':
        raise wrong(
            '--target', f'{options.target:g} is a target for --aug=ada and means nothing with --aug={aug}: drop it.'
        )
    if options.augpipe is not None and aug == 'noaug':
        raise wrong('--augpipe', f'{options.augpipe!r} cannot be used with --aug=noaug: drop one of the two.')
    if aug == 'fixed' and options.p is None:
        raise wrong('--aug', 'fixed needs a strength: add --p=P with P from 0 to 1.')
    if aug == 'noaug':
        return {'augment_kwargs': None, 'augment_p': 0, 'ada_target': None}
    pipe = dict(class_name='training.augment.AugmentPipe', **augpipe_flags(_given(options.augpipe, DEFAULT_AUGPIPE)))
    if aug == 'fixed':
        return {'augment_kwargs': pipe, 'augment_p': options.p, 'ada_target': None}
    target = _given(options.target, DEFAULT_ADA_TARGET)
    return {'augment_kwargs': pipe, 'augment_p': _given(options.init_p, 0), 'ada_target': target}


def _resume_source(resume: str | None) -> str | None:
    """Path or URL of the network pickle to start from."""
    if resume is None or resume == NO_RESUME:
        return None
    if resume in RESUME_SOURCES:
        return RESUME_SOURCES[resume]
    if not is_url(resume) and not os.path.isfile(resume):
        raise wrong(
            '--resume',
            f'{resume!r} is neither a file nor a URL nor one of {", ".join(RESUME_SOURCES)}, {NO_RESUME}: '
            'check the path.',
        )
    return resume


# ---------------------------------------------------------------------------------------------------------------------
# Run directory


def run_description(options: Options, dataset_name: str, num_gpus: int) -> str:
    """The part of a run directory's name after the number: the data set, and each option that shapes the result."""
    parts = [dataset_name]
    if options.cond:
        parts.append('cond')
    if options.subset is not None:
        parts.append(f'subset{options.subset}')
    if options.mirror:
        parts.append('mirror')
    parts.append(f'auto{num_gpus}' if options.cfg == 'auto' else options.cfg)
    numbers = {'gamma': options.gamma, 'kimg': options.kimg, 'batch': options.batch}
    parts += [f'{name}{_short(value)}' for name, value in numbers.items() if value is not None]
    if options.aug is not None:
        parts.append(options.aug)
    numbers = {'p': options.p, 'initp': options.init_p, 'target': options.target}
    parts += [f'{name}{_short(value)}' for name, value in numbers.items() if value is not None]
    if options.augpipe is not None:
        parts.append(options.augpipe)
    if options.resume == NO_RESUME:
        parts.append(NO_RESUME)
    elif options.resume is not None:
        parts.append(f'resume{options.resume if options.resume in RESUME_SOURCES else "custom"}')
    if options.freezed is not None:
        parts.append(f'freezed{options.freezed}')
    if options.desc is not None:
        parts.append(options.desc)
    return '-'.join(parts)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f'{value:g}'


def next_run_dir(outdir: str, desc: str) -> str:
    """The run directory that `create_run_dir` would make now."""
    return os.path.join(outdir, f'{_next_run_id(outdir):05d}-{desc}')


def create_run_dir(outdir: str, desc: str) -> str:
    """Make `outdir/<ID>-<desc>` with an ID of its own, even where several processes do so at once.

    The bare `outdir/<ID>` is made first: `mkdir` lets one process through. Whoever comes through after the winner has
    renamed it finds the winner's directory and tries the next number.
    """
    try:
        os.makedirs(outdir, exist_ok=True)
        while True:
            run_id = f'{_next_run_id(outdir):05d}'
            claim = os.path.join(outdir, run_id)
            try:
                os.mkdir(claim)
            except FileExistsError:
                continue
            if any(name.startswith(f'{run_id}-') for name in os.listdir(outdir)):
                os.rmdir(claim)
                continue
            run_dir = os.path.join(outdir, f'{run_id}-{desc}')
            try:
                os.rename(claim, run_dir)
            except OSError:
                os.rmdir(claim)
                raise
            return run_dir
    except OSError as error:
        raise wrong(
            '--outdir', f'no folder can be made in {outdir!r} ({error.strerror}): give another place.'
        ) from error


def _next_run_id(outdir: str) -> int:
    names = os.listdir(outdir) if os.path.isdir(outdir) else []
    used = [int(match[1]) for match in (re.match(r'(\d{5})(?:-|$)', name) for name in names) if match]
    return max(used, default=-1) + 1


# ---------------------------------------------------------------------------------------------------------------------
# For people


def describe(config: TrainingConfig, dataset: ImageFolderDataset, goes_on: bool = False) -> str:
    """What a run is about, a line a fact."""
    data = config.training_set_kwargs
    labels = f'used, {dataset.label_dim} numbers an image' if data['use_labels'] else 'not used'
    rounds = config.batch_size // (config.batch_gpu * config.num_gpus)
    accumulated = f' x {rounds} rounds of accumulation' if rounds > 1 else ''
    processes = '1 process' if config.num_gpus == 1 else f'{config.num_gpus} processes'
    facts = {
        'Output': config.run_dir,
        'Data': data['path'],
        'Images': f'{data["max_size"]:,}{" and their mirror images" if data["xflip"] else ""}',
        'Resolution': f'{describe_size(dataset.resolution)} {CHANNEL_KINDS[dataset.num_channels]}',
        'Labels': labels,
        'Device': f'{config.device}, {processes}',
        'Batch': f'{config.batch_size} = {config.num_gpus} x {config.batch_gpu} images{accumulated}',
        'Duration': f'{config.total_kimg:,} kimg (thousands of real images shown)',
        'Start': 'from its newest training state' if goes_on else config.resume_pkl or 'from scratch',
    }
    return '\n'.join(f'{name + ":":<12}{fact}' for name, fact in facts.items())
