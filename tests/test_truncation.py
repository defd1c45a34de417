"""Truncation towards the own class, series of truncation, and circles, in the scripts that generate images."""

import click.testing
import numpy as np
import pytest
import torch

import gen_video
import generate
import style_mixing
from generation import latents
from generation.circular_walk import CircularWalk
from tests.small_generators import (
    NAMES,
    assert_same_image,
    assert_usage_error,
    make_generator,
    make_stylegan3_generator,
    read_images,
    write_networks,
)
from torch_utils import images


def make_conditional():
    return make_generator(c_dim=3, w_avg=0.5)


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    return write_networks(
        tmp_path_factory.mktemp('networks'),
        {
            'plain': make_generator(w_avg=0.5),
            'named': (make_conditional(), {'class_names': NAMES}),
            'stylegan3': make_stylegan3_generator(),
        },
    )


def invoke(command, *arguments):
    return click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])


def run(command, *arguments):
    result = invoke(command, *arguments)
    assert result.exit_code == 0, result.output
    return result


def one_hot(*indices):
    return torch.eye(3)[list(indices)]


def class_mean(G, index):
    """The mean of w of a class, by the formula: over many z, one at a time in float64."""
    z = np.random.RandomState(123).randn(10_000, G.z_dim).astype(np.float32)
    w = G.mapping(torch.from_numpy(z), one_hot(index).expand(10_000, -1))[:, 0]
    return w.double().mean(dim=0).float()


def image_of(G, ws):
    return images.to_uint8(G.synthesis(ws, noise_mode='const'))[0].permute(1, 2, 0).numpy()


def z_of(seed, z_dim=8):
    return torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim))


# ---------------------------------------------------------------------------------------------------------------------
# Towards the class


def test_center_of_a_class():
    G = make_conditional()
    centers = latents.truncation_center(G, one_hot(2, 0, 2), 'class')
    for center, index in zip(centers, (2, 0, 2)):
        torch.testing.assert_close(center, class_mean(G, index), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(centers[0], centers[1])
    assert latents.truncation_center(G, one_hot(1), 'mean') is None
    assert latents.truncation_center(make_generator(), torch.zeros(1, 0), 'class') is None


def truncated(G, seed, index, psi, cutoff):
    w = G.mapping(z_of(seed), one_hot(index))
    moved = class_mean(G, index) + psi * (w - class_mean(G, index))
    return torch.cat([moved[:, :cutoff], w[:, cutoff:]], dim=1)


def test_generate_truncates_towards_the_class(networks, tmp_path):
    options = [f'--network={networks.named}', f'--outdir={tmp_path}', '--seeds=4', '--class=dog']
    run(generate.main, *options, '--trunc=0.3', '--trunc-to=class', '--trunc-cutoff=4')
    expected = image_of(make_conditional(), truncated(make_conditional(), 4, 1, 0.3, 4))
    assert_same_image(read_images(tmp_path)['seed0004.png'], expected)


def test_mixing_truncates_each_towards_its_class(networks, tmp_path):
    options = [f'--network={networks.named}', f'--outdir={tmp_path}', '--rows=4', '--cols=5', '--class=dog']
    run(style_mixing.main, *options, '--col-class=airplane', '--trunc=0.3', '--trunc-to=class')
    G = make_conditional()
    for name, index in (('4-4.png', 1), ('5-5.png', 0)):
        expected = image_of(G, truncated(G, int(name[0]), index, 0.3, G.num_ws))
        assert_same_image(read_images(tmp_path)[name], expected)


def test_video_truncates_each_keyframe_towards_its_class(networks):
    G = make_conditional()
    truncation = latents.Truncation((0.3,), 4, 'class')
    keys = gen_video.keys_of_seeds(G, [4, 5], [0, 1], one_hot(1, 0), truncation, None)
    expected = torch.cat([truncated(G, 4, 1, 0.3, 4), truncated(G, 5, 0, 0.3, 4)])
    np.testing.assert_allclose(keys.ws, expected, rtol=1e-4, atol=1e-5)


def test_notices(networks, tmp_path):
    options = [f'--outdir={tmp_path}', '--seeds=0', '--trunc-to=class']
    result = run(generate.main, f'--network={networks.plain}', '--trunc=0.5', *options)
    assert '--trunc-to=class is ignored, since the network has no classes' in result.stderr
    result = run(generate.main, f'--network={networks.named}', '--class=0', *options)
    assert '--trunc-to has no effect, since --trunc is 1' in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Series


@pytest.mark.parametrize('name, make', [
    ('plain', lambda: make_generator(w_avg=0.5)), ('stylegan3', make_stylegan3_generator),
])  # fmt: skip
def test_series_of_each_seed(name, make, networks, tmp_path):
    network = f'--network={getattr(networks, name)}'
    run(generate.main, network, '--seeds=2,7', '--trunc=0,0.5,-1', f'--outdir={tmp_path / "a"}', '--batch=4')
    run(generate.main, network, '--seeds=2,7', '--trunc=0,0.5,-1', f'--outdir={tmp_path / "b"}', '--grid=3x2')
    files, G = read_images(tmp_path / 'a'), make()
    side = G.img_resolution
    grid = read_images(tmp_path / 'b')['grid.png']
    assert len(files) == 6
    for row, seed in enumerate((2, 7)):
        for column, psi in enumerate((0, 0.5, -1)):
            expected = image_of(G, G.mapping(z_of(seed), None, truncation_psi=psi))
            assert_same_image(files[f'seed{seed:04d}-trunc{psi:g}.png'], expected)
            cell = grid[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert_same_image(cell, expected)


def test_series_in_videos_are_keyframes_of_each_seed(networks, tmp_path):
    G = make_generator(w_avg=0.5)
    truncation = latents.Truncation((0.0, 1.0))
    keys = gen_video.keys_of_seeds(G, [2, 7], range(4), torch.zeros(1, 0), truncation, None)
    expected = [G.mapping(z_of(seed), None, truncation_psi=psi)[0] for seed in (2, 7) for psi in (0, 1)]
    np.testing.assert_allclose(keys.ws, torch.stack(expected), rtol=1e-5, atol=1e-5)
    options = [f'--network={networks.plain}', f'--output={tmp_path / "v.mp4"}', '--frames=2']
    result = run(gen_video.main, *options, '--seeds=2', '--trunc=0,1')
    assert '4 frames' in result.stdout
    assert_usage_error(invoke(gen_video.main, *options, '--seeds=2'), 'Too few seeds')
    grid = invoke(gen_video.main, *options, '--seeds=2,3,4', '--trunc=0,1', '--grid=4x1')
    assert_usage_error(grid, '6 keyframes of 3 seeds with 2 values of --trunc cannot be divided evenly')


def test_mistakes_in_series(networks, tmp_path):
    options = [f'--network={networks.plain}', f'--outdir={tmp_path}', '--seeds=0']
    for value in ('0,', 'a', '0,nan', '1,inf'):
        assert_usage_error(invoke(generate.main, *options, f'--trunc={value}'), "'--trunc'")
    assert_usage_error(invoke(generate.main, *options, '--trunc=0.5,0.5'), "'--trunc': a value occurs twice")
    assert_usage_error(invoke(generate.main, *options, '--trunc=0,1', '--grid=1x1'), '2 images of 1 seeds')


# ---------------------------------------------------------------------------------------------------------------------
# Circles


def test_a_circle_begins_at_the_seed_and_keeps_its_length():
    points = np.concatenate([latents.z_on_circle(5, 512, turns) for turns in (0, 0.25, 0.5, 0.75, 1)])
    np.testing.assert_array_equal(points[0], latents.z_of_seed(5, 512)[0])
    np.testing.assert_allclose(points[2], -points[0], atol=1e-12)
    np.testing.assert_allclose(points[4], points[0], atol=1e-12)
    across = np.random.RandomState(5).randn(2, 512)[1]
    np.testing.assert_allclose(points[1], across, atol=1e-12)


def test_generate_walks_in_circles(networks, tmp_path):
    options = [f'--network={networks.plain}', '--seeds=3', '--trunc=0.8']
    run(generate.main, *options, '--circle=4', f'--outdir={tmp_path / "a"}')
    run(generate.main, *options, f'--outdir={tmp_path / "b"}')
    files = read_images(tmp_path / 'a')
    assert list(files) == [f'seed0003-turn{turn:03d}.png' for turn in range(4)]
    assert_same_image(files['seed0003-turn000.png'], read_images(tmp_path / 'b')['seed0003.png'])
    G = make_generator(w_avg=0.5)
    ws = G.mapping(-z_of(3), None, truncation_psi=0.8)
    assert_same_image(files['seed0003-turn002.png'], image_of(G, ws))


def test_latents_of_a_circular_video():
    G = make_conditional()
    offset = torch.ones(G.num_ws, G.w_dim)
    walk = CircularWalk(G, [3, 9], one_hot(1, 2), latents.Truncation((0.5,), None, 'class'), 6, offset)
    chunks = np.concatenate([chunk.ws for chunk in walk.chunks(4)]).reshape(6, 2, G.num_ws, G.w_dim)
    for frame in (0, 3, 5):
        for cell, (seed, index) in enumerate(((3, 1), (9, 2))):
            z = torch.from_numpy(latents.z_on_circle(seed, 8, frame / 6))
            mean = class_mean(G, index)
            expected = mean + 0.5 * (G.mapping(z, one_hot(index)) - mean) + 1
            np.testing.assert_allclose(chunks[frame, cell], expected[0], rtol=1e-4, atol=1e-5)


def test_circular_video(networks, tmp_path, read_video):
    options = [f'--network={networks.named}', '--circle=1', f'--output={tmp_path / "v.mp4"}']
    run(gen_video.main, *options, '--seeds=1,2', '--class=dog,airplane', '--grid=2x1', '--frames=5', '--enlarge=2')
    assert read_video(tmp_path / 'v.mp4').shape == (5, 32, 64, 3)


@pytest.mark.parametrize('arguments, hint', [
    (['--seeds=1,2'], '2 seeds for the video: use one for each image of --grid, here 1.'),
    (['--projected-w=x.npz'], 'circles are in z'),
    (['--seeds=1', '--trunc=0,1'], 'use a single value of --trunc'),
    (['--seeds=1', '--num-keyframes=3'], 'a circle has no keyframes'),
])  # fmt: skip
def test_mistakes_with_circles(arguments, hint, networks, tmp_path):
    options = [f'--network={networks.plain}', '--circle=1', f'--output={tmp_path / "v.mp4"}']
    result = invoke(gen_video.main, *options, *arguments)
    assert_usage_error(result, hint)
    assert "'--circle'" in result.stderr
