"""Regularizers of D's outputs against overfitting: LeCam and balanced consistency.

Each gets D's outputs in the adversarial phases of D, once for real and once for generated images, and returns what to
add to the loss of each image. What it keeps from one step to the next is in the state of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from torch_utils import distributed, training_stats
from torch_utils.distributed import World
from training.diffaugment import flip_and_translate

REAL, FAKE = 'real', 'fake'


class Regularizer(Protocol):
    """Something that is added to the loss of D."""

    def penalty(self, kind: str, logits: torch.Tensor, shown: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Return what to add to the loss of each image, [N, 1].

        Args:
            kind: REAL or FAKE.
            logits: [N, 1] outputs of D.
            shown: [N, C, H, W] images as D has seen them, after augmentation.
            c: [N, c_dim] their labels.
        """

    def end_batch(self, world: World) -> None:
        """Update the state, after all rounds of a batch. Collective."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are kept from one batch to the next."""

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""


class LeCam:
    """Keep D's outputs for images of one kind near their running mean for the other (arXiv 2104.03310).

    The penalty is W · (D(x) - α_F)² for real images and W · (D(G(z)) - α_R)² for generated ones, where α_R and α_F are
    the running means of D's outputs for real and for generated images. They move once a batch, by all of its images on
    all ranks. Until the first batch has ended, there are no means, and the penalty is zero.

    Args:
        weight: W.
        device: Where the means are stored.
        decay: Factor of the old means in each batch.
    """

    def __init__(self, weight: float, device: torch.device | str, decay: float = 0.99):
        self.weight = weight
        self.decay = decay
        # Decaying sums over the batches, of which the mean is the quotient, so that early means are not biased to zero.
        self.sums = {kind: torch.zeros([], device=device) for kind in (REAL, FAKE)}
        self.batches = torch.zeros([], device=device)
        self._seen = {kind: torch.zeros([2], device=device) for kind in (REAL, FAKE)}  # [sum, count] in this batch

    def mean(self, kind: str) -> torch.Tensor:
        """Return α_R or α_F; NaN before the first batch has ended."""
        return self.sums[kind] / self.batches

    def penalty(self, kind: str, logits: torch.Tensor, shown: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        finite = logits.detach().isfinite()  # a single bad step must not remain in the means
        values = torch.where(finite, logits.detach(), 0)
        self._seen[kind] += torch.stack([values.sum(), finite.sum()]).to(self._seen[kind].dtype)
        other = FAKE if kind == REAL else REAL
        distance = torch.where(self.batches > 0, logits - self.mean(other), torch.zeros_like(logits))
        penalty = distance.square()
        training_stats.report('Loss/lecam', penalty)
        return penalty * self.weight

    def end_batch(self, world: World) -> None:
        distributed.sum_tensors(world, self._seen.values())
        for kind, (total, count) in self._seen.items():
            self.sums[kind].mul_(self.decay).add_(total / count.clamp(min=1), alpha=1 - self.decay)
            self._seen[kind].zero_()
        self.batches.mul_(self.decay).add_(1 - self.decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        sums = {f'lecam_{kind}': total for kind, total in self.sums.items()}
        return dict(sums, lecam_batches=self.batches)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


class Consistency:
    """Keep D's outputs the same for an image and a transformed copy of it: balanced consistency regularization, bCR.

    The penalty is W_R (D(x) - D(T(x)))² for real images and W_F (D(G(z)) - D(T(G(z))))² for generated ones (arXiv
    2002.04724). As in the paper, T mirrors and shifts. If D sees augmented images, x is one.

    Args:
        D: The discriminator.
        weights: W_R and W_F.
        transform: T.
    """

    def __init__(
        self,
        D: torch.nn.Module,
        weights: Sequence[float],
        transform: Callable[[torch.Tensor], torch.Tensor] = flip_and_translate,
    ):
        self.D = D
        self.weights = dict(zip((REAL, FAKE), weights, strict=True))
        self.transform = transform

    def penalty(self, kind: str, logits: torch.Tensor, shown: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        weight = self.weights[kind]
        if weight == 0:
            return torch.zeros_like(logits)
        penalty = (logits - self.D(self.transform(shown), c)).square()
        training_stats.report('Loss/bcr', penalty)
        return penalty * weight

    def end_batch(self, world: World) -> None:
        pass

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        pass
