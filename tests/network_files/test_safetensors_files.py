"""Safetensors files of networks: the same networks to the bit; damaged and foreign files in one sentence."""

import io
import json
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

import legacy
from network_files import safetensors_files
from training.augment import AugmentPipe
from training.networks_stylegan2 import Discriminator, Generator


def networks(**extra):
    torch.manual_seed(0)
    common = dict(c_dim=3, img_resolution=16, img_channels=1)
    options = dict(mapping_kwargs={'num_layers': 2}, synthesis_kwargs={'channel_base': 128, 'channel_max': 8})
    return {
        'G': Generator(z_dim=8, w_dim=8, **common, **options).eval(),
        'G_ema': Generator(8, 3, 8, 16, 1, **options).eval(),
        'D': Discriminator(channel_base=128, channel_max=8, **common).eval(),
        'augment_pipe': AugmentPipe(xflip=1),
        'training_set_kwargs': dict(class_name='training.dataset.ImageFolderDataset', path='x.zip', max_size=None),
        **extra,
    }


def read(content, **kwargs):
    return legacy.load_network_pkl(io.BytesIO(content), **kwargs)


@pytest.fixture
def written(tmp_path):
    safetensors_files.write(networks(class_names=('a', 'b', 'c'), kimg=np.float32(1.5)), tmp_path / 'n.safetensors')
    return (tmp_path / 'n.safetensors').read_bytes()


def test_round_trip(written):
    data, expected = read(written), networks()
    assert data['class_names'] == ['a', 'b', 'c'] and data['kimg'] == 1.5
    assert data['training_set_kwargs'] == expected['training_set_kwargs']
    for key in ('G', 'D', 'G_ema', 'augment_pipe'):
        ours, theirs = data[key].state_dict(), expected[key].state_dict()
        assert type(data[key]) is type(expected[key]) and not data[key].training
        assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    z, c = torch.randn([2, 8]), torch.eye(3)[:2]
    with torch.no_grad():
        assert torch.equal(data['G_ema'](z, c, noise_mode='const'), expected['G_ema'](z, c, noise_mode='const'))


def test_other_programs_can_read_the_tensors(written):
    content = safetensors.torch.load(written)
    assert torch.equal(content['G_ema.synthesis.b4.const'], networks()['G_ema'].synthesis.b4.const)
    length = int.from_bytes(written[:8], 'little')
    description = json.loads(json.loads(written[8 : 8 + length])['__metadata__']['networks'])['G_ema']
    assert description['class_name'] == 'Generator' and description['init_args'] == [8, 3, 8, 16, 1]


def test_force_fp16_and_trust(written):
    assert read(written, force_fp16=True)['G_ema'].synthesis.num_fp16_res == 4
    assert read(written, trust=True)['G_ema'].synthesis.num_fp16_res == 0


def test_values_that_json_does_not_support_are_named(tmp_path):
    for extra, message in (
        ({'odd': {'deep': {1}}}, r'odd\.deep is a set'),
        ({'odd': torch.nn.ReLU()}, "'ReLU'"),
        ({'odd': float('nan')}, 'write a pickle .*NaN'),
    ):
        with pytest.raises(ValueError, match=message):
            safetensors_files.write(networks(**extra), tmp_path / 'n.safetensors')
    assert list(tmp_path.iterdir()) == []


def change_metadata(content, change):
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    return struct.pack('<Q', len(raw)) + raw + content[8 + length :]


def change_network(key, value):
    def change(header):
        described = json.loads(header['__metadata__']['networks'])
        described['G_ema'][key] = value
        header['__metadata__']['networks'] = json.dumps(described)

    return change


@pytest.mark.parametrize('change, message', [
    (lambda header: header.pop('__metadata__'), 'not one of networks'),
    (lambda header: header['__metadata__'].update(version='7'), 'version 7'),
    (lambda header: header['__metadata__'].update(networks='{'), 'damaged'),
    (lambda header: header['__metadata__'].update(networks='[]'), 'damaged'),
    (lambda header: header['__metadata__'].pop('other'), 'damaged'),
    (lambda header: header['__metadata__'].update(networks='[' * 100_000), 'damaged.*nested'),
    (lambda header: header['__metadata__'].update(other='{"a": NaN}'), 'damaged.*NaN'),
    (lambda header: header['__metadata__'].update(other='{"a": 1e999}'), 'damaged.*range'),
    (lambda header: header.pop('G_ema.synthesis.b4.const'), 'damaged'),
    (lambda header: header.update({'X.y': header.pop('G_ema.synthesis.b4.const')}), r'X\.y does not belong'),
    (change_network('class_name', 'os.system'), "'os.system', which this version does not support"),
    (change_network('class_name', ['x']), 'does not support'),
    (change_network('init_kwargs', {'mapping_kwargs': {'num_layers': 10**9}}), 'more layers than'),
    (change_network('init_args', [8, 3, 8, 2**40, 1]), 'do not match|cannot be built'),
    (change_network('init_args', [8, 3]), 'cannot be built'),
    (change_network('init_args', 7), 'arguments'),
])  # fmt: skip
def test_damaged_and_foreign_files(written, change, message):
    with pytest.raises(legacy.NetworkPickleError, match=message):
        read(change_metadata(written, change))


def test_file_truncated_anywhere(written):
    for length in np.random.RandomState(0).randint(1, len(written), size=30):
        with pytest.raises(legacy.NetworkPickleError):
            read(written[:length])
