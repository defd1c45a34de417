"""The relativistic pairing loss with gradient penalties on real and generated images (arXiv 2501.05441).

D says of a pair of a real and a generated image how much more real the first one looks. G therefore gains nothing from
a few images that fool D: each of its images is compared with a real one of its own, so that no mode of the data can be
left out. The loss alone does not converge; with R1 and R2 together it does, locally.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import softplus

from torch_utils import training_stats
from training.loss import Batch, StyleGAN2Loss, r1_penalty, report_nonfinite
from training.regularizers import FAKE, REAL


class RelativisticLoss(StyleGAN2Loss):
    """The objective min over G, max over D of E[f(D(G(z)) - D(x))] with f(t) = -log(1 + e^t).

    A generated image has the label of the real one that it is compared with. Pairs are formed within a round of
    accumulation of a rank.

    Args:
        *args: Positional arguments of `StyleGAN2Loss`.
        r2_gamma: Weight of R2, the gradient penalty on generated images. 0: no R2.
        **kwargs: Keyword arguments of `StyleGAN2Loss`.
    """

    def __init__(self, *args: Any, r2_gamma: float = 10, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.r2_gamma = r2_gamma

    def train_G(self, batch: Batch, gain: float) -> None:
        """Minimize log(1 + exp(D(x) - D(G(z)))): G is to make its image look more real than the real one."""
        images, _ws = self.run_G(batch.gen_z, batch.real_c)
        fake_logits, penalty = self.run_D_for_G(images, batch.real_c, batch.gen_z)
        with torch.no_grad():
            real_logits = self.run_D(batch.real_img, batch.real_c)
        self.report_logits(FAKE, fake_logits, _boundary(real_logits, fake_logits))
        loss = softplus(real_logits - fake_logits)  # [N, 1]
        training_stats.report('Loss/G/loss', loss)
        loss = loss + penalty
        report_nonfinite(loss)
        loss.mean().mul(gain).backward()

    def train_D(self, batch: Batch, gain: float, adversarial: bool, regularized: bool) -> None:
        """Minimize log(1 + exp(D(G(z)) - D(x))), plus R1 · γ/2 and R2 · γ₂/2, or the first or the second part."""
        r1_gamma, r2_gamma = (self.r1_gamma, self.r2_gamma) if regularized else (0, 0)
        if not adversarial and r1_gamma == 0 and r2_gamma == 0:
            return
        real, is_real = self.reals_of(batch)
        real.requires_grad_(r1_gamma != 0)
        with torch.no_grad():
            fake, _ws = self.run_G(batch.gen_z, batch.real_c, update_emas=adversarial)
        fake.requires_grad_(r2_gamma != 0)
        if adversarial:
            real_logits, real_penalty = self.run_D_regularized(REAL, real, batch.real_c)
            fake_logits, fake_penalty = self.run_D_regularized(FAKE, fake, batch.real_c, batch.gen_z)
            boundary = _boundary(real_logits, fake_logits)
            self.report_logits(REAL, real_logits, boundary, is_real)
            self.report_logits(FAKE, fake_logits, boundary)
            loss = softplus(fake_logits - real_logits)  # [N, 1]
            training_stats.report('Loss/D/loss', loss)
            loss = loss + real_penalty + fake_penalty
        else:
            real_logits, fake_logits = self.run_D(real, batch.real_c), self.run_D(fake, batch.real_c)
            loss = torch.zeros_like(real_logits)
        penalties = [
            _penalty(name, logits, images, gamma)
            for name, logits, images, gamma in (
                ('r1', real_logits, real, r1_gamma),
                ('r2', fake_logits, fake, r2_gamma),
            )
            if gamma != 0
        ]
        if penalties:
            weighted = torch.stack(penalties).sum(dim=0)  # [N]
            training_stats.report('Loss/D/reg', weighted)
            loss = loss + weighted.unsqueeze(1)
        report_nonfinite(loss)
        loss.mean().mul(gain).backward(inputs=self.trained_parameters())


def _boundary(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Return the value between real and generated images that the signs of D's outputs refer to.

    Differences alone matter in this loss, so zero means nothing in particular; ADA needs a boundary all the same.
    """
    return (real_logits.detach().mean() + fake_logits.detach().mean()) / 2


def _penalty(name: str, logits: torch.Tensor, images: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the weighted gradient penalty [N]."""
    penalty = r1_penalty(logits, images)
    training_stats.report(f'Loss/{name}_penalty', penalty)
    return penalty * (gamma / 2)
