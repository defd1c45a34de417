"""The package `ada_gan`: the command with all scripts, the Python interface, a wheel used in an empty environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.small_generators import make_generator, write_networks
from tests.small_runs import write_images

ROOT = Path(__file__).resolve().parent.parent
SMALL = ['--cfg=tiny', '--cbase=32', '--cmax=4', '--batch=8', '--mbstd-group=4', '--device=cpu', '--metrics=none']

# A user's program beside packages that have the names of ours; argument: a network pickle.
USE = """
import pickle, sys
import ada_gan
G = ada_gan.load(sys.argv[1])
import torch, metrics, report
assert (metrics.OWNER, report.OWNER) == ('user', 'user')
with open(sys.argv[1], 'rb') as f:
    plain = pickle.load(f)['G_ema']
z = torch.ones([2, G.z_dim])
images = G(z, None, noise_mode='const')
assert images.shape == (2, 3, *G(z, None).shape[2:]) and torch.equal(images, plain(z, None, noise_mode='const'))
print(*images.shape)
"""


def words(*args):
    return [str(arg) for arg in args]


def run(command, folder, timeout=250, env=None, status=0):
    environment = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    environment |= {'OMP_NUM_THREADS': '1', **(env or {})}
    result = subprocess.run(
        words(*command), cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result


@pytest.fixture
def users_folder(tmp_path):
    """A folder whose modules have the names of ours."""
    for name in ('metrics', 'report', 'train', 'training', 'legacy'):
        (tmp_path / f'{name}.py').write_text("OWNER = 'user'\n")
    (tmp_path / 'use.py').write_text(USE)
    return tmp_path


@pytest.fixture
def network(tmp_path):
    return write_networks(tmp_path, {'network': make_generator()}).network


def in_checkout(*args):
    """The command line in a checkout, run from any folder."""
    return [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy; '
            "sys.argv[0] = 'ada-gan'; runpy.run_module('ada_gan', run_name='__main__')", *args]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# In a checkout


def test_all_scripts_are_subcommands(tmp_path):
    listed = run(in_checkout('--help'), tmp_path).stdout
    scripts = [path.stem for path in ROOT.glob('*.py') if path.stem != 'setup']
    assert len(scripts) >= 9
    for name in [*scripts, 'posthoc_ema', 'compare_methods']:
        assert f'\n  {name.replace("_", "-")} ' in listed


def test_help_names_the_command(tmp_path):
    text = run(in_checkout('style_mixing', '--help'), tmp_path).stdout
    assert 'Usage: ada-gan style-mixing [OPTIONS]' in text
    assert 'ada-gan style-mixing --network=' in text and 'python style_mixing.py' not in text


def test_usage_errors(tmp_path):
    assert "No such command 'trian'" in run(in_checkout('trian'), tmp_path, status=2).stderr
    missing = run(in_checkout('generate', '--network=no.pkl', '--seeds=1', '--outdir=out'), tmp_path, status=2)
    assert 'no.pkl' in missing.stderr and 'Traceback' not in missing.stderr
    assert 'bash, zsh, fish' in run(in_checkout('completion'), tmp_path, env={'SHELL': '/bin/ksh'}, status=2).stderr


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_completion_scripts(tmp_path, shell):
    assert '_ADA_GAN_COMPLETE' in run(in_checkout('completion', shell), tmp_path).stdout


def test_completion(tmp_path):
    def complete(line):
        env = {'_ADA_GAN_COMPLETE': 'bash_complete', 'COMP_WORDS': line, 'COMP_CWORD': str(line.count(' '))}
        return [entry.split(',')[1] for entry in run(in_checkout(), tmp_path, env=env).stdout.split()]

    assert complete('ada-gan dataset') == ['dataset-tool']
    assert set(complete('ada-gan generate --tr')) >= {'--trunc', '--translate', '--trust-pickle'}


def test_load(users_folder, network):
    env = {'PYTHONPATH': str(ROOT)}
    assert run([sys.executable, 'use.py', network], users_folder, env=env).stdout == '2 3 16 16\n'


def test_load_keys(network, tmp_path):
    import ada_gan

    with pytest.raises(ValueError, match="key='H': must be one of"):
        ada_gan.load(network, key='H')
    with pytest.raises(ValueError, match="no network 'D'"):
        ada_gan.load(network, key='D')
    assert next(ada_gan.load(network, device=torch.device('cpu')).parameters()).device.type == 'cpu'


def test_another_package_of_the_same_name(users_folder, network):
    program = f'import training, ada_gan\nada_gan.load({str(network)!r})'
    result = run([sys.executable, '-c', program], users_folder, env={'PYTHONPATH': str(ROOT)}, status=1)
    assert "ImportError: another package named 'training' was imported before, from" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Installed


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The folder of the programs of a new environment, into which a wheel and its dependencies were installed."""
    folder = tmp_path_factory.mktemp('installed')
    ignored = shutil.ignore_patterns('.*', 'tests', '__pycache__', 'build', 'out', 'runs', 'datasets', '*.egg-info')
    shutil.copytree(ROOT, folder / 'source', ignore=ignored)
    run([sys.executable, '-m', 'venv', folder / 'venv'], folder)
    programs = folder / 'venv' / ('Scripts' if os.name == 'nt' else 'bin')
    pip = [programs / 'python', '-m', 'pip', '--disable-pip-version-check', 'install', '--quiet']
    version = torch.__version__.split('+')[0]  # the one that is tested, of the build that pip is configured for
    run([programs / 'python', '-m', 'pip', 'wheel', '--quiet', '--no-deps', '-w', folder, folder / 'source'], folder)
    (wheel,) = folder.glob('ada_gan-*.whl')
    run([*pip, wheel, f'torch=={version}'], folder, timeout=1500)
    return programs


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_names_of_a_wheel(installed):
    program = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    packages = Path(run([installed / 'python', '-c', program], installed).stdout.strip())
    assert not {path.stem for path in ROOT.glob('*.py')} & {path.stem for path in packages.glob('*.py')}
    ours = {path.parent.name for path in ROOT.glob('*/__init__.py')} - {'ada_gan'}
    assert 'metrics' in ours and not ours & {path.name for path in packages.iterdir()}
    tree = packages / 'ada_gan' / '_tree'
    assert (tree / 'torch_utils' / 'ops' / 'cpu_kernels.cpp').is_file()
    suffixes = ('.cpp', '.css', '.cu', '.cuh', '.h', '.html', '.js')
    for path in (path for package in ours for path in (ROOT / package).rglob('*') if path.suffix in suffixes):
        assert (tree / path.relative_to(ROOT)).is_file(), path
    assert not (tree / 'setup.py').exists() and not (tree / 'tests').exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_use_of_a_wheel(installed, users_folder):
    """A user's session: dataset, training in two processes, images, the network in a program, an error."""
    write_images(users_folder / 'images', 24)
    command = installed / 'ada-gan'
    run([command, 'dataset-tool', '--source=images', '--dest=data.zip'], users_folder)
    options = ['--data=data.zip', '--outdir=runs', '--kimg=0.032', '--tick=1', '--snap=1', *SMALL]
    run([installed / 'python', '-m', 'ada_gan', 'train', '--gpus=2', '--workers=1', *options], users_folder)
    (network,) = users_folder.glob('runs/00000-*/network-snapshot-000000.pkl')
    run([command, 'report', network.parent], users_folder)
    run([command, 'generate', f'--network={network.parent}', '--seeds=0-2', '--outdir=out'], users_folder)
    assert len(list((users_folder / 'out').glob('seed*.png'))) == 3
    assert run([installed / 'python', 'use.py', network], users_folder).stdout == '2 3 8 8\n'
    error = run([command, 'generate', '--network=use.py', '--seeds=1', '--outdir=out'], users_folder, status=2).stderr
    assert 'use.py is not a network pickle' in error and 'Traceback' not in error


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_with_a_wheel(installed, users_folder):
    write_images(users_folder / 'images', 24)
    options = ['--data=images', '--outdir=runs', '--kimg=0.016', '--tick=1', '--snap=1', '--workers=1', *SMALL]
    launcher = [installed / 'torchrun', '--standalone', '--nproc-per-node=2', '-m', 'ada_gan', 'train']
    run([*launcher, *options], users_folder)
    assert len(list(users_folder.glob('runs/00000-*/network-snapshot-000000.pkl'))) == 1
