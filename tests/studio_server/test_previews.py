"""Pictures of a slider that moves."""

import io
import itertools

import numpy as np
import PIL.Image
import pytest
import torch

from studio_server import picture_specs, pictures
from studio_server.networks import NetworkStore
from studio_server.previews import PreviewPace
from tests.small_generators import make_generator, make_stylegan3_generator, write_networks
from torch_utils.images import to_uint8
from training.networks_stylegan2 import Generator

LAYERS = dict(mapping_kwargs={'num_layers': 1}, synthesis_kwargs={'channel_base': 512, 'channel_max': 4})


def make_network(resolution, **layers):
    return Generator(
        z_dim=4, c_dim=0, w_dim=4, img_resolution=resolution, img_channels=3, **{**LAYERS, **layers}
    ).eval()


def test_they_are_the_images_that_the_network_makes_on_its_way(tmp_path):
    networks = write_networks(tmp_path, {'large': make_network(256)})
    network = NetworkStore([str(networks.large)], torch.device('cpu'), 2**30).get(0)
    latent = picture_specs.latent_of(network, picture_specs.parse({'network': 0}), None, lambda edits, G: None)
    whole, half, quarter = (pictures.render(network, latent, left_out) for left_out in range(3))
    assert [image.shape for image in (whole, half, quarter)] == [(3, 256, 256), (3, 128, 128), (3, 64, 64)]
    assert PIL.Image.open(io.BytesIO(pictures.encode(whole, 'png'))).size == (256, 256)

    smaller = make_network(128)
    smaller.load_state_dict({name: value for name, value in network.G.state_dict().items() if 'b256' not in name})
    ws = torch.from_numpy(latent.projected.ws)[:, : smaller.num_ws]
    assert np.array_equal(half, to_uint8(smaller.synthesis(ws, noise_mode='const'))[0].numpy())


def test_some_networks_have_none(tmp_path):
    resnet = {**LAYERS['synthesis_kwargs'], 'architecture': 'resnet'}
    generators = {
        'small': make_generator(),
        'stylegan3': make_stylegan3_generator(),
        'resnet': make_network(256, synthesis_kwargs=resnet),
        'wide': make_network((128, 256)),
    }
    networks = write_networks(tmp_path, generators)
    paths = [str(getattr(networks, name)) for name in generators]
    store = NetworkStore(paths, torch.device('cpu'), 2**30)
    described = [store.get(index).describe()['has_preview'] for index in range(len(paths))]
    assert described == [False, False, False, True]
    assert [store.get(index).preview_pace.left_out for index in range(len(paths))] == [0, 0, 0, 1]


def sizes_of(pace, *times):
    """Render 50 previews, whose seconds are `times` by the blocks that are left out; return what was left out."""
    sizes = []
    for _ in range(50):
        sizes.append(pace.left_out)
        pace.note(times[pace.left_out])
    return sizes


@pytest.mark.parametrize(
    'times, expected',
    [
        ((0.02, 0.01, 0.008, 0.005), 0),
        ((0.10, 0.05, 0.03, 0.01), 1),
        ((0.10, 0.07, 0.04, 0.02), 2),
        ((0.60, 0.40, 0.20, 0.10), 3),
        ((0.062, 0.011, 0.01, 0.01), 1),  # the whole image is tried once
    ],
    ids=['whole', 'half', 'quarter', 'slow', 'tried'],
)
def test_they_are_as_large_as_the_device_can_make_often_enough(times, expected):
    sizes = sizes_of(PreviewPace(3), *times)
    assert sizes[0] == 1 and sizes[-1] == expected
    assert sum(before != after for before, after in itertools.pairwise(sizes)) <= 2


def test_they_become_larger_again_when_the_device_has_become_free():
    pace = PreviewPace(3)
    busy = (0.30, 0.15, 0.08, 0.04)
    assert sizes_of(pace, *busy)[-1] == 3
    assert sizes_of(pace, *(seconds / 4 for seconds in busy))[-1] == 1


def test_they_become_larger_again_when_the_device_became_free_while_the_sizes_were_compared():
    pace = PreviewPace(3)
    for seconds in (0.3, 0.3, 0.3):
        pace.note(seconds)
    sizes = [size for _ in range(4) for size in sizes_of(pace, 0.02, 0.01, 0.005, 0.003)]
    assert sizes[0] == 2 and sizes[-1] == 0
    assert sum(before != after for before, after in itertools.pairwise(sizes)) == 2


def test_one_slow_picture_does_not_change_the_size():
    pace = PreviewPace(3)
    for seconds in (0.04, 0.04, 0.04, 2.0, 0.04, 0.04):
        pace.note(seconds)
    assert pace.left_out == 1
