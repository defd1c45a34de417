"""Persistent objects as other versions and forks of the published code write them."""

import collections
import copy
import io
import json
import pathlib
import pickle

import numpy as np
import pytest
import torch

import dnnlib
import legacy
from network_files import safetensors_files
from torch_utils import misc
from training.augment import AugmentPipe
from training.networks_stylegan2 import Discriminator, Generator
from training.run.snapshots import save_network_pickle


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


def set_half_precision_as_other_programs_do(data):
    """What the published code and its successors do with force_fp16=True, in both of their layouts."""
    for key in ('G', 'D', 'G_ema'):
        old = data[key]
        kwargs = copy.deepcopy(old.init_kwargs)
        options = kwargs.get('synthesis_kwargs', kwargs)
        options.num_fp16_res = 4
        options.conv_clamp = 256
        assert kwargs != old.init_kwargs
        new = type(old)(**kwargs).eval().requires_grad_(False)
        misc.copy_params_and_buffers(old, new, require_all=True)
        for (name, tensor), (_, stored) in zip(misc.named_params_and_buffers(new), misc.named_params_and_buffers(old)):
            assert torch.equal(tensor, stored), name
        assert getattr(new, 'synthesis', new).b16.use_fp16


def snapshot(**options):
    """The content of a snapshot whose options come from JSON, as those of a resumed run do."""
    options = json.loads(json.dumps(dict(z_dim=8, w_dim=8, mapping_kwargs={'num_layers': 2}, **options)))
    common = dict(c_dim=0, img_resolution=16, img_channels=3)
    D = Discriminator(channel_base=128, channel_max=8, epilogue_kwargs=json.loads('{"mbstd_group_size": 2}'), **common)
    return {'G': Generator(**options, **common), 'D': D, 'G_ema': Generator(**options, **common)}


@pytest.mark.parametrize('options', [
    {'synthesis_kwargs': {'channel_base': 128, 'channel_max': 8}},
    {'synthesis_kwargs': {}},
    {'channel_base': 128, 'channel_max': 8},
    {},
], ids=['nested', 'empty', 'loose', 'none'])  # fmt: skip
def test_other_programs_set_half_precision_in_what_is_written(tmp_path, options):
    data = snapshot(**options)
    set_half_precision_as_other_programs_do(data)
    save_network_pickle(tmp_path / 'snapshot.pkl', data, {'path': 'x.zip'})
    safetensors_files.write(legacy.open_network(str(tmp_path / 'snapshot.pkl')), tmp_path / 'n.safetensors')
    legacy.save_network_pkl(legacy.open_network(str(tmp_path / 'snapshot.pkl')), tmp_path / 'again.pkl')
    legacy.save_network_pkl(legacy.open_network(str(tmp_path / 'n.safetensors')), tmp_path / 'back.pkl')
    for name in ('snapshot.pkl', 'again.pkl', 'back.pkl'):
        with open(tmp_path / name, 'rb') as f:
            opened = pickle.load(f)
        set_half_precision_as_other_programs_do(opened)
        opened['G'].init_kwargs.mapping_kwargs.num_layers = opened['D'].init_kwargs.epilogue_kwargs.x = 1
        assert torch.equal(opened['G'].synthesis.b4.const, data['G'].synthesis.b4.const)


def test_published_pickle_is_rewritten_with_easy_dicts(golden_path):
    for name in ('published-format-stylegan2-cond-16.pkl', 'tf-stylegan2-ada-cond-16.pkl'):
        data = legacy.open_network(str(golden_path(name)))
        set_half_precision_as_other_programs_do(pickle.loads(pickle.dumps(data)))


@pytest.mark.parametrize('frozen', [{'freeze_layers': 0, 'freeze_embed': False}, {'freeze_layers': 1},
                                    {'freeze_layers': 2, 'freeze_embed': True}], ids=str)  # fmt: skip
def test_frozen_layers_of_the_mapping_network(frozen):
    """Options of stylegan3-fun; frozen tensors may be buffers or parameters in the file."""
    kwargs = dict(c_dim=3, mapping_kwargs={'num_layers': 3, **frozen})
    free, G = make(c_dim=3, mapping_kwargs={'num_layers': 3}), make(**kwargs)
    free._init_kwargs['mapping_kwargs'].update(frozen)  # all tensors are parameters
    for stored in (G, free):
        back = read({'G_ema': stored})['G_ema']
        assert {name for name, _ in back.named_parameters()} == {name for name, _ in G.named_parameters()}
        z, c = torch.ones(2, 8), torch.eye(3)[:2]
        assert torch.equal(back(z, c, noise_mode='const'), make(c_dim=3, mapping_kwargs={'num_layers': 3})(
            z, c, noise_mode='const'))  # fmt: skip


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
