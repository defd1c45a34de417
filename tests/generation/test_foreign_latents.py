"""Latents of other programs, in the files that these programs write."""

import numpy as np
import pytest
import torch

from dnnlib.errors import InvalidArgument
from generation import foreign_latents, projected_latents
from tests.small_generators import make_generator

NUM_WS, W_DIM = 6, 8
WP = np.random.RandomState(0).randn(2, NUM_WS, W_DIM).astype(np.float32)
W = np.random.RandomState(1).randn(2, W_DIM).astype(np.float32)
REPEATED = np.repeat(W[:, None], NUM_WS, axis=1)


@pytest.fixture(scope='module')
def G():
    return make_generator()


def npz(path, **arrays):
    np.savez(path, **arrays)


def npy(path, array):
    with open(path, 'wb') as file:  # np.save would change the name
        np.save(file, array)


def pt(path, value, **options):
    torch.save(value, path, **options)


OLD = {'_use_new_zipfile_serialization': False}
FILES = {
    'npz w+': (lambda p: npz(p, w=WP), WP),
    'npz w': (lambda p: npz(p, w=W), REPEATED),
    'npz w of one axis less': (lambda p: npz(p, w=WP[0]), WP[:1]),
    'npz of e4e': (lambda p: npz(p, latents=WP.astype(np.float64)), WP),
    'npz without names': (lambda p: npz(p, x=WP), WP),
    'npy w+': (lambda p: npy(p, WP), WP),
    'npy w': (lambda p: npy(p, W), REPEATED),
    'npy in Fortran order': (lambda p: npy(p, np.asfortranarray(WP)), WP),
    'npy of one w': (lambda p: npy(p, W[0]), REPEATED[:1]),
    'pt w+': (lambda p: pt(p, torch.from_numpy(WP)), WP),
    'pt of half precision': (lambda p: pt(p, torch.from_numpy(WP).half()), WP.astype(np.float16)),
    'pt parameter': (lambda p: pt(p, torch.nn.Parameter(torch.from_numpy(WP))), WP),
    'pt before 1.6': (lambda p: pt(p, torch.from_numpy(WP), **OLD), WP),
    'pt of PTI': (lambda p: pt(p, torch.from_numpy(WP[:1])), WP[:1]),
    'pt list': (lambda p: pt(p, list(torch.from_numpy(WP))), WP),
    'pt of stylegan2-pytorch': (
        lambda p: pt(
            p,
            {
                f'{i}.png': {'img': torch.zeros(3, 8, 8), 'latent': torch.from_numpy(WP[i]), 'noise': [torch.zeros(4)]}
                for i in range(2)
            },
        ),
        WP,
    ),
    'pt dict': (lambda p: pt(p, {'img': torch.zeros(3, 8, 8), 'latent': torch.from_numpy(W)}), REPEATED),
}


@pytest.mark.parametrize('name', FILES)
def test_files_of_other_programs(name, G, tmp_path):
    write, expected = FILES[name]
    path = tmp_path / 'latents'  # whatever its extension
    path = tmp_path / 'latents.npz' if name.startswith('npz') else path
    write(path)
    projected_latents.check_readable(path)
    found = projected_latents.read(path, G)
    assert found.ws.dtype == np.float32 and not found.noise
    np.testing.assert_array_equal(found.ws, expected)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ('something was unpickled',)


def text(path, content):
    path.write_bytes(content)


@pytest.mark.parametrize('write, hint', [
    (lambda p: npy(p, WP[:, :3]), r'latents of shape \[2, 3, 8\] .* needs numbers of shape \[n, 6, 8\] or \[n, 8\]'),
    (lambda p: npy(p, WP[:0]), r'shape \[0, 6, 8\]'),
    (lambda p: npy(p, np.full([1, 6, 8], np.nan)), 'not finite'),
    (lambda p: npy(p, np.full([1, 6, 8], 1e300)), 'not finite'),
    (lambda p: npy(p, np.array([Bomb()], dtype=object)), 'not an npy file of plain numbers'),
    (lambda p: npy(p, np.array(['text'])), r'latents of shape \[1\]'),
    (lambda p: text(p, b'\x93NUMPY\x01\0'), 'not an npy file of plain numbers'),
    (lambda p: pt(p, Bomb()), 'cannot be read without running code in it'),
    (lambda p: pt(p, {'state': 1}), 'no latents of one shape .it contains state'),
    (lambda p: pt(p, [torch.zeros(6, 8), torch.zeros(8)]), 'no latents of one shape'),
    (lambda p: pt(p, torch.zeros(1, 18, 512)), r'latents of shape \[1, 18, 512\]'),
    (lambda p: text(p, b'PK\x03\x04 nothing'), 'is not an npz file of plain arrays'),
    (lambda p: text(p, b'GIF89a'), 'and no .npy or .pt file of latents either'),
    (lambda p: text(p, b''), 'and no .npy or .pt file of latents either'),
    (lambda p: npz(p.with_suffix('.npz'), a=WP, b=WP) or p.with_suffix('.npz').rename(p), "no array 'w'"),
])  # fmt: skip
def test_files_that_are_not_latents(write, hint, G, tmp_path):
    path = tmp_path / 'latents'
    write(path)
    with pytest.raises(InvalidArgument, match=hint) as caught:
        projected_latents.check_readable(path)
        projected_latents.read(path, G)
    assert caught.value.argument == 'projected_w' and '\n' not in str(caught.value)


def test_cut_files(G, tmp_path):
    path = tmp_path / 'latents'
    for write in (lambda p: npy(p, WP), lambda p: pt(p, torch.from_numpy(WP)), lambda p: pt(p, WP.tolist(), **OLD)):
        write(path)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(InvalidArgument):
            projected_latents.read(path, G)


def test_large_files_are_not_read(tmp_path):
    path = tmp_path / 'latents.pt'
    pt(path, torch.zeros(100, 6, 8))
    with pytest.raises(foreign_latents.UnknownLatents, match='at most 1,000 are read'):
        foreign_latents.read(path, 1000)
    npy(path, WP)
    with pytest.raises(foreign_latents.UnknownLatents, match='at most 100 are read'):
        foreign_latents.read(path, 100)


@pytest.mark.parametrize('shape, expected', [
    ([8], [1, 6, 8]), ([6, 8], [1, 6, 8]), ([5, 8], [5, 6, 8]), ([3, 1, 8], [3, 6, 8]), ([3, 6, 8], [3, 6, 8]),
    ([3, 2, 8], None), ([8, 6], None), ([1, 1, 6, 8], None), ([], None),
])  # fmt: skip
def test_shapes(shape, expected):
    found = foreign_latents.as_ws(np.zeros(shape), 6, 8)
    assert (found if found is None else list(found.shape)) == expected
