"""TensorBoard that does not work costs its files only."""

import re
import sys
import types

import pytest
import torch

from torch_utils.distributed import World
from training.run.run_dir import RunDir
from training.run.stats_writer import RunStatistics


class Broken(types.ModuleType):
    """A module whose names cannot be used, as those of a TensorFlow that was compiled for another NumPy."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        raise RuntimeError('module was compiled against NumPy C-API version 0x12')


def unusable(*_args, **_kwargs):
    raise AttributeError("module 'tensorflow' has no attribute 'io'")


@pytest.mark.parametrize(
    'module, reason',
    [
        (None, r'\(pip install tensorboard\)'),
        (Broken('tensorboard'), r'cannot be imported \(module was compiled'),
        (types.SimpleNamespace(SummaryWriter=unusable), "does not work .module 'tensorflow'"),
    ],
)
def test_tensorboard_that_does_not_work(tmp_path, monkeypatch, capsys, module, reason):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', module)
    statistics = RunStatistics(RunDir(tmp_path), World(0, 1, torch.device('cpu')), total_kimg=1)
    statistics.close()
    assert re.search(reason, capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == [tmp_path / 'stats.jsonl']
