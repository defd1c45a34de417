"""scripts/check_versions.py: what it asks for, what it counts, and the table that it writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts import check_versions

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = '# Title\n\n<!-- versions begin -->\n\n<!-- versions end -->\n\nMore.\n'


def combination(tmp_path, python, tests, torch='2.13.0+cpu'):
    cells = {'Python': python, 'PyTorch': torch, 'other packages': 'oldest', 'tests': tests, 'date': '2026-01-01'}
    return check_versions.Combination(python, torch, 'lowest-direct', tmp_path, cells)


def test_table(tmp_path):
    """Rows of the same combination are replaced, others kept, in the order of versions."""
    document = tmp_path / 'a.md'
    document.write_text(DOCUMENT)
    for python, tests in [('3.11.7', '1 passed, 1 failed'), ('3.9.1', '3 passed'), ('3.11.7', '2 passed')]:
        check_versions.write_row(str(document), combination(tmp_path, python, tests))
    lines = document.read_text().splitlines()
    rows = [line for line in lines if line.startswith('|')]
    assert (
        rows[0] == '| ' + ' | '.join(check_versions.HEADINGS) + ' |'
        and rows[1].count('---') == len(rows[0].split('|')) - 2
    )
    assert [row.split('|')[1].strip() for row in rows[2:]] == ['3.9.1', '3.11.7']
    assert '2 passed' in rows[3] and '1 failed' not in document.read_text()
    assert lines[0] == '# Title' and lines[-1] == 'More.'


@pytest.mark.parametrize(
    'output, counts',
    [
        ('...\n12 passed, 1 skipped in 3.20s', '12 passed, 1 skipped'),
        ('F.\n1 failed, 2 passed, 3 errors in 70.20s (0:01:10)\nexit status 1', '1 failed, 2 passed, 3 errors'),
        ('E  no module', None),
        ('', None),
    ],
)  # fmt: skip
def test_counts(output, counts):
    assert check_versions.outcome_of_tests(output) == counts


def test_failing_steps(tmp_path, capsys):
    """A failure is counted, and shown with the end of its output."""
    tried = combination(tmp_path, '3.11.7', '')
    program = 'import sys; print("first"); print("2 failed, 3 passed in 1.00s"); sys.exit(3)'
    assert tried.step('tests', 'tests', [sys.executable, '-c', program]) is None
    assert tried.cells['tests'] == '2 failed, 3 passed' and tried.failures == ['tests']
    assert 'exit status 3' in capsys.readouterr().out
    assert tried.step('session', 'session', [tmp_path / 'missing']) is None and tried.cells['session'] == 'failed'
    assert tried.step('fine', 'fine', [sys.executable, '-c', 'print("complete")']) == 'complete\n'
    assert tried.cells['fine'] == 'complete' and tried.failures == ['tests', 'session']


def test_usage_errors(tmp_path, monkeypatch):
    (tmp_path / 'plain.md').write_text('# Title\n')
    program = tmp_path / 'uv'
    monkeypatch.setattr(check_versions, 'find_uv', lambda: str(program))
    for option, message in [
        (f'--table={tmp_path}/plain.md', 'has no place for the table'),
        (f'--outdir={tmp_path}', 'not empty'),
    ]:
        result = CliRunner().invoke(check_versions.main, ['--torch=none', option])
        assert result.exit_code == 2 and message in result.stderr
    result = CliRunner().invoke(check_versions.main, ['--torch=newest'])
    assert result.exit_code == 2 and "'newest'" in result.stderr


def test_without_uv(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'python'))
    result = CliRunner().invoke(check_versions.main, ['--torch=none'])
    assert result.exit_code == 1 and 'pip install uv' in result.stderr


def test_listed_tests_exist():
    for listed in (*check_versions.TESTS, *check_versions.TESTS_WITHOUT_TORCH):
        path, _, name = listed.removeprefix('--deselect=').partition('::')
        assert (ROOT / path).exists(), path
        assert not name or name in (ROOT / path).read_text(), listed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_environment(tmp_path):
    """Without PyTorch, for this Python: an installation, a session and a few tests."""
    document = tmp_path / 'a.md'
    document.write_text(DOCUMENT)
    subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'tools'], check=True)
    programs = tmp_path / 'tools' / ('Scripts' if os.name == 'nt' else 'bin')
    subprocess.run([programs / 'python', '-m', 'pip', 'install', '--quiet', 'uv'], check=True)
    options = ['--torch=none', '--resolution=highest', '--tests=tests/plain_pickle', f'--table={document}']
    environment = {**os.environ, 'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}'}
    command = [sys.executable, ROOT / 'scripts' / 'check_versions.py', f'--python={sys.executable}', *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'dataset only' in document.read_text() and '25 passed' in document.read_text()
