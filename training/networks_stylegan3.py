"""The generator of StyleGAN3 (Karras et al., arXiv 2106.12423): equivariant to translation, or to rotation as well.

`Generator` = `MappingNetwork` (z, c → w) + `SynthesisNetwork` (w → image): `SynthesisInput`, which evaluates waves at
the pixels of a grid, followed by a list of `SynthesisLayer`. Each layer treats its feature maps as samples of a
continuous signal with a limited band: its filters keep out whatever its sampling rate cannot represent.

This file is long because network pickles embed its source, so that it has to be self-contained: it imports only the
names that old pickles rely on, and repeats some lines of `networks_stylegan2`. It reads in parts: bands of the layers,
filters, modulated convolution, mapping, input, layers, generator.

Shapes: N batch, C channels, H W height and width, O output and I input channels of a weight, L number of w vectors that
a generator takes (`num_ws`). Frequencies are in cycles per image side, the longer one of images that are not square.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_gradfix, filtered_lrelu

if TYPE_CHECKING:  # published code may run this source with a Python that does not know such types
    Resolution = int | Sequence[int]


# ---------------------------------------------------------------------------------------------------------------------
# Bands of the layers


class _Band(NamedTuple):
    """The band that the feature maps of a layer represent, and how they are sampled (section 3.2 of the paper).

    Args:
        cutoff: Frequency up to which signals pass.
        half_width: Half of the transition band around the cutoff.
        sampling_rate: Samples per image side.
        size: [width, height] of the maps, with margins.
        channels: Number of maps.
    """

    cutoff: float
    half_width: float
    sampling_rate: float
    size: tuple[int, int]
    channels: int


def _sides(resolution: Resolution) -> tuple[int, int]:
    """Return the height and width of a resolution, a number or [height, width]."""
    height, width = (resolution, resolution) if isinstance(resolution, (int, np.integer)) else resolution
    return int(height), int(width)


def _bands(
    img_resolution: Resolution,
    img_channels: int,
    *,
    channel_base: int,
    channel_max: int,
    num_layers: int,
    num_critical: int,
    first_cutoff: float,
    first_stopband: float,
    last_stopband_rel: float,
    margin_size: int,
) -> list[_Band]:
    """Return the bands of all layers, the last of which is the conversion to RGB.

    Cutoff and stopband grow geometrically to those of the image, which the critically sampled layers at the end have.

    Raises:
        ValueError: The maps of a layer would not have whole numbers of pixels.
    """
    sides = _sides(img_resolution)
    longest = max(sides)
    last_cutoff = longest / 2
    exponents = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
    cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** exponents
    stopbands = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** exponents
    rates = 2.0 ** np.ceil(np.log2(np.minimum(stopbands * 2, longest)))
    bands = []
    for index, (cutoff, stopband, rate) in enumerate(zip(cutoffs.tolist(), stopbands.tolist(), rates.tolist())):
        is_last = index >= num_layers - 1  # and has no margin
        size = sides if is_last else [rate * side / longest + 2 * margin_size for side in sides]
        if any(side != int(side) for side in size):
            raise ValueError(
                f'img_resolution={img_resolution}: such a network samples its first layers with {rate:g} pixels '
                'along the longer side, and the shorter side must be a whole number of these'
            )
        height, width = (int(side) for side in size)
        channels = img_channels if index == num_layers else round(min(channel_base / 2 / cutoff, channel_max))
        bands.append(_Band(cutoff, max(stopband, rate / 2) - cutoff, rate, (width, height), channels))
    return bands


def _between(before: _Band, band: _Band) -> dict[str, Any]:
    """Return the arguments of a `SynthesisLayer` that takes maps of one band and gives maps of another."""
    return {
        'in_channels': before.channels,
        'out_channels': band.channels,
        'in_size': before.size,
        'out_size': band.size,
        'in_sampling_rate': before.sampling_rate,
        'out_sampling_rate': band.sampling_rate,
        'in_cutoff': before.cutoff,
        'out_cutoff': band.cutoff,
        'in_half_width': before.half_width,
        'out_half_width': band.half_width,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Filters


def _lowpass_filter(
    num_taps: int, cutoff: float, half_width: float, sampling_rate: float, radial: bool = False
) -> torch.Tensor | None:
    """Return a low-pass filter with a Kaiser window (appendix C.1): float32 [taps], or [taps, taps] if radial.

    Returns:
        The filter, or None for a single tap.
    """
    if num_taps == 1:
        return None
    import scipy.signal  # takes as long to import as everything else, and a training of StyleGAN2 does not need it
    import scipy.special

    if not radial:
        taps = scipy.signal.firwin(num_taps, cutoff, width=2 * half_width, fs=sampling_rate)
        return torch.as_tensor(taps, dtype=torch.float32)

    # The transform of a disc is a jinc, 2·J₁(2πfr)/(2πfr) up to a factor that the normalization cancels.
    position = (np.arange(num_taps) - (num_taps - 1) / 2) / sampling_rate
    angle = 2 * np.pi * cutoff * np.hypot(*np.meshgrid(position, position))
    at_center = angle == 0
    jinc = np.where(at_center, 0.5, scipy.special.j1(angle) / np.where(at_center, 1, angle))
    attenuation = scipy.signal.kaiser_atten(num_taps, 2 * half_width / (sampling_rate / 2))
    window = np.kaiser(num_taps, scipy.signal.kaiser_beta(attenuation))
    taps = jinc * np.outer(window, window)
    return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Modulated convolution


def _normalized(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale each output channel of a weight, and the styles of a batch, to a mean square of one.

    Demodulation cancels both, but without them products in float16 could overflow.
    """
    mean_square = weight.square().mean(dim=[1, 2, 3], keepdim=True)
    return weight * mean_square.rsqrt(), styles * styles.square().mean().rsqrt()


@misc.profiled_function
def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int = 0,
    input_gain: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve with weights that are scaled by a style of each sample (appendix C.2).

    Args:
        x: [N, I, H, W], float16 or float32.
        w: [O, I, k, k].
        s: Styles [N, I].
        demodulate: Give each output channel unit expected variance.
        padding: Padding on all sides.
        input_gain: Scale of the input, a scalar, or None.

    Returns:
        [N, O, H', W'], in the dtype of `x`.
    """
    misc.assert_shape(x, [None, w.shape[1], None, None])
    misc.assert_shape(s, [x.shape[0], w.shape[1]])
    fused = _modulated_conv2d(x, w, s, demodulate, padding, input_gain)
    if fused is not None:
        return fused
    coefs = None
    if demodulate:
        w, s = _normalized(w, s)
        energy = w.square().sum(dim=[2, 3])  # [O, I]
        coefs = torch.rsqrt(s.square() @ energy.t() + 1e-8)  # [N, O]
    if input_gain is not None:
        s = s * input_gain
    x = _in_fast_format(x, w.shape[2])
    if _is_single(x):
        w = w * s[0, :, None, None]
        if coefs is not None:
            w = w * coefs[0, :, None, None, None]
        return conv2d_gradfix.conv2d(x, w.to(x.dtype), padding=padding)
    if x.device.type == 'cpu' and w.shape[2:] == (1, 1) and padding == 0:
        return _pointwise_product(x, w, s, coefs)
    x = x * s.to(x.dtype)[:, :, None, None]
    x = conv2d_gradfix.conv2d(x, w.to(x.dtype), padding=padding)
    return x if coefs is None else x * coefs.to(x.dtype)[:, :, None, None]


def _modulated_conv2d(*args: Any) -> torch.Tensor | None:
    """Compute a modulated convolution as one operator, or return None.

    The operator is beyond those that every loader of pickles has, so that it may be missing.
    """
    operator = getattr(conv2d_gradfix, 'modulated_conv2d', None)
    return None if operator is None else operator(*args)


def _in_fast_format(x: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Return images in the memory format in which a CPU convolves them faster: channels last for larger kernels.

    Convolutions with kernels of one pixel, and of few pixels, are as fast in either format, and need no conversion.
    """
    if x.device.type != 'cpu' or kernel_size == 1 or (_is_single(x) and x.shape[2] * x.shape[3] < 256):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def _is_single(x: torch.Tensor) -> bool:
    """Return whether a batch has one sample; a batch size that is a symbol of a trace counts as more."""
    return isinstance(x.shape[0], int) and x.shape[0] == 1


def _pointwise_product(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, coefs: torch.Tensor | None) -> torch.Tensor:
    """Compute a modulated 1×1 convolution as a matrix product of each sample: [N, I, H, W] → [N, O, H, W]."""
    per_sample = w[None, :, :, 0, 0] * s[:, None, :]  # [N, O, I]
    if coefs is not None:
        per_sample = per_sample * coefs[:, :, None]
    return (per_sample.to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[2:])


# ---------------------------------------------------------------------------------------------------------------------
# Mapping


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Fully connected layer with equalized learning rate: [N, in_features] → [N, out_features].

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
        activation: Name in `bias_act.activation_funcs`.
        bias: Whether to add a bias.
        lr_multiplier: Learning rate relative to that of other layers.
        weight_init: Standard deviation of the initial weight.
        bias_init: Initial bias, one number or one for each output feature.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = 'linear',
        bias: bool = True,
        lr_multiplier: float = 1,
        weight_init: float = 1,
        bias_init: float | Sequence[float] = 0,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn(out_features, in_features) * (weight_init / lr_multiplier))
        initial = torch.as_tensor(bias_init, dtype=torch.float32).expand(out_features)
        self.bias = torch.nn.Parameter(initial / lr_multiplier) if bias else None
        self.weight_gain = lr_multiplier / float(np.sqrt(in_features))
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


def _unit_mean_square(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of `x` to a mean square of one."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """Map latents z and labels c to intermediate latents w.

    Args:
        z_dim: Size of z.
        c_dim: Size of the label. 0: no label.
        w_dim: Size of w.
        num_ws: Number of times that w is repeated.
        num_layers: Number of fully connected layers.
        lr_multiplier: Learning rate relative to that of the other networks.
        w_avg_beta: Decay of the running mean of w.
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim = z_dim, c_dim
        self.w_dim, self.num_ws = w_dim, num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, w_dim)
        features = [z_dim + (w_dim if c_dim > 0 else 0)] + [w_dim] * num_layers
        for index in range(num_layers):
            layer = FullyConnectedLayer(
                features[index], features[index + 1], activation='lrelu', lr_multiplier=lr_multiplier
            )
            setattr(self, f'fc{index}', layer)
        self.register_buffer('w_avg', torch.zeros(w_dim))

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Return w [N, L, w_dim] for z [N, z_dim] and labels c [N, c_dim].

        Args:
            z: Latents.
            c: Labels; ignored if the network has none.
            truncation_psi: Distance from the running mean, relative to that of the untruncated w.
            truncation_cutoff: Truncate only this many of the L vectors. None: all.
            update_emas: Move the running mean of w.
        """
        misc.assert_shape(z, [None, self.z_dim])
        x = _unit_mean_square(z.to(torch.float32))
        if self.c_dim > 0:
            assert c is not None
            misc.assert_shape(c, [z.shape[0], self.c_dim])
            x = torch.cat([x, _unit_mean_square(self.embed(c.to(torch.float32)))], dim=1)
        for index in range(self.num_layers):
            x = getattr(self, f'fc{index}')(x)
        if update_emas:
            self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = x.unsqueeze(1).repeat([1, self.num_ws, 1])
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            truncated = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([truncated, ws[:, cutoff:]], dim=1)
        return ws

    def extra_repr(self) -> str:
        return f'z_dim={self.z_dim}, c_dim={self.c_dim}, w_dim={self.w_dim}, num_ws={self.num_ws}'


# ---------------------------------------------------------------------------------------------------------------------
# Input


@persistence.persistent_class
class SynthesisInput(torch.nn.Module):
    """Fourier features on a grid that w rotates and shifts (section 3.2): w [N, w_dim] → [N, channels, H, W].

    The buffer `transform` is the inverse of a further transformation of the image, as a matrix [3, 3] of homogeneous
    coordinates (x to the right, y down, in image sides), or one for each image of a batch [N, 3, 3].

    Args:
        w_dim: Size of w.
        channels: Number of waves.
        size: [width, height] of the grid, or one number.
        sampling_rate: Pixels of the grid per image side.
        bandwidth: Largest frequency.
    """

    freqs: torch.Tensor
    phases: torch.Tensor
    transform: torch.Tensor

    def __init__(
        self, w_dim: int, channels: int, size: int | Sequence[int], sampling_rate: float, bandwidth: float
    ) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.channels = channels
        self.size = np.broadcast_to(np.asarray(size), [2])
        self.sampling_rate = sampling_rate
        self.bandwidth = bandwidth
        direction = torch.rand(channels) * (2 * np.pi)
        radius = torch.rand(channels).sqrt() * bandwidth  # uniform in the disc
        self.register_buffer('transform', torch.eye(3))
        self.register_buffer('freqs', torch.stack([direction.cos(), direction.sin()], dim=1) * radius[:, None])
        self.register_buffer('phases', torch.rand(channels) - 0.5)
        self.weight = torch.nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnectedLayer(w_dim, 4, weight_init=0, bias_init=[1, 0, 0, 0])

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        transform = self._pose(w) @ self.transform  # [N, 3, 3]
        freqs = self.freqs @ transform[:, :2, :2]  # [N, C, 2]
        phases = self.phases + (self.freqs @ transform[:, :2, 2:]).squeeze(2)  # [N, C]

        # Waves fade out between the band and the highest frequency that the grid can represent.
        excess = (freqs.norm(dim=2) - self.bandwidth) / (self.sampling_rate / 2 - self.bandwidth)
        amplitudes = (1 - excess).clamp(0, 1)  # [N, C]

        points = self._grid(w.device)  # [H, W, 2]
        waves = torch.sin((points.flatten(0, 1) @ freqs.mT + phases[:, None]) * (2 * np.pi))  # [N, HW, C]
        weight = amplitudes[:, :, None] * (self.weight / np.sqrt(self.channels)).t()  # [N, C, C]
        width, height = self.size.tolist()
        x = (waves @ weight).mT.unflatten(2, [height, width])  # [N, C, H, W]
        misc.assert_shape(x, [w.shape[0], self.channels, height, width])
        return x

    def _pose(self, w: torch.Tensor) -> torch.Tensor:
        """Return the inverse of the rotation and shift that w describes: [N, 3, 3]."""
        t = self.affine(w)  # cosine and sine of the angle, before normalization; x and y of the shift in these units
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cosine, sine, x, y = t.unbind(dim=1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        rotation = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1).reshape(-1, 3, 3)
        return rotation @ shift

    def _grid(self, device: torch.device) -> torch.Tensor:
        """Return the coordinates (x, y) of the pixels, with the center of the image at 0: [H, W, 2]."""
        width, height = self.size.tolist()
        x, y = (
            (torch.arange(side, device=device) - (side - 1) / 2) / float(self.sampling_rate) for side in (width, height)
        )
        return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)

    def extra_repr(self) -> str:
        return (
            f'w_dim={self.w_dim}, channels={self.channels}, size={self.size.tolist()}, '
            f'sampling_rate={self.sampling_rate:g}, bandwidth={self.bandwidth:g}'
        )


# ---------------------------------------------------------------------------------------------------------------------
# Layers


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Modulated convolution and filtered leaky ReLU, or the conversion to RGB: [N, I, H, W] → [N, O, H', W'].

    Args:
        w_dim: Size of w.
        is_torgb: Convert to RGB: 1×1 convolution without demodulation, and no leaky ReLU.
        is_critically_sampled: The band ends at half of the sampling rate, so the filters are separable.
        use_fp16: Compute in float16 on CUDA.
        in_channels: I.
        out_channels: O.
        in_size: [width, height] of the input, or one number.
        out_size: [width, height] of the output, or one number.
        in_sampling_rate: Pixels of the input per image side.
        out_sampling_rate: Pixels of the output per image side.
        in_cutoff: Cutoff frequency of the input.
        out_cutoff: Cutoff frequency of the output.
        in_half_width: Half of the transition band of the input.
        out_half_width: Half of the transition band of the output.
        conv_kernel: Width of the convolution.
        filter_size: Width of the filters, in pixels of the lower sampling rate.
        lrelu_upsampling: Sampling rate at which the leaky ReLU is applied, relative to the higher one of the two.
        use_radial_filters: Use a radially symmetric filter for downsampling.
        conv_clamp: Largest magnitude after the leaky ReLU. None: no limit.
        magnitude_ema_beta: Decay of the running mean square of the input.
    """

    up_filter: torch.Tensor | None
    down_filter: torch.Tensor | None
    magnitude_ema: torch.Tensor

    def __init__(
        self,
        w_dim: int,
        is_torgb: bool,
        is_critically_sampled: bool,
        use_fp16: bool,
        in_channels: int,
        out_channels: int,
        in_size: int | Sequence[int],
        out_size: int | Sequence[int],
        in_sampling_rate: float,
        out_sampling_rate: float,
        in_cutoff: float,
        out_cutoff: float,
        in_half_width: float,
        out_half_width: float,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
    ) -> None:
        super().__init__()
        self.w_dim, self.is_torgb, self.use_fp16 = w_dim, is_torgb, use_fp16
        self.in_channels, self.out_channels = in_channels, out_channels
        self.in_size = np.broadcast_to(np.asarray(in_size), [2])
        self.out_size = np.broadcast_to(np.asarray(out_size), [2])
        self.in_sampling_rate, self.out_sampling_rate = in_sampling_rate, out_sampling_rate
        self.conv_kernel = 1 if is_torgb else conv_kernel
        self.conv_clamp, self.magnitude_ema_beta = conv_clamp, magnitude_ema_beta

        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn(out_channels, in_channels, self.conv_kernel, self.conv_kernel))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))
        self.register_buffer('magnitude_ema', torch.ones([]))

        # The leaky ReLU is applied at a rate that is high enough for the frequencies that it creates.
        rate = max(in_sampling_rate, out_sampling_rate) * (1 if is_torgb else lrelu_upsampling)
        self.up_factor, self.down_factor = round(rate / in_sampling_rate), round(rate / out_sampling_rate)
        up_taps, down_taps = (
            1 if is_torgb or factor == 1 else filter_size * factor for factor in (self.up_factor, self.down_factor)
        )
        radial = use_radial_filters and not is_critically_sampled
        self.register_buffer('up_filter', _lowpass_filter(up_taps, in_cutoff, in_half_width, rate))
        self.register_buffer('down_filter', _lowpass_filter(down_taps, out_cutoff, out_half_width, rate, radial))
        self.padding = [side for axis in range(2) for side in self._padding(axis, up_taps + down_taps - 2)]

    def _padding(self, axis: int, filter_overhang: int) -> tuple[int, int]:
        """Return the padding before and after the upsampled map along x (0) or y (1), so that the output has its size.

        Centers of input and output coincide (appendix C.3); of an odd total the larger half comes first.
        """
        needed = (int(self.out_size[axis]) - 1) * self.down_factor + 1 + filter_overhang
        total = needed - (int(self.in_size[axis]) + self.conv_kernel - 1) * self.up_factor
        before = (total + self.up_factor) // 2
        return before, total - before

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise_mode: str = 'random',
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Compute the layer.

        Args:
            x: [N, I, H, W].
            w: [N, w_dim].
            noise_mode: Ignored: these networks have no noise. Callers may pass what other generators need.
            force_fp32: Do not compute in float16.
            update_emas: Move the running mean square of the input.
        """
        width, height = self.in_size.tolist()
        misc.assert_shape(x, [w.shape[0], self.in_channels, height, width])
        if update_emas:
            mean_square = x.detach().to(torch.float32).square().mean()
            self.magnitude_ema.copy_(mean_square.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        styles = self.affine(w)
        if self.is_torgb:
            styles = styles * (1 / np.sqrt(self.in_channels * self.conv_kernel**2))

        has_half = x.device.type == 'cuda' or getattr(self, 'half_on_cpu', False)  # the latter to be exported
        half = self.use_fp16 and not force_fp32 and has_half
        half_dtype = getattr(self, 'half_dtype', torch.float16)  # training may have chosen another type (bfloat16)
        x = modulated_conv2d(
            x.to(half_dtype if half else self.weight.dtype),
            self.weight,
            styles,
            demodulate=not self.is_torgb,
            padding=self.conv_kernel - 1,
            input_gain=self.magnitude_ema.rsqrt(),
        )
        x = filtered_lrelu.filtered_lrelu(
            x,
            fu=self.up_filter,
            fd=self.down_filter,
            b=self.bias.to(x.dtype),
            up=self.up_factor,
            down=self.down_factor,
            padding=self.padding,
            gain=1 if self.is_torgb else float(np.sqrt(2)),
            slope=1 if self.is_torgb else 0.2,
            clamp=self.conv_clamp,
        )
        width, height = self.out_size.tolist()
        misc.assert_shape(x, [w.shape[0], self.out_channels, height, width])
        return x

    def extra_repr(self) -> str:
        return (
            f'w_dim={self.w_dim}, is_torgb={self.is_torgb}, channels={self.in_channels} → {self.out_channels}, '
            f'size={self.in_size.tolist()} → {self.out_size.tolist()}, up={self.up_factor}, down={self.down_factor}'
        )


# ---------------------------------------------------------------------------------------------------------------------
# Generator


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """Turn w [N, L, w_dim] into images [N, img_channels, H, W].

    Args:
        w_dim: Size of w.
        img_resolution: Size of the images: a number for squares, [height, width] for others.
        img_channels: Number of their channels.
        channel_base: Number of channels times twice the cutoff frequency of a layer.
        channel_max: Largest number of channels of a layer.
        num_layers: Number of layers, without the conversion to RGB.
        num_critical: Number of layers at the end that are critically sampled.
        first_cutoff: Cutoff frequency of the first layer.
        first_stopband: Frequency from which on nothing passes the first layer.
        last_stopband_rel: The same of the last layer, relative to its cutoff.
        margin_size: Pixels around the image in all but the last maps.
        output_scale: Scale of the images.
        num_fp16_res: Compute the layers with the highest sampling rates in float16 on CUDA, down to the highest rate
            divided by 2^(this number - 1).
        layer_kwargs: Further arguments of `SynthesisLayer`.

    Raises:
        ValueError: The size is not possible, or some arguments contradict each other.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: Resolution,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        num_fp16_res: int = 4,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        if not 0 <= num_critical < num_layers:
            raise ValueError(f'num_critical={num_critical} must be at least 0 and less than num_layers={num_layers}')
        self.w_dim = w_dim
        self.num_ws = num_layers + 2
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.num_layers, self.num_critical = num_layers, num_critical
        self.margin_size = margin_size
        self.output_scale = output_scale
        self.num_fp16_res = num_fp16_res
        bands = _bands(
            img_resolution,
            img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            num_layers=num_layers,
            num_critical=num_critical,
            first_cutoff=first_cutoff,
            first_stopband=first_stopband,
            last_stopband_rel=last_stopband_rel,
            margin_size=margin_size,
        )
        first = bands[0]
        self.input = SynthesisInput(w_dim, first.channels, first.size, first.sampling_rate, first.cutoff)
        self.layer_names: list[str] = []
        for index, (before, band) in enumerate(zip([first, *bands], bands)):
            layer = SynthesisLayer(
                w_dim,
                is_torgb=index == num_layers,
                is_critically_sampled=index >= num_layers - num_critical,
                use_fp16=band.sampling_rate * 2**num_fp16_res > max(_sides(img_resolution)),
                **_between(before, band),
                **layer_kwargs,
            )
            # One object for the list and for the attribute, so that the same network always gives the same pickle.
            name = sys.intern(f'L{index}_{layer.out_size[0]}_{layer.out_channels}')
            setattr(self, name, layer)
            self.layer_names.append(name)

    def forward(self, ws: torch.Tensor, **layer_kwargs: Any) -> torch.Tensor:
        """Return images in float32; `layer_kwargs` are arguments of `SynthesisLayer.forward`."""
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        first, *rest = ws.to(torch.float32).unbind(dim=1)
        x = self.input(first)
        for name, w in zip(self.layer_names, rest):
            x = getattr(self, name)(x, w, **layer_kwargs)
        if self.output_scale != 1:
            x = x * self.output_scale
        height, width = _sides(self.img_resolution)
        misc.assert_shape(x, [None, self.img_channels, height, width])
        return x.to(torch.float32)

    def extra_repr(self) -> str:
        return (
            f'w_dim={self.w_dim}, num_ws={self.num_ws}, img_resolution={self.img_resolution}, '
            f'img_channels={self.img_channels}, num_layers={self.num_layers}, num_critical={self.num_critical}, '
            f'margin_size={self.margin_size}, num_fp16_res={self.num_fp16_res}'
        )


@persistence.persistent_class
class Generator(torch.nn.Module):
    """Map latents z [N, z_dim] and labels c [N, c_dim] to images [N, img_channels, H, W] in [-1, +1].

    Args:
        z_dim: Size of z.
        c_dim: Size of the label. 0: no label.
        w_dim: Size of w.
        img_resolution: Size of the images: a number for squares, [height, width] for others.
        img_channels: Number of their channels.
        mapping_kwargs: Further arguments of `MappingNetwork`.
        synthesis_kwargs: Further arguments of `SynthesisNetwork`.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: Resolution,
        img_channels: int,
        mapping_kwargs: dict[str, Any] | None = None,
        **synthesis_kwargs: Any,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        **synthesis_kwargs: Any,
    ) -> torch.Tensor:
        """Return images.

        Args:
            z: Latents.
            c: Labels; ignored if the network has none.
            truncation_psi: As in `MappingNetwork.forward`.
            truncation_cutoff: As in `MappingNetwork.forward`.
            update_emas: Move the running means of w and of the layers' magnitudes.
            synthesis_kwargs: Arguments of `SynthesisLayer.forward`.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas=update_emas)
        return self.synthesis(ws, update_emas=update_emas, **synthesis_kwargs)
