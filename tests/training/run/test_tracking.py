"""Trackers in processes of their own: what they get, what they are not told, and what they cannot do to a run.

A planted module takes the place of the package, as in an environment in which it is installed.
"""

import json
import os
import re
import time
from pathlib import Path

import pytest

from dnnlib.errors import InvalidArgument
from tests.small_runs import Running, finish, last_network, only, train, train_after, write_images
from training.config import TrainingConfig
from training.run import tracking
from training.run.run_dir import RunDir
from training.run.tracking import FINISHED, STOPPED, Tracking, check_installed, run_id, shared_config
from training.tracker_options import canonical_tracker, parse_tracker

# Writes what it is called with, as JSON lines, to the file CALLS; behaves as BEHAVIOR says from the second `log` on.
WANDB = """
import json, os, random, sys, time
import random as _random
class Settings:
    model_fields = dict.fromkeys(['console', 'disable_git', 'x_disable_meta'])
    def __init__(self, **values): self.values = values
def note(**call):
    with open(os.environ['CALLS'], 'a') as file: file.write(json.dumps(call) + '\\n')
def behave(when):
    kind = os.environ.get('BEHAVIOR', '')
    if kind == f'raise at {when}': raise RuntimeError('the service is down')
    if kind == f'hang at {when}': time.sleep(1000)
    if kind == f'crash at {when}': os._exit(3)
    if kind == f'exit at {when}': sys.exit('enough')
    if kind == f'slow at {when}': time.sleep(0.05)
class Image:
    def __init__(self, path): self.size = os.path.getsize(path)
class Run:
    def __init__(self): self.summary = {}
    def log(self, values, step):
        behave('log')
        note(log={name: value if isinstance(value, float) else value.size for name, value in values.items()}, step=step)
    def finish(self, exit_code):
        behave('finish')
        note(finish=exit_code, summary=self.summary)
def init(**values):
    print('Welcome to the service!')
    behave('init')
    values['settings'] = values['settings'].values
    note(init=values)
    return Run()
behave('import')
"""
PRIVATE = 'secretplace'


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Function: a behavior → the file of calls, after planting the package."""
    folder = tmp_path / 'planted'
    folder.mkdir()
    (folder / 'wandb.py').write_text(WANDB)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv('CALLS', str(tmp_path / 'calls.jsonl'))
    for name in ('WANDB_MODE', 'WANDB_PROJECT'):
        monkeypatch.delenv(name, raising=False)

    def plant(behavior=''):
        monkeypatch.setenv('BEHAVIOR', behavior)
        return tmp_path / 'calls.jsonl'

    return plant


def calls_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The configuration of a run on data in a private place."""
    from training.options import Options, build_config, open_training_set

    folder = tmp_path_factory.mktemp(PRIVATE)
    data = str(write_images(folder / 'photos'))
    options = Options(outdir=str(folder), data=data, cfg='tiny', device='cpu', tracker='wandb', metrics=())
    dataset = open_training_set(options)
    config = build_config(options, dataset, 'cpu', 1)
    dataset.close()
    return config


@pytest.fixture
def config_of_run(config, tmp_path):
    """The same with a run directory."""
    run_dir = tmp_path / f'{PRIVATE}-run'
    run_dir.mkdir()
    return TrainingConfig(**(vars(config) | {'run_dir': str(run_dir)}))


# ---------------------------------------------------------------------------------------------------------------------
# What a tracker gets


def test_a_run_in_a_tracker(planted, config_of_run, capfd):
    calls = planted()
    (Path(config_of_run.run_dir) / 'fakes.png').write_bytes(b'12345')
    run = Tracking(config_of_run)
    run.log({'Loss/G/loss': 1.5, 'Loss/D/loss': float('nan')}, 1000, 12.0)
    run.image('fakes', RunDir(config_of_run.run_dir).fakes_png(0).replace('000000', ''), 2000)
    run.finish(FINISHED)
    first, *rest = calls_of(calls)
    assert rest == [
        {'log': {'Loss/G/loss': 1.5}, 'step': 1000},
        {'log': {'fakes': 5}, 'step': 2000},
        {'finish': 0, 'summary': {'state': 'finished'}},
    ]
    start = first['init']
    assert start['mode'] == 'offline' and start['project'] == 'ada-gan' and start['dir'] == config_of_run.run_dir
    assert start['id'] == run_id(RunDir(config_of_run.run_dir)) and start['name'] == f'{PRIVATE}-run'
    assert start['settings'] == {'console': 'off', 'disable_git': True, 'x_disable_meta': True}
    assert start['config']['batch_size'] == config_of_run.batch_size
    assert start['config']['training_set_kwargs']['path'] == 'photos'
    assert capfd.readouterr() == ('', '')  # nothing that the package prints, and no warning


def test_paths_of_this_machine_are_not_shared(config_of_run):
    changes = dict(detectors=f'/home/{PRIVATE}/detectors', resume_pkl=f'https://host/{PRIVATE}/net.pkl?token={PRIVATE}')
    shared = shared_config(TrainingConfig(**(vars(config_of_run) | changes)))
    assert PRIVATE not in json.dumps(shared)
    assert shared['resume_pkl'] == 'net.pkl' and shared['detectors'] == 'detectors'


def test_a_resumed_run_continues_in_the_tracker(planted, config_of_run):
    calls = planted()
    Tracking(config_of_run).finish(STOPPED)
    Tracking(config_of_run).finish(FINISHED)
    first, stopped, second, finished = calls_of(calls)
    assert first['init']['id'] == second['init']['id']
    assert [stopped['summary'], finished['summary']] == [{'state': 'stopped'}, {'state': 'finished'}]


@pytest.mark.parametrize('content', ['{"id": "../../etc"}', '{"id": 7}', '[]', '{', '{"id": "a"}' + ' ' * 10_000])
def test_a_damaged_or_foreign_identifier_is_replaced(tmp_path, capsys, content):
    (tmp_path / 'tracker.json').write_text(content)
    identifier = run_id(RunDir(str(tmp_path)))
    assert re.fullmatch('[0-9a-f]{16}', identifier)
    assert capsys.readouterr().out.startswith(f'Warning: {tmp_path / "tracker.json"}')
    assert run_id(RunDir(str(tmp_path))) == identifier and capsys.readouterr().out == ''


def test_an_identifier_that_is_a_pipe_does_not_hang(tmp_path, capsys):
    os.mkfifo(tmp_path / 'tracker.json')
    assert re.fullmatch('[0-9a-f]{16}', run_id(RunDir(str(tmp_path))))
    assert 'not a regular file' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['wandb', 'wandb/debug.log', 'wandb/offline-run/files/media'])
def test_links_that_lead_out_of_the_folder_are_not_followed(planted, config_of_run, tmp_path, capsys, name):
    calls = planted()
    link = Path(config_of_run.run_dir, name)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path)
    run = Tracking(config_of_run)
    run.log({'Loss/G/loss': 1.5}, 1000, 12.0)
    run.finish(FINISHED)
    assert f'{name} in the run directory is a symbolic link' in capsys.readouterr().out
    assert calls_of(calls) == []


def test_links_within_the_folder_are_those_of_the_package(planted, config_of_run):
    calls = planted()
    folder = Path(config_of_run.run_dir, 'wandb', 'offline-run')
    folder.mkdir(parents=True)
    (folder.parent / 'latest-run').symlink_to(folder)
    Tracking(config_of_run).finish(FINISHED)
    assert [list(call)[0] for call in calls_of(calls)] == ['init', 'finish']


def test_a_failed_run(planted, config_of_run):
    calls = planted()
    run = Tracking(config_of_run)
    with pytest.raises(ZeroDivisionError), run.failing_with_run():
        raise ZeroDivisionError
    deadline = time.monotonic() + 30
    while len(calls_of(calls)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert calls_of(calls)[1] == {'finish': 1, 'summary': {'state': 'failed'}}


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


@pytest.mark.parametrize('behavior, message', [
    ('raise at import', 'wandb has failed (RuntimeError: the service is down)'),
    ('raise at log', 'wandb has failed (RuntimeError: the service is down)'),
    ('exit at log', 'wandb has failed (SystemExit: enough)'),
    ('crash at log', 'the process of wandb has ended'),
])  # fmt: skip
def test_a_failure_is_said_once(planted, config_of_run, capsys, behavior, message):
    planted(behavior)
    run = Tracking(config_of_run)
    for nimg in range(20):
        run.log({'Loss/G/loss': 1.0}, nimg, 0.0)
    run.finish(FINISHED)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('Warning')]
    assert lines == [f'Warning: {message}. Training goes on, and stats.jsonl has all numbers.']


def test_a_tracker_that_hangs_is_stopped(planted, config_of_run, capsys, monkeypatch):
    planted('hang at log')
    monkeypatch.setattr(tracking, 'STALL_SEC', 0.3)
    monkeypatch.setattr(tracking, 'STALLED_END_SEC', 0.5)
    run = Tracking(config_of_run)
    start = time.monotonic()
    for nimg in range(1000):
        run.log({f'Loss/{index}': 1.0 for index in range(100)}, nimg, 0.0)
    time.sleep(1)
    run.finish(FINISHED)
    assert time.monotonic() - start < 30
    out = capsys.readouterr().out
    assert out.count('wandb is too slow') == out.count('has not answered for 0.3 seconds') == 1
    assert out.count('did not finish in time and was stopped') == 1
    assert re.search(r'[7-9]\d\d messages for wandb were dropped; stats.jsonl has all numbers', out)


def test_a_slow_tracker_costs_the_training_no_time(planted, config_of_run, capsys):
    calls = planted('slow at log')
    run = Tracking(config_of_run)
    start = time.monotonic()
    for nimg in range(50):
        run.log({'Loss/G/loss': 1.0}, nimg, 0.0)
    passed = time.monotonic() - start
    run.finish(FINISHED)
    assert passed < 50 * 0.05 < time.monotonic() - start
    assert [call['step'] for call in calls_of(calls)[1:-1]] == list(range(50))
    assert capsys.readouterr().out == ''


# ---------------------------------------------------------------------------------------------------------------------
# Options


def test_names_of_trackers():
    assert canonical_tracker(' mlflow, WANDB,mlflow') == 'wandb,mlflow'
    assert parse_tracker('wandb,mlflow') == ['wandb', 'mlflow']
    assert parse_tracker(None) == parse_tracker('none') == parse_tracker('') == []
    with pytest.raises(InvalidArgument, match="'tensorboard': use one or several of wandb, trackio, mlflow"):
        canonical_tracker('wandb,tensorboard')


def test_a_missing_package_is_noticed_before_the_training(tmp_path, monkeypatch):
    (tmp_path / 'trackio').mkdir()  # such as the data of the package in the current folder
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        'importlib.util.find_spec', lambda name, find=tracking.importlib.util.find_spec: find(f'{name}_')
    )
    with pytest.raises(InvalidArgument, match=r"pip install 'ada-gan\[trackio\]'.*--tracker=none"):
        check_installed(['trackio'])


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs

SHORT = ['--kimg=0.016', '--tick=0.008', '--snap=1', '--report=0', '--verify-data=none']


def test_a_run_with_a_tracker_that_hangs_is_the_same(planted, tmp_path):
    data = write_images(tmp_path / 'data')
    planted('hang at log')
    plant = f'import sys; sys.path.insert(0, {str(tmp_path / "planted")!r})\nfrom training.run import tracking\n'
    patches = f'{plant}tracking.STALL_SEC = tracking.END_SEC = 1.0'
    plain = finish(train(data, tmp_path / 'plain', *SHORT))
    tracked = finish(train_after(patches, data, tmp_path / 'tracked', *SHORT, '--tracker=wandb'))
    assert plain.returncode == tracked.returncode == 0, tracked.stderr
    assert last_network(only(tmp_path / 'plain')) == last_network(only(tmp_path / 'tracked'))
    log = (only(tmp_path / 'tracked') / 'log.txt').read_text()
    assert log.count('wandb did not finish in time and was stopped') == 1


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_is_one_run_of_the_tracker(planted, tmp_path, monkeypatch):
    data = write_images(tmp_path / 'data')
    calls = planted()
    plant = f'import sys; sys.path.insert(0, {str(tmp_path / "planted")!r})'
    options = ['--tracker=wandb', '--resume-run=latest', '--tick=0.008', '--snap=1', '--report=0']
    with Running(train_after(plant, data, tmp_path / 'runs', '--kimg=1', *options)) as process:
        process.wait_until('tick 2 ')
        process.process.terminate()
        status, _sec = process.wait()
    assert status == 75
    resumed = finish(train_after(plant, data, tmp_path / 'runs', '--kimg=0.1', *options))
    assert resumed.returncode == 0, resumed.stderr
    noted = calls_of(calls)
    starts, ends = ([call for call in noted if name in call] for name in ('init', 'finish'))
    assert len({call['init']['id'] for call in starts}) == 1 and len(starts) == 2
    assert [call['summary']['state'] for call in ends] == ['stopped', 'finished']
    names = {name for call in noted for name in call.get('log', {})}
    row = json.loads((only(tmp_path / 'runs') / 'stats.jsonl').read_text().splitlines()[-1])
    numbers = {name for name, value in row.items() if isinstance(value, dict) and value['num']}
    assert numbers | {'fakes'} <= names | {'Validation/r_v'} and 'Timing/tflop_per_sec' in names


@pytest.mark.slow
def test_a_missing_package_ends_train_py_before_it_writes_anything(tmp_path):
    data = write_images(tmp_path / 'data')
    hide = (
        'import importlib.util as util\nfind = util.find_spec\n'
        'util.find_spec = lambda name, *more: None if name == "mlflow" else find(name, *more)'
    )
    result = finish(train_after(hide, data, tmp_path / 'runs', *SHORT, '--tracker=mlflow'))
    assert result.returncode == 2 and "pip install 'ada-gan[mlflow]'" in result.stderr
    assert "'--tracker'" in result.stderr and not list((tmp_path / 'runs').glob('*/*'))
