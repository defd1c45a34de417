"""Network pickles are opened without running anything in them, completely or not at all."""

import io
import os
import pickle

import numpy as np
import pytest
import torch

import legacy
from torch_utils import persistence
from training.augment import AugmentPipe
from training.networks_stylegan2 import Discriminator, Generator

GOLDEN_NAME = 'published-format-stylegan2-cond-16'


def make_networks(c_dim=0, **extra):
    torch.manual_seed(0)
    common = dict(c_dim=c_dim, img_resolution=16, img_channels=3)
    options = dict(mapping_kwargs={'num_layers': 2}, synthesis_kwargs={'channel_base': 128, 'channel_max': 8})
    G = Generator(z_dim=8, w_dim=8, **common, **options)
    D = Discriminator(channel_base=128, channel_max=8, **common)
    return {
        'G': G, 'D': D, 'G_ema': Generator(z_dim=8, w_dim=8, **common, **options), 'augment_pipe': AugmentPipe(xflip=1),
        'training_set_kwargs': dict(class_name='training.dataset.ImageFolderDataset', path='x.zip'), **extra,
    }  # fmt: skip


def read(data, **kwargs):
    content = data if isinstance(data, bytes) else pickle.dumps(data)
    return legacy.load_network_pkl(io.BytesIO(content), **kwargs)


def with_source(obj, source='raise LookupError("the embedded source was run")'):
    """Return a pickle of `obj` in which every persistent object has another source."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value):
            if isinstance(value, type) or not persistence.is_persistent(value):
                return NotImplemented
            function, (meta,) = value.__reduce_ex__(4)
            return function, ({**meta, 'module_src': source},)

    file = io.BytesIO()
    Pickler(file, protocol=4).dump(obj)
    return file.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Published pickles


def test_published_pickle_gives_the_published_numbers(golden, golden_path):
    expected = {key: torch.from_numpy(np.asarray(value)) for key, value in golden(f'{GOLDEN_NAME}.npz').items()}
    with open(golden_path(f'{GOLDEN_NAME}.pkl'), 'rb') as f:  # its embedded source raises
        data = legacy.load_network_pkl(f)
    for key in ('G', 'D', 'G_ema', 'augment_pipe'):
        assert not data[key].training
        assert all(not tensor.requires_grad and tensor.device.type == 'cpu' for tensor in data[key].parameters())

    image = data['G_ema'](expected['z'], expected['c'], noise_mode='const')
    assert (image - expected['img_const']).abs().max() <= 1e-4 * expected['img_const'].abs().max()
    logits = data['D'](expected['img_const'], expected['c'])
    assert (logits - expected['logits']).abs().max() <= 1e-4 * expected['logits'].abs().max()
    assert float(data['augment_pipe'].p) == float(expected['augment_p'])
    assert data['training_set_kwargs']['path'] == 'somewhere/ds.zip'


def test_own_pickle_is_read_exactly():
    data = make_networks(c_dim=3, class_names=['a', 'b', 'c'], progress={'kimg': np.float32(2.5)})
    back = read(with_source(data))
    assert list(back) == list(data) and back['class_names'] == ['a', 'b', 'c'] and back['progress'] == {'kimg': 2.5}
    for key in ('G', 'D', 'G_ema', 'augment_pipe'):
        assert type(back[key]) is type(data[key])
        ours, theirs = back[key].state_dict(), data[key].state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol(protocol):
    data = make_networks()
    back = read(pickle.dumps({'G_ema': data['G_ema']}, protocol=protocol))
    assert torch.equal(back['G_ema'].synthesis.b4.const, data['G_ema'].synthesis.b4.const)
    assert back['G'] is back['D'] is back['augment_pipe'] is back['training_set_kwargs'] is None


def test_synthesis_options_beside_the_others_as_stylegan3_writes_them():
    G = make_networks()['G']
    options = G._init_kwargs.pop('synthesis_kwargs')
    G._init_kwargs.update(options, fused_modconv_default='inference_only')
    back = read({'G_ema': G})['G_ema']
    assert back.synthesis.block_resolutions == [4, 8, 16]
    assert back.init_kwargs.synthesis_kwargs == options


def test_force_fp16_changes_only_the_precision():
    data = make_networks()
    for trust in (False, True):
        back = read(data, force_fp16=True, trust=trust)
        assert back['G'].synthesis.num_fp16_res == back['G_ema'].synthesis.num_fp16_res == 4
        assert back['G_ema'].synthesis.b16.use_fp16 and back['D'].b16.use_fp16
        assert torch.equal(back['G_ema'].synthesis.b16.conv0.weight, data['G_ema'].synthesis.b16.conv0.weight)


# ---------------------------------------------------------------------------------------------------------------------
# Files that are refused


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('function', [os.system, eval, exec, __import__, getattr, open, os.makedirs, torch.load],
                         ids=lambda function: function.__name__)  # fmt: skip
def test_calls_are_refused_by_name_and_not_made(tmp_path, function):
    target = tmp_path / 'made'
    code = f"__import__('os').makedirs({str(target)!r})"
    argument = {'system': f'mkdir {target}', 'makedirs': str(target), 'open': str(target)}.get(function.__name__, code)
    arguments = (argument, 'w') if function is open else (argument,)
    for data in ({'G_ema': Call(function, *arguments)}, make_networks(extra=[Call(function, *arguments)])):
        with pytest.raises(legacy.NetworkPickleError, match=rf'{function.__name__}.*--trust-pickle'):
            read(data)
    assert not target.exists()


def test_embedded_source_runs_only_when_trusted():
    content = with_source(make_networks())
    assert isinstance(read(content)['G_ema'], Generator)
    with pytest.raises(legacy.NetworkPickleError, match='LookupError.*embedded source was run'):
        read(content, trust=True)


def test_trusted_pickle_keeps_its_own_classes():
    source = pickle.loads(pickle.dumps(make_networks()['G']))
    meta = source.__reduce_ex__(4)[1][0]
    back = read(with_source({'G_ema': source}, meta['module_src'] + '\n# a fork\n'), trust=True)
    assert type(back['G_ema']) is not Generator and type(back['G_ema']).__name__ == 'Generator'
    assert not back['G_ema'].training


def test_hostile_pickle_inside_a_tensor_is_not_run(tmp_path):
    hostile = pickle.dumps(Call(os.makedirs, str(tmp_path / 'made')))
    with pytest.raises(legacy.NetworkPickleError, match='makedirs'):
        read({'G_ema': Call(torch.storage._load_from_bytes, hostile)})
    assert not (tmp_path / 'made').exists()


def test_unknown_class_is_named_with_its_path():
    content = with_source(make_networks()).replace(b'MinibatchStdLayer', b'MinibatchStdOther')
    with pytest.raises(legacy.NetworkPickleError, match=r"D\.b4\.mbstd.*'MinibatchStdOther'.*--trust-pickle"):
        read(content)


@pytest.mark.parametrize('change, message', [
    (lambda G: G.register_buffer('more', torch.zeros(1)), 'more is unknown'),
    (lambda G: G.mapping.fc0._parameters.pop('bias'), r'mapping\.fc0\.bias is missing'),
    (lambda G: G.mapping.fc0._parameters.update(bias=torch.nn.Parameter(torch.zeros(9))), r'shape \[9\] instead of'),
    (lambda G: G._init_kwargs.update(synthesis_kwargs={'unheard_of': 1}), 'unheard_of'),
    (lambda G: G._init_kwargs.update(img_resolution=17), 'cannot be built'),
    (lambda G: G._modules.update(extra=torch.nn.Linear(2, 2)), r'torch\.nn\.modules\.linear\.Linear'),
], ids=['leftover', 'missing', 'shape', 'keyword', 'argument', 'module'])  # fmt: skip
def test_networks_that_do_not_match_are_refused(change, message):
    G = make_networks()['G']
    change(G)
    with pytest.raises(legacy.NetworkPickleError, match=message):
        read({'G_ema': G})


@pytest.mark.parametrize('content, message', [
    (b'', 'not a network pickle'),
    (b'\x89PNG\r\n\x1a\n and more', 'not a network pickle'),
    (b'<html>not found</html>', 'not a network pickle'),
    (pickle.dumps([1, 2]), 'contains a list'),
    (pickle.dumps({'model': 1}), 'without G, D or G_ema'),
    (pickle.dumps({'G': None, 'D': None}), "no network 'G_ema'"),
    (pickle.dumps({'G_ema': 'text'}), 'G_ema is a str'),
    (b'\x80\x02cdnnlib.tflib.network\nNetwork\n(', 'ends|exhausted'),
    (b'\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81.', 'TensorFlow|state'),
], ids=['empty', 'png', 'html', 'list', 'dict', 'no-ema', 'text', 'tensorflow-cut', 'tensorflow-empty'])  # fmt: skip
def test_files_that_are_not_network_pickles(content, message):
    with pytest.raises(legacy.NetworkPickleError, match=message):
        read(content)


def test_pickle_truncated_anywhere(golden_path):
    content = golden_path(f'{GOLDEN_NAME}.pkl').read_bytes()
    for length in np.random.RandomState(0).randint(1, len(content), size=30):
        with pytest.raises(legacy.NetworkPickleError):
            read(content[:length])


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def test_script_rewrites_a_published_pickle(run_script, tmp_path, golden_path):
    result = run_script('legacy.py', '--source', golden_path(f'{GOLDEN_NAME}.pkl'), '--dest', 'new/own.pkl')
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['own.pkl']
    with open(tmp_path / 'new' / 'own.pkl', 'rb') as f:
        data = pickle.load(f)
    assert data['G_ema'].c_dim == 5 and data['training_set_kwargs']['max_size'] == 100


def test_script_writes_nothing_if_the_source_is_invalid(run_script, tmp_path):
    (tmp_path / 'bad.pkl').write_bytes(b'not a pickle')
    result = run_script('legacy.py', '--source=bad.pkl', '--dest=own.pkl')
    assert result.returncode == 2 and 'Traceback' not in result.stderr and 'bad.pkl' in result.stderr
    assert not (tmp_path / 'own.pkl').exists()
