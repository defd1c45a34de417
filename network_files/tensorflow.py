"""TensorFlow pickles of StyleGAN2 and StyleGAN2-ADA, converted by tables to networks of this project.

Such a pickle holds objects of `dnnlib.tflib.network.Network`: the name and the source of the function that made the
network, the keywords it was called with (`static_kwargs`), its variables by name, and for a generator two further
networks in it, mapping and synthesis (`components`). The source is left alone. What the keywords and the variables are
called here, and how the arrays are laid out, is said by the tables below; whatever is in no table is an error that
names it.

Legend: H W height and width of a kernel or an image, I O input and output channels.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

import dnnlib
from network_files import construction
from network_files.errors import NetworkPickleError, excerpt
from network_files.safe_pickle import PersistentObject
from torch_utils.ops import bias_act

_OLDEST_VERSION = 4  # of the pickled object's layout: that of StyleGAN2
_MAX_DEPTH = 4  # of networks inside networks
_COMPLAINTS_SHOWN = 5
_FILTER_VALUES = 2**20  # of the resampling filters, which are in no file: some 60 a network, 64×64 at most


@dataclass(eq=False)
class TensorFlowNetwork(PersistentObject):
    """What a pickle says about a `dnnlib.tflib` network; everything is in `state`."""

    class_name: str = 'dnnlib.tflib.network.Network'
    version: int = 0
    module_src: str = field(default='', repr=False)
    state: dict = field(default_factory=dict, repr=False)


READERS: dict[str, Callable] = {
    f'{path}.Network': lambda: TensorFlowNetwork()
    for path in ('dnnlib.tflib.network', 'dnnlib.tflib', 'tflib.network', 'tflib', 'tfutil')
}
"""For `safe_pickle.loads`: the paths under which the published code kept the class."""


def is_tensorflow(data: Any) -> bool:
    """Whether `safe_pickle.loads` gave a TensorFlow network, or a tuple or list with one."""
    items = data if isinstance(data, (tuple, list)) else [data]
    return any(isinstance(item, TensorFlowNetwork) for item in items)


def convert(data: Any, where: str, force_fp16: bool = False) -> dict[str, Any]:
    """The networks of a TensorFlow pickle as modules of `training.networks_stylegan2`.

    Args:
        data: For which `is_tensorflow` holds: usually the tuple (G, D, Gs). One generator is enough, and the last one
            counts as the averaged one.
        where: What to call the file in errors.
        force_fp16: Let the 4 highest resolutions compute in half precision (where the device can).

    Returns:
        Dict with `G_ema`, `G` and `D` (modules on the CPU, eval mode, without gradients; the latter two are None where
        the file lacks them), `augment_pipe` and `training_set_kwargs` (None).

    Raises:
        NetworkPickleError: Something in it has no counterpart here, is missing, or is damaged. One sentence.
    """
    items = [item for item in (data if isinstance(data, (tuple, list)) else [data]) if item is not None]
    if len(items) > 3 or not all(isinstance(item, TensorFlowNetwork) for item in items):
        raise NetworkPickleError(f'{where} was not opened: it holds more than the TensorFlow networks G, D and Gs')
    sources = [_read(item, f'{where}: network {number} of {len(items)}') for number, item in enumerate(items, 1)]
    by_key = _assign(sources, where)

    arrays = {id(array): array for source in sources for array in source.variables.values()}
    allowance = construction.Allowance(sum(array.nbytes for array in arrays.values()) + _FILTER_VALUES)
    data = dict.fromkeys((*construction.NETWORK_KEYS, 'augment_pipe', 'training_set_kwargs'))
    for key, source in by_key.items():
        data[key] = _convert(source, f'{where}: {key}', allowance, force_fp16)
    return data


# ----------------------------------------------------------------------------------- keywords: what is accepted
# Each of these takes a value from a file, already a plain number, text, list or None, and gives what the constructor
# gets; the ValueError states the rule.


def _whole(lowest: int, highest: int) -> Callable:
    def read(value):
        if type(value) not in (int, float) or not lowest <= value <= highest or value % 1:
            raise ValueError(f'must be a whole number from {lowest} to {highest}')
        return int(value)

    return read


def _number(lowest: float, highest: float) -> Callable:
    def read(value):
        if type(value) not in (int, float) or not lowest <= value <= highest:
            raise ValueError(f'must be a number from {lowest:g} to {highest:g}')
        return value

    return read


def _one_of(*choices: str) -> Callable:
    def read(value):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f'must be one of {", ".join(choices)}')
        return value

    return read


def _or_none(read: Callable, meaning: Any = None) -> Callable:
    return lambda value: meaning if value is None else read(value)


def _flag(value):
    if type(value) not in (bool, int, float) or value not in (0, 1):
        raise ValueError('must be true or false')
    return bool(value)


def _resolution(value):
    value = _whole(4, 2**15)(value)
    if value & (value - 1):
        raise ValueError('must be a power of two')
    return value


def _channel_base(fmap_base):
    """TensorFlow counts from stage 1 at 4×4: fmap_base / 2^(log2(resolution) − 1) channels."""
    return math.floor(2 * _number(0.5, 1e7)(fmap_base))


def _filter(value):
    if value is None:
        return [1, 1]  # nearest neighbour
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
        raise ValueError('must be a filter of at most 64 taps a side')
    return [list(row) for row in rows] if isinstance(taps[0], (list, tuple)) else list(taps)


_SIZE = _whole(1, 2**24)
_COUNT = _whole(0, 1000)
_ACTIVATION = _one_of(*bias_act.activation_funcs)
_ARCHITECTURE = _one_of('orig', 'skip', 'resnet')


# ------------------------------------------------------------------------------------------ keywords: the tables


class Keyword(NamedTuple):
    """A keyword of the TensorFlow code: the arguments of our constructor it goes to, its default there, its rule."""

    ours: tuple[str, ...]  # 'mapping_kwargs.num_layers' is num_layers in mapping_kwargs
    default: Any
    read: Callable


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
    'w_avg_beta': Keyword(('mapping_kwargs.w_avg_beta',), 0.995, _or_none(_number(0, 1), 1)),  # None: w_avg stays
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
"""StyleGAN2's name of a keyword → that of StyleGAN2-ADA."""

FIXED_KEYWORDS = {
    'fmap_decay': (1,),
    'fmap_min': (1,),
    'normalize_latents': (True,),
    'dtype': ('float32', 'float16'),  # of the activations; the variables are float32 either way
}
"""Keywords whose other values have no counterpart in our networks."""

IGNORED_KEYWORDS = {
    'truncation_psi': 'chosen when an image is made',
    'truncation_cutoff': 'chosen when an image is made',
    'truncation_psi_val': 'chosen when an image is made',
    'truncation_cutoff_val': 'chosen when an image is made',
    'randomize_noise': 'chosen when an image is made',
    'return_dlatents': 'chosen when an image is made',
    'style_mixing_prob': 'of training',
    'is_training': 'of training',
    'is_validation': 'of training',
    'is_template_graph': 'how TensorFlow builds its graph',
    'force_clean_graph': 'how TensorFlow builds its graph',
    'structure': 'how progressive growing is computed',
    'fused_modconv': 'how convolutions are computed',
    'dlatent_broadcast': 'how often w is repeated; follows from the resolution',
    'conditioning': 'how labels enter; the variables say it',
    'func_name': 'the function that made the network',
    'mapping_func': 'the function that made the mapping',
    'synthesis_func': 'the function that made the synthesis; it matters for networks that grow, see _read',
    'components': 'networks inside; read from the state',
    'name': 'what the network is called',
}
"""Keywords that change nothing about what the network computes, and why."""

_PROGRESSIVE_FUNCTIONS = {'G_synthesis_stylegan_revised', 'D_stylegan'}  # configurations B to D of the StyleGAN2 paper
_OLDER_FUNCTIONS = {
    'G_style': 'StyleGAN (the first version)',
    'D_basic': 'StyleGAN (the first version)',
    'G_paper': 'Progressive GAN',
    'D_paper': 'Progressive GAN',
}


# ----------------------------------------------------------------------------------------- variables: the tables


class Layout(NamedTuple):
    """How an array of TensorFlow becomes ours, as a view of it."""

    ndim: int | None  # of TensorFlow's array; None: any
    view: Callable[[np.ndarray], np.ndarray]
    plus: float = 0


_SAME = Layout(None, lambda array: array)
_DENSE = Layout(2, lambda array: array.T)  # [I, O] → [O, I]
_CONVOLUTION = Layout(4, lambda array: array.transpose(3, 2, 0, 1))  # [H, W, I, O] → [O, I, H, W]
# Where TensorFlow convolves transposed in order to upsample, it keeps the kernel turned around.
_TURNED_CONVOLUTION = Layout(4, lambda array: array[::-1, ::-1].transpose(3, 2, 0, 1))
_STYLE_BIAS = Layout(1, lambda array: array, plus=1)  # TensorFlow adds the 1 when it runs
_CONSTANT = Layout(4, lambda array: array[0] if len(array) == 1 else array)  # [1, O, H, W] → [O, H, W]
_NOISE = Layout(4, lambda array: array[0, 0] if array.shape[:2] == (1, 1) else array)  # [1, 1, H, W] → [H, W]


class Rule(NamedTuple):
    """A variable of TensorFlow, the parameter or buffer it becomes, and how."""

    theirs: str  # what stands in braces: see _expanded
    ours: str
    layout: Layout


GENERATOR_RULES = (
    Rule('LabelEmbed/weight', 'mapping.embed.weight', _DENSE),
    Rule('LabelEmbed/bias', 'mapping.embed.bias', _SAME),
    Rule('Dense{i}/weight', 'mapping.fc{i}.weight', _DENSE),
    Rule('Dense{i}/bias', 'mapping.fc{i}.bias', _SAME),
    Rule('dlatent_avg', 'mapping.w_avg', _SAME),
    Rule('4x4/Const/const', 'synthesis.b4.const', _CONSTANT),
    Rule('{r}x{r}/Conv0_up/weight', 'synthesis.b{r}.conv0.weight', _TURNED_CONVOLUTION),
    Rule('{r}x{r}/Conv0_up/bias', 'synthesis.b{r}.conv0.bias', _SAME),
    Rule('{r}x{r}/Conv0_up/mod_weight', 'synthesis.b{r}.conv0.affine.weight', _DENSE),
    Rule('{r}x{r}/Conv0_up/mod_bias', 'synthesis.b{r}.conv0.affine.bias', _STYLE_BIAS),
    Rule('{r}x{r}/Conv0_up/noise_strength', 'synthesis.b{r}.conv0.noise_strength', _SAME),
    Rule('noise{up_noise}', 'synthesis.b{r}.conv0.noise_const', _NOISE),
    Rule('{r}x{r}/{conv1}/weight', 'synthesis.b{r}.conv1.weight', _CONVOLUTION),
    Rule('{r}x{r}/{conv1}/bias', 'synthesis.b{r}.conv1.bias', _SAME),
    Rule('{r}x{r}/{conv1}/mod_weight', 'synthesis.b{r}.conv1.affine.weight', _DENSE),
    Rule('{r}x{r}/{conv1}/mod_bias', 'synthesis.b{r}.conv1.affine.bias', _STYLE_BIAS),
    Rule('{r}x{r}/{conv1}/noise_strength', 'synthesis.b{r}.conv1.noise_strength', _SAME),
    Rule('noise{noise}', 'synthesis.b{r}.conv1.noise_const', _NOISE),
    Rule('{r}x{r}/Skip/weight', 'synthesis.b{r}.skip.weight', _TURNED_CONVOLUTION),
    Rule('{r}x{r}/ToRGB/weight', 'synthesis.b{r}.torgb.weight', _CONVOLUTION),
    Rule('{r}x{r}/ToRGB/bias', 'synthesis.b{r}.torgb.bias', _SAME),
    Rule('{r}x{r}/ToRGB/mod_weight', 'synthesis.b{r}.torgb.affine.weight', _DENSE),
    Rule('{r}x{r}/ToRGB/mod_bias', 'synthesis.b{r}.torgb.affine.bias', _STYLE_BIAS),
)
DISCRIMINATOR_RULES = (
    Rule('{r}x{r}/FromRGB/weight', 'b{r}.fromrgb.weight', _CONVOLUTION),
    Rule('{r}x{r}/FromRGB/bias', 'b{r}.fromrgb.bias', _SAME),
    Rule('{r}x{r}/Conv0/weight', 'b{r}.conv0.weight', _CONVOLUTION),
    Rule('{r}x{r}/Conv0/bias', 'b{r}.conv0.bias', _SAME),
    Rule('{r}x{r}/Conv1_down/weight', 'b{r}.conv1.weight', _CONVOLUTION),
    Rule('{r}x{r}/Conv1_down/bias', 'b{r}.conv1.bias', _SAME),
    Rule('{r}x{r}/Skip/weight', 'b{r}.skip.weight', _CONVOLUTION),
    Rule('LabelEmbed/weight', 'mapping.embed.weight', _DENSE),
    Rule('LabelEmbed/bias', 'mapping.embed.bias', _SAME),
    Rule('Mapping{i}/weight', 'mapping.fc{i}.weight', _DENSE),
    Rule('Mapping{i}/bias', 'mapping.fc{i}.bias', _SAME),
    Rule('4x4/Conv/weight', 'b4.conv.weight', _CONVOLUTION),
    Rule('4x4/Conv/bias', 'b4.conv.bias', _SAME),
    Rule('4x4/Dense0/weight', 'b4.fc.weight', _DENSE),
    Rule('4x4/Dense0/bias', 'b4.fc.bias', _SAME),
    Rule('Output/weight', 'b4.out.weight', _DENSE),
    Rule('Output/bias', 'b4.out.bias', _SAME),
)

# Names from before StyleGAN2's final form count resolutions from the highest down: lod 0 is the image's own.
_COUNTED_DOWN = re.compile(r'(?P<layer>ToRGB|FromRGB)_lod(?P<lod>\d{1,2})(?P<rest>/.+)')
_PARTS = re.compile(r'^(G_mapping|G_synthesis|mapping|synthesis)/')  # of a generator stored as one network


class Unused(NamedTuple):
    """Variables that are in the files and have no place here."""

    names: re.Pattern
    applies: Callable[[dict], bool]  # to a network with these arguments of its constructor
    why: str


UNUSED_VARIABLES = (
    Unused(re.compile('lod'), lambda kwargs: True, 'how far growing has come; _require_grown looks at it'),
    Unused(
        re.compile(r'(ToRGB|FromRGB)_lod[1-9]\d*/\w+'),
        lambda kwargs: _architecture_in(kwargs) == 'orig',
        'images of the lower resolutions, which count only while the network grows',
    ),
    Unused(
        re.compile(r'noise\d+'),
        lambda kwargs: not kwargs.get('synthesis_kwargs', {}).get('use_noise', True),
        'noise inputs of a network that takes no noise',
    ),
)


# ------------------------------------------------------------------------------------------ reading the networks


@dataclass(eq=False)
class _Source:
    """A network of the file with the networks inside it: names and types are checked, values not yet."""

    where: str
    keywords: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, np.ndarray] = field(default_factory=dict)  # by names without the part of a generator
    functions: set[str] = field(default_factory=set)

    @property
    def is_generator(self) -> bool:
        return any(re.search(r'/Const/|/mod_(weight|bias)$', name) for name in self.variables)

    @property
    def counts_down(self) -> bool:
        """Whether it is one of the networks that grow while they train."""
        return bool(self.functions & _PROGRESSIVE_FUNCTIONS) or any(map(_COUNTED_DOWN.fullmatch, self.variables))

    def width_of(self, name: str) -> int | None:
        """Output features of a dense layer, where the file has it."""
        weight = self.variables.get(name)
        return weight.shape[1] if weight is not None and weight.ndim == 2 else None


def _read(network: TensorFlowNetwork, where: str) -> _Source:
    source = _Source(where)
    states = list(_states(network, where))
    for state in states:
        for name, value in _entries(state, 'static_kwargs', where).items():
            source.keywords.setdefault(name, value)
        _read_variables(state.get('variables'), source)
        function = state.get('build_func_name')
        source.functions.update([function.removesuffix('_func')] if isinstance(function, str) else [])
    if isinstance(source.keywords.get('synthesis_func'), str):
        source.functions.add(source.keywords['synthesis_func'])
    _refuse_older(source)
    for state in states:
        version = state.get('version')
        if type(version) is not int:
            raise _damaged(where, 'it does not say which version it is')
        if version < _OLDEST_VERSION:
            raise _refusal(where, f'its version is {_quoted(version)}, and StyleGAN2 begins with {_OLDEST_VERSION}')
    return source


def _states(network: TensorFlowNetwork, where: str) -> Iterator[dict]:
    """The states of a network and of those inside it, from the outside to the inside."""
    pending = [(network, 0)]
    seen = set()
    while pending:
        network, depth = pending.pop()
        if not isinstance(network, TensorFlowNetwork) or not isinstance(network.state, dict):
            raise _damaged(where, f'a {type(network).__name__} is where a network belongs')
        if id(network) in seen or depth > _MAX_DEPTH:
            raise _damaged(where, 'a network is inside itself')
        seen.add(id(network))
        yield network.state
        components = _entries(network.state, 'components', where)
        pending += [(component, depth + 1) for component in components.values()]


def _entries(state: dict, key: str, where: str) -> dict[str, Any]:
    entries = {} if state.get(key) is None else state[key]
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise _damaged(where, f'{key} is not a dict with names')
    return entries


def _read_variables(pairs: Any, source: _Source) -> None:
    if not isinstance(pairs, (list, tuple)):
        raise _damaged(source.where, 'it has no list of variables')
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise _damaged(source.where, 'its variables are not pairs of name and array')
        name = _PARTS.sub('', pair[0])
        if not isinstance(pair[1], (np.ndarray, np.number, float)) or np.asarray(pair[1]).dtype.kind not in 'fiu':
            raise _damaged(source.where, f'its variable {excerpt(name, 80)} is not an array of numbers')
        if name in source.variables:
            raise _damaged(source.where, f'it has two variables {excerpt(name, 80)}')
        source.variables[name] = np.asarray(pair[1])


def _refuse_older(source: _Source) -> None:
    older = [title for function, title in _OLDER_FUNCTIONS.items() if function in source.functions]
    if any('/StyleMod/' in name for name in source.variables):
        older.append(_OLDER_FUNCTIONS['G_style'])
    if older:
        raise _refusal(source.where, f'it is a network of {older[0]}, and only those of StyleGAN2 can be converted')
    if 'LabelConcat/weight' in source.variables:
        raise _refusal(
            source.where,
            'it is a conditional generator from before StyleGAN2-ADA, which normalises latent and label together '
            '(LabelConcat/weight) where ours normalises each by itself: no weights make the two equal',
        )


def _assign(sources: list[_Source], where: str) -> dict[str, _Source]:
    """'G', 'D' and 'G_ema', as far as they are there."""
    generators = [source for source in sources if source.is_generator]
    others = [source for source in sources if not source.is_generator]
    for source in others:
        if not any(re.search(r'^Output/|/Conv1_down/|FromRGB', name) for name in source.variables):
            raise _refusal(source.where, 'it is neither a generator nor a discriminator of StyleGAN2')
    if not generators or len(generators) > 2 or len(others) > 1:
        raise _refusal(
            where, f'it holds {len(generators)} generators and {len(others)} discriminators in place of G, D and Gs'
        )
    by_key = {'G': generators[0]} if len(generators) > 1 else {}
    return by_key | ({'D': others[0]} if others else {}) | {'G_ema': generators[-1]}


# ------------------------------------------------------------------------------------------------- converting


def _convert(source: _Source, where: str, allowance: construction.Allowance, force_fp16: bool) -> torch.nn.Module:
    class_name = 'Generator' if source.is_generator else 'Discriminator'
    _require_grown(source, where)
    kwargs = _arguments(source, where)
    _settle_open_sizes(kwargs, source)
    tensors = _tensors(class_name, kwargs, source, where, allowance)
    module = construction.build(class_name, (), kwargs, tensors, where, allowance, force_fp16=force_fp16)
    return module.eval().requires_grad_(False)


def _require_grown(source: _Source, where: str) -> None:
    lod = source.variables.get('lod')
    if source.counts_down and lod is not None and not (lod.size == 1 and lod.item() == 0):
        raise _refusal(where, 'it was saved while it was still growing (its lod is not 0)')


def _arguments(source: _Source, where: str) -> dict[str, Any]:
    """Arguments of our constructor from the keywords of TensorFlow."""
    table = GENERATOR_KEYWORDS if source.is_generator else DISCRIMINATOR_KEYWORDS
    keywords = {OTHER_NAMES.get(name, name): _plain(value) for name, value in source.keywords.items()}
    unknown = []
    for name, value in keywords.items():
        if name in FIXED_KEYWORDS:
            if not isinstance(value, (str, int, float)) or value not in FIXED_KEYWORDS[name]:
                supported = ' or '.join(map(str, FIXED_KEYWORDS[name]))
                raise _refusal(where, f'its keyword {name} is {_quoted(value)}, and only {supported} is supported')
        elif name not in table and name not in IGNORED_KEYWORDS and value is not None:
            unknown.append(name)
    if unknown:
        raise _refusal(where, f'it has keywords that are not known: {_listed(unknown)}')

    if source.functions & _PROGRESSIVE_FUNCTIONS or (source.counts_down and keywords.get('architecture') is None):
        keywords['architecture'] = 'orig'  # what these networks are once they are grown
    kwargs = {}
    for name, keyword in table.items():
        value = keywords.get(name, keyword.default)
        try:
            argument = keyword.read(value)
        except ValueError as error:
            raise _refusal(where, f'its keyword {name} is {_quoted(value)}, but {error}') from error
        for path in keyword.ours:
            _put(kwargs, path, argument)
    resolution, base = kwargs['img_resolution'], kwargs.get('synthesis_kwargs', kwargs)['channel_base']
    if base < resolution:
        raise _refusal(where, f'its keyword fmap_base is {base / 2:g}, which leaves no channel at {resolution} pixels')
    return kwargs


def _put(kwargs: dict, path: str, value: Any) -> None:
    *outer, name = path.split('.')
    for key in outer:
        kwargs = kwargs.setdefault(key, {})
    kwargs[name] = value


def _settle_open_sizes(kwargs: dict, source: _Source) -> None:
    """Where a size was left to the code, whose default was not always the same, the arrays tell it."""
    mapping = kwargs['mapping_kwargs']
    label_width = source.width_of('LabelEmbed/weight')
    if source.is_generator:
        hidden_width = source.width_of('Dense0/weight') if mapping['num_layers'] > 1 else None
        if mapping['embed_features'] is None and label_width not in (None, kwargs['w_dim']):
            mapping['embed_features'] = label_width
        if mapping['layer_features'] is None and hidden_width not in (None, kwargs['w_dim']):
            mapping['layer_features'] = hidden_width
        return

    top_channels = min(kwargs['channel_base'] // 4, kwargs['channel_max'])
    if kwargs['cmap_dim'] is None and label_width not in (None, top_channels):
        kwargs['cmap_dim'] = label_width
    epilogue = kwargs['epilogue_kwargs']
    weight = source.variables.get('4x4/Conv/weight')
    if epilogue['mbstd_group_size'] in (0, 1) and weight is not None and weight.shape[2:3] == weight.shape[3:4]:
        epilogue['mbstd_num_channels'] = 0  # StyleGAN2 leaves the layer out where a group is a single image


def _tensors(
    class_name: str, kwargs: dict, source: _Source, where: str, allowance: construction.Allowance
) -> dict[str, torch.Tensor]:
    """Our parameters and buffers by name; names and shapes are compared before any array is copied."""
    ours = construction.named_tensors(_on_meta(class_name, kwargs, where))
    filters = {name: tensor for name, tensor in ours.items() if name.endswith('resample_filter')}
    rules = {rule.ours: rule for rule in _expanded(class_name, kwargs) if rule.ours in ours}
    arrays = _found(rules, source, kwargs, where)
    views = {}
    misshapen = []
    for name, array in arrays.items():
        layout = rules[name].layout
        views[name] = layout.view(array) if layout.ndim in (None, array.ndim) else array
        if views[name].shape != ours[name].shape:
            misshapen.append(f'{rules[name].theirs} {list(array.shape)} for {name} {list(ours[name].shape)}')
    if misshapen:
        raise _unfit(where, {'of another shape': misshapen})
    if sum(view.size for view in views.values()) > allowance.values:
        raise _refusal(where, 'the network is larger than the file')

    with np.errstate(all='ignore'):  # a value beyond float32 becomes infinite
        copies = {name: np.array(view, dtype=np.float32, order='C') for name, view in views.items()}
    return filters | {name: torch.from_numpy(copy).add_(rules[name].layout.plus) for name, copy in copies.items()}


def _found(rules: dict[str, Rule], source: _Source, kwargs: dict, where: str) -> dict[str, np.ndarray]:
    """Arrays of the file by our names; all must be there, and none may be left over."""
    names = _by_our_counting(source, kwargs['img_resolution'])  # as in the rules → as in the file
    wanted = {rule.theirs for rule in rules.values()}
    missing = [rule.theirs for rule in rules.values() if rule.theirs not in names]
    left_over = [name for key, name in names.items() if key not in wanted and not _is_unused(name, kwargs)]
    if missing or left_over:
        raise _unfit(where, {'missing': missing, 'without a place': left_over})
    return {ours: source.variables[names[rule.theirs]] for ours, rule in rules.items()}


def _on_meta(class_name: str, kwargs: dict, where: str) -> torch.nn.Module:
    """The network without memory for its values."""
    cls = dnnlib.util.get_obj_by_name(f'{construction.KNOWN_CLASSES[class_name]}.{class_name}')
    try:
        with torch.device('meta'):
            return cls(**kwargs)
    except (ValueError, RuntimeError, OverflowError) as error:
        raise _refusal(where, f'{class_name} cannot be built from its keywords ({excerpt(error)})') from error


def _by_our_counting(source: _Source, resolution: int) -> dict[str, str]:
    """Names as the rules have them → names in the file, which may count resolutions down."""
    names = {}
    for name in source.variables:
        match = _COUNTED_DOWN.fullmatch(name)
        size = resolution >> int(match['lod']) if match else 0
        key = f'{size}x{size}/{match["layer"]}{match["rest"]}' if size >= 4 else name
        if key in names:
            raise _damaged(source.where, f'it has two variables {excerpt(key, 80)}')
        names[key] = name
    return names


def _expanded(class_name: str, kwargs: dict) -> Iterator[Rule]:
    """The rules with numbers in place of braces.

    {r} is the resolution of a block; at 4×4 the only convolution has no number. Noise inputs are counted through:
    one at 4×4, two from there on. {i} is the number of a dense layer.
    """
    blocks = [
        dict(r=2**log2, conv1='Conv1' if log2 > 2 else 'Conv', up_noise=2 * log2 - 5, noise=2 * log2 - 4)
        for log2 in range(2, kwargs['img_resolution'].bit_length())
    ]
    layers = [dict(i=index) for index in range(kwargs['mapping_kwargs']['num_layers'])]
    for rule in GENERATOR_RULES if class_name == 'Generator' else DISCRIMINATOR_RULES:
        for numbers in blocks if '{r}' in rule.ours else layers if '{i}' in rule.ours else [{}]:
            yield rule._replace(theirs=rule.theirs.format(**numbers), ours=rule.ours.format(**numbers))


def _is_unused(name: str, kwargs: dict) -> bool:
    return any(unused.names.fullmatch(name) and unused.applies(kwargs) for unused in UNUSED_VARIABLES)


def _architecture_in(kwargs: dict) -> str:
    return kwargs.get('synthesis_kwargs', kwargs)['architecture']


# -------------------------------------------------------------------------------------------------- messages


def _refusal(where: str, reason: str) -> NetworkPickleError:
    return NetworkPickleError(f'{where} was not opened: {reason}')


def _damaged(where: str, reason: str) -> NetworkPickleError:
    return NetworkPickleError(f'{where} was not opened: it is no TensorFlow network, or damaged ({reason})')


def _unfit(where: str, complaints: dict[str, list[str]]) -> NetworkPickleError:
    texts = [f'{len(names)} {what} ({_listed(names)})' for what, names in complaints.items() if names]
    return _refusal(where, f'its variables do not fit the network that its keywords describe: {"; ".join(texts)}')


def _plain(value: Any) -> Any:
    """A number of NumPy, or a small array, as Python's own; everything else as it is."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) and value.size <= 4096 else value


def _quoted(value: Any) -> str:
    """A value from the file, never longer than a line."""
    if isinstance(value, str):
        return repr(excerpt(value[:100], 40))
    if isinstance(value, (bool, float, type(None))) or (isinstance(value, int) and abs(value) < 2**63):
        return str(value)
    return f'a {type(value).__name__}'


def _listed(names: list[str]) -> str:
    more = len(names) - _COMPLAINTS_SHOWN
    shown = ', '.join(excerpt(name[:200], 120) for name in names[:_COMPLAINTS_SHOWN])
    return f'{shown} and {more} more' if more > 0 else shown
