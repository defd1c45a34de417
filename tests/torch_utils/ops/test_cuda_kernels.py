"""The CUDA kernels without a GPU: run block by block on a CPU, planned for tensors of any size, and compiled for three
generations of GPUs. tests/gpu runs them on a GPU.
"""

import functools
import math
import shutil

import pytest
import torch

from tests.rehearsal import kernels
from torch_utils.ops import (
    bias_act,
    cuda_kernels,
    cuda_launch,
    cuda_plans,
    filtered_lrelu,
    finish,
    native,
    nvrtc,
    upfirdn2d,
)
from torch_utils.ops.arguments import BiasActOptions, Finish
from torch_utils.ops.resampling import FilteredActivation, Resampling
from training.networks_stylegan3 import Generator

TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-6, torch.float64: 1e-13}

LAYOUTS = {
    'contiguous': lambda x: x,
    'channels-last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'strided': lambda x: x.repeat_interleave(2, dim=3)[:, :, :, ::2],
    'expanded': lambda x: x[:1].expand(*x.shape),
    'shifted': lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),  # no vector can be loaded
}


def assert_close(actual, expected):
    """Relative to the largest magnitude, in the precision of the result."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    assert error <= TOLERANCE[actual.dtype] * expected.abs().max(), f'{error / expected.abs().max():.1e}'


# ---------------------------------------------------------------------------------------------------------------------
# On the CPU


@pytest.fixture
def emulation(monkeypatch):
    """Kernels are compiled by the C++ compiler and run on tensors of the CPU."""
    if shutil.which('g++') is None:
        pytest.skip('needs g++')

    def run(launch, tensors):
        argument = launch.argument([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
        kernels.compiled(launch.kernel)(launch.blocks, launch.threads, argument)

    monkeypatch.setattr(cuda_launch, 'run', run)


@pytest.mark.usefixtures('emulation')
@pytest.mark.parametrize(
    'act, dtype, layout, shape, clamp',
    [
        ('lrelu', torch.float32, 'contiguous', (2, 8, 9, 7), 0.7),  # vectors that reach into the next channel
        ('lrelu', torch.float16, 'channels-last', (2, 8, 9, 7), None),
        ('linear', torch.bfloat16, 'contiguous', (3, 4, 8, 8), 0.7),
        ('swish', torch.float32, 'channels-last', (2, 5, 3, 3), 0.7),
        ('softplus', torch.float64, 'strided', (2, 3, 5, 4), None),
        ('elu', torch.float32, 'shifted', (2, 3, 5, 5), None),
        ('tanh', torch.float32, 'expanded', (3, 1, 2, 2), None),
    ],
)
def test_bias_act(act, dtype, layout, shape, clamp):
    x, dy, v = (LAYOUTS[layout](torch.randn(shape)).to(dtype) for _ in range(3))
    b = torch.randn(shape[1]).to(dtype)
    options = BiasActOptions(1, act, 0.2, 1.4, clamp)
    y = cuda_kernels.bias_act(x, b, options)
    assert y.stride() == torch.empty_like(x).stride()
    dx = cuda_kernels.bias_act_grad(dy, x, b, y, options)
    d_x = cuda_kernels.bias_act_grad2(dy, v, x, b, y, options)

    leaf, dy_leaf = x.double().requires_grad_(), dy.double().requires_grad_()
    expected = bias_act.bias_act(leaf, b.double(), act=act, alpha=0.2, gain=1.4, clamp=clamp, impl='ref')
    assert_close(y, expected.detach())
    (gradient,) = torch.autograd.grad(expected, leaf, dy_leaf, create_graph=True)
    assert_close(dx, gradient.detach())
    (second,) = torch.autograd.grad(gradient, leaf, v.double(), allow_unused=True)
    if dtype.itemsize > 2:  # From a rounded y the second derivative is rough.
        assert_close(d_x, torch.zeros_like(leaf) if second is None else second)


@pytest.mark.usefixtures('emulation')
@pytest.mark.parametrize(
    'act, dtype, layout, shape, num_noises, clamp',
    [
        ('lrelu', torch.float32, 'contiguous', (2, 8, 8, 6), 2, 0.7),
        ('lrelu', torch.float16, 'channels-last', (2, 8, 9, 7), 1, None),
        ('linear', torch.bfloat16, 'contiguous', (3, 5, 4, 8), 0, 0.7),
        ('lrelu', torch.float64, 'strided', (2, 3, 5, 4), 2, 0.7),
        ('linear', torch.float32, 'shifted', (2, 3, 5, 5), 1, None),
        ('lrelu', torch.float16, 'expanded', (3, 4, 2, 2), 3, None),
        ('lrelu', torch.float32, 'channels-last', (2, 3, 5, 5), 2, 0.7),  # an odd number of channels: no vectors
        ('lrelu', torch.float32, 'contiguous', (3, 4, 300, 300), 3, 0.7),  # several vectors for each thread
    ],
)
def test_finish(act, dtype, layout, shape, num_noises, clamp):
    n, c, h, w = shape
    x, scale, b = LAYOUTS[layout](torch.randn(shape)).to(dtype), torch.randn(n, c), torch.randn(c).to(dtype)
    noise = torch.randn(num_noises, 1, h, w) if num_noises else None
    y = cuda_kernels.finish(x, Finish(scale, noise, b, BiasActOptions(1, act, 0.2, 1.4, clamp)))
    z = x.double() * scale.double()[:, :, None, None]
    z = z if noise is None else z + noise.double()
    assert_close(y, bias_act.bias_act(z, b.double(), act=act, gain=1.4, clamp=clamp, impl='ref'))
    last = torch.channels_last if layout == 'channels-last' else torch.contiguous_format
    assert y.is_contiguous(memory_format=last)


FILTERS = {
    '1331': upfirdn2d.setup_filter([1, 3, 3, 1]),
    'oblong': torch.linspace(-1, 2, 15).reshape(5, 3),
    'sym12': torch.linspace(-0.2, 1, 12),
    'one': torch.ones(1, 1),
    'large': torch.linspace(-1, 2, 81).reshape(9, 9),
}


@pytest.mark.usefixtures('emulation')
@pytest.mark.parametrize(
    'name, up, down, padding, shape, dtype, layout',
    [
        ('1331', (2, 2), (1, 1), (2, 1, 2, 1), (2, 8, 16, 16), torch.float32, 'contiguous'),
        ('1331', (2, 2), (1, 1), (3, 1, 2, 1), (2, 8, 9, 33), torch.float16, 'channels-last'),
        ('1331', (1, 1), (2, 2), (1, 1, 1, 1), (1, 9, 17, 20), torch.float16, 'contiguous'),
        ('1331', (1, 1), (2, 2), (1, 1, 1, 1), (2, 40, 17, 20), torch.float32, 'channels-last'),
        ('1331', (1, 1), (1, 1), (-1, 3, 2, -2), (1, 3, 20, 40), torch.bfloat16, 'strided'),
        ('1331', (1, 1), (1, 1), (2, 2, 2, 2), (2, 2, 70, 66), torch.float32, 'shifted'),
        ('oblong', (3, 2), (2, 3), (5, 1, -1, 7), (1, 4, 9, 11), torch.float64, 'contiguous'),
        ('oblong', (3, 4), (1, 3), (4, 2, 1, 7), (2, 6, 9, 11), torch.float32, 'channels-last'),
        ('large', (1, 1), (4, 4), (4, 4, 4, 4), (1, 2, 40, 37), torch.float32, 'expanded'),
        ('one', (4, 4), (1, 1), (1, 1, 1, 1), (1, 8, 3, 3), torch.float32, 'contiguous'),
        ('sym12', (2, 2), (1, 1), (7, 3, 4, 6), (1, 2, 33, 70), torch.float32, 'contiguous'),
        ('sym12', (1, 1), (2, 2), (5, 5, 6, 5), (1, 5, 33, 75), torch.float16, 'channels-last'),
        ('sym12', (2, 1), (1, 2), (4, 5, 3, 3), (2, 4, 40, 35), torch.float64, 'strided'),
    ],
)
def test_upfirdn2d(name, up, down, padding, shape, dtype, layout):
    f, x = FILTERS[name], LAYOUTS[layout](torch.randn(shape)).to(dtype)
    for flip_filter in (False, True):
        y = cuda_kernels.upfirdn2d(x, f, Resampling(up, down, padding, flip_filter, 1.7))
        expected = upfirdn2d.upfirdn2d(x.double(), f, up, down, padding, flip_filter, 1.7, impl='ref')
        assert_close(y, expected)
        expected_format = torch.channels_last if layout == 'channels-last' else torch.contiguous_format
        assert y.is_contiguous(memory_format=expected_format)


@pytest.mark.usefixtures('emulation')
@pytest.mark.parametrize(
    'up, down, padding, shape, taps_up, taps_down, dtype, layout',
    [
        (2, 2, (10, 9, 11, 8), (2, 3, 20, 39), 12, 12, torch.float32, 'contiguous'),  # several tiles
        (4, 2, (5, 8, -3, 9), (1, 8, 12, 14), 24, 12, torch.float16, 'channels-last'),
        (1, 2, (3, 2, 1, 5), (1, 2, 40, 36), None, 8, torch.float64, 'strided'),
        (2, 1, (2, 2, 2, 2), (1, 2, 24, 33), 8, None, torch.float32, 'shifted'),
        (3, 2, (7, 6, 9, 10), (2, 2, 15, 17), 9, 7, torch.float32, 'expanded'),
    ],
)
@pytest.mark.parametrize('clamp', [None, 0.6])
def test_filtered_lrelu(up, down, padding, shape, taps_up, taps_down, dtype, layout, clamp):
    x = LAYOUTS[layout](torch.randn(shape)).to(dtype)
    b = torch.randn(shape[1]).to(dtype)
    fu, fd = (None if taps is None else 2 * torch.rand(taps) / taps for taps in (taps_up, taps_down))
    options = FilteredActivation(up, down, padding, gain=1.3, slope=0.2, clamp=clamp, flip_filter=True)
    y, mask = cuda_kernels.filtered_lrelu(x, fu, fd, b, options, want_mask=True)
    alone, nothing = cuda_kernels.filtered_lrelu(x, fu, fd, b, options, want_mask=False)
    assert torch.equal(y, alone) and nothing is None

    leaf = x.double().requires_grad_()
    expected = filtered_lrelu.filtered_lrelu(leaf, fu, fd, b.double(), *options, impl='ref')
    assert_close(y, expected.detach())
    dy, v = LAYOUTS[layout](torch.randn(y.shape)).to(dtype), torch.randn(shape).to(dtype)
    dy_leaf = dy.double().requires_grad_()
    (gradient,) = torch.autograd.grad(expected, leaf, dy_leaf, create_graph=True)
    masked = options.masked(x.shape, fu, fd)
    dx = cuda_kernels.filtered_lrelu_masked(dy, mask, fd, fu, masked.transposed(fu, fd))
    assert_close(dx, gradient.detach())
    second = cuda_kernels.filtered_lrelu_masked(v, mask, fu, fd, masked)
    assert_close(second, torch.autograd.grad(gradient, dy_leaf, v.double())[0])


@pytest.mark.usefixtures('emulation')
@pytest.mark.parametrize('radial', [False, True])
@pytest.mark.parametrize(
    'resolution', [128, *(pytest.param(size, marks=pytest.mark.slow) for size in (256, 512, 1024))]
)
def test_filtered_lrelu_in_all_layers_of_stylegan3(resolution, radial):
    """On one channel, beside the CPU kernel in float64: values and the gradient."""
    torch.manual_seed(0)
    options = dict(conv_kernel=1, use_radial_filters=True) if radial else {}
    G = Generator(8, 0, 8, resolution, 1, channel_base=1, channel_max=1, **options)
    done = set()
    for layer in (getattr(G.synthesis, name) for name in G.synthesis.layer_names):
        fu, fd = layer.up_filter, layer.down_filter
        width, height = (layer.in_size + layer.conv_kernel - 1).tolist()
        sides = tuple(layer.padding)
        options = FilteredActivation(layer.up_factor, layer.down_factor, sides, 2**0.5, 0.2, 256.0, flip_filter=False)
        if (options, width, height) in done or layer.is_torgb:
            continue
        done.add((options, width, height))
        x, b = torch.randn(1, 1, height, width), torch.randn(1)
        if not cuda_kernels.supports_filtered_lrelu(x, fu, fd, options.up, options.down):
            assert fd.ndim == 2  # radial filters are applied by upfirdn2d
            continue
        y, mask = cuda_kernels.filtered_lrelu(x, fu, fd, b, options, want_mask=True)
        leaf = x.double().requires_grad_()
        expected = filtered_lrelu.filtered_lrelu(leaf, fu.double(), fd.double(), b.double(), *options)
        dy = torch.randn(y.shape)
        (gradient,) = torch.autograd.grad(expected, leaf, dy.double())
        assert_close(y, expected.detach())
        transposed = options.masked(x.shape, fu, fd).transposed(fu, fd)
        dx = cuda_kernels.filtered_lrelu_masked(dy, mask, fd, fu, transposed)
        # One of millions of pixels may be so near to zero that its sign differs between the types.
        differs = (dx - gradient).abs() > TOLERANCE[dx.dtype] * gradient.abs().max()
        assert differs.sum() <= 1e-3 * differs.numel()


@pytest.mark.usefixtures('emulation')
def test_non_finite_numbers():
    x = torch.tensor([float('nan'), float('inf'), -float('inf'), 1.0]).reshape(1, 4, 1, 1).repeat(1, 1, 5, 5)
    for clamp in (None, 2.0):
        y = cuda_kernels.bias_act(x, None, BiasActOptions(1, 'lrelu', 0.2, 1.4, clamp))
        torch.testing.assert_close(
            y, bias_act.bias_act(x, act='lrelu', gain=1.4, clamp=clamp, impl='ref'), equal_nan=True
        )
    f = FILTERS['1331']
    y = cuda_kernels.upfirdn2d(x, f, Resampling((2, 2), (1, 1), (2, 1, 2, 1), False, 4.0))
    torch.testing.assert_close(
        y, upfirdn2d.upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4, impl='ref'), equal_nan=True
    )


# ---------------------------------------------------------------------------------------------------------------------
# Plans


def image_view(shape, dtype=torch.float32, channels_last=False):
    n, c, h, w = shape
    strides = (h * w * c, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)
    return cuda_plans.View(tuple(shape), strides, dtype)


def plan_upsampling(shape, dtype=torch.float32, channels_last=False, taps=(4, 4)):
    n, c, h, w = shape
    views = [image_view(size, dtype, channels_last) for size in ((n, c, 2 * h, 2 * w), shape)]
    geometry = Resampling((2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    return cuda_plans.plan_upfirdn2d(*views, taps, torch.float32, geometry)


def plan_lrelu(mode, dtype=torch.float32, up=2, down=2, taps=12, size=64):
    mid = size * up
    out = (mid - taps) // down + 1
    options = cuda_plans.LreluOptions(
        mode=mode,
        filter_dtype=torch.float32,
        taps_up=taps,
        taps_down=taps,
        up=up,
        down=down,
        pad=(taps // 2, taps // 2),
        mask_offset=(0, 0),
        mask_size=(mid, mid),
        gain_up=float(up),
        gain=1.4,
        slope=0.2,
        clamp=math.inf,
        flip_filter=False,
    )
    views = [image_view((2, 4, side, side), dtype) for side in (out, size)]
    return cuda_plans.plan_filtered_lrelu(*views, options)


def plan_activation(order, act='lrelu', dtype=torch.float32, shape=(8, 64, 256, 256), clamp=256.0):
    model = image_view(shape, dtype)
    bias = cuda_plans.View((shape[1],), (1,), dtype)
    return cuda_plans.plan_bias_act(order, model, bias, BiasActOptions(1, act, 0.2, 1.4, clamp))


def plan_finish(dtype=torch.float32, channels_last=False, shape=(8, 64, 256, 256)):
    options = BiasActOptions(1, 'lrelu', 0.2, 1.4, 256.0)
    return cuda_plans.plan_finish(image_view(shape, dtype, channels_last), shape[0], options)


def constants(launch):
    return dict(launch.kernel.constants)


def test_wide_indices_where_offsets_need_them():
    for channels_last in (False, True):
        assert constants(plan_upsampling((1, 64, 512, 512), channels_last=channels_last))['INDEX'] == 'int'
        huge = constants(plan_upsampling((1, 64, 32768, 32768), channels_last=channels_last))
        assert huge['INDEX'] == 'long long'
    assert constants(plan_activation(0, shape=(8, 64, 1024, 1024)))['INDEX'] == 'unsigned'
    for plan in (functools.partial(plan_activation, 0), plan_finish):
        assert constants(plan(shape=(32, 64, 1024, 1024)))['INDEX'] == 'unsigned long long'
    # A large batch of small planes needs none: each block begins at its plane.
    assert constants(plan_upsampling((2**20, 512, 4, 4)))['INDEX'] == 'int'


def test_too_many_blocks_are_an_error():
    with pytest.raises(ValueError, match='smaller batch'):
        plan_activation(0, shape=(2**20, 2**10, 2**10, 2**10))


@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (4, 512, 4, 4), (4, 64, 17, 33), (1, 1, 8, 4096), (2, 32, 1024, 1024)])
@pytest.mark.parametrize('dtype', cuda_plans.SCALARS)
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('taps', [(4, 4), (12,)])
def test_tiles_cover_the_output_within_the_limits_of_a_gpu(shape, dtype, channels_last, taps):
    launch = plan_upsampling(shape, dtype, channels_last, taps)
    c = constants(launch)
    tiles = math.ceil(2 * shape[3] / c['TILE_X']) * math.ceil(2 * shape[2] / c['TILE_Y'])
    if c['LAYOUT'] == 1:
        groups = shape[0] * math.ceil(shape[1] / (c['LANES'] * c['VECTOR']))
    else:
        groups = math.ceil(shape[0] * shape[1] / c.get('PLANES', 1))
    assert launch.blocks == groups * tiles
    assert launch.threads <= 256
    assert c['TILE_X'] % c['RUN_X'] == c['TILE_Y'] % c['RUN_Y'] == c['RUN_X'] % 2 == c['RUN_Y'] % 2 == 0
    assert c.get('VECTOR', 1) * dtype.itemsize <= 16 and shape[1 if c['LAYOUT'] == 1 else 3] % c.get('VECTOR', 1) == 0


@pytest.mark.parametrize('dtype', cuda_plans.SCALARS)
@pytest.mark.parametrize('up', [1, 2, 3, 4, 8])
@pytest.mark.parametrize('down', [1, 2, 4])
@pytest.mark.parametrize('taps', [1, 12, 32])
def test_tiles_of_filtered_lrelu_fit_in_shared_memory(dtype, up, down, taps):
    f = torch.zeros(taps)
    if not cuda_kernels.supports_filtered_lrelu(torch.zeros(1, 1, 1, 1, dtype=dtype), f, f, up, down):
        assert dtype == torch.float64 or taps == 32 or up == 8  # longer than any network has
        return
    for factors in ((up, down), (down, up)):
        launch = plan_lrelu(cuda_plans.ACTIVATE_AND_WRITE_MASK, dtype, *factors, taps=taps)
        c = constants(launch)
        assert launch.shared_bytes <= 64 * 1024
        assert c['TILE_X'] * c['DOWN_BY'] % 16 == 0
        assert c['TILE_X'] * c['DOWN_BY'] % c['UP_BY'] == c['TILE_Y'] * c['DOWN_BY'] % c['UP_BY'] == 0


def test_vectors_follow_the_alignment():
    x = torch.zeros(2 * 4 * 8 * 8 + 8)
    options = BiasActOptions(1, 'relu', 0.0, 1.0, None)
    views = [cuda_plans.view(x[offset : offset + 512].view(2, 4, 8, 8)) for offset in (0, 1, 2, 4)]
    widths = [constants(cuda_plans.plan_bias_act(0, view, None, options))['VECTOR'] for view in views]
    assert widths == [4, 1, 2, 4]


def test_unsupported_calls_are_recognized():
    x = torch.zeros(1, 1, 8, 8)
    for shape, up, supported in (((4, 4), 2, True), ((33,), 1, False), ((17, 16), 1, False), ((4,), 9, False)):
        geometry = Resampling((up, 1), (1, 1), (0, 0, 0, 0), False, 1.0)
        assert cuda_kernels.supports_upfirdn2d(x, torch.zeros(shape), geometry) == supported
    assert cuda_kernels.supports_filtered_lrelu(x, torch.zeros(24), None, 4, 1)
    assert not cuda_kernels.supports_filtered_lrelu(x, torch.zeros(4, 4), None, 2, 1)
    assert not cuda_kernels.supports_bias_act(x.to(torch.complex64), BiasActOptions(1, 'relu', 0.0, 1.0, None))


def test_no_kernels_without_cuda():
    if torch.version.cuda is None:
        assert 'without CUDA' in cuda_kernels.reason_unavailable(torch.device('cuda'))


# ---------------------------------------------------------------------------------------------------------------------
# Compiled for GPUs

HALF = torch.float16
# Each with the registers that it may take: 65536 of a multiprocessor are shared by its threads.
KERNELS = {
    'bias_act': (plan_activation(0), 64),
    'bias_act 16 bit': (plan_activation(0, dtype=HALF), 64),
    'bias_act bfloat16 odd size': (plan_activation(0, dtype=torch.bfloat16, shape=(8, 63, 255, 255)), 72),
    'bias_act tanh': (plan_activation(0, 'tanh'), 64),
    'bias_act backward': (plan_activation(1), 64),
    'bias_act backward 16 bit': (plan_activation(1, dtype=HALF), 64),
    'bias_act second order': (plan_activation(2, 'swish'), 80),
    'bias_act float64, 64-bit offsets': (plan_activation(2, 'softplus', torch.float64, (64, 64, 1024, 1024)), 128),
    'finish': (plan_finish(), 64),
    'finish 16 bit channels': (plan_finish(HALF, True), 72),
    'finish bfloat16 odd size': (plan_finish(torch.bfloat16, shape=(8, 63, 255, 255)), 72),
    'finish float64, 64-bit offsets': (plan_finish(torch.float64, True, (64, 64, 1024, 1024)), 128),
    'upfirdn2d planes': (plan_upsampling((8, 64, 128, 128)), 64),
    'upfirdn2d planes 16 bit': (plan_upsampling((8, 64, 128, 128), HALF), 64),
    'upfirdn2d planes small': (plan_upsampling((8, 512, 4, 4)), 64),
    'upfirdn2d channels': (plan_upsampling((8, 64, 128, 128), channels_last=True), 128),
    'upfirdn2d channels 16 bit': (plan_upsampling((8, 64, 128, 128), HALF, channels_last=True), 128),
    'upfirdn2d separable': (plan_upsampling((8, 64, 128, 128), taps=(12,)), 64),
    'upfirdn2d separable float64, 64-bit offsets': (
        plan_upsampling((1, 1, 2**16, 2**16), torch.float64, taps=(12,)),
        128,
    ),
    'filtered_lrelu': (plan_lrelu(cuda_plans.ACTIVATE), 80),
    'filtered_lrelu with mask': (plan_lrelu(cuda_plans.ACTIVATE_AND_WRITE_MASK, HALF), 80),
    'filtered_lrelu backward': (plan_lrelu(cuda_plans.APPLY_MASK), 80),
    'filtered_lrelu up 4': (plan_lrelu(cuda_plans.ACTIVATE_AND_WRITE_MASK, up=4, taps=24), 128),
    'filtered_lrelu float64': (plan_lrelu(cuda_plans.APPLY_MASK, torch.float64), 128),
}


@pytest.fixture(scope='session')
def compiler():
    try:
        return nvrtc.compiler()
    except nvrtc.CompilerMissing as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize('name', KERNELS)
@pytest.mark.parametrize('target', ['sm_80', 'sm_90', 'sm_100'])
def test_registers(compiler, monkeypatch, tmp_path, name, target):
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    if int(target[3:]) not in compiler.architectures:
        pytest.skip(f'NVRTC {compiler.version} does not compile for {target}')
    launch, registers = KERNELS[name]
    binary = cuda_launch.compile_kernel(launch.kernel, target)
    assert binary.image.startswith(b'\x7fELF')
    usage = nvrtc.usage(binary.log)
    assert usage.registers <= registers
    assert usage.spilled_bytes == usage.stack_bytes == 0
    assert usage.shared_bytes <= 48 * 1024 and usage.shared_bytes + launch.shared_bytes <= 64 * 1024
    assert 'warning' not in binary.log


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    'name', ['bias_act bfloat16 odd size', 'upfirdn2d channels 16 bit', 'filtered_lrelu with mask', 'bias_act tanh']
)
def test_every_architecture(compiler, monkeypatch, tmp_path, name):
    """Both as machine code and as portable code."""
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    launch, _registers = KERNELS[name]
    architectures = [number for number in compiler.architectures if 70 <= number <= 121]
    assert len(architectures) > 5
    for number in architectures:
        binary = cuda_launch.compile_kernel(launch.kernel, f'sm_{number}', compiler)
        assert binary.image.startswith(b'\x7fELF') and 'warning' not in binary.log
        assert nvrtc.usage(binary.log).spilled_bytes == 0
        portable = cuda_launch.compile_kernel(launch.kernel, f'compute_{number}', compiler)
        assert f'.target sm_{number}'.encode() in portable.image


# ---------------------------------------------------------------------------------------------------------------------
# Under the operators


@pytest.mark.usefixtures('emulation')
@pytest.mark.parametrize('name', ['bias_act', 'finish', 'upfirdn2d', 'filtered_lrelu'])
def test_derivatives_of_the_operators(monkeypatch, name):
    """The operators' own derivatives, as they are on CUDA tensors."""
    monkeypatch.setattr(native, 'kernels', lambda x: cuda_kernels)
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    f = FILTERS['sym12']

    def op(x, b):
        if name == 'bias_act':
            return bias_act.bias_act(x, b, act='swish', clamp=0.5)
        if name == 'finish':
            noise, scale = x[:, :1] * x[:, 1:2], b * x.mean([2, 3])
            return finish.finish(x, scale, noise, b, BiasActOptions(1, 'lrelu', 0.2, 1.4, 1.5))
        if name == 'upfirdn2d':
            return upfirdn2d.upfirdn2d(x, FILTERS['1331'], up=2, padding=(2, 1, 3, 0)) * b[:, None, None]
        return filtered_lrelu.filtered_lrelu(x, f, f, b, up=2, down=2, padding=(11, 10, 10, 9), clamp=0.5)

    assert torch.autograd.gradcheck(op, (x, b), fast_mode=True)
    assert torch.autograd.gradgradcheck(op, (x, b), fast_mode=True)
