"""Files of StyleGAN3-T and -R: opened without running anything, rewritten, and opened by the published code."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import legacy
from generation import projected_latents, rendering
from generation.projection.optimization import ProjectionSettings, measure_w, project
from network_files import safetensors_files
from network_files.own_classes import with_own_classes
from scripts.fuzzing.pickle_attacks import stylegan3_generators
from tests.generation.projection.test_optimization import make_features
from tests.network_files.test_persistent import pickle_by_name
from tests.test_legacy import read, with_source
from torch_utils import persistence
from training import networks_stylegan2, networks_stylegan3, transfer
from training.augment import AugmentPipe
from training.run.snapshots import save_network_pickle

ROOT = Path(__file__).resolve().parents[2]
GOLDEN_NAME = 'published-format-stylegan3-r-32.pkl'
SOURCE = networks_stylegan3.__loader__.get_source(networks_stylegan3.__name__)
KINDS = {
    'T': {},
    'R': dict(conv_kernel=1, use_radial_filters=True),
    'T, not square': dict(img_resolution=[16, 8]),
}


def make_generator(kind='T', c_dim=2, **kwargs):
    torch.manual_seed(0)
    options = dict(img_resolution=16, channel_base=64, channel_max=4, num_layers=4, margin_size=2, num_fp16_res=0)
    options |= KINDS[kind]
    G = networks_stylegan3.Generator(
        z_dim=8, c_dim=c_dim, w_dim=8, img_channels=3, mapping_kwargs={'num_layers': 2}, **{**options, **kwargs}
    )
    G.mapping.w_avg.normal_()
    for name in G.synthesis.layer_names:
        getattr(G.synthesis, name).magnitude_ema.uniform_(0.5, 1)
    return G


def make_networks(kind='T', **extra):
    G = make_generator(kind)
    common = dict(c_dim=2, img_resolution=KINDS[kind].get('img_resolution', 16), img_channels=3)
    D = networks_stylegan2.Discriminator(channel_base=64, channel_max=4, **common)
    return {
        'G': G, 'D': D, 'G_ema': make_generator(kind), 'augment_pipe': AugmentPipe(xflip=1),
        'training_set_kwargs': dict(class_name='training.dataset.ImageFolderDataset', path='x.zip'), **extra,
    }  # fmt: skip


def image_of(G):
    with torch.no_grad():
        return G.eval()(torch.linspace(-1, 1, 8)[None], torch.eye(2)[:1], noise_mode='const', force_fp32=True)


def assert_same(actual, expected):
    for key in ('G', 'D', 'G_ema'):
        ours, theirs = actual[key].state_dict(), expected[key].state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(image_of(actual['G_ema']), image_of(expected['G_ema']))


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def test_published_pickle_gives_the_published_image(golden, golden_path):
    values = {key: np.asarray(value) for key, value in golden('networks_stylegan3.npz').items()}
    z, c, expected = (torch.from_numpy(values[f'r-32-cond/{name}']) for name in ('z', 'c', 'img'))
    with open(golden_path(GOLDEN_NAME), 'rb') as f:  # its embedded source raises
        data = legacy.load_network_pkl(f)
    G = data['G_ema']
    assert type(G) is networks_stylegan3.Generator and not G.training
    layers = json.loads(str(values['cases']))[1]['layers']
    assert G.synthesis.layer_names == [layer['name'] for layer in layers]
    assert (G(z, c, noise_mode='const') - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert data['D'] is data['G'] is G  # as in the file: published programs insist on a D
    half = legacy.open_network(str(golden_path(GOLDEN_NAME)), force_fp16=True)['G_ema']
    assert half.init_kwargs.num_fp16_res == 4 and half.synthesis.L0_24_16.use_fp16
    assert (half(z, c) - expected).abs().max() <= 1e-3 * expected.abs().max()  # full precision on the CPU


@pytest.mark.parametrize('kind', KINDS)
def test_own_pickle_is_read_exactly(kind):
    data = make_networks(kind, progress={'kimg': 2.5})
    back = read(with_source(data))
    assert type(back['D']) is networks_stylegan2.Discriminator and back['progress'] == {'kimg': 2.5}
    assert back['G_ema'].init_kwargs == data['G_ema'].init_kwargs
    assert_same(back, data)


def test_the_names_of_tensors_decide_and_keywords_where_there_are_none():
    data = make_networks()
    flat = networks_stylegan2.Generator(8, 2, 8, 16, 3, {'num_layers': 1}, channel_base=64, channel_max=4)
    assert type(read({'G_ema': flat})['G_ema']) is networks_stylegan2.Generator
    defaults = networks_stylegan3.Generator(8, 2, 8, 16, 3, channel_base=16)  # no keyword of its own
    assert type(read(with_source({'G_ema': defaults}))['G_ema']) is networks_stylegan3.Generator
    flat._init_kwargs['margin_size'] = 2
    with pytest.raises(legacy.NetworkPickleError, match="cannot be built .*'?margin_size"):
        read({'G_ema': flat})
    del data['G'].synthesis.input._buffers['freqs']
    with pytest.raises(legacy.NetworkPickleError, match=r'\(synthesis\.input\.freqs is missing\)'):
        read({'G_ema': data['G']})
    empty = make_generator()
    empty._modules.clear()
    del empty._init_kwargs['num_layers'], empty._init_kwargs['mapping_kwargs']
    with pytest.raises(legacy.NetworkPickleError, match=r'synthesis\.input\.weight is missing'):
        read({'G_ema': empty})


def test_half_precision_settings_and_numbers_of_numpy():
    G = make_generator(channel_base=np.int64(64), first_cutoff=np.float64(2), img_resolution=np.int32(16))
    back = read({'G_ema': G}, force_fp16=True)['G_ema']
    assert back.init_kwargs.num_fp16_res == 4 and back.init_kwargs.conv_clamp == 256
    assert torch.equal(image_of(back), image_of(G))


@pytest.mark.parametrize('module_name', ['training.networks', 'training.networks_stylegan3'])
def test_classes_named_by_module_without_source(module_name):
    G = make_generator('R')
    assert torch.equal(image_of(read(pickle_by_name(module_name, G, 2))['G_ema']), image_of(G))


def test_options_of_stylegan3_fun_that_matter_in_training_only():
    G = make_generator()
    G._init_kwargs['mapping_kwargs'].update(freeze_layers=1, freeze_embed=True)
    weight = G.mapping.fc0._parameters.pop('weight')
    G.mapping.fc0.register_buffer('weight', weight.detach())
    back = read({'G_ema': G})['G_ema']
    assert torch.equal(back.mapping.fc0.weight, weight) and back.init_kwargs.mapping_kwargs == {'num_layers': 2}


# ---------------------------------------------------------------------------------------------------------------------
# Refusing


@pytest.fixture(scope='module')
def reader():
    read({'G_ema': make_generator('R')})  # also imports what the first design of a filter imports


@pytest.mark.parametrize('name', ['StyleGAN3: the most that is allowed', 'StyleGAN3: the largest step',
    'StyleGAN3: filter_size=1e+05', 'StyleGAN3: margin_size=4.61e+18', 'StyleGAN3: num_fp16_res=4.61e+18'])  # fmt: skip
def test_attacks_are_refused_fast(name, reader):
    started = time.process_time()
    with pytest.raises(legacy.NetworkPickleError):
        read(stylegan3_generators()[name])
    assert time.process_time() - started < 1


@pytest.mark.parametrize('change, message', [
    (dict(filter_size=1000), r'\(filter_size is 1000, but must be an integer from 1 to 16\)'),
    (dict(lrelu_upsampling=64), 'lrelu_upsampling is 64'),
    (dict(img_resolution=[16, 2**20]), r'img_resolution\[1\] is 1048576'),
    (dict(last_stopband_rel=1e-9), 'last_stopband_rel is 1e-09'),
    (dict(margin_size=-1), 'margin_size is -1'),
    (dict(num_layers=5000), 'more layers than tensors'),
    (dict(num_layers='4'), 'more layers than tensors'),
    (dict(synthesis_kwargs={'num_layers': 5000}), 'more layers than tensors'),
    (dict(margin_size=3), 'do not match Generator'),
    (dict(channel_max=2**62), 'do not match Generator|cannot be built'),
], ids=str)  # fmt: skip
def test_unsuitable_arguments_are_named(change, message):
    G = make_generator('R')
    G._init_kwargs.update(change)
    with pytest.raises(legacy.NetworkPickleError, match=message):
        read({'G_ema': G})


# ---------------------------------------------------------------------------------------------------------------------
# Rewriting; opening elsewhere

ELSEWHERE = """
    import copy, json, pickle, sys, torch
    from torch_utils import misc
    for name in sys.argv[1:]:
        with open(name, 'rb') as f:
            data = pickle.load(f)
        G = data['G_ema']
        image = lambda G: G(torch.linspace(-1, 1, 8)[None], torch.eye(2)[:1], noise_mode='const', force_fp32=True)
        with torch.no_grad():
            torch.save(image(G), name + '.pt')

            # What the published programs do with force_fp16=True: set attributes, construct, copy
            for key, module in data.items():
                if key in ('G', 'D', 'G_ema'):
                    options = copy.deepcopy(module.init_kwargs)
                    target = options['synthesis_kwargs'] if 'synthesis_kwargs' in options else options
                    target.num_fp16_res, target.conv_clamp = 4, 256
                    data[key] = type(module)(**options).eval()
                    misc.copy_params_and_buffers(module, data[key], require_all=True)
            half = data['G_ema']
            assert half.synthesis.num_fp16_res == 4 and torch.equal(image(half), image(G))

            # DragGAN builds the network again, and fills it from the state dict
            again = type(G)(*G.init_args, **G.init_kwargs).eval()
            again.load_state_dict(G.state_dict())
            assert torch.equal(image(again), image(G))

            # gen_images.py moves the image; train.py --resume copies tensors
            G.synthesis.input.transform.copy_(torch.tensor([[0., 1, 0], [-1, 0, 0.25], [0, 0, 1]]))
            assert not torch.equal(image(G), image(again))
            misc.copy_params_and_buffers(G, half, require_all=False)
            assert torch.equal(image(half), image(G))
    assert not {'training', 'network_files', 'legacy'} & set(sys.modules)
    print('all', len(sys.argv) - 1)
"""


def test_what_is_written_here_opens_elsewhere_by_pickle_load(tmp_path, golden_path):
    """Snapshots, rewritten pickles and safetensors turned into pickles; with `dnnlib` and `torch_utils` alone."""
    for package in ('dnnlib', 'torch_utils'):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns('__pycache__'))
    images = {}
    for number, kind in enumerate(KINDS):
        data = make_networks(kind)
        snapshot, again, tensors, back = (
            tmp_path / f'{number}{name}' for name in ('.pkl', '-again.pkl', '.safetensors', '-back.pkl')
        )
        modules = {key: data[key] for key in ('G', 'D', 'G_ema', 'augment_pipe')}
        save_network_pickle(snapshot, modules, data['training_set_kwargs'])
        for source, dest in ((snapshot, again), (snapshot, tensors), (tensors, back)):
            result = CliRunner().invoke(legacy.main, [f'--source={source}', f'--dest={dest}'])
            assert result.exit_code == 0, result.output
            assert_same(legacy.open_network(str(dest)), data)
        images |= dict.fromkeys((snapshot.name, again.name, back.name), image_of(data['G_ema']))
    result = subprocess.run([sys.executable, '-c', textwrap.dedent(ELSEWHERE), *images], cwd=tmp_path,
                            capture_output=True, text=True, timeout=120)  # fmt: skip
    assert result.returncode == 0 and result.stdout == f'all {len(images)}\n', result.stderr
    for name, image in images.items():
        there = torch.load(tmp_path / f'{name}.pt', weights_only=True)
        torch.testing.assert_close(there, image, rtol=0, atol=1e-6)


def test_published_pickle_is_rewritten(golden_path, tmp_path):
    expected = legacy.open_network(str(golden_path(GOLDEN_NAME)))['G_ema']
    for name in ('own.pkl', 'own.safetensors'):
        arguments = [f'--source={golden_path(GOLDEN_NAME)}', f'--dest={tmp_path / name}', '--force-fp16=1']
        result = CliRunner().invoke(legacy.main, arguments)
        assert result.exit_code == 0, result.output
        data = legacy.open_network(str(tmp_path / name))
        z, c = torch.linspace(-1, 1, 16)[None], torch.eye(3)[:1]
        assert torch.equal(data['G_ema'](z, c), expected(z, c)) and data['G_ema'].synthesis.num_fp16_res == 4
    with open(tmp_path / 'own.pkl', 'rb') as f:
        opened = pickle.load(f)
    assert all(isinstance(opened[key], torch.nn.Module) for key in ('G', 'D', 'G_ema'))
    assert data['D'] is None  # safetensors files contain nothing in its place


def test_safetensors_files(tmp_path):
    data = make_networks('R')
    safetensors_files.write(data, tmp_path / 'n.safetensors')
    content = (tmp_path / 'n.safetensors').read_bytes()
    back = legacy.load_network_pkl(io.BytesIO(content))
    assert type(back['G_ema']) is networks_stylegan3.Generator
    assert_same(back, data)
    half = legacy.load_network_pkl(io.BytesIO(content), force_fp16=True)['G_ema']
    assert half.synthesis.num_fp16_res == 4 and torch.equal(image_of(half), image_of(data['G_ema']))
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header['__metadata__']['networks'])
    described['G_ema']['init_kwargs']['filter_size'] = 10**6
    header['__metadata__']['networks'] = json.dumps(described)
    raw = json.dumps(header).encode()
    with pytest.raises(legacy.NetworkPickleError, match='filter_size is 1000000'):
        legacy.load_network_pkl(io.BytesIO(len(raw).to_bytes(8, 'little') + raw + content[8 + length :]))


# ---------------------------------------------------------------------------------------------------------------------
# Forks that are trusted


def with_changed_source(data, change, names=None):
    """Return a pickle of `data` with the source of StyleGAN3's networks changed, and classes renamed."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value):
            if isinstance(value, type) or not persistence.is_persistent(value):
                return NotImplemented
            function, (meta,) = value.__reduce_ex__(4)
            if meta['module_src'] == SOURCE:
                name = (names or {}).get(meta['class_name'], meta['class_name'])
                meta = {**meta, 'module_src': change(meta['module_src']), 'class_name': name}
            return function, (meta,)

    file = io.BytesIO()
    Pickler(file, protocol=4).dump(data)
    return file.getvalue()


def renamed(source):
    return source.replace('SynthesisLayer', 'AliasFreeLayer').replace('class Generator', 'class AliasFree')


def with_argument(source):
    return source.replace('output_scale: float = 0.25,', 'output_scale: float = 0.25,\n        unused: int = 0,')


@pytest.mark.parametrize('change', [renamed, with_argument])
def test_forks_that_compute_the_same_are_rewritten(change, tmp_path):
    data = make_networks('R')
    if change is with_argument:
        data['G']._init_kwargs['unused'] = data['G_ema']._init_kwargs['unused'] = 1
    names = {'Generator': 'AliasFree', 'SynthesisLayer': 'AliasFreeLayer'} if change is renamed else None
    content = with_changed_source(data, change, names)
    with pytest.raises(legacy.NetworkPickleError, match='legacy.py --trust-pickle'):
        read(content)
    assert read(content, trust=True, force_fp16=True)['G_ema'].synthesis.num_fp16_res == 4
    for force_fp16 in (False, True):
        back = read(pickle.dumps(with_own_classes(read(content, trust=True), 'fork.pkl', force_fp16)))
        assert type(back['G_ema']) is networks_stylegan3.Generator and 'unused' not in back['G_ema'].init_kwargs
        assert back['G_ema'].synthesis.num_fp16_res == 4 * force_fp16
        assert_same(back, data)


def test_a_fork_that_computes_something_else_is_not_rewritten():
    content = with_changed_source(make_networks(), lambda source: source.replace('0.2,', '0.3,'))
    with pytest.raises(legacy.NetworkPickleError, match='fork.pkl: G cannot be rewritten.*computes something else'):
        with_own_classes(read(content, trust=True), 'fork.pkl')


# ---------------------------------------------------------------------------------------------------------------------
# What scripts do with the networks


def test_training_starts_from_a_file(tmp_path, golden_path, capsys):
    data = make_networks()
    legacy.save_network_pkl(data, tmp_path / 'own.pkl')
    fresh = {key: networks[key] for networks in [make_networks()] for key in ('G', 'D', 'G_ema')}
    for module in fresh.values():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.detach().zero_()
    transfer.start_from(transfer.open_pretrained(str(tmp_path / 'own.pkl')), fresh)
    assert_same(fresh, data)
    assert capsys.readouterr().out == ''
    with pytest.raises(ValueError, match=f'{GOLDEN_NAME} has no D, but training continues'):
        transfer.open_pretrained(str(golden_path(GOLDEN_NAME)))


def test_networks_without_noise(tmp_path):
    G = make_generator(c_dim=0).eval().requires_grad_(False)
    assert projected_latents.noise_buffers(G) == {}
    ws = G.mapping(torch.randn(2, 8), None)
    projected_latents.write(tmp_path / 'w.npz', projected_latents.ProjectedLatents(ws.numpy()))
    projected = projected_latents.read(tmp_path / 'w.npz', G)
    joined = projected_latents.join([projected, projected_latents.select(projected, [1])], G)
    assert len(joined) == 3 and joined.noise == {}
    with projected_latents.use_projected_noise(G, joined, 0):
        images = [
            torch.as_tensor(np.stack(list(rendering.render(G, ws, mode)))) for mode in ('const', 'random', 'none')
        ]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    np.savez(tmp_path / 'noisy.npz', w=ws.numpy(), **{'noise/b4.conv1.noise_const': np.zeros([2, 4, 4])})
    with pytest.raises(ValueError, match='is not a noise buffer of this network'):
        projected_latents.read(tmp_path / 'noisy.npz', G)
    statistics = measure_w(G, torch.zeros([1, 0]))
    found = project(G, images[0][1].numpy(), make_features(), statistics, ProjectionSettings(num_steps=2))
    assert found.best.noise == {} and found.best.ws.shape == (1, G.num_ws, 8)
