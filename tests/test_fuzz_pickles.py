"""The attacks of scripts/fuzz_pickles.py and a few hundred of its mutations; the script itself runs thousands."""

import os
import random
import re
import sys

import pytest

from dataset_conversion.array_datasets import load_plain_pickle
from network_files.errors import NetworkPickleError
from network_files.reading import load_network_pkl
from scripts.fuzz_pickles import check_valid_files, valid_files
from scripts.fuzzing.mutations import KINDS, mutations_for
from scripts.fuzzing.pickle_attacks import attacks, hidden_calls, odd_numbers
from scripts.fuzzing.sandbox import FORBIDDEN_EVENTS, OPENED, REFUSED, Sandbox, Watch

ATTACKS = attacks()


@pytest.fixture(scope='module')
def watch():
    return Watch()


@pytest.fixture(scope='module')
def sandbox(watch):
    return Sandbox(load_network_pkl, NetworkPickleError, watch)


@pytest.fixture(scope='module')
def files(sandbox, tmp_path_factory):
    files = valid_files(tmp_path_factory.mktemp('files'))
    check_valid_files(files, sandbox)  # also imports every module that the reader imports late
    return files


def test_valid_files_open(files, sandbox):
    assert {name: sandbox.try_here(content) for name, content in files.items()} == dict.fromkeys(files, 'opened')


@pytest.mark.parametrize('name', ATTACKS)
def test_attack_is_refused(name, files, sandbox, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome, _ = sandbox.try_in_process(ATTACKS[name])  # also checks the memory that it uses
    assert outcome == 'refused'
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', [*hidden_calls(), *odd_numbers()])
def test_attack_on_the_reader_of_cifar10(name, watch):
    sandbox = Sandbox(lambda f: load_plain_pickle(f.read(), 'batch'), ValueError, watch)
    outcome, _ = sandbox.try_in_process(ATTACKS[name])
    assert outcome in (OPENED, REFUSED)  # most are plain data for this reader if their names are allowed


def test_mutations_open_or_are_refused(files, sandbox):
    rng = random.Random(1)
    faults = []
    for index in range(300):
        name = list(files)[index % len(files)]
        content = rng.choice(mutations_for(name))(files[name], rng, list(files.values()))
        outcome = sandbox.try_here(content)
        if outcome not in ('opened', 'refused'):
            faults.append((name, index, outcome))
    assert faults == []


def test_every_kind_of_mutation_is_chosen(files):
    chosen = {KINDS[mutate] for name in files for mutate in mutations_for(name)}
    assert chosen == {'mutated bytes', 'mutated instructions', 'shared descriptions', 'odd numbers', 'class names'}


@pytest.mark.parametrize('kind', ['shared descriptions', 'odd numbers', 'class names'])
def test_mutations_of_a_kind_change_files_of_every_format(kind, files):
    rng = random.Random(1)
    for name, content in files.items():
        for mutate in {mutate for mutate in mutations_for(name) if KINDS[mutate] == kind}:
            changed = [mutate(content, rng, list(files.values())) for _ in range(5)]
            assert any(new != content for new in changed), name


# ---------------------------------------------------------------------------------------------------------------------
# The sandbox detects a reader that breaks its rules


def test_forbidden_events_are_detected(watch):
    watch.events.clear()
    watch.active = True
    try:
        with pytest.raises(PermissionError):
            eval(compile('1 + 1', '<test>', 'eval'))
    finally:
        watch.active = False
    assert watch.events[0].startswith('compile')
    assert FORBIDDEN_EVENTS.match('os.system') and FORBIDDEN_EVENTS.match('open')


def test_a_forbidden_event_is_a_fault_even_if_the_reader_handles_the_error(watch):
    def open_a_file(f):
        try:
            open(os.devnull).close()
        except PermissionError:
            raise NetworkPickleError('refused') from None

    assert Sandbox(open_a_file, NetworkPickleError, watch).try_here(b'').startswith('FAULT open')


def take_memory(f):
    bytearray(b'x') * (600 * 2**20)
    raise NetworkPickleError('refused, but too late')


def test_memory_is_detected(watch):
    outcome, memory_mib = Sandbox(take_memory, NetworkPickleError, watch).try_in_process(b'')
    # The system may reclaim some pages that were in use before.
    assert outcome == f'FAULT {memory_mib:.0f} MiB of memory, more than 400' and 500 < memory_mib < 700


def test_memory_that_was_freed_before_is_detected(run_script, tmp_path):
    """Commands configure the allocator to keep freed memory (`dnnlib.machine`); a reader may reuse it."""
    (tmp_path / 'probe.py').write_text(
        'from dnnlib.machine import keep_freed_memory\n'
        'from scripts.fuzzing.sandbox import Sandbox, Watch\n'
        'keep_freed_memory()\n'
        "freed = bytearray(b'x') * (500 * 2**20)\n"
        'del freed\n'
        "sandbox = Sandbox(lambda f: bytearray(b'x') * (600 * 2**20), ValueError, Watch())\n"
        "print(sandbox.try_in_process(b'')[0])\n"
    )
    result = run_script(tmp_path / 'probe.py')
    memory = re.fullmatch(r'FAULT (\d+) MiB of memory, more than 400\n', result.stdout)
    assert memory is not None and 500 < int(memory[1]) < 700, result.stdout + result.stderr


def test_the_end_of_the_process_is_detected(watch):
    sandbox = Sandbox(lambda f: os._exit(3), NetworkPickleError, watch)
    assert sandbox.try_in_process(b'')[0] == 'FAULT its process ended'


def test_a_reader_that_hangs_is_detected(watch):
    sandbox = Sandbox(lambda f: [None for _ in iter(int, 1)], NetworkPickleError, watch, limit_sec=0.2)
    assert sandbox.try_here(b'') == 'FAULT more than 0.2 s'


def test_script(run_script):
    result = run_script('scripts/fuzz_pickles.py', '--attacks=0', '--count=30', '--failures=kept')
    assert result.returncode == 0, result.stdout + result.stderr
    assert sum(map(int, re.findall(r'(\d+) files', result.stdout))) == 30 and 'no faults' in result.stdout
    assert sys.platform != 'linux' or 'memory at most' in result.stdout
