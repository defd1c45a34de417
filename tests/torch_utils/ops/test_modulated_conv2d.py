"""Modulated convolutions between planes: comparison with the formula in float64, and calls that do not use them."""

import ctypes
import itertools
import subprocess
from pathlib import Path

import pytest
import torch

from torch_utils.ops import build, conv2d_gradfix, cpu_library, modulated_conv2d, native
from torch_utils.ops.modulated_conv2d import products, to_pixels, to_planes
from training import networks_stylegan3

KERNELS = native.backend(torch.device('cpu')).kernels
pytestmark = pytest.mark.skipif(
    KERNELS is None or not KERNELS.supports_conv3x3(torch.ones(1, 32, 3, 3), torch.ones(32, 32, 3, 3)),
    reason='no kernels for this processor',
)


def formula(x, w, s, demodulate, padding, input_gain):
    """The definition, with the weights of each sample."""
    if demodulate:
        w = w / w.square().mean([1, 2, 3], keepdim=True).sqrt()
        s = s / s.square().mean().sqrt()
    own = w * s[:, None, :, None, None]  # N O I kh kw
    if demodulate:
        own = own / (own.square().sum([2, 3, 4], keepdim=True) + 1e-8).sqrt()
    own = own if input_gain is None else own * input_gain
    images = [torch.nn.functional.conv2d(image[None], weights, padding=padding) for image, weights in zip(x, own)]
    return torch.cat(images)


def tensors(n=2, ins=64, outs=32, size=(12, 10), requires_grad=False):
    made = [torch.randn([n, ins, *size]), torch.randn([outs, ins, 3, 3]) * 3, torch.randn([n, ins]) + 1]
    return [tensor.requires_grad_(requires_grad) for tensor in made]


def in_double(made):
    return [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in made]


def largest_error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('padding', [1, 2, 4])
@pytest.mark.parametrize('n, demodulate, gain', [(1, True, 0.7), (3, True, None), (2, False, 1.3)])
def test_agrees_with_the_formula(padding, n, demodulate, gain):
    options = demodulate, padding, None if gain is None else torch.tensor(gain)
    for (ins, outs), size in itertools.product([(32, 64), (50, 61), (300, 25)], [(9, 7), (36, 36), (17, 33)]):
        made = tensors(n, ins, outs, size)
        y = conv2d_gradfix.modulated_conv2d(*made, *options)
        assert y.is_contiguous() and largest_error(y, formula(*in_double(made), *options)) < 5e-6
        made[0] = made[0].contiguous(memory_format=torch.channels_last)
        assert torch.equal(y, conv2d_gradfix.modulated_conv2d(*made, *options))


def derivatives(function, made, options):
    """The result, its gradients, and the gradients of a curved function of all of them."""
    y = function(*made, *options)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape).cos().requires_grad_()
    first = torch.autograd.grad(y, made, dy, create_graph=True)
    found = [y, *first]
    for gradient in first:
        found += torch.autograd.grad(gradient.square().sum(), [*made, dy], retain_graph=True, materialize_grads=True)
    return found


@pytest.mark.parametrize('padding', [1, 2])
@pytest.mark.parametrize('demodulate', [False, True])
def test_first_and_second_derivatives(padding, demodulate):
    made = tensors(n=2, ins=48, outs=32, size=(9, 21), requires_grad=True)
    options = demodulate, padding, torch.tensor(0.8)
    actual = derivatives(conv2d_gradfix.modulated_conv2d, made, options)
    expected = derivatives(formula, in_double(made), options)
    largest = max(exact.abs().max() for exact in expected)
    assert sum(bool(exact.any()) for exact in expected) > 10
    for ours, exact in zip(actual, expected, strict=True):
        if exact.any():
            assert largest_error(ours, exact) < 1e-4
        else:
            assert ours.abs().max() < 1e-6 * largest


# ---------------------------------------------------------------------------------------------------------------------
# The maps between planes and pixels

SHAPES = [(1, 1, 1, 1), (2, 40, 17, 9), (3, 64, 33, 16), (1, 7, 5, 40), (2, 512, 30, 50), (1, 72, 200, 130)]


@pytest.mark.parametrize('margin', [0, 1, 3])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_maps_between_planes_and_pixels(shape, margin):
    n, c, h, w = shape
    planes, scale = torch.randn(shape), torch.randn([n, c])
    scaled = planes * scale[:, :, None, None]
    pixels = to_pixels(planes, scale, margin)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, torch.nn.functional.pad(scaled, [margin] * 4))

    # What is in the margin does not count.
    pixels = torch.full([n, c, h + 2 * margin, w + 2 * margin], torch.nan)
    inner = torch.randn(shape)
    pixels[:, :, margin : margin + h, margin : margin + w] = inner
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    back = to_planes(pixels, scale, margin)
    assert back.is_contiguous() and torch.equal(back, inner * scale[:, :, None, None])
    torch.testing.assert_close(
        products(planes, pixels, margin).double(),
        (planes.double() * inner.double()).sum([2, 3]),
        rtol=1e-5,
        atol=1e-6 * (h * w),
    )


def test_the_number_of_threads_changes_nothing():
    made = tensors(n=2, ins=512, outs=64, size=(52, 36), requires_grad=True)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = conv2d_gradfix.modulated_conv2d(*made, False, 2, None)
            found.append([y, *torch.autograd.grad(y, made, torch.ones_like(y))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


# Vectors of 16, 8 and 4 floats, and transposition without shuffles of vectors
VECTORS = {
    'avx512': ['-mavx512f'],
    'avx2': ['-mavx2', '-mno-avx512f'],
    'sse2': ['-mno-avx'],
    'no shuffles': ['-mavx2', '-mno-avx512f', '-DADA_NO_SHUFFLES'],
}


@pytest.mark.parametrize('name', VECTORS)
def test_vectors_of_all_lengths(name, tmp_path):
    flags = Path('/proc/cpuinfo').read_text().split() if Path('/proc/cpuinfo').exists() else []
    if not {'avx512': {'avx512f'}, 'sse2': {'sse2'}}.get(name, {'avx2'}) <= set(flags):
        pytest.skip(f'this processor does not have {name}')
    source = tmp_path / 'layouts.cpp'
    source.write_text(
        '#include "cpu_layouts.h"\n'
        'extern "C" void run(int map, float* planes, float* pixels, const float* scale, float* sums,\n'
        '                    const int64_t* s) {\n'
        '    const Layouts a = {planes, pixels, scale, s[0], s[1], s[2], s[3], s[4]};\n'
        '    if (map == 0) to_pixels(a, 1);\n'
        '    else if (map == 1) to_planes(a, 1);\n'
        '    else products(a, sums, 1);\n'
        '}\n'
    )
    compiler, _version = build.find_compiler()
    options = ['-std=c++17', '-O1', '-shared', '-fPIC', '-Wno-psabi', '-I', str(cpu_library.FOLDER)]
    library = tmp_path / 'layouts.so'
    subprocess.run([*compiler, *options, *VECTORS[name], str(source), '-o', str(library)], check=True)
    run = ctypes.CDLL(str(library)).run
    for shape, margin in itertools.product(SHAPES, [0, 1]):
        n, c, h, w = shape
        planes, scale, sums = torch.randn(shape), torch.randn([n, c]), torch.empty([n, h, c])
        pixels = torch.empty([n, h + 2 * margin, w + 2 * margin, c])
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (planes, pixels, scale, sums)]
        numbers = (ctypes.c_int64 * 5)(*shape, margin)
        run(0, *pointers, numbers)
        expected = torch.nn.functional.pad(planes * scale[:, :, None, None], [margin] * 4)
        assert torch.equal(pixels.permute(0, 3, 1, 2), expected)
        run(2, *pointers, numbers)
        torch.testing.assert_close(sums.sum(1), (planes.square() * scale[:, :, None, None]).sum([2, 3]))
        before = planes.clone()
        run(1, *pointers, numbers)
        assert torch.equal(planes, before * scale[:, :, None, None] * scale[:, :, None, None])


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def construct_generator():
    kwargs = dict(channel_base=2048, channel_max=64, num_layers=6, margin_size=4)
    return networks_stylegan3.Generator(32, 0, 32, 32, 3, **kwargs).eval()


@pytest.mark.parametrize('n', [1, 2])
def test_generators_use_it(n, monkeypatch):
    calls = []
    original = modulated_conv2d.modulated_conv2d

    def counted(*args):
        calls.append(original(*args))
        return calls[-1]

    monkeypatch.setattr(conv2d_gradfix, 'modulated_conv2d', counted)
    G = construct_generator()
    ws = torch.randn(n, G.num_ws, 32)
    image = G.synthesis(ws)
    assert [y is not None for y in calls] == [True] * 6 + [False]  # ToRGB is a 1x1 convolution
    monkeypatch.delattr(conv2d_gradfix, 'modulated_conv2d')
    torch.testing.assert_close(image, G.synthesis(ws), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'change',
    [
        dict(padding=0),
        dict(kernel=1),
        dict(ins=3),
        dict(outs=5),
        dict(dtype=torch.float64),
        dict(dtype=torch.float16),
        dict(device='meta'),
        dict(size=[2, 5]),
    ],
    ids=str,
)
def test_other_convolutions_use_the_separate_operators(change):
    case = dict(ins=32, outs=32, kernel=3, dtype=torch.float32, device='cpu', padding=1, size=[12, 10]) | change
    options = dict(device=case['device'], dtype=case['dtype'])
    x, styles = torch.randn([2, case['ins'], *case['size']], **options), torch.randn([2, case['ins']], **options)
    w = torch.randn([case['outs'], case['ins'], case['kernel'], case['kernel']], **options)
    assert conv2d_gradfix.modulated_conv2d(x, w, styles, True, case['padding'], None) is None


@pytest.mark.filterwarnings('ignore')  # Tracing is deprecated.
def test_traced_and_transformed_calls():
    G = construct_generator().requires_grad_(False)
    ws = torch.randn(2, G.num_ws, 32)

    class Synthesis(torch.nn.Module):
        def forward(self, ws):
            return G.synthesis(ws)

    expected = G.synthesis(ws)
    close = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.jit.trace(Synthesis(), ws, check_trace=False)(ws), expected, **close)
    gradient = torch.func.grad(lambda ws: G.synthesis(ws).square().sum())(ws)
    ws.requires_grad_()
    y = G.synthesis(ws)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), ws, retain_graph=True)[0], gradient, **close)
    several = torch.stack([torch.ones_like(y), y.detach()])
    batched = torch.autograd.grad(y, ws, several, is_grads_batched=True, retain_graph=True)[0]
    for dy, ours in zip(several, batched):
        torch.testing.assert_close(ours, torch.autograd.grad(y, ws, dy, retain_graph=True)[0], **close)
