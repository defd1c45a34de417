"""train.py --resume: whole runs from networks of another architecture, the options about them, and mirrored images."""

import json
import os
import re
import shutil

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import dnnlib.cli
import train
from network_files.changes.resolutions import resample
from network_files.reading import open_network
from training.dataset import ImageFolderDataset
from training.run import checkpoint

NAMES = ['cat', 'dog', 'owl']
RUN = [
    '--cfg=tiny',
    '--cbase=512',
    '--cmax=16',
    '--batch=4',
    '--kimg=0.008',
    '--snap=1',
    '--metrics=none',
    '--report=0',
]


def write_images(folder, size=16, mode='RGB', names=NAMES, count=12):
    folder.mkdir()
    rng = np.random.RandomState(size)
    labels = []
    for index in range(count):
        name = f'img{index:08d}.png'
        pixels = rng.randint(0, 255, [size, size, 4]).astype(np.uint8)
        PIL.Image.fromarray(pixels, 'RGBA').convert(mode).save(folder / name)
        labels.append([name, index % len(names)])
    (folder / 'dataset.json').write_text(json.dumps({'labels': labels, 'class_names': names}))
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('transfer')
    write_images(root / 'rgb')
    write_images(root / 'larger', size=32, mode='RGBA', names=['owl', 'cat', 'yak'])
    return root


@pytest.fixture(scope='module')
def call(data):
    def run(*args, dataset='rgb', outdir='runs'):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dnnlib.cli, 'available_devices', lambda: ['cpu'])
            places = [f'--outdir={data / outdir}', f'--data={data / dataset}']
            return click.testing.CliRunner().invoke(train.main, [*places, *RUN, *args], prog_name='train.py')

    return run


@pytest.fixture(scope='module')
def first(call, data):
    """The directory of a finished conditional run."""
    assert call('--cond=1', '--map-depth=3', outdir='first').exit_code == 0
    (run_dir,) = (data / 'first').iterdir()
    return run_dir


def newest(folder):
    return max(folder.iterdir())


def network(run_dir):
    return str(sorted(run_dir.glob('network-*.pkl'))[-1])


def table_of(text):
    """{name: (in the file, in this run)}"""
    rows = re.findall(r'^(\w[\w ]*?)  +(.*?)  +(\S.*)$', text, re.M)
    return {name: (before, after) for name, before, after in rows}


# ---------------------------------------------------------------------------------------------------------------------
# The architecture


def test_the_architecture_is_that_of_the_file(call, first):
    result = call('-n', '--cond=1', '--cfg=stylegan2', f'--resume={network(first)}', '--batch=4')
    config = json.loads(result.stdout)
    assert config['G_kwargs']['z_dim'] == 192 and config['G_kwargs']['mapping_kwargs']['num_layers'] == 3
    assert config['G_kwargs']['synthesis_kwargs']['channel_base'] == 512 == config['D_kwargs']['channel_base']
    assert config['loss_kwargs']['r1_gamma'] == 10  # what is not architecture is that of --cfg
    assert table_of(result.stderr)['Mapping'] == ('3 layers', 'the same')
    for part in ('Generator', 'Images', 'Labels', 'z and w', 'Discriminator', 'Clamp of G'):
        assert table_of(result.stderr)[part][1] == 'the same', part


def test_the_deviations_that_D_compares_are_those_of_the_file(call, first):
    config = json.loads(call('-n', '--cond=1', '--cfg=small-data', f'--resume={network(first)}').stdout)
    assert 'mbstd_num_channels' not in config['D_kwargs']['epilogue_kwargs']
    options = ['--cond=1', '--cfg=small-data', '--arch=preset', f'--resume={network(first)}']
    assert json.loads(call('-n', *options).stdout)['D_kwargs']['epilogue_kwargs']['mbstd_num_channels'] == 8


def test_options_change_it(call, first):
    result = call('-n', '--cond=1', f'--resume={network(first)}', '--cbase=1024', '--cmax=24', '--map-depth=2')
    config = json.loads(result.stdout)
    assert config['D_kwargs']['channel_base'] == 1024 and config['D_kwargs']['cmap_dim'] == 16
    assert table_of(result.stderr)['Channels of G'] == ('512 / resolution, at most 16', '1024 / resolution, at most 24')
    assert table_of(result.stderr)['Mapping'] == ('3 layers', '2 layers')


def test_arch_preset_keeps_to_the_preset(call, first):
    result = call('-n', '--cond=1', '--cfg=tiny-t', '--arch=preset', f'--resume={network(first)}')
    config = json.loads(result.stdout)
    assert config['G_kwargs']['class_name'] == 'training.networks_stylegan3.Generator'
    assert table_of(result.stderr)['Generator'] == ('StyleGAN2', 'StyleGAN3-T')
    assert re.search(r'^G: \d+ of \d+ parameters start from random values: ', result.stderr, re.M)
    assert config['run_dir'].endswith('-resumecustom-archpreset')
    default = json.loads(call('-n', '--cond=1', '--cfg=tiny-t', f'--resume={network(first)}').stdout)
    assert default['G_kwargs']['class_name'] == 'training.networks_stylegan2.Generator'


def test_stylegan3_is_not_trained_like_stylegan2(call, data):
    assert call('--cfg=tiny-t', outdir='third').exit_code == 0
    file = network(newest(data / 'third'))
    config = json.loads(call('-n', '--cfg=stylegan2', f'--resume={file}').stdout)
    assert config['G_kwargs']['num_layers'] == 6 and config['G_reg_interval'] is None
    assert (config['loss_kwargs']['pl_weight'], config['loss_kwargs']['style_mixing_prob']) == (0, 0)


def test_a_run_from_another_size_with_other_channels_and_classes(call, data, first):
    result = call('--cond=1', f'--resume={network(first)}', '--glr=1e-9', '--dlr=1e-9', dataset='larger')
    assert result.exit_code == 0, result.output
    assert '2 of 3 classes are known to the networks by name' in result.output
    resumed = open_network(network(newest(data / 'runs')))
    before = open_network(network(first))['G_ema']
    z = torch.randn(4, 192)
    image = resumed['G_ema'](z, torch.eye(3)[[0] * 4], noise_mode='const')  # owl
    small = before(z, torch.eye(3)[[2] * 4], noise_mode='const')
    assert image.shape == (4, 4, 32, 32) and (image[:, 3] - 1).abs().max() < 0.01
    assert (image[:, :3] - resample(small, 32, 32)).abs().max() < 0.01 * small.abs().max()
    log = (newest(data / 'runs') / 'log.txt').read_text()
    assert 'The images change from 16x16 to 32x32.' in log and 'random values' not in log


# ---------------------------------------------------------------------------------------------------------------------
# Counters and moments


def test_optimizer_and_counters_go_on(call, data, first):
    args = [
        '--cond=1',
        f'--resume={network(first)}',
        '--glr=1e-12',
        '--dlr=1e-12',
        '--resume-optimizer=1',
        '--resume-kimg=0.1',
    ]
    result = call(*args, '--kimg=0.104', '--init-p=0.25')
    assert result.exit_code == 0, result.output
    run_dir = newest(data / 'runs')
    assert re.search(
        r"^G: Adam's moments of (\d+) of \1 parameters are taken from .*training-state", result.output, re.M
    )
    states = [checkpoint.load_newest(checkpoint.RunDir(str(folder)))[1].content for folder in (first, run_dir)]
    assert states[1]['progress']['cur_nimg'] == 104 and states[1]['progress']['batch_idx'] == 26
    steps = [float(state['optimizers']['D']['state'][0]['step']) for state in states]
    assert steps[0] == 3 and steps[1] > steps[0]
    assert network(run_dir).endswith('network-snapshot-000000.pkl') and states[1]['augment_p'] >= 0.2


def test_moments_of_other_shapes_start_fresh(call, data, first):
    result = call('--cond=1', f'--resume={network(first)}', '--resume-optimizer=1', dataset='larger')
    assert result.exit_code == 0, result.output
    taken, total = map(int, re.search(r"^D: Adam's moments of (\d+) of (\d+) parameters", result.output, re.M).groups())
    assert 0 < taken < total


@pytest.mark.parametrize(
    'args, words',
    [
        (['--arch=file'], ['--arch', '--resume=FILE']),
        (['--resume-kimg=3'], ['--resume-kimg', '--resume=FILE']),
        (['--resume-optimizer=1'], ['--resume-optimizer', '--resume=FILE']),
        (['--resume=FILE', '--resume-kimg=0.008'], ['--resume-kimg', 'nothing to train', '--kimg']),
        (['--resume=FILE', '--freezed=8'], ['--freezed', '8 is too large', '7 layers']),
        (['--freezeg=6'], ['--freezeg', '6 is too large', '5 layers']),
        (['--freezem=3'], ['--freezem', '3 is too large', '2 layers']),
        (['--freezee=1'], ['--freezee', '--cond=1']),
        (['--mirror=z'], ['--mirror', "'z'", 'xy']),
        (['--resume=FILE', '--cbase=8'], ['--cbase', '16x16', '16 or more']),
    ],
)
def test_wrong_options(call, first, args, words):
    args = [arg.replace('=FILE', f'={network(first)}') for arg in args]
    result = call('-n', *args)
    assert result.exit_code == 2 and 'Traceback' not in result.output
    for word in words:
        assert word in result.output, word


def test_a_network_without_its_training_state(call, data, first):
    alone = data / 'alone.pkl'
    shutil.copy(network(first), alone)
    result = call('-n', '--cond=1', f'--resume={alone}', '--resume-optimizer=1')
    assert result.exit_code == 2 and 'alone.pkl has none' in result.output and '--keep-states' in result.output


# ---------------------------------------------------------------------------------------------------------------------
# Frozen layers


@pytest.mark.parametrize('cfg', ['tiny', pytest.param('tiny-t', marks=pytest.mark.slow)])
def test_frozen_layers_keep_their_weights(call, data, cfg):
    frozen = ['--freezeg=2', '--freezem=1', '--freezee=1', '--freezed=2']
    result = call('--cond=1', f'--cfg={cfg}', *frozen, '--glr=0.01', outdir=f'frozen-{cfg}')
    assert result.exit_code == 0, result.output
    run_dir = newest(data / f'frozen-{cfg}')
    assert run_dir.name.endswith('-freezed2-freezeg2-freezem1-freezee')
    last = open_network(network(run_dir))
    state = checkpoint.load_newest(checkpoint.RunDir(str(run_dir)))[1].content
    G = last['G']
    changed = {
        name for name, parameter in G.named_parameters() if (parameter - start_of(name, data, cfg)).abs().max() > 1e-6
    }
    synthesis = {'tiny': ['b4.const', 'b4.conv1', 'b4.torgb', 'b8.conv0'], 'tiny-t': ['input', 'L0', 'L1']}[cfg]
    kept = ('mapping.fc0', 'mapping.embed', *(f'synthesis.{name}' for name in synthesis))
    assert not {name for name in changed if name.startswith(kept)}
    assert {name for name, _parameter in G.named_parameters() if not name.startswith(kept)} - changed <= set()
    assert len(state['optimizers']['G']['state']) == len(changed)
    assert last['D'].init_kwargs['block_kwargs']['freeze_layers'] == 2


def start_of(name, data, cfg):
    """Return the initial value of a parameter: that of a run that does not learn."""
    key = f'start-{cfg}'
    if not hasattr(start_of, key):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dnnlib.cli, 'available_devices', lambda: ['cpu'])
            places = [f'--outdir={data / key}', f'--data={data / "rgb"}']
            args = [*places, *RUN, '--cond=1', f'--cfg={cfg}', '--glr=1e-12', '--freezed=2']
            assert click.testing.CliRunner().invoke(train.main, args).exit_code == 0
        setattr(start_of, key, dict(open_network(network(newest(data / key)))['G'].named_parameters()))
    return getattr(start_of, key)[name]


# ---------------------------------------------------------------------------------------------------------------------
# Mirror images


@pytest.mark.parametrize(
    'mirror, flips', [('1', ['', 'x']), ('x', ['', 'x']), ('y', ['', 'y']), ('xy', ['', 'x', 'y', 'xy']), ('0', [''])]
)
def test_mirrored_images(call, data, mirror, flips):
    result = call('-n', f'--mirror={mirror}', '--subset=10')
    config = json.loads(result.stdout)
    kwargs = {key: value for key, value in config['training_set_kwargs'].items() if key != 'class_name'}
    assert kwargs['xflip'] == ('x' in flips) and kwargs.get('yflip', False) == ('y' in flips)
    name = {'1': '-mirror', 'x': '-mirror', 'y': '-mirrory', 'xy': '-mirrorxy', '0': ''}[mirror]
    assert os.path.basename(config['run_dir'])[5:] == f'-rgb-subset10{name}-tiny-kimg0.008-batch4'
    dataset = ImageFolderDataset(**kwargs)
    assert len(dataset) == 10 * len(flips)
    for part, flip in enumerate(flips):
        image, plain = dataset[part * 10 + 3][0], dataset[3][0]
        expected = plain[:, :: -1 if 'y' in flip else 1, :: -1 if 'x' in flip else 1]
        assert np.array_equal(image, expected)
        details = dataset.get_details(part * 10 + 3)
        assert (details.xflip, details.yflip) == ('x' in flip, 'y' in flip)
    dataset.check_shapes()
