"""Adaptive pseudo augmentation: which images are replaced, by which, and what the loss makes of them."""

import numpy as np
import pytest
import torch

from tests import small_losses
from tests.small_losses import make_batch, score, softplus, squared_gradient
from torch_utils import training_stats
from training.loss import StyleGAN2Loss
from training.pseudo_augmentation import PseudoAugmentation
from training.relativistic_loss import RelativisticLoss


def pseudo_with(p):
    pseudo = PseudoAugmentation()
    pseudo.p.fill_(p)
    return pseudo


def test_nothing_happens_without_strength():
    images, state = torch.randn(4, 3, 8, 8), torch.get_rng_state()
    assert pseudo_with(0).replace(images, None) == (images, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_as_many_images_are_replaced_as_asked_for():
    torch.manual_seed(0)
    images = torch.arange(2000.0).reshape(2000, 1, 1, 1)
    mixed, is_real = pseudo_with(0.3).replace(images, lambda indices: -images[indices] - 1)
    assert 500 < int((~is_real).sum()) < 700
    assert torch.equal(mixed[:, :, 0, 0], torch.where(is_real, images[:, :, 0, 0], -images[:, :, 0, 0] - 1))
    assert torch.equal(images, torch.arange(2000.0).reshape(2000, 1, 1, 1))


def drawn(batch, p):
    """What the loss draws after the seed: whether each image is replaced, and the latents of those that are."""
    torch.manual_seed(11)
    chosen = torch.rand(len(batch.real_img)) < p
    assert 0 < int(chosen.sum()) < len(chosen)
    return chosen.tolist(), torch.randn(int(chosen.sum()), 4, dtype=torch.float64)


def shown_as_real(loss, batch, p):
    """The real images of a batch, one by one, after replacement: (image, label, whether it is real)."""
    chosen, latents = drawn(batch, p)
    latents = iter(latents)
    for index, is_replaced in enumerate(chosen):
        c = batch.real_c[index : index + 1]
        image = loss.G(next(latents)[None], c) if is_replaced else batch.real_img[index : index + 1]
        yield image, c, not is_replaced


def slow_value(loss, batch, phase, p):
    values = []
    for index, (image, c, _is_real) in enumerate(shown_as_real(loss, batch, p)):
        pairs = isinstance(loss, RelativisticLoss)
        fake_c = (batch.real_c if pairs else batch.gen_c)[index : index + 1]
        fake = score(loss.D, loss.G(batch.gen_z[index : index + 1], fake_c), fake_c)
        real = score(loss.D, image, c)
        value = 0.0
        if phase in ('Dmain', 'Dboth'):
            value += softplus(fake - real) if pairs else softplus(fake) + softplus(-real)
        if phase in ('Dreg', 'Dboth'):
            value += loss.r1_gamma / 2 * squared_gradient(loss.D, image, c)
        values.append(value)
    return np.mean(values)


@pytest.mark.parametrize('phase', ['Dmain', 'Dreg', 'Dboth'])
@pytest.mark.parametrize('make, kwargs', [(StyleGAN2Loss, {}), (RelativisticLoss, dict(r2_gamma=0))])
def test_gradients_are_those_of_the_slow_formula(make, kwargs, phase):
    G, D = small_losses.networks(c_dim=2)
    loss = make('cpu', G, D, style_mixing_prob=0, pl_weight=0, r1_gamma=3, pseudo=pseudo_with(0.5), **kwargs)
    batch = make_batch(size=6, c_dim=2)
    torch.manual_seed(11)
    small_losses.assert_gradient(loss, phase, batch, lambda: slow_value(loss, batch, phase, 0.5))


def test_only_real_images_count():
    """The statistic that ADA and the pseudo augmentation follow is about images that are really real."""
    G, D = small_losses.networks()
    loss = StyleGAN2Loss('cpu', G, D, style_mixing_prob=0, pl_weight=0, r1_gamma=0, pseudo=pseudo_with(0.5))
    batch, reported = make_batch(size=8), training_stats.Collector(regex='Loss/s.*/real', keep_previous=False)
    torch.manual_seed(11)
    small_losses.gradient_of(loss, 'Dmain', batch)
    reported.update()
    outputs = [float(score(D, image, c)) for image, c, is_real in shown_as_real(loss, batch, 0.5) if is_real]
    assert reported.num('Loss/signs/real') == len(outputs) < 8
    assert reported['Loss/scores/real'] == pytest.approx(np.mean(outputs))
    assert reported['Loss/signs/real'] == pytest.approx(np.mean(np.sign(outputs)))


def test_g_sees_real_images_only():
    """In the phases of G nothing is replaced, and nothing is drawn for it."""
    G, D = small_losses.networks()
    for make in (StyleGAN2Loss, RelativisticLoss):
        plain = make('cpu', G, D, style_mixing_prob=0, pl_weight=0)
        deceiving = make('cpu', G, D, style_mixing_prob=0, pl_weight=0, pseudo=pseudo_with(0.9))
        gradients = [small_losses.gradient_of(loss, 'Gmain', make_batch()) for loss in (plain, deceiving)]
        assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
