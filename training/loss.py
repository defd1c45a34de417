"""The loss of StyleGAN2 and StyleGAN3: non-saturating logistic loss with R1 and path length regularization.

`StyleGAN2Loss.accumulate_gradients` runs one phase on one batch of a process, and adds to the gradients of the network
that the phase trains.

Shapes: N batch, C H W channels, height and width of images, L number of w vectors of a generator (`num_ws`).

Sources: StyleGAN2 (arXiv 1912.04958), StyleGAN3 (arXiv 2106.12423), R1 (arXiv 1801.04406), the logistic loss
(arXiv 1406.2661).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import softplus

from torch_utils import training_stats
from torch_utils.distributed import World
from torch_utils.ops import upfirdn2d
from training import diffaugment as differentiable
from training.instance_discrimination import PERTURBATION, InstanceDiscrimination, features_captured
from training.pseudo_augmentation import PseudoAugmentation
from training.regularizers import FAKE, REAL, Consistency, LeCam, Regularizer


class Batch(NamedTuple):
    """What a phase works on: see `StyleGAN2Loss.accumulate_gradients`."""

    real_img: torch.Tensor
    real_c: torch.Tensor
    gen_z: torch.Tensor
    gen_c: torch.Tensor


class Decisions(NamedTuple):
    """What a round decides on the CPU, made in advance; tensors in place of numbers, if a CUDA graph is recorded."""

    crossovers: Iterator[int | torch.Tensor | None]  # results of `StyleGAN2Loss.draw_crossover`
    blur_sigma: torch.Tensor | None = None


PHASES = ('Gmain', 'Greg', 'Gboth', 'Dmain', 'Dreg', 'Dboth')


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the squared norm of the gradient of D at real images (arXiv 1801.04406, eq. 9, without its factor γ/2).

    Args:
        logits: [N, 1] output of D.
        images: [N, C, H, W] input of D, which requires gradients.

    Returns:
        [N] penalties, differentiable again.
    """
    (gradient,) = torch.autograd.grad(outputs=logits.sum(), inputs=images, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3])


def path_lengths(images: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
    """Return the length of Jᵀy for random images y, where J is the Jacobian of G (arXiv 1912.04958, eq. 4).

    Args:
        images: [N, C, H, W] output of the synthesis network.
        ws: [N, L, w_dim] input of the synthesis network.

    Returns:
        [N] lengths, differentiable again.
    """
    height, width = images.shape[2:]
    noise = torch.randn_like(images) / np.sqrt(height * width)
    (gradient,) = torch.autograd.grad(outputs=(images * noise).sum(), inputs=ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()  # [N, L, w_dim] → [N]


def gaussian_blur(images: torch.Tensor, sigma: float | torch.Tensor, radius: int | None = None) -> torch.Tensor:
    """Blur images [N, C, H, W] with the filter 2^(-(x/sigma)²), cut off at `radius`: 3 sigma by default (in pixels)."""
    if radius is None:
        radius = int(3 * sigma)
    if radius == 0:
        return images
    taps = torch.arange(-radius, radius + 1, device=images.device).div(sigma).square().neg().exp2()
    return upfirdn2d.filter2d(images, taps / taps.sum())


class StyleGAN2Loss:
    """The training objective of a generator and a discriminator.

    Args:
        device: Where the running mean of path lengths is stored.
        G: Generator.
        D: Discriminator.
        augment_pipe: Applied to the real and generated images that D sees. None: no augmentation.
        style_mixing_prob: Probability that the layers from a random one on use a second latent.
        r1_gamma: Weight of R1. 0: no R1.
        pl_weight: Weight of path length regularization. 0: no path length regularization.
        pl_batch_shrink: Factor by which the batch of path length regularization is smaller.
        pl_decay: Decay of the running mean of path lengths.
        blur_init_sigma: Blur of all images that D sees at the start of training, in pixels: rotation-equivariant
            generators need it (arXiv 2106.12423, appendix F.1). 0: no blur.
        blur_fade_kimg: The blur decreases linearly to zero over this many thousand images.
        diffaugment: Names of augmentations of `training.diffaugment` that everything D sees goes through, in addition.
        lecam_weight: Weight of `LeCam`. 0: not used.
        bcr_weights: Weights of `Consistency` for real and for generated images. None: not used.
        insgen_weights: Weights of `InstanceDiscrimination` for D and for G. None: not used.
        insgen_queue: Images in its queues.
        pseudo: Replaces some of the images that D is shown as real. None: does not.
    """

    def __init__(
        self,
        device: torch.device | str,
        G: Any,
        D: Any,
        augment_pipe: torch.nn.Module | None = None,
        style_mixing_prob: float = 0.9,
        r1_gamma: float = 10,
        pl_weight: float = 2,
        pl_batch_shrink: int = 2,
        pl_decay: float = 0.01,
        blur_init_sigma: float = 0,
        blur_fade_kimg: float = 0,
        diffaugment: Sequence[str] = (),
        lecam_weight: float = 0,
        bcr_weights: Sequence[float] | None = None,
        insgen_weights: Sequence[float] | None = None,
        insgen_queue: int = 1024,
        pseudo: PseudoAugmentation | None = None,
    ):
        self.G = G
        self.D = D
        self.augment_pipe = augment_pipe
        self.style_mixing_prob = style_mixing_prob
        self.r1_gamma = r1_gamma
        self.pl_weight = pl_weight
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.blur_init_sigma = blur_init_sigma
        self.blur_fade_kimg = blur_fade_kimg
        self.regularizers: list[Regularizer] = []
        if lecam_weight != 0:
            self.regularizers.append(LeCam(lecam_weight, device))
        if bcr_weights is not None:
            self.regularizers.append(Consistency(D, bcr_weights))
        self.instances: InstanceDiscrimination | None = None
        if insgen_weights is not None:
            self.instances = InstanceDiscrimination(D, insgen_weights, insgen_queue)
        self.diffaugment = diffaugment
        self.pseudo = pseudo
        self.is_compared = False  # with held-out images: then the outputs in D's adversarial phase are reported as such
        self._reports_comparison = False
        self._blur_sigma: float | torch.Tensor = 0.0
        self._blur_radius = 0
        self._decisions: Decisions | None = None
        self._num_mixings = 0
        # The running means of StyleGAN2's generator move in training mode, those of StyleGAN3's on request.
        self._has_emas_on_request = G is not None and not _accepts(G.mapping, 'skip_w_avg_update')
        self.pl_mean = torch.zeros([], device=device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that the loss keeps from one step to the next, and that each rank has for itself."""
        state = dict(pl_mean=self.pl_mean)
        for regularizer in self.regularizers:
            state |= regularizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.pl_mean.copy_(state['pl_mean'])
        for regularizer in self.regularizers:
            regularizer.load_state_dict(state)

    def shared_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that the loss keeps from one step to the next, and that are equal on all ranks."""
        return {} if self.instances is None else self.instances.state_dict()

    def load_shared_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `shared_state_dict` returned."""
        if self.instances is not None:
            self.instances.load_state_dict(state)

    def end_batch(self, world: World) -> None:
        """Update what depends on all rounds of a batch. Collective; call it after the phases of each batch."""
        for regularizer in self.regularizers:
            regularizer.end_batch(world)
        if self.instances is not None:
            self.instances.end_batch(world)

    def accumulate_gradients(
        self,
        phase: str,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        gain: float = 1,
        cur_nimg: int = 0,
    ) -> None:
        """Run a phase and add its gradients, multiplied by `gain`, to those of the parameters.

        Args:
            phase: One of `PHASES`: the network, and 'main' for the adversarial loss, 'reg' for the regularizer or
                'both'.
            real_img: [N, C, H, W] float32 in [-1, +1].
            real_c: [N, c_dim] labels.
            gen_z: [N, z_dim] latents.
            gen_c: [N, c_dim] labels.
            gain: Factor of the loss: the interval of a lazy regularizer, divided by the rounds of accumulation.
            cur_nimg: Number of images shown so far, which determines the blur.

        Raises:
            ValueError: The phase is unknown.
        """
        if phase not in PHASES:
            raise ValueError(f'phase={phase!r}: must be one of {", ".join(PHASES)}')
        self._set_blur(cur_nimg)
        network, part = phase[0], phase[1:]
        adversarial, regularized = part in ('main', 'both'), part in ('reg', 'both')
        batch = Batch(real_img, real_c, gen_z, gen_c)
        self._reports_comparison = self.is_compared and network == 'D' and adversarial
        if network == 'D':
            self.train_D(batch, gain, adversarial, regularized)
            return
        if adversarial:
            self.train_G(batch, gain)
        if regularized and self.pl_weight != 0:
            self._G_path_length(gen_z, gen_c, gain)

    def blur_sigma(self, cur_nimg: int) -> float:
        """Return the blur after `cur_nimg` images, in pixels."""
        if self.blur_fade_kimg <= 0:
            return 0.0
        return max(1 - cur_nimg / (self.blur_fade_kimg * 1000), 0) * self.blur_init_sigma

    def blur_radius(self, cur_nimg: int) -> int:
        """Return where the blur is cut off after `cur_nimg` images: at 3 sigma, in pixels."""
        return int(3 * self.blur_sigma(cur_nimg))

    def has_fixed_shapes(self) -> bool:
        """Return whether all rounds of a phase compute with the same shapes from now on."""
        return self.instances is None or self.instances.has_fixed_shapes()

    def variant(self, phase: str) -> tuple[bool, bool]:
        """Return what a round of a phase computes besides what its inputs say, which changes while a run trains."""
        replaces_reals = phase[0] == 'D' and self.pseudo is not None and self.pseudo.is_active()
        return self.is_compared, replaces_reals

    def _set_blur(self, cur_nimg: int) -> None:
        self._blur_radius = self.blur_radius(cur_nimg)
        self._blur_sigma = self.blur_sigma(cur_nimg)
        if self._decisions is not None and self._decisions.blur_sigma is not None:
            self._blur_sigma = self._decisions.blur_sigma

    @contextlib.contextmanager
    def deciding(self, decisions: Decisions) -> Iterator[None]:
        """Within this context, a round decides nothing on the CPU itself."""
        self._decisions = decisions
        try:
            yield
        finally:
            self._decisions = None

    def count_mixings(self, run: Callable[[], None]) -> int:
        """Call `run`, and return how often it decides whether to mix styles."""
        before = self._num_mixings
        run()
        return self._num_mixings - before

    def draw_crossover(self, num_ws: int) -> int | None:
        """Return the layer of `num_ws` from which on styles are mixed; None: they are not."""
        if torch.rand([]).item() >= self.style_mixing_prob:
            return None
        return int(torch.randint(1, num_ws, []).item())

    def run_G(self, z: torch.Tensor, c: torch.Tensor, update_emas: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [N, C, H, W] and the ws [N, L, w_dim] that they are made from, with style mixing.

        Args:
            z: [N, z_dim] latents.
            c: [N, c_dim] labels.
            update_emas: Move the running means of a generator that moves them on request only.
        """
        emas = {'update_emas': update_emas} if self._has_emas_on_request else {}
        ws = self.G.mapping(z, c, **emas)
        if self.style_mixing_prob > 0:
            ws = self._mix_styles(ws, c)
        return self.G.synthesis(ws, **emas), ws

    def _mix_styles(self, ws: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Replace the ws from a random layer on by those of other latents (arXiv 1812.04948, section 3.1)."""
        self._num_mixings += 1
        drawn_before = None if self._decisions is None else self._decisions.crossovers
        crossover = self.draw_crossover(ws.shape[1]) if drawn_before is None else next(drawn_before)
        if crossover is None:
            return ws
        z = torch.randn([ws.shape[0], self.G.z_dim], device=ws.device)
        other = self.G.mapping(z, c, **({} if self._has_emas_on_request else {'skip_w_avg_update': True}))
        if isinstance(crossover, torch.Tensor):
            is_first = torch.arange(ws.shape[1], device=ws.device) < crossover  # [L]
            return torch.where(is_first[:, None], ws, other)
        return torch.cat([ws[:, :crossover], other[:, crossover:]], dim=1)

    def show(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images as D sees them, blurred and augmented."""
        images = gaussian_blur(images, self._blur_sigma, self._blur_radius)
        if self.augment_pipe is not None:
            images = self.augment_pipe(images)
        return differentiable.apply_policy(images, self.diffaugment)

    def run_D(self, images: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, 1] of the images as D sees them."""
        return self.D(self.show(images), c)

    @torch.no_grad()
    def look_at(self, images: torch.Tensor, c: torch.Tensor, cur_nimg: int) -> torch.Tensor:
        """Return the logits [N, 1] of images outside of the training, as D sees them after `cur_nimg` images."""
        self._set_blur(cur_nimg)
        return self.run_D(images, c)

    def run_D_regularized(
        self, kind: str, images: torch.Tensor, c: torch.Tensor, z: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits [N, 1] of the images as D sees them, and the sum of all regularizers [N, 1].

        Args:
            kind: REAL or FAKE.
            images: [N, C, H, W].
            c: [N, c_dim] labels.
            z: [N, z_dim] latents of generated images.
        """
        if not self.regularizers and self.instances is None:
            logits = self.run_D(images, c)
            return logits, torch.zeros_like(logits)
        shown = self.show(images)
        watched: contextlib.AbstractContextManager[list[torch.Tensor]] = contextlib.nullcontext([])
        if self.instances is not None:
            watched = features_captured(self.D)
        with watched as features:
            logits = self.D(shown, c)
        penalty = torch.zeros_like(logits)
        for regularizer in self.regularizers:
            penalty = penalty + regularizer.penalty(kind, logits, shown, c)
        if self.instances is not None:
            contrast = self.instances.D_penalty(kind, features[0], self.other_view(images, c, z), c)  # [N]
            training_stats.report(f'Loss/insgen/{kind}', contrast)
            penalty = penalty + contrast.unsqueeze(1)
        return logits, penalty

    @torch.no_grad()
    def other_view(self, images: torch.Tensor, c: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
        """Return images [N, C, H, W] augmented anew; generated ones are also of slightly different latents `z`."""
        if z is not None:
            images, _ws = self.run_G(z + PERTURBATION * torch.randn_like(z), c)
        return self.show(images)

    def run_D_for_G(self, images: torch.Tensor, c: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits [N, 1] of generated images as D sees them, and what else to add to the loss of G, [N, 1].

        Args:
            images: [N, C, H, W].
            c: [N, c_dim] their labels.
            z: [N, z_dim] their latents.
        """
        if self.instances is None:
            logits = self.run_D(images, c)
            return logits, torch.zeros_like(logits)
        with features_captured(self.D) as features:
            logits = self.run_D(images, c)
        contrast = self.instances.G_penalty(features[0], self.other_view(images, c, z), c)  # [N]
        training_stats.report('Loss/insgen/G', contrast)
        return logits, contrast.unsqueeze(1)

    def report_logits(
        self, kind: str, logits: torch.Tensor, boundary: float | torch.Tensor = 0, counted: torch.Tensor | None = None
    ) -> None:
        """Report D's outputs for images of a kind, and on which side of the boundary they are.

        Args:
            kind: REAL or FAKE.
            logits: [N, 1] outputs.
            boundary: What separates the kinds.
            counted: Which images are of this kind, bool [N, 1]. None: all.
        """
        signs = (logits.detach() - boundary).sign()
        for name, values in (('scores', logits.detach()), ('signs', signs)):
            if counted is not None:
                values = torch.where(counted, values, float('nan'))  # which statistics ignore
            training_stats.report(f'Loss/{name}/{kind}', values)
            if name == 'scores' and self._reports_comparison:
                training_stats.report(f'Validation/{kind}', values)

    def reals_of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what D is shown as real images, [N, C, H, W], and which of them are, bool [N, 1]; None: all."""
        if self.pseudo is None:
            return batch.real_img.detach(), None

        def generate(indices: torch.Tensor) -> torch.Tensor:
            z = torch.randn([len(indices), *batch.gen_z.shape[1:]], dtype=batch.gen_z.dtype, device=indices.device)
            with torch.no_grad():
                return self.run_G(z, batch.real_c[indices])[0]

        return self.pseudo.replace(batch.real_img.detach(), generate)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained in a phase of D; naming them saves the backward pass to the images."""
        parameters = list(self.D.parameters())
        if self.instances is not None:
            parameters += self.instances.trained_parameters()
        return [parameter for parameter in parameters if parameter.requires_grad]

    def train_G(self, batch: Batch, gain: float) -> None:
        """Minimize -log sigmoid(D(G(z))), the non-saturating loss (arXiv 1406.2661, section 3)."""
        images, _ws = self.run_G(batch.gen_z, batch.gen_c)
        logits, penalty = self.run_D_for_G(images, batch.gen_c, batch.gen_z)
        self.report_logits(FAKE, logits)
        loss = softplus(-logits)  # [N, 1]
        training_stats.report('Loss/G/loss', loss)
        loss = loss + penalty
        report_nonfinite(loss)
        loss.mean().mul(gain).backward()

    def train_D(self, batch: Batch, gain: float, adversarial: bool, regularized: bool) -> None:
        """Minimize the logistic loss (`adversarial`), R1 (`regularized`), or both."""
        regularized = regularized and self.r1_gamma != 0
        if adversarial:
            self._D_fake(batch.gen_z, batch.gen_c, gain)
        if adversarial or regularized:
            self._D_real(batch, gain, adversarial, regularized)

    def _G_path_length(self, z: torch.Tensor, c: torch.Tensor, gain: float) -> None:
        """Minimize (|Jᵀy| - a)², where a is the running mean of the lengths (arXiv 1912.04958, eq. 4)."""
        batch_size = max(z.shape[0] // self.pl_batch_shrink, 1)
        images, ws = self.run_G(z[:batch_size], c[:batch_size])
        lengths = path_lengths(images, ws)
        mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = (lengths - mean).square()  # [N]
        training_stats.report('Loss/pl_penalty', penalty)
        loss = penalty * self.pl_weight
        training_stats.report('Loss/G/reg', loss)
        report_nonfinite(loss)
        loss.mean().mul(gain).backward()

    def _D_fake(self, z: torch.Tensor, c: torch.Tensor, gain: float) -> None:
        """Minimize -log(1 - sigmoid(D(G(z)))), the first half of the logistic loss (arXiv 1406.2661, eq. 1)."""
        with torch.no_grad():
            images, _ws = self.run_G(z, c, update_emas=True)
        logits, penalty = self.run_D_regularized(FAKE, images, c, z)
        self.report_logits(FAKE, logits)
        loss = softplus(logits)  # [N, 1]
        self._fake_loss = loss.detach()
        loss = loss + penalty
        report_nonfinite(loss)
        loss.mean().mul(gain).backward()

    def _D_real(self, batch: Batch, gain: float, adversarial: bool, regularized: bool) -> None:
        """Minimize -log sigmoid(D(x)), the second half of the logistic loss, plus R1 · γ/2, or one of the two."""
        images, is_real = self.reals_of(batch)
        images, c = images.requires_grad_(regularized), batch.real_c
        if adversarial:
            logits, penalty = self.run_D_regularized(REAL, images, c)
        else:
            logits, penalty = self.run_D(images, c), None
        self.report_logits(REAL, logits, counted=is_real)
        loss = torch.zeros_like(logits)
        if penalty is not None:
            loss = softplus(-logits)  # [N, 1]
            training_stats.report('Loss/D/loss', self._fake_loss + loss)
            loss = loss + penalty
        if regularized:
            penalty = r1_penalty(logits, images)  # [N]
            training_stats.report('Loss/r1_penalty', penalty)
            weighted = penalty * (self.r1_gamma / 2)
            training_stats.report('Loss/D/reg', weighted)
            loss = loss + weighted.unsqueeze(1)
        report_nonfinite(loss)
        loss.mean().mul(gain).backward(inputs=self.trained_parameters())


def _accepts(module: torch.nn.Module, keyword: str) -> bool:
    return keyword in inspect.signature(module.forward).parameters


def report_nonfinite(loss: torch.Tensor) -> None:
    """Report which of the losses [N, 1] or [N] are inf or NaN."""
    training_stats.report('Loss/nonfinite', ~loss.detach().isfinite())
