"""Losses of StyleGAN2 with ADA: non-saturating logistic, R1, path length (arXiv 1912.04958, 1801.04406).

`StyleGAN2Loss.accumulate_gradients` runs one phase on one per-GPU batch and adds to the gradients
of the network that the phase trains. Shapes: N batch, C H W image, L w vectors of a generator.
"""

import numpy as np
import torch
from torch.nn.functional import softplus

from torch_utils import training_stats

PHASES = ('Gmain', 'Greg', 'Gboth', 'Dmain', 'Dreg', 'Dboth')


def r1_penalty(logits, images):
    """Squared gradient norm of the logits at real images, [N]; differentiable (arXiv 1801.04406, eq. 9)."""
    (gradient,) = torch.autograd.grad(outputs=logits.sum(), inputs=images, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3])


def path_lengths(images, ws):
    """Norm of Jᵀy for a random image y, [N]; differentiable (arXiv 1912.04958, section 3.2)."""
    height, width = images.shape[2:]
    noise = torch.randn_like(images) / np.sqrt(height * width)
    (gradient,) = torch.autograd.grad(outputs=(images * noise).sum(), inputs=ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()  # [N, L, w_dim] → [N]


class StyleGAN2Loss:
    """One training objective for a generator and a discriminator.

    Args:
        device: Where the running mean of path lengths lives.
        G, D: Networks.
        augment_pipe: Applied to what D sees, real and generated; None: nothing.
        style_mixing_prob: Probability of a second latent from a random layer on.
        r1_gamma: Weight of R1; 0 turns it off.
        pl_weight: Weight of the path length term; 0 turns it off.
        pl_batch_shrink: The path length term runs on a batch smaller by this factor.
        pl_decay: Rate of the running mean of path lengths.
    """

    def __init__(
        self,
        device,
        G,
        D,
        augment_pipe=None,
        style_mixing_prob=0.9,
        r1_gamma=10,
        pl_weight=2,
        pl_batch_shrink=2,
        pl_decay=0.01,
    ):
        self.G = G
        self.D = D
        self.augment_pipe = augment_pipe
        self.style_mixing_prob = style_mixing_prob
        self.r1_gamma = r1_gamma
        self.pl_weight = pl_weight
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.pl_mean = torch.zeros([], device=device)

    def state_dict(self):
        """What a loss remembers from step to step: tensors by name."""
        return dict(pl_mean=self.pl_mean)

    def load_state_dict(self, state):
        self.pl_mean.copy_(state['pl_mean'])

    def run_G(self, z, c):
        """Images [N, C, H, W] and the ws [N, L, w_dim] they come from, with style mixing."""
        ws = self.G.mapping(z, c)
        if self.style_mixing_prob > 0:
            ws = self._mix_styles(ws, c)
        return self.G.synthesis(ws), ws

    def _mix_styles(self, ws, c):
        num_ws = ws.shape[1]
        if torch.rand([]).item() >= self.style_mixing_prob:
            return ws
        crossover = int(torch.randint(1, num_ws, []).item())
        z = torch.randn([ws.shape[0], self.G.z_dim], device=ws.device)
        other = self.G.mapping(z, c, skip_w_avg_update=True)
        return torch.cat([ws[:, :crossover], other[:, crossover:]], dim=1)

    def run_D(self, images, c):
        """Logits [N, 1] of the augmented images."""
        if self.augment_pipe is not None:
            images = self.augment_pipe(images)
        return self.D(images, c)

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, gain=1):
        """Run one phase and add its gradients, scaled by `gain`, to the parameters.

        Args:
            phase: One of `PHASES`: 'main' the adversarial loss, 'reg' the regulariser, 'both' both.
            real_img: [N, C, H, W] float32 in [-1, +1]; used by the phases of D.
            real_c: [N, c_dim].
            gen_z: [N, z_dim].
            gen_c: [N, c_dim].
            gain: Factor of the loss: the interval of a lazy regulariser, over the accumulation rounds.
        """
        if phase not in PHASES:
            raise ValueError(f'phase={phase!r}: must be one of {", ".join(PHASES)}')
        network, part = phase[0], phase[1:]
        if network == 'G':
            if part in ('main', 'both'):
                self._G_main(gen_z, gen_c, gain)
            if part in ('reg', 'both') and self.pl_weight != 0:
                self._G_path_length(gen_z, gen_c, gain)
        else:
            adversarial = part in ('main', 'both')
            regularise = part in ('reg', 'both') and self.r1_gamma != 0
            if adversarial:
                self._D_fake(gen_z, gen_c, gain)
            if adversarial or regularise:
                self._D_real(real_img, real_c, gain, adversarial, regularise)

    def _count_nonfinite(self, loss):
        training_stats.report('Loss/nonfinite', ~loss.detach().isfinite())

    def _G_main(self, z, c, gain):
        """Maximise log D(G(z)), the non-saturating loss."""
        images, _ws = self.run_G(z, c)
        logits = self.run_D(images, c)
        training_stats.report('Loss/scores/fake', logits)
        training_stats.report('Loss/signs/fake', logits.sign())
        loss = softplus(-logits)
        training_stats.report('Loss/G/loss', loss)
        self._count_nonfinite(loss)
        loss.mean().mul(gain).backward()

    def _G_path_length(self, z, c, gain):
        batch_size = max(z.shape[0] // self.pl_batch_shrink, 1)
        images, ws = self.run_G(z[:batch_size], c[:batch_size])
        lengths = path_lengths(images, ws)
        mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = (lengths - mean).square()
        training_stats.report('Loss/pl_penalty', penalty)
        loss = penalty * self.pl_weight
        training_stats.report('Loss/G/reg', loss)
        self._count_nonfinite(loss)
        loss.mean().mul(gain).backward()

    def _D_fake(self, z, c, gain):
        with torch.no_grad():
            images, _ws = self.run_G(z, c)
        logits = self.run_D(images, c)
        training_stats.report('Loss/scores/fake', logits)
        training_stats.report('Loss/signs/fake', logits.sign())
        softplus(logits).mean().mul(gain).backward()
        self._fake_loss = softplus(logits.detach())
        self._count_nonfinite(self._fake_loss)

    def _D_real(self, images, c, gain, adversarial, regularise):
        images = images.detach().requires_grad_(regularise)
        logits = self.run_D(images, c)
        training_stats.report('Loss/scores/real', logits)
        training_stats.report('Loss/signs/real', logits.sign())
        loss = torch.zeros_like(logits)
        if adversarial:
            loss = softplus(-logits)  # [N, 1]
            training_stats.report('Loss/D/loss', self._fake_loss + loss)
        if regularise:
            penalty = r1_penalty(logits, images)  # [N]
            training_stats.report('Loss/r1_penalty', penalty)
            weighted = penalty * (self.r1_gamma / 2)
            training_stats.report('Loss/D/reg', weighted)
            loss = loss + weighted.unsqueeze(1)
        self._count_nonfinite(loss)
        # Naming the parameters spares the way back to the images, whose gradient nobody reads.
        trained = [parameter for parameter in self.D.parameters() if parameter.requires_grad]
        loss.mean().mul(gain).backward(inputs=trained)
