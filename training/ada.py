"""Adaptive discriminator augmentation: adjust its strength p to the overfitting (arXiv 2006.06676, section 3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from torch_utils import training_stats

SIGN_STATISTIC = 'Loss/signs/real'
# D's outputs in the batches before which it also saw held-out images: it changes from step to step, so that only means
# over the same steps can be compared.
REAL_SCORES, FAKE_SCORES, VALIDATION_SCORES = 'Validation/real', 'Validation/fake', 'Validation/held_out'
STRONG_P = 0.8  # beyond it, augmentations may leak into the generated images (section 3.2, figure 4)
_ROUNDING = 1e-6  # p is a float32
STRONG_TICKS = 4  # consecutive ones, before that is worth a warning: p swings around its equilibrium


def sign_mean(statistics: training_stats.Collector) -> float | None:
    """Return r_t = E[sign D(real)] (arXiv 2006.06676, eq. 1); None without numbers."""
    return statistics[SIGN_STATISTIC] if statistics.num(SIGN_STATISTIC) else None


def validation_ratio(statistics: training_stats.Collector) -> float | None:
    """Return r_v = (E[D(train)] - E[D(validation)]) / (E[D(train)] - E[D(generated)]) (arXiv 2006.06676, eq. 1).

    It is 0 while D cannot tell training images from other real ones, and 1 once it takes the others for generated. None
    if a mean is unknown, or if D does not tell real images from generated ones.
    """
    train, validation, generated = (statistics[name] for name in (REAL_SCORES, VALIDATION_SCORES, FAKE_SCORES))
    return (train - validation) / (train - generated) if train - generated > 0 and np.isfinite(validation) else None


# By name: the statistics that a heuristic needs, and the heuristic, which is larger the more D overfits
HEURISTICS: dict[str, tuple[tuple[str, ...], Callable[[training_stats.Collector], float | None]]] = {
    'rt': ((SIGN_STATISTIC,), sign_mean),
    'rv': ((REAL_SCORES, VALIDATION_SCORES, FAKE_SCORES), validation_ratio),
}


def collector_of(heuristic: str) -> training_stats.Collector:
    """Return a collector of the statistics that a heuristic needs."""
    names, _function = HEURISTICS[heuristic]
    return training_stats.Collector(regex='|'.join(map(re.escape, names)), keep_previous=False)


class AdaController:
    """Keep an overfitting heuristic near a target (arXiv 2006.06676, section 3).

    Augmentation becomes stronger while the heuristic is above the target, and weaker while it is below.

    Args:
        augment_pipe: Augmentation whose tensor `p` is adjusted in place.
        target: Target value of the heuristic.
        interval: Number of batches between two adjustments.
        ada_kimg: Thousands of images in which p can move from 0 to 1.
        batch_size: Images per batch, over all ranks.
        max_p: Largest value of p. Beyond 1 nothing is augmented more often, but p needs longer to come back.
        heuristic: Name of one of HEURISTICS.
    """

    def __init__(
        self,
        augment_pipe: Any,
        target: float,
        interval: int,
        ada_kimg: float,
        batch_size: int,
        max_p: float,
        heuristic: str = 'rt',
    ) -> None:
        self.augment_pipe = augment_pipe
        self.target = target
        self.interval = interval
        self.max_change = batch_size * interval / (ada_kimg * 1000)
        self.max_p = max_p
        self.heuristic = HEURISTICS[heuristic][1]
        self.statistics = collector_of(heuristic)
        self.strong_ticks = 0  # consecutive ticks with a strong augmentation; remains at STRONG_TICKS

    def update(self, batch_idx: int) -> None:
        """Adjust p if it is time to. Call this after each batch, on all ranks.

        Args:
            batch_idx: Number of batches so far.
        """
        if batch_idx % self.interval != 0:
            return
        self.statistics.update()
        value = self.heuristic(self.statistics)
        if value is None:
            return
        change = float(np.sign(value - self.target)) * self.max_change
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
        return dict(self.statistics.state_dict(), strong_ticks=self.strong_ticks)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; earlier versions did not count ticks."""
        self.statistics.load_state_dict(state)
        self.strong_ticks = state.get('strong_ticks', 0)
