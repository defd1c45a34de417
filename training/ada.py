"""Adaptive discriminator augmentation: adjust its strength p to the overfitting (arXiv 2006.06676, section 3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from torch_utils import training_stats

SIGN_STATISTIC = 'Loss/signs/real'
# D's outputs in the batches before which it also saw held-out images: it changes from step to step, so that only means
# over the same steps can be compared.
REAL_SCORES, FAKE_SCORES, VALIDATION_SCORES = 'Validation/real', 'Validation/fake', 'Validation/held_out'
STRONG_P = 0.8  # beyond it, augmentations may leak into the generated images (arXiv 2006.06676)
_ROUNDING = 1e-6  # p is a float32
STRONG_TICKS = 4  # consecutive ones, before that is worth a warning: p swings around its equilibrium


def sign_mean(signs: torch.Tensor) -> torch.Tensor:
    """Return r_t = E[sign D(real)] (arXiv 2006.06676, eq. 1); NaN without numbers.

    Args:
        signs: [count, sum, ...] of the signs.
    """
    return signs[1] / signs[0]


def validation_ratio(train: torch.Tensor, validation: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Return r_v = (E[D(train)] - E[D(validation)]) / (E[D(train)] - E[D(generated)]) (arXiv 2006.06676, eq. 1).

    It is 0 while D cannot tell training images from other real ones, and 1 once it takes the others for generated. NaN
    if a mean is unknown, or if D does not tell real images from generated ones.

    Args:
        train: [count, sum, ...] of D's outputs for training images.
        validation: The same for images that were held out.
        generated: The same for generated images.
    """
    means = [moments[1] / moments[0] for moments in (train, validation, generated)]
    difference = means[0] - means[2]
    return torch.where(difference > 0, (means[0] - means[1]) / difference, float('nan'))


# By name: the statistics that a heuristic needs, and the heuristic, which is larger the more D overfits
HEURISTICS: dict[str, tuple[tuple[str, ...], Callable[..., torch.Tensor]]] = {
    'rt': ((SIGN_STATISTIC,), sign_mean),
    'rv': ((REAL_SCORES, VALIDATION_SCORES, FAKE_SCORES), validation_ratio),
}


class Heuristic:
    """What a heuristic says about the batches between two calls.

    Args:
        name: One of HEURISTICS.
    """

    def __init__(self, name: str):
        self._names, self._function = HEURISTICS[name]
        self.statistics = training_stats.Collector(regex='|'.join(map(re.escape, self._names)), keep_previous=False)

    def update(self, device: torch.device) -> torch.Tensor:
        """Return the value for what was reported since the last call, float64; NaN if there is none. Collective.

        On CUDA it is computed there, and nothing waits for it; elsewhere on the CPU.
        """
        self.statistics.update()
        where = device if device.type == 'cuda' else torch.device('cpu')
        return self._function(*(self.statistics.moments(name, where) for name in self._names))


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
        on_change: Called after each adjustment.
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
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.augment_pipe = augment_pipe
        self.target = target
        self.interval = interval
        self.max_change = batch_size * interval / (ada_kimg * 1000)
        self.max_p = max_p
        self.heuristic = Heuristic(heuristic)
        self.on_change = on_change
        self.strong_ticks = 0  # consecutive ticks with a strong augmentation; remains at STRONG_TICKS

    def update(self, batch_idx: int) -> None:
        """Adjust p if it is time to, without waiting for the device. Call this after each batch, on all ranks.

        Args:
            batch_idx: Number of batches so far.
        """
        if batch_idx % self.interval != 0:
            return
        p = self.augment_pipe.p
        value = self.heuristic.update(p.device)
        change = ((value - self.target).sign() * self.max_change).to(p.device, p.dtype)
        p.copy_(torch.where(value.isnan().to(p.device), p, (p + change).clamp(min=0, max=self.max_p)))
        self.on_change()

    def end_tick(self) -> str | None:
        """Return a warning, once, if p has been so large for several ticks that augmentations may leak."""
        if self.strong_ticks == STRONG_TICKS:
            return None
        self.strong_ticks = self.strong_ticks + 1 if float(self.augment_pipe.p) > STRONG_P + _ROUNDING else 0
        if self.strong_ticks < STRONG_TICKS:
            return None
        return (
            f'the augmentation strength has been above {STRONG_P:g} for {STRONG_TICKS} ticks, where augmentations may '
            'leak into the generated images (arXiv 2006.06676). Look for rotated, shifted or discolored '
            f'images. More training images help, and so do a larger --gamma, --max-p={STRONG_P:g} or fewer kinds of '
            'augmentation (--augpipe).'
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics since the last adjustment, and how long the augmentation has been strong.

        They do not include p, which belongs to the pipe.
        """
        return dict(self.heuristic.statistics.state_dict(), strong_ticks=self.strong_ticks)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; earlier versions did not count ticks."""
        self.heuristic.statistics.load_state_dict(state)
        self.strong_ticks = state.get('strong_ticks', 0)
