"""Persistent objects as other versions and forks of the published code write them."""

import collections
import io
import pathlib
import pickle

import numpy as np
import pytest
import torch

import dnnlib
import legacy
from training.augment import AugmentPipe
from training.networks_stylegan2 import Discriminator, Generator


def make(**kwargs):
    torch.manual_seed(0)
    options = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs={'num_layers': 2},
                   synthesis_kwargs={'channel_base': 128, 'channel_max': 8})  # fmt: skip
    return Generator(**{**options, **kwargs})


def read(data, protocol=4):
    return legacy.load_network_pkl(io.BytesIO(pickle.dumps(data, protocol=protocol)))


def assert_same_network(actual, expected):
    z = torch.randn([2, expected.z_dim], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(actual(z, None, noise_mode='const'), expected.eval()(z, None, noise_mode='const'))


@pytest.mark.parametrize('keys', [['G_ema'], ['G', 'D', 'G_ema'], ['G_ema', 'training_set_kwargs']])
def test_missing_keys_are_none(keys):
    everything = {'G': make(), 'G_ema': make(), 'training_set_kwargs': {'path': 'x.zip'},
                  'D': Discriminator(0, 16, 3, channel_base=128, channel_max=8)}  # fmt: skip
    data = read({key: everything[key] for key in keys})
    assert {key for key, value in data.items() if value is not None} == set(keys)
    assert {'G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs'} <= data.keys()


def test_one_network_under_two_keys_stays_one():
    G = make()
    data = read({'G': G, 'G_ema': G})
    assert data['G'] is data['G_ema']


def test_arguments_of_older_and_newer_versions():
    """Older ones lack keywords such as fp16_channels_last, newer ones have them; both mean the same network."""
    G = make(synthesis_kwargs=dict(channel_base=128, channel_max=8, fp16_channels_last=True, architecture='skip'))
    assert_same_network(read({'G_ema': G})['G_ema'], G)
    for key in ('fp16_channels_last', 'architecture'):
        del G._init_kwargs['synthesis_kwargs'][key]
    assert_same_network(read({'G_ema': G})['G_ema'], G)


def test_positional_arguments():
    G = Generator(8, 0, 8, 16, 1, {'num_layers': 1}, {'channel_base': 64})
    assert_same_network(read({'G_ema': G})['G_ema'], G)


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_numpy_numbers_among_arguments_and_attributes(protocol):
    G = make(z_dim=np.int64(8), synthesis_kwargs=dict(channel_base=np.int64(128), channel_max=np.int32(8)))
    G.synthesis.b8.conv0.weight_gain = np.float64(0.5)
    G.noise = np.arange(3.0)
    assert_same_network(read({'G_ema': G}, protocol)['G_ema'], make())


def test_easy_dicts_among_arguments():
    G = make()
    G._init_kwargs = dnnlib.EasyDict(G._init_kwargs, mapping_kwargs=dnnlib.EasyDict(num_layers=2))
    assert_same_network(read({'G_ema': G})['G_ema'], make())


def test_harmless_attributes_of_forks():
    G = make()
    G.note, G.version, G.device = 'from a fork', (1, 2), torch.device('cuda')
    G.history = collections.defaultdict(list, loss=[1.5])
    G.path, G.dtype, G.span = pathlib.PurePosixPath('a/b'), torch.float16, range(3)
    G.synthesis.extra = {'nested': [None, {'more': 1}]}
    back = read({'G_ema': G})['G_ema']
    assert_same_network(back, make())
    assert not hasattr(back, 'note')


def test_buffers_that_were_kept_out_of_state_dicts():
    G = make()
    G.mapping._non_persistent_buffers_set.add('w_avg')
    G.mapping.w_avg.fill_(2)
    assert (read({'G_ema': G})['G_ema'].mapping.w_avg == 2).all()


def test_values_in_half_precision_become_single():
    G = make().half()
    back = read({'G_ema': G})['G_ema']
    assert back.mapping.fc0.weight.dtype == torch.float32
    assert torch.equal(back.mapping.fc0.weight, G.mapping.fc0.weight.float())


def pickle_by_name(module_name, network, protocol):
    """A pickle in which modules are named by module and class, without source."""

    def stand_in(part):
        cls = type(type(part).__name__, (), {'__module__': module_name})
        obj = cls()
        obj.__dict__ = {**part.__dict__, '_modules': {name: stand_in(m) for name, m in part._modules.items()}}
        return obj

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if getattr(obj, '__module__', None) == module_name:
                self.write(f'c{module_name}\n{obj.__name__}\n'.encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch, type: save_global}

    file = io.BytesIO()
    Pickler(file, protocol).dump({'G_ema': stand_in(network)})
    return file.getvalue()


@pytest.mark.parametrize('protocol', [0, 2])
@pytest.mark.parametrize('module_name', ['training.networks', 'training.networks_stylegan2'])
def test_classes_named_by_module_without_source(module_name, protocol):
    content = pickle_by_name(module_name, make(), protocol)
    assert module_name.encode() in content and b'persistence' not in content
    assert_same_network(legacy.load_network_pkl(io.BytesIO(content))['G_ema'], make())


def test_classes_of_other_modules_are_refused_with_their_name():
    content = pickle_by_name('somebody.networks', make(), 2)
    with pytest.raises(legacy.NetworkPickleError, match=r'somebody\.networks\.Generator.*--trust-pickle'):
        legacy.load_network_pkl(io.BytesIO(content))


def test_augment_pipe_keeps_its_strength_and_options():
    pipe = AugmentPipe(xflip=1, contrast=1, contrast_std=0.25)
    pipe.p.copy_(torch.tensor(0.375))
    back = read({'G_ema': make(), 'augment_pipe': pipe})['augment_pipe']
    assert float(back.p) == 0.375 and back.contrast_std == 0.25


@pytest.mark.parametrize('change, message', [
    (lambda G: G.synthesis._modules.update(b4='text'), r'synthesis\.b4 is a str instead of a module'),
    (lambda G: G.mapping._parameters.update(x=1.5), r'mapping\.x is a float, not a tensor'),
    (lambda G: G.__dict__.update(_buffers=[1]), '_buffers of a Generator is damaged'),
    (lambda G: G._modules.update(again=G._modules['mapping']), 'instead of a module'),
    (lambda G: G.__dict__.update(_init_kwargs=None), 'arguments of its constructor are missing'),
    (lambda G: G._init_kwargs['mapping_kwargs'].update(num_layers=10**9), 'more layers than'),
    (lambda G: G._init_kwargs.update(img_resolution=2**40), 'is missing|cannot be built'),
    (lambda G: G._init_kwargs.update(z_dim=2**70), '64 bits'),
], ids=['module', 'parameter', 'buffers', 'twice', 'no-arguments', 'layers', 'size', 'integer'])  # fmt: skip
def test_damaged_objects(change, message):
    G = make()
    change(G)
    with pytest.raises(legacy.NetworkPickleError, match=message):
        read({'G_ema': G})
