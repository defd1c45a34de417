"""Runs with methods against overfitting: with ADA, labels and accumulation, on two ranks, resumed bit for bit."""

import pytest

from tests.training.run.test_checkpoint import assert_same_run, interrupted, rows_of
from tests.training.test_training_loop import data, fresh_statistics, small_config  # noqa: F401  (fixtures)
from training.training_loop import launch

RELATIVISTIC = dict(class_name='training.relativistic_loss.RelativisticLoss', r2_gamma=0.1)

# Changes of `loss_kwargs`, other changes of the configuration, and the number of ranks
RUNS = {
    'relativistic': (RELATIVISTIC, {}, 1),
    'relativistic, in each step': (RELATIVISTIC, dict(D_reg_interval=None), 2),
    'lecam': (dict(lecam_weight=0.3), {}, 1),
    'apa': ({}, dict(apa_target=-2, ada_kimg=0.16), 1),
}


def config_of(name, data, run_dir):  # noqa: F811
    loss, changes, num_gpus = RUNS[name]
    config = small_config(data, run_dir, num_gpus=num_gpus, batch_gpu=4 // num_gpus, keep_states=10, **changes)
    config.loss_kwargs = config.loss_kwargs | loss
    return config


@pytest.mark.parametrize('name', RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, name):  # noqa: F811
    launch(config_of(name, data, tmp_path / 'whole'))
    run_dir = interrupted(tmp_path / 'whole', tmp_path / 'run', 2)
    launch(config_of(name, data, run_dir), resume=True)
    assert_same_run(run_dir, tmp_path / 'whole')
    assert all(row['Loss/nonfinite']['mean'] == 0 for row in rows_of(run_dir))
