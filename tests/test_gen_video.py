"""gen_video.py: its frames and its error messages."""

import functools
import sys

import click.testing
import numpy as np
import pytest
import torch

import gen_video
from generation import latents, projected_latents
from tests import small_generators
from tests.small_generators import NUMBERS, assert_usage_error, write_networks
from torch_utils import images

pytest.importorskip('imageio_ffmpeg')

NAMES = ['airplane', 'dog', 'fox, red']


make_generator = functools.partial(small_generators.make_generator, img_channels=1, noise_strength=0.3, w_avg=1)


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    return write_networks(
        tmp_path_factory.mktemp('networks'),
        {
            'plain': make_generator(),
            'color': make_generator(img_channels=3),
            'classes': make_generator(c_dim=3),
            'named': (make_generator(c_dim=3), {'class_names': NAMES}),
            'numbered': (make_generator(c_dim=3), {'class_names': NUMBERS}),
        },
    )


@pytest.fixture
def run(tmp_path):
    """Function: (network, *arguments) → (result of the command, path of the video)."""

    def invoke(network, *arguments):
        output = tmp_path / 'out' / 'video.mp4'
        options = [f'--network={network}', f'--output={output}', '--device=cpu', *arguments]
        return click.testing.CliRunner().invoke(gen_video.main, options), output

    return invoke


@pytest.fixture
def make(run, read_video):
    """Like `run`, for calls that succeed; returns frames uint8 [T, H, W, 3]."""

    def invoke(*arguments):
        result, output = run(*arguments)
        assert result.exit_code == 0, result.output
        assert [path.name for path in output.parent.iterdir()] == [output.name]
        return read_video(output)

    return invoke


def still(seed, c_dim=0, class_index=None, truncation_psi=1, noise_mode='const'):
    """Return the gray image [H, W] of a seed."""
    G = make_generator(c_dim=c_dim)
    label = torch.zeros(1, c_dim)
    if class_index is not None:
        label[0, class_index] = 1
    ws = latents.ws_of_seeds(G, [seed], label, truncation_psi)
    return images.to_uint8(G.synthesis(ws, noise_mode=noise_mode))[0, 0].numpy()


def difference(frame, picture):
    """Return the mean difference of gray levels: about 2 after encoding, 30 or more between two seeds."""
    frame = frame.astype(float)
    return np.abs((frame.mean(axis=2) if frame.ndim == 3 else frame) - picture).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Frames


def test_keyframes_appear_at_their_time_and_the_end_meets_the_beginning(make, networks):
    frames = make(networks.plain, '--seeds=3,8,5', '--frames=12', '--enlarge=2')
    assert frames.shape == (36, 32, 32, 3)
    for index, seed in enumerate((3, 8, 5)):
        assert difference(frames[index * 12], still(seed).repeat(2, axis=0).repeat(2, axis=1)) < 3
    gray = frames.mean(axis=3)
    steps = np.abs(np.diff(gray, axis=0)).mean(axis=(1, 2))
    assert 1 < steps.max() < 15 and np.abs(gray[0] - gray[-1]).mean() <= steps.max() + 1


def test_without_loop_the_video_ends_at_the_last_keyframe(make, networks):
    frames = make(networks.plain, '--seeds=3,8', '--w-frames=10', '--loop=0', '--trunc=0.7')
    assert len(frames) == 11
    assert difference(frames[0], still(3, truncation_psi=0.7)) < 5
    assert difference(frames[-1], still(8, truncation_psi=0.7)) < 5
    assert difference(frames[-1], still(8)) > 10


def test_between_equal_keyframes_a_linear_curve_rests_and_a_cubic_one_overshoots(make, networks):
    arguments = (networks.plain, '--seeds=3,8,8', '--frames=2', '--enlarge=4')
    linear, cubic = (make(*arguments, f'--interpolation={kind}') for kind in ('linear', 'cubic'))
    picture = still(8).repeat(4, axis=0).repeat(4, axis=1)
    assert [difference(frames[3], picture) < 2 for frames in (linear, cubic)] == [True, False]
    assert difference(cubic[2], picture) < 2


def test_grid_divides_the_seeds_cell_by_cell(make, networks):
    frames = make(networks.plain, '--seeds=0-5', '--grid=3x1', '--frames=1', '--enlarge=2', '--batch=2')
    assert frames.shape == (2, 32, 96, 3)
    for key in range(2):
        for cell in range(3):
            image = frames[key, :, cell * 32 : cell * 32 + 32]
            assert difference(image, still(cell * 2 + key).repeat(2, axis=0).repeat(2, axis=1)) < 4


@pytest.mark.parametrize('arguments, seeds', [
    (['--seeds=4,7', '--num-keyframes=3'], [4, 7, 4]),
    (['--seeds=4-9', '--num-keyframes=2'], [4, 5]),
    (['--seeds=1-4', '--shuffle-seed=0'], [3, 4, 2, 1]),
])  # fmt: skip
def test_seeds_are_repeated_left_out_and_shuffled(make, networks, arguments, seeds):
    frames = make(networks.plain, '--frames=1', *arguments)
    assert len(frames) == len(seeds)
    assert all(difference(frame, still(seed)) < 4 for frame, seed in zip(frames, seeds))


def test_color(make, networks):
    frames = make(networks.color, '--seeds=0,1', '--frames=1', '--enlarge=4')
    G = make_generator(img_channels=3)
    image = images.to_uint8(G.synthesis(latents.ws_of_seeds(G, [0], torch.zeros(1, 0)), noise_mode='const'))[0]
    expected = image.permute(1, 2, 0).numpy().repeat(4, axis=0).repeat(4, axis=1)
    assert frames.shape == (2, 64, 64, 3) and np.abs(frames[0].astype(int) - expected).mean() < 6


def test_length_is_printed(run, networks):
    result, _ = run(networks.plain, '--seeds=0,1', '--frames=5', '--fps=20')
    assert '10 frames, 0.5 s' in result.output


@pytest.mark.parametrize('class_text, classes', [
    ('2', [2, 2, 2, 2]),
    ('dog, 2', [1, 2, 1, 2]),
    ('0,dog,2,airplane', [0, 1, 2, 0]),
    ('fox, red', [2, 2, 2, 2]),
])  # fmt: skip
def test_one_class_for_all_for_each_keyframe_and_for_each_seed(make, networks, class_text, classes):
    frames = make(networks.named, '--seeds=0-3', '--grid=2x1', '--frames=1', f'--class={class_text}')
    for seed, index in enumerate(classes):
        cell, key = divmod(seed, 2)
        assert difference(frames[key, :, cell * 16 : cell * 16 + 16], still(seed, 3, index)) < 4


def test_names_win_over_indices(make, networks):
    frames = make(networks.numbered, '--seeds=0-2', '--frames=1', '--class=10,1,#1')
    for seed, index in enumerate((2, 0, 1)):
        assert difference(frames[seed], still(seed, 3, index)) < 4


def test_random_noise_is_reproducible(make, networks):
    arguments = (networks.plain, '--seeds=0,0', '--frames=3', '--noise-mode=random')
    first, second = make(*arguments), make(*arguments, '--batch=1')
    assert difference(first[0], first[1].mean(axis=2)) > 5 > 1 > difference(first[1], second[1].mean(axis=2))


# ---------------------------------------------------------------------------------------------------------------------
# Projected latents


def random_projection(seed, with_noise):
    random = np.random.RandomState(seed)
    noise = {f'b{size}.conv1.noise_const': 2 * random.randn(1, size, size).astype(np.float32) for size in (8, 16)}
    ws = latents.ws_of_seeds(make_generator(), [seed], torch.zeros(1, 0)).numpy()
    return projected_latents.ProjectedLatents(ws, noise if with_noise else {})


def image_of(projection):
    G = make_generator()
    for name, noise in projection.noise.items():
        G.synthesis.get_buffer(name).copy_(torch.from_numpy(noise[0]))
    return images.to_uint8(G.synthesis(torch.from_numpy(projection.ws), noise_mode='const'))[0, 0].numpy()


@pytest.mark.parametrize('with_noise', [(True, True), (False, False), (True, False)])
def test_projected_latents_are_keyframes_with_their_noise(make, networks, tmp_path, with_noise):
    parts = [random_projection(seed, own_noise) for seed, own_noise in enumerate(with_noise)]
    for index, part in enumerate(parts):
        projected_latents.write(tmp_path / f'{index}.npz', part)
    files = [f'--projected-w={tmp_path / f"{index}.npz"}' for index in range(2)]
    frames = make(networks.plain, *files, '--frames=3')
    assert len(frames) == 6
    for index, part in enumerate(parts):
        assert difference(frames[index * 3], image_of(part)) < 4
        if with_noise[index]:
            assert difference(frames[index * 3], still(index)) > 8
    without = make(networks.plain, *files, '--frames=3', '--noise-mode=none')
    assert difference(without[0], still(0, noise_mode='none')) < 4


def test_warning_about_options_without_effect(run, networks, tmp_path):
    projected_latents.write(
        tmp_path / 'w.npz', projected_latents.join([random_projection(0, True)] * 2, make_generator())
    )
    arguments = ['--seeds=0', '--trunc=0.5', '--frames=1', f'--projected-w={tmp_path / "w.npz"}']
    result, output = run(networks.plain, *arguments)
    assert result.exit_code == 0 and output.is_file()
    assert '--seeds is ignored' in result.stderr and '--trunc is ignored' in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Error messages


def test_as_a_process(run_script, networks, tmp_path, read_video):
    result = run_script('gen_video.py', f'--network={networks.named}', '--seeds=0-1', '--w_frames=2', '--class=dog',
                        '--output=deep/x.MP4')  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(read_video(tmp_path / 'deep' / 'x.MP4')) == 4


def test_the_encoder_is_checked_first(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    result, output = run('https://example.invalid/network.pkl', '--seeds=0,1')
    assert result.exit_code == 1 and result.stderr.count('\n') == 1
    assert 'pip install imageio-ffmpeg' in result.stderr and not output.parent.exists()


def test_an_encoder_that_fails_leaves_nothing(run, networks, tmp_path, monkeypatch):
    program = tmp_path / 'ffmpeg'
    lines = [f'#!{sys.executable}', 'import sys', 'sys.exit(0 if "null" in sys.argv else "no space")']
    program.write_text('\n'.join(lines))
    program.chmod(0o755)
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(program))
    result, output = run(networks.plain, '--seeds=0,1', '--frames=50')
    assert result.exit_code == 1 and 'video.mp4: the video encoder failed: no space' in result.stderr
    assert list(output.parent.iterdir()) == []


USAGE_ERRORS = {
    'nothing to show': ('plain', [], '--seeds'),
    'seeds are text': ('plain', ['--seeds=one'], "'one'"),
    'seeds too large': ('plain', ['--seeds=0,4294967296'], '4294967295'),
    'one seed': ('plain', ['--seeds=7'], 'use 2 or more'),
    'too few seeds for the grid': ('plain', ['--seeds=0-3', '--grid=2x2'], 'use 8 or more'),
    'seeds that do not fill the grid': ('plain', ['--seeds=0-6', '--grid=3x1'], 'a multiple of 3'),
    'grid is not a size': ('plain', ['--seeds=0,1', '--grid=big'], 'big'),
    'grid too large for a video': ('plain', ['--seeds=0,1', '--grid=2000x1', '--num-keyframes=2'], '16384'),
    'one keyframe': ('plain', ['--seeds=0,1', '--num-keyframes=1'], '--num-keyframes'),
    'no frames': ('plain', ['--seeds=0,1', '--frames=0'], '--w-frames'),
    'no rate': ('plain', ['--seeds=0,1', '--fps=0'], '--fps'),
    'rate is not a number': ('plain', ['--seeds=0,1', '--fps=nan'], 'nan'),
    'loop': ('plain', ['--seeds=0,1', '--loop=maybe'], 'maybe'),
    'interpolation': ('plain', ['--seeds=0,1', '--interpolation=round'], 'cubic'),
    'trunc is not finite': ('plain', ['--seeds=0,1', '--trunc=nan'], 'nan'),
    'shuffle seed': ('plain', ['--seeds=0,1', '--shuffle-seed=-1'], '--shuffle-seed'),
    'enlarged by nothing': ('plain', ['--seeds=0,1', '--enlarge=0'], '--enlarge'),
    'device': ('plain', ['--seeds=0,1', '--device=tpu'], 'tpu'),
    'class missing': ('classes', ['--seeds=0,1'], '0 to 2'),
    'class unknown': ('named', ['--seeds=0,1', '--class=dog,cat'], "'cat'"),
    'class empty': ('classes', ['--seeds=0,1', '--class=1,'], "''"),
    'index among numbers': ('numbered', ['--seeds=0,1', '--class=1,0'], "'--class': 0 is not the name"),
    'classes of another number': ('classes', ['--seeds=0-3', '--class=0,1,2'], '3 classes for 4 keyframes'),
    'network missing': ('missing.pkl', ['--seeds=0,1'], 'No such file'),
    'network is text': ('text.txt', ['--seeds=0,1'], 'not a network pickle'),
    'npz missing': ('plain', ['--projected-w=missing.npz'], 'No such file'),
    'second npz is text': ('plain', ['--projected-w=two.npz', '--projected-w=text.txt'], 'not an npz'),
    'npz of another network': ('plain', ['--projected-w=shape.npz'], '[n, 6, 8]'),
    'npz with one latent': ('plain', ['--projected-w=one.npz'], 'latents'),
    'output is not an mp4': ('plain', ['--seeds=0,1', '--output=video.avi'], 'must end in .mp4'),
    'output is a folder': ('plain', ['--seeds=0,1', '--output=folder.mp4'], 'is a folder'),
    'output in a file': ('plain', ['--seeds=0,1', '--output=text.txt/video.mp4'], "'--output'"),
}


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, networks, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.txt').write_text('neither a pickle nor an npz')
    (tmp_path / 'folder.mp4').mkdir()
    for name, shape in (('one', [1, 6, 8]), ('two', [2, 6, 8]), ('shape', [2, 5, 8])):
        np.savez(f'{name}.npz', w=np.zeros(shape))
    before = sorted(path.name for path in tmp_path.iterdir())
    network, arguments, hint = USAGE_ERRORS[case]
    result, _ = run(getattr(networks, network, tmp_path / network), *arguments)
    assert_usage_error(result, hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
