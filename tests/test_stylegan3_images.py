"""The scripts that make images, with networks of StyleGAN3: transforms, motion, mixing and projection."""

import json

import click.testing
import numpy as np
import pytest
import torch

import gen_video
import generate
import projector
import style_mixing
from generation import latents, rendering
from generation.image_transforms import make_transform
from generation.projection import optimization
from tests.small_generators import (
    assert_same_image,
    assert_usage_error,
    make_generator,
    make_stylegan3_generator,
    read_images,
    write_networks,
)

NO_LABEL = torch.zeros(1, 0)


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    networks = {'rotating': make_stylegan3_generator(), 'gray': make_stylegan3_generator(1), 'older': make_generator()}
    return write_networks(tmp_path_factory.mktemp('networks'), networks)


@pytest.fixture
def run(tmp_path):
    """Function: (script, network, *arguments) → (result of the command, output folder)."""

    def invoke(script, network, *arguments):
        folder = tmp_path / 'out'
        output = f'--output={folder}/video.mp4' if script is gen_video else f'--outdir={folder}'
        options = [f'--network={network}', output, '--device=cpu', '--trust-pickle', *map(str, arguments)]
        return click.testing.CliRunner().invoke(script.main, options), folder

    return invoke


def images_of(G, seed, *transforms, **kwargs):
    """Return the images [H, W, C] of a seed, with each of the transforms."""
    pictures = rendering.render_seeds(G, [seed], NO_LABEL, transforms=transforms or [None], **kwargs)
    return [picture.transpose(1, 2, 0) for picture in pictures]


# ---------------------------------------------------------------------------------------------------------------------
# generate.py


def test_one_transform_applies_to_every_seed(run, networks):
    result, folder = run(generate, networks.rotating, '--seeds=3-5', '--translate', '-0.25,0.125', '--rotate=-90')
    assert (result.exit_code, result.stderr) == (0, ''), result.output
    files = read_images(folder)
    assert list(files) == ['seed0003.png', 'seed0004.png', 'seed0005.png']
    G = make_stylegan3_generator()
    for seed, picture in zip((3, 4, 5), files.values()):
        own, expected = images_of(G, seed, None, make_transform((-0.25, 0.125), -90))
        assert_same_image(picture, expected)
        assert (own != expected).mean() > 0.5


def test_lists_give_several_images_of_each_seed(run, networks):
    arguments = ['--seeds=3,8', '--translate=0,0/0.1,0/0.2,0', '--rotate=30']
    result, folder = run(generate, networks.rotating, *arguments)
    assert result.exit_code == 0, result.output
    files = read_images(folder)
    assert list(files) == [f'seed000{seed}-0{index}.png' for seed in (3, 8) for index in range(3)]
    transforms = [make_transform((x, 0), 30) for x in (0, 0.1, 0.2)]
    expected = [image for seed in (3, 8) for image in images_of(make_stylegan3_generator(), seed, *transforms)]
    for picture, image in zip(files.values(), expected):
        assert_same_image(picture, image)
    result, folder = run(generate, networks.rotating, *arguments, '--grid=3x2')
    strips = np.concatenate([np.concatenate(list(files.values())[i : i + 3], axis=1) for i in (0, 3)])
    np.testing.assert_array_equal(read_images(folder)['grid.png'], strips)


def test_without_the_options_the_transform_of_the_file_applies(run, tmp_path):
    G = make_stylegan3_generator()
    G.synthesis.input.transform[0, 2] = 0.25
    path = write_networks(tmp_path, {'moved': G}).moved
    for arguments, transform in (([], make_transform((-0.25, 0))), (['--translate=0,0'], make_transform())):
        result, folder = run(generate, path, '--seeds=3', *arguments)
        assert result.exit_code == 0, result.output
        assert_same_image(read_images(folder)['seed0003.png'], images_of(G, 3, transform)[0])


def test_projected_latents_are_transformed_too(run, networks, tmp_path):
    ws = latents.ws_of_seeds(make_stylegan3_generator(), [3, 8], NO_LABEL)
    np.savez(tmp_path / 'w.npz', w=ws.numpy())
    result, folder = run(generate, networks.rotating, f'--projected-w={tmp_path / "w.npz"}', '--rotate=0,90')
    assert result.exit_code == 0, result.output
    files = read_images(folder)
    assert list(files) == [f'proj{index:02d}-0{turn}.png' for index in range(2) for turn in range(2)]
    expected = images_of(make_stylegan3_generator(), 8, make_transform((0, 0), 90))[0]
    assert_same_image(files['proj01-01.png'], expected)


# ---------------------------------------------------------------------------------------------------------------------
# gen_video.py


@pytest.mark.parametrize('loop', [True, False])
def test_videos_spin_and_pan(run, read_video, networks, loop):
    arguments = ['--seeds=3,3', '--frames=4', '--pan=0.25,0', '--enlarge=4', f'--loop={int(loop)}']
    result, folder = run(gen_video, networks.gray, *arguments, f'--spin={-1 if loop else 0.5}')
    assert result.exit_code == 0, result.output
    frames = read_video(folder / 'video.mp4').mean(axis=3)
    looped = {0: (0, 0), 2: (0.125, -90), 4: (0.25, -180), 6: (0.125, -270)}
    places = looped if loop else {0: (0, 0), 2: (0.125, 90), 4: (0.25, 180)}
    assert len(frames) == (8 if loop else 5)
    transforms = [make_transform((x, 0), degrees) for x, degrees in places.values()]
    expected = images_of(make_stylegan3_generator(1), 3, *transforms)
    differences = [
        [np.abs(frames[index] - image[:, :, 0].repeat(4, 0).repeat(4, 1)).mean() for image in expected]
        for index in places
    ]
    for index, row in enumerate(differences):
        assert row[index] < 2 and all(other > 2 * row[index] for k, other in enumerate(row) if k != index), differences


# ---------------------------------------------------------------------------------------------------------------------
# style_mixing.py and projector.py


def test_mixing_exchanges_the_first_layers(run, networks):
    arguments = ['--rows=3', '--cols=8', '--styles=0-2', '--trunc=0.5', '--trunc-cutoff=2']
    result, folder = run(style_mixing, networks.rotating, *arguments)
    assert (result.exit_code, result.stderr) == (0, ''), result.output
    G = make_stylegan3_generator()
    row, col = latents.ws_of_seeds(G, [3, 8], NO_LABEL, truncation_psi=0.5, truncation_cutoff=2)
    row[:3] = col[:3]
    assert_same_image(read_images(folder)['3-8.png'], rendering.render(G, row[None])[0].transpose(1, 2, 0))


@pytest.mark.parametrize('space', ['w', 'w+'])
def test_projection_approaches_an_image_of_the_network(space):
    G = make_stylegan3_generator()
    settings = optimization.ProjectionSettings(num_steps=60, space=space)
    target = images_of(G, 3)[0].transpose(2, 0, 1)
    features = lambda x: x.flatten(1) / 255  # noqa: E731
    result = optimization.project(G, target, features, optimization.measure_w(G, NO_LABEL, 100), settings)
    assert result.best.distance < 0.1 * result.distances[0] and result.best.noise == {}
    assert (result.best.ws == result.best.ws[:, :1]).all() == (space == 'w')


@pytest.mark.parametrize('space', ['w', 'w+'])
def test_generate_renders_what_the_projector_found(run, networks, tmp_path, monkeypatch, space):
    picture = tmp_path / 'target.png'
    run(generate, networks.rotating, '--seeds=3')[1].joinpath('seed0003.png').rename(picture)

    def features(x):
        return x.flatten(1) / 255

    detector = type('Detector', (), {'name': 'pixels', 'label': None, 'sha256': ''})
    monkeypatch.setattr(projector, 'open_detector', lambda *_args: detector)
    monkeypatch.setattr(projector, 'features_of', lambda _detector: features)
    options = [f'--target={picture}', '--num-steps=3', '--save-video=0', f'--space={space}', '--noise-weight=1']
    result, folder = run(projector, networks.rotating, *options)
    assert result.exit_code == 0, result.output
    assert '--noise-weight is ignored, since the network has no noise' in result.stderr
    assert json.loads((folder / 'projection.json').read_text())['space'] == space
    with np.load(folder / 'projected_w.npz') as arrays:
        assert arrays.files == ['w']
    expected = (folder / 'proj.png').read_bytes()
    result, folder = run(generate, networks.rotating, f'--projected-w={folder / "projected_w.npz"}')
    assert result.exit_code == 0 and (folder / 'proj00.png').read_bytes() == expected


# ---------------------------------------------------------------------------------------------------------------------
# Options without effect, and errors


@pytest.mark.parametrize('script, arguments', [
    (generate, ['--seeds=0', '--noise-mode=random']),
    (style_mixing, ['--rows=0', '--cols=1', '--noise-mode=none']),
    (gen_video, ['--seeds=0,1', '--frames=1', '--noise-mode=random']),
])  # fmt: skip
def test_networks_without_noise_say_so(run, networks, script, arguments):
    result, _ = run(script, networks.rotating, *arguments)
    assert result.exit_code == 0, result.output
    assert f'{arguments[-1]} is ignored, since the network has no noise' in result.stderr


@pytest.mark.parametrize('generation', ['rotating', 'older'])
def test_trunc_cutoff_truncates_the_first_layers_only(run, networks, generation):
    result, folder = run(generate, getattr(networks, generation), '--seeds=3', '--trunc=0.5', '--trunc-cutoff=2')
    assert (result.exit_code, result.stderr) == (0, ''), result.output
    G = make_generator() if generation == 'older' else make_stylegan3_generator()
    full, truncated = (latents.ws_of_seeds(G, [3], NO_LABEL, psi) for psi in (1, 0.5))
    full[:, :2] = truncated[:, :2]
    picture = read_images(folder)['seed0003.png']
    assert_same_image(picture, rendering.render(G, full)[0].transpose(1, 2, 0))
    result, folder = run(generate, getattr(networks, generation), '--seeds=3', '--trunc-cutoff=2')
    assert result.exit_code == 0 and '--trunc-cutoff has no effect, since --trunc is 1' in result.stderr


def test_trunc_cutoff_in_videos(run, read_video, networks):
    arguments = ['--seeds=3,3', '--frames=1', '--trunc=-1', '--trunc-cutoff=3', '--enlarge=4']
    result, folder = run(gen_video, networks.gray, *arguments)
    assert result.exit_code == 0, result.output
    G = make_stylegan3_generator(1)
    variants = [images_of(G, 3, truncation=latents.Truncation((-1,), cutoff))[0] for cutoff in (3, None)]
    frame = read_video(folder / 'video.mp4')[0].mean(axis=2)
    near, far = (np.abs(frame - picture[:, :, 0].repeat(4, 0).repeat(4, 1)).mean() for picture in variants)
    assert near < 2 and far > 2 * near


USAGE_ERRORS = {
    'no transform: translate': (generate, 'older', ['--seeds=0', '--translate=0,0'], "'--translate': this network can"),
    'no transform: rotate': (generate, 'older', ['--seeds=0', '--rotate=0'], "'--rotate': this network cannot"),
    'no transform: pan': (gen_video, 'older', ['--seeds=0,1', '--pan=0.1,0'], "'--pan': this network cannot"),
    'no transform: spin': (gen_video, 'older', ['--seeds=0,1', '--spin=1'], "'--spin': this network cannot"),
    'one number': (generate, 'rotating', ['--seeds=0', '--translate=0.1'], "two numbers such as 0.2,-0.1, got '0.1'"),
    'three numbers': (generate, 'rotating', ['--seeds=0', '--translate=0,0/1,2,3'], "got '1,2,3'"),
    'empty element': (generate, 'rotating', ['--seeds=0', '--translate=0,0/'], "got ''"),
    'infinite': (generate, 'rotating', ['--seeds=0', '--translate=0,inf'], 'from -1000 to 1000'),
    'not a number': (generate, 'rotating', ['--seeds=0', '--translate=nan,0'], 'from -1000 to 1000'),
    'far away': (gen_video, 'rotating', ['--seeds=0,1', '--pan=0,-1e9'], 'from -1000 to 1000'),
    'list for pan': (gen_video, 'rotating', ['--seeds=0,1', '--pan=0,0/1,0'], "got '0,0/1,0'"),
    'angle is text': (generate, 'rotating', ['--seeds=0', '--rotate=left'], "got 'left'"),
    'angle is infinite': (generate, 'rotating', ['--seeds=0', '--rotate=1,inf'], 'not finite'),
    'lists of other lengths': (generate, 'rotating', ['--seeds=0', '--translate=0,0/1,1', '--rotate=1,2,3'], '3 rota'),
    'too many': (generate, 'rotating', ['--seeds=0', f'--rotate={"1," * 1000}1'], '1,001 values are too many'),
    'too many images': (generate, 'rotating', ['--seeds=0-9999998', '--rotate=1,2'], '19,999,998 images of'),
    'grid too small': (generate, 'rotating', ['--seeds=0,1', '--rotate=1,2', '--grid=3x1'], '4 images of 2 seeds'),
    'half a turn': (gen_video, 'rotating', ['--seeds=0,1', '--spin=0.5'], "'--spin': 0.5 turns do not close a loop"),
    'turns without end': (gen_video, 'rotating', ['--seeds=0,1', '--spin=inf'], 'inf'),
    'cutoff: generate': (generate, 'rotating', ['--seeds=0', '--trunc-cutoff=9'], 'this network has 8 layers'),
    'cutoff: older': (generate, 'older', ['--seeds=0', '--trunc-cutoff=7'], 'this network has 6 layers, use 0 to 6'),
    'cutoff: negative': (generate, 'rotating', ['--seeds=0', '--trunc-cutoff=-1'], "'--trunc-cutoff'"),
    'cutoff: video': (gen_video, 'rotating', ['--seeds=0,1', '--trunc-cutoff=9'], "'--trunc-cutoff': 9 is too large"),
    'cutoff: mixing': (style_mixing, 'rotating', ['--rows=0', '--cols=1', '--trunc-cutoff=9'], "'--trunc-cutoff': 9"),
}  # fmt: skip


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, networks, case):
    script, network, arguments, hint = USAGE_ERRORS[case]
    result, folder = run(script, getattr(networks, network), *arguments)
    assert_usage_error(result, hint)
    assert not folder.exists()
