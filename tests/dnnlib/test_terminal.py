"""Text of untrusted files in messages: no control characters, no endless lines, wherever it is printed."""

import subprocess
import sys

import click
import click.testing
import pytest

from dnnlib import cli, log, progress, terminal, text

HOSTILE = '\x1b]0;title\x07\x9b31m\b\r\u202e\u200b\x00\x7f\u2028'
SHOWN = '?]0;title??31m???????'


def test_letters_of_all_scripts_and_emoji_remain():
    for kept in ('Grüße', '日本語　（全角）', 'हिन्दी क्‍ष', '👩‍🚀', 'a\tb\nc', 'a\u202fb'):
        assert text.without_controls(kept) == kept
    assert text.without_controls(HOSTILE) == SHOWN


def test_long_lines_keep_their_beginning_and_end():
    message = f'file.pkl has a class {"x" * 10**6}: choose another.'
    short = text.message_line(message)
    assert len(short) <= text.MAX_LINE and short.startswith('file.pkl has') and short.endswith(': choose another.')
    assert text.message_line('a\nb\r\nc') == 'a b c' and text.message_lines('a\nb') == 'a\nb'


def test_join_excerpts():
    assert text.join_excerpts(['a', '\x1b', 3, 4], limit=3) == 'a, ?, 3 and 1 more'
    assert text.join_excerpts(['x' * 99], length=5) == 'xxxx…'


@pytest.mark.parametrize(
    'fail',
    [
        lambda: text_error(),
        lambda: (_ for _ in ()).throw(click.ClickException(f'{HOSTILE}{"x" * 10**6}')),
        lambda: (_ for _ in ()).throw(cli.usage_error('--x', f'{HOSTILE}{"x" * 10**6}')),
        lambda: (_ for _ in ()).throw(OSError(f'{HOSTILE}{"x" * 10**6}')),
        lambda: open(f'/{HOSTILE[:-4]}'),
    ],
)
def test_errors_of_commands(fail):
    def callback():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        click.echo(HOSTILE)
        click.echo(HOSTILE, err=True)
        fail()

    result = click.testing.CliRunner().invoke(cli.Command('failing', callback=callback), [])
    assert result.exit_code in (1, 2) and result.stderr.splitlines()[-1].startswith('Error: ')
    assert not set(HOSTILE) - set(SHOWN) & set(result.output)
    assert result.stdout == f'{SHOWN}\n' * 2 and len(result.stderr) < 3000


def text_error():
    cli.parse_int_list(HOSTILE * 10_000)


def test_wrong_values_of_options():
    command = cli.Command('command', params=[click.Option(['--size'], type=cli.Size())])
    result = click.testing.CliRunner().invoke(command, [f'--size={"9" * 100_000}{HOSTILE}'])
    assert result.exit_code == 2 and len(result.stderr) < 3000 and not set(HOSTILE) - set(SHOWN) & set(result.output)


@pytest.mark.parametrize('environment', [{}, {'LC_ALL': 'C', 'PYTHONUTF8': '0'}])
def test_tracebacks_and_misconfigured_terminals(environment):
    program = f"""
import click
from dnnlib import cli
@click.command(cls=cli.Command)
@click.option('--kind')
def main(kind):
    raise click.ClickException({HOSTILE!r}) if kind == 'sentence' else RuntimeError({HOSTILE!r})
main()
"""
    for kind in ('sentence', 'bug'):
        result = subprocess.run(
            [sys.executable, '-c', program, f'--kind={kind}'], capture_output=True, env=environment, timeout=60
        )
        assert result.returncode == 1
        assert b'?]0;title' in result.stderr and not set(b'\x1b\x07\x9b\b\r') & set(result.stderr.replace(b'\xe2', b''))


def test_the_log_of_a_run(tmp_path, capsys):
    with log.Logger(tmp_path / 'log.txt', 'w') as logger:
        print(HOSTILE)
        logger.write(f'{HOSTILE}\n')
    assert (tmp_path / 'log.txt').read_text(encoding='utf-8') == f'{SHOWN}\n' * 2
    assert capsys.readouterr().out == f'{SHOWN}\n'


def test_titles_of_progress_bars(monkeypatch):
    bar = progress.progress_bar(10, 'img', f'{HOSTILE}{"x" * 1000}', disable=False)
    try:
        assert not set(HOSTILE) - set(SHOWN) & set(bar.desc) and len(bar.desc) <= 103
    finally:
        bar.close()


def test_bars_reach_the_terminal_itself(capsys):
    before = sys.stdout, sys.stderr
    with terminal.clean_output():
        assert terminal.terminal() is before[1]
        print('\r', file=terminal.terminal(), end='')
        print('\r', file=sys.stderr, end='')
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr().err == '\r?'
