"""Commands whose terminal is closed, full, gone or unable to show a character: the work is done all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='uses a POSIX shell')
needs_full = pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')

COMMAND = """
import sys, click
from dnnlib import cli, files, log, progress, streams

@click.command(cls=cli.Command)
@click.argument('path')
@click.option('--log', 'log_txt')
@click.option('--fail', is_flag=True)
def main(path, log_txt, fail):
    logger = log.Logger(log_txt) if log_txt else None
    if log_txt:
        streams.tolerate_lost_output()
    if fail:
        raise click.ClickException(f'no, not {path}')
    print('Grüße ' + 'x' * 100_000)
    click.echo(f'a notice about {path}', err=True)
    with files.atomic_file(path) as file:
        for chunk in progress.track([b'1'] * 20, 20, 'byte'):
            file.write(chunk)
    print(f'Wrote {path}', flush=True)
    click.echo('done → 1')

main()
"""


@pytest.fixture
def run(tmp_path):
    """Function: the rest of a shell command after the program → (status, stdout, stderr)."""

    def run(rest, **env):
        (tmp_path / 'command.py').write_text(COMMAND, encoding='utf-8')
        result = subprocess.run(
            ['bash', '-c', f'set -o pipefail; {sys.executable} command.py {rest}'],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '', **env},
            capture_output=True,
            timeout=60,
        )
        return result.returncode, result.stdout, result.stderr

    return run


@pytest.mark.parametrize(
    'redirection', ['>&-', '2>&-', '<&-', '>&- 2>&- <&-', '| head -c 1', '| true', '2> >(true)', '2>&1 | true']
)
@pytest.mark.parametrize('env', [{}, {'PYTHONUNBUFFERED': '1'}, {'LC_ALL': 'C', 'PYTHONUTF8': '0'}])
def test_stream_that_is_closed_or_whose_reader_leaves(run, tmp_path, redirection, env):
    status, _out, err = run(f'x.bin {redirection}', **env)
    assert status == 0
    assert b'Traceback' not in err and b'Exception' not in err
    assert sorted(os.listdir(tmp_path)) == ['command.py', 'x.bin']
    assert (tmp_path / 'x.bin').read_bytes() == b'1' * 20


@needs_full
@pytest.mark.parametrize('env', [{}, {'PYTHONUNBUFFERED': '1'}, {'LC_ALL': 'C', 'PYTHONUTF8': '0'}])
def test_full_disk_behind_a_stream(run, tmp_path, env):
    status, _out, err = run('x.bin >/dev/full', **env)
    assert (status, err.splitlines()[1:]) == (1, [b'Error: standard output: No space left on device'])
    assert (tmp_path / 'x.bin').read_bytes() == b'1' * 20
    assert run('x.bin 2>/dev/full', **env)[0] == 0  # messages only
    assert run('x.bin --fail >/dev/full 2>&1', **env)[0] == 1
    assert run('--nonsense >/dev/full', **env)[0] == 2
    assert run('--help >/dev/full', **env)[0] == 1


@needs_full
def test_with_a_log_nothing_is_lost(run, tmp_path):
    assert run('x.bin --log=log.txt >/dev/full 2>&1') == (0, b'', b'')
    assert (tmp_path / 'log.txt').read_text(encoding='utf-8').endswith('Wrote x.bin\ndone → 1\n')
    assert run('y.bin --log=log2.txt >&- 2>&-') == (0, b'', b'')
    assert (tmp_path / 'log2.txt').read_text(encoding='utf-8').endswith('Wrote y.bin\ndone → 1\n')


@pytest.mark.parametrize('locale, arrow', [('C', '→'), ('C.UTF-8', '→'), ('en_US.ISO-8859-1', '\\u2192')])
def test_names_and_characters_that_cannot_be_shown(run, tmp_path, locale, arrow):
    env = {'LC_ALL': locale, 'PYTHONUTF8': '0'}
    if 'ISO' in locale:
        env = {'PYTHONIOENCODING': 'latin1'}
    status, out, err = run(r"--log=log.txt $'caf\xe9'", **env)
    assert status == 0 and err == b'a notice about caf\\xe9\n'
    assert out.splitlines()[1:] == [b'Wrote caf\\xe9', f'done {arrow} 1'.encode()]
    assert b'caf\xe9' in os.listdir(os.fsencode(tmp_path))
    assert 'Wrote caf\\xe9\ndone → 1\n' in (tmp_path / 'log.txt').read_text(encoding='utf-8')
    status, out, err = run(r"--fail $'caf\xe9'", **env)
    assert (status, out, err) == (1, b'', b'Error: no, not caf\\xe9\n')


def test_files_never_get_the_number_of_a_closed_stream(tmp_path):
    """Else the output of a child process would go into the file."""
    code = (
        'import os, subprocess, sys; from dnnlib import streams; streams.protect_standard_streams();'
        'file = open("data.bin", "wb"); print("text"); sys.stderr.write("text"); subprocess.run(["echo", "text"]);'
        'os.system("echo text >&2"); assert sys.stdin.read() == ""; assert file.fileno() > 2'
    )
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = ['bash', '-c', f"{sys.executable} -c '{code}' <&- >&- 2>&-"]
    assert subprocess.run(command, cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / 'data.bin').read_bytes() == b''
