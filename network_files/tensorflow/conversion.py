"""Convert the networks of a TensorFlow pickle to networks of this project."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dnnlib.text import excerpt
from network_files import construction
from network_files.errors import NetworkPickleError
from network_files.tensorflow.keywords import (
    DISCRIMINATOR_KEYWORDS,
    FIXED_KEYWORDS,
    GENERATOR_KEYWORDS,
    IGNORED_KEYWORDS,
    OTHER_NAMES,
    PROGRESSIVE_FUNCTIONS,
)
from network_files.tensorflow.messages import damaged, listed, quoted, refusal, unmatched
from network_files.tensorflow.sources import Source, TensorFlowNetwork, assign_keys, read_source
from network_files.tensorflow.variables import COUNTED_DOWN, Rule, expand_rules, is_unused

# Values of the resampling filters, which are not in the files: about 60 filters per network, up to 64×64.
_FILTER_VALUES = 2**20


def is_tensorflow(data: Any) -> bool:
    """Return whether `safe_pickle.loads` returned a TensorFlow network, or a tuple or list with one."""
    items = data if isinstance(data, (tuple, list)) else [data]
    return any(isinstance(item, TensorFlowNetwork) for item in items)


def convert(data: Any, where: str, force_fp16: bool = False) -> dict[str, Any]:
    """Convert the networks of a TensorFlow pickle to modules of `training.networks_stylegan2`.

    Args:
        data: Object for which `is_tensorflow` is true: usually the tuple (G, D, Gs). One generator is enough; the last
            one is taken as the moving average.
        where: Name of the file in errors.
        force_fp16: Use half precision in the 4 highest resolutions, on devices that support it.

    Returns:
        Dict of `G_ema`, `G` and `D` (modules on the CPU, eval mode, without gradients; `G` and `D` are None if the file
        lacks them), `augment_pipe` and `training_set_kwargs` (None).

    Raises:
        NetworkPickleError: Something in it is not supported, missing, or damaged. One sentence.
    """
    items = [item for item in (data if isinstance(data, (tuple, list)) else [data]) if item is not None]
    if len(items) > 3 or not all(isinstance(item, TensorFlowNetwork) for item in items):
        raise NetworkPickleError(f'{where} was not opened: it contains more than the TensorFlow networks G, D and Gs')
    sources = [read_source(item, f'{where}: network {number} of {len(items)}') for number, item in enumerate(items, 1)]
    by_key = assign_keys(sources, where)

    arrays = {id(array): array for source in sources for array in source.variables.values()}
    allowance = construction.Allowance(sum(array.nbytes for array in arrays.values()) + _FILTER_VALUES)
    keys = (*construction.NETWORK_KEYS, 'augment_pipe', 'training_set_kwargs')
    result: dict[str, Any] = dict.fromkeys(keys)
    for key, source in by_key.items():
        result[key] = _convert(source, f'{where}: {key}', allowance, force_fp16)
    return result


def _convert(source: Source, where: str, allowance: construction.Allowance, force_fp16: bool) -> torch.nn.Module:
    class_name = 'Generator' if source.is_generator else 'Discriminator'
    _check_grown(source, where)
    kwargs = _arguments(source, where)
    _infer_missing_sizes(kwargs, source)
    tensors = _tensors(class_name, kwargs, source, where, allowance)
    module = construction.build(class_name, (), kwargs, tensors, where, allowance, force_fp16=force_fp16)
    return module.eval().requires_grad_(False)


def _check_grown(source: Source, where: str) -> None:
    lod = source.variables.get('lod')
    if source.counts_down and lod is not None and not (lod.size == 1 and lod.item() == 0):
        raise refusal(where, 'it was saved while it was still growing (its lod is not 0)')


def _arguments(source: Source, where: str) -> dict[str, Any]:
    """Return the arguments of our constructor for the keywords of TensorFlow."""
    table = GENERATOR_KEYWORDS if source.is_generator else DISCRIMINATOR_KEYWORDS
    keywords = {OTHER_NAMES.get(name, name): _plain(value) for name, value in source.keywords.items()}
    unknown = []
    for name, value in keywords.items():
        if name in FIXED_KEYWORDS:
            if not isinstance(value, (str, int, float)) or value not in FIXED_KEYWORDS[name]:
                supported = ' or '.join(map(str, FIXED_KEYWORDS[name]))
                raise refusal(where, f'its keyword {name} is {quoted(value)}, but only {supported} is supported')
        elif name not in table and name not in IGNORED_KEYWORDS and value is not None:
            unknown.append(name)
    if unknown:
        raise refusal(where, f'it has unknown keywords: {listed(unknown)}')

    if source.functions & PROGRESSIVE_FUNCTIONS or (source.counts_down and keywords.get('architecture') is None):
        keywords['architecture'] = 'orig'  # of these networks when they have grown
    kwargs: dict[str, Any] = {}
    for name, keyword in table.items():
        value = keywords.get(name, keyword.default)
        try:
            argument = keyword.read(value)
        except ValueError as error:
            raise refusal(where, f'its keyword {name} is {quoted(value)}, but {error}') from error
        for path in keyword.ours:
            _put(kwargs, path, argument)
    resolution, base = kwargs['img_resolution'], kwargs.get('synthesis_kwargs', kwargs)['channel_base']
    if base < resolution:
        raise refusal(where, f'its keyword fmap_base is {base / 2:g}, which leaves no channels at {resolution} pixels')
    return kwargs


def _put(kwargs: dict[str, Any], path: str, value: Any) -> None:
    *outer, name = path.split('.')
    for key in outer:
        kwargs = kwargs.setdefault(key, {})
    kwargs[name] = value


def _infer_missing_sizes(kwargs: dict[str, Any], source: Source) -> None:
    """Infer sizes that were left to the code, whose defaults have changed over time, from the arrays."""
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
        epilogue['mbstd_num_channels'] = 0  # StyleGAN2 omits the layer for groups of one image


def _tensors(
    class_name: str, kwargs: dict[str, Any], source: Source, where: str, allowance: construction.Allowance
) -> dict[str, torch.Tensor]:
    """Return our parameters and buffers by name; names and shapes are compared before any array is copied."""
    ours = construction.named_tensors(_build_on_meta(class_name, kwargs, where, allowance))
    filters = {name: tensor for name, tensor in ours.items() if name.endswith('resample_filter')}
    rules = {rule.ours: rule for rule in expand_rules(class_name, kwargs) if rule.ours in ours}
    arrays = _match_variables(rules, source, kwargs, where)
    views = {}
    misshapen = []
    for name, array in arrays.items():
        layout = rules[name].layout
        views[name] = layout.view(array) if layout.ndim in (None, array.ndim) else array
        if views[name].shape != ours[name].shape:
            misshapen.append(f'{rules[name].theirs} {list(array.shape)} for {name} {list(ours[name].shape)}')
    if misshapen:
        raise unmatched(where, {'of another shape': misshapen})
    if sum(view.size for view in views.values()) > allowance.values:
        raise refusal(where, 'the network is larger than the file')

    with np.errstate(all='ignore'):  # a value beyond float32 becomes infinite
        copies = {name: np.array(view, dtype=np.float32, order='C') for name, view in views.items()}
    return filters | {name: torch.from_numpy(copy).add_(rules[name].layout.plus) for name, copy in copies.items()}


def _match_variables(
    rules: dict[str, Rule], source: Source, kwargs: dict[str, Any], where: str
) -> dict[str, np.ndarray]:
    """Return the arrays of the file by our names; raise NetworkPickleError if any is missing or left over."""
    names = _names_in_rules(source, kwargs['img_resolution'])  # names in the file by names in the rules
    known = {rule.theirs for rule in rules.values()}
    missing = [rule.theirs for rule in rules.values() if rule.theirs not in names]
    left_over = [name for key, name in names.items() if key not in known and not is_unused(name, kwargs)]
    if missing or left_over:
        raise unmatched(where, {'missing': missing, 'unknown': left_over})
    return {ours: source.variables[names[rule.theirs]] for ours, rule in rules.items()}


def _build_on_meta(
    class_name: str, kwargs: dict[str, Any], where: str, allowance: construction.Allowance
) -> torch.nn.Module:
    """Build the network without memory for its values."""
    try:
        return construction.construct_on_meta(class_name, (), kwargs, allowance)
    except (ValueError, RuntimeError, OverflowError) as error:
        raise refusal(where, f'{class_name} cannot be built from its keywords ({excerpt(error)})') from error


def _names_in_rules(source: Source, resolution: int) -> dict[str, str]:
    """Return the names in the file, which may count resolutions downwards, by the names in the rules."""
    names: dict[str, str] = {}
    for name in source.variables:
        match = COUNTED_DOWN.fullmatch(name)
        key = name
        if match is not None and (size := resolution >> int(match['lod'])) >= 4:
            key = f'{size}x{size}/{match["layer"]}{match["rest"]}'
        if key in names:
            raise damaged(source.where, f'it has two variables {excerpt(key, 80)}')
        names[key] = name
    return names


def _plain(value: Any) -> Any:
    """Convert a number of NumPy, or a small array, to Python's types; return anything else unchanged."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) and value.size <= 4096 else value
