"""Adaptive pseudo augmentation: deceive a D that overfits with generated images among the real ones (arXiv 2111.06849).

Each image that D is shown as real is a generated one with probability p. p follows the same statistic as
the strength of ADA, and is moved by the same controller (`training.ada`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from torch_utils import cuda_memory

MAX_P = 0.9  # some images remain real: the statistic that p follows is measured on them


class PseudoAugmentation:
    """Replace real images by generated ones.

    Which ones is drawn on the CPU, so p has to be known there. On CUDA, `send_p` copies it without waiting as soon as
    it has changed. The next batch asks for it in D's phase, when the GPU has G's phase to work on.

    For CUDA graphs, whose shapes are fixed, images are generated for all real ones while p is above zero, and the
    device draws which of them are used.

    Args:
        device: Device of the images.
        fixed_shapes: Whether to do so.

    Attributes:
        p: Probability for each image, a scalar that a controller adjusts in place; on CUDA if the images are, otherwise
            on the CPU. Call `send_p` after that.
    """

    def __init__(self, device: torch.device | str = 'cpu', fixed_shapes: bool = False) -> None:
        self.fixed_shapes = fixed_shapes
        self.p = torch.zeros([], device=device if torch.device(device).type == 'cuda' else 'cpu')
        self._on_host = torch.zeros([], pin_memory=True) if self.p.is_cuda else self.p
        self._has_arrived: torch.cuda.Event | None = None

    def send_p(self) -> None:
        """Copy p to the CPU."""
        if self.p.is_cuda:
            self._on_host.copy_(self.p, non_blocking=True)
            self._has_arrived = torch.cuda.Event()
            self._has_arrived.record(torch.cuda.current_stream(self.p.device))

    def _p_on_host(self) -> torch.Tensor:
        if self._has_arrived is not None:
            self._has_arrived.synchronize()
            self._has_arrived = None
        return self._on_host

    def is_active(self) -> bool:
        """Return whether images may be replaced."""
        return float(self._p_on_host()) > 0

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
        if not self.is_active():
            return images, None
        if self.fixed_shapes:
            chosen = torch.rand([len(images), 1], device=images.device) < self.p
            generated = generate(torch.arange(len(images), device=images.device)).to(images.dtype)
            return torch.where(chosen[:, :, None, None], generated, images), ~chosen
        chosen = torch.rand([len(images)]) < self._on_host
        if not chosen.any():
            return images, None
        indices = cuda_memory.to_device(chosen.nonzero()[:, 0], images.device)
        mixed = images.index_copy(0, indices, generate(indices).to(images.dtype))
        return mixed, cuda_memory.to_device(~chosen, images.device).unsqueeze(1)
