"""The geometry of `upfirdn2d` and `filtered_lrelu`: factors, padding, sizes, and the transposed operations.

Legend: N images, C channels, H and W rows and columns; kh and kw taps of the filter. Pairs are (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """Return the number of taps of a filter along x and y, (kw, kh), which is (1, 1) for None."""
    if f is None:
        return 1, 1
    return int(f.shape[-1]), int(f.shape[0])


def num_taps(f: Tensor | None) -> int:
    """Return the number of rows of a filter, which is 1 for None."""
    return filter_size(f)[1]


def is_channels_last(x: Tensor) -> bool:
    """Return whether images are channels last, and not contiguous as well."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format in which results are returned: channels last if x is, else contiguous."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


class Resampling(NamedTuple):
    """The arguments of `upfirdn2d` other than tensors, in normalized form."""

    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]  # (x0, x1, y0, y1)
    flip_filter: bool
    gain: float

    @classmethod
    def from_sequences(cls, *fields: Any) -> Resampling:
        """Create an instance from the arguments of the registered operator, which are lists instead of tuples."""
        up, down, padding, flip_filter, gain = fields
        return cls(tuple(up), tuple(down), tuple(padding), flip_filter, gain)

    def output_size(self, x_shape: Sequence[int], f: Tensor) -> tuple[int, int]:
        """Return the size (H', W') of the result for images of shape [N, C, H, W]."""
        (kw, kh), (x0, x1, y0, y1) = filter_size(f), self.padding
        h, w = x_shape[2:]
        return (
            (h * self.up[1] + y0 + y1 - kh) // self.down[1] + 1,
            (w * self.up[0] + x0 + x1 - kw) // self.down[0] + 1,
        )

    def transposed(self, x_shape: Sequence[int], f: Tensor) -> Resampling:
        """Return the resampling whose matrix is the transpose of this one's for images of shape [N, C, H, W].

        Output o reads input i through tap o * down + k - 1 - pad0 - i * up of the (convolution's) filter. With the
        sampling factors exchanged and the filter reversed, the same taps connect o to i if the new pad0 is
        k - 1 - pad0. The padding at the other side follows from the size of the result.
        """
        (kw, kh), (x0, _, y0, _) = filter_size(f), self.padding
        out_h, out_w = self.output_size(x_shape, f)
        sides = []
        for size, out, k, pad0, up, down in (
            (x_shape[3], out_w, kw, x0, self.up[0], self.down[0]),
            (x_shape[2], out_h, kh, y0, self.up[1], self.down[1]),
        ):
            new_pad0 = k - 1 - pad0
            sides += [new_pad0, (size - 1) * up + k - new_pad0 - out * down]
        x0, x1, y0, y1 = sides
        return Resampling(self.down, self.up, (x0, x1, y0, y1), not self.flip_filter, self.gain)


class FilteredActivation(NamedTuple):
    """The arguments of `filtered_lrelu` other than tensors, in normalized form. Its filters are square."""

    up: int
    down: int
    padding: tuple[int, int, int, int]  # (x0, x1, y0, y1)
    gain: float
    slope: float
    clamp: float | None
    flip_filter: bool

    def upsampled_size(self, x_shape: Sequence[int], fu: Tensor | None) -> tuple[int, int]:
        """Return the size (W_u, H_u) of the upsampled map for images of shape [N, C, H, W]."""
        x0, x1, y0, y1 = self.padding
        rest = 1 - num_taps(fu)
        return x_shape[3] * self.up + x0 + x1 + rest, x_shape[2] * self.up + y0 + y1 + rest

    def output_size(self, x_shape: Sequence[int], fu: Tensor | None, fd: Tensor | None) -> tuple[int, int]:
        """Return the size (W', H') of the result; less than 1 if the images are smaller than the filters."""
        width, height = ((size - num_taps(fd)) // self.down + 1 for size in self.upsampled_size(x_shape, fu))
        return width, height

    def masked(self, x_shape: Sequence[int], fu: Tensor | None, fd: Tensor | None) -> MaskedResampling:
        """Return the operation on images of shape [N, C, H, W] with a fixed mask, without the bias."""
        return MaskedResampling(
            up=self.up,
            down=self.down,
            pad=(self.padding[0], self.padding[2]),
            offset=(0, 0),
            mask_size=self.upsampled_size(x_shape, fu),
            in_size=(x_shape[3], x_shape[2]),
            out_size=self.output_size(x_shape, fu, fd),
            gain=self.gain * self.up**2,
            slope=self.slope,
            flip_filter=self.flip_filter,
        )


class MaskedResampling(NamedTuple):
    """Upsampling, multiplication by the derivative of a leaky ReLU from a mask, and downsampling. Pairs are (x, y).

    Every derivative of `filtered_lrelu` has this form. With p a pixel of the upsampled map:

    * u[p] = sum over i of x[i] * fu[i * up + pad - p]; unlike in `filtered_lrelu`, this has no gain of its own.
    * v[p] = u[p] * gain times 1, slope or 0 inside the mask, and 0 outside.
    * y[o] = sum over t of v[o * down + t - offset] * fd[t].
    """

    up: int
    down: int
    pad: tuple[int, ...]
    offset: tuple[int, ...]
    mask_size: tuple[int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    gain: float
    slope: float
    flip_filter: bool

    def transposed(self, fu: Tensor | None, fd: Tensor | None) -> MaskedResampling:
        """Return the operation whose matrix is the transpose of this one's; it takes fd and fu instead of fu and fd."""
        return self._replace(
            up=self.down,
            down=self.up,
            pad=tuple(num_taps(fd) - 1 - q for q in self.offset),
            offset=tuple(num_taps(fu) - 1 - p for p in self.pad),
            in_size=self.out_size,
            out_size=self.in_size,
            flip_filter=not self.flip_filter,
        )
