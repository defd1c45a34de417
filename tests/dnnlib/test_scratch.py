"""Unfinished files and folders: those of killed processes are removed, those in use never."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dnnlib import files, scratch

ROOT = Path(__file__).resolve().parents[2]
HEX = '0123456789abcdef' * 2

WORKER = """
import sys, time
from dnnlib.files import atomic_file
from dnnlib.scratch import scratch_folder
with scratch_folder('test'), atomic_file(sys.argv[1]) as file:
    file.write(b'half')
    file.flush()
    print('ready', flush=True)
    time.sleep(60)
"""


def partials(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith('.partial'))


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Another process in the middle of writing `x.bin`; its scratch folder is in `temporary`."""
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(scratch.tempfile, 'gettempdir', lambda: str(tmp_path / 'temporary'))
    command = [sys.executable, '-c', WORKER, str(tmp_path / 'x.bin')]
    environment = {**os.environ, 'TMPDIR': str(tmp_path / 'temporary')}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'ready\n'
        yield process
        process.kill()


def test_what_a_killed_process_has_left_is_removed(worker, tmp_path):
    scratch.remove_abandoned(tmp_path)
    with scratch.scratch_folder('test'):
        pass
    assert len(partials(tmp_path)) == len(partials(tmp_path / 'temporary')) == 1  # it is still at work
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    files._remove_abandoned_once.cache_clear()
    with files.atomic_file(tmp_path / 'y.bin') as file:
        file.write(b'whole')
    with scratch.scratch_folder('test') as folder:
        assert partials(tmp_path / 'temporary') == [folder.name]
    assert sorted(os.listdir(tmp_path)) == ['temporary', 'y.bin']
    assert os.listdir(tmp_path / 'temporary') == []


def test_only_own_names_are_removed(tmp_path):
    kept = ['x.partial', f'.x.{HEX}.partial.json', f'.x.{HEX[1:]}.partial', 'a.txt']
    for name in [*kept, f'.x.{HEX}.partial', f'.y.{HEX}.partial']:
        (tmp_path / name).write_bytes(b'')
    (tmp_path / f'.z.{HEX}.partial').symlink_to(tmp_path / 'a.txt')
    scratch.remove_abandoned(tmp_path, 'x')
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, f'.y.{HEX}.partial', f'.z.{HEX}.partial'])
    scratch.remove_abandoned(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, f'.z.{HEX}.partial'])
    scratch.remove_abandoned(tmp_path / 'missing')


def test_without_locks_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, 'fcntl', None)
    old, new = tmp_path / f'.old.{HEX}.partial', tmp_path / f'.new.{HEX}.partial'
    for path in (old, new):
        path.mkdir()
        (path / 'file').write_bytes(b'')
    os.utime(old, (0, 0))
    scratch.remove_abandoned(tmp_path)
    assert os.listdir(tmp_path) == [new.name]
    with files.atomic_file(tmp_path / 'x') as file:
        file.write(b'1')
    assert (tmp_path / 'x').read_bytes() == b'1'


def test_writers_survive_eager_cleaners(tmp_path):
    """A cleaner that comes between the creation of a file and its lock removes it; the writer makes another."""
    done = threading.Event()

    def clean():
        while not done.is_set():
            scratch.remove_abandoned(tmp_path)

    cleaners = [threading.Thread(target=clean) for _ in range(3)]
    for cleaner in cleaners:
        cleaner.start()
    try:
        for index in range(300):
            with files.atomic_file(tmp_path / 'x') as file:
                file.write(b'%d' % index)
            with scratch.partial_of(tmp_path / 'folder', is_folder=True) as folder:
                (folder / 'file').write_bytes(b'')
    finally:
        done.set()
        for cleaner in cleaners:
            cleaner.join()
    assert (tmp_path / 'x').read_bytes() == b'299'
    assert os.listdir(tmp_path) == ['x']
