"""The relativistic pairing loss with R1 and R2, against a formula for one pair at a time."""

import numpy as np
import pytest
import torch

from tests import small_losses
from tests.small_losses import make_batch, one, score, softplus, squared_gradient
from torch_utils import training_stats
from training.relativistic_loss import RelativisticLoss

R1, R2 = 3.0, 0.7


def make_loss(c_dim=0, **changes):
    G, D = small_losses.networks(c_dim)
    return RelativisticLoss('cpu', G, D, **(dict(style_mixing_prob=0, pl_weight=0, r1_gamma=R1, r2_gamma=R2) | changes))


def pairs(loss, batch):
    """(real image, generated image, label) of each pair: the generated one has the label of the real one."""
    for index in range(len(batch.real_img)):
        pair = one(batch, index)
        yield pair.real_img, loss.G(pair.gen_z, pair.real_c), pair.real_c


def slow_value(loss, batch, phase):
    """The value of a phase: the mean over the pairs."""
    values = []
    for real, fake, c in pairs(loss, batch):
        difference = score(loss.D, fake, c) - score(loss.D, real, c)
        value = 0.0
        if phase == 'Gmain':
            value += softplus(-difference)
        if phase in ('Dmain', 'Dboth'):
            value += softplus(difference)
        if phase in ('Dreg', 'Dboth'):
            value += loss.r1_gamma / 2 * squared_gradient(loss.D, real, c)
            value += loss.r2_gamma / 2 * squared_gradient(loss.D, fake, c)
        values.append(value)
    return np.mean(values)


@pytest.mark.parametrize('c_dim', [0, 3])
@pytest.mark.parametrize('phase, gain', [('Gmain', 1), ('Dmain', 1), ('Dreg', 16), ('Dboth', 0.5)])
def test_gradients_are_those_of_the_slow_formula(phase, gain, c_dim):
    loss, batch = make_loss(c_dim), make_batch(c_dim=c_dim)
    small_losses.assert_gradient(loss, phase, batch, lambda: slow_value(loss, batch, phase), gain)


@pytest.mark.parametrize('gammas', [dict(r1_gamma=0), dict(r2_gamma=0), dict(r1_gamma=0, r2_gamma=0)])
def test_each_penalty_can_be_left_out(gammas):
    loss, batch = make_loss(**gammas), make_batch()
    for phase in ('Dboth', 'Dreg'):
        small_losses.assert_gradient(loss, phase, batch, lambda phase=phase: slow_value(loss, batch, phase))


def test_a_constant_added_to_all_outputs_changes_nothing_that_ada_sees():
    loss, batch = make_loss(), make_batch(size=8)
    signs = training_stats.Collector(regex='Loss/signs/.*', keep_previous=False)
    means = []
    for constant in (0, 100):
        with torch.no_grad():
            loss.D.b4.out.bias += constant
        for phase in ('Gmain', 'Dmain', 'Dreg'):
            small_losses.gradient_of(loss, phase, batch)
        signs.update()
        assert signs.num('Loss/signs/real') == 8 and signs.num('Loss/signs/fake') == 16
        means.append([signs['Loss/signs/real'], signs['Loss/signs/fake']])
    assert means[0] == means[1]


def test_reported_numbers():
    loss, batch = make_loss(), make_batch()
    everything = training_stats.Collector(keep_previous=False)
    for phase in ('Dmain', 'Dreg'):
        small_losses.gradient_of(loss, phase, batch)
    everything.update()
    assert everything['Loss/D/loss'] == pytest.approx(slow_value(loss, batch, 'Dmain'))
    assert everything['Loss/D/reg'] == pytest.approx(slow_value(loss, batch, 'Dreg'))
    penalties = [
        [squared_gradient(loss.D, real, c), squared_gradient(loss.D, fake, c)] for real, fake, c in pairs(loss, batch)
    ]
    assert [everything['Loss/r1_penalty'], everything['Loss/r2_penalty']] == pytest.approx(np.mean(penalties, axis=0))


def test_running_means_of_the_generator_move_in_the_adversarial_phase_of_d_alone(monkeypatch):
    loss, batch = make_loss(), make_batch()
    calls, run_G = [], loss.run_G
    monkeypatch.setattr(loss, 'run_G', lambda *args, **kwargs: calls.append(kwargs) or run_G(*args, **kwargs))
    for phase in ('Gmain', 'Dmain', 'Dreg'):
        small_losses.gradient_of(loss, phase, batch)
    assert [kwargs.get('update_emas', False) for kwargs in calls] == [False, True, False]
