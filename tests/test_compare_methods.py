"""The comparison of methods: what it runs, what it continues, its numbers, and what it refuses."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.stats

from scripts.comparison.figures import page
from scripts.comparison.methods import METHODS, parse_methods
from scripts.comparison.results import Comparison, Run, Settings, estimates, read_comparison
from tests import metric_stand_ins as stand_ins

pytest.importorskip('matplotlib')
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Settings('photos', 'a' * 64, 100, 8.0, ['--cfg=tiny'], ['fid1k_full'], 'fid1k_full', {})


def make_run(method, seed, value, **values):
    fields = dict(
        method=method,
        options=['--aug=noaug'],
        seed=seed,
        kimg=[4, 8],
        results={'fd-x1k_full': [2 * value, value], 'prdc-x1k3_full_recall': [None, 0.5]},
        statistics={'signs': [0.1, None]},
        sec_per_kimg=2.5,
        machine='a machine',
    )
    return Run(**{**fields, **values})


def stored(tmp_path, name='comparison.json', settings=SETTINGS, runs=None):
    comparison = Comparison(settings, runs or [make_run('one', 0, 3.0), make_run('two', 0, 4.0)])
    comparison.save(tmp_path / name)
    return tmp_path / name


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def test_intervals_pool_the_spread_of_all_methods():
    values = {'a': [1.0, 3.0], 'b': [10.0, 10.5, 12.5], 'c': [7.0]}
    found = estimates(values, is_logarithmic=False)
    squares = sum(np.var(numbers) * len(numbers) for numbers in values.values())
    deviation = math.sqrt(squares / 3)  # 6 runs of 3 methods
    for method, numbers in values.items():
        interval = scipy.stats.t.interval(0.95, 3, np.mean(numbers), deviation / math.sqrt(len(numbers)))
        assert (found[method].low, found[method].high) == pytest.approx((max(interval[0], 0), interval[1]))
    assert found['a'].low == 0 < found['c'].low
    assert estimates({'a': [-1.0, 3.0]}, is_logarithmic=False)['a'].low < 0
    logarithmic = estimates({'a': [1.0, 4.0], 'b': [9.0]}, is_logarithmic=True)
    assert logarithmic['a'].mean == pytest.approx(2)
    assert logarithmic['a'].low * logarithmic['a'].high == pytest.approx(4)


def test_intervals_cover_the_truth():
    rng = np.random.RandomState(0)
    covered = []
    for _ in range(500):
        found = estimates({name: rng.normal(mean, 2, size=2) for name, mean in dict(a=1, b=5, c=7).items()}, False)
        covered.append(found['b'].low <= 5 <= found['b'].high)
    assert 0.92 < np.mean(covered) < 0.98


def test_one_seed_says_nothing_about_the_spread():
    assert estimates({'a': [1.0], 'b': [2.0]}, False)['a'].low is None


def test_table(tmp_path):
    runs = [make_run('one', 0, 8.0), make_run('one', 1, 2.0), make_run('two', 0, 1.0), make_run('two', 1, 1.0)]
    text = page(Comparison(SETTINGS, runs))
    first, second = (line for line in text.splitlines() if line.startswith(('| `one` | 2', '| `two` | 2')))
    assert first.startswith('| `two`') and '8 / 2' in second and '| 4 (' in second and '2.5 |' in second
    assert '0.5 (0.5 to 0.5)' in first and '`one` (own)' in text


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_what_is_stored_comes_back(tmp_path):
    comparison = read_comparison(stored(tmp_path))
    assert comparison.settings == SETTINGS
    assert comparison.runs == [make_run('one', 0, 3.0), make_run('two', 0, 4.0)]


def test_merged_runs_do_not_replace_those_that_exist(tmp_path):
    comparison = read_comparison(stored(tmp_path))
    comparison.merge(Comparison(SETTINGS, [make_run('one', 0, 9.0), make_run('one', 1, 9.0)]), 'x')
    assert {run.key: run.last('fd-x1k_full') for run in comparison.runs} == {
        ('one', 0): 3.0,
        ('one', 1): 9.0,
        ('two', 0): 4.0,
    }


@pytest.mark.parametrize(
    'damage, words',
    [
        (lambda content: content['settings'].update(kimg='8'), 'settings.kimg'),
        (lambda content: content['runs'][0].update(seed=-1), 'seed'),
        (lambda content: content['runs'][0].update(method='../x'), 'method'),
        (lambda content: content['runs'][0]['results'].update(x=[1.0]), '1 values for 2 snapshots'),
        (lambda content: content['runs'].append({**content['runs'][0], 'options': ['--aug=ada']}), 'Use another name'),
        (lambda content: content.pop('runs'), 'runs'),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, words):
    path = stored(tmp_path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words) as error:
        read_comparison(path)
    assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


@pytest.mark.parametrize('name, value', [('subset', 50), ('data_sha256', 'b' * 64), ('metrics', ['kid1k_full'])])
def test_other_settings_cannot_be_merged(tmp_path, name, value):
    comparison = read_comparison(stored(tmp_path))
    other = Comparison(Settings(**{**vars(SETTINGS), name: value}), [])
    with pytest.raises(ValueError, match=f'other.json has other settings: {name}'):
        comparison.merge(other, 'other.json')


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def test_methods_of_the_table_and_of_ones_own():
    methods = parse_methods(('noaug,ada', "mine:--aug=ada '--augpipe=bg'"))
    assert [method.name for method in methods] == ['noaug', 'ada', 'mine']
    assert methods[2].options == ('--aug=ada', '--augpipe=bg')


@pytest.mark.parametrize(
    'args, words',
    [
        (['--methods=adda'], "'adda' is not one of"),
        (['--methods=ada', '--methods=noaug,ada'], 'given twice'),
        (['--methods=mine:--seed=1'], 'sets for all runs'),
        (['--methods=mine:aug=ada'], 'not an option'),
        (['--methods=a b:--aug=ada'], 'the name of a method'),
        (['--methods=ada', "--train-options=--cfg='tiny"], 'cannot be split'),
        (['--methods=ada', '--metrics=fidd'], 'Unknown metric'),
        (['--methods=ada', '--metrics=none'], 'nothing to compare'),
        (['--methods=ada', '--data=missing.zip'], 'missing.zip'),
        (['--methods=ada', '--detectors=missing'], 'not a folder'),
        (['--methods=ada', '--merge=missing.json'], 'missing.json'),
    ],
)
def test_wrong_options(tmp_path, monkeypatch, args, words):
    import click.testing

    from scripts.compare_methods import main

    monkeypatch.chdir(tmp_path)
    stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(4))
    command = ['--data=data.zip', '--kimg=1', '--outdir=out', *args]
    result = click.testing.CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.splitlines()[-1] and not (tmp_path / 'out').exists()


# ---------------------------------------------------------------------------------------------------------------------
# The whole


def command_of(tmp_path, *args):
    return [
        *(sys.executable, str(ROOT / 'scripts' / 'compare_methods.py')),
        *('--data=data.zip', '--subset=24', '--outdir=out', '--detectors=detectors', '--threads=1', '--at-once=2'),
        *('--train-options=--cfg=tiny --cbase=64 --cmax=8 --device=cpu', '--snapshots=2', '--metrics=kid1k_full'),
        '--curve-metric=fid1k_full',
        *args,
    ]


def write_inputs(tmp_path):
    stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(60))
    stand_ins.write_detectors(tmp_path / 'detectors')


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_method_of_the_table_starts(tmp_path):
    write_inputs(tmp_path)
    methods = ','.join(METHODS)
    command = command_of(tmp_path, f'--methods={methods}', '--seeds=0', '--kimg=0.1')
    stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(130))  # --validation=100
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    assert set(read_comparison(tmp_path / 'out' / 'comparison.json').methods()) == set(METHODS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_comparison_that_is_stopped_and_continued(tmp_path):
    write_inputs(tmp_path)
    command = command_of(tmp_path, '--methods=noaug', '--methods=mine:--aug=noaug --gamma=1', '--seeds=0,1', '--kimg=2')
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob('out/runs/noaug/seed0/*/network-snapshot-000000.pkl')):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 75 and 'the same command continues' in messages
    assert not (tmp_path / 'out' / 'comparison.json').exists()

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    comparison = read_comparison(tmp_path / 'out' / 'comparison.json')
    assert sorted(run.key for run in comparison.runs) == [('mine', 0), ('mine', 1), ('noaug', 0), ('noaug', 1)]
    run = comparison.runs_of('mine')[0]
    assert run.kimg == [1, 2] and None not in run.results['fid1k_full'] and run.statistics['signs'][1] is not None
    assert run.results['kid1k_full'][0] is None and run.results['kid1k_full'][1] is not None
    assert len(list(tmp_path.glob('out/runs/noaug/seed0/0*'))) == 1  # continued, not started again
    with PIL.Image.open(tmp_path / 'out' / 'grid.png') as grid:
        assert grid.height >= 3 * 64 and grid.width > 12 * 64  # real images and two methods, beside their names
    with PIL.Image.open(tmp_path / 'out' / 'curves.png') as curves:
        assert curves.width > curves.height
    assert '`mine` (own)' in (tmp_path / 'out' / 'comparison.md').read_text()

    # Once more: nothing is left to do; a longer comparison continues the runs.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('out/runs/*/*/*/network-*.pkl')}
    assert subprocess.run(command, cwd=tmp_path, timeout=300, stdout=subprocess.DEVNULL).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob('out/runs/*/*/*/network-*.pkl')}
    longer = [word.replace('--kimg=2', '--kimg=3').replace('--seeds=0,1', '--seeds=0') for word in command]
    result = subprocess.run(longer, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert read_comparison(tmp_path / 'out' / 'comparison.json').runs_of('mine')[0].kimg[-1] == 3
    assert all(os.path.exists(path) for path in before)


@pytest.mark.slow
def test_options_that_train_py_refuses(tmp_path):
    write_inputs(tmp_path)
    command = command_of(tmp_path, '--methods=mine:--gamma2=1', '--kimg=1')
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and '--loss=relativistic' in result.stderr.splitlines()[-1]
