"""Adaptive pseudo augmentation: deceive a D that overfits with generated images among the real ones (arXiv 2111.06849).

Each image that D is shown as real is a generated one with probability p (section 3.2). p follows the same statistic as
the strength of ADA, and is moved by the same controller (`training.ada`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

MAX_P = 0.9  # some images remain real: the statistic that p follows is measured on them


class PseudoAugmentation:
    """Replace real images by generated ones.

    Attributes:
        p: Probability for each image, a scalar on the CPU that a controller adjusts in place.
    """

    def __init__(self) -> None:
        self.p = torch.zeros([])

    def replace(
        self, images: torch.Tensor, generate: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return images of which some are generated, and which ones are real.

        Args:
            images: [N, C, H, W] real images, which stay as they are.
            generate: Function that returns the images [K, C, H, W] that replace those of the given indices [K].

        Returns:
            Images [N, C, H, W], and bool [N, 1]; None if all of them are real.
        """
        if float(self.p) == 0:
            return images, None
        chosen = torch.rand([len(images)]) < self.p  # on the CPU, which need not wait for the device
        if not chosen.any():
            return images, None
        indices = chosen.nonzero()[:, 0].to(images.device)
        mixed = images.index_copy(0, indices, generate(indices).to(images.dtype))
        return mixed, ~chosen.to(images.device).unsqueeze(1)
