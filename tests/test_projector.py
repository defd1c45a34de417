"""projector.py: its files, that generate.py renders the same images, and its error messages."""

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import generate
import generation.options
import generation.projection.project_to_files
import projector
from generation.video import NoEncoder
from tests.feature_stand_in import FeatureNetwork, write_detector
from tests.small_generators import NAMES, NUMBERS, assert_usage_error, make_generator, write_networks

IMAGES = ['proj.png', 'proj_best.png', 'target.png']
FILES = sorted([*IMAGES, 'projected_w.npz', 'projected_w_best.npz', 'projection.json'])


class OtherNetwork(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=[2, 3])


class BlindNetwork(torch.nn.Module):
    """Rounds its input to integers, so that there are no gradients."""

    def forward(
        self,
        images: torch.Tensor,
        resize_images: bool = True,
        return_features: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        return images.to(torch.uint8).to(torch.float32).mean(dim=[2, 3])


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Networks, detectors and targets."""
    folder = tmp_path_factory.mktemp('files')
    networks = write_networks(
        folder,
        {
            'plain': make_generator(),
            'gray': make_generator(img_channels=1),
            'named': (make_generator(c_dim=3), {'class_names': NAMES}),
            'numbered': (make_generator(c_dim=3), {'class_names': NUMBERS}),
            'five': make_generator(img_channels=5),
        },
    )
    paths = vars(networks)
    for name, network in {'detectors': FeatureNetwork(), 'others': OtherNetwork(), 'blind': BlindNetwork()}.items():
        paths[name] = write_detector(folder / name, network)
    photo = np.random.RandomState(0).randint(0, 256, [5, 7, 3], dtype=np.uint8)
    enlarged = PIL.Image.fromarray(photo).resize((70, 50), PIL.Image.Resampling.BICUBIC)
    for name, picture in {'photo': enlarged, 'shades': enlarged.convert('L'), 'other': enlarged.rotate(180)}.items():
        paths[name] = folder / f'{name}.png'
        picture.save(paths[name])
    return SimpleNamespace(**paths)


@pytest.fixture
def run(tmp_path, files):
    """Function: (name of the outdir, network, *arguments) → (result of the command, folder of the files)."""

    def invoke(outdir, network, *arguments):
        folder = tmp_path / outdir
        options = {'network': network, 'outdir': folder, 'detectors': files.detectors, 'device': 'cpu', 'num-steps': 3}
        options = [f'--{name}={value}' for name, value in options.items()]
        return click.testing.CliRunner().invoke(projector.main, [*options, *map(str, arguments)]), folder

    return invoke


@pytest.fixture
def project(run):
    """Like `run` without a video, for calls that succeed; returns the folder of the files."""

    def invoke(outdir, network, *arguments):
        result, folder = run(outdir, network, '--save-video=0', *arguments)
        assert result.exit_code == 0, result.output
        return folder

    return invoke


def pixels(path):
    return np.asarray(PIL.Image.open(path))


def contents(folder):
    """Return the contents of all files in a folder, without the timestamps in archives."""
    files = {}
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        if path.suffix == '.npz':
            with np.load(path) as arrays:
                files[path.name] = {name: arrays[name].tobytes() for name in arrays.files}
        else:
            files[path.name] = path.read_bytes()
    return files


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_as_a_process_and_generate_renders_the_same(run_script, files, tmp_path, monkeypatch):
    """generate.py renders a projected latent, with its noise, to the same bytes."""
    imageio_ffmpeg = pytest.importorskip('imageio_ffmpeg')
    result = run_script(
        'projector.py', f'--network={files.plain}', f'--target={files.photo}', '--num_steps=12', '--seed=7',
        f'--detectors={files.detectors}', '--outdir=deep/out')  # fmt: skip
    assert result.returncode == 0 and result.stderr == '', result.stderr
    out = tmp_path / 'deep' / 'out'
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, 'proj.mp4'])
    assert 'photo: step 12 of 12, distance' in result.stdout and 'wrote deep/out' in result.stdout

    square = PIL.Image.open(files.photo).crop((10, 0, 60, 50)).resize((16, 16), PIL.Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels(out / 'target.png'), np.asarray(square))
    with np.load(out / 'projected_w.npz') as arrays:
        assert arrays['w'].shape == (1, make_generator().num_ws, 8) and arrays['w'].dtype == np.float32
        assert arrays['noise/b16.conv1.noise_const'].shape == (1, 16, 16)
    options = [f'--network={files.plain}', '--device=cpu', '--outdir=generated']
    result = run_script('generate.py', *options, f'--projected-w={out / "projected_w.npz"}')
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'generated' / 'proj00.png').read_bytes() == (out / 'proj.png').read_bytes()
    monkeypatch.chdir(tmp_path)
    click.testing.CliRunner().invoke(generate.main, [*options, f'--projected-w={out / "projected_w_best.npz"}'])
    assert (tmp_path / 'generated' / 'proj00.png').read_bytes() == (out / 'proj_best.png').read_bytes()

    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-i', str(out / 'proj.mp4'), '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-']
    decoded = subprocess.run(command, capture_output=True, check=True)
    frames = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, 128, 256, 3)
    assert len(frames) == 12 and b' 10 fps' in decoded.stderr
    expected = np.concatenate([pixels(out / 'target.png'), pixels(out / 'proj.png')], axis=1)
    expected = expected.repeat(8, axis=0).repeat(8, axis=1).astype(int)
    assert np.abs(frames[-1] - expected).mean() < 8
    assert np.abs(frames[0] - expected)[:, 128:].mean() > 2 * np.abs(frames[-1] - expected)[:, 128:].mean()


def test_report(project, files):
    out = project('out', files.named, f'--target={files.photo}', '--class=red fox', '--seed=5', '--space=w+')
    report = json.loads((out / 'projection.json').read_text(encoding='utf-8'))
    distance, detector = report.pop('distance'), report.pop('detector')
    assert report.pop('best_step') in range(4)
    assert report == {
        'target': str(files.photo), 'network': str(files.named), 'class': 2, 'label': None, 'seed': 5, 'num_steps': 3,
        'space': 'w+', 'learning_rate': 0.1, 'noise_weight': 1e5}  # fmt: skip
    assert 0 < distance['best'] <= min(distance['last'], distance['start'])
    assert (detector['name'], detector['label']) == ('vgg16', None) and len(detector['sha256']) == 64


def test_spaces(project, files):
    for space, is_one in (('w', True), ('w+', False)):
        out = project(space, files.plain, f'--target={files.photo}', f'--space={space}')
        with np.load(out / 'projected_w.npz') as arrays:
            assert (arrays['w'] == arrays['w'][:, :1]).all() == is_one


def test_seeds(project, files):
    arguments = (files.plain, f'--target={files.photo}')
    first, again = project('first', *arguments), project('again', *arguments)
    assert contents(first) == contents(again) and sorted(contents(first)) == FILES
    other = project('other', *arguments, '--seed=304')
    assert (pixels(first / 'proj.png') != pixels(other / 'proj.png')).any()


def test_several_targets_give_the_same_as_each_alone(project, files, tmp_path):
    photos = tmp_path / 'photos'
    photos.mkdir()
    for path in (files.photo, files.shades):
        (photos / path.name).write_bytes(path.read_bytes())
    out = project('out', files.plain, f'--target={files.other}', f'--target={photos}')
    assert sorted(path.name for path in out.iterdir()) == ['other', 'overview.png', 'photo', 'shades']
    assert pixels(out / 'overview.png').shape[1] > 3 * 64  # three columns of 64 pixels or more, and the names
    alone = contents(project('alone', files.plain, f'--target={files.photo}'))
    together = contents(out / 'photo')
    assert together.keys() == alone.keys()
    assert all(together[name] == alone[name] for name in alone if name != 'projection.json')


def test_classes(project, files):
    target = f'--target={files.photo}'
    named = contents(project('name', files.named, target, '--class=dog'))
    assert named == contents(project('index', files.named, target, '--class=1'))
    without_report = [
        {name: content for name, content in contents(folder).items() if name != 'projection.json'}
        for folder in (
            project('2', files.numbered, target, '--class=2'),
            project('name', files.named, target, '--class=dog'),
        )
    ]
    assert without_report[0] == without_report[1]
    assert named['proj.png'] != contents(project('other', files.named, target, '--class=0'))['proj.png']


def test_gray_networks(project, files):
    out = project('out', files.gray, f'--target={files.shades}')
    assert [pixels(out / name).shape for name in IMAGES] == 3 * [(16, 16)]
    gray_for_rgb = project('rgb', files.plain, f'--target={files.shades}')
    assert [pixels(gray_for_rgb / name).shape for name in IMAGES] == 3 * [(16, 16, 3)]
    np.testing.assert_array_equal(pixels(gray_for_rgb / 'target.png')[:, :, 0], pixels(out / 'target.png'))


def test_warning_about_a_class_without_effect(run, files):
    result, _ = run('out', files.plain, f'--target={files.photo}', '--class=1', '--save-video=0')
    assert result.exit_code == 0 and '--class=1 is ignored' in result.stderr


def test_progress_bar_on_terminals(files, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    projector.main(
        [f'--network={files.plain}', f'--target={files.photo}', f'--detectors={files.detectors}', '--device=cpu',
         '--num-steps=30', '--save-video=0', f'--outdir={tmp_path / "out"}'], standalone_mode=False)  # fmt: skip
    assert 'photo:' in terminal.getvalue() and 'distance' in terminal.getvalue() and '/30' in terminal.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Video


@pytest.fixture
def no_encoder(monkeypatch):
    def refuse():
        raise NoEncoder('videos need a package: pip install imageio-ffmpeg')

    monkeypatch.setattr(generation.options, 'require_encoder', refuse)


def test_without_an_encoder_no_video_is_written(run, files, no_encoder):
    result, out = run('out', files.plain, f'--target={files.photo}')
    assert result.exit_code == 0 and sorted(contents(out)) == FILES
    assert result.stderr.count('\n') == 1 and 'No video' in result.stderr and 'pip install' in result.stderr
    result, out = run('silent', files.plain, f'--target={files.photo}', '--save-video=0')
    assert result.exit_code == 0 and result.stderr == ''


def test_a_requested_video_needs_an_encoder(run, files, no_encoder, tmp_path):
    result, out = run('out', 'missing.pkl', f'--target={files.photo}', '--save_video=1')
    assert result.exit_code == 2 and 'pip install' in result.stderr and '--save-video' in result.stderr
    assert not out.exists()


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError(28, 'No space left on device', 'proj.mp4')])
def test_interrupted_runs_leave_nothing_behind(run, files, tmp_path, monkeypatch, error):
    pytest.importorskip('imageio_ffmpeg')
    (tmp_path / 'scratch').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'scratch'))
    show = generation.projection.project_to_files._DistanceProgress.show

    def show_and_end(self, step, distance):
        show(self, step, distance)
        if step == 2:
            raise error

    monkeypatch.setattr(generation.projection.project_to_files._DistanceProgress, 'show', show_and_end)
    result, out = run('out', files.plain, f'--target={files.photo}', '--save-video=1')
    assert result.exit_code == 1 and 'Traceback' not in result.output and 'step 1' in result.output
    assert not out.exists() and list((tmp_path / 'scratch').iterdir()) == []


PHOTO = '--target={files.photo}'
USAGE_ERRORS = {
    'no target': ('plain', [], '--target'),
    'target missing': ('plain', ['--target=missing.png'], 'missing.png: No such file'),
    'target is text': ('plain', ['--target=text.txt'], 'not an image'),
    'target is an address': ('plain', ['--target=https://example.com/a.png'], 'a.png: No such file'),
    'second target is text': ('plain', [PHOTO, '--target=text.txt'], 'text.txt'),
    'folder without images': ('plain', ['--target=empty'], 'empty contains no images'),
    'targets of one name': ('plain', [PHOTO, '--target=copies'], 'rename one'),
    'target among the results': (
        'plain',
        ['--target=results/target.png', '--outdir=empty/../results'],
        'choose another folder',
    ),
    'colored target for gray images': ('gray', [PHOTO], 'photo.png contains colors'),
    'network of five channels': ('five', [PHOTO], '5 channels'),
    'no steps': ('plain', [PHOTO, '--num-steps=0'], '--num-steps'),
    'seed is text': ('plain', [PHOTO, '--seed=many'], 'many'),
    'seed too large': ('plain', [PHOTO, '--seed=4294967296'], '--seed'),
    'space': ('plain', [PHOTO, '--space=z'], 'w+'),
    'learning rate of zero': ('plain', [PHOTO, '--lr=0'], '--lr'),
    'learning rate not finite': ('plain', [PHOTO, '--lr=nan'], 'nan'),
    'noise weight negative': ('plain', [PHOTO, '--noise_weight=-1'], '--noise-weight'),
    'video': ('plain', [PHOTO, '--save-video=maybe'], 'maybe'),
    'device': ('plain', [PHOTO, '--device=cuda:77'], 'cuda:77'),
    'class missing': ('named', [PHOTO], 'red fox'),
    'class unknown': ('named', [PHOTO, '--class=cat'], 'airplane, dog, red fox'),
    'index among numbers': ('numbered', [PHOTO, '--class=0'], 'write #0 for that class'),
    'network missing': ('missing.pkl', [PHOTO], 'No such file'),
    'network is text': ('text.txt', [PHOTO], 'text.txt'),
    'outdir is a file': ('plain', [PHOTO, '--outdir=text.txt'], 'is a file'),
    'folder of a target is a file': ('plain', [PHOTO, '--target={files.other}', '--outdir=results'], 'is a file'),
    'detectors missing': ('plain', [PHOTO, '--detectors=nowhere'], 'nowhere'),
    'no detector there': ('plain', [PHOTO, '--detectors=empty'], 'vgg16.pt'),
    'detector is text': ('plain', [PHOTO, '--detectors=results'], 'results/vgg16.pt'),
    'detector of another kind': ('plain', [PHOTO, '--detectors={files.others}'], 'another interface'),
    'detector without gradients': ('plain', [PHOTO, '--detectors={files.blind}'], 'provides no gradients'),
}


@pytest.fixture
def odd_files(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.txt').write_text('neither an image nor a pickle')
    for name in ('empty', 'copies', 'results'):
        (tmp_path / name).mkdir()
    (tmp_path / 'copies' / 'photo.jpg').write_bytes(files.photo.read_bytes())
    (tmp_path / 'results' / 'target.png').write_bytes(files.photo.read_bytes())
    (tmp_path / 'results' / 'photo').write_text('in the way')
    (tmp_path / 'results' / 'vgg16.pt').write_text('not a detector')


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, files, tmp_path, odd_files, case):
    network, arguments, hint = USAGE_ERRORS[case]
    before = contents(tmp_path)
    result, _ = run('out', getattr(files, network, Path(network)), '--save-video=0',
                    *(argument.format(files=files) for argument in arguments))  # fmt: skip
    assert_usage_error(result, hint)
    assert contents(tmp_path) == before and not (tmp_path / 'out').exists()


def test_cheap_checks_come_first(run, odd_files):
    """Targets are checked before the network is opened."""
    result, _ = run('out', 'missing.pkl', '--target=text.txt')
    assert 'text.txt' in result.stderr and 'missing.pkl' not in result.stderr
