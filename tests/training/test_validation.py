"""Held-out images: what D is shown, r_v, ADA that follows it, and training that does not notice."""

import json

import numpy as np
import pytest
import torch

from tests.training.test_ada import controller
from tests.training.test_training_loop import (  # noqa: F401  (data is a fixture)
    data,
    final_pickle,
    small_config,
)
from torch_utils import training_stats
from torch_utils.distributed import World
from training.ada import FAKE_SCORES, REAL_SCORES, SIGN_STATISTIC, VALIDATION_SCORES
from training.training_loop import launch
from training.validation import R_V, Validation

SCORES = (REAL_SCORES, VALIDATION_SCORES, FAKE_SCORES)


def report(*scores):
    for name, values in zip(SCORES, scores, strict=True):
        training_stats.report(name, torch.tensor(values))


@pytest.mark.parametrize(
    'scores, rises',
    [
        (([4.0, 2.0], [2.0], [-1.0]), False),  # (3 - 2) / (3 + 1) = 1/4
        (([4.0, 2.0], [0.5], [-1.0]), True),  # 2.5 / 4
        (([4.0, 2.0], [], [-1.0]), None),  # no held-out images yet
        (([1.0], [0.0], [1.0]), None),  # D does not tell real from generated images
        (([1.0], [0.0], [2.0]), None),
    ],
)
def test_ada_follows_r_v(scores, rises):
    training_stats.reset()
    pipe, ada = controller(p=0.5, target=0.5, heuristic='rv')
    report(*scores)
    training_stats.report(SIGN_STATISTIC, torch.ones(3))  # which it does not look at
    ada.update(4)
    change = float(pipe.p) - 0.5
    assert change == 0 if rises is None else (change > 0) == rises and change != 0


class FakeLoss:
    """A D whose output is the mean of the image, which notes the images."""

    def __init__(self):
        self.seen = []

    def look_at(self, images, c, cur_nimg):
        assert c.shape == (len(images), 3) and images.dtype == torch.float32 and images.abs().max() <= 1
        torch.rand(3)  # as an augmentation draws
        self.seen += [image.numpy().tobytes() for image in images]
        return images.mean(dim=(1, 2, 3)).unsqueeze(1)


def validation_config(data, run_dir, count=5, **changes):  # noqa: F811
    config = small_config(data, run_dir, **changes)
    kwargs = config.training_set_kwargs
    config.validation_set_kwargs = dict(kwargs, max_size=count, skip=24 - count)
    config.training_set_kwargs = dict(kwargs, max_size=24 - count)
    return config


def test_all_images_are_shown_equally_often_over_the_ranks(data, tmp_path):  # noqa: F811
    config = validation_config(data, tmp_path, batch_size=8, batch_gpu=2)
    state = torch.get_rng_state()
    losses = []
    for rank in range(2):
        validation, loss = Validation(World(rank, 2, torch.device('cpu')), config), FakeLoss()
        losses.append(loss)
        for batch_idx in range(40):
            validation.update(loss, batch_idx, 8 * batch_idx)
    assert torch.equal(torch.get_rng_state(), state)
    seen = [image for loss in losses for image in loss.seen]
    assert len(seen) == 10 * 8 and len(set(seen)) == 5
    assert {seen.count(image) for image in seen} == {16}
    assert losses[0].seen != losses[1].seen


def test_r_v_of_a_tick(data, tmp_path):  # noqa: F811
    validation = Validation(World(0, 1, torch.device('cpu')), validation_config(data, tmp_path))
    reported = training_stats.Collector(regex=R_V, keep_previous=False)
    validation.end_tick()
    reported.update()
    assert reported.num(R_V) == 0
    report([4.0, 2.0], [2.5], [-1.0])
    resumed = Validation(World(0, 1, torch.device('cpu')), validation_config(data, tmp_path))
    resumed.load_state_dict(validation.state_dict())
    resumed.end_tick()
    reported.update()
    assert reported[R_V] == pytest.approx(1 / 8)


def test_training_does_not_notice(data, tmp_path):  # noqa: F811
    config = small_config(data, tmp_path / 'plain')
    launch(config)
    config = small_config(data, tmp_path / 'validated')
    config.validation_set_kwargs = config.training_set_kwargs
    launch(config)
    assert final_pickle(tmp_path / 'plain').read_bytes() == final_pickle(tmp_path / 'validated').read_bytes()
    rows = [
        [json.loads(line) for line in (tmp_path / name / 'stats.jsonl').read_text().splitlines()]
        for name in ('plain', 'validated')
    ]
    new = set(rows[1][-1]) - set(rows[0][-1])
    assert new == {*SCORES, R_V}
    last = rows[1][-1]
    assert last[REAL_SCORES]['num'] == last[FAKE_SCORES]['num'] == last[VALIDATION_SCORES]['num']
    train, held_out, generated = (last[name]['mean'] for name in SCORES)
    assert last[VALIDATION_SCORES]['num'] % 8 == 0 and np.isfinite([train, held_out, generated]).all()
