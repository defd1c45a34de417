"""Adaptive discriminator augmentation: adjust its strength p to the overfitting (arXiv 2006.06676, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from torch_utils import training_stats
from training.augment import AugmentPipe

SIGN_STATISTIC = 'Loss/signs/real'


class AdaController:
    """Keep the overfitting heuristic r_t = E[sign D(real)] near a target (arXiv 2006.06676, eq. 1).

    Augmentation becomes stronger while r_t is above the target, and weaker while it is below.

    Args:
        augment_pipe: Augmentation whose buffer `p` is adjusted in place.
        target: Target value of r_t.
        interval: Number of batches between two adjustments.
        ada_kimg: Thousands of images in which p can move from 0 to 1.
        batch_size: Images per batch, over all ranks.
    """

    def __init__(
        self, augment_pipe: AugmentPipe, target: float, interval: int, ada_kimg: float, batch_size: int
    ) -> None:
        self.augment_pipe = augment_pipe
        self.target = target
        self.interval = interval
        self.max_change = batch_size * interval / (ada_kimg * 1000)
        self.signs = training_stats.Collector(regex=SIGN_STATISTIC, keep_previous=False)

    def update(self, batch_idx: int) -> None:
        """Adjust p if it is time to. Call this after each batch, on all ranks.

        Args:
            batch_idx: Number of batches so far.
        """
        if batch_idx % self.interval != 0:
            return
        self.signs.update()
        if self.signs.num(SIGN_STATISTIC) == 0:
            return
        change = float(np.sign(self.signs[SIGN_STATISTIC] - self.target)) * self.max_change
        self.augment_pipe.p.add_(change).clamp_(min=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics since the last adjustment. They do not include p, which belongs to the pipe."""
        return self.signs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.signs.load_state_dict(state)
