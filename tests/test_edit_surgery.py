"""edit.py surgery: networks of another size, other channels or classes, written as files."""

import copy

import click.testing
import pytest
import torch

import edit
import generate
import legacy
from network_files.changes.resolutions import resample
from tests.small_generators import NAMES, make_generator, make_stylegan3_generator
from training.networks_stylegan2 import Discriminator


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('surgery')
    G = make_generator(c_dim=3, img_channels=1)
    options = dict(channel_base=256, channel_max=16, mapping_kwargs={'num_layers': 2})
    D = Discriminator(3, 16, 1, **options).eval().requires_grad_(False)
    data = {'G': copy.deepcopy(G), 'D': D, 'G_ema': G, 'augment_pipe': None, 'training_set_kwargs': {'path': 'x.zip'}}
    legacy.save_network_pkl({**data, 'class_names': NAMES}, root / 'net.pkl')
    legacy.save_network_pkl({'G_ema': make_stylegan3_generator()}, root / 'third.pkl')
    legacy.save_network_pkl({'D': D, 'G_ema': None}, root / 'only_d.pkl')
    return root


def surgery(folder, *args, network='net.pkl', dest='out.pkl'):
    arguments = ['surgery', f'--network={folder / network}', f'--dest={folder / dest}', *args]
    return click.testing.CliRunner().invoke(edit.main, arguments, prog_name='edit.py')


@pytest.mark.parametrize('dest', ['out.pkl', 'out.safetensors'])
def test_size_channels_and_classes(folder, dest):
    result = surgery(folder, '--resolution=32x32', '--channels=rgba', '--classes=dog,new', dest=dest)
    assert result.exit_code == 0, result.output
    assert '1 of 2 classes are known' in result.output and 'Wrote' in result.output
    before, after = (legacy.open_network(str(folder / name)) for name in ('net.pkl', dest))
    assert after['class_names'] == ['dog', 'new'] and after['training_set_kwargs'] is None
    assert after['D'].c_dim == 2 and after['D'].img_channels == 4 and after['D'].img_resolution == 32
    z = torch.randn(3, 8)
    image = after['G_ema'](z, torch.eye(2)[[0] * 3], noise_mode='const')
    old = resample(before['G_ema'](z, torch.eye(3)[[1] * 3], noise_mode='const'), 32, 32)
    assert (image[:, :3] - old).abs().max() < 0.01 * old.abs().max() and (image[:, 3] - 1).abs().max() < 0.01
    images = folder / f'images-{dest.split(".")[1]}'
    args = [f'--network={folder / dest}', '--seeds=0', '--class=dog', f'--outdir={images}', '--device=cpu']
    assert click.testing.CliRunner().invoke(generate.main, args).exit_code == 0
    assert (images / 'seed0000.png').is_file()


def test_numbers_of_classes_keep_the_first_ones(folder):
    assert surgery(folder, '--classes=2').exit_code == 0
    assert legacy.open_network(str(folder / 'out.pkl'))['class_names'] == NAMES[:2]
    assert surgery(folder, '--classes=0').exit_code == 0
    data = legacy.open_network(str(folder / 'out.pkl'))
    assert data['G_ema'].c_dim == data['D'].c_dim == 0 and 'class_names' not in data


def test_a_generator_of_stylegan3_alone(folder):
    result = surgery(folder, '--classes=4', '--channels=gray', '--cmax=12', network='third.pkl')
    assert result.exit_code == 0, result.output
    data = legacy.open_network(str(folder / 'out.pkl'))
    assert data['G_ema'].c_dim == 4 and data['G_ema'].img_channels == 1
    old = legacy.open_network(str(folder / 'third.pkl'))['G_ema']
    z = torch.randn(2, 8)
    luma = torch.einsum('c,nchw->nhw', torch.tensor([0.299, 0.587, 0.114]), old(z, None))
    image = data['G_ema'](z, torch.eye(4)[[3, 1]])[:, 0]
    assert (image - luma).abs().max() < 0.01 * luma.abs().max()


@pytest.mark.parametrize(
    'args, network, words',
    [
        ([], 'net.pkl', ['Nothing to change', '--resolution']),
        (['--resolution=33x32'], 'net.pkl', ['--resolution', '33x32', '32x32']),
        (['--resolution=48x32'], 'third.pkl', ['--resolution', 'whole number']),
        (['--cbase=32'], 'net.pkl', ['--cbase', '32 would remove channels', '128 or more']),
        (['--cmax=4'], 'net.pkl', ['--cmax', '4 would remove channels', '8 or more']),
        (['--classes=cat,cat'], 'net.pkl', ['--classes', 'same name twice']),
        (['--classes=999999999'], 'net.pkl', ['--classes', '100,000']),
        (['--channels=cmyk'], 'net.pkl', ['--channels', 'rgba']),
        (['--classes=2'], 'only_d.pkl', ['--network', 'G_ema']),
        (['--classes=2'], 'gone.pkl', ['--network', 'gone.pkl']),
    ],
)
def test_wrong_calls(folder, args, network, words):
    result = surgery(folder, *args, network=network, dest='wrong.pkl')
    assert result.exit_code == 2 and 'Traceback' not in result.output
    for word in words:
        assert word in result.output, result.output
    assert not (folder / 'wrong.pkl').exists()
