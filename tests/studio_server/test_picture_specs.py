"""What a picture's description means: the same as for the scripts, and a command that makes it again."""

import shlex

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import generate
import style_mixing
from generation.image_transforms import is_supported
from studio_server import commands, picture_specs, pictures
from studio_server.made_files import all_made
from studio_server.networks import NetworkStore
from studio_server.shelf import Shelf
from tests.small_generators import NAMES, make_generator, make_stylegan3_generator, write_networks


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp('networks')
    networks = write_networks(
        folder,
        {
            'named': (make_generator(c_dim=3, w_avg=1), {'class_names': NAMES}),
            'turning': make_stylegan3_generator(),
        },
    )
    return NetworkStore([str(networks.named), str(networks.turning)], torch.device('cpu'), 2**30)


@pytest.mark.parametrize(
    'spec',
    [
        {'seed': 3},
        {'seed': 3, 'x': 2, 'y': 1},
        {'seed': 4, 'psi': 0.5, 'cutoff': 2, 'class': 'dog'},
        {'seed': 4, 'psi': 0.5, 'center': 'class', 'class': '#2'},
        {'seed': 4, 'psi': -0.5, 'label': [0.5, 0.25, 1]},
        {'seed': 4, 'noise_mode': 'random'},
        {'seed': 4, 'noise_mode': 'random', 'noise_seed': 9},
        {'seed': 4, 'noise_mode': 'random', 'noise_strength': 0.5},
        {'seed': 4, 'noise_mode': 'none', 'noise_strength': 0.5},
        {'seed': 4, 'noise_strength': 2},
        {'seed': 4, 'x': 0.25, 'y': 0.5},
        {'seed': 4, 'x': 0.25, 'noise_mode': 'random'},
        {'seed': 4, 'mix': [{'seed': 7, 'layers': [0, 3]}], 'noise_mode': 'random'},
        {'seed': 4, 'mix': [{'seed': 7, 'layers': []}]},
        {'seed': 4, 'mix': [{'seed': 7, 'layers': [0]}, {'seed': 8, 'layers': [1, 2]}], 'noise_mode': 'random'},
        {'network': 1, 'seed': 2, 'shift': [0.1, -0.2], 'rotation': 15.5},
        {'network': 1, 'seed': 2, 'rotation': -30, 'mix': [{'seed': 7, 'layers': [4]}]},
    ],
    ids=str,
)
def test_the_command_makes_the_same_picture(store, tmp_path, spec):
    spec = picture_specs.parse({'network': 0, **spec})
    network = store.get(spec['network'])
    shelf = Shelf(all_made(tmp_path / 'with blank')['kept'])
    latent = picture_specs.latent_of(network, spec, shelf.read, lambda edits, G: None)
    image = pictures.render(network, latent)
    command = commands.picture_command(network, spec, str)
    kept = shelf.keep(latent.projected, image, 'x', network=network.path, spec=spec, command=command)
    words = shlex.split(shelf.entry(kept)['command'])
    script = {'generate.py': generate.main, 'style_mixing.py': style_mixing.main}[words[1]]
    options = [word for word in words[2:] if not word.startswith('--outdir')]
    result = click.testing.CliRunner().invoke(script, [*options, f'--outdir={tmp_path}', '--device=cpu', '--batch=1'])
    assert result.exit_code == 0, result.output
    mixed = [f'{spec["seed"]}-{part["seed"]}.png' for part in spec['mix'][:1]]
    names = [*mixed, 'proj00.png', f'seed{picture_specs.seed_of(spec) or 0:04d}.png']
    path = next(tmp_path / name for name in names if (tmp_path / name).exists())
    pixels = np.asarray(PIL.Image.open(path))
    np.testing.assert_array_equal(pixels, image.transpose(1, 2, 0))


def test_the_plane_is_continuous_and_meets_seeds(store):
    network = store.get(0)

    def ws(**place):
        spec = picture_specs.parse({'network': 0, 'seed': 5, **place})
        return picture_specs.latent_of(network, spec, None, lambda edits, G: None).projected.ws

    np.testing.assert_allclose(ws(x=1 - 1e-6), ws(x=1), atol=1e-4)
    np.testing.assert_array_equal(ws(x=1), ws(seed=6))
    np.testing.assert_array_equal(ws(y=1), ws(seed=1005))
    assert np.abs(ws(x=0.5) - ws()).max() > 0.01


def test_networks_are_put_out_by_least_use(tmp_path):
    networks = write_networks(tmp_path, {name: make_generator() for name in 'abc'})
    size = sum(tensor.nbytes for tensor in make_generator().state_dict().values())
    store = NetworkStore([str(networks.a), str(networks.b), str(networks.c)], torch.device('cpu'), 2 * size + size // 2)
    first, second = store.get(0), store.get(1)
    assert store.get(0) is first
    store.get(2)
    assert store.get(0) is first and store.get(1) is not second
    assert store.num_bytes <= 2 * size + size // 2
    assert not is_supported(first.G)
    with pytest.raises(ValueError, match='no network 3'):
        store.get(3)
