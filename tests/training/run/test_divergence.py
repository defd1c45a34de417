"""Gradients and networks that are no numbers: counted, doubted, and the end of a run."""

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


def test_steps_are_counted_and_a_finite_one_ends_the_row(phase):
    collector = training_stats.Collector()
    for values, in_a_row in (([1.0, 2.0], 0), ([float('nan')], 1), ([float('inf'), float('-inf')], 3), ([0.0], 0)):
        take_steps(phase, values)
        assert int(phase.nonfinite_steps) == in_a_row
    collector.update()
    name = 'Gradients/nonfinite/Dmain'
    assert collector.num(name) == 6 and collector.mean(name) == 0.5
    assert phase.module.weight.isfinite().all()


def test_doubt_and_verdict(phase):
    sound = Phase('Gmain', phase.module, phase.optimizer, 1)
    parts = SimpleNamespace(networks={'D': phase.module}, loss=SimpleNamespace(state_dict=dict))
    take_steps(phase, [float('nan')] * 10)
    assert divergence.doubt([sound, phase]) is None
    take_steps(phase, [float('nan')])
    words = 'the gradients of Dmain were not finite (inf or NaN) in each of its last {} steps'
    assert divergence.doubt([sound, phase]) == words.format(11)
    take_steps(phase, [float('nan')] * 89)
    assert divergence.verdict(WORLD, [sound, phase], parts, thorough=True) is None
    take_steps(phase, [float('nan')])
    assert divergence.verdict(WORLD, [sound, phase], parts, thorough=False) == words.format(101)


@pytest.mark.parametrize('where', ['D.weight', 'pl_mean'])
def test_a_value_that_is_no_number_is_named(phase, where):
    pl_mean = torch.zeros([])
    parts = SimpleNamespace(networks={'D': phase.module}, loss=SimpleNamespace(state_dict=lambda: {'pl_mean': pl_mean}))
    assert divergence.verdict(WORLD, [phase], parts, thorough=True) is None
    with torch.no_grad():
        (phase.module.weight[0, 1] if where == 'D.weight' else pl_mean).fill_(float('nan'))
    assert divergence.verdict(WORLD, [phase], parts, thorough=True) == f'{where} is not finite (inf or NaN)'
    assert divergence.verdict(WORLD, [phase], parts, thorough=False) is None
