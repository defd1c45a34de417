"""Gradients and networks that are not finite: counted, not saved, and the end of a run."""

from types import SimpleNamespace

import pytest
import torch

from torch_utils import distributed, training_stats
from training.phases import Phase, run_phase
from training.run import divergence

WORLD = distributed.World(0, 1, torch.device('cpu'))


class Loss:
    """Gradients as given."""

    def __init__(self, module, values):
        self.module, self.values = module, iter(values)

    def accumulate_gradients(self, **_keywords):
        self.module.weight.grad = torch.tensor([[1.0, next(self.values)]])


@pytest.fixture
def phase():
    training_stats.reset()
    module = torch.nn.Linear(2, 1, bias=False)
    yield Phase('Dmain', module, torch.optim.SGD(module.parameters(), lr=0.1), 1)
    training_stats.reset()


def take_steps(phase, values):
    loss = Loss(phase.module, values)
    for _value in values:
        run_phase(phase, loss, [{}], WORLD)


def test_consecutive_steps_are_counted_until_a_finite_one(phase):
    collector = training_stats.Collector()
    for values, consecutive in (([1.0, 2.0], 0), ([float('nan')], 1), ([float('inf'), float('-inf')], 3), ([0.0], 0)):
        take_steps(phase, values)
        assert int(phase.nonfinite_steps) == consecutive
    collector.update()
    name = 'Gradients/nonfinite/Dmain'
    assert collector.num(name) == 6 and collector.mean(name) == 0.5
    assert phase.module.weight.isfinite().all()


def run_with(phases, pl_mean=None):
    """What `divergence` uses of a run."""
    losses = {} if pl_mean is None else {'pl_mean': pl_mean}
    networks = {'D': phases[-1].module}
    loss = SimpleNamespace(state_dict=lambda: losses)
    return SimpleNamespace(world=WORLD, phases=phases, networks=networks, loss=loss)


def test_reasons_not_to_save_and_to_stop(phase):
    run = run_with([Phase('Gmain', phase.module, phase.optimizer, 1), phase])
    take_steps(phase, [float('nan')] * 10)
    assert divergence.reason_not_to_save(run.phases) is None
    take_steps(phase, [float('nan')])
    words = 'the gradients of Dmain were not finite (inf or NaN) in each of its last {} steps'
    assert divergence.reason_not_to_save(run.phases) == words.format(11)
    take_steps(phase, [float('nan')] * 89)
    assert divergence.reason_to_stop(run, thorough=True) is None
    take_steps(phase, [float('nan')])
    assert divergence.reason_to_stop(run, thorough=False) == words.format(101)


@pytest.mark.parametrize('where', ['D.weight', 'pl_mean'])
def test_a_value_that_is_not_finite_is_named(phase, where):
    pl_mean = torch.zeros([])
    run = run_with([phase], pl_mean)
    assert divergence.reason_to_stop(run, thorough=True) is None
    with torch.no_grad():
        (phase.module.weight[0, 1] if where == 'D.weight' else pl_mean).fill_(float('nan'))
    assert divergence.reason_to_stop(run, thorough=True) == f'{where} is not finite (inf or NaN)'
    assert divergence.reason_to_stop(run, thorough=False) is None
