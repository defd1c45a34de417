"""The augmentations of ADA (Karras et al., "Training Generative Adversarial Networks with Limited Data",
arXiv 2006.06676, appendix B): everything the discriminator sees passes through `AugmentPipe`.

Legend: N images, C channels, H and W rows and columns. Every augmentation is drawn for each image on its own.

The order is that of the paper: geometry (one affine warp for all of it), colour (one 3x3 matrix and an offset),
image-space filtering, noise, cutout. All of it is differentiable in the images, twice.

Images may have an alpha channel behind gray or RGB. Colour transformations leave it alone: they act in the space of
colours, to which it does not belong. Everything else is about places in the image, and treats all channels alike: what
the discriminator is not to see of the colours it must not see in the outline either.

Images need not be square. Angles and scales are in pixels, so that nothing is sheared; translations and cutouts are
shares of each side.

This file is embedded in network pickles as text, and must therefore import nothing but numpy, scipy, torch, dnnlib
and the frozen names of torch_utils.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils import misc, persistence
from torch_utils.ops import grid_sample_gradfix, upfirdn2d

# Low-pass decomposition filters of two of Daubechies' symlets.
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

# Average power of natural images in the four bands of the filter bank, lowest first (appendix B.3).
BAND_POWER = np.array([10, 1, 1, 1]) / 13


def wavelet_filter_bank():
    """Four zero-phase band-pass filters of one octave each, lowest band first; float64 array [4, 43].

    With the half-band pair l(z), h(z) that the symlet and its mirror image give as autocorrelations, the bands are
    l(z) l(z^2) l(z^4), l(z) l(z^2) h(z^4), l(z) h(z^2) and h(z): together they make 1.
    """
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(low.size)
    low = np.convolve(low, low[::-1]) / 2
    high = np.convolve(high, high[::-1]) / 2

    def spread(taps, step):
        spaced = np.zeros((taps.size - 1) * step + 1)
        spaced[::step] = taps
        return spaced

    lows = [np.ones(1)]
    for step in (1, 2, 4):
        lows.append(np.convolve(lows[-1], spread(low, step)))
    bands = [lows[3]] + [np.convolve(lows[level], spread(high, 2**level)) for level in (2, 1, 0)]
    return np.stack([np.pad(band, (lows[3].size - band.size) // 2) for band in bands])


class Draws:
    """Random numbers for a batch of n images, on a device.

    With a percentile nothing is random: each number is that quantile of its distribution, and everything happens to
    every image (golden values are made so).
    """

    def __init__(self, n, device, percentile=None):
        self.n = n
        self.device = device
        self.percentile = percentile

    def uniform(self, *shape):
        """Numbers from [0, 1), [N, *shape]."""
        if self.percentile is not None:
            return torch.full([self.n, *shape], float(self.percentile), device=self.device)
        return torch.rand([self.n, *shape], device=self.device)

    def normal(self, *shape):
        """Standard normal numbers, [N, *shape]. The quantile is erfinv(2q - 1), a factor sqrt(2) short: so the golden
        values have it."""
        if self.percentile is not None:
            return torch.erfinv(self.uniform(*shape) * 2 - 1)
        return torch.randn([self.n, *shape], device=self.device)

    def unless(self, probability, value, neutral):
        """`value` [N, ...] for the share `probability` of the images, `neutral` for the others."""
        if self.percentile is not None:
            return value
        chosen = torch.rand([self.n] + [1] * (value.ndim - 1), device=self.device) < probability
        return torch.where(chosen, value, torch.full_like(value, neutral))


# ----------------------------------------------------------------------------------------------------------------
# Affine maps of the plane as matrices [N, 3, 3], from numbers or tensors [N].


def affine(like, a, b, tx, c, d, ty):
    """x -> a x + b y + tx, y -> c x + d y + ty; each coefficient is a number or a tensor of the shape of `like`."""
    rows = [a, b, tx, c, d, ty, 0, 0, 1]
    rows = [v if isinstance(v, torch.Tensor) else torch.full_like(like, float(v)) for v in rows]
    return torch.stack(rows, dim=-1).reshape(*like.shape, 3, 3)


def scaling(sx, sy):
    return affine(sx, sx, 0, 0, 0, sy, 0)


def translation(tx, ty):
    return affine(tx, 1, 0, tx, 0, 1, ty)


def rotation(theta):
    cos, sin = torch.cos(theta), torch.sin(theta)
    return affine(theta, cos, -sin, 0, sin, cos, 0)


def plane_map(x_scale, y_scale, x_shift, y_shift):
    """The same scaling and shift for all images, float64 array [3, 3]."""
    return np.array([[x_scale, 0, x_shift], [0, y_scale, y_shift], [0, 0, 1]], dtype=np.float64)


# ----------------------------------------------------------------------------------------------------------------


@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    """Random augmentations of images [N, C, H, W] in [-1, +1]: gray, gray and alpha, RGB, or RGB and alpha.

    Each of the first arguments of a group is a multiplier: the augmentation happens to an image with the probability
    multiplier times `p`, a buffer that the ADA controller moves. 0 leaves it out altogether.

    Args:
        xflip: mirror, for half of the images chosen.
        rotate90: turn by a random multiple of 90 degrees; of 180 degrees where images are not square, since on its side
            such an image would lose its ends and gain what is not in it.
        xint: translate by whole pixels, up to `xint_max` of the size.
        scale, rotate, aniso, xfrac: isotropic scaling by 2^N(0, scale_std); rotation by up to `rotate_max` half turns;
            anisotropic scaling by 2^N(0, aniso_std); translation by N(0, xfrac_std) of the size.
        brightness, contrast, lumaflip, hue, saturation: offset N(0, brightness_std); factor 2^N(0, contrast_std);
            mirrored luma for half of the images chosen; rotation around the luma axis by up to `hue_max` half turns;
            factor 2^N(0, saturation_std) on what is not luma.
        imgfilter: gain 2^N(0, imgfilter_std) on frequency bands; `imgfilter_bands` has a multiplier for each of four,
            lowest first.
        noise: additive Gaussian noise of strength |N(0, noise_std)|.
        cutout: zeros in a rectangle of `cutout_size` times the size.
    """

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
    ):
        super().__init__()
        numbers = {
            name: float(value)
            for name, value in locals().items()
            if name not in ('self', '__class__', 'imgfilter_bands')
        }
        self.__dict__.update(numbers)
        self.imgfilter_bands = list(imgfilter_bands)
        if len(self.imgfilter_bands) != len(BAND_POWER):
            raise ValueError(f'AugmentPipe: imgfilter_bands={imgfilter_bands!r} must have {len(BAND_POWER)} numbers')

        self.register_buffer('p', torch.ones([]))  # Overall multiplier for the probabilities.
        self.register_buffer('Hz_geom', upfirdn2d.setup_filter(SYM6))  # [12]
        self.register_buffer('Hz_fbank', torch.as_tensor(wavelet_filter_bank(), dtype=torch.float32))  # [4, 43]

    def forward(self, images, debug_percentile=None):
        """Return the images augmented; with `debug_percentile` in (0, 1) every draw takes that quantile."""
        if images.ndim != 4 or images.shape[1] not in (1, 2, 3, 4):
            raise ValueError(
                f'AugmentPipe: images must be [N, C, H, W] with 1 channel (gray) or 3 (RGB), or one more '
                f'(alpha), but have the shape {list(images.shape)}'
            )
        if images.shape[0] == 0:
            return images
        draws = Draws(images.shape[0], images.device, debug_percentile)
        images = self._warp(images, draws)
        images = self._recolour(images, draws)
        images = self._filter(images, draws)
        images = self._add_noise(images, draws)
        return self._cut_out(images, draws)

    # Geometry.

    def _warp(self, images, draws):
        steps = self._geometry(draws, *images.shape[2:])
        if not steps:
            return images
        inverse = steps[0]
        for step in steps[1:]:
            inverse = inverse @ step
        return warp_affine(images, inverse, self.Hz_geom)

    def _geometry(self, draws, height, width):
        """The chosen transformations, each as the map [N, 3, 3] from where a pixel goes to where it comes from, in
        pixels around the centre of the image."""
        steps = []
        if self.xflip > 0:
            side = draws.unless(self.xflip * self.p, (draws.uniform() * 2).floor(), 0)
            steps.append(scaling(1 - 2 * side, 1))
        if self.rotate90 > 0:
            turns = 4 if height == width else 2
            turned = draws.unless(self.rotate90 * self.p, (draws.uniform() * turns).floor(), 0)
            steps.append(rotation(turned * (2 * math.pi / turns)))
        if self.xint > 0:
            shift = draws.unless(self.xint * self.p, (draws.uniform(2) * 2 - 1) * self.xint_max, 0)
            steps.append(translation((shift[:, 0] * -width).round(), (shift[:, 1] * -height).round()))
        if self.scale > 0:
            factor = draws.unless(self.scale * self.p, (draws.normal() * self.scale_std).exp2(), 1)
            steps.append(scaling(1 / factor, 1 / factor))
        # Two rotations, before and after the anisotropic scaling; that either happens has the probability wanted:
        # 1 - (1 - p_rotate)^2.
        p_rotate = 1 - (1 - self.rotate * self.p).clamp(0, 1).sqrt()
        if self.rotate > 0:
            angle = (draws.uniform() * 2 - 1) * (math.pi * self.rotate_max)
            steps.append(rotation(draws.unless(p_rotate, angle, 0)))
        if self.aniso > 0:
            factor = draws.unless(self.aniso * self.p, (draws.normal() * self.aniso_std).exp2(), 1)
            steps.append(scaling(1 / factor, factor))
        if self.rotate > 0 and draws.percentile is None:
            angle = (draws.uniform() * 2 - 1) * (math.pi * self.rotate_max)
            steps.append(rotation(draws.unless(p_rotate, angle, 0)))
        if self.xfrac > 0:
            shift = draws.unless(self.xfrac * self.p, draws.normal(2) * self.xfrac_std, 0)
            steps.append(translation(shift[:, 0] * -width, shift[:, 1] * -height))
        return steps

    # Colour.

    def _recolour(self, images, draws):
        """In the basis of the luma axis and the chroma plane every colour transformation is a few numbers:
        luma -> luma_factor (luma + brightness), chroma -> chroma_factor times chroma turned by an angle."""
        if images.shape[1] in (2, 4):
            return torch.cat([self._recolour(images[:, :-1], draws), images[:, -1:]], dim=1)
        rgb = images.shape[1] == 3
        changed = self.brightness > 0 or self.contrast > 0 or self.lumaflip > 0
        if not changed and not (rgb and (self.hue > 0 or self.saturation > 0)):
            return images

        brightness = angle = images.new_zeros([draws.n], dtype=torch.float32)
        luma_factor = chroma_factor = images.new_ones([draws.n], dtype=torch.float32)
        if self.brightness > 0:
            brightness = draws.unless(self.brightness * self.p, draws.normal() * self.brightness_std, 0)
        if self.contrast > 0:
            contrast = draws.unless(self.contrast * self.p, (draws.normal() * self.contrast_std).exp2(), 1)
            luma_factor = chroma_factor = contrast
        if self.lumaflip > 0:
            side = draws.unless(self.lumaflip * self.p, (draws.uniform() * 2).floor(), 0)
            luma_factor = luma_factor * (1 - 2 * side)
        if rgb and self.hue > 0:
            angle = draws.unless(self.hue * self.p, (draws.uniform() * 2 - 1) * (math.pi * self.hue_max), 0)
        if rgb and self.saturation > 0:
            saturation = draws.unless(self.saturation * self.p, (draws.normal() * self.saturation_std).exp2(), 1)
            chroma_factor = chroma_factor * saturation

        offset = (luma_factor * brightness).to(images.dtype).reshape(-1, 1, 1)
        if not rgb:
            return images * luma_factor.to(images.dtype).reshape(-1, 1, 1, 1) + offset[..., None]
        colours = colour_matrix(luma_factor, chroma_factor, angle).to(images.dtype)  # N 3 3
        return torch.baddbmm(offset, colours, images.flatten(2)).reshape(images.shape)

    # Image-space filtering.

    def _filter(self, images, draws):
        """Amplify or reduce each frequency band. The filters of an image are the same for rows and columns, and are
        applied as matrices, reflection at the borders included."""
        if self.imgfilter <= 0:
            return images
        power = misc.constant(BAND_POWER, dtype=torch.float32, device=images.device)
        gains = torch.ones([draws.n, len(BAND_POWER)], device=images.device)
        for band, strength in enumerate(self.imgfilter_bands):
            if strength <= 0 and draws.percentile is not None:
                continue
            gain = (draws.normal() * self.imgfilter_std).exp2()
            one_band = torch.ones_like(gains)
            one_band[:, band] = draws.unless(self.imgfilter * self.p * strength, gain, 1)
            gains = gains * one_band / (power * one_band.square()).sum(dim=1, keepdim=True).sqrt()

        n, c, h, w = images.shape
        taps = (gains.to(self.Hz_fbank.dtype) @ self.Hz_fbank).to(images.dtype)  # N 43
        along_y, along_x = reflecting_matrix(taps, h), reflecting_matrix(taps, w)  # N H H, N W W
        images = images.reshape(n, c * h, w) @ along_x.mT  # N CH W
        return along_y[:, None] @ images.reshape(n, c, h, w)  # N C H W

    # Corruption.

    def _add_noise(self, images, draws):
        if self.noise <= 0:
            return images
        sigma = draws.unless(self.noise * self.p, draws.normal(1, 1, 1).abs() * self.noise_std, 0)
        return images + torch.randn_like(images) * sigma.to(images.dtype)

    def _cut_out(self, images, draws):
        if self.cutout <= 0:
            return images
        size = draws.unless(self.cutout * self.p, torch.full([draws.n], self.cutout_size, device=images.device), 0)
        size = size.reshape(-1, 1)
        centre = draws.uniform(2)  # N (x, y)
        inside = []
        for length, middle in ((images.shape[3], centre[:, :1]), (images.shape[2], centre[:, 1:])):
            position = (torch.arange(length, device=images.device) + 0.5) / length
            inside.append((position - middle).abs() < size / 2)  # N W, N H
        keep = ~(inside[0][:, None, :] & inside[1][:, :, None])  # N H W
        return images * keep[:, None].to(images.dtype)


# ----------------------------------------------------------------------------------------------------------------


def warp_affine(images, inverse, lowpass):
    """Move the pixels of images [N, C, H, W] by affine maps, band-limited, as if the images were mirrored outside.

    `inverse` [N, 3, 3] tells where each pixel comes from, in pixels around the centre. The images are upsampled by 2
    with the filter `lowpass` [k], sampled bilinearly on a grid of twice the density, and downsampled again.
    """
    n, c, height, width = images.shape
    spare = lowpass.shape[0] // 4  # Pixels that the filter takes away at each side.
    left, right, top, bottom = _reflection_margins(inverse, height, width, spare)
    images = reflect(images, left, right, top, bottom)
    images = upfirdn2d.upsample2d(images, lowpass, up=2)

    # The grid's own coordinates run from -1 to +1 over the result with `spare` pixels at each side. From there to
    # pixels around the centre of the image at full density; then `inverse`; then to coordinates of the padded,
    # upsampled image, whose centre has moved. Upsampling by 2 moves the centres of pixels by half of a fine pixel.
    half_w, half_h = width / 2 + spare, height / 2 + spare
    to_pixels = plane_map(half_w, half_h, 0.25, 0.25)
    padded_w, padded_h = (left + width + right) / 2, (top + height + bottom) / 2
    from_pixels = plane_map(
        1 / padded_w, 1 / padded_h, ((left - right) / 2 - 0.25) / padded_w, ((top - bottom) / 2 - 0.25) / padded_h
    )
    to_pixels = misc.constant(to_pixels, dtype=inverse.dtype, device=inverse.device)
    from_pixels = misc.constant(from_pixels, dtype=inverse.dtype, device=inverse.device)
    theta = (from_pixels @ inverse @ to_pixels)[:, :2].to(images.dtype)  # N 2 3
    grid = _sampling_grid(theta, (height + 2 * spare) * 2, (width + 2 * spare) * 2)  # N H' W' 2
    images = grid_sample_gradfix.grid_sample(images, grid)
    return upfirdn2d.downsample2d(images, lowpass, down=2, padding=-2 * spare, flip_filter=True)


def reflect(images, left, right, top, bottom):
    """Images [N, C, H, W] with margins, in pixels, in which they are mirrored about the centres of their outer pixels,
    and their mirror images too where one is not enough.

    The gradient that PyTorch has for this on CUDA is not the same to the bit each time; that of copies is.
    """
    by_copies = images.is_cuda and torch.are_deterministic_algorithms_enabled()
    while left or right or top or bottom:
        height, width = images.shape[2:]
        now = [min(left, width - 1), min(right, width - 1), min(top, height - 1), min(bottom, height - 1)]
        if by_copies:
            images = mirror(mirror(images, *now[:2], 3), *now[2:], 2)
        else:
            images = F.pad(images, now, mode='reflect')
        left, right, top, bottom = left - now[0], right - now[1], top - now[2], bottom - now[3]
    return images


def mirror(images, before, after, dim):
    """Images mirrored along one dimension, by copies; less than its size at each end."""
    size = images.shape[dim]
    first = images.narrow(dim, 1, before).flip(dim)
    last = images.narrow(dim, size - 1 - after, after).flip(dim)
    return torch.cat([first, images, last], dim=dim)


def _sampling_grid(theta, height, width):
    """As `affine_grid` with align_corners=False, by sums in place of a matrix product: theta N 2 3 → N H W 2."""
    rows = (torch.arange(height, device=theta.device, dtype=theta.dtype) * 2 + 1) / height - 1  # H
    columns = (torch.arange(width, device=theta.device, dtype=theta.dtype) * 2 + 1) / width - 1  # W
    along_x = columns[:, None] * theta[:, None, :, 0]  # N W 2
    along_y = rows[:, None] * theta[:, None, :, 1] + theta[:, None, :, 2]  # N H 2
    return along_x[:, None] + along_y[:, :, None]


def _reflection_margins(inverse, height, width, spare):
    """How far the batch reaches beyond the images: (left, right, top, bottom) in pixels, less than the longer side."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = misc.constant(
        [[-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1]], dtype=inverse.dtype, device=inverse.device
    )  # (x, y, 1) of 4 corners
    sources = (inverse @ corners)[:, :2]  # N (x, y) 4
    reach = torch.stack([-sources.amin(dim=(0, 2)), sources.amax(dim=(0, 2))], dim=1).tolist()  # (x, y) (front, back)
    margins = []
    for both, centre, size in zip(reach, (cx, cy), (width, height)):
        farthest = max(height, width) - 1 if size > 1 else 0  # One pixel has no mirror image.
        margins += [math.ceil(min(max(side + 2 * spare - centre, 0), farthest)) for side in both]
    return margins


def colour_matrix(luma_factor, chroma_factor, angle):
    """Matrices [N, 3, 3] that scale along the axis (1, 1, 1), and scale and turn in the plane across it; from [N]."""
    along = np.full([3, 3], 1 / 3)
    across = np.eye(3) - along
    turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # The cross product with (1, 1, 1) / sqrt(3).
    basis = np.stack([along, across, turn]).reshape(3, 9)
    basis = misc.constant(basis, dtype=luma_factor.dtype, device=luma_factor.device)
    weights = [luma_factor, chroma_factor * torch.cos(angle), chroma_factor * torch.sin(angle)]
    return (torch.stack(weights, dim=1) @ basis).reshape(-1, 3, 3)


def reflecting_matrix(taps, size):
    """The matrices [N, size, size] that filter `size` pixels with the symmetric filters `taps` [N, k], where the
    pixels are mirrored at both borders as often as the filter's length wants it."""
    k = taps.shape[1]
    period = max(2 * (size - 1), 1)
    source = np.abs(np.arange(size)[:, None] + np.arange(k) - k // 2) % period  # size k
    source = misc.constant(np.minimum(source, period - source), dtype=torch.int64, device=taps.device)
    matrices = taps.new_zeros([taps.shape[0], size, size])
    return matrices.scatter_add(2, source.expand(taps.shape[0], -1, -1), taps[:, None, :].expand(-1, size, -1))
