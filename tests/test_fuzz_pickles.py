"""The attacks and a few hundred mutations of scripts/fuzz_pickles.py; the script itself runs thousands."""

import importlib.util
import io
import os
import random
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SPEC = importlib.util.spec_from_file_location('fuzz_pickles', ROOT / 'scripts' / 'fuzz_pickles.py')
fuzz_pickles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz_pickles)

ATTACKS = fuzz_pickles.attacks()


@pytest.fixture(scope='module')
def watch():
    return fuzz_pickles.Watch()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    files = fuzz_pickles.originals(tmp_path_factory.mktemp('files'))
    for content in files.values():
        fuzz_pickles.reading.load_network_pkl(io.BytesIO(content))  # whatever is imported late, is imported now
    return files


def test_originals_open(files, watch):
    assert {name: fuzz_pickles.try_to_load(content, watch, 20) for name, content in files.items()} == dict.fromkeys(
        files, 'opened'
    )


@pytest.mark.parametrize('name', ATTACKS)
def test_attack_is_refused(name, files, watch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome, _ = fuzz_pickles.try_alone(ATTACKS[name], watch, 20)  # which also looks at the memory it takes
    assert outcome == 'refused'
    assert list(tmp_path.iterdir()) == []


def test_mutations_open_or_are_refused(files, watch):
    rng = random.Random(1)
    faults = []
    for index in range(300):
        name = list(files)[index % len(files)]
        content = rng.choice(fuzz_pickles.mutations_for(name))(files[name], rng, list(files.values()))
        outcome = fuzz_pickles.try_to_load(content, watch, 20)
        if outcome not in ('opened', 'refused'):
            faults.append((name, index, outcome))
    assert faults == []


def test_the_watch_sees_what_is_forbidden(watch):
    """A reader that runs code must not pass for a safe one."""
    watch.events.clear()
    watch.active = True
    try:
        with pytest.raises(PermissionError):
            eval(compile('1 + 1', '<test>', 'eval'))
    finally:
        watch.active = False
    assert watch.events[0].startswith('compile')
    assert fuzz_pickles.FORBIDDEN_EVENTS.match('os.system') and fuzz_pickles.FORBIDDEN_EVENTS.match('open')


def test_the_watch_sees_memory_and_ends(monkeypatch, watch):
    def take_memory(f):
        bytearray(b'x') * (600 * 2**20)
        raise fuzz_pickles.reading.NetworkPickleError('refused, but too late')

    monkeypatch.setattr(fuzz_pickles.reading, 'load_network_pkl', take_memory)
    outcome, taken_mib = fuzz_pickles.try_alone(b'', watch, 20)
    # The system may take back some pages of what was there before.
    assert outcome == f'FAULT {taken_mib:.0f} MiB of memory, more than 400' and 500 < taken_mib < 700
    monkeypatch.setattr(fuzz_pickles.reading, 'load_network_pkl', lambda f: os._exit(3))
    assert fuzz_pickles.try_alone(b'', watch, 20)[0] == 'FAULT its process ended'


def test_the_timer_sees_what_hangs(monkeypatch, watch):
    monkeypatch.setattr(fuzz_pickles.reading, 'load_network_pkl', lambda f: [None for _ in iter(int, 1)])
    assert fuzz_pickles.try_to_load(b'', watch, 0.2) == 'FAULT more than 0.2 s'


def test_script(run_script):
    result = run_script('scripts/fuzz_pickles.py', '--attacks=0', '--count=30', '--failures=kept')
    assert result.returncode == 0, result.stdout + result.stderr
    assert sum(map(int, re.findall(r'(\d+) files', result.stdout))) == 30 and 'no faults' in result.stdout
    assert sys.platform != 'linux' or 'memory at most' in result.stdout
