"""The geometry of `upfirdn2d`: factors, padding, sizes, and the transposed operation.

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
