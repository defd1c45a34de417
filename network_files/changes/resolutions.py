"""Other sizes of the images.

Networks of StyleGAN2 are aligned at their lowest resolution, so that a doubling adds a block at the other end, with the
channels that `channel_base` gives it:

* G's new block adds nearly nothing to the image of the blocks below, which is upsampled.
* D's new block passes the image on, downsampled: half of its channels are the negatives of the other half, so that the
  difference of the two is linear in spite of the leaky ReLU (lrelu(x) - lrelu(-x) = 1.2x). Its last convolution does
  what read the image before.

A halving removes the block. `network_files.changes.fitting` adapts the layer that writes or reads the image then. For
other proportions, the constant input of G and the first fully connected weight of D are resampled.

All layers of a StyleGAN3 generator change their bands with the size. Their weights are kept, and the rest is fitted.
"""

from __future__ import annotations

from typing import Any

import torch

from dataset_format.sizes import as_resolution, level_of, num_halvings
from network_files.changes.architectures import (
    construct_like,
    copy_equal_shapes,
    is_stylegan3,
    keywords_of,
    sides_of,
    synthesis_keywords,
    with_synthesis_keywords,
)
from network_files.changes.widths import NUDGE, widen_into
from torch_utils.ops import upfirdn2d

_SEED = 4
_SLOPE = 0.2  # of leaky ReLUs
_FILTER = (1, 3, 3, 1)


def resample(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resample images [N, C, H, W]: by the filter of the networks for powers of two, and bilinearly for the rest."""
    taps = upfirdn2d.setup_filter(_FILTER, device=images.device)
    while images.shape[2] * 2 <= height and images.shape[3] * 2 <= width:
        images = upfirdn2d.upsample2d(images, taps)
    while images.shape[2] >= height * 2 and images.shape[3] >= width * 2:
        images = upfirdn2d.downsample2d(images, taps)
    return stretch(images, height, width)


def stretch(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resample maps [N, C, H, W] bilinearly, averaging where they become smaller."""
    if tuple(x.shape[2:]) == (height, width):
        return x
    return torch.nn.functional.interpolate(x, size=(height, width), mode='bilinear', antialias=True)


def _pyramid_of(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the height and width of the lowest resolution, its level, and the number of doublings."""
    count = num_halvings(height, width)
    height, width = height >> count, width >> count
    return height, width, level_of(height, width), count


def channel_base_for(old: tuple[int, int], new: tuple[int, int], channel_base: int, for_stylegan3: bool = False) -> int:
    """Return the `channel_base` with which no layer of the resized network has fewer channels than before.

    Args:
        old: Height and width of the images.
        new: The same of the resized network.
        channel_base: As before.
        for_stylegan3: Whether it is a generator of StyleGAN3.
    """
    if for_stylegan3:
        return -(-channel_base * max(*new, *old) // max(old))
    ratio = _pyramid_of(*new)[2] / _pyramid_of(*old)[2]
    return round(channel_base * ratio)


def change_resolution(network: Any, height: int, width: int) -> Any:
    """Return a network, G or D, for images of another size; `channel_base` becomes that of `channel_base_for`.

    Raises:
        ValueError: A network of this kind cannot have this size.
    """
    if is_stylegan3(network):
        return _change_stylegan3(network, height, width)
    old_h, old_w, _level, old_doublings = _pyramid_of(*sides_of(network))
    new_h, new_w, _level, doublings = _pyramid_of(height, width)
    while old_doublings < doublings:
        network = _grow(network, old_h << (old_doublings + 1), old_w << (old_doublings + 1))
        old_doublings += 1
    while old_doublings > doublings:
        network = _rebuild(network, old_h << (old_doublings - 1), old_w << (old_doublings - 1))
        old_doublings -= 1
    if (old_h, old_w) != (new_h, new_w):
        network = _change_proportions(network, height, width)
    return network


def _resized_keywords(network: Any, height: int, width: int) -> dict[str, Any]:
    kwargs = {**keywords_of(network), 'img_resolution': as_resolution(height, width)}
    has_synthesis, for_stylegan3 = hasattr(network, 'synthesis'), is_stylegan3(network)
    before = synthesis_keywords(kwargs) if has_synthesis else kwargs
    base = channel_base_for(sides_of(network), (height, width), before['channel_base'], for_stylegan3)
    if has_synthesis:
        return with_synthesis_keywords(kwargs, channel_base=base)
    return {**kwargs, 'channel_base': base}


def _rebuild(network: Any, height: int, width: int) -> Any:
    """Return a network of another size with the same tensors as far as names and shapes are the same."""
    changed = construct_like(network, _resized_keywords(network, height, width), _SEED)
    copy_equal_shapes(network, changed)
    return changed


# ---------------------------------------------------------------------------------------------------------------------
# One doubling


def _grow(network: Any, height: int, width: int) -> Any:
    """Return the network with one more block, for images of twice the size."""
    changed = _rebuild(network, height, width)
    if hasattr(network, 'synthesis'):
        synthesis = changed.synthesis
        block = getattr(synthesis, f'b{synthesis.block_resolutions[-1]}')
        if block.architecture == 'skip':  # otherwise there is no image below that could be kept
            block.torgb.weight *= NUDGE
        return changed
    block = getattr(changed, f'b{changed.block_resolutions[0]}')
    below = getattr(network, f'b{network.block_resolutions[0]}')
    if block.architecture == 'skip':
        block.conv1.weight *= NUDGE
    else:
        _pass_image_on(block, below.fromrgb)
    return changed


def can_pass_image_on(block: Any) -> bool:
    """Return whether a block of a discriminator, new or not, has enough channels to be that of `_pass_image_on`."""
    return block.conv0.activation == 'lrelu' and block.conv0.in_channels // 2 >= block.img_channels


def _pass_image_on(block: Any, reader: Any) -> None:
    """Let the first block of a discriminator compute what `reader` computes from the image at half of its size.

    Pairs of channels ±x are spread over random directions A of color space and mixed by an orthogonal matrix Q, so that
    all weights have the magnitude of fresh ones. Layers scale their weights by `weight_gain` and their results by √2.
    """
    if not can_pass_image_on(block):
        return
    from_rgb, conv0, conv1 = block.fromrgb, block.conv0, block.conv1
    num_pairs = conv0.in_channels // 2
    linear = (1 + _SLOPE) * conv0.act_gain  # slope of lrelu(x) - lrelu(-x), with the gain of the layer
    A = from_rgb.weight[:num_pairs, :, 0, 0].double() * from_rgb.weight_gain  # [P, image channels]
    Q, _ = torch.linalg.qr(conv0.weight[:num_pairs, :num_pairs, 1, 1].double())  # [P, P]
    W = reader.weight[:, :, 0, 0].double() * reader.weight_gain  # [O, image channels]
    M = W @ torch.linalg.pinv(Q @ A) / linear**2  # [O, P]
    out_gain = 2**0.5 if block.architecture == 'resnet' else 1.0  # the block divides by √2; lrelu(ax) = a lrelu(x)

    used = 2 * num_pairs
    from_rgb.weight[num_pairs:used] = -from_rgb.weight[:num_pairs]
    from_rgb.bias.zero_()
    _set_center(conv0, torch.cat([torch.cat([Q, -Q], dim=1), torch.cat([-Q, Q], dim=1)]) / conv0.weight_gain)
    conv0.bias.zero_()
    _set_center(conv1, torch.cat([M, -M], dim=1) * (out_gain / conv1.weight_gain))
    conv1.bias.copy_(reader.bias * out_gain)
    if block.architecture == 'resnet':
        block.skip.weight.zero_()


def _set_center(conv: Any, matrix: torch.Tensor) -> None:
    """Set the centers [O, I] of 3×3 kernels, and the rest of these kernels to 0; new channels beyond are nudged."""
    rows, columns = matrix.shape
    conv.weight[:rows, columns:] *= NUDGE
    conv.weight[:rows, :columns] = 0
    conv.weight[:rows, :columns, 1, 1] = matrix.to(conv.weight)


# ---------------------------------------------------------------------------------------------------------------------
# Other proportions


def _change_proportions(network: Any, height: int, width: int) -> Any:
    """Return the network with the same blocks for other proportions of the lowest resolution."""
    changed = construct_like(network, _resized_keywords(network, height, width), _SEED)
    old_h, old_w, old_level, _count = _pyramid_of(*sides_of(network))
    new_h, new_w, new_level, _count = _pyramid_of(height, width)
    if hasattr(network, 'synthesis'):
        changed.mapping.load_state_dict(network.mapping.state_dict())
        old_parts, new_parts = network.synthesis, changed.synthesis
        levels = zip(old_parts.block_resolutions, new_parts.block_resolutions)
        first = getattr(new_parts, f'b{new_parts.block_resolutions[0]}')
        first.const.copy_(stretch(getattr(old_parts, f'b{old_level}').const[None], new_h, new_w)[0])
    else:
        if network.c_dim > 0:
            changed.mapping.load_state_dict(network.mapping.state_dict())
        old_parts, new_parts = network, changed
        levels = zip([*network.block_resolutions, 4], [*changed.block_resolutions, 4])
        _stretch_fully_connected(network.b4.fc, changed.b4.fc, (old_h, old_w), (new_h, new_w))
    for old_name, new_name in levels:
        _copy_block(getattr(old_parts, f'b{old_name}'), getattr(new_parts, f'b{new_name}'))
    return changed


def _copy_block(old: torch.nn.Module, new: torch.nn.Module) -> None:
    tensors = {**dict(old.named_parameters()), **dict(old.named_buffers())}
    for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
        source = tensors.get(name)
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
        elif source is not None and name.endswith('noise_const'):
            noise = stretch(source[None, None], *tensor.shape)[0, 0]
            tensor.copy_((noise - noise.mean()) / noise.std())


def _stretch_fully_connected(old: Any, new: Any, old_sides: tuple[int, int], new_sides: tuple[int, int]) -> None:
    """Set the weight [O, C·h·w] to the old one applied to maps that are resampled to the old size."""
    pixels = new_sides[0] * new_sides[1]
    impulses = torch.eye(pixels).reshape(pixels, 1, *new_sides)
    R = stretch(impulses, *old_sides).flatten(1)  # [new pixels, old pixels]
    weight = old.weight.unflatten(1, [-1, old_sides[0] * old_sides[1]])  # [O, C, old pixels]
    new.weight.copy_((weight @ R.t()).flatten(1) * (old.weight_gain / new.weight_gain))
    new.bias.copy_(old.bias)


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN3


def _change_stylegan3(G: Any, height: int, width: int) -> Any:
    """Return the generator with the bands of another size and the same weights.

    The middle of a kernel of 3×3 samples has the same meaning at any sampling rate, and so has a kernel of one sample.
    """
    changed = construct_like(G, _resized_keywords(G, height, width), _SEED)
    widen_into(G, changed)
    return changed
