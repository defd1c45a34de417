"""Signals as requests: what each one requests, and what a second one does."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from dnnlib import signals
from dnnlib.signals import Request, SignalWatch
from torch_utils import distributed, launcher

ROOT = Path(__file__).resolve().parents[2]


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def hurry(monkeypatch):
    """A second signal counts after a tenth of a second."""
    monkeypatch.setattr(signals, 'REPEAT_SEC', 0.1)


@pytest.fixture(autouse=True)
def not_under_nohup():
    """Undo nohup, under which the tests themselves may run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_no_request_without_a_signal():
    with SignalWatch() as watch:
        assert watch.take() == watch.take() == Request.NONE


def test_a_request_to_save_is_taken_once_and_one_to_stop_remains():
    with SignalWatch() as watch:
        send(signal.SIGUSR1)
        assert [watch.take(), watch.take()] == [Request.SAVE, Request.NONE]
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert [watch.take(), watch.take()] == [Request.STOP, Request.STOP]


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2'])
def test_signals_that_request_to_stop(name):
    with SignalWatch() as watch:
        send(getattr(signal, name))
        assert watch.take() == Request.STOP


@pytest.mark.parametrize('second', ['SIGTERM', 'SIGINT'])
def test_a_second_signal_stops_immediately(hurry, second):
    with SignalWatch() as watch:
        send(signal.SIGTERM)
        time.sleep(0.15)
        with pytest.raises(KeyboardInterrupt):
            send(getattr(signal, second))
        assert watch.take() == Request.STOP


def test_signals_within_a_moment_are_one_request():
    # As `timeout` sends them: to the process, then to its group.
    with SignalWatch() as watch:
        for _ in range(3):
            send(signal.SIGTERM)
        assert watch.take() == Request.STOP


def test_signals_from_the_launcher_never_stop_immediately(hurry):
    with SignalWatch() as watch:
        send(signal.SIGINT)
        for _ in range(3):
            time.sleep(0.06)
            send(signal.SIGUSR2)
        assert watch.take() == Request.STOP


def test_previous_handlers_are_restored():
    before = [signal.getsignal(number) for number in signals.ALL_SIGNALS]
    with SignalWatch(), signals.ignored():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert [signal.getsignal(number) for number in signals.ALL_SIGNALS] == before


def test_a_process_that_is_about_to_exit_is_not_cut_short():
    program = (
        'import os, signal\nfrom dnnlib import signals\n'
        'signals.ignore_sigterm()\n'
        'os.kill(os.getpid(), signal.SIGTERM)\n'
        'print("last words")\n'
    )
    result = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, 'last words\n', '')


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalWatch() as watch:
            send(signal.SIGHUP)
            assert watch.take() == Request.NONE
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_see_no_signals():
    seen = []

    def watch_in_thread():
        with SignalWatch() as watch, signals.ignored():
            seen.append(watch.take())

    thread = threading.Thread(target=watch_in_thread)
    thread.start()
    thread.join()
    assert seen == [Request.NONE]


def test_confirmation_of_a_request_to_stop(tmp_path):
    program = (
        'import os, signal\nfrom dnnlib.signals import SignalWatch\n'
        'with SignalWatch(announce=True) as watch:\n'
        '    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n'
        '    print(watch.take().name)\n'
    )
    result = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == 'STOP\n'
    assert result.stderr == (
        '\nSIGTERM: saving and stopping after this step; repeat SIGTERM or Ctrl-C to stop immediately.\n'
    )


def _wait_to_be_orphaned(path):
    with SignalWatch() as watch:
        deadline = time.monotonic() + 60
        while watch.take() != Request.STOP and time.monotonic() < deadline:
            time.sleep(0.05)
        Path(path).write_text('asked to stop' if time.monotonic() < deadline else 'not asked')


def _start_a_process_and_die(path):
    with signals.ignored():
        multiprocessing.get_context('spawn').Process(target=_wait_to_be_orphaned, args=(path,)).start()
    time.sleep(0.5)
    os._exit(0)


def test_an_orphan_is_asked_to_stop(tmp_path):
    parent = multiprocessing.get_context('spawn').Process(target=_start_a_process_and_die, args=(tmp_path / 'seen',))
    parent.start()
    parent.join()
    deadline = time.monotonic() + 60
    while not (tmp_path / 'seen').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    assert (tmp_path / 'seen').read_text() == 'asked to stop'


# ---------------------------------------------------------------------------------------------------------------------
# Through the launcher


def _steps_until_asked_to_stop(world, folder):
    saved = steps = 0
    with SignalWatch() as watch:
        Path(folder, f'pid-{world.rank}').write_text(str(os.getpid()))
        while True:
            request = Request(distributed.largest_over_ranks(world, watch.take()))
            if request == Request.SAVE:
                saved += 1
                Path(folder, f'saved-{world.rank}').touch()
            if request == Request.STOP:
                Path(folder, f'steps-{world.rank}').write_text(str(steps))
                return saved, steps
            steps += 1
            time.sleep(0.01)


def _wait_for_files(folder, pattern, count):
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)


@pytest.mark.parametrize('whom', ['starting process', 'rank 1'])
def test_all_ranks_stop_at_the_same_step(tmp_path, whom):
    def ask():
        _wait_for_files(tmp_path, 'pid-*', 2)
        pid = os.getpid() if whom == 'starting process' else int((tmp_path / 'pid-1').read_text())
        os.kill(pid, signal.SIGUSR1)
        _wait_for_files(tmp_path, 'saved-*', 2)
        os.kill(pid, signal.SIGTERM)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    saved, steps = launcher.launch(_steps_until_asked_to_stop, 2, 'cpu', str(tmp_path), handles_signals=True)
    assert saved == 1
    assert [int((tmp_path / f'steps-{rank}').read_text()) for rank in range(2)] == [steps, steps]


def _ignores_requests(world, folder):
    with SignalWatch():
        Path(folder, f'pid-{world.rank}').write_text(str(os.getpid()))
        time.sleep(120)


def test_an_insistent_interrupt_ends_all_at_once(tmp_path, hurry):
    def insist():
        _wait_for_files(tmp_path, 'pid-*', 2)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    threading.Thread(target=insist, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launcher.launch(_ignores_requests, 2, 'cpu', str(tmp_path), handles_signals=True)
    assert time.monotonic() - start < 30
    for path in tmp_path.glob('pid-*'):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def _hangs_while_another_dies(world, folder):
    with SignalWatch():
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)


def test_a_process_that_hangs_is_ended_after_another_died(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, 'GRACE_SEC', 0.5)
    with pytest.raises(ValueError, match=r'^Process 1 of 2 was killed by the system \(signal 9\)'):
        launcher.launch(_hangs_while_another_dies, 2, 'cpu', str(tmp_path), handles_signals=True)


def _waits_for_one_that_is_interrupted(world):
    if world.rank == 1:
        raise KeyboardInterrupt
    torch.distributed.barrier()


def test_one_that_is_interrupted_is_a_sentence():
    with pytest.raises(ValueError, match='^Process 1 of 2 was interrupted.$'):
        launcher.launch(_waits_for_one_that_is_interrupted, 2, 'cpu')


# ---------------------------------------------------------------------------------------------------------------------
# Work that can be repeated, and worker processes


def test_repeatable_work_stops_immediately(capsys):
    with SignalWatch() as watch:
        with pytest.raises(SystemExit) as left, watch.stopping_immediately(lambda: 'Until next time.'):
            send(signal.SIGTERM)
            time.sleep(99)
        assert left.value.code == 75
        with pytest.raises(SystemExit), watch.stopping_immediately(lambda: 'Not even begun.'):
            time.sleep(99)
        send(signal.SIGTERM)  # Outside, it is a request again.
    assert capsys.readouterr().out == '\nUntil next time.\n\nNot even begun.\n'


def _work(workers, path):
    workers.init_worker(0)
    Path(path).touch()
    time.sleep(120)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_ignore_signals_until_their_parent_is_done(tmp_path, method):
    workers = signals.WorkerSignals()
    process = multiprocessing.get_context(method).Process(target=_work, args=(workers, tmp_path / 'begun'))
    process.start()
    _wait_for_files(tmp_path, 'begun', 1)
    for number in signals.ALL_SIGNALS:
        os.kill(process.pid, number)
    process.join(0.5)
    assert process.is_alive()
    workers.allow_termination()
    process.terminate()
    process.join(30)
    assert process.exitcode == 0
