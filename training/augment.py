"""The augmentations of adaptive discriminator augmentation: `AugmentPipe`, which everything that D sees passes through.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", arXiv 2006.06676, appendix B.

Shapes: N images, C channels, H and W rows and columns. Every augmentation is drawn for each image independently.

The order is that of the paper: geometry (one affine warp for all of it), color (one 3x3 matrix and an offset),
image-space filtering, noise, cutout. All of it is differentiable in the images, twice.

Images may have an alpha channel after gray or RGB. Color transformations do not change it, because they act in the
space of colors. All other augmentations treat every channel alike: what D must not learn from the colors, it must not
learn from the outline either.

Images need not be square. Angles and scales are in pixels, so that nothing is sheared; translations and cutouts are
relative to the length of each side.

This file is long because network pickles embed its source, so that it has to be self-contained: it imports only numpy,
scipy, torch, dnnlib and the frozen names of torch_utils.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils import misc, persistence
from torch_utils.ops import grid_sample_gradfix, upfirdn2d

# Low-pass decomposition filters of two symlets, Daubechies' least asymmetric wavelets.
SYM2 = [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025]
SYM6 = [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
]

# Average power of natural images in the four bands of the filter bank, lowest band first (appendix B).
BAND_POWER = np.array([10, 1, 1, 1]) / 13


def wavelet_filter_bank() -> np.ndarray:
    """Return four zero-phase band-pass filters of one octave each, lowest band first; float64 [4, 43].

    Let l(z) and h(z) be the autocorrelations of the symlet and of its mirror image, a pair of half-band filters. The
    bands are l(z) l(z^2) l(z^4), l(z) l(z^2) h(z^4), l(z) h(z^2) and h(z), and their sum is 1 (appendix B).
    """
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(low.size)
    low = np.convolve(low, low[::-1]) / 2
    high = np.convolve(high, high[::-1]) / 2

    def spread(taps: np.ndarray, step: int) -> np.ndarray:
        spaced = np.zeros((taps.size - 1) * step + 1)
        spaced[::step] = taps
        return spaced

    lows = [np.ones(1)]
    for step in (1, 2, 4):
        lows.append(np.convolve(lows[-1], spread(low, step)))
    bands = [lows[3]] + [np.convolve(lows[level], spread(high, 2**level)) for level in (2, 1, 0)]
    return np.stack([np.pad(band, (lows[3].size - band.size) // 2) for band in bands])


class Draws:
    """Random numbers for a batch of images.

    Args:
        n: Number of images.
        device: Device of the numbers.
        percentile: Replace each number by this quantile of its distribution, and augment every image. Golden values
            are made like this. None: draw at random.
    """

    def __init__(self, n: int, device: torch.device, percentile: float | None = None):
        self.n = n
        self.device = device
        self.percentile = percentile

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw numbers from [0, 1), [N, *shape]."""
        if self.percentile is not None:
            return torch.full([self.n, *shape], float(self.percentile), device=self.device)
        return torch.rand([self.n, *shape], device=self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw standard normal numbers, [N, *shape].

        As the quantile, the golden values use erfinv(2q - 1), which lacks a factor of sqrt(2).
        """
        if self.percentile is not None:
            return torch.erfinv(self.uniform(*shape) * 2 - 1)
        return torch.randn([self.n, *shape], device=self.device)

    def apply(self, probability: float | torch.Tensor, value: torch.Tensor, neutral: float) -> torch.Tensor:
        """Return `value` [N, ...] for each image with this probability, and `neutral` for the others."""
        if self.percentile is not None:
            return value
        chosen = torch.rand([self.n] + [1] * (value.ndim - 1), device=self.device) < probability
        return torch.where(chosen, value, torch.full_like(value, neutral))


# ---------------------------------------------------------------------------------------------------------------------
# Affine maps of the plane as matrices [N, 3, 3]


def affine(like: torch.Tensor, *rows: float | torch.Tensor) -> torch.Tensor:
    """Return the matrices of the map x -> a x + b y + tx, y -> c x + d y + ty.

    Args:
        like: Tensor [N] of the dtype and device of the result.
        rows: a, b, tx, c, d, ty; each is a number or a tensor [N].
    """
    entries = [v if isinstance(v, torch.Tensor) else torch.full_like(like, float(v)) for v in (*rows, 0, 0, 1)]
    return torch.stack(entries, dim=-1).reshape(*like.shape, 3, 3)


def scaling(sx: torch.Tensor, sy: float | torch.Tensor) -> torch.Tensor:
    """Return the matrices that scale by `sx` [N] and `sy`."""
    return affine(sx, sx, 0, 0, 0, sy, 0)


def translation(tx: torch.Tensor, ty: torch.Tensor) -> torch.Tensor:
    """Return the matrices that translate by `tx` and `ty` [N]."""
    return affine(tx, 1, 0, tx, 0, 1, ty)


def rotation(theta: torch.Tensor) -> torch.Tensor:
    """Return the matrices that rotate by `theta` [N], in radians."""
    cos, sin = torch.cos(theta), torch.sin(theta)
    return affine(theta, cos, -sin, 0, sin, cos, 0)


def plane_map(x_scale: float, y_scale: float, x_shift: float, y_shift: float) -> np.ndarray:
    """Return the matrix that scales and shifts all images alike, float64 [3, 3]."""
    return np.array([[x_scale, 0, x_shift], [0, y_scale, y_shift], [0, 0, 1]], dtype=np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# The pipe


@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    """Random augmentations of images [N, C, H, W] in [-1, +1]: gray, gray and alpha, RGB, or RGB and alpha.

    The arguments without a unit are multipliers: an augmentation is applied to an image with the probability of its
    multiplier times `p`, a buffer that the ADA controller adjusts. A multiplier of 0 disables the augmentation.

    Args:
        xflip: Mirror half of the chosen images horizontally.
        rotate90: Rotate by a random multiple of 90 degrees, or of 180 degrees if the images are not square, since
            such an image would lose its ends if it were turned on its side.
        xint: Translate by a whole number of pixels.
        xint_max: Largest translation by `xint`, relative to the size.
        scale: Scale by 2^N(0, scale_std).
        rotate: Rotate by a random angle.
        aniso: Scale by 2^N(0, aniso_std) in one direction and by its inverse in the other.
        xfrac: Translate by N(0, xfrac_std) of the size.
        scale_std: Standard deviation of `scale`, in octaves.
        rotate_max: Largest angle of `rotate`, in half turns.
        aniso_std: Standard deviation of `aniso`, in octaves.
        xfrac_std: Standard deviation of `xfrac`, relative to the size.
        brightness: Add N(0, brightness_std).
        contrast: Multiply by 2^N(0, contrast_std).
        lumaflip: Invert the luma of half of the chosen images.
        hue: Rotate the colors around the luma axis.
        saturation: Multiply the chroma by 2^N(0, saturation_std).
        brightness_std: Standard deviation of `brightness`.
        contrast_std: Standard deviation of `contrast`, in octaves.
        hue_max: Largest angle of `hue`, in half turns.
        saturation_std: Standard deviation of `saturation`, in octaves.
        imgfilter: Multiply frequency bands by 2^N(0, imgfilter_std).
        imgfilter_bands: A multiplier for each of the four bands of `imgfilter`, lowest band first.
        imgfilter_std: Standard deviation of `imgfilter`, in octaves.
        noise: Add Gaussian noise of strength |N(0, noise_std)|.
        cutout: Set a rectangle to zero.
        noise_std: Standard deviation of the strength of `noise`.
        cutout_size: Sides of the rectangle of `cutout`, relative to the size.
    """

    if TYPE_CHECKING:  # each argument is also an attribute

        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        xint_max: float = 0.125,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        scale_std: float = 0.2,
        rotate_max: float = 1,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1,
        saturation_std: float = 1,
        imgfilter: float = 0,
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),
        imgfilter_std: float = 1,
        noise: float = 0,
        cutout: float = 0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
    ) -> None:
        super().__init__()
        numbers = {
            name: float(value)
            for name, value in locals().items()
            if name not in ('self', '__class__', 'imgfilter_bands')
        }
        self.__dict__.update(numbers)
        self.imgfilter_bands = list(imgfilter_bands)
        if len(self.imgfilter_bands) != len(BAND_POWER):
            raise ValueError(f'imgfilter_bands={imgfilter_bands!r}: must have {len(BAND_POWER)} numbers')

        self.register_buffer('p', torch.ones([]))  # multiplier of all probabilities
        self.register_buffer('Hz_geom', upfirdn2d.setup_filter(SYM6))  # [12]
        self.register_buffer('Hz_fbank', torch.as_tensor(wavelet_filter_bank(), dtype=torch.float32))  # [4, 43]

    def forward(self, images: torch.Tensor, debug_percentile: float | None = None) -> torch.Tensor:
        """Augment images.

        Args:
            images: [N, C, H, W] in [-1, +1].
            debug_percentile: Replace every random number by this quantile of its distribution, a number in (0, 1).

        Returns:
            [N, C, H, W] augmented images.

        Raises:
            ValueError: The images do not have 1 to 4 channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 2, 3, 4):
            raise ValueError(
                f'images must be [N, C, H, W] with 1 channel (gray) or 3 (RGB), or one more (alpha), '
                f'but have shape {list(images.shape)}'
            )
        if images.shape[0] == 0:
            return images
        draws = Draws(images.shape[0], images.device, debug_percentile)
        images = self._warp(images, draws)
        images = self._recolor(images, draws)
        images = self._filter(images, draws)
        images = self._add_noise(images, draws)
        return self._cut_out(images, draws)

    # Geometry

    def _warp(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        steps = self._geometry(draws, *images.shape[2:])
        if not steps:
            return images
        inverse = steps[0]
        for step in steps[1:]:
            inverse = inverse @ step
        return warp_affine(images, inverse, self.Hz_geom)

    def _geometry(self, draws: Draws, height: int, width: int) -> list[torch.Tensor]:
        """Return the inverses [N, 3, 3] of the chosen transformations in their order.

        Each maps the place that a pixel goes to, to the place that it comes from, in pixels from the center of the
        image.
        """
        return [*self._pixel_blitting(draws, height, width), *self._general_geometry(draws, height, width)]

    def _pixel_blitting(self, draws: Draws, height: int, width: int) -> list[torch.Tensor]:
        """Flips, rotations by 90 degrees and integer translations."""
        steps = []
        if self.xflip > 0:
            side = draws.apply(self.xflip * self.p, (draws.uniform() * 2).floor(), 0)
            steps.append(scaling(1 - 2 * side, 1))
        if self.rotate90 > 0:
            turns = 4 if height == width else 2
            turned = draws.apply(self.rotate90 * self.p, (draws.uniform() * turns).floor(), 0)
            steps.append(rotation(turned * (2 * math.pi / turns)))
        if self.xint > 0:
            shift = draws.apply(self.xint * self.p, (draws.uniform(2) * 2 - 1) * self.xint_max, 0)
            steps.append(translation((shift[:, 0] * -width).round(), (shift[:, 1] * -height).round()))
        return steps

    def _general_geometry(self, draws: Draws, height: int, width: int) -> list[torch.Tensor]:
        """Scaling, rotation, anisotropic scaling and fractional translation."""
        steps = []
        if self.scale > 0:
            factor = draws.apply(self.scale * self.p, (draws.normal() * self.scale_std).exp2(), 1)
            steps.append(scaling(1 / factor, 1 / factor))
        # Two rotations, before and after anisotropic scaling, each with a probability such that either happens with
        # the intended one: 1 - (1 - p_rotate)^2 (appendix B).
        p_rotate = 1 - (1 - self.rotate * self.p).clamp(0, 1).sqrt()
        if self.rotate > 0:
            steps.append(self._random_rotation(draws, p_rotate))
        if self.aniso > 0:
            factor = draws.apply(self.aniso * self.p, (draws.normal() * self.aniso_std).exp2(), 1)
            steps.append(scaling(1 / factor, factor))
        if self.rotate > 0 and draws.percentile is None:
            steps.append(self._random_rotation(draws, p_rotate))
        if self.xfrac > 0:
            shift = draws.apply(self.xfrac * self.p, draws.normal(2) * self.xfrac_std, 0)
            steps.append(translation(shift[:, 0] * -width, shift[:, 1] * -height))
        return steps

    def _random_rotation(self, draws: Draws, probability: torch.Tensor) -> torch.Tensor:
        angle = (draws.uniform() * 2 - 1) * (math.pi * self.rotate_max)
        return rotation(draws.apply(probability, angle, 0))

    # Color

    def _recolor(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Apply all color transformations at once (appendix B).

        In the basis of the luma axis and the chroma plane, they are luma -> luma_factor (luma + brightness), and chroma
        -> chroma_factor times the chroma rotated by an angle.
        """
        if images.shape[1] in (2, 4):
            return torch.cat([self._recolor(images[:, :-1], draws), images[:, -1:]], dim=1)
        rgb = images.shape[1] == 3
        changed = self.brightness > 0 or self.contrast > 0 or self.lumaflip > 0
        if not changed and not (rgb and (self.hue > 0 or self.saturation > 0)):
            return images

        brightness = angle = images.new_zeros([draws.n], dtype=torch.float32)
        luma_factor = chroma_factor = images.new_ones([draws.n], dtype=torch.float32)
        if self.brightness > 0:
            brightness = draws.apply(self.brightness * self.p, draws.normal() * self.brightness_std, 0)
        if self.contrast > 0:
            contrast = draws.apply(self.contrast * self.p, (draws.normal() * self.contrast_std).exp2(), 1)
            luma_factor = chroma_factor = contrast
        if self.lumaflip > 0:
            side = draws.apply(self.lumaflip * self.p, (draws.uniform() * 2).floor(), 0)
            luma_factor = luma_factor * (1 - 2 * side)
        if rgb and self.hue > 0:
            angle = draws.apply(self.hue * self.p, (draws.uniform() * 2 - 1) * (math.pi * self.hue_max), 0)
        if rgb and self.saturation > 0:
            saturation = draws.apply(self.saturation * self.p, (draws.normal() * self.saturation_std).exp2(), 1)
            chroma_factor = chroma_factor * saturation

        offset = (luma_factor * brightness).to(images.dtype).reshape(-1, 1, 1)
        if not rgb:
            return images * luma_factor.to(images.dtype).reshape(-1, 1, 1, 1) + offset[..., None]
        colors = color_matrix(luma_factor, chroma_factor, angle).to(images.dtype)  # [N, 3, 3]
        return torch.baddbmm(offset, colors, images.flatten(2)).reshape(images.shape)

    # Image-space filtering

    def _filter(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Amplify or attenuate each frequency band (appendix B).

        The filter of an image is the same for rows and columns. It is applied as a matrix, which also mirrors the image
        at its borders.
        """
        if self.imgfilter <= 0:
            return images
        power = misc.constant(BAND_POWER, dtype=torch.float32, device=images.device)
        gains = torch.ones([draws.n, len(BAND_POWER)], device=images.device)
        for band, strength in enumerate(self.imgfilter_bands):
            if strength <= 0 and draws.percentile is not None:
                continue
            gain = (draws.normal() * self.imgfilter_std).exp2()
            one_band = torch.ones_like(gains)
            one_band[:, band] = draws.apply(self.imgfilter * self.p * strength, gain, 1)
            gains = gains * one_band / (power * one_band.square()).sum(dim=1, keepdim=True).sqrt()

        n, c, h, w = images.shape
        taps = (gains.to(self.Hz_fbank.dtype) @ self.Hz_fbank).to(images.dtype)  # [N, 43]
        along_y, along_x = reflecting_matrix(taps, h), reflecting_matrix(taps, w)  # [N, H, H], [N, W, W]
        images = images.reshape(n, c * h, w) @ along_x.mT  # [N, C H, W]
        return along_y[:, None] @ images.reshape(n, c, h, w)  # [N, C, H, W]

    # Corruption

    def _add_noise(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        if self.noise <= 0:
            return images
        sigma = draws.apply(self.noise * self.p, draws.normal(1, 1, 1).abs() * self.noise_std, 0)
        return images + torch.randn_like(images) * sigma.to(images.dtype)

    def _cut_out(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        if self.cutout <= 0:
            return images
        size = draws.apply(self.cutout * self.p, torch.full([draws.n], self.cutout_size, device=images.device), 0)
        size = size.reshape(-1, 1)
        center = draws.uniform(2)  # [N, (x, y)]
        inside = []
        for length, middle in ((images.shape[3], center[:, :1]), (images.shape[2], center[:, 1:])):
            position = (torch.arange(length, device=images.device) + 0.5) / length
            inside.append((position - middle).abs() < size / 2)  # [N, W], [N, H]
        keep = ~(inside[0][:, None, :] & inside[1][:, :, None])  # [N, H, W]
        return images * keep[:, None].to(images.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Warping, color matrices, filter matrices


def warp_affine(images: torch.Tensor, inverse: torch.Tensor, lowpass: torch.Tensor) -> torch.Tensor:
    """Transform images by affine maps without aliasing, as if they were mirrored beyond their borders.

    The images are upsampled by 2, sampled bilinearly on a grid of twice the density, and downsampled again (appendix
    B).

    Args:
        images: [N, C, H, W].
        inverse: [N, 3, 3] maps to the place that each pixel comes from, in pixels from the center.
        lowpass: [k] low-pass filter for up- and downsampling.

    Returns:
        [N, C, H, W] images.
    """
    height, width = images.shape[2:]
    spare = lowpass.shape[0] // 4  # pixels that the filter removes on each side
    farthest = max(height, width) - 1
    is_periodic = images.is_cuda and min(height, width) > 1  # a single pixel has no mirror image
    if is_periodic:
        left, right, top, bottom = spare, width - 1 + spare, spare, height - 1 + spare
    else:
        left, right, top, bottom = _reflection_margins(inverse, height, width, spare, farthest)
    images = reflect(images, left, right, top, bottom)
    images = upfirdn2d.upsample2d(images, lowpass, up=2)

    # The coordinates of the grid run from -1 to +1 over the result with `spare` pixels on each side. Convert them to
    # pixels from the center of the image, apply `inverse`, and convert those to coordinates of the padded, upsampled
    # image, whose center has moved. Upsampling by 2 moves the centers of pixels by half of a fine pixel.
    half_w, half_h = width / 2 + spare, height / 2 + spare
    to_pixels_map = plane_map(half_w, half_h, 0.25, 0.25)
    padded_w, padded_h = (left + width + right) / 2, (top + height + bottom) / 2
    from_pixels_map = plane_map(
        1 / padded_w, 1 / padded_h, ((left - right) / 2 - 0.25) / padded_w, ((top - bottom) / 2 - 0.25) / padded_h
    )
    to_pixels = misc.constant(to_pixels_map, dtype=inverse.dtype, device=inverse.device)
    from_pixels = misc.constant(from_pixels_map, dtype=inverse.dtype, device=inverse.device)
    theta = (from_pixels @ inverse @ to_pixels)[:, :2].to(images.dtype)  # [N, 2, 3]
    grid = _sampling_grid(theta, (height + 2 * spare) * 2, (width + 2 * spare) * 2)  # [N, H', W', 2]
    if is_periodic:
        grid = _into_one_period(grid, height, width, spare, farthest)
    images = grid_sample_gradfix.grid_sample(images, grid)
    return upfirdn2d.downsample2d(images, lowpass, down=2, padding=-2 * spare, flip_filter=True)


def _into_one_period(grid: torch.Tensor, height: int, width: int, spare: int, farthest: int) -> torch.Tensor:
    """Return the coordinates in one period of the mirrored image that have the same values.

    An image mirrored about the centers of its outer pixels repeats itself after 2 (size - 1) pixels, and so does the
    upsampled one. One period is therefore all that has to be padded, wherever the transformed images reach. Its size is
    known without looking at the maps, so that nothing waits for the GPU, and a CUDA graph can contain it. (A mirrored
    coordinate would be half of that, but the filter is not symmetric.)

    Args:
        grid: [N, H', W', 2] coordinates of the padded image, where -1 and +1 are its borders.
        height: Rows of the image itself.
        width: Columns of the image itself.
        spare: Pixels before the first one of the image; the period and as many pixels follow.
        farthest: What is farther than this from the image, in pixels, is zero: as with padding by what is needed, which
            is limited to this.
    """
    sizes = np.array([width, height])  # (x, y)
    padded = 2 * sizes - 1 + 2 * spare
    # In coordinates of the grid: a pixel, the first pixel, the period, and the limits
    pixel = 2 / padded
    first = (2 * spare + 0.5) / padded - 1
    low, high = first - (farthest + 0.5) * pixel, first + (sizes - 1 + farthest + 1) * pixel
    constants = np.stack([first, 2 * (sizes - 1) * pixel, low, high])
    first_, period, low_, high_ = misc.constant(constants, dtype=grid.dtype, device=grid.device).unbind()
    folded = (grid - first_).remainder(period) + first_
    return torch.where((grid > low_) & (grid < high_), folded, 3)  # beyond the border, where the value is zero


def reflect(images: torch.Tensor, left: int, right: int, top: int, bottom: int) -> torch.Tensor:
    """Pad images [N, C, H, W] by reflection about the centers of their outer pixels, repeatedly if necessary.

    PyTorch's own gradient of this is not deterministic on CUDA. That of copies is.
    """
    by_copies = images.is_cuda and torch.are_deterministic_algorithms_enabled()
    while left or right or top or bottom:
        height, width = images.shape[2:]
        now = [min(left, width - 1), min(right, width - 1), min(top, height - 1), min(bottom, height - 1)]
        if by_copies:
            images = mirror(mirror(images, now[0], now[1], dim=3), now[2], now[3], dim=2)
        else:
            images = F.pad(images, now, mode='reflect')
        left, right, top, bottom = left - now[0], right - now[1], top - now[2], bottom - now[3]
    return images


def mirror(images: torch.Tensor, before: int, after: int, dim: int) -> torch.Tensor:
    """Pad images by reflection along one dimension, by less than its size on each side."""
    size = images.shape[dim]
    first = images.narrow(dim, 1, before).flip(dim)
    last = images.narrow(dim, size - 1 - after, after).flip(dim)
    return torch.cat([first, images, last], dim=dim)


def _sampling_grid(theta: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return `affine_grid(theta, ...)` with `align_corners=False`, by sums instead of a matrix product.

    Args:
        theta: [N, 2, 3] affine maps.
        height: Rows of the grid, H.
        width: Columns of the grid, W.

    Returns:
        [N, H, W, 2] grid.
    """
    rows = (torch.arange(height, device=theta.device, dtype=theta.dtype) * 2 + 1) / height - 1  # [H]
    columns = (torch.arange(width, device=theta.device, dtype=theta.dtype) * 2 + 1) / width - 1  # [W]
    along_x = columns[:, None] * theta[:, None, :, 0]  # [N, W, 2]
    along_y = rows[:, None] * theta[:, None, :, 1] + theta[:, None, :, 2]  # [N, H, 2]
    return along_x[:, None] + along_y[:, :, None]


def _reflection_margins(inverse: torch.Tensor, height: int, width: int, spare: int, farthest: int) -> list[int]:
    """Return how far the batch reaches beyond the images, in pixels, at most `farthest`: [left, right, top, bottom]."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = misc.constant(
        [[-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1]], dtype=inverse.dtype, device=inverse.device
    )  # [(x, y, 1), 4 corners]
    sources = (inverse @ corners)[:, :2]  # [N, (x, y), 4]
    reach = torch.stack(
        [-sources.amin(dim=(0, 2)), sources.amax(dim=(0, 2))], dim=1
    ).tolist()  # [(x, y), (before, after)]
    margins = []
    for both, center, size in zip(reach, (cx, cy), (width, height)):
        limit = farthest if size > 1 else 0  # a single pixel has no mirror image
        margins += [math.ceil(min(max(side + 2 * spare - center, 0), limit)) for side in both]
    return margins


def color_matrix(luma_factor: torch.Tensor, chroma_factor: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return matrices that scale along the axis (1, 1, 1), and scale and rotate in the plane perpendicular to it.

    Args:
        luma_factor: [N] scales along the axis.
        chroma_factor: [N] scales in the plane.
        angle: [N] rotations in the plane, in radians.

    Returns:
        [N, 3, 3] matrices.
    """
    along = np.full([3, 3], 1 / 3)
    across = np.eye(3) - along
    turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # cross product with (1, 1, 1) / sqrt(3)
    matrices = np.stack([along, across, turn]).reshape(3, 9)
    basis = misc.constant(matrices, dtype=luma_factor.dtype, device=luma_factor.device)
    weights = [luma_factor, chroma_factor * torch.cos(angle), chroma_factor * torch.sin(angle)]
    return (torch.stack(weights, dim=1) @ basis).reshape(-1, 3, 3)


def reflecting_matrix(taps: torch.Tensor, size: int) -> torch.Tensor:
    """Return the matrices [N, size, size] that filter rows of `size` pixels, mirrored at both borders.

    Args:
        taps: [N, k] symmetric filters.
        size: Number of pixels. The reflection repeats if a filter is longer.
    """
    k = taps.shape[1]
    period = max(2 * (size - 1), 1)
    source = np.abs(np.arange(size)[:, None] + np.arange(k) - k // 2) % period  # [size, k]
    source = misc.constant(np.minimum(source, period - source), dtype=torch.int64, device=taps.device)
    matrices = taps.new_zeros([taps.shape[0], size, size])
    return matrices.scatter_add(2, source.expand(taps.shape[0], -1, -1), taps[:, None, :].expand(-1, size, -1))
