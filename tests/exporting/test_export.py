"""Exported networks compute what the networks compute, with standard operators only, for any batch size."""

import json
import math
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import export
from dnnlib.errors import InvalidArgument
from exporting import onnx_files
from exporting.models import Choices, Model, make_model
from exporting.programs import export_program
from tests.small_generators import (
    NAMES,
    assert_usage_error,
    make_generator,
    make_stylegan3_generator,
    write_networks,
)
from torch_utils import precision
from torch_utils.ops import native
from training.networks_stylegan2 import Discriminator

TOLERANCE = 1e-4  # relative to the largest magnitude

pytestmark = pytest.mark.timeout(900)  # conversion to ONNX takes its time on a busy machine


def make_discriminator(c_dim=0, img_channels=3, resolution=16, **options):
    torch.manual_seed(1)
    options = dict(channel_base=128, channel_max=8, **options)
    return Discriminator(c_dim, resolution, img_channels, **options).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    networks = {
        'plain': (make_generator(w_avg=1), {'D': make_discriminator()}),
        'classes': (
            make_generator(c_dim=3, w_avg=1, img_channels=4),
            {'class_names': NAMES, 'D': make_discriminator(3, 4)},
        ),
        'wide': make_generator(img_resolution=[12, 16], img_channels=2),
        'rotation': make_stylegan3_generator(),
        'translation': make_stylegan3_generator(equivariance='translation'),
    }
    return write_networks(tmp_path_factory.mktemp('networks'), networks)


def run_export(network, dest, *options):
    result = CliRunner().invoke(export.main, [f'--network={network}', f'--dest={dest}', *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_close(value, expected, tolerance=TOLERANCE):
    value, expected = (torch.as_tensor(tensor).to(torch.float64) for tensor in (value, expected))
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= tolerance * expected.abs().max()


def run_onnx(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    assert [item.name for item in session.get_inputs()] == list(inputs)
    return session.run(None, {name: np.asarray(value, np.float32) for name, value in inputs.items()})[0]


def latents(count, *shape, seed=0):
    return torch.randn([count, *shape], generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------------------
# ONNX


def test_generator_with_all_inputs(paths, tmp_path):
    """Any batch; label and truncation as inputs; alpha; standard operators and metadata only."""
    import legacy

    path = tmp_path / 'all.onnx'
    printed = run_export(paths.classes, path, '--trunc=input', '--trunc-cutoff=3')
    assert 'z [N, 8], c [N, 3], truncation_psi [] → image' in printed
    with open(paths.classes, 'rb') as file:
        G = legacy.load_network_pkl(file)['G_ema']
    for count, psi in [(1, 0.3), (5, -0.5), (2, 1.0)]:
        z, c = latents(count, 8), torch.eye(3)[torch.arange(count) % 3]
        expected = G(z, c, truncation_psi=psi, truncation_cutoff=3, noise_mode='const')
        assert_close(run_onnx(path, z=z, c=c, truncation_psi=psi), expected)
    model = onnx.load(path)
    assert [item.version for item in model.opset_import if item.domain in ('', 'ai.onnx')] == [18]
    assert not any('::' in name for name in onnx_files.operators_of(path.read_bytes()))
    assert json.loads({item.key: item.value for item in model.metadata_props}['class_names']) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize('name', ['plain', 'wide', 'rotation', 'translation'])
@pytest.mark.parametrize('options', [[], ['--batch=1'], ['--batch=3', '--noise-mode=none', '--trunc=0.5']])
def test_generators(paths, tmp_path, name, options):
    path = tmp_path / 'network.onnx'
    run_export(getattr(paths, name), path, *options)
    G = export.open_network(getattr(paths, name))['G_ema']
    fixed = '--noise-mode=none' in options
    choices = dict(truncation_psi=0.5 if fixed else 1, noise_mode='none' if fixed else 'const')
    for count in [3] if fixed else [1] if options else [1, 2, 7]:
        z = latents(count, 8)
        assert_close(run_onnx(path, z=z), G(z, torch.zeros([count, 0]), **choices))
    if options:
        with pytest.raises(Exception, match='Got: 4 Expected'):
            run_onnx(path, z=latents(4, 8))


@pytest.mark.slow
def test_fixed_class_and_w(paths, tmp_path):
    G = export.open_network(paths.classes)['G_ema']
    run_export(paths.classes, tmp_path / 'dog.onnx', '--class=dog')
    run_export(paths.classes, tmp_path / 'w.onnx', '--input=w', '--opset=20')
    z = latents(2, 8)
    ws = G.mapping(z, torch.eye(3)[[1, 1]])
    expected = G.synthesis(ws, noise_mode='const')
    assert_close(run_onnx(tmp_path / 'dog.onnx', z=z), expected)
    assert_close(run_onnx(tmp_path / 'w.onnx', w=ws), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    'options', [dict(), dict(architecture='skip'), dict(epilogue_kwargs={'mbstd_group_size': None})]
)
def test_discriminators(tmp_path, options):
    """The groups of a free batch are those of a fixed one; a batch smaller than a group is one group."""
    D = make_discriminator(c_dim=3, **options)
    path = tmp_path / 'D.onnx'
    model = make_model(D, Choices(model='D'))
    onnx_files.write(onnx_files.convert(export_program(model), model), path)
    for count in (1, 3, 4, 8, 12):
        image, c = latents(count, 3, 16, 16), torch.eye(3)[torch.arange(count) % 3]
        assert_close(run_onnx(path, image=image, c=c), D(image, c))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['plain', 'translation'])
def test_half_precision(paths, tmp_path, name):
    path, full = tmp_path / 'half.onnx', tmp_path / 'full.onnx'
    run_export(getattr(paths, name), path, '--precision=fp16')
    run_export(getattr(paths, name), full)
    assert path.stat().st_size < full.stat().st_size
    types = {item.data_type for item in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types
    G, z = export.open_network(getattr(paths, name))['G_ema'], latents(3, 8)
    expected = G(z, torch.zeros([3, 0]), noise_mode='const')
    assert_close(run_onnx(path, z=z), expected, tolerance=1e-2)
    assert np.abs(run_onnx(path, z=z) - expected.numpy()).max() > 0


# ---------------------------------------------------------------------------------------------------------------------
# torch.export

WITHOUT_THIS_PROJECT = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
inputs = torch.load(sys.argv[2], weights_only=True)
torch.save([program(**{name: x[:n] for name, x in inputs.items()}) for n in (1, 4, 8)], sys.argv[3])
assert not {'dnnlib', 'torch_utils', 'training'} & set(sys.modules)
"""


def run_without_this_project(folder, path, inputs):
    torch.save(inputs, folder / 'inputs.pt')
    command = [sys.executable, '-I', '-c', WITHOUT_THIS_PROJECT, path, folder / 'inputs.pt', folder / 'outputs.pt']
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    return torch.load(folder / 'outputs.pt', weights_only=True)


def test_program_of_a_discriminator(paths, tmp_path):
    run_export(paths.classes, tmp_path / 'D.pt2', '--model=D')
    D = export.open_network(paths.classes)['D']
    image, c = latents(8, 4, 16, 16), torch.eye(3)[torch.arange(8) % 3]
    outputs = run_without_this_project(tmp_path, tmp_path / 'D.pt2', {'image': image, 'c': c})
    for count, output in zip((1, 4, 8), outputs):
        assert_close(output, D(image[:count], c[:count]))


def test_no_mean_of_w():
    G = make_generator()
    del G.mapping.w_avg
    with pytest.raises(ValueError, match='no mean of w'):
        make_model(G, Choices(truncation_psi=None))
    assert make_model(G, Choices()).inputs.keys() == {'z'}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['plain', 'translation', 'rotation'])
def test_program_of_a_generator(paths, tmp_path, name):
    run_export(getattr(paths, name), tmp_path / 'G.pt2')
    G, z = export.open_network(getattr(paths, name))['G_ema'], latents(8, 8)
    outputs = run_without_this_project(tmp_path, tmp_path / 'G.pt2', {'z': z})
    for count, output in zip((1, 4, 8), outputs):
        assert_close(output, G(z[:count], torch.zeros([count, 0]), noise_mode='const'))


class Fixed(torch.nn.Module):
    def __init__(self, G):
        super().__init__()
        self.G = G

    def forward(self, z, c):
        return self.G(z, c, noise_mode='const')


def test_free_batch_of_a_generator():
    """`torch.export` of a network itself, with the operators of this project."""
    G = make_generator(c_dim=3)
    batch = torch.export.Dim('batch', max=64)
    z, c = latents(5, 8), torch.eye(3)[[0, 1, 2, 0, 1]]
    with precision.readable_setting():
        program = torch.export.export(Fixed(G), (z[:2], c[:2]), dynamic_shapes=({0: batch}, {0: batch}), strict=False)
    assert any('ada_gan' in str(node.target) for node in program.graph.nodes)
    for count in (1, 2, 5):
        assert_close(program.module()(z[:count], c[:count]), G(z[:count], c[:count], noise_mode='const'))


@pytest.mark.slow
@pytest.mark.parametrize('equivariance', ['translation', 'rotation'])
def test_free_batch_of_stylegan3(equivariance):
    G = make_stylegan3_generator(equivariance=equivariance)
    batch = torch.export.Dim('batch', max=64)
    z, c = latents(5, 8), torch.zeros([5, 0])
    with precision.readable_setting():
        program = torch.export.export(Fixed(G), (z[:2], c[:2]), dynamic_shapes=({0: batch}, {0: batch}), strict=False)
    for count in (1, 2, 5):
        assert_close(program.module()(z[:count], c[:count]), G(z[:count], c[:count]))


def test_groups_of_any_batch():
    """The standard deviations for a symbolic batch size, in float64."""
    from training.networks_stylegan2 import MinibatchStdLayer

    for group_size in (1, 4, None):
        layer = MinibatchStdLayer(group_size, num_channels=2)
        for count in (1, 2, 4, 8):
            x = latents(count, 6, 3, 3).double()
            expected = layer(x)[:, 6:, 0, 0]
            assert_close(layer._spread_of_any_batch(x), expected, tolerance=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    'options, hint',
    [
        (['--dest=x.png'], "'x.png' must end in .onnx or .pt2"),
        (['--dest=x.onnx', '--input=w', '--trunc=0.5'], "'--trunc': cannot be used here"),
        (['--dest=x.onnx', '--model=D', '--noise-mode=none'], "'--noise-mode': cannot be used here"),
        (['--dest=x.onnx', '--onnxruntime-web=a.tgz'], 'since it is for web pages'),
        (['--dest=x.pt2', '--opset=20'], 'since it is for ONNX files'),
        (['--dest=page/', '--class=dog'], 'since visitors of the page choose it'),
        (['--dest=page/', '--model=D'], 'D has no images to show'),
        (['--dest=x.onnx', '--batch=0'], '0 is not in the range'),
        (['--dest=x.onnx', '--trunc=half'], 'half'),
        (['--dest=x.onnx', '--opset=9'], '9 is not in the range'),
        (['--dest=x.onnx', '--class=cow'], "Unknown class 'cow'"),
        (['--dest=x.onnx', '--trunc-cutoff=99'], '99 is too large: this network has 6 layers'),
        (['--dest=x.pt2', '--model=D', '--batch=6'], '6 must be a multiple of 4'),
    ],
)
def test_usage_errors(paths, tmp_path, monkeypatch, options, hint):
    monkeypatch.chdir(tmp_path)
    assert_usage_error(CliRunner().invoke(export.main, [f'--network={paths.classes}', *options]), hint)
    assert list(tmp_path.iterdir()) == []


def test_no_discriminator(paths, tmp_path):
    result = CliRunner().invoke(export.main, [f'--network={paths.wide}', f'--dest={tmp_path}/D.onnx', '--model=D'])
    assert_usage_error(result, 'has no discriminator')


def test_missing_package(paths, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    result = CliRunner().invoke(export.main, [f'--network={paths.plain}', f'--dest={tmp_path}/G.onnx'])
    assert_usage_error(result, "ONNX files need the package onnxscript: pip install 'ada-gan[export]'")


@pytest.mark.parametrize('value', [1, math.nan, math.inf])
def test_wrong_results_are_not_written(paths, tmp_path, monkeypatch, value):
    monkeypatch.setattr(onnx_files, 'convert', lambda *_args: b'')
    monkeypatch.setattr(onnx_files, 'run', lambda _content, inputs: torch.full([len(inputs['z']), 3, 16, 16], value))
    result = CliRunner().invoke(export.main, [f'--network={paths.plain}', f'--dest={tmp_path}/G.onnx'])
    assert result.exit_code == 1 and 'computes something else than PyTorch' in result.stderr
    assert not (tmp_path / 'G.onnx').exists() and native.route(torch.zeros(1)) == 'eager'


def test_after_a_training_in_the_same_process(paths, tmp_path):
    """PyTorch's exporters read the precision of products by an interface that may be an error after a training."""
    precision.allow_tensor_float32(False)
    result = CliRunner().invoke(export.main, [f'--network={paths.plain}', f'--dest={tmp_path}/G.onnx'])
    assert result.exit_code == 0, result.output


# ---------------------------------------------------------------------------------------------------------------------
# Failures of other programs


def test_file_that_onnxruntime_cannot_run():
    with pytest.raises(ValueError, match=r'^ONNX Runtime [0-9.]+ cannot run the file \(.+\): use a smaller --opset'):
        onnx_files.run(b'something else', {})


def test_network_that_pytorch_cannot_export():
    class Branching(torch.nn.Module):
        def forward(self, z):
            return z if z.sum() > 0 else -z

    inputs = {'z': torch.ones([2, 3])}
    model = Model(Branching(), inputs, (), 'image', batch=2, half=False, checked_sizes=(2,))
    with pytest.raises(ValueError, match=r'^PyTorch .+ cannot export this network \('):
        export_program(model)


def test_large_groups_need_a_fixed_batch():
    D = make_discriminator(epilogue_kwargs={'mbstd_group_size': 10**9})
    with pytest.raises(InvalidArgument, match='groups of 1000000000, so a fixed number'):
        make_model(D, Choices(model='D'))
    assert make_model(D, Choices(model='D', batch=3)).inputs['image'].shape[0] == 3


@pytest.mark.parametrize(
    'network, title', [('a/cats.v2.pkl', 'cats.v2'), ('runs/00000-cats-gamma0.5', '00000-cats-gamma0.5')]
)
def test_titles(network, title):
    assert export.title_of(network) == title
