"""studio.py: what it refuses before it serves anything."""

import socket

import click.testing
import pytest

import studio
from tests.small_generators import assert_usage_error, make_generator, write_networks


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'), {'plain': make_generator()}).plain


@pytest.mark.parametrize(
    'options, hint',
    [
        ([], "Missing option '--network'"),
        (['--network=missing.pkl'], 'missing.pkl does not exist'),
        (['--network=EMPTY'], 'no network-snapshot'),
        (['--network=NETWORK', '--port=70000'], '--port'),
        (['--network=NETWORK', '--host=no such host'], "'--host'"),
        (['--network=NETWORK', '--port=TAKEN'], 'cannot be used at 127.0.0.1'),
        (['--network=NETWORK', '--outdir=out.mp4'], "'--outdir'"),
        (['--network=NETWORK', '--device=cpu,abacus'], 'abacus'),
        (['--network=NETWORK', '--directions=missing.safetensors'], 'missing.safetensors does not exist'),
        (['--network=NETWORK', '--detectors=missing'], "'--detectors'"),
        (['--network=NETWORK', '--network-memory=-1'], '--network-memory'),
    ],
)
def test_usage_errors(network, tmp_path, options, hint):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        names = {'NETWORK': network, 'EMPTY': tmp_path, 'TAKEN': taken.getsockname()[1]}
        for name, value in names.items():
            options = [option.replace(f'={name}', f'={value}') for option in options]
        assert_usage_error(click.testing.CliRunner().invoke(studio.main, [*options]), hint)


def test_missing_packages_are_named_with_the_command_that_installs_them(network, monkeypatch):
    monkeypatch.setattr(studio, 'missing_packages', lambda: 'starlette and uvicorn')
    result = click.testing.CliRunner().invoke(studio.main, [f'--network={network}'])
    assert result.exit_code == 1 and 'pip install starlette uvicorn websockets' in result.output
