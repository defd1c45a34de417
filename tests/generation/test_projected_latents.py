"""The file of projected latents, and the noise buffers that it replaces."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from dnnlib.errors import InvalidArgument
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
    return projected_latents.ProjectedLatents(random.randn(count, 4, 4).astype(np.float32), noise)


def assert_equal(first, second):
    np.testing.assert_array_equal(first.ws, second.ws)
    assert list(first.noise) == list(second.noise)
    for name in first.noise:
        np.testing.assert_array_equal(first.noise[name], second.noise[name])


@pytest.mark.parametrize('names', [NAMES, NAMES[1:2], []])
def test_reading_returns_what_was_written(G, tmp_path, names):
    made = make(3, names)
    projected_latents.write(tmp_path / 'deep' / 'w.npz', made)
    assert_equal(projected_latents.read(tmp_path / 'deep' / 'w.npz', G), made)
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['w.npz']


def test_the_format_of_the_file(tmp_path):
    made = make(2)
    projected_latents.write(tmp_path / 'w.npz', made)
    with np.load(tmp_path / 'w.npz', allow_pickle=False) as content:
        assert content.files == ['w', *(f'noise/{name}' for name in NAMES)]
        assert content['w'].dtype == np.float32 and (content['w'] == made.ws).all()


def test_files_that_python_2_has_written(G, tmp_path):
    file = io.BytesIO()
    np.save(file, np.ones([1, 4, 4]))
    content = file.getvalue().replace(b'(1, 4, 4), }  ', b'(1L, 4L, 4), }')
    assert b'4L' in content
    with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
        archive.writestr('w.npy', content)
    assert projected_latents.read(tmp_path / 'w.npz', G).ws.shape == (1, 4, 4)  # without a warning


def test_the_published_file_has_no_noise(G, tmp_path):
    w = np.random.RandomState(0).randn(1, 4, 4)
    np.savez(tmp_path / 'w.npz', w=w)
    read = projected_latents.read(str(tmp_path / 'w.npz'), G)
    assert len(read) == 1 and read.noise == {} and read.ws.dtype == np.float32
    np.testing.assert_allclose(read.ws, w, rtol=1e-6)


def test_other_arrays_are_ignored(G, tmp_path):
    np.savez(tmp_path / 'w.npz', w=np.zeros([1, 4, 4]), loss=np.zeros(7))
    assert projected_latents.read(tmp_path / 'w.npz', G).noise == {}


def test_the_noise_replaces_the_buffers_inside_the_context_only(G):
    made = make(3, NAMES[:2])
    before = {name: buffer.clone() for name, buffer in projected_latents.noise_buffers(G).items()}
    assert list(before) == NAMES
    with pytest.raises(KeyError), projected_latents.use_projected_noise(G, made, 2):
        inside = projected_latents.noise_buffers(G)
        for name in NAMES[:2]:
            assert (inside[name].numpy() == made.noise[name][2]).all()
        assert torch.equal(inside[NAMES[2]], before[NAMES[2]])
        raise KeyError
    for name, buffer in projected_latents.noise_buffers(G).items():
        assert torch.equal(buffer, before[name])


def test_changes_of_the_buffers_do_not_change_the_latents(G):
    made = make(1)
    copy = made.noise[NAMES[0]].copy()
    with projected_latents.use_projected_noise(G, made, 0):
        G.synthesis.b4.conv1.noise_const.zero_()
    np.testing.assert_array_equal(made.noise[NAMES[0]], copy)


def test_join_and_select(G):
    with_noise, without = make(2, NAMES[:1], seed=1), make(1, [], seed=2)
    joined = projected_latents.join([without, with_noise], G)
    np.testing.assert_array_equal(joined.ws, np.concatenate([without.ws, with_noise.ws]))
    own = G.synthesis.b4.conv1.noise_const.numpy()
    np.testing.assert_array_equal(joined.noise[NAMES[0]], [own, *with_noise.noise[NAMES[0]]])
    assert_equal(projected_latents.select(joined, [1, 2]), with_noise)
    assert_equal(projected_latents.select(without, [0, 0]), projected_latents.join([without, without], G))


def test_errors_name_the_argument(G, tmp_path):
    for check in (lambda path: projected_latents.read(path, G), projected_latents.check_readable):
        with pytest.raises(InvalidArgument, match='w.npz: No such file') as error:
            check(tmp_path / 'w.npz')
        assert error.value.argument == 'projected_w'


def test_damaged_files_are_refused_in_one_line(G, tmp_path):
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
        except InvalidArgument as error:
            refused += 1
            assert '\n' not in str(error)
    assert refused > 250


@pytest.mark.parametrize('kind', ['objects in an archive', 'objects', 'pickle'])
def test_a_file_is_not_unpickled(G, tmp_path, kind):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'),)

    path = tmp_path / 'projected_w.npz'
    with open(path, 'wb') as file:
        if kind == 'pickle':
            pickle.dump(Hostile(), file)
        else:
            (np.savez if kind.endswith('archive') else np.save)(file, np.array([Hostile()], dtype=object))
    if kind == 'objects in an archive':
        with zipfile.ZipFile(path) as archive:
            content = archive.read('arr_0.npy')
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('w.npy', content)
    with pytest.raises(ValueError, match='is not an np[yz] file of plain'):
        projected_latents.read(path, G)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('key', ['w', f'noise/{NAMES[0]}'])
@pytest.mark.parametrize(
    'count, hint', [(10**5, 'has|is not an npz'), (10**12, 'in all, but at most 536,870,912 are read')]
)
def test_shapes_are_checked_before_numbers_are_read(G, tmp_path, key, count, hint):
    path = tmp_path / 'w.npz'
    projected_latents.write(path, make(1))
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    shape = (count, G.num_ws, G.w_dim)
    np.lib.format.write_array_header_1_0(header, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in (contents | {f'{key}.npy': header.getvalue()}).items():
            archive.writestr(name, content)
    with pytest.raises(InvalidArgument, match=f'w.npz .*({hint})'):
        projected_latents.read(path, G)


def test_headers_that_are_not_python(tmp_path):
    """numpy reads headers with Python's tokenizer, which has errors of its own."""
    path = tmp_path / 'x.npz'
    for header in (
        '{',
        '(((',
        '"""',
        '{"descr": 3',
        '\\',
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
        '0' * 5000,
    ):
        with zipfile.ZipFile(path, 'w') as archive:
            text = header.ljust(60).encode()
            archive.writestr('w.npy', b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text)
        with pytest.raises(InvalidArgument, match='plain arrays'):
            projected_latents.check_readable(path)
