"""Averages of other lengths as network pickles, from a run."""

import click.testing
import numpy as np
import pytest
import torch

from network_files.reading import open_network
from scripts.posthoc_ema import main
from tests.training.test_training_loop import data, small_config  # noqa: F401  (fixtures)
from training.power_averages import exponent
from training.run import averages_files
from training.training_loop import launch


@pytest.fixture(scope='module')
def run_dir(data, tmp_path_factory):  # noqa: F811
    """5,000 images in ticks of about 1,000, with averages of the lengths 0.05 and 0.1."""
    path = tmp_path_factory.mktemp('run')
    changes = dict(batch_size=100, batch_gpu=100, kimg_per_tick=1, total_kimg=5, posthoc_ema=[0.05, 0.1])
    config = small_config(data, path, **changes, augment_kwargs=None, ada_target=None)
    config.loss_kwargs |= dict(pl_weight=0, r1_gamma=0)
    launch(config)
    return path


def invoke(*args):
    return click.testing.CliRunner().invoke(main, list(map(str, args)))


def written(result, path):
    assert result.exit_code == 0, result.output
    return open_network(str(path))


def test_network_of_another_length(run_dir, tmp_path):
    result = invoke(f'--run-dir={run_dir}', '--lengths=0.05,0.08', f'--outdir={tmp_path}')
    stored = averages_files.read(run_dir / 'averages-000005.pt')
    before = open_network(str(run_dir / 'network-snapshot-000005.pkl'))
    short = written(result, tmp_path / 'ema0.050-000005.pkl')
    for name, parameter in short['G_ema'].named_parameters():
        assert torch.allclose(parameter, stored.tensors[0][name], atol=1e-5), name
    between = dict(written(result, tmp_path / 'ema0.080-000005.pkl')['G_ema'].named_parameters())
    one, other = (torch.cat([tensors[name].flatten() for name in between]) for tensors in stored.tensors)
    found = torch.cat([parameter.flatten() for parameter in between.values()])
    assert 0 < (found - one).norm() < (other - one).norm() and (found - other).norm() < (other - one).norm()
    for key in ('G', 'D'):
        for (name, tensor), (_name, same) in zip(short[key].state_dict().items(), before[key].state_dict().items()):
            assert torch.equal(tensor, same), f'{key}.{name}'
    assert torch.equal(short['G_ema'].mapping.w_avg, before['G_ema'].mapping.w_avg)
    assert result.stdout.splitlines()[1].split()[:2] == ['0.05', '0.2']


def test_an_earlier_snapshot(run_dir, tmp_path):
    result = invoke(f'--run-dir={run_dir}', '--lengths=0.1', '--kimg=2', f'--outdir={tmp_path}')
    stored = averages_files.read(run_dir / 'averages-000002.pt')
    found = written(result, tmp_path / 'ema0.100-000002.pkl')['G_ema']
    assert torch.allclose(found.synthesis.b4.const, stored.tensors[1]['synthesis.b4.const'], atol=1e-5)


def test_what_cannot_be_reached_is_said(run_dir, tmp_path):
    result = invoke(f'--run-dir={run_dir}', '--lengths=0.002', f'--outdir={tmp_path}')
    assert result.exit_code == 0 and 'do not contain an average of length 0.002' in result.stderr


@pytest.mark.parametrize(
    'args, words',
    [
        (['--lengths=0.5'], '0.28'),
        (['--lengths=x'], 'such as'),
        (['--lengths=0.1', '--kimg=77'], 'network-snapshot-000077.pkl'),
        (['--lengths=0.1', '--run-dir=missing'], 'missing'),
    ],
)
def test_wrong_options(run_dir, tmp_path, args, words):
    result = invoke(f'--run-dir={run_dir}', f'--outdir={tmp_path / "out"}', *args)
    assert result.exit_code == 2 and words in result.stderr.splitlines()[-1] and not (tmp_path / 'out').exists()


def test_a_run_without_averages(run_dir, tmp_path):
    copy = tmp_path / 'run'
    copy.mkdir()
    name = 'network-snapshot-000005.pkl'
    (copy / name).write_bytes((run_dir / name).read_bytes())
    result = invoke(f'--run-dir={copy}', '--lengths=0.1', f'--outdir={tmp_path / "out"}')
    assert result.exit_code == 2 and 'only runs of train.py --posthoc-ema' in result.stderr
    for content, words in (
        (b'no archive', 'is damaged'),
        ({'format': 1, 'nimg': 5000, 'lengths': [0.1], 'averages': {}}, 'another generator'),
        ({'format': 1, 'nimg': 5000, 'lengths': [0.1], 'averages': {'7/x': torch.zeros(2)}}, 'other lengths'),
        ({'format': 1, 'nimg': 5000, 'lengths': [7], 'averages': {}}, 'lengths'),
    ):
        path = copy / 'averages-000005.pt'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        result = invoke(f'--run-dir={copy}', '--lengths=0.1', f'--outdir={tmp_path / "out"}')
        assert result.exit_code == 2 and words in result.stderr.splitlines()[-1], result.output
    assert not list((tmp_path / 'out').glob('*.pkl'))


def test_long_averages_change_less(run_dir):
    """From one snapshot to the next, and both less than the last snapshot suggests."""
    first, last = (averages_files.read(run_dir / f'averages-00000{kimg}.pt') for kimg in (4, 5))
    moved = [
        np.sqrt(sum(float((b[name] - a[name]).square().sum()) for name in a))
        for a, b in zip(first.tensors, last.tensors)
    ]
    assert 0 < moved[1] < moved[0]
    assert exponent(0.05) > exponent(0.1)
