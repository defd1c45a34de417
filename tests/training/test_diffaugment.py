"""DiffAugment against a formula for one pixel at a time, its derivatives, and its distribution."""

import numpy as np
import pytest
import torch

from tests import small_losses
from training import diffaugment
from training.diffaugment import POLICY, apply_policy
from training.loss import StyleGAN2Loss, r1_penalty
from training.presets import DIFFAUGMENT_NAMES

SHAPES = [(1, 8, 8), (2, 8, 12), (3, 16, 8), (4, 12, 8)]  # gray and RGB, with and without alpha, square or not


def images_of(shape, count=5):
    torch.manual_seed(3)
    return torch.rand([count, *shape], dtype=torch.float64) * 2 - 1


def draws(*calls):
    """The random numbers of the calls, in their order, after the seed."""
    torch.manual_seed(7)
    return [call().flatten().tolist() for call in calls]


def augmented(images, *names):
    torch.manual_seed(7)
    return apply_policy(images, names).numpy()


def test_names_are_those_of_the_options():
    assert tuple(POLICY) == DIFFAUGMENT_NAMES


@pytest.mark.parametrize('shape', SHAPES)
def test_color_is_the_slow_formula(shape):
    images = images_of(shape)
    colors = shape[0] - (shape[0] in (2, 4))
    uniform = [lambda: torch.rand(5, 1, 1, 1, dtype=torch.float64)] * 3
    expected = images.numpy().copy()
    for index, (brightness, saturation, contrast) in enumerate(zip(*draws(*uniform))):
        image = expected[index, :colors]  # a view
        image += brightness - 0.5
        for row in range(shape[1]):
            for column in range(shape[2]):
                gray = image[:, row, column].mean()
                image[:, row, column] = gray + 2 * saturation * (image[:, row, column] - gray)
        image[:] = image.mean() + (0.5 + contrast) * (image - image.mean())
    assert np.allclose(augmented(images, 'color'), expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_translation_is_the_slow_formula(shape):
    images, (_channels, height, width) = images_of(shape, count=30), shape
    rows, columns = draws(
        lambda: torch.randint(-round(height / 8), round(height / 8) + 1, [30, 1, 1, 1]),
        lambda: torch.randint(-round(width / 8), round(width / 8) + 1, [30, 1, 1, 1]),
    )
    expected = np.zeros_like(images.numpy())
    for index, (dy, dx) in enumerate(zip(rows, columns)):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    expected[index, :, y, x] = images[index, :, y + dy, x + dx]
    assert np.array_equal(augmented(images, 'translation'), expected)
    assert {min(rows), max(rows)} == {-round(height / 8), round(height / 8)} != {0}


@pytest.mark.parametrize('shape', SHAPES)
def test_cutout_is_the_slow_formula(shape):
    images, (_channels, height, width) = images_of(shape, count=30), shape
    centers = draws(
        lambda: torch.randint(0, height + 1, [30, 1, 1, 1]), lambda: torch.randint(0, width + 1, [30, 1, 1, 1])
    )
    expected = images.numpy().copy()
    for index, (cy, cx) in enumerate(zip(*centers)):
        top, left = cy - height // 4, cx - width // 4
        expected[index, :, max(top, 0) : top + height // 2, max(left, 0) : left + width // 2] = 0
    assert np.array_equal(augmented(images, 'cutout'), expected)


def test_flip_mirrors_half_of_the_images():
    images = images_of((3, 8, 8), count=400)
    torch.manual_seed(7)
    flipped = diffaugment.flip(images)
    mirrored = [torch.equal(one, other.flip(2)) for one, other in zip(flipped, images)]
    assert 150 < sum(mirrored) < 250
    assert all(torch.equal(one, other) for one, other, is_mirrored in zip(flipped, images, mirrored) if not is_mirrored)


@pytest.mark.parametrize('shape', [(1, 4, 4), (4, 4, 8)])
def test_gradients_of_the_first_and_second_order(shape):
    images = images_of(shape, count=2).requires_grad_(True)

    def function(x):
        torch.manual_seed(7)
        return apply_policy(x, tuple(POLICY)).square().sum(dim=(1, 2, 3))

    assert torch.autograd.gradcheck(function, images)
    assert torch.autograd.gradgradcheck(function, images)


def test_r1_goes_through_the_augmentation():
    """The penalty of the loss is the squared gradient with respect to the images before their augmentation."""
    G, D = small_losses.networks()
    loss = StyleGAN2Loss('cpu', G, D, r1_gamma=2, style_mixing_prob=0, pl_weight=0, diffaugment=tuple(POLICY))
    batch = small_losses.make_batch()

    def slow():
        torch.manual_seed(5)
        images = batch.real_img.clone().requires_grad_(True)
        return r1_penalty(D(apply_policy(images, tuple(POLICY)), batch.real_c), images).mean().detach()

    torch.manual_seed(5)
    small_losses.assert_gradient(loss, 'Dreg', batch, slow)


def test_without_names_nothing_is_drawn():
    images = images_of((3, 8, 8))
    state = torch.get_rng_state()
    assert apply_policy(images, ()) is images
    assert torch.equal(torch.get_rng_state(), state)
