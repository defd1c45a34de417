"""How large the picture of a slider that moves is: as large as the device can make it 12 times a second.

A StyleGAN2 generator makes an image at each resolution on its way to the last one. A preview leaves out the last
blocks of layers, and shows the image of the block before them.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from dataset_format.sizes import sides

MAX_SEC = 0.06  # of the network; encoding, transport and drawing need up to 20 ms more
_MIN_SIDE = 64  # pixels of the longer side
_MAX_LEFT_OUT = 3
_UNKNOWN_FACTOR = 4  # time of an image over that of half its size, at most
_MARGIN = 0.8  # a larger image is expected to take at most so much of MAX_SEC, so that sizes do not alternate
_NUM_TIMES = 3
_REMEMBERED = 100  # previews after which a factor is forgotten: it is wrong if other programs came or went meanwhile


def smaller_images(G: Any) -> list[torch.nn.Module]:
    """Return the blocks whose images can be previews, the largest image first; only StyleGAN2 has such blocks."""
    levels = getattr(G.synthesis, 'block_resolutions', ())
    blocks: list[torch.nn.Module] = []
    for left_out, level in enumerate(reversed(levels[:-1]), 1):
        block = getattr(G.synthesis, f'b{level}', None)
        side = max(sides(G.img_resolution)) >> left_out
        if block is None or left_out > _MAX_LEFT_OUT or side < _MIN_SIDE or not getattr(block, 'num_torgb', 0):
            break
        blocks.append(block)
    return blocks


class PreviewPace:
    """Chooses how many blocks the previews of a network leave out, by the time that the previous ones took.

    Args:
        most: The most blocks that can be left out.
    """

    def __init__(self, most: int):
        self._most = most
        self.left_out = min(1, most)
        self._times: deque[float] = deque(maxlen=_NUM_TIMES)
        self._factors: dict[int, float] = {}  # by the blocks left out: time with one block more, over this time
        self._num_noted = 0  # previews since a factor was measured
        self._before: float | None = None  # what a preview took before one more block was left out

    def note(self, seconds: float) -> None:
        """Take into account how long a preview took."""
        self._times.append(seconds)
        if len(self._times) < _NUM_TIMES:
            return
        median = sorted(self._times)[_NUM_TIMES // 2]
        if self._before is not None:
            self._factors[self.left_out] = max(self._before / median, 1)
            self._num_noted = 0
            self._before = None
        self._num_noted += 1
        if self._num_noted > _REMEMBERED:
            self._factors.pop(self.left_out, None)
        if median > MAX_SEC and self.left_out < self._most:
            self.left_out += 1
            self._before = median
            self._times.clear()
        elif self.left_out > 0 and median * self._factors.get(self.left_out, _UNKNOWN_FACTOR) < _MARGIN * MAX_SEC:
            self.left_out -= 1
            self._times.clear()
