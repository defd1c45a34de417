"""Generator and discriminator of StyleGAN2 (arXiv 1912.04958), conditional and mixed precision.

Read top-down: `Generator` = `MappingNetwork` (z, c → w) + `SynthesisNetwork` (w → image, one
`SynthesisBlock` per resolution); `Discriminator` = one `DiscriminatorBlock` per resolution +
`DiscriminatorEpilogue`. Network pickles embed the source of this file, so it imports only the
frozen interface.

Shapes: N batch, C channels, H W height and width, O output and I input channels of a weight,
L number of w vectors a generator takes (`num_ws`).

A resolution is one number for square maps and [height, width] for others. Blocks are named by their
level, a power of two: in a square network of such a size the level is the resolution, in any other
it is that of the square network's block whose map has about as many pixels. So `b64` means the same
number of channels in all networks. The last block of a discriminator is `b4` in every one.
"""

import numpy as np
import torch

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d

SQRT_HALF = float(np.sqrt(0.5))


def _channels_at(resolution, channel_base, channel_max):
    return min(channel_base // resolution, channel_max)


def _sides(resolution):
    """(height, width) of a resolution."""
    height, width = (resolution, resolution) if isinstance(resolution, (int, np.integer)) else resolution
    return int(height), int(width)


def _as_resolution(height, width):
    return height if height == width else [height, width]


def _level_of(height, width):
    """The power of two that is nearest, by its logarithm, to the side of a square with as many pixels."""
    return 2 ** (((2 * height * width).bit_length() - 1) // 2)


def _pyramid(img_resolution):
    """{level: resolution} of a network's blocks, the lowest first.

    The lowest is the image halved as often as both sides are even and what is left has 8 pixels or more, 2 or more
    each way: 4x4 for powers of two, 3x3 for 48x48, 4x6 for 64x96.
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


def _first_fp16_level(top_level_log2, num_fp16_res):
    """The lowest level computed in float16: never below 8, whatever was asked for."""
    return max(2 ** (top_level_log2 + 1 - num_fp16_res), 8)


def _block_format(use_fp16, channels_last, force_fp32, weight, batch_size, resolution):
    """(dtype, memory format) that a block computes in: its weights' own, or float16 where asked for, on CUDA alone.

    On the CPU, convolutions are faster channels-last, forward and backward, but for few pixels: before each one PyTorch
    brings the weights into the layout of the maps, and there the weights are the larger part.
    """
    half = use_fp16 and not force_fp32 and weight.device.type == 'cuda'
    pixels_together = half and channels_last
    if weight.device.type == 'cpu':
        # What is traced or exported for batches of any size has a symbol here.
        images = batch_size if isinstance(batch_size, int) else 1
        height, width = _sides(resolution)
        pixels_together = images * height * width >= 256
    return (
        torch.float16 if half else weight.dtype,
        torch.channels_last if pixels_together else torch.contiguous_format,
    )


def _expect_map(x, channels, resolution, down=1):
    """Check that `x` is [N, channels, H, W] of a resolution, or of that divided by `down`."""
    height, width = _sides(resolution)
    misc.assert_shape(x, [None, channels, height // down, width // down])


def _conv_weight(out_channels, in_channels, kernel_size, channels_last):
    """Random weight [O, I, k, k] of unit variance; what it is scaled by at run time is `_he_gain`."""
    weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
    return weight.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _he_gain(fan_in):
    """Scale that keeps the variance of a layer's input (arXiv 1502.01852)."""
    return float(1 / np.sqrt(fan_in))


def normalize_2nd_moment(x, dim=1, eps=1e-8):
    """Scale `x` so that the mean square along `dim` is one."""
    mean_square = x.square().mean(dim=dim, keepdim=True)
    return x * torch.rsqrt(mean_square + eps)


# ------------------------------------------------------------------------------------------------
# Modulated convolution


def _demodulation(weight, styles):
    """[N, O] factors that give each output channel of each sample unit expected variance.

    The sum over the kernel commutes with the style (arXiv 1912.04958, eq. 3), so the weights of
    the single samples need not be formed: s² [N, I] times Σ_k w² [I, O].
    """
    energy = weight.square().sum(dim=[2, 3])  # [O, I]
    return torch.rsqrt(styles.square() @ energy.t() + 1e-8)  # [N, O]


def _keep_in_half_range(weight, styles):
    """Scale weight and styles to at most one, so that float16 sums stay finite; demodulation undoes it."""
    fan_in = weight[0].numel()
    peak = weight.abs().amax(dim=[1, 2, 3], keepdim=True)  # [O, 1, 1, 1]
    return weight / (peak * np.sqrt(fan_in)), styles / styles.abs().amax(dim=1, keepdim=True)


def _pointwise_product(x, weight, styles, coefs):
    """A modulated 1×1 convolution as a matrix product for each sample, which reads the activations once.

    x [N, I, H, W], best with channels last, weight [O, I, 1, 1], styles [N, I], coefs [N, O] or None → [N, O, H, W].
    """
    batch_size, in_channels, height, width = x.shape
    per_sample = weight[None, :, :, 0, 0] * styles[:, None, :]  # [N, O, I]
    if coefs is not None:
        per_sample = per_sample * coefs[:, :, None]
    pixels = x.permute(0, 2, 3, 1).reshape(batch_size, height * width, in_channels)
    x = pixels @ per_sample.to(x.dtype).mT  # [N, HW, O]
    return x.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)


def _modulate_single(x, weight, styles, demodulate, noise, geometry):
    """A modulated convolution of one sample by weights of its own: x [1, I, H, W] → [1, O, H', W'].

    No groups and no reshaping, which would hide from the convolution that the channels lie last. On the CPU a result
    of fewer numbers than the weights is demodulated instead of those.
    """
    weight = weight * styles[0, :, None, None]  # [O, I, kh, kw]
    coefs = None
    if demodulate:  # A sum over what lies side by side is faster than `_demodulation`.
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


@misc.profiled_function
def modulated_conv2d(
    x,
    weight,
    styles,
    *,
    up=1,
    down=1,
    resample_filter=None,
    padding=0,
    flip_weight=True,
    demodulate=True,
    noise=None,
    fused_modconv=True,
):
    """Convolution whose weights are scaled by a style of each sample (arXiv 1912.04958, section 2.2).

    Args:
        x: [N, I, H, W], float16 or float32.
        weight: [O, I, kh, kw].
        styles: [N, I].
        noise: Added to the result, broadcast to [N, O, H', W'].
        up, down: Integer resampling factors, with `resample_filter` (see `upfirdn2d.setup_filter`).
        padding: Relative to the upsampled image.
        demodulate: Normalise each output channel.
        flip_weight: False: convolution; True: correlation, as `torch.nn.functional.conv2d`.
        fused_modconv: One grouped convolution with the weights of each sample, instead of scaling
            the activations before and after a common one. The same result by another road.

    Returns:
        [N, O, H', W'], the dtype of `x`.
    """
    batch_size = x.shape[0]
    out_channels, in_channels, kernel_h, kernel_w = weight.shape
    misc.assert_shape(x, [batch_size, in_channels, None, None])
    misc.assert_shape(styles, [batch_size, in_channels])

    if demodulate and x.dtype == torch.float16:
        weight, styles = _keep_in_half_range(weight, styles)
    geometry = dict(f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight)

    if not fused_modconv:
        coefs = _demodulation(weight, styles) if demodulate else None  # [N, O]
        if x.device.type == 'cpu' and (kernel_h, kernel_w, up, down, padding) == (1, 1, 1, 1, 0):
            x = _pointwise_product(x, weight, styles, coefs)
            return x if noise is None else x + noise.to(x.dtype)
        x = x * styles.to(x.dtype)[:, :, None, None]
        x = conv2d_resample.conv2d_resample(x=x, w=weight.to(x.dtype), **geometry)
        if coefs is None:
            return x if noise is None else x + noise.to(x.dtype)
        coefs = coefs.to(x.dtype)[:, :, None, None]
        return x * coefs if noise is None else fma.fma(x, coefs, noise.to(x.dtype))

    with misc.suppress_tracer_warnings():
        groups = int(batch_size)
    if groups == 1:
        return _modulate_single(x, weight, styles, demodulate, noise, geometry)
    per_sample = weight * styles[:, None, :, None, None]  # [N, O, I, kh, kw]
    if demodulate:
        per_sample = per_sample * _demodulation(weight, styles)[:, :, None, None, None]
    x = x.reshape(1, groups * in_channels, *x.shape[2:])
    per_sample = per_sample.reshape(groups * out_channels, in_channels, kernel_h, kernel_w)
    x = conv2d_resample.conv2d_resample(x=x, w=per_sample.to(x.dtype), groups=groups, **geometry)
    x = x.reshape(groups, out_channels, *x.shape[2:])
    return x if noise is None else x.add_(noise.to(x.dtype))


# ------------------------------------------------------------------------------------------------
# Layers


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Dense layer with equalised learning rate: [N, in_features] → [N, out_features]."""

    def __init__(self, in_features, out_features, bias=True, activation='linear', lr_multiplier=1, bias_init=0):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier * _he_gain(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x):
        weight, x = self.weight.to(x.dtype), x * self.weight_gain  # Scaled where there are fewer numbers.
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if bias is not None and self.bias_gain != 1:
            bias = bias * self.bias_gain
        if self.activation == 'linear':
            return torch.nn.functional.linear(x, weight, bias)
        return bias_act.bias_act(x @ weight.t(), bias, act=self.activation)

    def extra_repr(self):
        return f'in_features={self.in_features}, out_features={self.out_features}, activation={self.activation}'


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """Convolution with equalised learning rate, resampling, bias and activation.

    [N, in_channels, H, W] → [N, out_channels, H·up/down, W·up/down]. A layer with `trainable=False`
    keeps weight and bias as buffers, under the same names.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        bias=True,
        activation='linear',
        up=1,
        down=1,
        resample_filter=(1, 3, 3, 1),
        conv_clamp=None,
        channels_last=False,
        trainable=True,
    ):
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
        tensors = {'weight': weight, 'bias': torch.zeros(out_channels) if bias else None}
        for name, tensor in tensors.items():
            if tensor is not None and trainable:
                self.register_parameter(name, torch.nn.Parameter(tensor))
            elif tensor is not None:
                self.register_buffer(name, tensor)
            else:
                setattr(self, name, None)

    def forward(self, x, gain=1):
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        x = conv2d_resample.conv2d_resample(
            x=x,
            w=weight,
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=(self.up == 1),
        )  # The transposed convolution of the up path flips by itself.
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act.bias_act(x, bias, act=self.activation, gain=self.act_gain * gain, clamp=clamp)

    def extra_repr(self):
        return (
            f'in_channels={self.in_channels}, out_channels={self.out_channels}, '
            f'activation={self.activation}, up={self.up}, down={self.down}'
        )


# ------------------------------------------------------------------------------------------------
# Generator


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """Latent z and label c to intermediate latents w.

    Args:
        z_dim: Size of z; 0 for none.
        c_dim: Size of the label; 0 for none.
        w_dim: Size of w.
        num_ws: How many times w is repeated; None: once, without the axis.
        num_layers: Dense layers.
        embed_features: Size of the label's embedding, `w_dim` by default.
        layer_features: Size between layers, `w_dim` by default.
        activation: Name in `bias_act.activation_funcs`.
        lr_multiplier: Learning rate relative to the other networks'.
        w_avg_beta: Decay of W's running mean in training mode; None: no running mean.
    """

    def __init__(
        self,
        z_dim,
        c_dim,
        w_dim,
        num_ws,
        *,
        num_layers=8,
        activation='lrelu',
        lr_multiplier=0.01,
        embed_features=None,
        layer_features=None,
        w_avg_beta=0.995,
    ):
        super().__init__()
        self.num_ws, self.w_dim = num_ws, w_dim
        self.z_dim, self.c_dim = z_dim, c_dim
        self.w_avg_beta = w_avg_beta
        self.num_layers = num_layers

        embed_features = w_dim if embed_features is None else embed_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        hidden = w_dim if layer_features is None else layer_features
        sizes = [z_dim + (embed_features if c_dim > 0 else 0)] + [hidden] * (num_layers - 1) + [w_dim]
        for index, (size_in, size_out) in enumerate(zip(sizes[:num_layers], sizes[1:])):
            setattr(
                self,
                f'fc{index}',
                FullyConnectedLayer(size_in, size_out, activation=activation, lr_multiplier=lr_multiplier),
            )
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer('w_avg', torch.zeros(w_dim))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        """z [N, z_dim], c [N, c_dim] or None → ws [N, L, w_dim], or [N, w_dim] where num_ws is None.

        Args:
            truncation_psi: Distance from W's mean that is kept: 1 all, 0 none.
            truncation_cutoff: Truncate the first so many of the L vectors; None: all.
            skip_w_avg_update: Leave the running mean alone in training mode.
        """
        w = self._transform(z, c)  # [N, w_dim]
        if self.training and self.w_avg_beta is not None and not skip_w_avg_update:
            batch_mean = w.detach().mean(dim=0)
            self.w_avg.copy_(batch_mean.lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return w if truncation_psi == 1 else self.w_avg.lerp(w, truncation_psi)

        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)  # [N, L, w_dim]
        if truncation_psi != 1:
            if self.w_avg_beta is None:
                raise ValueError(f'truncation_psi={truncation_psi}: this network keeps no mean of w; use 1')
            kept = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws = torch.cat([self.w_avg.lerp(ws[:, :kept], truncation_psi), ws[:, kept:]], dim=1)
        return ws

    def _transform(self, z, c):
        inputs = []
        dtype = next((weight.dtype for weight in self.parameters()), torch.float32)
        with torch.autograd.profiler.record_function('input'):
            if self.z_dim > 0:
                misc.assert_shape(z, [None, self.z_dim])
                inputs.append(normalize_2nd_moment(z.to(dtype)))
            if self.c_dim > 0:
                misc.assert_shape(c, [None, self.c_dim])
                inputs.append(normalize_2nd_moment(self.embed(c.to(dtype))))
        x = torch.cat(inputs, dim=1)
        for index in range(self.num_layers):
            x = getattr(self, f'fc{index}')(x)
        return x

    def extra_repr(self):
        return f'z_dim={self.z_dim}, c_dim={self.c_dim}, w_dim={self.w_dim}, num_ws={self.num_ws}'


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Modulated 3×3 convolution, noise, bias and activation.

    [N, in, H, W], w [N, w_dim] → [N, out, H', W'], where H' and W' are those of `resolution`.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        w_dim,
        resolution,
        kernel_size=3,
        up=1,
        use_noise=True,
        activation='lrelu',
        resample_filter=(1, 3, 3, 1),
        conv_clamp=None,
        channels_last=False,
    ):
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

    def _noise(self, batch_size, noise_mode, device):
        if noise_mode not in ('random', 'const', 'none'):
            raise ValueError(f"noise_mode={noise_mode!r}: must be 'random', 'const' or 'none'")
        if not self.use_noise or noise_mode == 'none':
            return None
        if noise_mode == 'const':
            return self.noise_const * self.noise_strength  # [H, W]
        shape = [batch_size, 1, *_sides(self.resolution)]
        return torch.randn(shape, device=device) * self.noise_strength  # [N, 1, H, W]

    def forward(self, x, w, noise_mode='random', fused_modconv=True, gain=1):
        _expect_map(x, self.in_channels, self.resolution, down=self.up)
        x = modulated_conv2d(
            x=x,
            weight=self.weight,
            styles=self.affine(w),
            noise=self._noise(x.shape[0], noise_mode, x.device),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=(self.up == 1),
            fused_modconv=fused_modconv,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act.bias_act(x, self.bias.to(x.dtype), act=self.activation, gain=self.act_gain * gain, clamp=clamp)

    def extra_repr(self):
        return (
            f'in_channels={self.in_channels}, out_channels={self.out_channels}, w_dim={self.w_dim}, '
            f'resolution={self.resolution}, up={self.up}, activation={self.activation}'
        )


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Modulated convolution to image channels, without demodulation: [N, in, H, W] → [N, out, H, W]."""

    def __init__(self, in_channels, out_channels, w_dim, kernel_size=1, conv_clamp=None, channels_last=False):
        super().__init__()
        self.w_dim, self.in_channels, self.out_channels = w_dim, in_channels, out_channels
        self.weight_gain = _he_gain(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(_conv_weight(out_channels, in_channels, kernel_size, channels_last))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def forward(self, x, w, fused_modconv=True):
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(
            x=x, weight=self.weight, styles=styles, padding=self.padding, demodulate=False, fused_modconv=fused_modconv
        )
        return bias_act.bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)

    def extra_repr(self):
        return f'in_channels={self.in_channels}, out_channels={self.out_channels}, w_dim={self.w_dim}'


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    """The layers of one resolution; doubles the size, except for the first block (in_channels = 0).

    `num_conv` and `num_torgb` say how many w vectors the block takes.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        w_dim,
        resolution,
        img_channels,
        is_last,
        architecture='skip',
        resample_filter=(1, 3, 3, 1),
        conv_clamp=None,
        use_fp16=False,
        fp16_channels_last=False,
        **layer_kwargs,
    ):
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

        shared = dict(w_dim=w_dim, conv_clamp=conv_clamp, channels_last=self.channels_last)
        layer = dict(shared, resolution=resolution, **layer_kwargs)
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

    def forward(self, x, img, ws, force_fp32=False, fused_modconv=None, **layer_kwargs):
        """x [N, in, H/2, W/2] and img [N, C, H/2, W/2] (both None in the first block), ws [N, l, w_dim] → x, img.

        fused_modconv: None chooses by itself: in evaluation mode, where that is the faster way.
        """
        num_layers = self.num_conv + self.num_torgb
        misc.assert_shape(ws, [None, num_layers, self.w_dim])
        w_of_layer = iter(ws.unbind(dim=1))
        dtype, memory_format = _block_format(
            self.use_fp16, self.channels_last, force_fp32, self.conv1.weight, ws.shape[0], self.resolution
        )
        if fused_modconv is None:
            # A grouped convolution is slow on the CPU, and in float16 too; that of a single image is none of groups.
            single = int(ws.shape[0]) == 1
            groups_pay = ws.device.type != 'cpu' and dtype != torch.float16
            fused_modconv = not self.training and (single or groups_pay)
        options = dict(layer_kwargs, fused_modconv=fused_modconv)

        if self.in_channels == 0:
            x = self.const.to(dtype).unsqueeze(0).repeat(ws.shape[0], 1, 1, 1)  # [N, C, H, W]
            x = x.contiguous(memory_format=memory_format)
            x = self.conv1(x, next(w_of_layer), **options)
        else:
            _expect_map(x, self.in_channels, self.resolution, down=2)
            x = x.to(dtype=dtype, memory_format=memory_format)
            if self.architecture == 'resnet':
                shortcut = self.skip(x, gain=SQRT_HALF)  # [N, C, H, W]
                x = self.conv0(x, next(w_of_layer), **options)
                x = self.conv1(x, next(w_of_layer), gain=SQRT_HALF, **options) + shortcut
            else:
                x = self.conv0(x, next(w_of_layer), **options)
                x = self.conv1(x, next(w_of_layer), **options)

        if img is not None:
            _expect_map(img, self.img_channels, self.resolution, down=2)
            img = upfirdn2d.upsample2d(img, self.resample_filter)  # [N, C, H, W]
        if self.num_torgb:
            rgb = self.torgb(x, next(w_of_layer), fused_modconv=fused_modconv)
            rgb = rgb.to(dtype=ws.dtype, memory_format=torch.contiguous_format)
            img = rgb if img is None else img + rgb
        return x, img

    def extra_repr(self):
        return f'resolution={self.resolution}, architecture={self.architecture}'


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """ws [N, L, w_dim] → images [N, img_channels, H, W] of `img_resolution`, float32.

    Args:
        w_dim: Size of w.
        img_resolution: Power of two, at least 4; or a number or [height, width] as `_pyramid` says.
        img_channels: Channels of the images.
        channel_base, channel_max: A layer of level r has min(channel_base / r, channel_max) channels.
        num_fp16_res: So many of the highest levels compute in float16 on CUDA.
        block_kwargs: To every `SynthesisBlock`.
    """

    def __init__(
        self,
        w_dim,
        img_resolution,
        img_channels,
        channel_base=32768,
        channel_max=512,
        num_fp16_res=0,
        **block_kwargs,
    ):
        super().__init__()
        pyramid = _pyramid(img_resolution)
        self.block_resolutions = list(pyramid)  # Levels, which are resolutions where these are powers of two.
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

    def forward(self, ws, **block_kwargs):
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        blocks = [getattr(self, f'b{level}') for level in self.block_resolutions]
        ws = ws.to(blocks[0].const.dtype)
        x = img = None
        first = 0
        for block in blocks:
            # A block's ToRGB shares its w with the first convolution of the next block.
            block_ws = ws[:, first : first + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, **block_kwargs)
            first += block.num_conv
        return img

    def extra_repr(self):
        return (
            f'w_dim={self.w_dim}, num_ws={self.num_ws}, img_resolution={self.img_resolution}, '
            f'img_channels={self.img_channels}, num_fp16_res={self.num_fp16_res}'
        )


@persistence.persistent_class
class Generator(torch.nn.Module):
    """z [N, z_dim], c [N, c_dim] → images [N, img_channels, H, W], float32 around [-1, +1].

    Args:
        z_dim, c_dim, w_dim: Sizes of latent, label (0: unconditional) and intermediate latent.
        img_resolution: Power of two, at least 4; or a number or [height, width] as `_pyramid` says.
        img_channels: 1 for grayscale, 3 for RGB; 2 and 4 for the same with alpha.
        mapping_kwargs: To `MappingNetwork`.
        synthesis_kwargs: To `SynthesisNetwork`.
    """

    def __init__(
        self,
        z_dim,
        c_dim,
        w_dim,
        img_resolution,
        img_channels,
        mapping_kwargs=None,
        synthesis_kwargs=None,
    ):
        super().__init__()
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.img_resolution, self.img_channels = self.synthesis.img_resolution, img_channels
        self.num_ws = self.synthesis.num_ws
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z,
        c,
        truncation_psi=1,
        truncation_cutoff=None,
        noise_mode='random',
        force_fp32=False,
        fused_modconv=None,
    ):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, noise_mode=noise_mode, force_fp32=force_fp32, fused_modconv=fused_modconv)


# ------------------------------------------------------------------------------------------------
# Discriminator


@persistence.persistent_class
class DiscriminatorBlock(torch.nn.Module):
    """The layers of one resolution; halves the size.

    Layers are numbered over the whole network from `first_layer_idx` on; those below
    `freeze_layers` do not train (arXiv 2002.10964, Freeze-D). `num_layers` tells how many are here.
    """

    def __init__(
        self,
        in_channels,
        tmp_channels,
        out_channels,
        resolution,
        img_channels,
        first_layer_idx,
        architecture='resnet',
        activation='lrelu',
        resample_filter=(1, 3, 3, 1),
        conv_clamp=None,
        use_fp16=False,
        fp16_channels_last=False,
        freeze_layers=0,
    ):
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

        def add_layer(name, *channels_and_size, **kwargs):
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            setattr(
                self,
                name,
                Conv2dLayer(*channels_and_size, trainable=trainable, channels_last=self.channels_last, **kwargs),
            )
            self.num_layers += 1

        active = dict(activation=activation, conv_clamp=conv_clamp)
        if in_channels == 0 or architecture == 'skip':
            add_layer('fromrgb', img_channels, tmp_channels, 1, **active)
        add_layer('conv0', tmp_channels, tmp_channels, 3, **active)
        add_layer('conv1', tmp_channels, out_channels, 3, down=2, resample_filter=resample_filter, **active)
        if architecture == 'resnet':
            add_layer('skip', tmp_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter)

    def forward(self, x, img, force_fp32=False):
        """x [N, in, H, W] or None, img [N, C, H, W] or None → x [N, out, H/2, W/2], img halved or None."""
        dtype, memory_format = _block_format(
            self.use_fp16,
            self.channels_last,
            force_fp32,
            self.conv1.weight,
            (img if x is None else x).shape[0],
            self.resolution,
        )
        if x is not None:
            _expect_map(x, self.in_channels, self.resolution)
            x = x.to(dtype=dtype, memory_format=memory_format)

        if self.in_channels == 0 or self.architecture == 'skip':
            _expect_map(img, self.img_channels, self.resolution)
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

    def extra_repr(self):
        return f'resolution={self.resolution}, architecture={self.architecture}'


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Append the standard deviation over groups of samples as channels (arXiv 1710.10196, section 3).

    [N, C, H, W] → [N, C + num_channels, H, W]. Sample n is in group n mod (N / group_size).
    """

    def __init__(self, group_size, num_channels=1):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x):
        batch_size, channels, height, width = x.shape
        with misc.suppress_tracer_warnings():
            members = int(batch_size) if self.group_size is None else min(self.group_size, int(batch_size))
        if members == 0:
            return torch.cat([x, x.new_zeros(0, self.num_channels, height, width)], dim=1)
        if batch_size % members != 0:
            raise ValueError(f'batch of {batch_size}: must be a multiple of mbstd_group_size={members}')
        grouped = x.reshape(members, -1, self.num_channels, channels // self.num_channels, height, width)
        variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)  # [n, F, c, H, W]
        spread = (variance + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [n, F]
        spread = spread.repeat(members, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, spread], dim=1)

    def extra_repr(self):
        return f'group_size={self.group_size}, num_channels={self.num_channels}'


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """The last block, at 4×4 or the like: minibatch deviation, a convolution and two dense layers → [N, 1] logits.

    With a label (`cmap_dim` > 0) the last layer gives a vector whose product with the mapped label
    is the logit (arXiv 1802.05637).
    """

    def __init__(
        self,
        in_channels,
        cmap_dim,
        resolution,
        img_channels,
        *,
        architecture='resnet',
        activation='lrelu',
        conv_clamp=None,
        mbstd_group_size=4,
        mbstd_num_channels=1,
    ):
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

    def forward(self, x, img, cmap, force_fp32=False):
        del force_fp32  # This block never computes in float16.
        _expect_map(x, self.in_channels, self.resolution)
        x = x.to(dtype=self.conv.weight.dtype, memory_format=torch.contiguous_format)
        if self.architecture == 'skip':
            _expect_map(img, self.img_channels, self.resolution)
            x = x + self.fromrgb(img.to(dtype=x.dtype, memory_format=torch.contiguous_format))
        if self.mbstd is not None:
            x = self.mbstd(x)  # [N, C + F, 4, 4]
        x = self.out(self.fc(self.conv(x).flatten(1)))  # [N, 1 or cmap_dim]
        if self.cmap_dim > 0:
            misc.assert_shape(cmap, [None, self.cmap_dim])
            x = (x * cmap).sum(dim=1, keepdim=True) * _he_gain(self.cmap_dim)
        return x

    def extra_repr(self):
        return f'resolution={self.resolution}, architecture={self.architecture}, cmap_dim={self.cmap_dim}'


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """img [N, img_channels, H, W] of `img_resolution`, c [N, c_dim] or None → logits [N, 1], float32.

    Args:
        c_dim: Size of the label; 0: unconditional.
        img_resolution: Power of two, at least 4; or a number or [height, width] as `_pyramid` says.
        img_channels: Channels of the images.
        architecture: 'orig', 'skip' or 'resnet'.
        channel_base, channel_max: A layer of level r has min(channel_base / r, channel_max) channels.
        cmap_dim: Size of the mapped label; the channels of the last block by default.
        num_fp16_res: So many of the highest levels compute in float16 on CUDA.
        conv_clamp: Bound of activations, None: none.
        block_kwargs, mapping_kwargs, epilogue_kwargs: To the parts.
    """

    def __init__(
        self,
        c_dim,
        img_resolution,
        img_channels,
        *,
        architecture='resnet',
        channel_base=32768,
        channel_max=512,
        cmap_dim=None,
        num_fp16_res=0,
        conv_clamp=None,
        mapping_kwargs=None,
        block_kwargs=None,
        epilogue_kwargs=None,
    ):
        super().__init__()
        pyramid = _pyramid(img_resolution)
        lowest, *levels = pyramid
        self.block_resolutions = levels[::-1]  # Levels, which are resolutions where these are powers of two.
        self.img_resolution_log2 = max(pyramid).bit_length() - 1
        self.c_dim, self.img_resolution, self.img_channels = c_dim, pyramid[max(pyramid)], img_channels
        fp16_from = _first_fp16_level(self.img_resolution_log2, num_fp16_res)
        top_channels = _channels_at(lowest, channel_base, channel_max)
        cmap_dim = 0 if c_dim == 0 else top_channels if cmap_dim is None else cmap_dim

        common = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
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

    def forward(self, img, c, **block_kwargs):
        x = None
        for level in self.block_resolutions:
            x, img = getattr(self, f'b{level}')(x, img, **block_kwargs)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)

    def extra_repr(self):
        return f'c_dim={self.c_dim}, img_resolution={self.img_resolution}, img_channels={self.img_channels}'
