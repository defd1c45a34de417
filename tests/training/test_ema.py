"""Half-life and ramp-up of the averaged generator."""

import pytest
import torch

from training.ema import ema_decay, update_ema


def test_half_life():
    decay = ema_decay(batch_size=50, cur_nimg=10**9, ema_kimg=10, ema_rampup=0.05)
    assert decay ** (10_000 / 50) == pytest.approx(0.5)


def test_ramp_up_shortens_the_half_life_in_the_beginning():
    decay = ema_decay(batch_size=50, cur_nimg=20_000, ema_kimg=10, ema_rampup=0.05)
    assert decay ** (1000 / 50) == pytest.approx(0.5)
    assert ema_decay(batch_size=50, cur_nimg=0, ema_kimg=10, ema_rampup=0.05) == 0
    assert ema_decay(batch_size=50, cur_nimg=0, ema_kimg=10, ema_rampup=None) == pytest.approx(0.5 ** (50 / 10_000))
    assert ema_decay(batch_size=50, cur_nimg=1000, ema_kimg=0, ema_rampup=None) == 0


def test_parameters_are_averaged_and_buffers_copied():
    source, average = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        source.weight.fill_(3)
        source.running_mean.fill_(7)
    update_ema(average, source, decay=0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [7, 7]
    assert average.weight.requires_grad
