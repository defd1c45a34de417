"""The curve through the keyframes: it passes them on time, without jumps, and blends their noise."""

import numpy as np
import pytest

from generation.interpolation import Interpolation
from generation.projected_latents import ProjectedLatents

NOISE = 'b4.conv1.noise_const'


def random_keys(count, noise=False):
    random = np.random.RandomState(3)
    ws = random.randn(count, 2, 5).astype(np.float32)
    return ProjectedLatents(ws, {NOISE: random.randn(count, 4, 4).astype(np.float32)} if noise else {})


def frames_of(interpolation, frames_at_once=3):
    """Return (w [T, cells, num_ws, w_dim], noise [T, cells, H, W] or None)."""
    chunks = list(interpolation.chunks(frames_at_once))
    ws = np.concatenate([chunk.ws for chunk in chunks])
    shape = [interpolation.num_frames, interpolation.num_cells]
    noise = np.concatenate([chunk.noise[NOISE] for chunk in chunks]) if chunks[0].noise else None
    return ws.reshape(*shape, *ws.shape[1:]), None if noise is None else noise.reshape(*shape, *noise.shape[1:])


@pytest.mark.parametrize('num_keys, num_cells', [(2, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('kind', ['cubic', 'linear'])
def test_every_keyframe_is_reached_at_its_time(kind, loop, num_keys, num_cells):
    keys = random_keys(num_keys * num_cells)
    path = Interpolation(keys, num_cells, frames_per_key=4, kind=kind, loop=loop)
    assert (path.num_keys, path.num_frames) == (num_keys, num_keys * 4 if loop else (num_keys - 1) * 4 + 1)
    ws, _ = frames_of(path)
    assert ws.dtype == np.float32
    expected = keys.ws.reshape(num_cells, num_keys, 2, 5).swapaxes(0, 1)
    np.testing.assert_allclose(ws[::4], expected, atol=1e-6)


@pytest.mark.parametrize('kind', ['cubic', 'linear'])
def test_a_loop_has_no_jump_at_its_end(kind):
    ws, _ = frames_of(Interpolation(random_keys(4), 1, frames_per_key=50, kind=kind))
    steps = np.abs(np.diff(ws, axis=0)).max(axis=(1, 2, 3))
    assert np.abs(ws[0] - ws[-1]).max() <= steps.max()


def test_a_cubic_curve_has_no_corners_unlike_a_linear_one():
    def sharpest_turn(kind):
        ws, _ = frames_of(Interpolation(random_keys(4), 1, frames_per_key=50, kind=kind))
        around = np.concatenate([ws, ws[:2]])  # also across the end of the loop
        return np.abs(np.diff(around, n=2, axis=0)).max() / np.abs(np.diff(around, axis=0)).max()

    assert sharpest_turn('cubic') < 0.15 and sharpest_turn('linear') > 0.5


def test_a_linear_curve_is_straight():
    keys = random_keys(2)
    ws, _ = frames_of(Interpolation(keys, 1, frames_per_key=4, kind='linear', loop=False))
    np.testing.assert_allclose(ws[1, 0], 0.75 * keys.ws[0] + 0.25 * keys.ws[1], atol=1e-6)


def test_chunks_do_not_change_the_curve():
    path = Interpolation(random_keys(6, noise=True), 2, frames_per_key=5)
    for first, second in zip(frames_of(path, 1), frames_of(path, 100)):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('loop', [True, False])
def test_noise_is_that_of_the_keyframes_and_as_strong_between_them(loop):
    keys = random_keys(6, noise=True)
    keys.noise[NOISE][1] *= 3
    _, noise = frames_of(Interpolation(keys, 2, frames_per_key=4, loop=loop))
    by_key = keys.noise[NOISE].reshape(2, 3, 4, 4).swapaxes(0, 1)
    np.testing.assert_array_equal(noise[::4], by_key)
    strength = np.sqrt(np.square(noise).mean(axis=(2, 3)))
    np.testing.assert_allclose(strength[2], (strength[0] + strength[4]) / 2, rtol=1e-5)


def test_noise_that_cancels_out_does_not_divide_by_zero():
    keys = random_keys(2, noise=True)
    keys.noise[NOISE][1] = -keys.noise[NOISE][0]
    _, noise = frames_of(Interpolation(keys, 1, frames_per_key=2))
    assert np.isfinite(noise).all()


@pytest.mark.parametrize('kind', ['linear', 'cubic'])
def test_easing_is_slow_at_keyframes_and_ends_at_the_same_places(kind):
    keys = ProjectedLatents(np.arange(3, dtype=np.float32).reshape(3, 1, 1))
    steady, smooth = (
        np.concatenate([chunk.ws for chunk in Interpolation(keys, 1, 10, kind, False, easing).chunks(4)]).ravel()
        for easing in ('none', 'smooth')
    )
    assert len(steady) == len(smooth) == 21
    np.testing.assert_allclose(smooth[::5], steady[::5], atol=1e-6)  # keyframes, and halfway between them
    steps = np.diff(smooth)
    assert (steps > 0).all() and steps[0] < 0.4 * steps[4] and steps[9] < 0.4 * steps[5]
