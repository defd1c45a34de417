"""Resumed runs from the command line: --resume-run, --resume=latest, which options may change, and SIGKILL."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import kill_test
from training.run.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    '--cfg=tiny',
    '--cbase=64',
    '--cmax=8',
    '--batch=8',
    '--tick=0.032',
    '--kimg=0.08',
    '--snap=1',
    '--metrics=none',
    '--device=cpu',
]


def train(*args, cwd, **environment):
    result = subprocess.run(
        [sys.executable, ROOT / 'train.py', *map(str, args)],
        cwd=cwd,
        check=False,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert 'Traceback' not in result.stderr, result.stderr
    return result


def error_of(result):
    assert result.returncode == 2, result.stdout + result.stderr
    return re.search(r'^Error: (.*)$', result.stderr, re.M)[1]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with a dataset in data/ and a finished run in runs/."""
    folder = tmp_path_factory.mktemp('place')
    kill_test.write_dataset(folder / 'data', seed=0)
    result = train('--outdir=runs', '--data=data', *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def run_dir(place, tmp_path):
    """A copy of that run, without its last training state, as if it had been killed before."""
    for name in ('data', 'runs'):
        shutil.copytree(place / name, tmp_path / name)
    (run_dir,) = (tmp_path / 'runs').iterdir()
    RunDir(str(run_dir)).training_states()[0].unlink()
    options = run_dir / 'training_options.json'
    options.write_text(options.read_text().replace(str(place), str(tmp_path)))
    return run_dir


@pytest.fixture
def finished(place):
    (run_dir,) = (place / 'runs').iterdir()
    return run_dir


def test_what_a_run_records(finished):
    (entry,) = json.loads((finished / 'provenance.json').read_text())
    assert entry['command'].endswith(' '.join(SMALL)) and '--data=data' in entry['command']
    assert entry['versions']['torch'] == torch.__version__ and entry['threads'] == 1
    assert re.fullmatch('[0-9a-f]{64}', entry['dataset_sha256'])
    assert set(entry) >= {'time', 'git', 'platform', 'processor', 'device', 'options'}
    commit = subprocess.run(['git', '-C', ROOT, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
    assert (entry['git'] or {}).get('commit') == (commit.stdout.strip() or None)


def test_without_git(finished, tmp_path):
    program = (
        'import torch; from training.run import provenance; '
        f'provenance.record_start({str(tmp_path)!r}, None, torch.device("cpu"))'
    )
    subprocess.run([sys.executable, '-c', program], check=True, cwd=ROOT, env=os.environ | {'PATH': str(tmp_path)})
    (entry,) = json.loads((tmp_path / 'provenance.json').read_text())
    assert entry['git'] is None and entry['versions']['python']


def test_resuming_from_another_folder_with_the_stored_options(run_dir, finished, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    result = train(f'--resume-run={run_dir}', cwd=tmp_path / 'elsewhere')
    assert result.returncode == 0, result.stderr
    assert 'Resuming from' in result.stdout and 'Training is complete.' in result.stdout
    assert kill_test.read_statistics(run_dir / 'stats.jsonl') == kill_test.read_statistics(finished / 'stats.jsonl')
    assert os.listdir(tmp_path / 'elsewhere') == []
    assert len(json.loads((run_dir / 'provenance.json').read_text())) == 2


def test_latest_resumes_until_the_run_is_complete(run_dir, finished, tmp_path):
    command = ['--outdir=runs', '--data=data', *SMALL, '--resume=latest']
    for sentence in ('Resuming from', 'Training is complete: it has shown 0.08 of 0.08 kimg'):
        result = train(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert sentence in result.stdout
        assert kill_test.read_statistics(run_dir / 'stats.jsonl') == kill_test.read_statistics(finished / 'stats.jsonl')
    assert [path.name for path in (tmp_path / 'runs').iterdir()] == [run_dir.name]


@pytest.mark.parametrize('other', ['--seed=1', '--desc=again', '--gamma=3'])
def test_latest_starts_a_run_if_none_has_the_same_options(run_dir, tmp_path, other):
    result = train('--outdir=runs', '--data=data', *SMALL, other, '--resume=latest', '--dry-run', cwd=tmp_path)
    assert result.returncode == 0
    assert json.loads(result.stdout)['run_dir'].startswith('runs/00001-')


def test_latest_finds_a_run_that_has_stored_the_loss_of_its_preset(run_dir, tmp_path):
    stored = run_dir / 'training_options.json'
    content = json.loads(stored.read_text())
    assert content['options']['loss'] is None
    content['options']['loss'] = 'nonsaturating'  # as before presets chose the loss
    stored.write_text(json.dumps(content))
    result = train('--outdir=runs', '--data=data', *SMALL, '--resume=latest', '--dry-run', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)['run_dir'] == os.path.join('runs', run_dir.name)


def test_latest_ignores_folders_that_are_not_runs(run_dir, tmp_path):
    (tmp_path / 'runs' / '00007-empty').mkdir()
    broken = tmp_path / 'runs' / '00008-broken'
    broken.mkdir()
    (broken / 'training_options.json').write_text('{"half')
    result = train('--outdir=runs', '--data=data', *SMALL, '--resume=latest', '--dry-run', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)['run_dir'] == os.path.join('runs', run_dir.name)
    assert 'from the newest training state' in result.stderr


def test_options_that_change_the_result_are_named(run_dir, tmp_path):
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    result = train(f'--resume-run={run_dir}', '--gamma=2', '--seed=3', '--cfg=tiny', '--workers=0', cwd=tmp_path)
    error = error_of(result)
    assert '--gamma=2 (it was not given)' in error and '--seed=3 (it was 0)' in error and '--resume=PKL' in error
    assert '--cfg' not in error and '--workers' not in error
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before


def test_other_options_may_change(run_dir, tmp_path):
    result = train(
        f'--resume-run={run_dir}',
        '--kimg=0.112',
        '--snap=2',
        '--keep-states=1',
        '--workers=1',
        '--gpus=2',
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert 'processes 1 -> 2' in result.stdout
    kept = json.loads((run_dir / 'training_options.json').read_text())
    assert (kept['total_kimg'], kept['num_gpus'], kept['batch_size'], kept['batch_gpu']) == (0.112, 2, 8, 4)
    assert (kept['options']['kimg'], kept['options']['gpus'], kept['options']['snap']) == (0.112, 2, 2)
    assert [path.name for path in RunDir(str(run_dir)).training_states()] == ['training-state-000000.112.pt']
    rows = kill_test.read_statistics(run_dir / 'stats.jsonl')
    assert [row['Progress/tick']['mean'] for row in rows] == [0, 1, 2, 3, 4]


def test_torchrun_resumes(run_dir, tmp_path):
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node=2',
        ROOT / 'train.py',
        '--outdir=runs',
        '--data=data',
        *SMALL,
        '--resume=latest',
    ]
    result = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count('Resuming from') == 1 and 'Training is complete.' in result.stdout
    assert [path.name for path in (tmp_path / 'runs').iterdir()] == [run_dir.name]


@pytest.mark.parametrize(
    'change, words',
    [
        (
            lambda run_dir: [path.unlink() for path in RunDir(str(run_dir)).training_states()],
            ['no longer has a training state', '--resume=PKL'],
        ),
        (lambda run_dir: (run_dir / 'training_options.json').unlink(), ['has no training_options.json']),
        (
            lambda run_dir: (run_dir / 'training_options.json').write_text('{'),
            ['training_options.json', 'not valid JSON'],
        ),
        (lambda run_dir: shutil.rmtree(run_dir), ['does not exist']),
        (lambda run_dir: (run_dir.parents[1] / 'data' / 'img00000003.png').unlink(), ['24 images', 'now has 23']),
    ],
    ids=['no states', 'no options', 'damaged options', 'no folder', 'fewer images'],
)
def test_runs_that_cannot_be_resumed(run_dir, tmp_path, change, words):
    change(run_dir)
    error = error_of(train(f'--resume-run={run_dir}', cwd=tmp_path))
    assert "'--resume-run'" in error and all(word in error for word in words), error


def test_run_of_a_version_without_training_states(run_dir, tmp_path):
    options = json.loads((run_dir / 'training_options.json').read_text())
    for name in ('options', 'keep_states', 'deterministic'):
        del options[name]
    (run_dir / 'training_options.json').write_text(json.dumps(options))
    assert 'written by a version without training states' in error_of(train(f'--resume-run={run_dir}', cwd=tmp_path))


def test_the_dataset_may_move_but_not_change(run_dir, finished, tmp_path):
    (tmp_path / 'data').rename(tmp_path / 'moved')
    other = shutil.copytree(tmp_path / 'moved', tmp_path / 'other')
    shutil.copy(other / 'img00000001.png', other / 'img00000000.png')
    error = error_of(train(f'--resume-run={run_dir}', f'--data={other}', cwd=tmp_path))
    assert "'--data'" in error and 'is not the same dataset as' in error
    result = train(f'--resume-run={run_dir}', f'--data={tmp_path / "moved"}', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert kill_test.read_statistics(run_dir / 'stats.jsonl') == kill_test.read_statistics(finished / 'stats.jsonl')


def test_a_changed_dataset_is_reported(run_dir, tmp_path):
    shutil.copy(tmp_path / 'data' / 'img00000001.png', tmp_path / 'data' / 'img00000000.png')
    result = train(f'--resume-run={run_dir}', cwd=tmp_path)
    assert 'The dataset is not the one that this run started with' in result.stdout


def test_init_p_and_the_name_of_the_run(place, tmp_path):
    result = train('--outdir=runs', f'--data={place / "data"}', *SMALL, '--init-p=0.3', '--dry-run', cwd=tmp_path)
    config = json.loads(result.stdout)
    assert (config['augment_p'], config['ada_target']) == (0.3, 0.6)
    assert config['run_dir'].endswith('-initp0.3')


@pytest.mark.parametrize(
    'extra',
    [
        pytest.param([], id='one process'),
        # The random moment of seed 2 is after the end of the run.
        pytest.param(['--kills=1', '--at-least=1', '--seed=2'], id='at least once', marks=pytest.mark.slow),
        pytest.param(['--', '--gpus=2', '--workers=1'], id='two with workers', marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed(tmp_path, extra):
    command = [sys.executable, ROOT / 'scripts/kill_test.py', '--kills=3', '--ticks=4', f'--outdir={tmp_path}', *extra]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'identical to the byte, 5 lines in stats.jsonl, none lost or duplicated' in result.stdout
