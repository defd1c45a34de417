"""Runs that continue from a training state: bit for bit, from any moment, with damaged files, on other processes."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib import files
from tests.training.test_training_loop import (  # noqa: F401  (data is a fixture)
    data,
    final_pickle,
    small_config,
    state_of,
)
from torch_utils import training_stats
from torch_utils.distributed import World
from training import training_loop
from training.run import appended_files, checkpoint, snapshots
from training.run.run_dir import RunDir
from training.run.state import TrainingRun
from training.run.stats_writer import RunStatistics
from training.training_loop import launch

NOT_REPEATABLE = ('Timing/', 'Resources/', 'timestamp')
CPU = World(0, 1, torch.device('cpu'))


def rows_of(run_dir):
    """The repeatable numbers of each tick."""
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(NOT_REPEATABLE)}
        for line in (run_dir / 'stats.jsonl').read_text().splitlines()
    ]


def scalars_of(run_dir):
    """What TensorBoard shows, sorted: (name, step, value)."""
    loader = pytest.importorskip('tensorboard.backend.event_processing.event_file_loader')
    return sorted(
        (value.tag, event.step, str(value.tensor.float_val[0]))
        for path in run_dir.glob('events.*')
        for event in loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if not value.tag.startswith(NOT_REPEATABLE)
    )


def states_of(run_dir):
    """The training states of a run, newest first."""
    return RunDir(str(run_dir)).training_states()


def ticks_in_log(run_dir):
    return [line.split()[1] for line in (run_dir / 'log.txt').read_text().splitlines() if line.startswith('tick ')]


def assert_same_run(actual, expected):
    assert rows_of(actual) == rows_of(expected)
    assert ticks_in_log(actual) == ticks_in_log(expected)
    assert scalars_of(actual) == scalars_of(expected)
    for path in [*expected.glob('*.pkl'), *expected.glob('*.png'), *expected.glob('averages-*.pt')]:
        assert (actual / path.name).read_bytes() == path.read_bytes(), path.name
    assert not list(actual.glob('.*'))


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):  # noqa: F811
    """A run that nothing has interrupted, with all its states: after 8, 40, 72 and 80 images."""
    run_dir = tmp_path_factory.mktemp('whole') / 'run'
    launch(small_config(data, run_dir, keep_states=10))
    return run_dir


def interrupted(whole, run_dir, states):
    """A copy of the run, of whose states the first ones are left."""
    shutil.copytree(whole, run_dir)
    for path in sorted(run_dir.glob('training-state-*.pt'))[states:]:
        path.unlink()
    return run_dir


def resume(data, run_dir, **changes):  # noqa: F811
    launch(small_config(data, run_dir, **(dict(keep_states=10) | changes)), resume=True)


# ---------------------------------------------------------------------------------------------------------------------
# Bit for bit


def test_the_same_run_again_gives_the_same_files(whole, data, tmp_path):  # noqa: F811
    launch(small_config(data, tmp_path / 'again', keep_states=10))
    assert_same_run(tmp_path / 'again', whole)


def test_deterministic_algorithms_change_nothing_on_a_cpu(whole, data, tmp_path):  # noqa: F811
    try:
        launch(small_config(data, tmp_path / 'run', keep_states=10, deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_run(tmp_path / 'run', whole)


@pytest.mark.parametrize('states', [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(whole, data, tmp_path, states):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', states)
    resume(data, run_dir)
    assert_same_run(run_dir, whole)


def test_worker_processes_keep_the_order(whole, data, tmp_path):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 2)
    resume(data, run_dir, data_loader_kwargs=dict(num_workers=2, prefetch_factor=2))
    assert_same_run(run_dir, whole)


def test_two_processes(data, tmp_path):  # noqa: F811
    launch(small_config(data, tmp_path / 'whole', num_gpus=2, keep_states=10))
    run_dir = interrupted(tmp_path / 'whole', tmp_path / 'run', 2)
    resume(data, run_dir, num_gpus=2)
    assert_same_run(run_dir, tmp_path / 'whole')
    states = [checkpoint.read(states_of(path)[0]).content for path in (run_dir, tmp_path / 'whole')]
    for rank in range(2):  # W's running mean is each rank's own.
        means = [state['ranks'][rank]['means']['G/mapping.w_avg'] for state in states]
        assert torch.equal(*means)
    assert not torch.equal(*(states[0]['ranks'][rank]['means']['G/mapping.w_avg'] for rank in range(2)))


def test_a_longer_run_is_a_shorter_one_that_went_on(data, tmp_path):  # noqa: F811
    """All of ADA, path lengths and Adam is behind the state: the last tick of the short run ends early, no more."""
    launch(small_config(data, tmp_path / 'long', total_kimg=0.104))
    launch(small_config(data, tmp_path / 'short', total_kimg=0.072))
    resume(data, tmp_path / 'short', total_kimg=0.104)
    assert_same_run(tmp_path / 'short', tmp_path / 'long')


def test_a_finished_run_stays_as_it_is(whole, data, tmp_path, capfd):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 4)
    resume(data, run_dir)
    assert_same_run(run_dir, whole)
    assert 'Training is complete: it has shown 0.08 of 0.08 kimg.' in capfd.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# Killed at any moment


class Killed(BaseException):
    """The end of a process, as far as one process can play it."""


def die_in_the_middle_of_a_tick(config, monkeypatch):
    """Launch a run that saves a state while the statistics of the tick are incomplete, and is killed right after it."""
    runs = []

    def record_run(*args):
        runs.append(TrainingRun(*args))
        return runs[-1]

    def save_and_die(_statistics, cur_nimg):
        if cur_nimg == 56:
            checkpoint.save(runs[0])
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, 'TrainingRun', record_run)
        patch.setattr(RunStatistics, 'show_progress', save_and_die)
        with pytest.raises(Killed):
            launch(config)


def killing(function, call, moment):
    """The function, dying before or after its given call."""
    calls = 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and moment == 'before':
            raise Killed
        result = function(*args, **kwargs)
        if calls == call and moment == 'after':
            raise Killed
        return result

    return dying


MOMENTS = {
    'first_grid': (training_loop, '_prepare_fakes_grid', 1),
    'first_pickle': (snapshots, 'save_network_pickle', 1),
    'first_state': (checkpoint, 'save', 1),
    'batch': (training_loop, 'run_phase', 17),
    'status_line': (RunStatistics, 'end_tick', 3),
    'pickle': (snapshots, 'save_network_pickle', 3),
    'statistics': (RunStatistics, 'write', 3),
    'state': (checkpoint, 'save', 3),
    'last_state': (checkpoint, 'save', 4),
}


dying_closes_no_file = pytest.mark.filterwarnings(
    'ignore::ResourceWarning', 'ignore::pytest.PytestUnraisableExceptionWarning'
)


@dying_closes_no_file
@pytest.mark.parametrize('moment', ['before', 'after'])
@pytest.mark.parametrize('place', MOMENTS)
def test_any_moment_is_good_to_die(whole, data, tmp_path, monkeypatch, place, moment):  # noqa: F811
    owner, name, call = MOMENTS[place]
    run_dir = tmp_path / 'run'
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), call, moment))
        with pytest.raises(Killed):
            launch(small_config(data, run_dir, keep_states=2))
    resume(data, run_dir, keep_states=2)
    assert_same_run(run_dir, whole)
    assert [path.name for path in states_of(run_dir)] == [
        'training-state-000000.080.pt',
        'training-state-000000.072.pt',
    ]


@dying_closes_no_file
def test_a_state_in_the_middle_of_a_tick(whole, data, tmp_path, monkeypatch):  # noqa: F811
    """As a signal requests one, while the statistics of ADA and of the tick are incomplete."""
    die_in_the_middle_of_a_tick(small_config(data, tmp_path / 'run', keep_states=10), monkeypatch)
    resume(data, tmp_path / 'run')
    assert_same_run(tmp_path / 'run', whole)


@dying_closes_no_file
def test_dying_in_the_metrics_repeats_them_alone(data, tmp_path, monkeypatch):  # noqa: F811
    def metrics(_world, G, _run_dir, network_pkl):
        calls.append(os.path.basename(network_pkl))
        torch.randn(3)
        if len(calls) == fatal:
            raise Killed
        return dict(weight=float(G.synthesis.b4.const.sum()))

    calls, fatal = [], 0
    launch(small_config(data, tmp_path / 'whole'), metrics)
    calls, fatal = [], 2
    with pytest.raises(Killed):
        launch(small_config(data, tmp_path / 'run'), metrics)
    run_phase, phases = training_loop.run_phase, []
    monkeypatch.setattr(
        training_loop, 'run_phase', lambda phase, *args: phases.append(phase) or run_phase(phase, *args)
    )
    launch(small_config(data, tmp_path / 'run'), metrics, resume=True)
    assert len(calls) == 2 + 3
    assert len([phase for phase in phases if phase.name == 'Gmain']) == 5  # The last 40 of 80 images.
    assert_same_run(tmp_path / 'run', tmp_path / 'whole')
    assert [row['Metrics/weight']['num'] for row in rows_of(tmp_path / 'run')] == [1] * 4


# ---------------------------------------------------------------------------------------------------------------------
# Damaged files


@pytest.mark.parametrize(
    'damage',
    [
        lambda path: path.write_bytes(b''),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(flipped(path.read_bytes())),
        lambda path: path.write_bytes(b'no state'),
    ],
    ids=['empty', 'half', 'zeros', 'one bit', 'text'],
)
def test_a_damaged_state_falls_back_to_the_one_before(whole, data, tmp_path, capfd, damage):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 3)
    newest = states_of(run_dir)[0]
    damage(newest)
    resume(data, run_dir)
    output = capfd.readouterr().out
    assert f'{newest} is damaged' in output and 'training-state-000000.040.pt, after 0.04 kimg' in output
    assert_same_run(run_dir, whole)


def flipped(content):
    """One bit in the largest tensor of a file is another one, which only a checksum can tell."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda info: info.file_size))
    middle = content.index(largest) + len(largest) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@dying_closes_no_file
def test_all_states_damaged(whole, data, tmp_path):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 2)
    for path in states_of(run_dir):
        path.write_bytes(b'')
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    with pytest.raises(ValueError, match=r'all its training states are damaged: .*--resume=PKL'):
        resume(data, run_dir)
    after = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {'log.txt'}


def test_a_torn_line_is_mended(whole, data, tmp_path):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 3)
    for name in ('stats.jsonl', 'log.txt'):
        path = run_dir / name
        path.write_bytes(path.read_bytes()[:-10])
    resume(data, run_dir)
    assert_same_run(run_dir, whole)


def test_a_state_of_another_version_is_one_sentence(whole, data, tmp_path, monkeypatch):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 2)
    monkeypatch.setattr(checkpoint, 'FORMAT', 99)
    with pytest.raises(ValueError, match=r'training-state-.* another version .*format 1, here 99'):
        resume(data, run_dir)


def test_lines_that_stay(tmp_path):
    (tmp_path / 'log.txt').write_text('tick 0\ntick 1\nMetric failed\ntick 2\ntorn')
    lines = [
        json.dumps(dict(snapshot_pkl='network-snapshot-000001.pkl', in_training=mark)) + '\n'
        for mark in (True, True, False)
    ]
    (tmp_path / 'metric-fid50k_full.jsonl').write_text(''.join(lines) + '{"torn')
    (tmp_path / 'metric-is50k.jsonl').write_text(lines[0])
    (tmp_path / f'.network-snapshot-000001.pkl.{"0" * 32}.partial').write_bytes(b'half')
    appended_files.rewind(RunDir(str(tmp_path)), {'log.txt': 7, 'metric-fid50k_full.jsonl': len(lines[0])})
    assert (tmp_path / 'log.txt').read_text() == 'tick 0\nMetric failed\n'
    assert (tmp_path / 'metric-fid50k_full.jsonl').read_text() == lines[0] + lines[2]
    assert sorted(os.listdir(tmp_path)) == ['log.txt', 'metric-fid50k_full.jsonl']


# ---------------------------------------------------------------------------------------------------------------------
# What is in a state


def test_a_state_is_plain_data(whole):
    path = states_of(whole)[1]
    state = torch.load(path, weights_only=True)
    assert path.name == 'training-state-000000.072.pt'
    assert state['progress'] == dict(cur_nimg=72, batch_idx=9, tick=3, tick_start_nimg=72, tick_is_open=False)
    assert state['networks'].keys() == {'G', 'D', 'G_ema'} and state['optimizers'].keys() == {'G', 'D'}
    assert state['ranks'][0]['loss']['pl_mean'] > 0
    assert json.loads(state['config'])['total_kimg'] == 0.08
    assert len(state['environment']) == 6 and state['statistics']['elapsed_sec'] > 0


@pytest.mark.parametrize('keep', [1, 3])
def test_as_many_states_as_asked_for_are_kept(data, tmp_path, keep):  # noqa: F811
    launch(small_config(data, tmp_path, keep_states=keep))
    numbers = [80, 72, 40, 8][:keep]
    assert [path.name for path in states_of(tmp_path)] == [
        f'training-state-000000.{number:03d}.pt' for number in numbers
    ]


@dying_closes_no_file
def test_older_states_are_there_until_the_new_one_is(whole, data, tmp_path, monkeypatch):  # noqa: F811
    def fail_for_states(content, *args, **kwargs):
        if isinstance(content, dict):
            raise OSError(28, 'No space left on device')
        return save(content, *args, **kwargs)

    run_dir, save = interrupted(whole, tmp_path / 'run', 2), torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', fail_for_states)
        with pytest.raises(ValueError, match=r'could not be written \(.*training-state-\S+\.pt: No space left'):
            resume(data, run_dir, keep_states=1)
    assert len(states_of(run_dir)) == 2
    resume(data, run_dir, keep_states=1)
    assert_same_run(run_dir, whole)


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_what_ends_the_writing_of_a_state_is_what_is_raised(whole, tmp_path, error):
    class Broken:
        def __init__(self, file):
            self.file, self.written = file, 0

        def write(self, content):
            self.written += len(content)
            if self.written > 50_000:
                raise error
            return self.file.write(content)

        def flush(self):
            self.file.flush()

    content = checkpoint.read(states_of(whole)[0]).content
    with open(tmp_path / 'state.pt', 'wb') as file, pytest.raises(type(error)):
        checkpoint._write(content, Broken(file))


def test_names_of_states():
    run_dir = RunDir('run')
    assert run_dir.training_state(1000) == os.path.join('run', 'training-state-000001.pt')
    assert run_dir.training_state(32) == os.path.join('run', 'training-state-000000.032.pt')
    assert run_dir.training_state(25_000_096) == os.path.join('run', 'training-state-025000.096.pt')


def test_random_states_come_back():
    before = checkpoint.random_states(CPU.device)
    first = torch.randn(3), np.random.randn(3)
    checkpoint.set_random_states(before, CPU.device)
    assert torch.equal(torch.randn(3), first[0]) and np.array_equal(np.random.randn(3), first[1])


def test_statistics_under_way_come_back():
    """In the middle of a tick some of what was reported is not reduced yet."""
    for value in (0.1, 0.7):
        training_stats.report('a', value)
    collector = training_stats.Collector()
    training_stats.report('a', [0.3, 0.5])
    saved = training_stats.totals(), training_stats.pending(), collector.state_dict()
    training_stats.report('a', 5)
    collector.update()
    expected = collector.as_dict()
    training_stats.reset()
    again = training_stats.Collector()
    training_stats.set_state(saved[0], [saved[1]], CPU.device)
    again.load_state_dict(saved[2])
    training_stats.report('a', 5)
    again.update()
    assert again.as_dict() == expected and again.num('a') == 3


# ---------------------------------------------------------------------------------------------------------------------
# Other circumstances


@pytest.mark.parametrize(
    'before, after, words', [(1, 2, ['processes 1 -> 2', 'number 1 on start with fresh']), (2, 1, ['processes 2 -> 1'])]
)
def test_another_number_of_processes(data, tmp_path, capfd, before, after, words):  # noqa: F811
    launch(small_config(data, tmp_path, num_gpus=before, total_kimg=0.04))
    resume(data, tmp_path, num_gpus=after)
    output = capfd.readouterr().out
    assert all(word in output for word in words), output
    rows = rows_of(tmp_path)
    assert [row['Progress/tick']['mean'] for row in rows] == [0, 1, 2, 3]
    assert rows[2]['Loss/D/loss']['num'] == 32
    assert all(torch.isfinite(tensor).all() for tensor in state_of(final_pickle(tmp_path)).values())


def test_a_run_in_use_is_left_alone(whole, data, tmp_path, monkeypatch):  # noqa: F811
    run_dir = interrupted(whole, tmp_path / 'run', 2)
    locked = files.locked_folder
    monkeypatch.setattr(training_loop, 'locked_folder', lambda path: locked(path, wait_sec=0))
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    with locked(run_dir), pytest.raises(ValueError, match='is in use by another process'):
        resume(data, run_dir)
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before
    resume(data, run_dir)
    assert_same_run(run_dir, whole)


def test_a_lock_waits_for_its_turn(tmp_path):
    with files.locked_folder(tmp_path):
        with pytest.raises(ValueError, match=str(tmp_path)), files.locked_folder(tmp_path, wait_sec=0.3):
            pass
    with files.locked_folder(Path(tmp_path), wait_sec=0):
        pass
