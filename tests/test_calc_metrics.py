"""calc_metrics.py as users call it, and the metrics that train.py computes on the way, which must be the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import calc_metrics
import dnnlib.cli
from tests import metric_stand_ins as stand_ins
from training import networks_stylegan3

ROOT = Path(calc_metrics.__file__).parent


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Folder with data, detectors and networks of its own."""
    folder = tmp_path_factory.mktemp('calc')
    stand_ins.write_zip(folder / 'data.zip', stand_ins.random_images(80))
    stand_ins.write_zip(folder / 'other.zip', stand_ins.random_images(60, seed=3))
    stand_ins.write_zip(folder / 'gray.zip', stand_ins.random_images(4, channels=1))
    stand_ins.write_zip(folder / 'small.zip', stand_ins.random_images(4)[:, :, :8, :8])
    stand_ins.write_detectors(folder / 'detectors')
    for seed in (0, 1):
        G = stand_ins.make_generator(seed=seed, noise_strength=0.2)
        stand_ins.save_network(folder / f'net{seed}.pkl', folder / 'data.zip', G)
    stand_ins.save_network(folder / 'mirrored.pkl', folder / 'data.zip', xflip=True)
    stand_ins.save_network(folder / 'gone.pkl', folder / 'gone.zip')
    stand_ins.save_network(folder / 'strange.pkl', folder / 'data.zip', class_name='os.system')
    (folder / 'words.txt').write_text('no network')
    return folder


@pytest.fixture(scope='module')
def environment(place):
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'DNNLIB_CACHE_DIR': str(place / 'cache'), 'OMP_NUM_THREADS': '1'}


@pytest.fixture(scope='module')
def run(place, environment):
    """A short training with metrics, in a process of its own."""
    command = [
        sys.executable,
        ROOT / 'train.py',
        '--outdir=runs',
        '--data=data.zip',
        '--cfg=tiny',
        '--cbase=128',
        '--cmax=4',
        '--kimg=1',
        '--tick=1',
        '--snap=1',
        '--device=cpu',
        '--seed=3',
        '--metrics=fid1k_full,kid1k_full',
        '--validation=30',
        '--detectors=detectors',
    ]
    trained = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=200)
    assert trained.returncode == 0, trained.stderr
    (run_dir,) = (place / 'runs').iterdir()
    return run_dir


@pytest.fixture
def call(place, monkeypatch):
    """Run calc_metrics.py in this process, where the networks are, with no accelerators."""
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dnnlib.cli, 'available_devices', lambda: ['cpu'])
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(place / 'cache'))
    monkeypatch.chdir(place)

    def run(*args):
        return click.testing.CliRunner().invoke(calc_metrics.main, args, prog_name='calc_metrics.py')

    return run


def results_of(result):
    """The lines of standard output, all of them JSON."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------------------
# Training and calc_metrics.py agree


def test_a_training_writes_its_metrics_everywhere(run):
    for name in ('fid1k_full', 'kid1k_full'):
        lines = lines_of(run / f'metric-{name}.jsonl')
        assert [line['snapshot_pkl'] for line in lines] == [path.name for path in sorted(run.glob('*.pkl'))]
        assert all(line['results'].keys() == {name} and line['seed'] == 3 for line in lines)
        assert all(line['detector']['name'] == 'inception-2015-12-05' for line in lines)
        rows = [row for row in lines_of(run / 'stats.jsonl') if f'Metrics/{name}' in row]
        assert [row[f'Metrics/{name}']['mean'] for row in rows] == [line['results'][name] for line in lines]
        (events,) = run.glob('events.out.tfevents*')
        assert f'Metrics/{name}'.encode() in events.read_bytes()
        assert f'"{name}": ' in (run / 'log.txt').read_text()
    assert 'Training is complete.' in (run / 'log.txt').read_text()


def test_a_training_measures_distances_to_held_out_images_too(run, call, tmp_path):
    run = shutil.copytree(run, tmp_path / 'copy')
    of_training = {}
    for name, num_real in (('fid1k_full', 80), ('fid1k_train', 50), ('fid1k_held_out', 30), ('kid1k_held_out', 30)):
        lines = lines_of(run / f'metric-{name}.jsonl')
        assert all(line['num_images'] == {'real': num_real, 'fake': 1000} for line in lines)
        assert f'Metrics/{name}' in lines_of(run / 'stats.jsonl')[-1]
        of_training[name] = lines[-1]['results'][name]
    assert len(set(of_training.values())) == 4
    (result,) = results_of(call(f'--network={run}', '--metrics=fid1k_held_out', DETECTORS))
    assert result['results']['fid1k_held_out'] == of_training['fid1k_held_out']
    assert result['held_out_sha256'] == result['dataset_sha256']
    # The same images in an archive of their own have the same distance.
    kwargs = json.loads((run / 'training_options.json').read_text())['validation_set_kwargs']
    order = np.arange(80)
    np.random.RandomState(kwargs['random_seed']).shuffle(order)
    held_out = stand_ins.random_images(80)[np.sort(order[50:])]
    held_out_zip = stand_ins.write_zip(tmp_path / 'held_out.zip', held_out)
    (result,) = results_of(call(f'--network={run}', '--metrics=fid1k_full', f'--data={held_out_zip}', DETECTORS))
    assert result['results']['fid1k_full'] == pytest.approx(of_training['fid1k_held_out'], rel=1e-6)


def test_the_same_numbers_for_the_run_directory(run, call):
    """Data and seed are those of the training; the last snapshot counts."""
    before = {name: (run / f'metric-{name}.jsonl').read_text() for name in ('fid1k_full', 'kid1k_full')}
    results = results_of(call(f'--network={run}', '--metrics=fid1k_full,kid1k_full', DETECTORS))
    for result, (name, text) in zip(results, before.items(), strict=True):
        of_training = json.loads(text.splitlines()[-1])
        assert result['results'] == of_training['results']
        for key in (
            'metric',
            'num_gpus',
            'snapshot_pkl',
            'num_images',
            'seed',
            'batch',
            'detector',
            'dataset_sha256',
            'network_sha256',
            'versions',
        ):
            assert result[key] == of_training[key], key
        assert (run / f'metric-{name}.jsonl').read_text() == f'{text}{json.dumps(result)}\n'
    (other,) = results_of(call(f'--network={run}', '--metrics=fid1k_full', '--seed=4', DETECTORS))
    assert other['results'] != results[0]['results'] and other['seed'] == 4


def test_every_snapshot_with_a_curve(run, call, tmp_path):
    pytest.importorskip('matplotlib')
    copy = shutil.copytree(run, tmp_path / 'copy')
    for path in copy.glob('metric-*'):
        path.unlink()
    result = call(f'--network={copy}', '--every=1', '--metrics=is50', '--detectors=detectors')
    names = [path.name for path in sorted(copy.glob('*.pkl'))]
    assert [line['snapshot_pkl'] for line in results_of(result)] == names
    assert lines_of(copy / 'metric-is50.jsonl') == results_of(result)
    with PIL.Image.open(copy / 'metric-is50.png') as picture:
        assert picture.width > 400
    table = [line for line in result.stderr.splitlines() if 'network' in line]
    assert len(table) == 1 + len(names) and 'is50_mean' in table[0]


# ---------------------------------------------------------------------------------------------------------------------
# Networks, data and options


def test_several_networks_and_a_table(call, place):
    result = call(
        '--network=net0.pkl',
        '--network=net1.pkl',
        '--metrics=fid100_full,ppl_wend',
        '--num-samples=20',
        '--detectors=detectors',
    )
    results = results_of(result)
    assert [(line['snapshot_pkl'], line['metric']) for line in results] == [
        ('net0.pkl', 'fid100_full'),
        ('net0.pkl', 'ppl_wend'),
        ('net1.pkl', 'fid100_full'),
        ('net1.pkl', 'ppl_wend'),
    ]
    assert [line['num_images'] for line in results[:2]] == [{'real': 80, 'fake': 100}, {'pairs': 20}]
    header, *rows = [re.split('  +', line) for line in result.stderr.splitlines() if line.startswith('net')]
    assert header == ['network', 'fid100_full', 'ppl_wend']
    cells = []
    for line in results[2:]:
        interval = line['intervals'][line['metric']]
        cells.append(f'{line["results"][line["metric"]]:.5g} [{interval["low"]:.3g}, {interval["high"]:.3g}]')
    assert rows[1] == ['net1.pkl', *cells]
    assert not list(place.glob('metric-*'))  # They lie in no run directory.


def test_data_and_mirror_of_the_pickle_can_be_replaced(call):
    def real_images(*args):
        full, other = results_of(call(*args, '--metrics=fid100_full,fid300', '--detectors=detectors'))
        return full['num_images']['real'], other['num_images']['real']

    assert real_images('--network=mirrored.pkl') == (80, 160)
    assert real_images('--network=mirrored.pkl', '--mirror=0') == (80, 80)
    assert real_images('--network=net0.pkl', '--mirror=1') == (80, 160)
    assert real_images('--network=mirrored.pkl', '--data=other.zip') == (60, 60)
    assert real_images('--network=gone.pkl', '--data=other.zip', '--mirror=1') == (60, 120)


def test_copies_are_looked_for_among_the_training_images(call, place):
    folder = place / 'runs2' / '00000-subset'
    folder.mkdir(parents=True)
    data = str(place / 'data.zip')
    stand_ins.save_network(folder / 'network-snapshot-000003.pkl', data, max_size=50, random_seed=2)
    kwargs = {'class_name': 'training.dataset.ImageFolderDataset', 'path': data, 'max_size': 20, 'skip': 50}
    (folder / 'training_options.json').write_text(json.dumps({'validation_set_kwargs': {**kwargs, 'random_seed': 2}}))
    args = (f'--network={folder}', '--metrics=memorization30', DETECTORS)
    (result,) = results_of(call(*args))
    assert result['num_images'] == {'real': 50, 'fake': 30, 'held_out': 20}
    assert (folder / 'metric-memorization30-000003-pairs.png').exists()
    (result,) = results_of(call(*args, '--validation=other.zip'))
    assert result['num_images'] == {'real': 50, 'fake': 30, 'held_out': 60}
    # The same data at another path, and other data.
    shutil.copy(place / 'data.zip', place / 'moved.zip')
    (folder / 'provenance.json').write_text(json.dumps([{'dataset_sha256': result['dataset_sha256']}]))
    (result,) = results_of(call(*args, '--data=moved.zip'))
    assert result['num_images'] == {'real': 50, 'fake': 30, 'held_out': 20}
    (result,) = results_of(call(*args, '--data=other.zip'))
    assert result['num_images'] == {'real': 60, 'fake': 30, 'held_out': 20}
    # Without held-out images.
    (result,) = results_of(call('--network=net0.pkl', '--metrics=memorization30_vgg', DETECTORS))
    assert result['num_images'] == {'real': 80, 'fake': 30}


def test_intervals_on_request(call):
    (result,) = results_of(
        call('--network=net0.pkl', '--metrics=kid80_full', '--bootstrap=30', '--detectors=detectors')
    )
    assert result['bootstrap']['low'] < result['results']['kid80_full'] < result['bootstrap']['high']
    assert result['bootstrap']['num_resamples'] == 30
    both = ['--network=net0.pkl', '--metrics=fid80_full,kid80_full', '--detectors=detectors']
    # By default for few images, and with KID first in the table.
    result = call(*both)
    assert [line['bootstrap']['num_resamples'] for line in results_of(result)] == [1000, 1000]
    table = [line.split()[0] for line in result.stderr.splitlines() if re.match('(kid|fid)80', line)]
    assert table == ['kid80_full', 'fid80_full']
    result = call(*both, '--bootstrap=0')
    assert not any('bootstrap' in line or 'intervals' in line for line in results_of(result))
    table = [line.split()[0] for line in result.stderr.splitlines() if re.match('(kid|fid)80', line)]
    assert table == ['fid80_full', 'kid80_full']


def test_stand_ins_with_a_label(call, place, tmp_path):
    named = shutil.copytree(place / 'detectors', tmp_path / 'named')
    files = dict(inception='inception-2015-12-05.pt', vgg16='vgg16.pt')
    (named / 'detectors.json').write_text(json.dumps(dict(label='birds', **files)))
    fid, recall = results_of(call('--network=net0.pkl', '--metrics=fid100_full,pr1k3', f'--detectors={named}'))
    assert (fid['metric'], list(fid['results'])) == ('fd-birds100_full', ['fd-birds100_full'])
    assert list(recall['results']) == ['pr-birds1k3_precision', 'pr-birds1k3_recall']


def test_torchrun_gives_the_same_numbers(call, place, environment, tmp_path):
    args = ['--network=net0.pkl', '--metrics=fid100_full,kid100', '--detectors=detectors', '--device=cpu']
    alone = results_of(call(*args))
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node=2',
        ROOT / 'calc_metrics.py',
        *args,
    ]
    environment = {**environment, 'DNNLIB_CACHE_DIR': str(tmp_path / 'cache')}
    result = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    together = [json.loads(line) for line in result.stdout.splitlines()]
    for one, two in zip(alone, together, strict=True):
        assert two['num_gpus'] == 2
        assert two['results'] == pytest.approx(one['results'], rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Detectors in the cache


def test_fetching_detectors(call, place, tmp_path, monkeypatch):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    monkeypatch.setenv('HTTPS_PROXY', 'http://127.0.0.1:9')
    result = call('--fetch-detectors')
    assert result.exit_code == 1 and 'Traceback' not in result.output
    from metrics.features.detectors import URLS

    places = {}
    for name, url in URLS.items():
        (line,) = [line for line in result.stderr.splitlines() if f"detector '{name}' is missing" in line]
        assert url in line
        places[name] = next(word.rstrip(';)') for word in line.split() if word.startswith(str(tmp_path)))
    (tmp_path / 'downloads').mkdir(exist_ok=True)
    for name, path in places.items():
        shutil.copy(place / 'detectors' / URLS[name].rpartition('/')[2], path)
    result = call('--fetch-detectors')
    assert result.exit_code == 0, result.output
    assert all(f'{name}: {path}' in result.stdout for name, path in places.items())
    assert result.stdout.count('SHA-256') == 2
    Path(places['vgg16']).write_bytes(Path(places['vgg16']).read_bytes()[:999])
    result = call('--fetch-detectors')
    assert result.exit_code == 1
    assert 'inception: ' in result.stdout and places['vgg16'] in result.stderr and 'Delete it' in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Wrong calls: arguments, and what the error message must contain

DETECTORS = '--detectors=detectors'
WRONG_CALLS = {
    'nothing': ([], ['--network']),
    'metric': (
        ['--network=net0.pkl', '--metrics=fid50kfull'],
        ['--metrics', "Unknown metric 'fid50kfull'. Did you mean fid50k_full?"],
    ),
    'no_metrics': (['--network=net0.pkl', '--metrics=none'], ['--metrics', 'fid50k_full']),
    'metrics_empty': (['--network=net0.pkl', '--metrics='], ['--metrics', 'nothing to compute', 'fid50k_full']),
    'network_gone': (['--network=no.pkl'], ['--network', 'no.pkl']),
    'network_text': (['--network=words.txt'], ['--network', 'words.txt']),
    'folder_without_networks': (['--network=detectors'], ['--network', "'detectors' has no network-snapshot"]),
    'every_of_a_file': (['--network=net0.pkl', '--every=2'], ['--every', "'net0.pkl' is not the directory"]),
    'every_zero': (['--network=net0.pkl', '--every=0'], ['--every', 'x>=1']),
    'num_samples': (['--network=net0.pkl', '--num-samples=9'], ['--num-samples', '9', 'fid5k_full']),
    'bootstrap': (['--network=net0.pkl', '--metrics=is1k', '--bootstrap=50'], ['--bootstrap', 'is1k']),
    'validation_unused': (['--network=net0.pkl', '--validation=other.zip'], ['--validation', 'fid50k_full', 'Omit']),
    'validation_gone': (
        ['--network=net0.pkl', '--metrics=memorization9', '--validation=no.zip'],
        ['--validation', 'no.zip', 'does not exist'],
    ),
    'validation_of_another_size': (
        ['--network=net0.pkl', '--metrics=memorization9', '--validation=small.zip'],
        ['--validation', '8x8', '16x16'],
    ),
    'held_out': (
        ['--network=net0.pkl', '--metrics=fid80_full,fid80_held_out'],
        ['--metrics', 'fid80_held_out cannot', 'no images were held out', '--validation'],
    ),
    'bootstrap_few': (['--network=net0.pkl', '--bootstrap=2'], ['--bootstrap', '2 resamples are too few']),
    'seed': (['--network=net0.pkl', '--seed=-1'], ['--seed', '-1']),
    'mirror': (['--network=net0.pkl', '--mirror=maybe'], ['--mirror', 'maybe', '1, 0']),
    'device': (['--network=net0.pkl', '--device=cuda:3'], ['--device', 'cuda:3', 'cpu']),
    'gpus': (['--network=net0.pkl', '--gpus=0'], ['--gpus', 'x>=1']),
    'data_gone': (['--network=gone.pkl', DETECTORS], ['--data', 'gone.zip', 'does not exist']),
    'data_option_gone': (['--network=net0.pkl', '--data=no.zip'], ['--data', 'no.zip', 'does not exist']),
    'data_of_another_size': (['--network=net0.pkl', '--data=small.zip', DETECTORS], ['--data', '8x8', '16x16']),
    'data_of_other_channels': (['--network=net0.pkl', '--data=gray.zip'], ['--data', '1 channels', 'network has 3']),
    'class_of_the_pickle': (['--network=strange.pkl'], ['--data', "'os.system'", 'not supported']),
    'detectors': (['--network=net0.pkl', '--detectors=no'], ['--detectors', "'no' is not a folder"]),
    'detectors_empty': (['--network=net0.pkl', '--detectors=cut'], ['--detectors', "no detector 'inception'"]),
    'equivariance_of_stylegan2': (
        ['--network=net0.pkl', '--metrics=fid80_full,eqt1k_int,eqr1k'],
        ['--metrics', 'eqt1k_int, eqr1k cannot be computed for net0.pkl', 'StyleGAN3 can be moved'],
    ),
    'unknown': (['--network=net0.pkl', '--sed=1'], ['--sed', '--seed']),
}


@pytest.mark.parametrize('args, words', WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_wrong_calls(call, place, args, words):
    (place / 'cut').mkdir(exist_ok=True)
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert 'Traceback' not in result.output and result.stdout == ''
    last = result.stderr.rstrip('\n').splitlines()[-1]
    assert last.startswith('Error: ') and result.stderr.count('Error: ') == 1, result.stderr
    assert all(word in last for word in words), last


def test_equivariance_needs_no_detector(call, place):
    torch.manual_seed(0)
    sizes = dict(channel_base=256, channel_max=8, num_layers=4)
    G = networks_stylegan3.Generator(8, 0, 8, stand_ins.RESOLUTION, 3, **sizes).eval().requires_grad_(False)
    stand_ins.save_network(place / 'moving.pkl', place / 'data.zip', G)
    (result,) = results_of(call('--network=moving.pkl', '--metrics=eqt12_int', '--detectors=no'))
    assert result['results'].keys() == {'eqt12_int'} and result['results']['eqt12_int'] > 20
    assert (result['num_images'], result['detector']) == ({'fake': 12}, None)
    # A class from the pickle takes the transform of one image at a time.
    (same,) = results_of(call('--network=moving.pkl', '--metrics=eqt12_int', '--detectors=no', '--trust-pickle'))
    assert same['results'] == pytest.approx(result['results'], abs=0.1)
    # Of several networks, the metric is computed for those that have it, and it needs no detector of the others.
    both = ['--network=net0.pkl', '--network=moving.pkl']
    result = call(*both, '--metrics=eqt12_int,is20', '--detectors=no')
    assert result.exit_code == 1
    assert [json.loads(line)['snapshot_pkl'] for line in result.stdout.splitlines()] == ['moving.pkl']
    assert 'Warning: is20 will not be computed' in result.stderr
    assert 'Metric eqt12_int of net0.pkl cannot be computed: The input of this network' in result.stderr


def test_a_curve_without_matplotlib(call, run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    result = call(f'--network={run}', '--every=1', '--metrics=is50')
    assert result.exit_code == 2
    assert "'--every'" in result.stderr and 'pip install matplotlib' in result.stderr


def test_a_metric_that_has_no_value(call):
    result = call('--network=net0.pkl', '--metrics=is20,is3', DETECTORS)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1  # What was computed before is not lost.
    assert result.stderr.splitlines()[-1] == 'Error: is3 needs 10 generated images or more, but there are 3.'


def test_other_metrics_are_computed_after_one_that_cannot_be(call):
    result = call('--network=net0.pkl', '--network=net1.pkl', '--metrics=is3,is20,is5,fid80_full', DETECTORS)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line['metric'] for line in lines] == 2 * ['is20', 'fid80_full']
    assert 'Metric is5 of net1.pkl cannot be computed: is5 needs 10 generated images' in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith('Error: 4 of 8 metrics could not be computed (see above): is3 of net0.pkl, is5 of net0.pkl,')
    assert any(line.split()[:1] == ['net1.pkl'] for line in result.stderr.splitlines())  # the table


class BrokenVGG(torch.nn.Module):
    """Gives features of blank images only."""

    def forward(
        self, x: torch.Tensor, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False
    ):
        means = x.to(torch.float32).mean(dim=[2, 3])
        return torch.where(means > 0, torch.full_like(means, float('nan')), means)


def test_a_detector_that_fails_spoils_its_own_metrics_only(call, place, tmp_path):
    """Generated images are shared by all metrics, and pass through both detectors."""
    detectors = shutil.copytree(place / 'detectors', tmp_path / 'detectors')
    stand_ins.save_script(BrokenVGG(), detectors / 'vgg16.pt')
    result = call('--network=net0.pkl', '--metrics=fid80_full,pr80k3,kid80_full', f'--detectors={detectors}')
    assert result.exit_code == 1, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line['metric'] for line in lines] == ['fid80_full', 'kid80_full']
    (expected,) = results_of(call('--network=net0.pkl', '--metrics=fid80_full', DETECTORS))
    assert lines[0]['results'] == expected['results']
    assert result.stderr.splitlines()[-1].startswith('Error: ') and 'not finite' in result.stderr.splitlines()[-1]


def test_a_detector_that_is_missing_spoils_its_own_metrics_only(call, place, tmp_path):
    detectors = shutil.copytree(place / 'detectors', tmp_path / 'detectors')
    (detectors / 'vgg16.pt').unlink()
    result = call('--network=net0.pkl', '--metrics=pr80k3,fid80_full', f'--detectors={detectors}')
    assert result.exit_code == 1, result.output
    assert [json.loads(line)['metric'] for line in result.stdout.splitlines()] == ['fid80_full']
    assert 'Warning: pr80k3 will not be computed' in result.stderr
    assert "has no detector 'vgg16'" in result.stderr.splitlines()[-1]


def test_options_of_a_run_that_cannot_be_read(call, place, tmp_path):
    shutil.copy(place / 'net0.pkl', tmp_path)
    (tmp_path / 'training_options.json').write_text('{')
    result = call(f'--network={tmp_path / "net0.pkl"}')
    assert result.exit_code == 2 and 'training_options.json' in result.stderr and 'JSON' in result.stderr


def test_help_names_every_option(call):
    text = call('--help').output
    for option in (
        '--network --metrics --data --mirror --gpus --verbose --device --seed --detectors --every '
        '--num-samples --bootstrap --fetch-detectors --trust-pickle --batch'
    ).split():
        assert f'  {option} ' in text, option
