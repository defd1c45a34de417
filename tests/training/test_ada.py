"""The controller of the augmentation strength."""

import pytest
import torch

from torch_utils import training_stats
from training.ada import SIGN_STATISTIC, STRONG_TICKS, AdaController
from training.augment import AugmentPipe


def controller(p=0.0, **kwargs):
    pipe = AugmentPipe(xflip=1)
    pipe.p.fill_(p)
    options = dict(target=0.6, interval=4, ada_kimg=500, batch_size=50, max_p=1) | kwargs
    return pipe, AdaController(pipe, **options)


def feed(ada, batches, sign):
    for batch_idx in batches:
        training_stats.report(SIGN_STATISTIC, torch.full([50], float(sign)))
        ada.update(batch_idx)


def test_p_reaches_one_after_ada_kimg_of_overfitting():
    pipe, ada = controller()
    feed(ada, range(1, 10_001), +1)  # 10,000 batches of 50 = 500 kimg
    assert float(pipe.p) == pytest.approx(1, rel=1e-4)


def test_p_stays_at_its_maximum_and_leaves_it_at_once():
    pipe, ada = controller(p=0.9999)
    feed(ada, range(1, 401), +1)
    assert float(pipe.p) == 1
    feed(ada, range(401, 405), -1)
    assert float(pipe.p) == pytest.approx(1 - 50 * 4 / 500_000)
    lower, ada = controller(p=21.8, max_p=0.5)  # of a run that an earlier version has trained
    feed(ada, range(1, 5), +1)
    assert float(lower.p) == 0.5
    published, ada = controller(p=1, max_p=1e6)
    feed(ada, range(1, 5), +1)
    assert float(published.p) > 1


def test_a_strength_that_stays_large_is_a_warning_once():
    pipe, ada = controller(p=0.9)
    assert [ada.end_tick() for _ in range(STRONG_TICKS - 1)] == [None] * (STRONG_TICKS - 1)
    pipe.p.fill_(0.5)
    assert ada.end_tick() is None
    pipe.p.fill_(0.9)
    assert [ada.end_tick() for _ in range(STRONG_TICKS - 1)] == [None] * (STRONG_TICKS - 1)
    _pipe, resumed = controller(p=0.9)
    resumed.load_state_dict(ada.state_dict())
    warning = ada.end_tick()
    assert warning == resumed.end_tick() and '2006.06676' in warning and '--max-p=0.8' in warning
    assert [ada.end_tick() for _ in range(20)] == [None] * 20
    limited, ada = controller(p=0.9, max_p=0.8)
    feed(ada, range(1, 5), +1)  # to the float32 that is closest to 0.8
    assert [ada.end_tick() for _ in range(20)] == [None] * 20


def test_states_of_earlier_versions_have_no_ticks():
    _pipe, ada = controller()
    state = ada.state_dict()
    del state['strong_ticks']
    ada.load_state_dict(state)
    assert ada.strong_ticks == 0


def test_p_falls_but_never_below_zero():
    pipe, ada = controller(p=0.0005)
    feed(ada, range(1, 5), -1)
    assert float(pipe.p) == pytest.approx(0.0005 - 50 * 4 / 500_000)
    feed(ada, range(5, 9), -1)
    assert float(pipe.p) == 0


def test_adjusts_every_interval_by_what_came_since():
    pipe, ada = controller()
    feed(ada, [1, 2, 3], +1)
    assert float(pipe.p) == 0
    feed(ada, [4], +1)
    step = float(pipe.p)
    assert step == pytest.approx(50 * 4 / 500_000)
    feed(ada, [5, 6, 7, 8], -1)  # Were the first four still counted, the mean would be 0.
    assert float(pipe.p) == 0


def test_no_change_at_the_target_and_without_statistics():
    pipe, ada = controller(p=0.5, target=0)
    training_stats.report(SIGN_STATISTIC, torch.tensor([1.0, -1.0]))
    ada.update(4)
    ada.update(8)
    assert float(pipe.p) == 0.5
