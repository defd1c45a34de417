"""Statistics: what is reported is what a collector reads, between two updates and over ranks."""

import math

import numpy as np
import pytest
import torch

from torch_utils import launcher, training_stats


@pytest.fixture(autouse=True)
def fresh_statistics():
    training_stats.reset()
    yield
    training_stats.reset()


def test_mean_deviation_and_count_of_everything_reported():
    collector = training_stats.Collector()
    values = np.random.RandomState(0).randn(3, 4, 5)
    for value in (torch.from_numpy(values[0]), values[1], values[2].tolist()):
        assert training_stats.report('a', value) is value
    collector.update()
    assert collector.num('a') == 60
    assert collector.mean('a') == collector['a'] == pytest.approx(values.mean())
    assert collector.std('a') == pytest.approx(values.std())
    assert collector.as_dict() == {'a': dict(num=60, mean=collector['a'], std=collector.std('a'))}


def test_only_what_came_since_the_last_update_counts():
    collector, keeping, other = (
        training_stats.Collector(keep_previous=False),
        training_stats.Collector(),
        training_stats.Collector(),
    )
    training_stats.report('a', 1)
    collector.update()
    keeping.update()
    training_stats.report('a', [3, 5])
    collector.update()
    assert (collector.num('a'), collector['a']) == (2, 4)
    collector.update()
    assert collector.num('a') == 0 and math.isnan(collector['a']) and math.isnan(collector.std('a'))
    keeping.update()
    keeping.update()
    assert keeping['a'] == 4
    other.update()
    assert (other.num('a'), other['a']) == (3, 3)


def test_regex_must_match_the_whole_name():
    collector = training_stats.Collector(regex='Loss/.*')
    training_stats.report('Loss/G', 1)
    training_stats.report('a/Loss/G', 1)
    collector.update()
    assert collector.names() == ['Loss/G']


def test_a_collector_does_not_see_what_came_before_it():
    training_stats.report('a', 100)
    collector = training_stats.Collector()
    training_stats.report('a', 1)
    collector.update()
    assert collector['a'] == 1


def test_large_offsets_keep_their_precision():
    collector = training_stats.Collector()
    for _ in range(1000):
        training_stats.report('a', torch.tensor([1e5 - 1, 1e5 + 1]))
    collector.update()
    assert collector.std('a') == pytest.approx(1, rel=1e-3)


def _rank_reports(world, path):
    training_stats.reset()
    training_stats.init_multiprocessing(world.rank, world.device)
    collector = training_stats.Collector()
    training_stats.report('a', torch.arange(world.rank + 1))
    training_stats.report0('b', world.rank + 10)
    collector.update()
    torch.save(dict(collector.as_dict()), f'{path}/{world.rank}.pt')


def test_sums_over_ranks(tmp_path):
    launcher.launch(_rank_reports, 2, 'cpu', str(tmp_path))
    results = [torch.load(tmp_path / f'{rank}.pt', weights_only=False) for rank in range(2)]
    assert results[0] == results[1]
    assert results[0]['a']['num'] == 3 and results[0]['a']['mean'] == pytest.approx(1 / 3)
    assert results[0]['b'] == dict(num=1, mean=10, std=0)


def test_numbers_that_are_none_spoil_nothing():
    training_stats.reset()
    collector = training_stats.Collector()
    training_stats.report('x', torch.tensor([1.0, float('nan'), 3.0, float('inf')]))
    collector.update()
    assert (collector.num('x'), collector.mean('x')) == (2, 2.0)
    training_stats.report('x', [float('nan')])
    collector.update()
    training_stats.report('x', [5.0])
    collector.update()
    assert (collector.num('x'), collector.mean('x')) == (1, 5.0)
    training_stats.reset()
