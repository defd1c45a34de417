"""Runs with methods against overfitting: with ADA, labels and accumulation, on two ranks, resumed bit for bit."""

import dataclasses

import pytest
import torch

from tests.training.run.test_checkpoint import (
    assert_same_run,
    die_in_the_middle_of_a_tick,
    dying_closes_no_file,
    interrupted,
    rows_of,
    states_of,
)
from tests.training.test_training_loop import data, small_config  # noqa: F401  (fixtures)
from training.training_loop import launch

RELATIVISTIC = dict(class_name='training.relativistic_loss.RelativisticLoss', r2_gamma=0.1)

ALL = RELATIVISTIC | dict(
    lecam_weight=0.3,
    bcr_weights=[3, 1],
    insgen_weights=[1, 0.1],
    insgen_queue=20,
    diffaugment=['color', 'translation', 'cutout'],
)

# Changes of `loss_kwargs`, other changes of the configuration, and the number of ranks
RUNS = {
    'relativistic': (RELATIVISTIC, {}, 1),
    'relativistic, in each step': (RELATIVISTIC, dict(D_reg_interval=None), 2),
    'lecam': (dict(lecam_weight=0.3), {}, 1),
    'apa': ({}, dict(apa_target=-2, ada_kimg=0.16), 1),
    'bcr and diffaugment': (dict(bcr_weights=[3, 1], diffaugment=['color', 'cutout']), {}, 1),
    'rv': ({}, dict(ada_heuristic='rv', ada_target=-2), 1),
    'everything': (
        ALL,
        dict(ada_heuristic='rv', ada_target=-2, apa_target=-2, ada_kimg=0.16, posthoc_ema=[0.05, 0.1]),
        2,
    ),
}


def config_of(name, data, run_dir):  # noqa: F811
    loss, changes, num_gpus = RUNS[name]
    config = small_config(data, run_dir, num_gpus=num_gpus, batch_gpu=4 // num_gpus, keep_states=10, **changes)
    config.loss_kwargs = config.loss_kwargs | loss
    if config.ada_heuristic == 'rv':
        kwargs = config.training_set_kwargs
        config.training_set_kwargs = dict(kwargs, max_size=18, random_seed=1)
        config.validation_set_kwargs = dict(kwargs, max_size=6, random_seed=1, skip=18)
    return config


@pytest.mark.parametrize('name', RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, name):  # noqa: F811
    launch(config_of(name, data, tmp_path / 'whole'))
    run_dir = interrupted(tmp_path / 'whole', tmp_path / 'run', 2)
    launch(config_of(name, data, run_dir), resume=True)
    assert_same_run(run_dir, tmp_path / 'whole')
    assert all(row['Loss/nonfinite']['mean'] == 0 for row in rows_of(run_dir))


@dying_closes_no_file
def test_a_state_in_the_middle_of_a_tick(data, tmp_path, monkeypatch):  # noqa: F811
    """Where the statistics of the controllers and of the held-out images are incomplete."""
    monkeypatch.setitem(RUNS, 'everything', (*RUNS['everything'][:2], 1))
    launch(config_of('everything', data, tmp_path / 'whole'))
    die_in_the_middle_of_a_tick(config_of('everything', data, tmp_path / 'run'), monkeypatch)
    launch(config_of('everything', data, tmp_path / 'run'), resume=True)
    assert_same_run(tmp_path / 'run', tmp_path / 'whole')


def test_states_hold_what_methods_keep(data, tmp_path):  # noqa: F811
    config = config_of('everything', data, tmp_path)
    launch(dataclasses.replace(config, num_gpus=1, batch_gpu=4, total_kimg=0.04, ada_heuristic='rt'))
    state = torch.load(states_of(tmp_path)[0], weights_only=True)
    assert state['apa']['p'] == pytest.approx(0.2) and state['augment_p'] == pytest.approx(0.2)
    assert 'insgen/queue/real' in state['shared_loss'] and int(state['shared_loss']['insgen/count/real']) == 20
    assert state['ranks'][0]['loss'].keys() == {'pl_mean', 'lecam_real', 'lecam_fake', 'lecam_batches'}
    assert state['validation'].keys() == {'seen', 'moments'}
    assert {name.partition('/')[0] for name in state['averages']} == {'0', '1'}
    rows = rows_of(tmp_path)
    assert rows[-1]['Progress/apa']['mean'] == pytest.approx(0.2)
    assert {'Loss/lecam', 'Loss/bcr', 'Loss/insgen/G', 'Loss/r2_penalty', 'Validation/r_v'} <= rows[-1].keys()


@pytest.mark.parametrize('name', ['lecam', 'apa', 'everything'])
def test_a_state_without_the_method_is_one_sentence(data, tmp_path, name):  # noqa: F811
    """As after an edit of the options."""
    launch(small_config(data, tmp_path, total_kimg=0.008))
    config = dataclasses.replace(config_of(name, data, tmp_path), num_gpus=1, batch_gpu=4)
    with pytest.raises(ValueError, match=r'^The training state does not match its own options: .*--resume=PKL'):
        launch(config, resume=True)
