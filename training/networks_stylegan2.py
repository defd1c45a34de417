"""The networks of StyleGAN2 (Karras et al., arXiv 1912.04958): conditional, mixed precision, images of any shape.

`Generator` = `MappingNetwork` (z, c → w) + `SynthesisNetwork` (w → image, one `SynthesisBlock` per resolution);
`Discriminator` = one `DiscriminatorBlock` per resolution + `DiscriminatorEpilogue`.

This file is long because network pickles embed its source, so that it has to be self-contained: it imports only the
names that old pickles rely on. It reads in parts: resolutions, modulated convolution, layers, generator, discriminator.

Shapes: N batch, C channels, H W height and width, O output and I input channels of a weight, L number of w vectors that
a generator takes (`num_ws`).

A resolution is one number for square maps, and [height, width] for others. Blocks are named by their level, a power of
two. In a square network whose size is a power of two, the level is the resolution; in any other network, it is the
level of the square network's block that has about as many pixels. So `b64` means the same number of channels in all
networks. The last block of every discriminator is `b4`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d

if TYPE_CHECKING:  # published code may run this source with a Python that does not know such types
    Resolution = int | Sequence[int]

SQRT_HALF = float(np.sqrt(0.5))


# ---------------------------------------------------------------------------------------------------------------------
# Resolutions and levels


def _channels_at(level: int, channel_base: int, channel_max: int) -> int:
    return min(channel_base // level, channel_max)


def _sides(resolution: Resolution) -> tuple[int, int]:
    """Return the height and width of a resolution."""
    height, width = (resolution, resolution) if isinstance(resolution, (int, np.integer)) else resolution
    return int(height), int(width)


def _as_resolution(height: int, width: int) -> Resolution:
    return height if height == width else [height, width]


def _level_of(height: int, width: int) -> int:
    """Return the power of two nearest, in its logarithm, to the side of a square with as many pixels."""
    return 2 ** (((2 * height * width).bit_length() - 1) // 2)


def _pyramid(img_resolution: Resolution) -> dict[int, Resolution]:
    """Return the resolution of each level of a network, lowest level first.

    The lowest resolution is that of the image, halved as long as both sides are even and the result has at least 8
    pixels and at least 2 on each side: 4x4 for powers of two, 3x3 for 48x48, 4x6 for 64x96.

    Raises:
        ValueError: A network cannot have this resolution.
    """
    height, width = _sides(img_resolution)
    if min(height, width) < 4:
        raise ValueError(f'img_resolution={img_resolution}: both sides must be at least 4')
    num_doublings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 4 and height * width >= 32:
        height, width, num_doublings = height // 2, width // 2, num_doublings + 1
    if max(height, width) > 8:
        raise ValueError(f'img_resolution={img_resolution}: both sides must be 2 to 8 times the same power of two')
    first = _level_of(height, width)
    return {first * 2**i: _as_resolution(height * 2**i, width * 2**i) for i in range(num_doublings + 1)}


def _first_fp16_level(top_level_log2: int, num_fp16_res: int) -> int:
    """Return the lowest level that may compute in float16, which is never below 8."""
    return max(2 ** (top_level_log2 + 1 - num_fp16_res), 8)


def _block_format(
    weight: torch.Tensor,
    half_dtype: torch.dtype | None,
    block: torch.nn.Module,
    batch_size: int,
    resolution: Resolution,
) -> tuple[torch.dtype, torch.memory_format]:
    """Return the dtype and memory format that a block computes in.

    The dtype is that of its weights, or `half_dtype` if there is one and the block is on CUDA or, to be exported, has
    `half_on_cpu`. On the CPU, convolutions are faster in channels-last format, forward and backward, except for few
    pixels: PyTorch converts the weights to the format of the maps before each convolution, and then the weights are the
    larger part.
    """
    if weight.device.type != 'cuda' and not getattr(block, 'half_on_cpu', False):
        half_dtype = None
    pixels_together = half_dtype is not None and bool(block.channels_last)
    if weight.device.type == 'cpu':
        # When a network is traced or exported for any batch size, the size is a symbol.
        images = batch_size if isinstance(batch_size, int) else 1
        height, width = _sides(resolution)
        pixels_together = images * height * width >= 256
    return (
        half_dtype or weight.dtype,
        torch.channels_last if pixels_together else torch.contiguous_format,
    )


def _check_map(x: torch.Tensor, channels: int, resolution: Resolution, down: int = 1) -> None:
    """Check that `x` is [N, channels, H, W] with the resolution divided by `down`."""
    height, width = _sides(resolution)
    misc.assert_shape(x, [None, channels, height // down, width // down])


# ---------------------------------------------------------------------------------------------------------------------
# Initialization and normalization


def _conv_weight(out_channels: int, in_channels: int, kernel_size: int, channels_last: bool) -> torch.Tensor:
    """Return a random weight [O, I, k, k] of unit variance, which layers scale by `_he_gain` at run time."""
    weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
    return weight.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _he_gain(fan_in: int) -> float:
    """Return the scale of a weight that preserves the variance of a layer's input (arXiv 1502.01852)."""
    return float(1 / np.sqrt(fan_in))


def _add_weights(layer: torch.nn.Module, weight: torch.Tensor, bias: torch.Tensor | None, trainable: bool) -> None:
    """Give a layer its `weight` and `bias`: as parameters, or as buffers if they are not trained."""
    for name, tensor in dict(weight=weight, bias=bias).items():
        if tensor is None:
            setattr(layer, name, None)
        elif trainable:
            layer.register_parameter(name, torch.nn.Parameter(tensor))
        else:
            layer.register_buffer(name, tensor)


def normalize_2nd_moment(x: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    """Scale `x` to a mean square of one along `dim`."""
    mean_square = x.square().mean(dim=dim, keepdim=True)
    return x * torch.rsqrt(mean_square + eps)


# ---------------------------------------------------------------------------------------------------------------------
# Modulated convolution


@misc.profiled_function
def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    *,
    up: int = 1,
    down: int = 1,
    resample_filter: torch.Tensor | None = None,
    padding: int = 0,
    flip_weight: bool = True,
    demodulate: bool = True,
    noise: torch.Tensor | None = None,
    fused_modconv: bool = True,
) -> torch.Tensor:
    """Convolve with weights that are scaled by a style of each sample (arXiv 1912.04958, section 2.2).

    Args:
        x: [N, I, H, W], float16 or float32.
        weight: [O, I, kh, kw].
        styles: [N, I].
        up: Integer upsampling factor.
        down: Integer downsampling factor.
        resample_filter: Filter for both, of `upfirdn2d.setup_filter`.
        padding: Padding relative to the upsampled image.
        flip_weight: False: convolution; True: correlation, as in `torch.nn.functional.conv2d`.
        demodulate: Normalize each output channel.
        noise: Added to the result, broadcast to [N, O, H', W'].
        fused_modconv: Use one grouped convolution with separate weights for each sample, instead of scaling the
            activations before and after a common one. The results are the same.

    Returns:
        [N, O, H', W'], in the dtype of `x`.
    """
    batch_size = x.shape[0]
    misc.assert_shape(x, [batch_size, weight.shape[1], None, None])
    misc.assert_shape(styles, [batch_size, weight.shape[1]])
    if demodulate and x.dtype == torch.float16:
        weight, styles = _limit_to_half_range(weight, styles)
    geometry = dict(f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight)
    conv = _Conv(demodulate, noise, geometry)
    if not fused_modconv:
        return _modulate_activations(x, weight, styles, conv)
    return (_modulate_single_weight if _is_single(batch_size) else _modulate_weights)(x, weight, styles, conv)


def _is_symbol(size: Any) -> bool:
    """Return whether a size is a symbol of `torch.export`, which stands for any number."""
    return not isinstance(size, (int, torch.Tensor))  # `torch.jit.trace` has tensors


def _is_single(batch_size: Any) -> bool:
    """Return whether a batch has one sample, and not any number of them."""
    if _is_symbol(batch_size):
        return False
    with misc.suppress_tracer_warnings():
        return int(batch_size) == 1


def _fused_layer(*tensors: torch.Tensor | None, **options: Any) -> torch.Tensor | None:
    """Compute a whole layer by one operator, with the arguments of `modulated_conv2d` and `bias_act`.

    Return None if it does not apply to them, or does not exist: the published code does not have it.
    """
    modulated_layer = getattr(conv2d_resample, 'modulated_layer', None)
    return None if modulated_layer is None else modulated_layer(*tensors, **options)


class _Conv(NamedTuple):
    """What a modulated convolution does besides modulating."""

    demodulate: bool
    noise: torch.Tensor | None
    geometry: dict[str, Any]  # arguments of `conv2d_resample`


def _limit_to_half_range(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale weight and styles to at most one, so that sums in float16 stay finite. Demodulation cancels the scale."""
    fan_in = weight[0].numel()
    peak = weight.abs().amax(dim=[1, 2, 3], keepdim=True)  # [O, 1, 1, 1]
    return weight / (peak * np.sqrt(fan_in)), styles / styles.abs().amax(dim=1, keepdim=True)


def _demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Return the factors [N, O] that give each output channel of each sample unit expected variance.

    The sum over the kernel commutes with the style (arXiv 1912.04958, eq. 3), so the weights of the individual samples
    are not needed: s² [N, I] times Σ_k w² [I, O].
    """
    energy = weight.square().sum(dim=[2, 3])  # [O, I]
    return torch.rsqrt(styles.square() @ energy.t() + 1e-8)  # [N, O]


def _modulate_activations(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, conv: _Conv) -> torch.Tensor:
    """Scale the activations before and after a convolution that all samples share."""
    demodulate, noise, geometry = conv
    coefs = _demodulation(weight, styles) if demodulate else None  # [N, O]
    kernel_h, kernel_w = weight.shape[2:]
    sizes = (kernel_h, kernel_w, geometry['up'], geometry['down'], geometry['padding'])
    if x.device.type == 'cpu' and sizes == (1, 1, 1, 1, 0):
        x = _pointwise_product(x, weight, styles, coefs)
        return x if noise is None else x + noise.to(x.dtype)
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample.conv2d_resample(x=x, w=weight.to(x.dtype), **geometry)
    if coefs is None:
        return x if noise is None else x + noise.to(x.dtype)
    coefs = coefs.to(x.dtype)[:, :, None, None]
    return x * coefs if noise is None else fma.fma(x, coefs, noise.to(x.dtype))


def _pointwise_product(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, coefs: torch.Tensor | None
) -> torch.Tensor:
    """Compute a modulated 1×1 convolution as a matrix product of each sample, which reads the activations only once.

    Args:
        x: [N, I, H, W], preferably in channels-last format.
        weight: [O, I, 1, 1].
        styles: [N, I].
        coefs: [N, O], or None.

    Returns:
        [N, O, H, W].
    """
    batch_size, in_channels, height, width = x.shape
    per_sample = weight[None, :, :, 0, 0] * styles[:, None, :]  # [N, O, I]
    if coefs is not None:
        per_sample = per_sample * coefs[:, :, None]
    pixels = x.permute(0, 2, 3, 1).reshape(batch_size, height * width, in_channels)
    x = pixels @ per_sample.to(x.dtype).mT  # [N, HW, O]
    return x.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)


def _modulate_weights(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, conv: _Conv) -> torch.Tensor:
    """Convolve each sample with its own weight, as the groups of one convolution."""
    demodulate, noise, geometry = conv
    with misc.suppress_tracer_warnings():
        groups = int(x.shape[0])
    out_channels, in_channels, kernel_h, kernel_w = weight.shape
    per_sample = weight * styles[:, None, :, None, None]  # [N, O, I, kh, kw]
    if demodulate:
        per_sample = per_sample * _demodulation(weight, styles)[:, :, None, None, None]
    x = x.reshape(1, groups * in_channels, *x.shape[2:])
    per_sample = per_sample.reshape(groups * out_channels, in_channels, kernel_h, kernel_w)
    x = conv2d_resample.conv2d_resample(x=x, w=per_sample.to(x.dtype), groups=groups, **geometry)
    x = x.reshape(groups, out_channels, *x.shape[2:])
    return x if noise is None else x.add_(noise.to(x.dtype))


def _modulate_single_weight(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, conv: _Conv) -> torch.Tensor:
    """Convolve a single sample with its own weight: x [1, I, H, W] → [1, O, H', W'].

    Without groups or reshaping, which would hide from the convolution that its input is in channels-last format. On
    the CPU, the result is demodulated instead of the weight if it has fewer elements.
    """
    demodulate, noise, geometry = conv
    weight = weight * styles[0, :, None, None]  # [O, I, kh, kw]
    coefs = None
    if demodulate:  # A sum over adjacent elements is faster than `_demodulation`.
        coefs = torch.rsqrt(weight.flatten(1).square().sum(dim=1) + 1e-8)  # [O]
    with misc.suppress_tracer_warnings():
        few_pixels = (
            x.device.type == 'cpu'
            and int(x.shape[2] * x.shape[3]) * (geometry['up'] / geometry['down']) ** 2 < weight[0].numel()
        )
    if coefs is not None and not few_pixels:
        weight, coefs = weight * coefs[:, None, None, None], None
    x = conv2d_resample.conv2d_resample(x=x, w=weight.to(x.dtype), **geometry)
    if coefs is None:
        return x if noise is None else x.add_(noise.to(x.dtype))
    coefs = coefs.to(x.dtype)[:, None, None]
    return x * coefs if noise is None else fma.fma(x, coefs[None], noise.to(x.dtype))


# ---------------------------------------------------------------------------------------------------------------------
# Layers


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Fully connected layer with equalized learning rate: [N, in_features] → [N, out_features].

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
        bias: Whether to add a bias.
        activation: Name in `bias_act.activation_funcs`.
        lr_multiplier: Learning rate relative to that of other layers.
        bias_init: Initial value of the bias.
        trainable: False keeps weight and bias as buffers of the same names.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = 'linear',
        lr_multiplier: float = 1,
        bias_init: float = 0,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        weight = torch.randn(out_features, in_features) / lr_multiplier
        _add_weights(self, weight, torch.full([out_features], float(bias_init)) if bias else None, trainable)
        self.weight_gain = lr_multiplier * _he_gain(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, x = self.weight.to(x.dtype), x * self.weight_gain  # `x` has fewer elements to scale
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if bias is not None and self.bias_gain != 1:
            bias = bias * self.bias_gain
        if self.activation == 'linear':
            return torch.nn.functional.linear(x, weight, bias)
        return bias_act.bias_act(x @ weight.t(), bias, act=self.activation)

    def extra_repr(self) -> str:
        return f'in_features={self.in_features}, out_features={self.out_features}, activation={self.activation}'


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """Convolution with equalized learning rate, resampling, bias and activation.

    [N, in_channels, H, W] → [N, out_channels, H·up/down, W·up/down].

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        kernel_size: Width and height of the kernel.
        bias: Whether to add a bias.
        activation: Name in `bias_act.activation_funcs`.
        up: Integer upsampling factor.
        down: Integer downsampling factor.
        resample_filter: Low-pass filter for both.
        conv_clamp: Largest magnitude of the output. None: no limit.
        channels_last: Memory format of the weight.
        trainable: False keeps weight and bias as buffers of the same names.
    """

    resample_filter: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = 'linear',
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        channels_last: bool = False,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.up, self.down = up, down
        self.in_channels, self.out_channels = in_channels, out_channels
        self.padding = kernel_size // 2
        self.activation = activation
        self.act_gain = float(bias_act.activation_funcs[activation].def_gain)
        self.weight_gain = _he_gain(in_channels * kernel_size**2)
        self.conv_clamp = conv_clamp
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

        weight = _conv_weight(out_channels, in_channels, kernel_size, channels_last)
        _add_weights(self, weight, torch.zeros(out_channels) if bias else None, trainable)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        x = conv2d_resample.conv2d_resample(
            x=x,
            w=weight,
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=(self.up == 1),  # upsampling uses a transposed convolution, which flips the weight itself
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act.bias_act(x, bias, act=self.activation, gain=self.act_gain * gain, clamp=clamp)

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, out_channels={self.out_channels}, '
            f'activation={self.activation}, up={self.up}, down={self.down}'
        )


# ---------------------------------------------------------------------------------------------------------------------
# Generator


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """Map latents z and labels c to intermediate latents w.

    Args:
        z_dim: Size of z. 0: no latent.
        c_dim: Size of the label. 0: no label.
        w_dim: Size of w.
        num_ws: Number of times that w is repeated. None: w has no such dimension.
        num_layers: Number of fully connected layers.
        activation: Name in `bias_act.activation_funcs`.
        lr_multiplier: Learning rate relative to that of the other networks.
        embed_features: Size of the embedding of the label. None: `w_dim`.
        layer_features: Size between layers. None: `w_dim`.
        w_avg_beta: Decay of the running mean of w in training mode. None: no running mean.
        freeze_layers: Number of fully connected layers, from the first on, that are not trained.
        freeze_embed: Do not train the embedding of the label.
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        activation: str = 'lrelu',
        lr_multiplier: float = 0.01,
        embed_features: int | None = None,
        layer_features: int | None = None,
        w_avg_beta: float | None = 0.995,
        freeze_layers: int = 0,
        freeze_embed: bool = False,
    ) -> None:
        super().__init__()
        self.num_ws, self.w_dim = num_ws, w_dim
        self.z_dim, self.c_dim = z_dim, c_dim
        self.w_avg_beta = w_avg_beta
        self.num_layers = num_layers

        embed_features = w_dim if embed_features is None else embed_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features, trainable=not freeze_embed)
        hidden = w_dim if layer_features is None else layer_features
        sizes = [z_dim + (embed_features if c_dim > 0 else 0)] + [hidden] * (num_layers - 1) + [w_dim]
        for index, (size_in, size_out) in enumerate(zip(sizes[:num_layers], sizes[1:])):
            options: dict[str, Any] = dict(lr_multiplier=lr_multiplier, trainable=index >= freeze_layers)
            setattr(self, f'fc{index}', FullyConnectedLayer(size_in, size_out, activation=activation, **options))
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer('w_avg', torch.zeros(w_dim))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Compute intermediate latents.

        Args:
            z: [N, z_dim]; ignored if `z_dim` is 0.
            c: [N, c_dim]; ignored if `c_dim` is 0.
            truncation_psi: Distance from the mean of w, as a fraction of the original: 1 keeps w, 0 gives the mean.
            truncation_cutoff: Number of vectors to truncate, from the first on. None: all.
            skip_w_avg_update: Do not update the running mean in training mode.
            update_emas: Update it, in any mode, as the code of StyleGAN3 requests it.

        Returns:
            [N, L, w_dim], or [N, w_dim] if `num_ws` is None.
        """
        w = self._transform(z, c)  # [N, w_dim]
        is_due = update_emas or (self.training and not skip_w_avg_update)
        if is_due and self.w_avg_beta is not None:
            batch_mean = w.detach().mean(dim=0)
            self.w_avg.copy_(batch_mean.lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return w if truncation_psi == 1 else self.w_avg.lerp(w, truncation_psi)

        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)  # [N, L, w_dim]
        if truncation_psi != 1:
            if self.w_avg_beta is None:
                raise ValueError(f'truncation_psi={truncation_psi}: this network has no mean of w, so it must be 1')
            kept = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws = torch.cat([self.w_avg.lerp(ws[:, :kept], truncation_psi), ws[:, kept:]], dim=1)
        return ws

    def _transform(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        """Return w [N, w_dim] without truncation."""
        inputs = []
        tensors = (*self.parameters(), *self.buffers())
        dtype = tensors[0].dtype if tensors else torch.float32
        with torch.autograd.profiler.record_function('input'):
            if self.z_dim > 0:
                assert z is not None
                misc.assert_shape(z, [None, self.z_dim])
                inputs.append(normalize_2nd_moment(z.to(dtype)))
            if self.c_dim > 0:
                assert c is not None
                misc.assert_shape(c, [None, self.c_dim])
                inputs.append(normalize_2nd_moment(self.embed(c.to(dtype))))
        x = torch.cat(inputs, dim=1)
        for index in range(self.num_layers):
            x = getattr(self, f'fc{index}')(x)
        return x

    def extra_repr(self) -> str:
        return f'z_dim={self.z_dim}, c_dim={self.c_dim}, w_dim={self.w_dim}, num_ws={self.num_ws}'


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Modulated convolution, noise, bias and activation.

    [N, in_channels, H/up, W/up], w [N, w_dim] → [N, out_channels, H, W], where H and W are those of `resolution`.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        w_dim: Size of w.
        resolution: Resolution of the output.
        kernel_size: Width and height of the kernel.
        up: Integer upsampling factor.
        use_noise: Whether to add noise.
        activation: Name in `bias_act.activation_funcs`.
        resample_filter: Low-pass filter for upsampling.
        conv_clamp: Largest magnitude of the output. None: no limit.
        channels_last: Memory format of the weight.
    """

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: Resolution,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = 'lrelu',
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.w_dim, self.in_channels, self.out_channels = w_dim, in_channels, out_channels
        self.resolution, self.up = resolution, up
        self.padding = kernel_size // 2
        self.use_noise = use_noise
        self.conv_clamp = conv_clamp
        self.activation = activation
        self.act_gain = float(bias_act.activation_funcs[activation].def_gain)
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(_conv_weight(out_channels, in_channels, kernel_size, channels_last))
        if use_noise:
            self.register_buffer('noise_const', torch.randn(*_sides(resolution)))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def _noise(self, batch_size: int, noise_mode: str, device: torch.device) -> torch.Tensor | None:
        if noise_mode not in ('random', 'const', 'none'):
            raise ValueError(f"noise_mode={noise_mode!r}: must be 'random', 'const' or 'none'")
        if not self.use_noise or noise_mode == 'none':
            return None
        if noise_mode == 'const':
            return self.noise_const * self.noise_strength  # [H, W]
        shape = [batch_size, 1, *_sides(self.resolution)]
        return torch.randn(shape, device=device) * self.noise_strength  # [N, 1, H, W]

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise_mode: str = 'random',
        fused_modconv: bool = True,
        gain: float = 1,
    ) -> torch.Tensor:
        _check_map(x, self.in_channels, self.resolution, down=self.up)
        styles, noise = self.affine(w), self._noise(x.shape[0], noise_mode, x.device)
        geometry: dict[str, Any] = dict(
            up=self.up, padding=self.padding, resample_filter=self.resample_filter, flip_weight=(self.up == 1)
        )
        bias = self.bias.to(x.dtype)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        activation: dict[str, Any] = dict(act=self.activation, gain=self.act_gain * gain, clamp=clamp)
        y = _fused_layer(x, self.weight, styles, noise, bias, **geometry, **activation)
        if y is not None:
            return y
        x = modulated_conv2d(x, self.weight, styles, noise=noise, fused_modconv=fused_modconv, **geometry)
        return bias_act.bias_act(x, bias, **activation)

    def extra_repr(self) -> str:
        return (
            f'in_channels={self.in_channels}, out_channels={self.out_channels}, w_dim={self.w_dim}, '
            f'resolution={self.resolution}, up={self.up}, activation={self.activation}'
        )


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Modulated convolution to image channels, without demodulation.

    [N, in_channels, H, W], w [N, w_dim] → [N, out_channels, H, W].

    Args:
        in_channels: Number of input channels.
        out_channels: Number of image channels.
        w_dim: Size of w.
        kernel_size: Width and height of the kernel.
        conv_clamp: Largest magnitude of the output. None: no limit.
        channels_last: Memory format of the weight.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.w_dim, self.in_channels, self.out_channels = w_dim, in_channels, out_channels
        self.weight_gain = _he_gain(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(_conv_weight(out_channels, in_channels, kernel_size, channels_last))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor, fused_modconv: bool = True) -> torch.Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(
            x=x, weight=self.weight, styles=styles, padding=self.padding, demodulate=False, fused_modconv=fused_modconv
        )
        return bias_act.bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)

    def extra_repr(self) -> str:
        return f'in_channels={self.in_channels}, out_channels={self.out_channels}, w_dim={self.w_dim}'


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    """The layers of one resolution, which double the size, except in the first block.

    The block takes `num_conv + num_torgb` vectors w.

    Args:
        in_channels: Number of input channels, 0 in the first block.
        out_channels: Number of output channels.
        w_dim: Size of w.
        resolution: Resolution of the output.
        img_channels: Number of image channels.
        is_last: Whether this is the last block.
        architecture: 'orig', 'skip' or 'resnet'.
        resample_filter: Low-pass filter for upsampling.
        conv_clamp: Largest magnitude of the activations. None: no limit.
        use_fp16: Whether to compute in float16 on CUDA.
        fp16_channels_last: Whether float16 activations are in channels-last format.
        **layer_kwargs: Arguments of `SynthesisLayer`.
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,  # 0 in the first block
        out_channels: int,
        w_dim: int,
        resolution: Resolution,
        img_channels: int,
        is_last: bool,
        architecture: str = 'skip',
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        if architecture not in ('orig', 'skip', 'resnet'):
            raise ValueError(f"architecture={architecture!r}: must be 'orig', 'skip' or 'resnet'")
        self.architecture, self.resolution, self.is_last = architecture, resolution, is_last
        self.in_channels, self.img_channels, self.w_dim = in_channels, img_channels, w_dim
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == 'skip')
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

        shared: dict[str, Any] = dict(w_dim=w_dim, conv_clamp=conv_clamp, channels_last=self.channels_last)
        layer: dict[str, Any] = dict(shared, resolution=resolution, **layer_kwargs)
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn(out_channels, *_sides(resolution)))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, resample_filter=resample_filter, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, **shared)
        if in_channels != 0 and architecture == 'resnet':
            self.skip = Conv2dLayer(
                in_channels,
                out_channels,
                kernel_size=1,
                up=2,
                bias=False,
                channels_last=self.channels_last,
                resample_filter=resample_filter,
            )

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        **layer_kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the activations and the image of this resolution.

        Args:
            x: [N, in_channels, H/2, W/2]; None in the first block.
            img: [N, img_channels, H/2, W/2] sum of the ToRGB layers so far, or None.
            ws: [N, num_conv + num_torgb, w_dim].
            force_fp32: Do not compute in float16.
            fused_modconv: See `modulated_conv2d`. None: choose the faster way in evaluation mode, False in training.
            **layer_kwargs: Arguments of `SynthesisLayer.forward`.

        Returns:
            `x` [N, out_channels, H, W] and `img` [N, img_channels, H, W] or None.
        """
        misc.assert_shape(ws, [None, self.num_conv + self.num_torgb, self.w_dim])
        w_iter = iter(ws.unbind(dim=1))
        # Training may have chosen another type for this module (bfloat16).
        half_dtype = getattr(self, 'half_dtype', torch.float16) if self.use_fp16 and not force_fp32 else None
        dtype, memory_format = _block_format(self.conv1.weight, half_dtype, self, ws.shape[0], self.resolution)
        if fused_modconv is None:
            # Grouped convolutions are slow on the CPU and in half precision; a single image does not need groups.
            can_group = ws.device.type != 'cpu' and not _is_symbol(ws.shape[0])
            has_fast_groups = can_group and dtype == self.conv1.weight.dtype
            fused_modconv = not self.training and (_is_single(ws.shape[0]) or has_fast_groups)
        options = dict(layer_kwargs, fused_modconv=fused_modconv)

        if self.in_channels == 0:
            x = self.const.to(dtype).unsqueeze(0).repeat(ws.shape[0], 1, 1, 1)  # [N, C, H, W]
            x = x.contiguous(memory_format=memory_format)
            x = self.conv1(x, next(w_iter), **options)
        else:
            assert x is not None
            _check_map(x, self.in_channels, self.resolution, down=2)
            x = self._convolve(x.to(dtype=dtype, memory_format=memory_format), w_iter, options)

        if img is not None:
            _check_map(img, self.img_channels, self.resolution, down=2)
            img = upfirdn2d.upsample2d(img, self.resample_filter)  # [N, C, H, W]
        if self.num_torgb:
            rgb = self.torgb(x, next(w_iter), fused_modconv=fused_modconv)
            rgb = rgb.to(dtype=ws.dtype, memory_format=torch.contiguous_format)
            img = rgb if img is None else img + rgb
        return x, img

    def _convolve(self, x: torch.Tensor, w_iter: Iterator[torch.Tensor], options: dict[str, Any]) -> torch.Tensor:
        """Apply both convolutions: [N, in_channels, H/2, W/2] → [N, out_channels, H, W]."""
        if self.architecture == 'resnet':
            shortcut = self.skip(x, gain=SQRT_HALF)  # [N, C, H, W]
            x = self.conv0(x, next(w_iter), **options)
            return self.conv1(x, next(w_iter), gain=SQRT_HALF, **options) + shortcut
        x = self.conv0(x, next(w_iter), **options)
        return self.conv1(x, next(w_iter), **options)

    def extra_repr(self) -> str:
        return f'resolution={self.resolution}, architecture={self.architecture}'


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """Synthesize images from intermediate latents: [N, L, w_dim] → [N, img_channels, H, W], float32.

    Args:
        w_dim: Size of w.
        img_resolution: Height and width of the images, or one number if they are equal (see `_pyramid`).
        img_channels: Number of image channels.
        channel_base: A layer of level r has min(channel_base / r, channel_max) channels.
        channel_max: See `channel_base`.
        num_fp16_res: Number of the highest levels that compute in float16 on CUDA.
        **block_kwargs: Arguments of `SynthesisBlock`.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: Resolution,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        pyramid = _pyramid(img_resolution)
        self.block_resolutions = list(pyramid)  # levels
        self.img_resolution_log2 = self.block_resolutions[-1].bit_length() - 1
        self.img_resolution, self.img_channels, self.w_dim = pyramid[max(pyramid)], img_channels, w_dim
        self.num_fp16_res = num_fp16_res
        fp16_from = _first_fp16_level(self.img_resolution_log2, num_fp16_res)

        self.num_ws = 0
        in_channels = 0
        for level, resolution in pyramid.items():
            out_channels = _channels_at(level, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=(level == max(pyramid)),
                use_fp16=(num_fp16_res > 0 and level >= fp16_from),
                **block_kwargs,
            )
            setattr(self, f'b{level}', block)
            self.num_ws += block.num_conv
            in_channels = out_channels
        self.num_ws += block.num_torgb

    def forward(self, ws: torch.Tensor, update_emas: bool = False, **block_kwargs: Any) -> torch.Tensor:
        """Synthesize images.

        Args:
            ws: [N, L, w_dim].
            update_emas: Ignored: these layers have no running means. Callers may pass what StyleGAN3 needs.
            **block_kwargs: Further arguments of `SynthesisBlock.forward`.

        Returns:
            [N, img_channels, H, W] images.
        """
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        blocks = [getattr(self, f'b{level}') for level in self.block_resolutions]
        ws = ws.to(blocks[0].const.dtype)
        x: torch.Tensor | None = None
        img: torch.Tensor | None = None
        first = 0
        for block in blocks:
            # The ToRGB layer of a block shares its w with the first convolution of the next block.
            block_ws = ws[:, first : first + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, **block_kwargs)
            first += block.num_conv
        assert img is not None
        return img

    def extra_repr(self) -> str:
        return (
            f'w_dim={self.w_dim}, num_ws={self.num_ws}, img_resolution={self.img_resolution}, '
            f'img_channels={self.img_channels}, num_fp16_res={self.num_fp16_res}'
        )


@persistence.persistent_class
class Generator(torch.nn.Module):
    """Generate images: z [N, z_dim], c [N, c_dim] → [N, img_channels, H, W], float32, mostly in [-1, +1].

    Args:
        z_dim: Size of the latents.
        c_dim: Size of the labels. 0: unconditional.
        w_dim: Size of the intermediate latents.
        img_resolution: Height and width of the images, or one number if they are equal (see `_pyramid`).
        img_channels: 1 for grayscale, 3 for RGB, 2 and 4 for these with alpha.
        mapping_kwargs: Further arguments of `MappingNetwork`.
        synthesis_kwargs: Further arguments of `SynthesisNetwork`.
        **more_synthesis_kwargs: The same, as the code published after StyleGAN2-ADA passes them.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: Resolution,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
        **more_synthesis_kwargs: Any,
    ) -> None:
        super().__init__()
        synthesis_kwargs = {**(synthesis_kwargs or {}), **more_synthesis_kwargs}
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.img_resolution, self.img_channels = self.synthesis.img_resolution, img_channels
        self.num_ws = self.synthesis.num_ws
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        **synthesis_kwargs: Any,
    ) -> torch.Tensor:
        """Generate images.

        Args:
            z: [N, z_dim] latents.
            c: [N, c_dim] labels.
            truncation_psi: See `MappingNetwork.forward`.
            truncation_cutoff: See `MappingNetwork.forward`.
            update_emas: See `MappingNetwork.forward`.
            **synthesis_kwargs: Arguments of `SynthesisBlock.forward` and `SynthesisLayer.forward`. `noise_mode` is
                'random' (the default), 'const' (fixed noise that belongs to the network) or 'none'.

        Returns:
            [N, img_channels, H, W] images.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas=update_emas)
        return self.synthesis(ws, **synthesis_kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Discriminator


@persistence.persistent_class
class DiscriminatorBlock(torch.nn.Module):
    """The `num_layers` layers of one resolution, which halve the size.

    Args:
        in_channels: Number of input channels, 0 in the first block.
        tmp_channels: Number of channels between the convolutions.
        out_channels: Number of output channels.
        resolution: Resolution of the input.
        img_channels: Number of image channels.
        first_layer_idx: Number of layers in the blocks before this one.
        architecture: 'orig', 'skip' or 'resnet'.
        activation: Name in `bias_act.activation_funcs`.
        resample_filter: Low-pass filter for downsampling.
        conv_clamp: Largest magnitude of the activations. None: no limit.
        use_fp16: Whether to compute in float16 on CUDA.
        fp16_channels_last: Whether float16 activations are in channels-last format.
        freeze_layers: Number of layers of the whole network, from the first on, that are not trained (arXiv
            2002.10964, Freeze-D).
    """

    fromrgb: Conv2dLayer
    conv0: Conv2dLayer
    conv1: Conv2dLayer
    skip: Conv2dLayer
    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: Resolution,
        img_channels: int,
        first_layer_idx: int,
        architecture: str = 'resnet',
        activation: str = 'lrelu',
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
    ) -> None:
        super().__init__()
        if in_channels not in (0, tmp_channels):
            raise ValueError(f'in_channels={in_channels}: must be 0 or tmp_channels={tmp_channels}')
        if architecture not in ('orig', 'skip', 'resnet'):
            raise ValueError(f"architecture={architecture!r}: must be 'orig', 'skip' or 'resnet'")
        self.architecture, self.resolution = architecture, resolution
        self.in_channels, self.img_channels = in_channels, img_channels
        self.first_layer_idx = first_layer_idx
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_layers = 0
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

        def add_layer(name: str, num_in: int, num_out: int, kernel_size: int, **kwargs: Any) -> None:
            is_trainable = first_layer_idx + self.num_layers >= freeze_layers
            options = dict(trainable=is_trainable, channels_last=self.channels_last, **kwargs)
            setattr(self, name, Conv2dLayer(num_in, num_out, kernel_size, **options))
            self.num_layers += 1

        active: dict[str, Any] = dict(activation=activation, conv_clamp=conv_clamp)
        if in_channels == 0 or architecture == 'skip':
            add_layer('fromrgb', img_channels, tmp_channels, 1, **active)
        add_layer('conv0', tmp_channels, tmp_channels, 3, **active)
        add_layer('conv1', tmp_channels, out_channels, 3, down=2, resample_filter=resample_filter, **active)
        if architecture == 'resnet':
            add_layer('skip', tmp_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Process the activations and the image of this resolution.

        Args:
            x: [N, in_channels, H, W]; None in the first block.
            img: [N, img_channels, H, W], or None if the block does not use it.
            force_fp32: Do not compute in float16.

        Returns:
            `x` [N, out_channels, H/2, W/2], and `img` of the same size or None.
        """
        first_input = img if x is None else x
        assert first_input is not None
        # Training may have chosen another type for this module (bfloat16).
        half_dtype = getattr(self, 'half_dtype', torch.float16) if self.use_fp16 and not force_fp32 else None
        dtype, memory_format = _block_format(self.conv1.weight, half_dtype, self, first_input.shape[0], self.resolution)
        if x is not None:
            _check_map(x, self.in_channels, self.resolution)
            x = x.to(dtype=dtype, memory_format=memory_format)

        if self.in_channels == 0 or self.architecture == 'skip':
            assert img is not None
            _check_map(img, self.img_channels, self.resolution)
            img = img.to(dtype=dtype, memory_format=memory_format)
            features = self.fromrgb(img)
            x = features if x is None else x + features  # [N, tmp, H, W]
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == 'skip' else None

        if self.architecture == 'resnet':
            shortcut = self.skip(x, gain=SQRT_HALF)  # [N, out, H/2, W/2]
            x = self.conv1(self.conv0(x), gain=SQRT_HALF) + shortcut
        else:
            x = self.conv1(self.conv0(x))
        return x, img

    def extra_repr(self) -> str:
        return f'resolution={self.resolution}, architecture={self.architecture}'


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Append the standard deviation over groups of samples as channels (arXiv 1710.10196, section 3).

    [N, C, H, W] → [N, C + num_channels, H, W]. Sample n belongs to group n mod (N / group_size).

    Args:
        group_size: Number of samples in a group. None: the whole batch.
        num_channels: Number of channels to append.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch_size, channels, height, width = x.shape
        if _is_symbol(batch_size):
            spread = self._spread_of_any_batch(x)[:, :, None, None].expand(-1, -1, height, width)
            return torch.cat([x, spread], dim=1)
        with misc.suppress_tracer_warnings():
            members = int(batch_size) if self.group_size is None else min(self.group_size, int(batch_size))
        if members == 0:
            return torch.cat([x, x.new_zeros(0, self.num_channels, height, width)], dim=1)
        if batch_size % members != 0:
            raise ValueError(f'a batch of {batch_size} must be a multiple of mbstd_group_size={members}')
        grouped = x.reshape(members, -1, self.num_channels, channels // self.num_channels, height, width)
        variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)  # [n, F, c, H, W]
        spread = (variance + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [n, F]
        spread = spread.repeat(members, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, spread], dim=1)

    def _spread_of_any_batch(self, x: torch.Tensor) -> torch.Tensor:
        """Return the standard deviations [N, F] for a size that is a symbol of `torch.export`, as in `forward`.

        Means over groups are a product with a matrix [N, N], because a tensor cannot be split into a number of groups
        that is not known. In a batch that is not a multiple of the group size, some groups have one member more.
        """
        index = torch.ones_like(x[:, 0, 0, 0]).cumsum(0) - 1  # [N]
        size = index[-1] + 1
        members = size if self.group_size is None else size.clamp(max=self.group_size)
        num_groups = (size / members).floor()
        group = index - (index / num_groups).floor() * num_groups  # [N]
        is_same = (group[:, None] == group[None, :]).to(x.dtype)
        mean_of_group = is_same / is_same.sum(dim=1, keepdim=True)  # [N, N]
        variance = mean_of_group @ (x.flatten(1) - mean_of_group @ x.flatten(1)).square()  # [N, CHW]
        return (variance + 1e-8).sqrt().unflatten(1, [self.num_channels, -1]).mean(dim=2)

    def extra_repr(self) -> str:
        return f'group_size={self.group_size}, num_channels={self.num_channels}'


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """The last block: minibatch standard deviation, a convolution and two fully connected layers.

    Args:
        in_channels: Number of input channels.
        cmap_dim: Size of the mapped label. If it is not 0, the logit is the product of the last layer's output with
            the mapped label (arXiv 1802.05637).
        resolution: Resolution of the input, 4 if that of the images is a power of two.
        img_channels: Number of image channels.
        architecture: 'orig', 'skip' or 'resnet'.
        activation: Name in `bias_act.activation_funcs`.
        conv_clamp: Largest magnitude of the activations. None: no limit.
        mbstd_group_size: See `MinibatchStdLayer`.
        mbstd_num_channels: See `MinibatchStdLayer`. 0: no such layer.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: Resolution,
        img_channels: int,
        *,
        architecture: str = 'resnet',
        activation: str = 'lrelu',
        conv_clamp: float | None = None,
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
    ) -> None:
        super().__init__()
        self.architecture, self.resolution, self.cmap_dim = architecture, resolution, cmap_dim
        self.img_channels, self.in_channels = img_channels, in_channels
        if architecture == 'skip':
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation, conv_clamp=conv_clamp
        )
        height, width = _sides(resolution)
        self.fc = FullyConnectedLayer(in_channels * height * width, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim if cmap_dim > 0 else 1)

    def forward(
        self, x: torch.Tensor, img: torch.Tensor | None, cmap: torch.Tensor | None, force_fp32: bool = False
    ) -> torch.Tensor:
        """Compute logits.

        Args:
            x: [N, in_channels, H, W].
            img: [N, img_channels, H, W]; used by the architecture 'skip' only.
            cmap: [N, cmap_dim] mapped labels; used if `cmap_dim` is not 0.
            force_fp32: Without effect, since this block never computes in float16.

        Returns:
            [N, 1] logits.
        """
        del force_fp32
        _check_map(x, self.in_channels, self.resolution)
        x = x.to(dtype=self.conv.weight.dtype, memory_format=torch.contiguous_format)
        if self.architecture == 'skip':
            assert img is not None
            _check_map(img, self.img_channels, self.resolution)
            x = x + self.fromrgb(img.to(dtype=x.dtype, memory_format=torch.contiguous_format))
        if self.mbstd is not None:
            x = self.mbstd(x)  # [N, C + F, 4, 4]
        x = self.out(self.fc(self.conv(x).flatten(1)))  # [N, 1 or cmap_dim]
        if self.cmap_dim > 0:
            assert cmap is not None
            misc.assert_shape(cmap, [None, self.cmap_dim])
            x = (x * cmap).sum(dim=1, keepdim=True) * _he_gain(self.cmap_dim)
        return x

    def extra_repr(self) -> str:
        return f'resolution={self.resolution}, architecture={self.architecture}, cmap_dim={self.cmap_dim}'


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Rate images: img [N, img_channels, H, W], c [N, c_dim] or None → logits [N, 1], float32.

    Args:
        c_dim: Size of the labels. 0: unconditional.
        img_resolution: Height and width of the images, or one number if they are equal (see `_pyramid`).
        img_channels: Number of image channels.
        architecture: 'orig', 'skip' or 'resnet'.
        channel_base: A layer of level r has min(channel_base / r, channel_max) channels.
        channel_max: See `channel_base`.
        cmap_dim: Size of the mapped labels. None: the number of channels of the last block.
        num_fp16_res: Number of the highest levels that compute in float16 on CUDA.
        conv_clamp: Largest magnitude of the activations. None: no limit.
        mapping_kwargs: Further arguments of `MappingNetwork`.
        block_kwargs: Further arguments of `DiscriminatorBlock`.
        epilogue_kwargs: Further arguments of `DiscriminatorEpilogue`.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: Resolution,
        img_channels: int,
        *,
        architecture: str = 'resnet',
        channel_base: int = 32768,
        channel_max: int = 512,
        cmap_dim: int | None = None,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        pyramid = _pyramid(img_resolution)
        lowest, *levels = pyramid
        self.block_resolutions = levels[::-1]  # levels
        self.img_resolution_log2 = max(pyramid).bit_length() - 1
        self.c_dim, self.img_resolution, self.img_channels = c_dim, pyramid[max(pyramid)], img_channels
        fp16_from = _first_fp16_level(self.img_resolution_log2, num_fp16_res)
        top_channels = _channels_at(lowest, channel_base, channel_max)
        cmap_dim = 0 if c_dim == 0 else top_channels if cmap_dim is None else cmap_dim

        common: dict[str, Any] = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
        layer_idx = 0
        for level in self.block_resolutions:
            channels = _channels_at(level, channel_base, channel_max)
            block = DiscriminatorBlock(
                0 if level == max(pyramid) else channels,
                channels,
                _channels_at(level // 2, channel_base, channel_max),
                resolution=pyramid[level],
                first_layer_idx=layer_idx,
                use_fp16=(num_fp16_res > 0 and level >= fp16_from),
                **common,
                **(block_kwargs or {}),
            )
            setattr(self, f'b{level}', block)
            layer_idx += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(
                z_dim=0, c_dim=c_dim, w_dim=cmap_dim, num_ws=None, w_avg_beta=None, **(mapping_kwargs or {})
            )
        self.b4 = DiscriminatorEpilogue(
            top_channels, cmap_dim=cmap_dim, resolution=pyramid[lowest], **common, **(epilogue_kwargs or {})
        )

    def forward(
        self, img: torch.Tensor, c: torch.Tensor | None, update_emas: bool = False, **block_kwargs: Any
    ) -> torch.Tensor:
        """Compute logits.

        Args:
            img: [N, img_channels, H, W] images.
            c: [N, c_dim] labels, or None without labels.
            update_emas: Ignored: this network has no running means. Callers may pass what StyleGAN3 needs.
            **block_kwargs: Further arguments of `DiscriminatorBlock.forward`.

        Returns:
            [N, 1] logits.
        """
        x = None
        for level in self.block_resolutions:
            x, img = getattr(self, f'b{level}')(x, img, **block_kwargs)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)

    def extra_repr(self) -> str:
        return f'c_dim={self.c_dim}, img_resolution={self.img_resolution}, img_channels={self.img_channels}'
