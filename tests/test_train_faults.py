"""Training with full disks, dying processes, damaged images and numbers that are not finite: what the user sees."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests import small_runs
from tests.small_runs import Running, finish, only
from training.run import checkpoint
from training.run.run_dir import RunDir

on_linux = pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='looks for processes in /proc')
OFTEN = ['--tick=0.04', '--snap=1']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return small_runs.write_images(tmp_path_factory.mktemp('data') / 'grays')


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]


def states(run_dir):
    return RunDir(str(run_dir)).training_states()


# ---------------------------------------------------------------------------------------------------------------------
# Disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB; skips the test where none can be mounted."""
    place = tmp_path / 'disk'
    place.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', place], capture_output=True).returncode != 0:
        pytest.skip('needs the right to mount a file system')
    yield place
    subprocess.run(['umount', '--lazy', place], check=True)


def fill(place):
    with open(place / 'filler', 'ab', buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_full_disk_is_a_warning_and_the_third_snapshot_in_a_row_the_end(data, small_disk):
    with Running(small_runs.train(data, small_disk, '--kimg=1000', *OFTEN)) as run:
        run.wait_until('tick 2 ')
        run_dir = only(small_disk, '0*')
        fill(small_disk)
        run.wait_until('Warning: this snapshot could not be written')
        kept = states(run_dir)[0]
        (small_disk / 'filler').unlink()
        run.wait_until(lambda: states(run_dir)[0] != kept)  # It has gone on.
        assert not list(run_dir.glob('.*'))
        fill(small_disk)
        status, _seconds = run.wait()
    assert status == 1
    newest = states(run_dir)[0]
    warning = (
        rf'Warning: this snapshot could not be written \({re.escape(str(run_dir))}/\S+: No space left on '
        r'device\)\. The last good state is \S+\.pt\. Training continues, but ends after 3 such snapshots '
        r'in a row\.'
    )
    assert len(re.findall(warning, run.out)) >= 3
    assert re.search(
        rf'^Error: 3 snapshots in a row could not be written \(.*/\S+: No space left on device\)\. The '
        rf'last good state is {re.escape(str(newest))}\. Fix the cause, then resume the run with '
        rf'--resume-run={re.escape(str(run_dir))}\.$',
        run.err,
        re.MULTILINE,
    )
    assert 'Traceback' not in run.err
    num_ticks = checkpoint.read(newest).counters().tick
    ticks = [row['Progress/tick']['mean'] for row in rows(run_dir)[:num_ticks]]
    assert ticks == list(range(num_ticks))  # Those that had to wait are there too.

    (small_disk / 'filler').unlink()
    with Running(small_runs.resume(run_dir)) as run:
        run.wait_until(lambda: states(run_dir)[0] != newest)
    assert f'Resuming from {newest}' in run.out


@pytest.fixture
def make_read_only(tmp_path_factory):
    """Function that makes a folder read-only until the test is over. Root is kept out by nothing but a mount."""
    mounted = []

    def mount(*args):
        if subprocess.run(['mount', *args], capture_output=True).returncode != 0:
            pytest.skip('needs the right to mount a file system')
        mounted.append(args[-1])

    def make(folder):
        if os.geteuid() != 0:
            folder.chmod(0o555)
            return
        view = tmp_path_factory.mktemp('view')  # The same folder; its mount is made read-only before it is in use.
        mount('--bind', folder, view)
        subprocess.run(['mount', '-o', 'remount,bind,ro', view], check=True)
        mount('--bind', view, folder)

    yield make
    for place in reversed(mounted):
        subprocess.run(['umount', '--lazy', place], check=True)


def test_a_directory_that_becomes_read_only(data, tmp_path, make_read_only):
    with Running(small_runs.train(data, tmp_path, '--kimg=1000', *OFTEN)) as run:
        run.wait_until('tick 1 ')
        run_dir = only(tmp_path)
        make_read_only(run_dir)
        status, _seconds = run.wait()
    newest = states(run_dir)[0]
    assert status == 1
    assert run.out.count('Warning: this snapshot could not be written') == 2
    error = re.search(
        r'^Error: 3 snapshots in a row could not be written \((.*)/[^/]+: (Permission denied|Read-only '
        r'file system)\)\. The last good state is (.*)\. Fix the cause, then resume the run with '
        r'--resume-run=(.*)\.$',
        run.err,
        re.MULTILINE,
    )
    assert error and (error[1], error[3], error[4]) == (str(run_dir), str(newest), str(run_dir)), run.err
    assert f'{error[0]}\n' in (run_dir / 'log.txt').read_text()
    result = finish(small_runs.train(data, run_dir / 'runs', '--kimg=1000'))
    assert result.returncode == 2
    assert f"Invalid value for '--outdir': '{run_dir / 'runs'}' cannot be written" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Processes


@on_linux
def test_a_process_that_reads_images_dies(data, tmp_path):
    with Running(small_runs.train(data, tmp_path, '--kimg=1000', '--workers=2', '--tick=0.08')) as run:
        run.wait_until('tick 1 ')
        worker = run.started_by()[0]
        os.kill(worker, signal.SIGKILL)
        status, seconds = run.wait()
    assert status == 1 and seconds < 30
    # PyTorch learns of it by a signal or by waiting in vain, whichever comes first.
    assert re.fullmatch(
        f'Error: A process that reads images has ended \\(process {worker} (is killed by signal: Killed|exited '
        r'unexpectedly)\), perhaps for lack of memory: use fewer --workers, or none \(0\), or give a container more '
        r'shared memory \(docker --ipc=host\)\.\n',
        run.err,
    ), run.err


@on_linux
def test_a_rank_dies(data, tmp_path):
    with Running(small_runs.train(data, tmp_path, '--kimg=1000', '--gpus=2', '--tick=0.08')) as run:
        run.wait_until('tick 1 ')
        os.kill(run.started_by()[1], signal.SIGKILL)
        status, seconds = run.wait()
    assert status == 1 and seconds < 30
    assert run.err == (
        'Error: Process 1 of 2 was killed by the system (signal 9), perhaps because memory ran out: use a '
        'smaller --batch-gpu, or fewer --gpus and --workers.\n'
    )


@on_linux
def test_a_rank_of_torchrun_dies(data, tmp_path):
    with Running(small_runs.torchrun(data, tmp_path, '--kimg=1000', '--tick=0.08')) as run:
        run.wait_until('tick 1 ')
        os.kill(run.started_by()[1], signal.SIGKILL)
        status, seconds = run.wait()
    assert status == 1 and seconds < 60
    assert 'Error: Process 0 of 2 stops because another process has ended: see the message of that one.\n' in run.err
    assert 'Signal 9 (SIGKILL) received' in run.err  # By torchrun, of the other one.


# ---------------------------------------------------------------------------------------------------------------------
# Images


@pytest.fixture
def damaged(tmp_path):
    folder = small_runs.write_images(tmp_path / 'damaged')
    path = folder / 'img00000007.png'
    path.write_bytes(path.read_bytes()[:60])  # With a sound header: only decoding fails.
    return folder


@pytest.mark.parametrize('options', [['--workers=0'], ['--workers=1', '--gpus=2']])
def test_a_damaged_image_is_named_once_replaced_and_counted(damaged, tmp_path, options):
    result = finish(
        small_runs.train(damaged, tmp_path / 'runs', '--kimg=0.2', '--tick=0.1', '--verify-data=headers', *options)
    )
    assert result.returncode == 0, result.stderr
    assert re.findall('^Warning: .*', result.stdout, re.MULTILINE) == [
        line for line in result.stdout.splitlines() if 'img00000007.png cannot be read as an image' in line
    ]
    assert result.stdout.count('Another image is shown in its place (--strict-data=1 would stop here).') == 1
    skipped = [row['Data/skipped_images'] for row in rows(only(tmp_path / 'runs'))]
    # 25 batches of 8 show each of 24 images about 8 times.
    assert sum(entry['num'] for entry in skipped) == 200
    assert 4 <= round(sum(entry['num'] * entry['mean'] for entry in skipped)) <= 12


def test_a_damaged_image_ends_a_strict_run(damaged, tmp_path):
    result = finish(
        small_runs.train(
            damaged, tmp_path / 'runs', '--kimg=0.2', '--strict-data=1', '--verify-data=headers', '--workers=1'
        )
    )
    assert result.returncode == 1
    assert result.stderr.startswith('Error: ') and result.stderr.count('\n') == 1
    assert 'img00000007.png cannot be read as an image' in result.stderr and '--skip-bad' in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Numbers and memory

NAN_FROM_STEP_30 = """
from training.loss import StyleGAN2Loss
run_D, calls = StyleGAN2Loss.run_D, []
def run_D_that_breaks(self, *args):
    calls.append(None)
    return run_D(self, *args) * (float('nan') if len(calls) > 90 else 1)       # Three calls a step.
StyleGAN2Loss.run_D = run_D_that_breaks
"""


def test_numbers_that_stay_nan_end_the_run_and_spare_the_last_good_state(data, tmp_path):
    # Ticks of 20 steps, the first one of a single step: at 21, 41, 61 ...
    command = small_runs.train_after(NAN_FROM_STEP_30, data, tmp_path, '--kimg=1000', '--tick=0.16', '--snap=1')
    result = finish(command)
    run_dir = only(tmp_path)
    assert result.returncode == 1
    (last_good,) = (path for path in states(run_dir) if path.name.startswith('training-state-000000.168'))
    assert last_good == states(run_dir)[0]
    assert 'Warning: no snapshot is written, because the gradients of ' in result.stdout
    sentence = (
        r'^Error: The training has diverged: the gradients of [GD](main|both|reg) were not finite \(inf or '
        r'NaN\) in each of its last \d+ steps\. The last good state is (\S+)\. If the machine is at fault, '
        r'resume from there \(--resume-run=\S+\); otherwise start a new run from one of the network pickles '
        r'\(--resume\) with a smaller --glr and --dlr, or a larger --gamma\.$'
    )
    match = re.search(sentence, result.stderr, re.MULTILINE)
    assert match and match[2] == str(last_good), result.stderr
    by_tick = rows(run_dir)
    assert by_tick[1]['Loss/nonfinite']['mean'] == 0 and by_tick[1]['Gradients/nonfinite/Dmain']['mean'] == 0
    assert by_tick[3]['Loss/nonfinite']['mean'] == 1 and by_tick[3]['Gradients/nonfinite/Dmain']['mean'] == 1
    assert by_tick[3]['Gradients/nonfinite/Dmain']['num'] == 20
    assert by_tick[-1]['Progress/augment']['mean'] < 1  # Not NaN.


LITTLE_MEMORY = """
import re, resource
import training.training_loop
import torch._dynamo, training.networks_stylegan2, training.loss, training.augment, training.dataset
size = int(re.search(r'VmSize:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2 ** 20, size + 400 * 2 ** 20))
"""


@on_linux
def test_lack_of_memory_names_batches_that_need_less(data, tmp_path):
    command = small_runs.train_after(LITTLE_MEMORY, data, tmp_path, '--cbase=8192', '--cmax=512', '--batch=256')
    result = finish(command)
    assert result.returncode == 1
    assert result.stderr.endswith(
        'Error: The memory of this machine is too small for 256 images at once: add --batch-gpu=128 or 64 or 32 or 16 '
        'or 8 or 4 (the batch stays the same but takes more time), or use a smaller --cbase or --cmax.\n'
    )
