"""dnnlib.cli: the behavior that all command lines share."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import click.testing
import pytest

from dnnlib import cli, files

REPOSITORY = Path(cli.__file__).parent.parent


@click.command(cls=cli.Command)
@click.option('--max-images', type=int)
@click.option('--noise_mode', type=click.Choice(['const', 'two_words']))
@click.option('--flag', type=cli.BOOL, default=False)
@click.option('--file', type=cli.PATH)
@click.option('--seeds', type=cli.SeedRange())
@click.option('--number', type=cli.FiniteFloat(min=0, max=1))
@click.option('-n', '--dry-run', is_flag=True)
@cli.device_option()
def command(**values):
    print(values)


def run(*args):
    return click.testing.CliRunner().invoke(command, args)


def value_of(name, *args):
    context = command.make_context('command', list(args))
    return context.params[name]


class TestOptionNames:
    @pytest.mark.parametrize('name', ['--max-images', '--max_images'])
    def test_dash_and_underscore_are_alike(self, name):
        assert value_of('max_images', f'{name}=7') == 7
        assert value_of('max_images', name, '7') == 7

    @pytest.mark.parametrize('name', ['--noise-mode', '--noise_mode'])
    def test_declared_with_underscore(self, name):
        assert value_of('noise_mode', f'{name}=two_words') == 'two_words'

    @pytest.mark.parametrize('name', ['-n', '--dry-run', '--dry_run'])
    def test_flags(self, name):
        assert value_of('dry_run', name) is True

    def test_values_keep_their_underscores(self):
        assert value_of('file', '--file=a_b/c-d_e') == 'a_b/c-d_e'

    def test_unknown_option(self):
        result = run('--max-image-count=3')
        assert result.exit_code == 2
        assert '--max-image-count' in result.output


class TestTypes:
    @pytest.mark.parametrize(
        'text, expected',
        [
            ('1', True),
            ('true', True),
            ('True', True),
            ('0', False),
            ('false', False),
            ('FALSE', False),
        ],
    )
    def test_bool(self, text, expected):
        assert value_of('flag', f'--flag={text}') is expected

    @pytest.mark.parametrize('text', ['2', '', 'maybe', '-1'])
    def test_invalid_bool(self, text):
        result = run(f'--flag={text}')
        assert result.exit_code == 2
        assert "'--flag'" in result.output and repr(text) in result.output

    def test_path(self, monkeypatch):
        monkeypatch.setenv('HOME', '/home/someone')
        assert value_of('file', '--file=~/a') == '/home/someone/a'
        assert value_of('file', '--file=http://host/~user/a') == 'http://host/~user/a'
        assert run('--file=').exit_code == 2

    @pytest.mark.parametrize(
        'text, expected',
        [
            ('7', [7]),
            ('0,1,4-6', [0, 1, 4, 5, 6]),
            ('3-3', [3]),
            (' 1 , 2 - 3', [1, 2, 3]),
            ('5,1', [5, 1]),
        ],
    )
    def test_list(self, text, expected):
        assert cli.parse_int_list(text) == expected
        assert value_of('seeds', f'--seeds={text}') == expected

    @pytest.mark.parametrize('text', ['', 'a', '1,', '-1', '1-2-3', '1.5', '6-4', '0-99999999999'])
    def test_invalid_list(self, text):
        with pytest.raises(ValueError, match='.'):
            cli.parse_int_list(text)
        assert run(f'--seeds={text}').exit_code == 2

    @pytest.mark.parametrize('text', ['nan', 'inf', '-inf', '1.1', '-0.1', 'x'])
    def test_invalid_number(self, text):
        result = run(f'--number={text}')
        assert result.exit_code == 2
        assert "'--number'" in result.output

    def test_help_shows_bounds_if_there_are_any(self):
        @click.command(cls=cli.Command)
        @click.option('--bounded', type=cli.FiniteFloat(min=0, max=1), help='A')
        @click.option('--free', type=cli.FiniteFloat(), default=2, show_default=True, help='B')
        def numbers(**values):
            pass

        text = click.testing.CliRunner().invoke(numbers, ['--help']).output
        assert '[0<=x<=1]' in text
        assert '[default: 2]' in text


class TestDevice:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        monkeypatch.setattr(cli, 'available_devices', lambda: self.devices)

    devices = ('cuda:0', 'cuda:1', 'cpu')

    @pytest.mark.parametrize(
        'name, expected',
        [
            ('auto', 'cuda'),
            ('cuda', 'cuda'),
            ('cuda:1', 'cuda:1'),
            ('CPU', 'cpu'),
            ('cpu', 'cpu'),
        ],
    )
    def test_available(self, name, expected):
        assert str(cli.resolve_device(name)) == expected

    @pytest.mark.parametrize('devices, expected', [(('mps', 'cpu'), 'mps'), (('cpu',), 'cpu')])
    def test_auto_elsewhere(self, devices, expected):
        self.devices = devices
        assert str(cli.resolve_device('auto')) == expected

    @pytest.mark.parametrize('name', ['cuda:2', 'mps'])
    def test_not_available_says_what_is(self, name):
        with pytest.raises(click.BadParameter, match=f'{name}.*cuda:0, cuda:1, cpu') as caught:
            cli.resolve_device(name)
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize('name', ['gpu', '', 'cuda:', 'cuda:-1', 'xpu'])
    def test_unknown_device(self, name):
        with pytest.raises(click.BadParameter, match='cuda, cuda:N, mps or cpu'):
            cli.resolve_device(name)


def test_this_machine_has_a_cpu():
    assert cli.available_devices()[-1] == 'cpu'
    assert cli.resolve_device('cpu').type == 'cpu'


class TestErrors:
    """Which exceptions of a command end as a sentence, and which keep their traceback."""

    def outcome(self, function):
        failing = cli.Command('failing', callback=function)
        return click.testing.CliRunner().invoke(failing, [])

    def test_value_error_of_this_project(self):
        result = self.outcome(lambda: cli.parse_int_list('x'))
        assert result.exit_code == 1
        assert result.output.startswith("Error: expected comma-separated integers and ranges such as 0,1,4-6, got 'x'")

    def test_value_error_of_a_library_is_a_bug(self):
        import ast

        result = self.outcome(lambda: ast.literal_eval('f(x)'))
        assert isinstance(result.exception, ValueError)
        assert 'Error:' not in result.output

    def test_os_error(self, tmp_path):
        result = self.outcome(lambda: open(tmp_path / 'nothing'))
        assert result.exit_code == 1
        assert result.output == f'Error: {tmp_path}/nothing: No such file or directory\n'

    def test_limits_of_the_shell(self, tmp_path):
        resource = pytest.importorskip('resource')
        handles, sizes = resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE
        old = resource.getrlimit(handles), resource.getrlimit(sizes)

        def open_many():
            resource.setrlimit(handles, (50, old[0][1]))
            with contextlib.ExitStack() as stack:
                for _ in range(60):
                    stack.enter_context(open(os.devnull))

        def write_much():
            resource.setrlimit(sizes, (1000, old[1][1]))
            (tmp_path / 'x').write_bytes(bytes(2000))

        def write_much_in_one_step():
            resource.setrlimit(sizes, (1000, old[1][1]))
            with files.atomic_file(tmp_path / 'y') as file:
                file.write(bytes(2000))

        outputs = []
        for function in (open_many, write_much, write_much_in_one_step):
            try:
                outputs.append(self.outcome(function).output)
            finally:
                resource.setrlimit(handles, old[0])
                resource.setrlimit(sizes, old[1])
        assert outputs[0] == f'Error: {os.devnull}: Too many open files (the limit is 50; raise it with ulimit -n)\n'
        assert outputs[1] == 'Error: File too large (the limit is 1,000 bytes; raise it with ulimit -f)\n'
        assert outputs[2] == f'Error: {tmp_path}/y: {outputs[1].removeprefix("Error: ")}'
        assert os.listdir(tmp_path) == ['x']

    def test_broken_pipe_is_not_silent(self):
        def fail():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        assert self.outcome(fail).output == 'Error: Broken pipe\n'

    def test_os_error_with_a_sentence(self):
        def fail():
            raise OSError('the disk is made of cheese')

        assert self.outcome(fail).output == 'Error: the disk is made of cheese\n'


def test_imports_no_torch():
    code = 'import sys, dnnlib, dnnlib.cli; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, check=False).returncode == 0
