"""The one schema of what is read from the directory of a run: types, ranges, keys and names of classes.

The files may have been edited by hand, damaged, or written by somebody else. Whatever passes these rules has the right
types and sensible sizes; whether the values fit together and fit the dataset is checked by their readers. The rules for
training states, which contain tensors, are in `training.run.state_schema`.

`TRAINING_OPTIONS` has the fields of `training.config.TrainingConfig`, and `COMMAND_LINE` those of
`training.options.Options`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dnnlib.schema import (
    Budget,
    Choice,
    Either,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Number,
    Optional,
    Record,
    Rule,
    Text,
)
from network_files.generations import STYLEGAN3_KEYWORDS
from training import known_classes
from training.presets import DIFFAUGMENT_NAMES

MAX_KIMG = 1e9
MAX_FACTOR = 1e9
MAX_P = 1e6  # of the augmentation strength, which the published code does not limit
MIN_LENGTH, MAX_LENGTH = 1e-4, 0.28  # of an average, σ_rel; 1/√12 is that of the mean over the whole training
_MAX_COUNT = 2**31 - 1
_MAX_PROCESSES = 65_536
_MAX_WIDTH = 65_536  # channels, dimensions of z and w, pixels per side

# ---------------------------------------------------------------------------------------------------------------------
# Building blocks

PATH = Text(4096)
SEED = Integer(0, 2**31 - 1)
DIGEST = Text(64, pattern='[0-9a-f]{64}', kind='a SHA-256 (64 hexadecimal digits)')
_COUNT = Integer(1, _MAX_COUNT)
_WIDTH = Integer(1, _MAX_WIDTH)
_KIMG = Number(0, MAX_KIMG, above_low=True)
_FRACTION = Number(0, 1)
_FACTOR = Number(0, MAX_FACTOR)
_POSITIVE = Number(0, 1e9, above_low=True)
_MAX_STRENGTH = Number(0, MAX_P, above_low=True)
_RESOLUTION = Either(_WIDTH, ListOf(_WIDTH, min_length=2, max_length=2))
_HEURISTIC = Choice(('rt', 'rv'))
_DEVICE = Text(20, pattern=r'cpu|mps|meta|cuda(:\d{1,4})?', kind='a device (cpu, mps, cuda or cuda:N)')
_METRICS = ListOf(Text(100, pattern=r'[A-Za-z0-9_.-]+', kind='the name of a metric'), max_length=1000)


@dataclass(frozen=True)
class Construction(Rule):
    """A `class_name`, one of several, and keywords of its constructor."""

    keywords_of: Mapping[str, Record]  # by class name

    @property
    def description(self) -> str:
        return 'an object with a class name and keywords'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict)

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        Choice(tuple(self.keywords_of)).check(value.get('class_name'), f'{where}.class_name', budget)
        keywords = {key: item for key, item in value.items() if key != 'class_name'}
        self.keywords_of[value['class_name']].check(keywords, where, budget)


# ---------------------------------------------------------------------------------------------------------------------
# Classes and their keywords

DATASET_KEYWORDS = Record(
    {
        'path': PATH,
        'resolution': Optional(_RESOLUTION),
        'use_labels': Flag(),
        'max_size': Optional(_COUNT),
        'xflip': Flag(),
        'yflip': Flag(),
        'random_seed': Integer(0, 2**32 - 1),
        'skip': Integer(0, _MAX_COUNT),
        'cache_mib': _FACTOR,
    },
    required=['path'],
)

_ACTIVATION = Choice(('linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish'))
_ARCHITECTURE = Choice(('orig', 'skip', 'resnet'))
_CLAMP = Optional(_POSITIVE)
_FILTER = ListOf(Number(-1e6, 1e6), min_length=1, max_length=64)
_SIZES = {
    'channel_base': _COUNT,
    'channel_max': _WIDTH,
    'num_fp16_res': Integer(0, 32),
    'conv_clamp': _CLAMP,
    'architecture': _ARCHITECTURE,
}
_MAPPING = Record(
    {
        'num_layers': Integer(1, 100),
        'activation': _ACTIVATION,
        'lr_multiplier': _POSITIVE,
        'embed_features': Optional(_WIDTH),
        'layer_features': Optional(_WIDTH),
        'w_avg_beta': Optional(_FRACTION),
    }
)
_SYNTHESIS = Record(
    {
        **_SIZES,
        'resample_filter': _FILTER,
        'fp16_channels_last': Flag(),
        'use_noise': Flag(),
        'activation': _ACTIVATION,
    }
)
GENERATOR_KEYWORDS = Record(
    {'z_dim': _WIDTH, 'w_dim': _WIDTH, 'mapping_kwargs': _MAPPING, 'synthesis_kwargs': _SYNTHESIS},
    required=['z_dim', 'w_dim'],
)
STYLEGAN3_GENERATOR_KEYWORDS = Record(
    {
        'z_dim': _WIDTH,
        'w_dim': _WIDTH,
        'mapping_kwargs': Record({'num_layers': Integer(1, 100), 'lr_multiplier': _POSITIVE, 'w_avg_beta': _FRACTION}),
        'channel_base': _COUNT,
        'channel_max': _WIDTH,
        'num_fp16_res': Integer(0, 32),
        'use_radial_filters': Flag(),
        'conv_clamp': _CLAMP,
        **STYLEGAN3_KEYWORDS,
    },
    required=['z_dim', 'w_dim'],
)
DISCRIMINATOR_KEYWORDS = Record(
    {
        **_SIZES,
        'cmap_dim': Optional(_WIDTH),
        'mapping_kwargs': _MAPPING,
        'block_kwargs': Record(
            {
                'activation': _ACTIVATION,
                'resample_filter': _FILTER,
                'fp16_channels_last': Flag(),
                'freeze_layers': Integer(0, _MAX_COUNT),
            }
        ),
        'epilogue_kwargs': Record(
            {
                'activation': _ACTIVATION,
                'mbstd_group_size': Optional(_COUNT),
                'mbstd_num_channels': Integer(0, _MAX_WIDTH),
            }
        ),
    }
)
AUGMENTATION_KEYWORDS = Record(
    dict.fromkeys(
        'xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation imgfilter noise '
        'cutout'.split(),
        Number(0, 100),
    )
    | dict.fromkeys('xint_max rotate_max hue_max cutout_size'.split(), _FRACTION)
    | dict.fromkeys(
        'scale_std aniso_std xfrac_std brightness_std contrast_std saturation_std imgfilter_std noise_std'.split(),
        Number(0, 100),
    )
    | {'imgfilter_bands': ListOf(Number(0, 100), min_length=4, max_length=4)}
)
LOSS_KEYWORDS = Record(
    {
        'r1_gamma': _FACTOR,
        'style_mixing_prob': _FRACTION,
        'pl_weight': _FACTOR,
        'pl_batch_shrink': _COUNT,
        'pl_decay': _FRACTION,
        'blur_init_sigma': Number(0, 1000),
        'blur_fade_kimg': Number(0, MAX_KIMG),
        'diffaugment': ListOf(Choice(DIFFAUGMENT_NAMES), max_length=len(DIFFAUGMENT_NAMES)),
        'lecam_weight': _FACTOR,
        'bcr_weights': Optional(ListOf(_FACTOR, min_length=2, max_length=2)),
        'insgen_weights': Optional(ListOf(_FACTOR, min_length=2, max_length=2)),
        'insgen_queue': Integer(1, 1_000_000),
    }
)
RELATIVISTIC_LOSS_KEYWORDS = Record({**LOSS_KEYWORDS.keys, 'r2_gamma': _FACTOR})
OPTIMIZER_KEYWORDS = Record(
    {
        'lr': _FACTOR,
        'betas': ListOf(Number(0, 1 - 1e-9), min_length=2, max_length=2),
        'eps': _POSITIVE,
        'weight_decay': _FACTOR,
    },
    required=['lr', 'betas'],
)


def _constructions(names: Collection[str], keywords: Record) -> Construction:
    return Construction(dict.fromkeys(names, keywords))


# ---------------------------------------------------------------------------------------------------------------------
# Files

MIRRORINGS = ('y', 'xy')  # besides true, which is 'x'
ARCHITECTURES = ('file', 'preset')
TRACKERS = ('wandb', 'trackio', 'mlflow')
PRECISIONS = ('fp32', 'tf32', 'fp16', 'bf16')

COMMAND_LINE = Record(
    {
        'data': PATH,
        'desc': Optional(Text(100)),
        'cond': Flag(),
        'subset': Optional(_COUNT),
        'mirror': Either(Flag(), Choice(MIRRORINGS)),
        'strict_data': Flag(),
        'cfg': Text(100),
        'loss': Optional(Choice(('nonsaturating', 'relativistic'))),
        'gamma': Optional(_FACTOR),
        'gamma2': Optional(_FACTOR),
        'd_reg_interval': Optional(_COUNT),
        'lecam': Optional(_FACTOR),
        'bcr': Optional(Text(100)),
        'insgen': Optional(Text(100)),
        'kimg': Optional(_KIMG),
        'batch': Optional(_COUNT),
        'batch_gpu': Optional(_COUNT),
        'cbase': Optional(_COUNT),
        'cmax': Optional(_WIDTH),
        'glr': Optional(_POSITIVE),
        'dlr': Optional(_POSITIVE),
        'map_depth': Optional(Integer(1, 100)),
        'mbstd_group': Optional(_COUNT),
        'aug': Optional(Text(100)),
        'p': Optional(_FRACTION),
        'init_p': Optional(_FRACTION),
        'max_p': Optional(_MAX_STRENGTH),
        'target': Optional(_FRACTION),
        'augpipe': Optional(Text(100)),
        'diffaugment': Optional(Text(100)),
        'apa': Flag(),
        'ada_heuristic': Optional(_HEURISTIC),
        'validation': Optional(Either(_COUNT, PATH)),
        'posthoc_ema': Optional(Text(100)),
        'resume': Optional(PATH),
        'arch': Optional(Choice(ARCHITECTURES)),
        'resume_kimg': Optional(Number(0, MAX_KIMG)),
        'resume_optimizer': Flag(),
        'freezed': Optional(Integer(0, _MAX_COUNT)),
        'freezeg': Optional(Integer(0, _MAX_COUNT)),
        'freezem': Optional(Integer(0, _MAX_COUNT)),
        'freezee': Flag(),
        'metrics': _METRICS,
        'detectors': Optional(PATH),
        'snap': _COUNT,
        'tick': _KIMG,
        'keep_states': _COUNT,
        'report': Flag(),
        'tracker': Optional(Text(100)),
        'seed': SEED,
        'gpus': Optional(Integer(1, _MAX_PROCESSES)),
        'device': Text(20),
        'workers': Optional(Integer(0, 1024)),
        'precision': Optional(Choice(PRECISIONS)),
        'fp32': Flag(),
        'nhwc': Flag(),
        'nobench': Flag(),
        'allow_tf32': Flag(),
        'cuda_graphs': Flag(),
        'deterministic': Flag(),
    },
    required=['data'],
    ignores_others=True,  # options of other versions
)

TRAINING_OPTIONS = Record(
    {
        'num_gpus': Integer(1, _MAX_PROCESSES),
        'device': _DEVICE,
        'training_set_kwargs': _constructions(known_classes.DATASETS, DATASET_KEYWORDS),
        'data_loader_kwargs': Record(
            {'num_workers': Integer(0, 1024), 'pin_memory': Flag(), 'prefetch_factor': Optional(Integer(1, 1024))}
        ),
        'G_kwargs': Construction(
            {
                known_classes.GENERATOR: GENERATOR_KEYWORDS,
                known_classes.GENERATOR_STYLEGAN3: STYLEGAN3_GENERATOR_KEYWORDS,
            }
        ),
        'D_kwargs': _constructions(known_classes.DISCRIMINATORS, DISCRIMINATOR_KEYWORDS),
        'G_opt_kwargs': _constructions(known_classes.OPTIMIZERS, OPTIMIZER_KEYWORDS),
        'D_opt_kwargs': _constructions(known_classes.OPTIMIZERS, OPTIMIZER_KEYWORDS),
        'loss_kwargs': Construction(
            {known_classes.LOSS: LOSS_KEYWORDS, known_classes.RELATIVISTIC_LOSS: RELATIVISTIC_LOSS_KEYWORDS}
        ),
        'batch_size': _COUNT,
        'batch_gpu': _COUNT,
        'total_kimg': _KIMG,
        'ema_kimg': _FACTOR,
        'ema_rampup': Optional(_FACTOR),
        'posthoc_ema': Optional(ListOf(Number(MIN_LENGTH, MAX_LENGTH), min_length=2, max_length=2)),
        'augment_kwargs': Optional(_constructions(known_classes.AUGMENTATIONS, AUGMENTATION_KEYWORDS)),
        'augment_p': _FRACTION,
        'ada_target': Optional(Number(-10, 10)),
        'ada_max_p': _MAX_STRENGTH,
        'ada_heuristic': _HEURISTIC,
        'apa_target': Optional(Number(-10, 10)),
        'ada_kimg': _POSITIVE,
        'ada_interval': _COUNT,
        'G_reg_interval': Optional(_COUNT),
        'D_reg_interval': Optional(_COUNT),
        'run_dir': Optional(PATH),
        'options': Optional(COMMAND_LINE),
        'kimg_per_tick': _KIMG,
        'image_snapshot_ticks': _COUNT,
        'network_snapshot_ticks': _COUNT,
        'metrics': _METRICS,
        'detectors': Optional(PATH),
        'keep_states': _COUNT,
        'trackers': ListOf(Choice(TRACKERS), max_length=len(TRACKERS)),
        'random_seed': SEED,
        'resume_pkl': Optional(PATH),
        'resume_kimg': Number(0, MAX_KIMG),
        'resume_optimizer': Flag(),
        'frozen_G_layers': Integer(0, _MAX_COUNT),
        'frozen_mapping_layers': Integer(0, _MAX_COUNT),
        'frozen_embedding': Flag(),
        'cudnn_benchmark': Flag(),
        'allow_tf32': Flag(),
        'half_dtype': Choice(('float16', 'bfloat16')),
        'cuda_graphs': Flag(),
        'deterministic': Flag(),
        'validation_set_kwargs': Optional(_constructions(known_classes.DATASETS, DATASET_KEYWORDS)),
        'strict_data': Flag(),
    },
    required='num_gpus device training_set_kwargs data_loader_kwargs G_kwargs D_kwargs G_opt_kwargs D_opt_kwargs '
    'loss_kwargs batch_size batch_gpu total_kimg ema_kimg ema_rampup'.split(),
)

# What `calc_metrics.py` uses of the options beside a network, which may be those of the published code.
OPTIONS_FOR_METRICS = Record(
    {
        'random_seed': Optional(SEED),
        'detectors': Optional(PATH),
        'validation_set_kwargs': Optional(_constructions(known_classes.DATASETS, DATASET_KEYWORDS)),
    },
    ignores_others=True,
)
# What it uses of a dataset's keywords, in the options or in a pickle; the class is compared with the only one it knows.
DATASET_FOR_METRICS = Record(
    {
        'class_name': Text(1000),
        'path': Optional(PATH),
        'xflip': Either(Flag(), Integer(0, 1)),
        'yflip': Either(Flag(), Integer(0, 1)),
        'max_size': Optional(_COUNT),
        'random_seed': Optional(Integer(0, 2**32 - 1)),
        'skip': Optional(Integer(0, _MAX_COUNT)),
    },
    ignores_others=True,
)

PROVENANCE = ListOf(Record({'dataset_sha256': Optional(DIGEST)}, ignores_others=True), max_length=100_000)

TRACKER_FILE = Record({'id': Text(16, pattern='[0-9a-f]{16}', kind='16 hexadecimal digits')}, required=['id'])

METRIC_LINE = Record({'in_training': Flag()}, ignores_others=True)

FILE_LENGTHS = MapOf(Integer(0, 2**62), max_length=10_000)
