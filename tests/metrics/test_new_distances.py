"""CMMD, FID for infinitely many images, clean resizing: against slow formulas, Pillow, and what is known."""

import numpy as np
import PIL.Image
import pytest
import torch

from metrics import cmmd as cmmd_module
from metrics.cmmd import cmmd
from metrics.features.clean_resize import clean_resize
from metrics.fid_infinity import fid_infinity, interval
from metrics.frechet_inception_distance import frechet_distance, moments

# ---------------------------------------------------------------------------------------------------------------------
# CMMD


def slow_cmmd(real, fake):
    """The unbiased estimate, pair by pair, in float64."""
    real, fake = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (real, fake))

    def kernel(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * 10**2))

    def mean_within(x):
        return np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    between = np.mean([kernel(a, b) for a in real for b in fake])
    return 1000 * (mean_within(real) + mean_within(fake) - 2 * between)


@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-9), (np.float32, 2e-5)])
def test_cmmd(dtype, tolerance, monkeypatch):
    monkeypatch.setattr(cmmd_module, '_ROWS_AT_ONCE', 7)
    rng = np.random.RandomState(0)
    real, fake = (rng.randn(20, 12) + 1).astype(dtype), (rng.randn(17, 12) * 2).astype(dtype)
    steps = []
    found = cmmd(real, fake, progress=lambda *step: steps.append(step))
    assert found.value == pytest.approx(slow_cmmd(real.astype(float), fake.astype(float)), abs=tolerance)
    assert steps == [(done, len(steps)) for done in range(1, len(steps) + 1)]
    # The influence of a vector is the derivative of the estimate with its weight: leave-one-out agrees to first order.
    without = np.array([cmmd(np.delete(real, i, axis=0), fake).value for i in range(len(real))])
    jackknife = -(without - without.mean()) * (len(real) - 1)
    influences = found.influences_real - found.influences_real.mean()
    np.testing.assert_allclose(influences, jackknife, atol=0.15 * np.abs(jackknife).max())


def test_the_interval_of_cmmd_has_the_true_width():
    rng = np.random.RandomState(0)
    values, widths = [], []
    for _ in range(100):
        found = cmmd(rng.randn(80, 8) + 1, rng.randn(80, 8))
        low, high = found.interval(200, rng)
        values.append(found.value)
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(3.92 * np.std(values), rel=0.25)


def test_embeddings_without_direction_and_without_number():
    for real, words in ((np.zeros([3, 4]), 'zero'), (np.ones([1, 4]), '1 real and 3 fake embeddings are too few')):
        with pytest.raises(ValueError, match=words):
            cmmd(real, np.ones([3, 4]))


# ---------------------------------------------------------------------------------------------------------------------
# FID for infinitely many images


def test_fid_infinity_has_no_bias():
    """For equal distributions: from few images the bias of FID is large, and FID∞ is 0 to its scatter."""
    rng = np.random.RandomState(0)
    real = rng.randn(20_000, 8)
    found = [fid_infinity(real, rng.randn(400, 8), np.random.RandomState(1)) for _ in range(24)]
    plain, extended = np.mean([x.distances[-1] for x in found]), [x.value for x in found]
    assert plain > 0.05
    assert abs(np.mean(extended)) < min(plain / 3, 3 * np.std(extended) / 24**0.5)


def test_the_interval_of_fid_infinity():
    """For Gaussians whose distance is known."""
    rng = np.random.RandomState(0)
    real, true, hits = rng.randn(10_000, 8), 8 * 0.4**2, 0
    for _ in range(15):
        fake = rng.randn(400, 8) + 0.4
        found = fid_infinity(real, fake, np.random.RandomState(1))
        low, high = interval(found, real, fake, 100, np.random.RandomState(2))
        hits += low <= true <= high
        assert high - low < 0.8
    assert hits >= 12


def test_the_line_of_fid_infinity():
    rng = np.random.RandomState(3)
    real, fake = rng.randn(300, 4), rng.randn(250, 4) + 0.5
    found = fid_infinity(real, fake, np.random.RandomState(5))
    draws, sizes = np.random.RandomState(5), np.linspace(25, 250, 15).round().astype(int)
    distances = []
    for size in sizes:
        subset = torch.from_numpy(fake[draws.choice(250, size, replace=False)])
        distances.append(frechet_distance(*moments(torch.from_numpy(real)), *moments(subset)))
    assert found.sizes.tolist() == sizes.tolist()
    np.testing.assert_allclose(found.distances, distances, rtol=1e-10)
    assert found.value == pytest.approx(np.polyfit(1 / sizes, distances, 1)[1], rel=1e-9)


def test_fid_infinity_of_few_images():
    with pytest.raises(ValueError, match='FID∞ needs more than 49 generated images for features of 4 dimensions'):
        fid_infinity(np.ones([9, 4]), np.ones([49, 4]), np.random.RandomState(0))


# ---------------------------------------------------------------------------------------------------------------------
# Resizing


@pytest.mark.parametrize('height, width', [(32, 32), (8, 8), (299, 299), (512, 512), (700, 320), (301, 1024)])
def test_clean_resizing_is_pillows_in_floating_point(height, width):
    rng = np.random.RandomState(0)
    image = rng.randint(0, 256, size=[3, height, width]).astype(np.uint8)
    expected = [
        np.asarray(PIL.Image.fromarray(channel.astype(np.float32)).resize((299, 299), PIL.Image.BICUBIC))
        for channel in image
    ]
    found = clean_resize(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-4)
