"""Averages whose length is chosen later, against integrals in float64."""

import numpy as np
import pytest
import scipy.integrate
import torch

from training.power_averages import Combination, PowerAverages, Profile, combine, exponent, inner_product, length_of

BATCH = 4


def weights_of(gamma, steps):
    """The share of each step in an average over steps of equal length: the integral of τ^γ over the step."""
    edges = np.arange(steps + 1, dtype=np.float64) / steps
    return np.diff(edges ** (gamma + 1))


def train(lengths, steps, seed=0):
    """A module that moves at random; the averages after each step, and the parameters of all steps."""
    rng = np.random.RandomState(seed)
    module = torch.nn.BatchNorm1d(3).double()
    averages = PowerAverages(module, lengths)
    history, states = [], []
    for step in range(steps):
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(rng.randn(3).cumsum()))
        averages.update(step * BATCH, (step + 1) * BATCH)
        history.append(module.weight.detach().numpy().copy())
        states.append({name: tensor.clone() for name, tensor in averages.state_dict().items()})
    return states, np.stack(history)


@pytest.mark.parametrize('length', [0.01, 0.05, 0.1, 0.28])
def test_length_is_the_deviation_of_the_weights(length):
    gamma = exponent(length)
    assert length_of(gamma) == pytest.approx(length)
    moments = [scipy.integrate.quad(lambda t, k=k: (gamma + 1) * t ** (gamma + k), 0, 1)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1)
    assert (moments[2] - moments[1] ** 2) ** 0.5 == pytest.approx(length)


def test_averages_are_the_integral():
    lengths = [0.05, 0.2]
    states, history = train(lengths, 57)
    for index, length in enumerate(lengths):
        expected = weights_of(exponent(length), 57) @ history
        np.testing.assert_allclose(states[-1][f'{index}/weight'].numpy(), expected, rtol=1e-12)
    assert states[-1].keys() == {'0/weight', '0/bias', '1/weight', '1/bias'}  # no buffers


def test_inner_products_are_integrals():
    one, other = Profile(3.5, 2.0), Profile(17.0, 0.7)
    density = lambda profile, t: (profile.gamma + 1) * t**profile.gamma / profile.time ** (profile.gamma + 1)  # noqa: E731
    expected = scipy.integrate.quad(lambda t: density(one, t) * density(other, t), 0, 0.7)[0]
    assert inner_product(one, other) == pytest.approx(expected) == inner_product(other, one)


def test_a_stored_average_comes_back():
    stored = [Profile(exponent(length), time) for time in (10, 20, 30) for length in (0.05, 0.1)]
    coefficients, error = combine(stored, stored[-1])
    np.testing.assert_allclose(coefficients, [0, 0, 0, 0, 0, 1], atol=1e-6)
    assert error < 1e-6


def test_the_combination_is_the_closest_one():
    stored = [Profile(exponent(length), time) for time in (10, 20, 30) for length in (0.05, 0.1)]
    target = Profile(exponent(0.15), 30)
    coefficients, error = combine(stored, target)
    # By brute force: the profiles as vectors of 300,000 points, with the condition as one heavy equation.
    times = (np.arange(300_000) + 0.5) / 10_000
    columns = [np.where(times < p.time, (p.gamma + 1) * times**p.gamma / p.time ** (p.gamma + 1), 0) for p in stored]
    wanted = (target.gamma + 1) * times**target.gamma / target.time ** (target.gamma + 1)
    found = np.linalg.lstsq(
        np.vstack([np.stack(columns, axis=1) / 100, np.full([1, len(stored)], 1e4)]), np.append(wanted / 100, 1e4), None
    )[0]
    np.testing.assert_allclose(coefficients, found, rtol=1e-3, atol=1e-4)
    assert coefficients.sum() == pytest.approx(1)
    distance = np.sqrt(((np.stack(columns, axis=1) @ found - wanted) ** 2).sum() / (wanted**2).sum())
    assert error == pytest.approx(distance, rel=1e-2) and 0 < error < 0.2


@pytest.mark.parametrize('length, tolerance', [(0.03, 0.03), (0.07, 0.003), (0.13, 0.01)])
def test_other_lengths_from_snapshots(length, tolerance):
    """Combinations of what was stored every 20 of 400 steps agree with the average over all steps."""
    lengths = [0.05, 0.1]
    states, history = train(lengths, 400)
    times = range(20, 401, 20)
    profiles = [Profile(exponent(each), time * BATCH) for time in times for each in lengths]
    tensors = [{'weight': states[time - 1][f'{index}/weight']} for time in times for index in range(2)]
    coefficients, error = combine(profiles, Profile(exponent(length), 400 * BATCH))
    total = Combination()
    for average, coefficient in zip(tensors, coefficients, strict=True):
        total.add(average, coefficient)
    found = total.tensors()['weight'].numpy()
    expected = weights_of(exponent(length), 400) @ history
    spread = history.std()
    assert np.abs(found - expected).max() < tolerance * spread
    assert error < 0.1


def test_restored():
    states, _history = train([0.05, 0.1], 5)
    averages = PowerAverages(torch.nn.BatchNorm1d(3).double(), [0.05, 0.1])
    averages.load_state_dict(states[-1])
    assert all(torch.equal(averages.state_dict()[name], tensor) for name, tensor in states[-1].items())
