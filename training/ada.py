"""Adaptive discriminator augmentation: adjust its strength p to the overfitting (arXiv 2006.06676, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from torch_utils import training_stats

SIGN_STATISTIC = 'Loss/signs/real'
STRONG_P = 0.8  # beyond it, augmentations may leak into the generated images (section 3.2, figure 4)
_ROUNDING = 1e-6  # p is a float32
STRONG_TICKS = 4  # consecutive ones, before that is worth a warning: p swings around its equilibrium


class AdaController:
    """Keep the overfitting heuristic r_t = E[sign D(real)] near a target (arXiv 2006.06676, eq. 1).

    Augmentation becomes stronger while r_t is above the target, and weaker while it is below.

    Args:
        augment_pipe: Augmentation whose tensor `p` is adjusted in place.
        target: Target value of r_t.
        interval: Number of batches between two adjustments.
        ada_kimg: Thousands of images in which p can move from 0 to 1.
        batch_size: Images per batch, over all ranks.
        max_p: Largest value of p. Beyond 1 nothing is augmented more often, but p needs longer to come back.
    """

    def __init__(
        self,
        augment_pipe: Any,
        target: float,
        interval: int,
        ada_kimg: float,
        batch_size: int,
        max_p: float,
    ) -> None:
        self.augment_pipe = augment_pipe
        self.target = target
        self.interval = interval
        self.max_change = batch_size * interval / (ada_kimg * 1000)
        self.max_p = max_p
        self.signs = training_stats.Collector(regex=SIGN_STATISTIC, keep_previous=False)
        self.strong_ticks = 0  # consecutive ticks with a strong augmentation; remains at STRONG_TICKS

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
        self.augment_pipe.p.add_(change).clamp_(min=0, max=self.max_p)

    def end_tick(self) -> str | None:
        """Return a warning, once, if p has been so large for several ticks that augmentations may leak."""
        if self.strong_ticks == STRONG_TICKS:
            return None
        self.strong_ticks = self.strong_ticks + 1 if float(self.augment_pipe.p) > STRONG_P + _ROUNDING else 0
        if self.strong_ticks < STRONG_TICKS:
            return None
        return (
            f'the augmentation strength has been above {STRONG_P:g} for {STRONG_TICKS} ticks, where augmentations may '
            'leak into the generated images (arXiv 2006.06676, section 3.2). Look for rotated, shifted or discolored '
            f'images. More training images help, and so do a larger --gamma, --max-p={STRONG_P:g} or fewer kinds of '
            'augmentation (--augpipe).'
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics since the last adjustment, and how long the augmentation has been strong.

        They do not include p, which belongs to the pipe.
        """
        return dict(self.signs.state_dict(), strong_ticks=self.strong_ticks)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; earlier versions did not count ticks."""
        self.signs.load_state_dict(state)
        self.strong_ticks = state.get('strong_ticks', 0)
