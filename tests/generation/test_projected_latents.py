"""The file of projections, and the noise buffers that it stands in for."""

import click
import numpy as np
import pytest
import torch

from generation import projected_latents
from training.networks_stylegan2 import Generator

NAMES = ['b4.conv1.noise_const', 'b8.conv0.noise_const', 'b8.conv1.noise_const']


@pytest.fixture(scope='module')
def G():
    torch.manual_seed(1)
    options = dict(mapping_kwargs={'num_layers': 1}, synthesis_kwargs={'channel_base': 32, 'channel_max': 4})
    return Generator(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1, **options).requires_grad_(False)


def make(count, names=NAMES, seed=0):
    random = np.random.RandomState(seed)
    sizes = {name: int(name[1]) for name in names}
    noise = {name: random.randn(count, size, size).astype(np.float32) for name, size in sizes.items()}
    return projected_latents.Projections(random.randn(count, 4, 4).astype(np.float32), noise)


def assert_equal(first, second):
    np.testing.assert_array_equal(first.ws, second.ws)
    assert list(first.noise) == list(second.noise)
    for name in first.noise:
        np.testing.assert_array_equal(first.noise[name], second.noise[name])


@pytest.mark.parametrize('names', [NAMES, NAMES[1:2], []])
def test_what_is_written_is_read(G, tmp_path, names):
    made = make(3, names)
    projected_latents.write(tmp_path / 'deep' / 'w.npz', made)
    assert_equal(projected_latents.read(tmp_path / 'deep' / 'w.npz', G), made)
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['w.npz']


def test_the_file_is_what_other_tools_read(tmp_path):
    made = make(2)
    projected_latents.write(tmp_path / 'w.npz', made)
    with np.load(tmp_path / 'w.npz', allow_pickle=False) as content:
        assert content.files == ['w', *(f'noise/{name}' for name in NAMES)]
        assert content['w'].dtype == np.float32 and (content['w'] == made.ws).all()


def test_the_published_file_has_no_noise(G, tmp_path):
    w = np.random.RandomState(0).randn(1, 4, 4)
    np.savez(tmp_path / 'w.npz', w=w)
    found = projected_latents.read(str(tmp_path / 'w.npz'), G)
    assert len(found) == 1 and found.noise == {} and found.ws.dtype == np.float32
    np.testing.assert_allclose(found.ws, w, rtol=1e-6)


def test_other_arrays_may_lie_beside(G, tmp_path):
    np.savez(tmp_path / 'w.npz', w=np.zeros([1, 4, 4]), loss=np.zeros(7))
    assert projected_latents.read(tmp_path / 'w.npz', G).noise == {}


def test_the_noise_stands_in_the_buffers_inside_and_the_networks_own_outside(G):
    made = make(3, NAMES[:2])
    before = {name: buffer.clone() for name, buffer in projected_latents.noise_buffers(G).items()}
    assert list(before) == NAMES
    with pytest.raises(KeyError), projected_latents.noise_of(G, made, 2):
        inside = projected_latents.noise_buffers(G)
        for name in NAMES[:2]:
            assert (inside[name].numpy() == made.noise[name][2]).all()
        assert torch.equal(inside[NAMES[2]], before[NAMES[2]])
        raise KeyError
    for name, buffer in projected_latents.noise_buffers(G).items():
        assert torch.equal(buffer, before[name])


def test_changes_inside_do_not_reach_the_projections(G):
    made = make(1)
    copy = made.noise[NAMES[0]].copy()
    with projected_latents.noise_of(G, made, 0):
        G.synthesis.b4.conv1.noise_const.zero_()
    np.testing.assert_array_equal(made.noise[NAMES[0]], copy)


def test_join_and_pick(G):
    with_noise, without = make(2, NAMES[:1], seed=1), make(1, [], seed=2)
    joined = projected_latents.join([without, with_noise], G)
    np.testing.assert_array_equal(joined.ws, np.concatenate([without.ws, with_noise.ws]))
    own = G.synthesis.b4.conv1.noise_const.numpy()
    np.testing.assert_array_equal(joined.noise[NAMES[0]], [own, *with_noise.noise[NAMES[0]]])
    assert_equal(projected_latents.pick(joined, [1, 2]), with_noise)
    assert_equal(projected_latents.pick(without, [0, 0]), projected_latents.join([without, without], G))


def test_the_option_is_named(G, tmp_path):
    for call in (lambda: projected_latents.read(tmp_path / 'w.npz', G, '--other'),
                 lambda: projected_latents.check_readable(tmp_path / 'w.npz', '--other')):  # fmt: skip
        with pytest.raises(click.BadParameter) as error:
            call()
        assert error.value.format_message().startswith("Invalid value for '--other'")


def test_damaged_files_are_refused_in_one_sentence(G, tmp_path):
    path = tmp_path / 'w.npz'
    projected_latents.write(path, make(1))
    content = path.read_bytes()
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.randint(len(content), size=3):
            damaged[position] = random.randint(256)
        path.write_bytes(damaged[: random.choice([len(content), random.randint(len(content))])])
        try:
            projected_latents.read(path, G)
        except click.BadParameter as error:
            refused += 1
            assert '\n' not in error.format_message()
    assert refused > 250
