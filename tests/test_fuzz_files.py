"""The campaign of scripts/fuzz_files.py: a few hundred mutations, and readers that break its rules."""

import os
import time

import pytest

from scripts.fuzzing.campaign import Outcomes
from scripts.fuzzing.file_reader import FileReader
from scripts.fuzzing.sandbox import OPENED, Sandbox, Watch
from scripts.fuzzing.workers import Worker, run_side_by_side


def test_script(run_script, tmp_path):
    result = run_script('scripts/fuzz_files.py', '--count=400', f'--failures={tmp_path / "kept"}')
    assert result.returncode == 0, result.stdout + result.stderr
    assert '400 files in' in result.stdout and 'no faults' in result.stdout
    assert not (tmp_path / 'kept').exists()


def test_unknown_reader(run_script):
    result = run_script('scripts/fuzz_files.py', '--count=1', '--only=nonsense')
    assert (
        result.returncode == 2 and "no reader has 'nonsense' in its name. Choose from: image to conv" in result.stderr
    )


def refuse(path):
    raise ValueError('refused')


def end_the_process(path):
    if path.read_bytes() != b'valid':
        os._exit(3)


def hang(path):
    while path.read_bytes() != b'valid':
        time.sleep(0.01)


def hang_without_signals(path):
    import signal

    if path.read_bytes() != b'valid':
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)


def take_memory(path):
    if path.read_bytes() != b'valid':
        bytearray(b'x') * (600 * 2**20)


def read_another_file(path):
    if path.read_bytes() != b'valid':
        open('/etc/hostname').close()


def write_a_file(path):
    if path.read_bytes() != b'valid':
        path.with_name('other').write_bytes(b'')


def fail(path):
    if path.read_bytes() != b'valid':
        raise KeyError('nonsense')


@pytest.mark.parametrize(
    ('read', 'outcome'),
    [
        (end_the_process, 'its process ended'),
        (hang, 'more than 0.5 s'),
        (hang_without_signals, 'more than 1.5 s'),
        (take_memory, 'MiB of memory, more than 400'),
        (read_another_file, "open ('/etc/hostname'"),
        (write_a_file, 'open ('),
        (fail, "KeyError: 'nonsense'"),
    ],
)
def test_a_reader_that_breaks_a_rule_is_found_and_its_file_kept(read, outcome, tmp_path, capfd):
    folder = tmp_path / 'files'
    folder.mkdir()
    reader = FileReader('probe', folder / 'x', {'valid': b'valid'}, [lambda *_: b'hostile'], read, ValueError)
    outcomes = Outcomes(tmp_path / 'kept')
    limit_sec = 0.5 if read in (hang, hang_without_signals) else 10
    run_side_by_side([Worker([reader], folder, 0, 1, seed=0, limit_sec=limit_sec)], 2, outcomes, lambda: None)
    assert len(outcomes.faults) == 2 and all(outcome in fault for fault in outcomes.faults), outcomes.faults
    assert [path.read_bytes() for path in sorted((tmp_path / 'kept').iterdir())] == [b'hostile'] * 2


def test_a_busy_machine_is_not_a_reader_that_hangs():
    pauses = iter([5, 0])
    sandbox = Sandbox(lambda file: time.sleep(next(pauses)), ValueError, Watch(), limit_sec=0.5)
    assert sandbox.try_here(b'') == OPENED


def test_refusals_and_openings_are_counted(tmp_path, capfd):
    folder = tmp_path / 'files'
    folder.mkdir()
    mutations = [lambda data, rng, others: data]
    readers = [
        FileReader('lenient', folder / 'x', {'valid': b'valid'}, mutations, lambda path: None, ValueError),
        FileReader('strict', folder / 'y', {'v': b'v'}, mutations, refuse, ValueError, refused=frozenset({'v'})),
    ]
    outcomes = Outcomes(tmp_path / 'kept')
    workers = [Worker(readers, folder, first, 2, seed=0) for first in range(2)]
    run_side_by_side(workers, 10, outcomes, lambda: None)
    outcomes.print_counts()
    printed = capfd.readouterr().out
    assert outcomes.faults == [] and 'lenient' in printed
    assert '      6 files:      0 refused with one sentence,     6 opened' in printed
    assert '      4 files:      4 refused with one sentence,     0 opened' in printed


def test_readers_that_refuse_valid_files_are_an_error(tmp_path, capfd):
    reader = FileReader('probe', tmp_path / 'x', {'valid': b'valid'}, [lambda *_: b''], refuse, ValueError)
    with pytest.raises(RuntimeError, match='do not accept their valid files'):
        run_side_by_side([Worker([reader], tmp_path, 0, 1, seed=0)], 1, Outcomes(tmp_path / 'kept'), lambda: None)
