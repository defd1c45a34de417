"""Persistent objects: what is in their pickles, that they open anywhere, and that copies need none of it."""

import collections
import copy
import io
import json
import pickle
import pickletools
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import dnnlib
from torch_utils import persistence
from training.networks_stylegan2 import FullyConnectedLayer, Generator

ROOT = Path(__file__).resolve().parents[2]

LAYER_MODULE = """
import torch
from torch_utils import persistence

CALLS = []

@persistence.persistent_class
class Scale(torch.nn.Module):
    def __init__(self, factor, options=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(float(factor)))
        if options:
            options['touched'] = True

    def forward(self, x):
        return x * self.weight

@persistence.persistent_class
class ScaleTwice(Scale):
    def __init__(self, name):
        super().__init__(2, options={'from': 'base'})
        self.name = name

class Undecorated(Scale):
    pass

@persistence.persistent_class
class Plain:
    def __init__(self, *args, **kwargs):
        self.value = len(args)
"""


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """A module of persistent classes that is imported from a file of its own."""
    name = f'layers_{tmp_path.name}'.replace('-', '_')
    (tmp_path / f'{name}.py').write_text(LAYER_MODULE + f'\nNAME = {name!r}\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__(name)
    sys.modules.pop(name, None)


@pytest.fixture
def hooks(monkeypatch):
    """Hooks registered in a test end with it."""
    monkeypatch.setattr(persistence, '_import_hooks', [])
    return persistence._import_hooks


def meta_of(obj):
    function, arguments = obj.__reduce_ex__(4)[:2]
    assert function is persistence._reconstruct_persistent_obj
    return arguments[0]


def test_pickle_holds_the_published_meta(layers):
    meta = meta_of(layers.Scale(3))
    assert set(meta) == {'type', 'version', 'module_src', 'class_name', 'state'}
    assert (meta['type'], meta['version'], meta['class_name']) == ('class', 6, 'Scale')
    assert meta['module_src'] == Path(layers.__file__).read_text()
    assert meta['state']['_init_args'] == (3,)
    assert type(meta['state']['_init_kwargs']) is dict


def test_pickle_names_nothing_of_this_project_but_the_reconstruction_and_easy_dicts(layers):
    content = pickle.dumps(layers.Scale(factor=dnnlib.EasyDict(a=1).a, options={'b': {}}))
    texts = [argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)]
    assert {'torch_utils.persistence', 'dnnlib.util', 'EasyDict'} <= set(texts)
    assert [text for text in texts if text.startswith('dnnlib')] == ['dnnlib.util'] and layers.NAME not in texts


def test_dicts_inside_arguments_are_stored_as_easy_dicts(layers):
    given = [{'deep': {'deeper': [collections.OrderedDict(a=1)]}}]
    layer = layers.Plain(given, options=json.loads('{"b": {"c": [{"d": 1}]}}'))
    for obj in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        state = meta_of(obj)['state']
        (argument,), options = state['_init_args'], state['_init_kwargs']['options']
        argument[0].deep.deeper[0].a = options.b.more = options.b.c[0].d = 2
        assert type(options) is type(argument[0].deep.deeper[0]) is dnnlib.EasyDict
        assert obj.init_kwargs.options.b.c[0].d == 1  # what is pickled is a copy
    assert type(given[0]['deep']) is dict


def test_plain_dicts_of_older_pickles_become_easy_dicts(layers):
    layer = layers.Scale(3, options={'b': {}})
    layer.__dict__.update(
        _init_args=({'a': {}},), _init_kwargs={'options': {'b': {}}}
    )  # as earlier versions wrote them
    layer.init_args[0].a.x = layer.init_kwargs.options.b.x = 1
    back = pickle.loads(pickle.dumps(layer))
    back._init_args[0].a.x = back._init_kwargs['options'].b.x = 1


def test_arguments_are_kept_as_they_were_given(layers):
    options = {'list': [1, 2]}
    layer = layers.Scale(5, options=options)
    options['list'].append(3)
    assert layer.init_args == (5,)
    assert layer.init_kwargs == {'options': {'list': [1, 2]}}
    assert isinstance(layer.init_kwargs, dnnlib.EasyDict)
    layer.init_kwargs.options['list'].clear()
    assert layer.init_kwargs.options == {'list': [1, 2]}


def test_derived_class_keeps_its_own_arguments(layers):
    layer = layers.ScaleTwice('x')
    assert (layer.init_args, layer.init_kwargs) == (('x',), {})
    back = pickle.loads(pickle.dumps(layer))
    assert type(back).__name__ == 'ScaleTwice' and back.name == 'x' and back(torch.ones(1)) == 2


def test_is_persistent(layers):
    assert persistence.is_persistent(layers.Scale) and persistence.is_persistent(layers.Scale(1))
    assert not persistence.is_persistent(layers.Undecorated(1)) and not persistence.is_persistent(torch.nn.ReLU())


def test_subclass_without_decorator_is_pickled_by_reference(layers):
    back = pickle.loads(pickle.dumps(layers.Undecorated(4)))
    assert type(back) is layers.Undecorated and back(torch.ones(1)) == 4


def test_classes_look_as_without_decorator(layers):
    assert layers.Scale.__name__ == 'Scale' and layers.Scale.__module__ == layers.NAME
    assert repr(layers.Scale(1)) == 'Scale()'


def test_unpickling_beside_the_same_source_gives_the_imported_class(layers):
    assert type(pickle.loads(pickle.dumps(layers.Scale(1)))) is layers.Scale


def test_foreign_source_is_run_once_and_pickled_again_unchanged(layers):
    meta = meta_of(layers.Scale(7))
    meta['module_src'] += '\nclass OnlyThere: pass\nCALLS.append(1)\n'
    first = persistence._reconstruct_persistent_obj(meta)
    second = persistence._reconstruct_persistent_obj(meta)
    assert type(first) is type(second) is not layers.Scale
    assert sys.modules[type(first).__module__].CALLS == [1]
    assert first(torch.ones(1)) == 7

    again = pickle.loads(pickle.dumps(first))
    assert type(again) is type(first)
    assert meta_of(again)['module_src'] == meta['module_src']


def test_source_that_fails_leaves_no_module_behind(layers):
    meta = {**meta_of(layers.Scale(1)), 'module_src': 'raise LookupError("inside")'}
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(LookupError, match='inside'):
            persistence._reconstruct_persistent_obj(meta)
    assert set(sys.modules) == before


@pytest.mark.parametrize('change, message', [
    ({'type': 'function'}, "type 'function'"),
    ({'class_name': 'Missing'}, "no class 'Missing'"),
])  # fmt: skip
def test_meta_that_cannot_be_rebuilt(layers, change, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        persistence._reconstruct_persistent_obj({**meta_of(layers.Scale(1)), **change})


def test_import_hook_sees_and_changes_what_is_loaded(layers, hooks):
    seen = []

    @persistence.import_hook
    def rename(meta):
        seen.append((meta.type, meta.version, meta.class_name, meta.state._init_args))
        meta.module_src = meta.module_src.replace('x * self.weight', 'x * self.weight + 1')
        return meta

    back = pickle.loads(pickle.dumps(layers.Scale(3)))
    assert seen == [('class', 6, 'Scale', (3,))]
    assert back(torch.ones(1)) == 4


def test_import_hook_must_return_meta(layers, hooks):
    content = pickle.dumps(layers.Scale(3))
    persistence.import_hook(lambda meta: None)
    with pytest.raises(TypeError, match='must return the meta'):
        pickle.loads(content)
    with pytest.raises(TypeError, match='expects a function'):
        persistence.import_hook('name')


def test_copies_share_nothing_and_call_no_hook(layers, hooks):
    persistence.import_hook(lambda meta: pytest.fail('a copy is no import'))
    layer = layers.Scale(3)
    layer.itself = [layer]
    clone = copy.deepcopy(layer)
    assert type(clone) is layers.Scale and clone.init_args == (3,)
    assert clone.itself[0] is clone
    with torch.no_grad():
        layer.weight.fill_(9)
    assert clone.weight == 3


@pytest.mark.parametrize('argument', [print, object(), torch.nn.ReLU()], ids=['function', 'object', 'module'])
def test_arguments_that_are_not_plain_data_are_refused_when_pickled(layers, argument):
    obj = layers.Plain({'deep': [argument]})
    with pytest.raises(pickle.PicklingError, match='only plain data'):
        pickle.dumps(obj)


def test_plain_arguments_pass(layers):
    arguments = (None, True, 1, 2.0, 'text', b'bytes', [1], (2,), {3}, np.float64(1), np.arange(2), torch.ones(2))
    assert pickle.loads(pickle.dumps(layers.Plain(*arguments))).value == len(arguments)


def test_class_without_readable_source_says_so():
    namespace = {'__name__': 'typed_by_hand', 'persistence': persistence}
    exec('@persistence.persistent_class\nclass Typed:\n    pass', namespace)
    with pytest.raises(pickle.PicklingError, match='persistent classes must be defined in a file'):
        pickle.dumps(namespace['Typed']())


def test_network_survives_pickle_to_the_bit():
    G = small_generator()
    back = pickle.loads(pickle.dumps(G))
    assert back.init_kwargs == G.init_kwargs
    assert torch.equal(back(torch.ones(1, 8), None, noise_mode='const'), G(torch.ones(1, 8), None, noise_mode='const'))


def test_pickle_opens_in_another_folder_with_only_dnnlib_and_torch_utils(tmp_path):
    """The way users of the published code open pickles: plain pickle.load, no `training` package anywhere."""
    for package in ('dnnlib', 'torch_utils'):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns('__pycache__'))
    G = small_generator()
    z = torch.linspace(-1, 1, 8).unsqueeze(0)
    with open(tmp_path / 'network.pkl', 'wb') as f:
        pickle.dump({'G_ema': G}, f)
    program = textwrap.dedent("""
        import pickle, sys, torch
        G = pickle.load(open('network.pkl', 'rb'))['G_ema']
        assert 'training' not in sys.modules
        torch.save(G(torch.linspace(-1, 1, 8).unsqueeze(0), None, noise_mode='const'), 'image.pt')
        pickle.dump({'G_ema': G}, open('again.pkl', 'wb'))
    """)
    result = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    image = G(z, None, noise_mode='const')
    torch.testing.assert_close(torch.load(tmp_path / 'image.pt', weights_only=True), image, rtol=0, atol=1e-6)
    with open(tmp_path / 'again.pkl', 'rb') as f:
        assert torch.equal(pickle.load(f)['G_ema'].mapping.fc0.weight, G.mapping.fc0.weight)


def test_layer_through_a_file_object():
    file = io.BytesIO()
    layer = FullyConnectedLayer(3, 2, activation='lrelu')
    pickle.dump(layer, file)
    file.seek(0)
    assert torch.equal(pickle.load(file)(torch.ones(1, 3)), layer(torch.ones(1, 3)))


def small_generator():
    torch.manual_seed(0)
    options = dict(mapping_kwargs={'num_layers': 2}, synthesis_kwargs={'channel_base': 64, 'channel_max': 8})
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, **options)
    return G.eval().requires_grad_(False)
