"""The CUDA kernels on a GPU: values and derivatives against float64, all types and layouts, capture into CUDA graphs.

To run them under compute-sanitizer:
    compute-sanitizer --tool memcheck  python -m pytest -q -n0 tests/gpu/test_ops.py
    compute-sanitizer --tool racecheck python -m pytest -q -n0 tests/gpu/test_ops.py -k "not graph"
"""

import threading

import pytest
import torch

from torch_utils.ops import bias_act, filtered_lrelu, native, upfirdn2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]

TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 4e-6, torch.float64: 1e-12}
LAYOUTS = {
    'contiguous': lambda x: x,
    'channels-last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'strided': lambda x: x.repeat_interleave(2, dim=3)[:, :, :, ::2],
    'expanded': lambda x: x[:1].expand(*x.shape),
    'shifted': lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}
SHORT, LONG = upfirdn2d.setup_filter([1, 3, 3, 1]), torch.linspace(-0.1, 0.3, 12).exp().sin() / 6

OPS = {
    **{
        f'bias_act {act}': (lambda x, b, fs, act=act: bias_act.bias_act(x, b, act=act, clamp=0.9))
        for act in bias_act.activation_funcs
    },
    'bias_act dim 2, gain < 0': lambda x, b, fs: bias_act.bias_act(x, x.new_ones(x.shape[2]), 2, 'lrelu', gain=-1.5),
    'up 2': lambda x, b, fs: upfirdn2d.upsample2d(x, fs[0]),
    'down 2': lambda x, b, fs: upfirdn2d.downsample2d(x, fs[0], flip_filter=True),
    'filter': lambda x, b, fs: upfirdn2d.filter2d(x, fs[0], gain=2),
    'up 3, down 2': lambda x, b, fs: upfirdn2d.upfirdn2d(x, fs[0], up=[3, 1], down=[1, 2], padding=[5, -1, 3, 4]),
    'up 2, 12 taps': lambda x, b, fs: upfirdn2d.upsample2d(x, fs[1]),
    'down 2, 12 taps': lambda x, b, fs: upfirdn2d.downsample2d(x, fs[1]),
    'filtered_lrelu': lambda x, b, fs: filtered_lrelu.filtered_lrelu(
        x, fs[1], fs[1], b, up=2, down=2, padding=[10, 9, 10, 9], clamp=0.5
    ),
    'filtered_lrelu up 4': lambda x, b, fs: filtered_lrelu.filtered_lrelu(x, fs[1], fs[1], b, up=4, down=2, padding=12),
}


@pytest.fixture(autouse=True)
def prepared():
    torch.manual_seed(0)
    reason = native.backend(torch.device('cuda', 0)).reason
    assert reason is None, reason


def derivatives(op, x, b, fs, dy_seed=1):
    """Return y, the gradients of x and b, and the gradients of |dx|² by dy and x, with zeros for missing ones."""
    x, b = x.detach().requires_grad_(), b.detach().requires_grad_()
    y = op(x, b, fs)
    generator = torch.Generator().manual_seed(dy_seed)
    dy = torch.randn(y.shape, generator=generator).to(y).requires_grad_()
    first = torch.autograd.grad(y, [x, b], dy, create_graph=True, allow_unused=True)
    second = torch.autograd.grad(first[0].square().sum(), [dy, x], allow_unused=True)
    return [torch.zeros_like(x) if value is None else value.detach() for value in (y, *first, *second)]


@pytest.mark.parametrize('name', OPS)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_values_and_derivatives(name, dtype, layout):
    # Multiples of 1/8 are exact in all types, so no rounding moves a number across the kink of the leaky ReLU.
    x = LAYOUTS[layout](torch.randint(-12, 13, (2, 8, 36, 40)) / 8 + 1 / 16).to(dtype)
    b = torch.randint(-8, 9, (8,)).to(dtype) / 8
    actual = derivatives(OPS[name], x.cuda(), b.cuda(), (SHORT.cuda(), LONG.cuda()))
    with native.reference_only():
        expected = derivatives(OPS[name], x.double(), b.double(), (SHORT, LONG))
    # Derivatives of curved activations are inaccurate if y has 16 bits, and rounding moves some numbers to the clamp.
    rough = dtype.itemsize == 2 and not name.startswith(('up', 'down', 'filter ', 'bias_act linear', 'bias_act lrelu'))
    for index, (value, reference) in enumerate(zip(actual, expected)):
        if rough and index >= 1 or dtype.itemsize == 2 and index >= 3:
            continue
        error = (value.double().cpu() - reference).abs().max()
        allowed = TOLERANCE[dtype] * max(1, reference.abs().max().item()) * (4 if index >= 2 else 1)
        assert error <= allowed, f'result {index}: {error:.1e} > {allowed:.1e}'


@pytest.mark.parametrize('name', ['bias_act lrelu', 'up 2', 'down 2, 12 taps', 'filtered_lrelu'])
def test_channels_last_is_preserved(name):
    x = torch.randn(2, 8, 32, 32, device='cuda').to(memory_format=torch.channels_last)
    y = OPS[name](x, torch.randn(8, device='cuda'), (SHORT.cuda(), LONG.cuda()))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('name', ['bias_act lrelu', 'up 2', 'down 2, 12 taps', 'filtered_lrelu'])
def test_captured_into_a_graph(name):
    x, b = torch.randn(2, 8, 33, 31, device='cuda'), torch.randn(8, device='cuda')
    fs = SHORT.cuda(), LONG.cuda()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):  # In some cases, this is the first use of the kernel.
        y = OPS[name](x, b, fs)
    for _ in range(2):
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.cuda.synchronize()
        with native.reference_only():
            torch.testing.assert_close(y, OPS[name](x, b, fs), rtol=1e-4, atol=1e-4)


def test_offsets_beyond_32_bits():
    elements = 2**31 + 2**16
    if torch.cuda.mem_get_info()[0] < 5 * elements:
        pytest.skip('needs 11 GB of free GPU memory')
    x = torch.zeros(1, 1, elements // 2**15, 2**15, dtype=torch.float16, device='cuda')
    x[0, 0, -1, -1] = -2
    assert bias_act.bias_act(x, act='lrelu', gain=1)[0, 0, -1, -1].item() == pytest.approx(-0.4, rel=1e-3)
    assert upfirdn2d.upfirdn2d(x, torch.ones(1, 1, device='cuda'), down=2, padding=[-1, 0, -1, 0])[0, 0, -1, -1] == -2


def test_another_stream_and_another_thread():
    x, results = torch.randn(4, 8, 64, 64, device='cuda'), []
    torch.cuda.synchronize()

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            results.append(upfirdn2d.upsample2d(x, SHORT.cuda()))
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        assert torch.equal(result, upfirdn2d.upsample2d(x, SHORT.cuda()))


def test_no_synchronization_with_the_gpu():
    x, fs = torch.randn(4, 8, 64, 64, device='cuda'), (SHORT.cuda(), LONG.cuda())
    b = torch.randn(8, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        for op in OPS.values():
            op(x, b, fs)
    finally:
        torch.cuda.set_sync_debug_mode('default')
