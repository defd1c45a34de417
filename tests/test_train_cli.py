"""The command line of train.py: dry runs, usage errors, and the configuration that reaches the training loop."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import dnnlib.cli
import train
from tests import metric_stand_ins as stand_ins
from training.config import TrainingConfig
from training.networks_stylegan2 import Discriminator, Generator
from training.presets import PRESET_NAMES
from training.run import snapshots

REPOSITORY = Path(train.__file__).parent
NUM_IMAGES = 12


def write_images(folder, resolution, count=NUM_IMAGES, labels=None):
    folder.mkdir(parents=True)
    width, height = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    names = [f'img{index:08d}.png' for index in range(count)]
    for index, name in enumerate(names):
        PIL.Image.fromarray(np.full([height, width, 3], index, dtype=np.uint8)).save(folder / name)
    if labels is not None:
        (folder / 'dataset.json').write_text(json.dumps({'labels': [list(pair) for pair in zip(names, labels)]}))
    return folder


def write_gray(folder):
    folder.mkdir()
    for index in range(NUM_IMAGES):
        PIL.Image.fromarray(np.full([32, 32], index, dtype=np.uint8)).save(folder / f'{index}.png')


def save_networks(path, names):
    """Write a network pickle for 32x32 grayscale images that contains only the named networks."""
    sizes = dict(img_resolution=32, img_channels=1)
    channels = dict(channel_base=32, channel_max=8)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, synthesis_kwargs=channels, **sizes)
    D = Discriminator(c_dim=0, **channels, **sizes)
    modules = dict(G=G, D=D, G_ema=G)
    snapshots.save_network_pickle(path, {name: modules[name] for name in names}, {})


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """Folder of valid and invalid datasets."""
    root = tmp_path_factory.mktemp('data')
    write_images(root / 'good', 32, labels=[index % 3 for index in range(NUM_IMAGES)])
    write_images(root / 'nolabels', 32, count=2)
    write_images(root / 'odd', 22, count=2)
    write_images(root / 'small', 4, count=2)
    write_images(root / 'narrow', (128, 16), count=2)
    (root / 'empty').mkdir()
    (root / 'words.txt').write_text('no images')
    write_images(root / 'mixed', 32, count=2)
    PIL.Image.fromarray(np.zeros([16, 16, 3], dtype=np.uint8)).save(root / 'mixed' / 'img00000001.png')
    write_images(root / 'badlabels', 32, count=2, labels=[0, 'dog'])
    with zipfile.ZipFile(root / 'good.zip', 'w') as archive:
        for path in sorted((root / 'good').iterdir()):
            archive.write(path, path.name)
    save_networks(root / 'gray.pkl', ('G', 'D', 'G_ema'))
    save_networks(root / 'average.pkl', ('G_ema',))
    (root / 'cut.zip').write_bytes((root / 'good.zip').read_bytes()[:1000])
    return root


@pytest.fixture
def call(data, tmp_path, monkeypatch):
    """Run train.py in this process, in an empty folder, on a machine without accelerators and without torchrun."""
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dnnlib.cli, 'available_devices', lambda: ['cpu'])
    monkeypatch.chdir(tmp_path)

    def run(*args, dataset='good.zip', outdir='runs', metrics='none'):
        places = (
            ([f'--outdir={outdir}'] if outdir is not None else [])
            + ([f'--data={data / dataset}'] if dataset is not None else [])
            + ([f'--metrics={metrics}'] if metrics is not None else [])
        )
        return click.testing.CliRunner().invoke(train.main, [*places, *args], prog_name='train.py')

    return run


@pytest.fixture
def launched(monkeypatch):
    """Configurations that reach the training loop, which itself does not run."""
    configs = []

    def launch(config, _snapshot_metrics, resume, _after_snapshot):
        configs.append(config)
        return True

    monkeypatch.setattr('training.training_loop.launch', launch)
    return configs


def options_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class TestDryRun:
    @pytest.mark.parametrize('flag', ['-n', '--dry-run', '--dry_run'])
    def test_prints_everything_and_writes_nothing(self, call, launched, flag, tmp_path):
        result = call(flag, '--cond=1', '--mirror=true', '--cfg=tiny', '--gpus=2')
        config = TrainingConfig.from_json(result.stdout)
        assert config.run_dir == os.path.join('runs', '00000-good-cond-mirror-tiny')
        assert (config.num_gpus, config.device) == (2, 'cpu')
        facts = dict(re.findall(r'^(\w+): +(.*)$', result.stderr, re.M))
        assert facts['Output'] == config.run_dir
        assert facts['Data'].endswith('good.zip')
        assert facts['Images'] == '12 and their mirror images'
        assert facts['Resolution'] == '32x32 RGB'
        assert facts['Labels'] == '3 numbers per image'
        assert facts['Device'] == 'cpu, 2 processes'
        assert facts['Batch'].startswith(f'{config.batch_size} = 2 x {config.batch_gpu} images')
        assert facts['Duration'].startswith(f'{config.total_kimg} kimg')
        assert launched == []
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize('name', PRESET_NAMES)
    def test_presets(self, call, name):
        config = options_of(call('-n', f'--cfg={name}'))
        assert config['run_dir'].endswith('good-auto1' if name == 'auto' else f'good-{name}')

    @pytest.mark.parametrize(
        'dashed, underscored',
        [
            ('--batch-gpu=8', '--batch_gpu=8'),
            ('--map-depth=3', '--map_depth=3'),
            ('--mbstd-group=2', '--mbstd_group=2'),
            ('--allow-tf32=1', '--allow_tf32=1'),
        ],
    )
    def test_dash_and_underscore_are_alike(self, call, dashed, underscored):
        plain = options_of(call('-n'))
        assert options_of(call('-n', dashed)) == options_of(call('-n', underscored)) != plain

    def test_every_option(self, call, tmp_path, monkeypatch):
        monkeypatch.setattr('train.open_source', lambda _options: None)
        (tmp_path / 'net.pkl').write_bytes(b'.')
        config = options_of(
            call(
                '-n',
                '--snap=7',
                '--tick=2',
                '--desc=hello',
                '--cond=1',
                '--subset=10',
                '--mirror=1',
                '--cfg=paper256',
                '--gamma=2.5',
                '--kimg=30',
                '--batch=16',
                '--batch-gpu=4',
                '--cbase=1024',
                '--cmax=64',
                '--glr=0.001',
                '--dlr=0.002',
                '--map-depth=3',
                '--mbstd-group=2',
                '--aug=fixed',
                '--p=0.25',
                '--augpipe=bgcf',
                '--resume=net.pkl',
                '--freezed=1',
                '--seed=3',
                '--gpus=2',
                '--device=cpu',
                '--workers=0',
                '--fp32=1',
                '--nhwc=1',
                '--nobench=1',
                '--allow-tf32=1',
            )
        )
        assert os.path.basename(config['run_dir']) == (
            '00000-good-cond-subset10-mirror-paper256-gamma2.5-kimg30-batch16-fixed-p0.25-bgcf-resumecustom-freezed1'
            '-hello'
        )
        assert config['training_set_kwargs']['random_seed'] == config['random_seed'] == 3
        assert config['augment_kwargs']['imgfilter'] == 1
        assert (config['batch_size'], config['batch_gpu'], config['num_gpus']) == (16, 4, 2)

    def test_validation(self, call, data):
        result = call('-n', '--cfg=tiny', '--validation=3')
        config = options_of(result)
        assert config['validation_set_kwargs']['max_size'] == 3 and config['training_set_kwargs']['max_size'] == 9
        assert re.search(r'^Validation: +3 images held out$', result.stderr, re.M)
        assert re.search(r'^  validation 3 images: headers read, 3 decoded$', result.stderr, re.M)
        others = options_of(call('-n', '--cfg=tiny', f'--validation={data / "good"}'))
        assert others['validation_set_kwargs']['path'] == str(data / 'good')
        assert others['training_set_kwargs']['max_size'] == 12

    @pytest.mark.parametrize(
        'args, target', [(['--apa'], 0.6), (['--apa=1', '--target=0.4'], 0.4), (['--apa=0'], None)]
    )
    def test_apa(self, call, args, target):
        assert json.loads(call('-n', '--cfg=tiny', *args).stdout)['apa_target'] == target

    @pytest.mark.parametrize(
        'args, weights, name',
        [(['--bcr'], [10, 10], '10'), (['--bcr', '--mirror=1'], [10, 10], '10'), (['--bcr=5.0,0'], [5, 0], '5-0')],
    )
    def test_weights_of_consistency(self, call, args, weights, name):
        config = json.loads(call('-n', '--cfg=tiny', *args).stdout)
        assert config['loss_kwargs']['bcr_weights'] == weights
        assert config['run_dir'].endswith(f'tiny-bcr{name}')

    @pytest.mark.parametrize(
        'args, weights, name',
        [(['--insgen'], [1, 0.1], '1-0.1'), (['--insgen=2'], [2, 0.2], '2-0.2'), (['--insgen=2,0'], [2, 0], '2-0')],
    )
    def test_insgen(self, call, args, weights, name):
        config = options_of(call('-n', '--cfg=tiny', *args))
        assert config['loss_kwargs']['insgen_weights'] == weights
        assert config['loss_kwargs']['insgen_queue'] == config['batch_size']  # the dataset is small
        assert config['run_dir'].endswith(f'tiny-insgen{name}')

    def test_posthoc_ema(self, call):
        config = options_of(call('-n', '--cfg=tiny', '--posthoc-ema'))
        assert config['posthoc_ema'] == [0.05, 0.1] and config['run_dir'].endswith('tiny-posthoc0.05-0.1')
        assert options_of(call('-n', '--cfg=tiny', '--posthoc-ema=0.2,0.1'))['posthoc_ema'] == [0.1, 0.2]

    def test_lengths_may_have_fractions(self, call):
        config = json.loads(call('-n', '--cfg=tiny', '--kimg=0.5', '--tick=0.1').stdout)
        assert (config['total_kimg'], config['kimg_per_tick']) == (0.5, 0.1)
        assert os.path.basename(config['run_dir']) == '00000-good-tiny-kimg0.5'
        assert json.loads(call('-n', '--cfg=tiny', '--kimg=7.0').stdout)['run_dir'].endswith('-kimg7')

    def test_dry_run_reads_images_of_another_size(self, call):
        result = call('-n', dataset='mixed')
        assert result.exit_code == 2
        assert 'img00000001.png' in result.output

    def test_help_names_every_option(self, call):
        text = call('--help', dataset=None, outdir=None).output
        for option in (
            '--outdir --gpus --snap --metrics --detectors --seed --dry-run --data --cond --subset --mirror '
            '--cfg --gamma --kimg --batch --aug --p --target --augpipe --resume --arch --resume-kimg '
            '--resume-optimizer --freezed --freezeg --freezem --freezee --fp32 --nhwc '
            '--nobench --allow-tf32 --workers --batch-gpu --cbase --cmax --glr --dlr --map-depth '
            '--mbstd-group --desc --tick --device --max-p --loss --gamma2 --d-reg-interval --lecam --bcr --apa '
            '--diffaugment --validation --ada-heuristic --insgen --posthoc-ema --cuda-graphs --precision'
        ).split():
            assert re.search(rf'^  (-n, )?{option}\b', text, re.M), option


class TestRun:
    def test_run_directory_and_options_are_made_before_the_launch(self, call, launched):
        for number in range(2):
            result = call('--cfg=tiny', '--kimg=1')
            assert result.exit_code == 0, result.output
            run_dir = os.path.join('runs', f'0000{number}-good-tiny-kimg1')
            assert launched[number].run_dir == run_dir
            assert sorted(os.listdir(run_dir)) == ['provenance.json', 'training_options.json']
            saved = Path(run_dir, 'training_options.json').read_text()
            assert TrainingConfig.from_json(saved) == launched[number]

    def test_same_content_as_the_dry_run(self, call, launched):
        dry = TrainingConfig.from_json(call('-n', '--cfg=tiny').stdout)
        call('--cfg=tiny')
        assert launched == [dry]

    def test_methods_of_a_resumed_run(self, call, launched, data, tmp_path):
        methods = ['--validation=3', '--ada-heuristic=rv', '--bcr=10.0', '--diffaugment=cutout, color', '--apa']
        methods += ['--insgen=1.0', '--posthoc-ema=0.10,0.05']
        assert call('--cfg=tiny', '--kimg=1', *methods).exit_code == 0
        (run_dir,) = Path('runs').iterdir()
        assert options_of(call('-n', f'--resume-run={run_dir}', dataset=None, outdir=None, metrics=None)) == json.loads(
            launched[0].to_json()
        )
        same = call('-n', f'--resume-run={run_dir}', *methods, dataset=None, outdir=None)
        assert same.exit_code == 0, same.output
        others = ['--insgen=2,0.2', '--posthoc-ema=0.05,0.2', '--bcr=9', '--apa=0', '--ada-heuristic=rt']
        for other in ('--validation=4', f'--validation={data / "good"}', *others):
            result = call('-n', f'--resume-run={run_dir}', other, dataset=None, outdir=None)
            assert result.exit_code == 2 and f'{other} (it was ' in result.output, result.output
        moved = shutil.copy(data / 'good.zip', tmp_path / 'moved.zip')
        deadline = time.monotonic() + 60
        while 'dataset_sha256' not in Path(run_dir, 'provenance.json').read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        config = options_of(call('-n', f'--resume-run={run_dir}', f'--data={moved}', dataset=None, outdir=None))
        assert config['training_set_kwargs']['path'] == config['validation_set_kwargs']['path'] == str(moved)

    def test_home_is_expanded(self, call, launched, tmp_path, monkeypatch):
        monkeypatch.setenv('HOME', str(tmp_path))
        assert call(outdir='~/runs').exit_code == 0
        assert os.listdir(tmp_path / 'runs') == ['00000-good-auto1']


class TestTorchrun:
    @pytest.fixture
    def rank(self, call, monkeypatch):
        def set_rank(rank, size=4):
            monkeypatch.setenv('WORLD_SIZE', str(size))
            monkeypatch.setenv('RANK', str(rank))
            monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
            monkeypatch.setenv('MASTER_ADDR', 'localhost')
            monkeypatch.setenv('MASTER_PORT', '29500')

        return set_rank

    def test_first_process_makes_the_directory(self, call, launched, rank):
        rank(0)
        assert 'auto4' in call().stdout
        assert (launched[0].num_gpus, launched[0].run_dir) == (4, os.path.join('runs', '00000-good-auto4'))

    def test_others_are_silent(self, call, launched, rank, tmp_path):
        rank(3)
        assert call('--gpus=4').output == ''
        assert (launched[0].num_gpus, launched[0].run_dir) == (4, None)
        assert call('-n').output == ''
        assert len(launched) == 1
        assert os.listdir(tmp_path) == []

    def test_disagreement(self, call, launched, rank):
        rank(0)
        result = call('--gpus=2')
        assert result.exit_code == 2
        assert "'--gpus': 2" in result.output and '4 processes' in result.output
        assert launched == []


# Arguments, dataset, and what the message must contain: option, value, and the rule or the way out
WRONG_CALLS = {
    'gpus_zero': (['--gpus=0'], 'good.zip', ['--gpus', '0', 'x>=1']),
    'gpus_word': (['--gpus=two'], 'good.zip', ['--gpus', "'two'"]),
    'gpus_do_not_divide': (['--gpus=3'], 'good.zip', ['--batch', '--gpus=3', '--batch=63']),
    'snap_zero': (['--snap=0'], 'good.zip', ['--snap', '0', 'x>=1']),
    'tick_zero': (['--tick=0'], 'good.zip', ['--tick', '0']),
    'metrics': (['--metrics=fid50kfull'], 'good.zip', ['--metrics', "'fid50kfull'", 'Did you mean fid50k_full']),
    'metrics_of_stylegan3': (
        ['--metrics=eqt1k_int,eqr1k'],
        'good.zip',
        ['--metrics', 'eqt1k_int, eqr1k cannot be computed for StyleGAN2', 'StyleGAN3'],
    ),
    'metrics_open': (['--metrics=is1k,'], 'good.zip', ['--metrics', "Unknown metric ''"]),
    'detectors_nowhere': (
        ['--metrics=is1k', '--detectors=gone'],
        'good.zip',
        ['--detectors', "'gone' is not a folder", '--metrics=none'],
    ),
    'seed_negative': (['--seed=-1'], 'good.zip', ['--seed', '-1']),
    'cond_word': (['--cond=perhaps'], 'good.zip', ['--cond', "'perhaps'", '1, 0, true or false']),
    'cond_without_labels': (['--cond=1'], 'nolabels', ['no labels', '--cond']),
    'labels_of_words': (['--cond=1'], 'badlabels', ['--data', 'dog']),
    'subset_zero': (['--subset=0'], 'good.zip', ['--subset', '0']),
    'subset_too_large': (['--subset=13'], 'good.zip', ['--subset', '13', '12']),
    'cfg': (['--cfg=paper128'], 'good.zip', ['--cfg', 'paper128', 'paper256']),
    'gamma_negative': (['--gamma=-1'], 'good.zip', ['--gamma', '-1', 'x>=0']),
    'gamma_nan': (['--gamma=nan'], 'good.zip', ['--gamma', 'nan', 'finite']),
    'kimg_zero': (['--kimg=0'], 'good.zip', ['--kimg', '0']),
    'kimg_infinite': (['--kimg=inf'], 'good.zip', ['--kimg', 'inf']),
    'batch_gpu': (['--batch=16', '--batch-gpu=3'], 'good.zip', ['--batch-gpu', '3', '16']),
    'mbstd_group': (['--batch=4', '--mbstd-group=8'], 'good.zip', ['--mbstd-group', '8', '4']),
    'loss': (['--loss=hinge'], 'good.zip', ['--loss', 'hinge', 'relativistic']),
    'gamma2_without_relativistic': (['--gamma2=3'], 'good.zip', ['--gamma2', '3', '--loss=relativistic']),
    'gamma2_negative': (['--loss=relativistic', '--gamma2=-1'], 'good.zip', ['--gamma2', 'x>=0']),
    'lecam_negative': (['--lecam=-1'], 'good.zip', ['--lecam', 'x>=0']),
    'diffaugment': (
        ['--diffaugment=color,blur'],
        'good.zip',
        ['--diffaugment', "'blur'", 'color, translation, cutout'],
    ),
    'diffaugment_twice': (['--diffaugment=cutout,cutout'], 'good.zip', ['--diffaugment', 'twice']),
    'diffaugment_empty': (['--diffaugment='], 'good.zip', ['--diffaugment', "''", 'translation']),
    'bcr': (['--bcr=1,2,3'], 'good.zip', ['--bcr', '1,2,3', '--bcr=10,5']),
    'bcr_nan': (['--bcr=nan'], 'good.zip', ['--bcr', 'nan', 'numbers from 0']),
    'insgen': (['--insgen=1,2,3'], 'good.zip', ['--insgen', '1,2,3', '--insgen=1,0.1']),
    'insgen_nan': (['--insgen=nan'], 'good.zip', ['--insgen', 'nan', 'numbers from 0']),
    'posthoc_ema': (['--posthoc-ema=0.1'], 'good.zip', ['--posthoc-ema', '0.1', '--posthoc-ema=0.05,0.1']),
    'posthoc_ema_equal': (['--posthoc-ema=0.1,0.1'], 'good.zip', ['two different numbers']),
    'posthoc_ema_long': (['--posthoc-ema=0.1,0.5'], 'good.zip', ['from 0.0001 to 0.28']),
    'bcr_negative': (['--bcr=5,-1'], 'good.zip', ['--bcr', '5,-1']),
    'held_out_metric': (['--metrics=fid9_held_out'], 'good.zip', ['--metrics', 'fid9_held_out needs', '--validation']),
    'validation_zero': (['--validation=0'], 'good.zip', ['--validation', 'x>=1']),
    'validation_negative': (['--validation=-5'], 'good.zip', ['--validation', '-5']),
    'validation_too_large': (['--validation=12'], 'good.zip', ['--validation', '12', '1 to 11']),
    'validation_nowhere': (['--validation=gone.zip'], 'good.zip', ['--validation', 'gone.zip']),
    'rv_without_validation': (['--ada-heuristic=rv'], 'good.zip', ['--ada-heuristic', 'rv', '--validation=N']),
    'heuristic_without_ada': (['--aug=noaug', '--ada-heuristic=rt'], 'good.zip', ['--ada-heuristic', '--aug=noaug']),
    'd_reg_interval': (['--d-reg-interval=0'], 'good.zip', ['--d-reg-interval', 'x>=1']),
    'cbase': (['--cbase=16'], 'good.zip', ['--cbase', '16', '32x32']),
    'glr_zero': (['--glr=0'], 'good.zip', ['--glr', 'x>0']),
    'aug': (['--aug=some'], 'good.zip', ['--aug', 'some', 'noaug']),
    'aug_fixed_without_p': (['--aug=fixed'], 'good.zip', ['--aug', 'fixed', '--p=P']),
    'p_without_fixed': (['--p=0.2'], 'good.zip', ['--p', '0.2', '--aug=fixed']),
    'p_too_large': (['--aug=fixed', '--p=1.5'], 'good.zip', ['--p', '1.5', '0<=x<=1']),
    'init_p_without_ada': (['--aug=noaug', '--init-p=0.2'], 'good.zip', ['--init-p', '0.2', '--aug=noaug']),
    'init_p_too_large': (['--init-p=2'], 'good.zip', ['--init-p', '2', '0<=x<=1']),
    'init_p_above_max_p': (['--init-p=0.8', '--max-p=0.5'], 'good.zip', ['--init-p', '0.8', '--max-p=0.5']),
    'max_p_without_ada': (['--aug=noaug', '--max-p=0.8'], 'good.zip', ['--max-p', '0.8', '--aug=noaug']),
    'max_p_zero': (['--max-p=0'], 'good.zip', ['--max-p', '0<x<=']),
    'keep_states_zero': (['--keep-states=0'], 'good.zip', ['--keep-states', '0', 'x>=1']),
    'resume_run_nowhere': (['--resume-run=gone'], 'good.zip', ['--resume-run', "'gone'", 'does not exist']),
    'resume_of_two_runs': (
        ['--resume=latest', '--resume-run=gone'],
        'good.zip',
        ['--resume', 'gone', 'two different runs'],
    ),
    'target_without_ada': (['--aug=noaug', '--target=0.5'], 'good.zip', ['--target', '0.5', '--aug=ada']),
    'target_too_large': (['--target=2'], 'good.zip', ['--target', '2', '0<=x<=1']),
    'augpipe': (['--augpipe=bgx'], 'good.zip', ['--augpipe', 'bgx', 'bgcfnc']),
    'augpipe_without_aug': (['--aug=noaug', '--augpipe=bg'], 'good.zip', ['--augpipe', 'bg', '--aug=noaug']),
    'resume': (['--resume=ffhq128'], 'good.zip', ['--resume', 'ffhq128', 'ffhq256', 'file']),
    'resume_folder': (['--resume=/'], 'good.zip', ['--resume', "'/'", 'file']),
    'freezed_too_large': (['--freezed=100'], 'good.zip', ['--freezed', '32x32', '10 layers', '0 to 10']),
    'freezed_too_large_for_cifar': (['--freezed=8', '--cfg=cifar'], 'good.zip', ['--freezed', '0 to 7']),
    'freezed_negative': (['--freezed=-1'], 'good.zip', ['--freezed', '-1']),
    'workers_negative': (['--workers=-1'], 'good.zip', ['--workers', '-1']),
    'desc': (['--desc=a/b'], 'good.zip', ['--desc', 'a/b', 'letters']),
    'device_name': (['--device=gpu'], 'good.zip', ['--device', 'gpu', 'cuda:N']),
    'device_missing': (['--device=cuda:7'], 'good.zip', ['--device', 'cuda:7', 'cpu']),
    'unknown_option': (['--bacth=8'], 'good.zip', ['--bacth', '--batch']),
    'stray_argument': (['mirror'], 'good.zip', ['mirror']),
    'no_data': ([], None, ['--data']),
    'data_missing': ([], 'nothing.zip', ['--data', 'nothing.zip', 'does not exist']),
    'data_cut': ([], 'cut.zip', ['--data', 'cut.zip', 'zip']),
    'data_text': ([], 'words.txt', ['--data', 'words.txt']),
    'data_empty': ([], 'empty', ['--data', 'no images']),
    'data_too_narrow': ([], 'narrow', ['--data', '128x16', '2 to 8 times', '64x16']),
    'data_of_unusable_size': ([], 'odd', ['--data', '22x22', 'power of two', 'nearest are 24x24']),
    'data_too_small': ([], 'small', ['--data', '4x4', '8 or more']),
    'data_mixed': ([], 'mixed', ['--data', 'img00000001.png', '16x16']),
}


def assert_one_sentence(output, words):
    """Check that the output is the usage and one line with the error, which contains all the words."""
    assert 'Traceback' not in output
    *_, last = output.rstrip('\n').split('\n')
    assert last.startswith('Error: '), output
    assert output.count('Error: ') == 1
    assert all(word in last for word in words), last


class TestWrongCalls:
    @pytest.mark.parametrize('args, dataset, words', WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
    def test_one_sentence_and_nothing_written(self, call, launched, tmp_path, args, dataset, words):
        result = call(*args, dataset=dataset)
        assert result.exit_code == 2, result.output
        assert_one_sentence(result.output, words)
        assert launched == []
        assert os.listdir(tmp_path) == []

    def test_no_outdir(self, call):
        result = call('-n', outdir=None)
        assert result.exit_code == 2
        assert_one_sentence(result.output, ['--outdir'])

    @pytest.mark.parametrize('dry', [[], ['-n']])
    def test_outdir_below_a_file(self, call, data, dry):
        result = call(*dry, outdir=data / 'words.txt' / 'runs')
        assert result.exit_code == 2
        assert_one_sentence(result.output, ['--outdir', 'words.txt', 'is a file'])

    def test_outdir_read_only(self, call, tmp_path, monkeypatch):
        """The test may run as root, for whom no folder is read-only, so it replaces the system's answer."""
        monkeypatch.setattr(os, 'access', lambda path, mode: False)
        result = call(outdir='below/runs', dataset='nothing.zip')
        assert result.exit_code == 2
        assert_one_sentence(result.output, ['--outdir', 'below/runs', str(tmp_path), 'no write permission'])

    def test_outdir_where_the_system_refuses(self, call, launched):
        result = call(outdir='/proc/runs')
        assert result.exit_code == 2
        assert_one_sentence(result.output, ['--outdir', '/proc/runs'])
        assert launched == []

    def test_resume_of_a_run_is_its_newest_network(self, call, data, tmp_path):
        run = tmp_path / 'run'
        run.mkdir()
        for kimg in ('000090', '000200'):
            save_networks(run / f'network-snapshot-{kimg}.pkl', ('G', 'D', 'G_ema'))
        (run / 'network-snapshot-000300.pkl').write_bytes((data / 'gray.pkl').read_bytes()[:-500])
        write_gray(tmp_path / 'gray')
        result = call('-n', '--resume=run', '--cfg=tiny', '--cbase=32', '--cmax=8', dataset=tmp_path / 'gray')
        config = options_of(result)
        assert config['resume_pkl'] == os.path.join('run', 'network-snapshot-000200.pkl')
        assert '--resume-run=run' in result.stderr and 'network-snapshot-000300.pkl' in result.stderr

    @pytest.mark.parametrize('dry', [[], ['-n']])
    @pytest.mark.parametrize(
        'file, words',
        [
            ('words.txt', ['--resume', 'words.txt', 'not a network pickle']),
            ('average.pkl', ['--resume', 'average.pkl', 'has no G']),
        ],
    )
    def test_resume_of_what_does_not_fit(self, call, launched, data, tmp_path, dry, file, words):
        result = call(*dry, f'--resume={data / file}', '--cfg=tiny')
        assert result.exit_code == 2
        assert_one_sentence(result.output, words)
        assert launched == []
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        'args, words',
        [
            (['--gpus=4'], ['--gpus', '4 processes', 'has 2', '--device=cpu']),
            (['--gpus=2', '--device=cuda:1'], ['--device', 'cuda:1', '--gpus=1']),
        ],
    )
    def test_more_processes_than_devices(self, call, launched, monkeypatch, args, words):
        monkeypatch.setattr(dnnlib.cli, 'available_devices', lambda: ['cuda:0', 'cuda:1', 'cpu'])
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
        result = call(*args)
        assert result.exit_code == 2
        assert_one_sentence(result.output, words)
        assert launched == []


class TestRealProcess:
    """The same in a separate process: exit status, one sentence, no traceback."""

    def run(self, *args, cwd):
        environment = {name: value for name, value in os.environ.items() if name not in ('WORLD_SIZE', 'RANK')}
        return subprocess.run(
            [sys.executable, REPOSITORY / 'train.py', *args],
            cwd=cwd,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @pytest.mark.parametrize(
        'args, words',
        [
            (['--outdir=runs', '--data=nothing.zip'], ['--data', 'nothing.zip']),
            (['--outdir=runs', '--data=cut.zip'], ['--data', 'cut.zip']),
            (['--data=good.zip'], ['--outdir']),
            (['--outdir=runs', '--data=good.zip', '--gpus=0'], ['--gpus']),
        ],
    )
    def test_wrong_calls(self, data, tmp_path, args, words):
        for name in ('good.zip', 'cut.zip'):
            shutil.copy(data / name, tmp_path)
        result = self.run(*args, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == ''
        assert_one_sentence(result.stderr, words)
        assert not (tmp_path / 'runs').exists()

    def test_dry_run_from_another_folder(self, data, tmp_path):
        place = f'--data={data / "good.zip"}'
        result = self.run('-n', '--outdir=runs', place, '--cfg=cifar', '--device=cpu', cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)['batch_size'] == 64
        assert os.listdir(tmp_path) == []


class TestDetectors:
    """Detectors of the metrics are checked before the training starts."""

    @pytest.fixture
    def no_network(self, tmp_path, monkeypatch):
        monkeypatch.setenv('HTTPS_PROXY', 'http://127.0.0.1:9')
        monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))

    @pytest.mark.parametrize('metrics', [None, 'is1k,pr1k3'])
    def test_without_network_and_cache(self, call, launched, no_network, tmp_path, metrics):
        result = call(metrics=metrics)
        assert result.exit_code == 2
        assert_one_sentence(
            result.output,
            ['--metrics', 'inception-2015-12-05.pt', str(tmp_path / 'cache'), '--detectors', '--metrics=none'],
        )
        assert launched == []
        assert not (tmp_path / 'runs').exists()

    def test_a_dry_run_downloads_nothing(self, call, no_network, tmp_path):
        assert options_of(call('-n', metrics=None))['metrics'] == ['fid50k_full']
        assert options_of(call('-n', metrics=''))['metrics'] == []
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize('dry', [[], ['-n']])
    def test_stand_ins(self, call, launched, tmp_path, dry):
        folder = stand_ins.write_detectors(tmp_path / 'stand-ins')
        assert call(*dry, f'--detectors={folder}', metrics='fid1k_full,is1k').exit_code == 0
        assert len(launched) == 1 - len(dry)
        for config in launched:
            assert (config.metrics, config.detectors) == (['fid1k_full', 'is1k'], str(folder))
        path = folder / 'inception-2015-12-05.pt'
        path.write_bytes(path.read_bytes()[:1000])
        result = call(*dry, f'--detectors={folder}', metrics='fid1k_full')
        assert result.exit_code == 2
        assert_one_sentence(result.output, ['--metrics', str(path), 'damaged', '--metrics=none'])

    def test_equivariance_needs_none(self, call, no_network):
        result = call('-n', '--cfg=tiny-t', metrics='eqt1k_int,eqr1k')
        assert options_of(result)['metrics'] == ['eqt1k_int', 'eqr1k']
        assert 'the published ones' not in result.output
