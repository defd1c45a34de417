"""The layout of stylegan2-pytorch by rosinality, which GANSpace, pSp, e4e and other tools read and write.

Such a file of `torch.save` is a dict of `g_ema` (state dict of the generator), and optionally `g`, `d` and `latent_avg`
(mean of w). The networks are StyleGAN2's, without labels, for square images whose size is a power of two. They have the
same layers as ours under other names, and weights that mean the same numbers: most tensors differ in axes of size 1.
Three things are conventions of the program and not in the file: the multiplier 0.01 of the mapping network's learning
rate, the number of channels of each resolution, and the number of layers of the mapping network.

This module only translates names and shapes. `network_files.reading` opens the file, `legacy.py` writes it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any

import torch

from dnnlib.text import excerpt
from network_files import construction
from network_files.errors import NetworkPickleError

_LR_MULTIPLIER = 0.01
_NUM_MEAN_SAMPLES, _MEAN_SEED = 10_000, 123
_MAX_DOUBLINGS = 9  # from 4 to 2048 pixels
_MAX_LAYERS = 100
_FILTER = (1, 3, 3, 1)
_KERNEL_GAIN = 4  # their filters for upsampling contain the gain, 2 for each axis
_NAME_LENGTH = 100
_PARALLEL = 'module.'  # before the names of networks that were trained on several GPUs

Tensors = Mapping[str, torch.Tensor]


class NotInLayout(ValueError):
    """A network that this layout cannot hold; the text completes 'the network ...'."""


# ---------------------------------------------------------------------------------------------------------------------
# Names


def _styled_layer(theirs: str, ours: str, noise: str) -> dict[str, str]:
    """Return {name here: name there} of a convolution with noise."""
    return {
        f'{ours}.weight': f'{theirs}.conv.weight',
        f'{ours}.affine.weight': f'{theirs}.conv.modulation.weight',
        f'{ours}.affine.bias': f'{theirs}.conv.modulation.bias',
        f'{ours}.noise_strength': f'{theirs}.noise.weight',
        f'{ours}.bias': f'{theirs}.activate.bias',
        f'{ours}.noise_const': noise,
    }


def _rgb_layer(theirs: str, ours: str) -> dict[str, str]:
    return {
        f'{ours}.weight': f'{theirs}.conv.weight',
        f'{ours}.affine.weight': f'{theirs}.conv.modulation.weight',
        f'{ours}.affine.bias': f'{theirs}.conv.modulation.bias',
        f'{ours}.bias': f'{theirs}.bias',
    }


def generator_names(size_log2: int, num_layers: int) -> dict[str, str]:
    """Return {name here: name there} of the tensors of a generator.

    Args:
        size_log2: Binary logarithm of the size of the images.
        num_layers: Number of layers of the mapping network. There, layer 0 is the normalization of z.
    """
    names: dict[str, str] = {}
    for index in range(num_layers):
        for kind in ('weight', 'bias'):
            names[f'mapping.fc{index}.{kind}'] = f'style.{index + 1}.{kind}'
    names['synthesis.b4.const'] = 'input.input'
    names |= _styled_layer('conv1', 'synthesis.b4.conv1', 'noises.noise_0')
    names |= _rgb_layer('to_rgb1', 'synthesis.b4.torgb')
    for index in range(size_log2 - 2):
        block = f'synthesis.b{2 ** (index + 3)}'
        for number, layer in enumerate(('conv0', 'conv1')):
            position = 2 * index + number
            names |= _styled_layer(f'convs.{position}', f'{block}.{layer}', f'noises.noise_{position + 1}')
        names |= _rgb_layer(f'to_rgbs.{index}', f'{block}.torgb')
    return names


def discriminator_names(size_log2: int) -> dict[str, str]:
    """Return {name here: name there} of the tensors of a discriminator."""
    top = f'b{2**size_log2}'
    names = {f'{top}.fromrgb.weight': 'convs.0.0.weight', f'{top}.fromrgb.bias': 'convs.0.1.bias'}
    for index, level_log2 in enumerate(range(size_log2, 2, -1), start=1):
        ours, theirs = f'b{2**level_log2}', f'convs.{index}'
        names |= {
            f'{ours}.conv0.weight': f'{theirs}.conv1.0.weight',
            f'{ours}.conv0.bias': f'{theirs}.conv1.1.bias',
            f'{ours}.conv1.weight': f'{theirs}.conv2.1.weight',
            f'{ours}.conv1.bias': f'{theirs}.conv2.2.bias',
            f'{ours}.skip.weight': f'{theirs}.skip.1.weight',
        }
    names |= {f'b4.conv.{kind}': f'final_conv.{index}.{kind}' for index, kind in enumerate(('weight', 'bias'))}
    names |= {f'b4.fc.{kind}': f'final_linear.0.{kind}' for kind in ('weight', 'bias')}
    names |= {f'b4.out.{kind}': f'final_linear.1.{kind}' for kind in ('weight', 'bias')}
    return names


def _generator_kernels(size_log2: int) -> list[str]:
    """Return the names of the filters of a generator, which contain a gain."""
    indices = range(size_log2 - 2)
    return [f'convs.{2 * index}.conv.blur.kernel' for index in indices] + [
        f'to_rgbs.{index}.upsample.kernel' for index in indices
    ]


def _discriminator_kernels(size_log2: int) -> list[str]:
    return [f'convs.{index}.{part}.0.kernel' for index in range(1, size_log2 - 1) for part in ('conv2', 'skip')]


def _filter() -> torch.Tensor:
    taps = torch.tensor(_FILTER, dtype=torch.float32)
    return taps.outer(taps) / taps.sum().square()


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def to_layout(data: Mapping[str, Any], label: torch.Tensor | None = None) -> dict[str, Any]:
    """Return the content of a file in this layout. A line on stderr says what is left out.

    Args:
        data: Content of a network file: `G_ema`, and `G` and `D` or None.
        label: float32 [1, c_dim]: the label that a conditional generator is written for, which becomes part of the
            first layer of its mapping network. None: the generator has no labels.

    Raises:
        NotInLayout: The layout cannot hold the generator.
    """
    G_ema = data['G_ema']
    result: dict[str, Any] = {'g_ema': _generator_to_layout(G_ema, label)}
    if data.get('G') is not None and data['G'] is not G_ema:
        result['g'] = _generator_to_layout(data['G'], label)
    D = data.get('D')
    if D is not None and D is not G_ema:
        reason = _reason_to_leave_out(D)
        if reason is None:
            result['d'] = _discriminator_to_layout(D)
        else:
            print(f'Warning: the discriminator is left out, since {reason}.', file=sys.stderr)
    mean = getattr(G_ema.mapping, 'w_avg', None)
    if mean is not None:
        result['latent_avg'] = mean.detach().clone()
    return result


def conventions(G: Any) -> str | None:
    """Return what a program has to be told to open a generator, or None if it is what all of them expect."""
    resolution = G.img_resolution
    found: list[str] = []
    multipliers = [
        factor
        for factor in (1, 2, 4)
        if all(_channels(G, r) == _usual_channels(r, factor) for r in _levels(resolution))
    ]
    if not multipliers:
        listed = ', '.join(f'{level}: {_channels(G, level)}' for level in _levels(resolution))
        found.append(f'the channels {{{listed}}}')
    elif 2 not in multipliers:
        found.append(f'channel_multiplier={multipliers[0]}')
    if G.w_dim != 512:
        found.append(f'style_dim={G.w_dim}')
    if G.mapping.num_layers != 8:
        found.append(f'n_mlp={G.mapping.num_layers}')
    if G.img_channels != 3:
        found.append(f'images with {G.img_channels} channels')
    return ', '.join(found) or None


def _levels(resolution: int) -> list[int]:
    return [2**log2 for log2 in range(2, resolution.bit_length())]


def _channels(G: Any, level: int) -> int:
    return int(getattr(G.synthesis, f'b{level}').conv1.out_channels)


def _usual_channels(level: int, multiplier: int) -> int:
    return 512 if level <= 32 else 16384 // level * multiplier


def _generator_to_layout(G: Any, label: torch.Tensor | None) -> dict[str, torch.Tensor]:
    _check_generator(G, label)
    size_log2 = G.img_resolution.bit_length() - 1
    ours = construction.named_tensors(G)
    ours = ours | _mapping_without_labels(G, label)
    result: dict[str, torch.Tensor] = {}
    for name, their_name in generator_names(size_log2, G.mapping.num_layers).items():
        layer = G.get_submodule(name.rpartition('.')[0])
        if name not in ours and name.rpartition('.')[2].startswith('noise_'):
            tensor = torch.zeros([] if name.endswith('strength') else [2 ** _log2_of_block(name)] * 2)
        else:
            tensor = ours[name].detach().float()
        if name.startswith('mapping.'):
            tensor = tensor * (layer.bias_gain / _LR_MULTIPLIER)
        result[their_name] = tensor.reshape(_their_shape(their_name, tensor)).clone()
    result |= {name: _filter() * _KERNEL_GAIN for name in _generator_kernels(size_log2)}
    return result


def _log2_of_block(name: str) -> int:
    match = re.search(r'\.b(\d+)\.', name)
    assert match is not None
    return int(match[1]).bit_length() - 1


def _mapping_without_labels(G: Any, label: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the first layer of the mapping network of a generator with one label only; {} without labels.

    The layer reads z and the embedding of the label. The part of the embedding is constant, and joins the bias; the
    other part is scaled, since layers divide by the root of the number of their inputs.
    """
    if G.c_dim == 0:
        return {}
    assert label is not None
    layer, z_dim = G.mapping.fc0, G.z_dim
    with torch.no_grad():
        embedded = G.mapping.embed(label.float())
        embedded = embedded * torch.rsqrt(embedded.square().mean(dim=1, keepdim=True) + 1e-8)  # [1, embed_features]
        constant = (embedded @ layer.weight[:, z_dim:].t())[0] * layer.weight_gain
        gain = layer.bias_gain / math.sqrt(z_dim)
        return {
            'mapping.fc0.weight': layer.weight[:, :z_dim] * (layer.weight_gain / gain),
            'mapping.fc0.bias': layer.bias + constant / layer.bias_gain,
        }


def _their_shape(name: str, tensor: torch.Tensor) -> list[int]:
    """Return the shape of a tensor of ours in this layout: theirs have a leading axis where samples are modulated."""
    shape = list(tensor.shape)
    if name == 'input.input' or (name.endswith('conv.weight') and len(shape) == 4):
        return [1, *shape]
    if name.startswith('noises.'):
        return [1, 1, *shape]
    if name.endswith('noise.weight'):
        return [1]
    return (
        [1, *shape, 1, 1] if name.startswith('to_rgb') and name.endswith(('.bias',)) and '.conv.' not in name else shape
    )


def _check_generator(G: Any, label: torch.Tensor | None) -> None:
    """Raise NotInLayout if the layout cannot hold a generator."""
    if not hasattr(G.synthesis, 'block_resolutions'):
        raise NotInLayout('is not one of StyleGAN2, the only kind that this layout holds')
    size = G.img_resolution
    if not isinstance(size, int) or size < 8 or size & (size - 1):
        raise NotInLayout(f'generates images of {size}, but the layout holds squares whose side is a power of two')
    if any(getattr(G.synthesis, f'b{level}').architecture != 'skip' for level in G.synthesis.block_resolutions):
        raise NotInLayout("has another architecture than 'skip', the only one that the layout holds")
    if G.c_dim > 0 and label is None:
        raise NotInLayout('is conditional, and the layout has no labels')
    sizes = {G.w_dim, G.z_dim, *(getattr(G.mapping, f'fc{i}').out_features for i in range(G.mapping.num_layers))}
    if len(sizes) > 1:
        listed = ', '.join(map(str, sorted(sizes)))
        raise NotInLayout(f'has latents and mapping layers of different sizes ({listed}), but the layout has only one')
    layers = [getattr(G.mapping, f'fc{index}') for index in range(G.mapping.num_layers)]
    layers += [module for name, module in G.synthesis.named_modules() if name.endswith(('conv0', 'conv1'))]
    _check_activations(layers)
    _check_filters(G)


def _check_activations(layers: list[Any]) -> None:
    other = {layer.activation for layer in layers} - {'lrelu'}
    if other:
        raise NotInLayout(f'has the activation {min(other)!r}, but the layout has only lrelu')


def _check_filters(network: Any) -> None:
    for name, buffer in network.named_buffers():
        is_filter = name.endswith('resample_filter')
        if is_filter and (buffer.shape != (4, 4) or not torch.allclose(buffer.float(), _filter(), atol=1e-6)):
            raise NotInLayout(f'has another filter than {list(_FILTER)}')


def _reason_to_leave_out(D: Any) -> str | None:
    if D.c_dim > 0:
        return 'it is conditional, and the layout has no labels'
    names = discriminator_names(D.img_resolution.bit_length() - 1) if isinstance(D.img_resolution, int) else {}
    own = {name for name in construction.named_tensors(D) if not name.endswith('resample_filter')}
    if own != set(names):
        return "its layers are not those of the architecture 'resnet'"
    try:
        _check_filters(D)
        skips = {getattr(D, f'b{level}').skip for level in D.block_resolutions}
        _check_activations([m for m in D.modules() if hasattr(m, 'conv_clamp') and m not in skips])
    except NotInLayout as error:
        return f'it {error}'
    return None


def _discriminator_to_layout(D: Any) -> dict[str, torch.Tensor]:
    size_log2 = D.img_resolution.bit_length() - 1
    ours = construction.named_tensors(D)
    names = discriminator_names(size_log2)
    result = {their_name: ours[name].detach().float().clone() for name, their_name in names.items()}
    return result | {name: _filter() for name in _discriminator_kernels(size_log2)}


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def is_layout(value: Any) -> bool:
    """Return whether the content of a file of `torch.save` is in this layout."""
    generator = value.get('g_ema') if isinstance(value, dict) else None
    return isinstance(generator, dict) and not {'conv1.conv.weight', f'{_PARALLEL}conv1.conv.weight'}.isdisjoint(
        generator
    )


def from_layout(content: Mapping[str, Any], name: str, allowance: construction.Allowance) -> dict[str, Any]:
    """Return the content of a network file: `G_ema`, and `G` and `D` if they are there.

    Args:
        content: Content of a file of `torch.save`, see `is_layout`.
        name: Name of the file in errors.
        allowance: As in `construction.build`.

    Raises:
        NetworkPickleError: It is damaged, or the networks cannot be built.
    """
    mean = content.get('latent_avg')
    result: dict[str, Any] = {}
    for key, their_key in (('G_ema', 'g_ema'), ('G', 'g')):
        if isinstance(content.get(their_key), dict):
            tensors = _tensors_of(content[their_key], f'{name}: {their_key}')
            result[key] = _generator_from_layout(tensors, mean, f'{name}: {their_key}', allowance)
    if isinstance(content.get('d'), dict):
        result['D'] = _discriminator_from_layout(_tensors_of(content['d'], f'{name}: d'), f'{name}: d', allowance)
    return result


def _tensors_of(state: Mapping[Any, Any], where: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict by their names in the layout."""
    for key, value in state.items():
        if not isinstance(key, str) or len(key) > _NAME_LENGTH or not isinstance(value, torch.Tensor):
            raise NetworkPickleError(f'{where} was not opened: {excerpt(key)} is not a tensor with a name')
    return {key.removeprefix(_PARALLEL): value for key, value in state.items()}


def _generator_from_layout(
    tensors: Tensors, mean: Any, where: str, allowance: construction.Allowance
) -> torch.nn.Module:
    size_log2 = 2 + _count(tensors, r'to_rgbs\.(\d+)\.bias')
    num_layers = _count(tensors, r'style\.(\d+)\.weight')
    z_dim = _shape(tensors, 'style.1.weight', 2, where)[1]
    channels = [_shape(tensors, 'conv1.conv.weight', 5, where)[1]]
    channels += [_shape(tensors, f'convs.{2 * i + 1}.conv.weight', 5, where)[1] for i in range(size_log2 - 2)]
    base, largest = _channel_arguments(channels, where)
    kwargs = dict(
        z_dim=z_dim,
        c_dim=0,
        w_dim=z_dim,
        img_resolution=2**size_log2,
        img_channels=_shape(tensors, 'to_rgb1.conv.weight', 5, where)[1],
        mapping_kwargs=dict(num_layers=num_layers),
        synthesis_kwargs=dict(channel_base=base, channel_max=largest),
    )
    _check_kernels(tensors, _generator_kernels(size_log2), _filter() * _KERNEL_GAIN, where)
    names = generator_names(size_log2, num_layers)
    found = _translated(tensors, names, where)
    known = {*names.values(), *_generator_kernels(size_log2)}
    _check_nothing_left(tensors, known, where)
    random = torch.Generator().manual_seed(0)
    for level_log2 in range(2, size_log2 + 1):
        for layer in ('conv0', 'conv1')[level_log2 == 2 :]:
            # Files from before the layout had noise: the program drew it anew.
            noise = f'synthesis.b{2**level_log2}.{layer}.noise_const'
            if noise not in found:
                found[noise] = torch.randn([2**level_log2] * 2, generator=random)
            found[f'synthesis.b{2**level_log2}.{layer}.resample_filter'] = _filter()
        found[f'synthesis.b{2**level_log2}.resample_filter'] = _filter()
    given = _mean_of(mean, z_dim, where)
    found['mapping.w_avg'] = torch.zeros(z_dim) if given is None else given
    G = construction.build('Generator', (), kwargs, found, where, allowance)
    if given is None:
        _estimate_mean(G)
    return G


def _discriminator_from_layout(tensors: Tensors, where: str, allowance: construction.Allowance) -> torch.nn.Module:
    size_log2 = 2 + _count(tensors, r'convs\.(\d+)\.conv1\.0\.weight')
    rgb = _shape(tensors, 'convs.0.0.weight', 4, where)
    channels = [_shape(tensors, f'convs.{index}.conv1.0.weight', 4, where)[0] for index in range(size_log2 - 2, 0, -1)]
    channels = [_shape(tensors, 'final_conv.0.weight', 4, where)[0], *channels]  # at 4, 8, ...
    base, largest = _channel_arguments(channels, where)
    kwargs = dict(c_dim=0, img_resolution=2**size_log2, img_channels=rgb[1], channel_base=base, channel_max=largest)
    _check_kernels(tensors, _discriminator_kernels(size_log2), _filter(), where)
    names = discriminator_names(size_log2)
    found = _translated(tensors, names, where)
    _check_nothing_left(tensors, {*names.values(), *_discriminator_kernels(size_log2)}, where)
    for level_log2 in range(3, size_log2 + 1):
        block = f'b{2**level_log2}'
        filters = ['conv0', 'conv1', 'skip'] + (['fromrgb'] if level_log2 == size_log2 else [])
        found |= {f'{block}.{layer}.resample_filter': _filter() for layer in filters}
        found[f'{block}.resample_filter'] = _filter()
    found['b4.conv.resample_filter'] = _filter()
    return construction.build('Discriminator', (), kwargs, found, where, allowance)


def _translated(tensors: Tensors, names: Mapping[str, str], where: str) -> dict[str, torch.Tensor]:
    """Return tensors by our names, in our shapes; noise may be missing."""
    found: dict[str, torch.Tensor] = {}
    for name, their_name in names.items():
        if their_name in tensors:
            tensor = tensors[their_name]
            if name.endswith('noise_strength'):
                shape: list[int] = []
            elif name.endswith('noise_const'):
                shape = list(tensor.shape[2:])
            elif name.startswith('synthesis.') and not name.endswith(('affine.weight', 'affine.bias')):
                shape = list(tensor.shape[1:])
                shape = shape[:1] if name.endswith('torgb.bias') else shape
                shape = list(tensor.shape) if their_name.endswith('activate.bias') else shape
            else:
                shape = list(tensor.shape)
            if math.prod(shape) != tensor.numel():
                raise NetworkPickleError(f'{where}: {their_name} has shape {list(tensor.shape)}, which is unknown here')
            found[name] = tensor.reshape(shape)
        elif not name.endswith('noise_const'):
            raise NetworkPickleError(f'{where} was not opened: {their_name} is missing')
    return found


def _count(tensors: Tensors, pattern: str) -> int:
    """Return how many names match a pattern with a number, up to a bound."""
    numbers = {int(match[1][:6]) for name in tensors if (match := re.fullmatch(pattern, name))}
    return min(len(numbers), _MAX_LAYERS if 'style' in pattern else _MAX_DOUBLINGS)


def _shape(tensors: Tensors, name: str, num_axes: int, where: str) -> tuple[int, ...]:
    if name not in tensors:
        raise NetworkPickleError(f'{where} was not opened: {name} is missing')
    if tensors[name].ndim != num_axes:
        raise NetworkPickleError(f'{where}: {name} has shape {list(tensors[name].shape)}, which is unknown here')
    return tuple(tensors[name].shape)


def _channel_arguments(channels: list[int], where: str) -> tuple[int, int]:
    """Return channel_base and channel_max for the numbers of channels at 4, 8, ...: min(base // level, max)."""
    largest = max(channels)
    levels = [2 ** (index + 2) for index in range(len(channels))]
    below = [count * level for count, level in zip(channels, levels) if count < largest]
    base = max(below, default=largest * levels[-1])
    if [min(base // level, largest) for level in levels] != channels:
        listed = ', '.join(map(str, channels))
        raise NetworkPickleError(f'{where} was not opened: its channels ({listed}) are not those of a StyleGAN2')
    return base, largest


def _check_kernels(tensors: Tensors, names: list[str], expected: torch.Tensor, where: str) -> None:
    for name in names:
        kernel = tensors.get(name)
        if kernel is None:
            continue
        if kernel.shape != expected.shape or not torch.allclose(kernel.float(), expected, atol=1e-5):
            raise NetworkPickleError(f'{where} was not opened: {name} is another filter than {list(_FILTER)}')


def _check_nothing_left(tensors: Tensors, known: set[str], where: str) -> None:
    unknown = [name for name in tensors if name not in known]
    if unknown:
        raise NetworkPickleError(f'{where} was not opened: {excerpt(unknown[0])} is unknown here')


def _mean_of(mean: Any, w_dim: int, where: str) -> torch.Tensor | None:
    """Return the mean of w, [w_dim], from a `latent_avg` for one layer or for all of them; None if there is none."""
    if mean is None:
        return None
    if not isinstance(mean, torch.Tensor) or mean.ndim == 0 or mean.shape[-1] != w_dim or not mean.isfinite().all():
        raise NetworkPickleError(f'{where} was not opened: latent_avg is not a mean of w with {w_dim} numbers')
    return mean.float().reshape(-1, w_dim).mean(dim=0)


@torch.no_grad()
def _estimate_mean(G: Any) -> None:
    """Set the mean of w, which files of a training do not contain, to that of a fixed set of random z."""
    random = torch.Generator().manual_seed(_MEAN_SEED)
    z = torch.randn([_NUM_MEAN_SAMPLES, G.z_dim], generator=random)
    w = torch.cat([G.mapping(batch, None)[:, 0].double() for batch in z.split(1000)])
    G.mapping.w_avg.copy_(w.mean(dim=0))
