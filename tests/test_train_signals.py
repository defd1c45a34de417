"""Signals during training: what is saved and printed, and that the run resumes as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import small_runs
from tests.small_runs import Running, finish, last_network, only, resume

pytestmark = pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='looks for processes in /proc')

# One snapshot at the start of the run and one at its end: any other was requested by a signal.
FEW_SNAPSHOTS = ['--tick=0.08', '--snap=100000']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return small_runs.write_images(tmp_path_factory.mktemp('data') / 'grays')


@pytest.fixture(scope='module')
def undisturbed(data, tmp_path_factory):
    """A run of two processes that got no signal."""
    outdir = tmp_path_factory.mktemp('undisturbed')
    result = finish(small_runs.train(data, outdir, '--gpus=2', '--kimg=1.2', *FEW_SNAPSHOTS))
    assert result.returncode == 0, result.stderr
    return only(outdir)


def test_sigterm_on_one_of_two_ranks_stops_both_and_the_run_goes_on_to_the_same_end(data, tmp_path, undisturbed):
    command = small_runs.train(data, tmp_path, '--gpus=2', '--kimg=1.2', *FEW_SNAPSHOTS)
    with Running(command) as run:
        run.wait_until('tick 1 ')
        os.kill(run.started_by()[1], signal.SIGTERM)
        status, seconds = run.wait()
    run_dir = only(tmp_path)
    assert status == 75 and seconds < 10
    assert 'Stopped by a signal after ' in run.out and f'--resume-run={run_dir}' in run.out
    assert run.err == ''
    assert not list(run_dir.glob('.*'))
    newest = sorted(run_dir.glob('training-state-*.pt'))[-1]
    assert f'The last good state is {newest}.' in (run_dir / 'log.txt').read_text()
    result = finish(resume(run_dir))
    assert result.returncode == 0, result.stderr
    assert last_network(run_dir) == last_network(undisturbed)


def test_saving_goes_on_and_an_interrupt_of_the_terminal_stops_with_everything_saved(data, tmp_path):
    with Running(small_runs.train(data, tmp_path, '--kimg=1000', '--workers=1', *FEW_SNAPSHOTS)) as run:
        run.wait_until('tick 1 ')
        run_dir = only(tmp_path)
        (first,) = run_dir.glob('training-state-*.pt')
        run.process.send_signal(signal.SIGUSR1)
        run.wait_until(lambda: len(list(run_dir.glob('training-state-*.pt'))) == 2)
        ticks = run.out.count('tick ')
        run.wait_until(lambda: run.out.count('tick ') > ticks)
        os.killpg(run.process.pid, signal.SIGINT)  # To the process that reads images as well.
        status, seconds = run.wait()
    assert status == 75 and seconds < 10
    assert (
        run.err.strip() == 'SIGINT: saving and stopping after this step; repeat SIGTERM or Ctrl-C to stop immediately.'
    )
    assert 'Stopped by a signal after ' in run.out.splitlines()[-1]
    assert len(list(run_dir.glob('training-state-*.pt'))) == 2 and not first.exists()
    assert not list(run_dir.glob('.*'))


def test_a_second_interrupt_stops_at_once(data, tmp_path):
    endless_step = (
        'import time\nimport training.training_loop\ntraining.training_loop.run_phase = lambda *_: time.sleep(99)'
    )
    with Running(small_runs.train_after(endless_step, data, tmp_path)) as run:
        run.wait_until('Training for ')
        time.sleep(0.5)
        run.process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        run.process.send_signal(signal.SIGINT)
        status, seconds = run.wait()
    assert status == 1 and seconds < 10
    assert run.err.splitlines()[-1] == 'Aborted!'
    assert not list(only(tmp_path).glob('training-state-*')) and not list(only(tmp_path).glob('.*'))


SLOW_METRICS = """
import time
from pathlib import Path

def measure(world, G, run_dir, network_pkl):
    if Path(run_dir, 'quick').exists():
        return {'quick': 1.0}
    Path(run_dir, f'measuring-{world.rank}').touch()
    time.sleep(99)
"""


def test_metrics_are_left_at_once_and_computed_when_the_run_goes_on(data, tmp_path):
    (tmp_path / 'slow_metrics.py').write_text(SLOW_METRICS)
    program = (f'import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport slow_metrics\n' + small_runs.RESUME).replace(
        'launch(config, ', 'launch(config, slow_metrics.measure, '
    )
    # As train.py would write them, but for its metrics.
    dry_run = finish(small_runs.train(data, tmp_path / 'runs', '--dry-run', '--gpus=2', '--kimg=0.016'))
    run_dir = tmp_path / 'run'
    run_dir.mkdir()
    (run_dir / 'training_options.json').write_text(dry_run.stdout)
    command = small_runs.words(sys.executable, '-c', program, run_dir)
    with Running(command) as run:
        run.wait_until(lambda: len(list(run_dir.glob('measuring-*'))) == 2)
        run.process.send_signal(signal.SIGTERM)
        status, seconds = run.wait()
    assert status == 75 and seconds < 15
    assert run.out.count('Stopped by a signal after 0.008 of 0.016 kimg. The last good state is ') == 1
    assert run.out.count('Stopped by a signal') == 1
    assert not (run_dir / 'stats.jsonl').read_text()
    (run_dir / 'quick').touch()
    result = finish(command)
    assert result.returncode == 0, result.stderr
    assert (run_dir / 'stats.jsonl').read_text().count('"Metrics/quick": {"num": 1, "mean": 1.0') == 2


def test_torchrun_passes_sigterm_on(data, tmp_path):
    with Running(small_runs.torchrun(data, tmp_path, '--kimg=1000', *FEW_SNAPSHOTS)) as run:
        run.wait_until('tick 1 ')
        run.process.send_signal(signal.SIGTERM)
        _status, seconds = run.wait()
    assert seconds < 30
    run_dir = only(tmp_path)
    assert 'Stopped by a signal after ' in (run_dir / 'log.txt').read_text()
    assert len(list(run_dir.glob('training-state-*.pt'))) == 2


@pytest.mark.slow
def test_a_run_under_timeout_in_a_loop_finishes(data, tmp_path):
    command = small_runs.train(data, tmp_path, '--kimg=8', *FEW_SNAPSHOTS)
    start = time.monotonic()
    with Running(command) as run:
        run.wait_until('tick 1 ')
        seconds = time.monotonic() - start + 4
        run.process.send_signal(signal.SIGTERM)
        run.wait()
    run_dir = only(tmp_path)
    for _rounds in range(30):
        status = subprocess.run(
            ['timeout', f'{seconds:.1f}', *resume(run_dir)],
            cwd=small_runs.ROOT,
            env=small_runs.environment(),
            stdout=subprocess.DEVNULL,
        ).returncode
        if status != 124:  # What `timeout` says of a command that it has stopped.
            break
    assert status == 0 and _rounds > 0
    assert (run_dir / 'log.txt').read_text().endswith('Training is complete.\n')
