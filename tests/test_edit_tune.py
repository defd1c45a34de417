"""edit.py tune: its files, that the network it writes shows the photographs, and its error messages."""

import json
from types import SimpleNamespace

import click.testing
import numpy as np
import PIL.Image
import pytest

import edit
from generation.editing import tune_files
from generation.projected_latents import ProjectedLatents, write
from network_files.reading import open_network
from tests.feature_stand_in import write_detector
from tests.small_generators import NAMES, assert_usage_error, make_generator, make_stylegan3_generator, write_networks
from training.networks_stylegan2 import Discriminator

FILES = ['overview.png', 'tuned.pkl', 'tuned00.png', 'tuned_w.npz', 'tuning.json']


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Networks, a detector, photographs and what a projector would have written for them."""
    folder = tmp_path_factory.mktemp('files')
    D = Discriminator(c_dim=3, img_resolution=16, img_channels=3, channel_base=128, channel_max=8)
    named = make_generator(c_dim=3)
    networks = write_networks(
        folder,
        {
            'plain': make_generator(),
            'named': (named, {'D': D, 'G': named, 'class_names': NAMES, 'training_set_kwargs': {'path': 'photos.zip'}}),
            'gray': make_generator(img_channels=1),
            'alpha': make_stylegan3_generator(img_channels=4, equivariance='translation'),
            'five': make_generator(img_channels=5),
        },
    )
    paths = vars(networks)
    paths['detectors'] = write_detector(folder / 'detectors')
    random = np.random.RandomState(0)
    for name in ('first', 'second'):
        inner = folder / 'projections' / name
        inner.mkdir(parents=True)
        small = PIL.Image.fromarray(random.randint(0, 256, [4, 4, 3], dtype=np.uint8))
        small.resize((16, 16), PIL.Image.Resampling.BICUBIC).save(inner / 'target.png')
        write(inner / 'projected_w.npz', ProjectedLatents(random.randn(1, 6, 8)))
        small.resize((40, 40), PIL.Image.Resampling.BICUBIC).save(folder / f'{name}.png')
        paths[name] = folder / f'{name}.png'
    write(folder / 'both.npz', ProjectedLatents(random.randn(2, 6, 8)))
    write(folder / 'alpha.npz', ProjectedLatents(random.randn(1, 8, 8)))
    paths |= {'projections': folder / 'projections', 'both': folder / 'both.npz', 'alpha_w': folder / 'alpha.npz'}
    return SimpleNamespace(**paths)


@pytest.fixture
def run(tmp_path, files):
    """Function: (network, *arguments) → (result of the command, its output folder)."""

    def invoke(network, *arguments):
        folder = tmp_path / 'out'
        options = {'network': network, 'outdir': folder, 'device': 'cpu', 'num-steps': 2, 'save-video': 0}
        options = [f'--{name}={value}' for name, value in {**options, 'detectors': files.detectors}.items()]
        return click.testing.CliRunner().invoke(edit.main, ['tune', *options, *map(str, arguments)]), folder

    return invoke


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_as_a_process_and_generate_renders_the_same(run_script, files, tmp_path):
    pytest.importorskip('imageio_ffmpeg')
    result = run_script(
        'edit.py', 'tune', f'--network={files.named}', f'--projection={files.projections}', '--num_steps=12',
        '--lr=0.02', f'--detectors={files.detectors}', '--outdir=deep/out')  # fmt: skip
    assert result.returncode == 0 and result.stderr == '', result.stderr
    out = tmp_path / 'deep' / 'out'
    assert names_in(out) == sorted([*FILES, 'tuned01.png', 'tuning.mp4'])
    options = [f'--network={out / "tuned.pkl"}', f'--projected-w={out / "tuned_w.npz"}', '--outdir=generated']
    result = run_script('generate.py', *options)
    assert result.returncode == 0, result.stderr
    for index in range(2):
        rendered = (tmp_path / 'generated' / f'proj{index:02d}.png').read_bytes()
        assert rendered == (out / f'tuned{index:02d}.png').read_bytes()

    report = json.loads((out / 'tuning.json').read_text())
    assert [entry['name'] for entry in report['photographs']] == ['first', 'second']
    assert all(entry['after']['distance'] < entry['before']['distance'] for entry in report['photographs'])
    assert report['drift'] > 0 and report['num_steps'] == 12 and report['detector']['name'] == 'vgg16'

    old, new = (open_network(str(path)) for path in (files.named, out / 'tuned.pkl'))
    assert new['G'] is new['G_ema'] and new['class_names'] == NAMES
    assert new['training_set_kwargs'] == {'path': 'photos.zip'}
    for name in ('D', 'G_ema'):
        tensors = [dict(network[name].state_dict()) for network in (old, new)]
        same = {key: bool((tensors[0][key] == tensors[1][key]).all()) for key in tensors[0]}
        assert all(same[key] for key in same if name == 'D' or key.startswith('mapping'))
        assert name == 'D' or not same['synthesis.b16.torgb.weight']


@pytest.mark.parametrize(
    ('network', 'arguments', 'count'),
    [
        ('plain', ['--projected-w={files.both}', '--target={files.first}', '--target={files.second}'], 2),
        ('plain', ['--projection={files.projections}/second', '--locality-weight=0'], 1),
        ('alpha', ['--projected-w={files.alpha_w}', '--target={files.second}'], 1),
    ],
)
def test_inputs(run, files, network, arguments, count):
    result, out = run(getattr(files, network), *(argument.format(files=files) for argument in arguments))
    assert (result.exit_code, result.stderr) == (0, ''), result.output
    assert names_in(out) == sorted({*FILES, *(f'tuned{index:02d}.png' for index in range(count))})
    with np.load(out / 'tuned_w.npz') as arrays:
        assert len(arrays['w']) == count
    assert result.stdout.count('distance') == count + 1


def test_equal_calls_write_equal_networks(run, files):
    contents = []
    for _ in range(2):
        result, out = run(files.plain, f'--projection={files.projections}', '--seed=3')
        assert result.exit_code == 0
        contents.append((out / 'tuned.pkl').read_bytes())
    assert contents[0] == contents[1]


# ---------------------------------------------------------------------------------------------------------------------
# Errors

USAGE_ERRORS = {
    'nothing to tune to': ('plain', [], '--projection'),
    'no photograph': ('plain', ['--projected-w={files.both}'], '--target'),
    'no latents': ('plain', ['--target={files.first}'], '--projected-w'),
    'two kinds of input': (
        'plain', ['--projection={files.projections}', '--target={files.first}'], 'cannot be combined'),
    'no projection there': ('plain', ['--projection=empty'], 'empty contains no target.png'),
    'projection is missing': ('plain', ['--projection=nowhere'], 'nowhere contains no target.png'),
    'projection with a damaged target': ('plain', ['--projection=damaged'], 'not an image'),
    'projection with damaged latents': ('plain', ['--projection=torn'], 'not an npz file'),
    'fewer photographs': (
        'plain', ['--projected-w={files.both}', '--target={files.first}'], '1 photographs do not match 2'),
    'photograph missing': ('plain', ['--projected-w={files.both}', '--target=nowhere.png'], 'No such file'),
    'latents of another network': ('alpha', ['--projection={files.projections}/first'], 'with the same network'),
    'latents of another network, named': (
        'plain', ['--projected-w={files.alpha_w}', '--target={files.first}'], "'--projected-w'"),
    'colored photograph for gray images': ('gray', ['--projection={files.projections}'], 'contains colors'),
    'channels': ('five', ['--projection={files.projections}'], '5 channels'),
    'detectors': ('plain', ['--projection={files.projections}', '--detectors=empty'], 'vgg16.pt'),
    'rate': ('plain', ['--projection={files.projections}', '--lr=0'], '--lr'),
    'steps': ('plain', ['--projection={files.projections}', '--num-steps=0'], '--num-steps'),
    'weight': ('plain', ['--projection={files.projections}', '--locality-weight=-1'], '--locality-weight'),
    'network missing': ('nowhere.pkl', ['--projection={files.projections}'], 'nowhere.pkl'),
    'outdir is a file': ('plain', ['--projection={files.projections}', '--outdir={files.first}/x'], 'is a file'),
}  # fmt: skip


@pytest.fixture
def odd_files(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    for name in ('empty', 'damaged', 'torn'):
        (tmp_path / name).mkdir()
    original = files.projections / 'first'
    for name, damaged in (('damaged', 'target.png'), ('torn', 'projected_w.npz')):
        for file in ('target.png', 'projected_w.npz'):
            content = b'nothing' if file == damaged else (original / file).read_bytes()
            (tmp_path / name / file).write_bytes(content)


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, files, odd_files, case):
    network, arguments, hint = USAGE_ERRORS[case]
    result, out = run(getattr(files, network, network), *(argument.format(files=files) for argument in arguments))
    assert_usage_error(result, hint)
    assert not out.exists()


def test_interrupted_runs_leave_nothing_behind(run, files, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_files._Film, 'on_step', interrupt)
    result, out = run(files.plain, f'--projection={files.projections}')
    assert result.exit_code == 1 and 'Traceback' not in result.output and not out.exists()
