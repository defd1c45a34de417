"""Keywords of the TensorFlow code: the constructor arguments that they become here, their defaults and rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch_utils.ops import bias_act

# ---------------------------------------------------------------------------------------------------------------------
# Rules
#
# Each of these functions receives a value from a file, a plain number, text, list or None, and returns the argument of
# our constructor. The message of its ValueError states the rule.


def _whole(lowest: int, highest: int) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in (int, float) or not lowest <= value <= highest or value % 1:
            raise ValueError(f'must be a whole number from {lowest} to {highest}')
        return int(value)

    return read


def _number(lowest: float, highest: float) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in (int, float) or not lowest <= value <= highest:
            raise ValueError(f'must be a number from {lowest:g} to {highest:g}')
        return value

    return read


def _one_of(*choices: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f'must be one of {", ".join(choices)}')
        return value

    return read


def _or_none(read: Callable[[Any], Any], meaning: Any = None) -> Callable[[Any], Any]:
    return lambda value: meaning if value is None else read(value)


def _flag(value: Any) -> bool:
    if type(value) not in (bool, int, float) or value not in (0, 1):
        raise ValueError('must be true or false')
    return bool(value)


def _resolution(value: Any) -> int:
    value = _whole(4, 2**15)(value)
    if value & (value - 1):
        raise ValueError('must be a power of two')
    return value


def _channel_base(fmap_base: Any) -> int:
    """Convert fmap_base; TensorFlow counts from stage 1 at 4×4: fmap_base / 2^(log2(resolution) − 1) channels."""
    return math.floor(2 * _number(0.5, 1e7)(fmap_base))


def _filter(value: Any) -> list[Any]:
    if value is None:
        return [1, 1]  # nearest neighbor
    taps = value if isinstance(value, (list, tuple)) else []
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in taps[:65]]
    numbers = [number for row in rows for number in row[:65]]
    is_filter = (
        1 <= len(taps) <= 64
        and all(1 <= len(row) <= 64 and len(row) == len(rows[0]) for row in rows)
        and len({isinstance(row, (list, tuple)) for row in taps}) == 1
        and all(type(number) in (int, float) and abs(number) <= 1e6 for number in numbers)
    )
    if not is_filter or sum(numbers) == 0:
        raise ValueError('must be a filter of at most 64 taps per side')
    return [list(row) for row in rows] if isinstance(taps[0], (list, tuple)) else list(taps)


_SIZE = _whole(1, 2**24)
_COUNT = _whole(0, 1000)
_ACTIVATION = _one_of(*bias_act.activation_funcs)
_ARCHITECTURE = _one_of('orig', 'skip', 'resnet')


# ---------------------------------------------------------------------------------------------------------------------
# Tables


class Keyword(NamedTuple):
    """A keyword of the TensorFlow code: the arguments of our constructor, its default value there, and its rule."""

    ours: tuple[str, ...]  # 'mapping_kwargs.num_layers' is num_layers in mapping_kwargs
    default: Any
    read: Callable[[Any], Any]


GENERATOR_KEYWORDS = {
    'latent_size': Keyword(('z_dim',), 512, _SIZE),
    'label_size': Keyword(('c_dim',), 0, _whole(0, 2**24)),
    'dlatent_size': Keyword(('w_dim',), 512, _SIZE),
    'resolution': Keyword(('img_resolution',), 1024, _resolution),
    'num_channels': Keyword(('img_channels',), 3, _SIZE),
    'mapping_layers': Keyword(('mapping_kwargs.num_layers',), 8, _COUNT),
    'label_fmaps': Keyword(('mapping_kwargs.embed_features',), None, _or_none(_SIZE)),
    'mapping_fmaps': Keyword(('mapping_kwargs.layer_features',), None, _or_none(_SIZE)),
    'mapping_nonlinearity': Keyword(('mapping_kwargs.activation',), 'lrelu', _ACTIVATION),
    'mapping_lrmul': Keyword(('mapping_kwargs.lr_multiplier',), 0.01, _number(1e-9, 1e9)),
    'w_avg_beta': Keyword(('mapping_kwargs.w_avg_beta',), 0.995, _or_none(_number(0, 1), 1)),  # None: w_avg is constant
    'fmap_base': Keyword(('synthesis_kwargs.channel_base',), 16384, _channel_base),
    'fmap_max': Keyword(('synthesis_kwargs.channel_max',), 512, _SIZE),
    'architecture': Keyword(('synthesis_kwargs.architecture',), 'skip', _ARCHITECTURE),
    'use_noise': Keyword(('synthesis_kwargs.use_noise',), True, _flag),
    'nonlinearity': Keyword(('synthesis_kwargs.activation',), 'lrelu', _ACTIVATION),
    'resample_kernel': Keyword(('synthesis_kwargs.resample_filter',), [1, 3, 3, 1], _filter),
    'num_fp16_res': Keyword(('synthesis_kwargs.num_fp16_res',), 0, _or_none(_COUNT, 0)),
    'conv_clamp': Keyword(('synthesis_kwargs.conv_clamp',), None, _or_none(_number(0, 1e9))),
}
_EVERYWHERE_IN_D = ('block_kwargs.activation', 'mapping_kwargs.activation', 'epilogue_kwargs.activation')
_LABEL_SIZES_OF_D = ('cmap_dim', 'mapping_kwargs.embed_features', 'mapping_kwargs.layer_features')
DISCRIMINATOR_KEYWORDS = {
    'label_size': Keyword(('c_dim',), 0, _whole(0, 2**24)),
    'resolution': Keyword(('img_resolution',), 1024, _resolution),
    'num_channels': Keyword(('img_channels',), 3, _SIZE),
    'architecture': Keyword(('architecture',), 'resnet', _ARCHITECTURE),
    'fmap_base': Keyword(('channel_base',), 16384, _channel_base),
    'fmap_max': Keyword(('channel_max',), 512, _SIZE),
    'num_fp16_res': Keyword(('num_fp16_res',), 0, _or_none(_COUNT, 0)),
    'conv_clamp': Keyword(('conv_clamp',), None, _or_none(_number(0, 1e9))),
    'mapping_layers': Keyword(('mapping_kwargs.num_layers',), 0, _COUNT),
    'mapping_fmaps': Keyword(_LABEL_SIZES_OF_D, None, _or_none(_SIZE)),
    'mapping_lrmul': Keyword(('mapping_kwargs.lr_multiplier',), 0.1, _number(1e-9, 1e9)),
    'nonlinearity': Keyword(_EVERYWHERE_IN_D, 'lrelu', _ACTIVATION),
    'resample_kernel': Keyword(('block_kwargs.resample_filter',), [1, 3, 3, 1], _filter),
    'freeze_layers': Keyword(('block_kwargs.freeze_layers',), 0, _or_none(_COUNT, 0)),
    'mbstd_group_size': Keyword(('epilogue_kwargs.mbstd_group_size',), 4, _or_none(_whole(0, 2**24))),
    'mbstd_num_features': Keyword(('epilogue_kwargs.mbstd_num_channels',), 1, _COUNT),
}

OTHER_NAMES = {'dlatent_avg_beta': 'w_avg_beta'}
"""Keywords of StyleGAN2 that have another name in StyleGAN2-ADA."""

FIXED_KEYWORDS = {
    'fmap_decay': (1,),
    'fmap_min': (1,),
    'normalize_latents': (True,),
    'dtype': ('float32', 'float16'),  # of the activations; the variables are float32 either way
}
"""Keywords whose other values have no counterpart in our networks."""

IGNORED_KEYWORDS = {
    'truncation_psi': 'chosen when an image is generated',
    'truncation_cutoff': 'chosen when an image is generated',
    'truncation_psi_val': 'chosen when an image is generated',
    'truncation_cutoff_val': 'chosen when an image is generated',
    'randomize_noise': 'chosen when an image is generated',
    'return_dlatents': 'chosen when an image is generated',
    'style_mixing_prob': 'of training',
    'is_training': 'of training',
    'is_validation': 'of training',
    'is_template_graph': 'how TensorFlow builds its graph',
    'force_clean_graph': 'how TensorFlow builds its graph',
    'structure': 'how progressive growing is computed',
    'fused_modconv': 'how convolutions are computed',
    'dlatent_broadcast': 'how often w is repeated; follows from the resolution',
    'conditioning': 'how labels are used, which follows from the variables',
    'func_name': 'the function that created the network',
    'mapping_func': 'the function that created the mapping',
    'synthesis_func': 'the function that created the synthesis; see sources.read_source for progressive networks',
    'components': 'nested networks, which are read from the state',
    'name': 'the name of the network',
}
"""Keywords that do not change what the network computes, and why."""

PROGRESSIVE_FUNCTIONS = {'G_synthesis_stylegan_revised', 'D_stylegan'}  # configurations B to D of the StyleGAN2 paper
OLDER_FUNCTIONS = {
    'G_style': 'StyleGAN (the first version)',
    'D_basic': 'StyleGAN (the first version)',
    'G_paper': 'Progressive GAN',
    'D_paper': 'Progressive GAN',
}
