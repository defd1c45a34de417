"""Regularizers of D's outputs, against a formula for one image at a time."""

import numpy as np
import pytest
import torch

from tests import small_losses
from tests.small_losses import make_batch, one, score, softplus
from torch_utils import launcher
from torch_utils.distributed import World
from training.loss import StyleGAN2Loss
from training.regularizers import FAKE, REAL, LeCam
from training.relativistic_loss import RelativisticLoss

ALONE = World(0, 1, torch.device('cpu'))


def make_loss(make=StyleGAN2Loss, c_dim=0, channels=1, **kwargs):
    G, D = small_losses.networks(c_dim, channels)
    kwargs |= dict(r2_gamma=0) if make is RelativisticLoss else {}
    return make('cpu', G, D, style_mixing_prob=0, pl_weight=0, r1_gamma=0, **kwargs)


def adversarial_value(loss, images, labels):
    """The loss of D for one pair of images, without regularizers."""
    real, fake = (score(loss.D, image, label) for image, label in zip(images, labels))
    if isinstance(loss, RelativisticLoss):
        return softplus(fake - real)
    return softplus(-real) + softplus(fake)


def images_of(loss, batch):
    """For each index: the real and the generated image, and their labels."""
    fake_c = batch.real_c if isinstance(loss, RelativisticLoss) else batch.gen_c
    for index in range(len(batch.real_img)):
        pair = one(batch._replace(gen_c=fake_c), index)
        yield (pair.real_img, loss.G(pair.gen_z, pair.gen_c)), (pair.real_c, pair.gen_c)


# ---------------------------------------------------------------------------------------------------------------------
# LeCam

BOTH_LOSSES = pytest.mark.parametrize('make', [StyleGAN2Loss, RelativisticLoss])


@BOTH_LOSSES
def test_lecam_is_the_slow_formula(make):
    loss, batch = make_loss(make, c_dim=2, lecam_weight=0.7), make_batch(c_dim=2)
    loss.load_state_dict(
        dict(
            pl_mean=torch.zeros([]),
            lecam_real=torch.tensor(0.5),
            lecam_fake=torch.tensor(-0.25),
            lecam_batches=torch.tensor(0.25),
        )
    )
    mean_real, mean_fake = 2.0, -1.0

    def slow():
        values = []
        for images, labels in images_of(loss, batch):
            real, fake = (float(score(loss.D, image, label)) for image, label in zip(images, labels))
            lecam = (real - mean_fake) ** 2 + (fake - mean_real) ** 2
            values.append(adversarial_value(loss, images, labels) + 0.7 * lecam)
        return np.mean(values)

    small_losses.assert_gradient(loss, 'Dmain', batch, slow, gain=3)
    small_losses.assert_gradient(loss, 'Dreg', batch, lambda: 0)  # with R1 alone, which has no weight here


def test_means_are_those_of_whole_batches():
    lecam = LeCam(1.0, 'cpu', decay=0.9)
    outputs = torch.randn(5, 8, 2, 1)  # batches, images, kinds
    weights, sums = 0.0, np.zeros(2)
    for batch in outputs:
        for piece in batch.split(2):
            for kind, logits in zip((REAL, FAKE), piece.unbind(1)):
                penalty = lecam.penalty(kind, logits, logits, logits)
                if weights == 0:
                    assert torch.equal(penalty, torch.zeros(2, 1))
        lecam.end_batch(ALONE)
        weights = 0.9 * weights + 0.1
        sums = 0.9 * sums + 0.1 * batch.mean(dim=(0, 2)).numpy()
    assert [float(lecam.mean(kind)) for kind in (REAL, FAKE)] == pytest.approx(list(sums / weights), rel=1e-5)


def test_the_first_batch_has_a_gradient():
    """Without means there is no penalty, and no NaN either."""
    loss, batch = make_loss(lecam_weight=1), make_batch()
    with_lecam = small_losses.gradient_of(loss, 'Dmain', batch)
    plain = small_losses.gradient_of(make_loss(), 'Dmain', batch)
    assert all(torch.equal(with_lecam[name], plain[name]) for name in plain)


def test_a_step_with_inf_does_not_remain_in_the_means():
    lecam = LeCam(1.0, 'cpu')
    for kind in (REAL, FAKE):
        lecam.penalty(kind, torch.tensor([[float('nan')], [3.0], [float('inf')]]), None, None)
    lecam.end_batch(ALONE)
    assert float(lecam.mean(REAL)) == pytest.approx(3)


def save_means(world, path):
    lecam = LeCam(1.0, world.device)
    for kind, value in ((REAL, 1.0 + world.rank), (FAKE, -1.0)):
        lecam.penalty(kind, torch.full([2, 1], value), None, None)
    lecam.end_batch(world)
    torch.save(lecam.state_dict(), f'{path}/{world.rank}.pt')


def test_ranks_have_the_same_means(tmp_path):
    launcher.launch(save_means, 2, 'cpu', str(tmp_path))
    states = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    assert states[0] == states[1]
    assert float(states[0]['lecam_real'] / states[0]['lecam_batches']) == pytest.approx(1.5)


# ---------------------------------------------------------------------------------------------------------------------
# Balanced consistency


@BOTH_LOSSES
@pytest.mark.parametrize('weights', [(10, 3), (0, 3)])
def test_consistency_is_the_slow_formula(make, weights):
    loss, batch = make_loss(make, c_dim=2, channels=4, bcr_weights=weights), make_batch(c_dim=2, channels=4)
    (consistency,) = loss.regularizers
    consistency.transform = lambda images: images.flip(2) * 0.5

    def slow():
        values = []
        for images, labels in images_of(loss, batch):
            value = adversarial_value(loss, images, labels)
            for image, label, weight in zip(images, labels, weights):
                change = float(score(loss.D, image, label)) - float(score(loss.D, image.flip(2) * 0.5, label))
                value += weight * change**2
            values.append(value)
        return np.mean(values)

    small_losses.assert_gradient(loss, 'Dmain', batch, slow, gain=2)


def test_the_transformation_keeps_the_meaning():
    """It mirrors and shifts, image by image: a single bright pixel is moved by at most an eighth of the sides."""
    (consistency,) = make_loss(bcr_weights=(1, 1)).regularizers
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 16, 24)
    images[:, 0, 8, 6] = 1
    places = consistency.transform(images).nonzero()[:, 2:]
    assert len(places) == 500
    assert set(places[:, 0].tolist()) == set(range(6, 11))
    assert set(places[:, 1].tolist()) == {*range(3, 10), *range(14, 21)}
    assert consistency.state_dict() == {}


def test_consistency_sees_what_d_has_seen():
    """The copies are made of the augmented images, and need no gradient of R1."""
    loss = make_loss(bcr_weights=(1, 1), diffaugment=('translation',))
    (consistency,) = loss.regularizers
    seen, D = [], loss.D
    consistency.transform = lambda images: seen.append(images) or images
    shown = []
    loss.D = lambda images, c: shown.append(images) or D(images, c)
    loss.trained_parameters = lambda: list(D.parameters())
    D.requires_grad_(True)
    loss.accumulate_gradients('Dmain', *make_batch())
    assert all(one is other for one, other in zip(seen, shown, strict=True)) and len(seen) == 2
