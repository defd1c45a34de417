"""The rehearsal device itself: real tensors, what it refuses, what it counts. Run by `tests/test_rehearsal.py`."""

import copy
import io

import pytest
import torch

pytestmark = pytest.mark.skipif(not getattr(torch.cuda, 'rehearsal', False), reason='needs the rehearsal device')

if getattr(torch.cuda, 'rehearsal', False):
    from tests.rehearsal.backend import counted


def test_tensors_are_real_ones():
    x = torch.randn(3, 4, device='cuda:1')
    assert type(x) is torch.Tensor and x.is_cuda and x.device == torch.device('cuda', 1)
    assert x.view(2, 6).t()[1:].data_ptr() == x.data_ptr() + 4 and x[1].storage_offset() == 4
    parameter = copy.deepcopy(torch.nn.Parameter(x))
    assert parameter.device == x.device and torch.equal(parameter, x) and parameter.data_ptr() != x.data_ptr()
    file = io.BytesIO()
    torch.save({'x': x}, file)
    assert torch.equal(torch.load(io.BytesIO(file.getvalue()))['x'], x)
    assert torch.equal(torch.load(io.BytesIO(file.getvalue()), map_location='cpu')['x'], x.cpu())
    y = x.clone()
    y.resize_(100).zero_()
    y.t_() if y.ndim == 2 else y.unsqueeze_(0)
    assert y.shape == (1, 100) and not y.any()


def test_derivatives_are_those_of_the_cpu():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Softplus(), torch.nn.Flatten(), torch.nn.Linear(32, 1)
    )
    x = torch.randn(2, 3, 4, 4)

    def penalty_gradients(layers, x):
        x = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(layers(x).sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), list(layers.parameters())[:1])

    expected = penalty_gradients(layers, x)
    actual = penalty_gradients(copy.deepcopy(layers).cuda(), x.cuda())
    assert all(tensor.is_cuda for tensor in actual)
    torch.testing.assert_close([tensor.cpu() for tensor in actual], list(expected))


def test_half_precision_accumulates_in_float32():
    x = torch.full([1, 4096], 1.001, dtype=torch.float16)
    product = x.cuda() @ x.t().cuda()
    assert product.dtype == torch.float16
    assert product.item() == (x.double() @ x.t().double()).to(torch.float16).item()


def test_random_numbers_of_a_device_are_its_own():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = torch.randn(3, device='cuda')
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    state = torch.cuda.get_rng_state()
    assert torch.equal(torch.randn(3, device='cuda'), first)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(3, device='cuda'), first)
    assert torch.randn(3, device='cuda', generator=torch.Generator('cuda').manual_seed(1)).is_cuda


REFUSED = {
    'a tensor of the CPU': lambda x: x + torch.ones(3),
    'a tensor of the CPU in a list': lambda x: torch.cat([x, torch.ones(3)]),
    'another device': lambda x: x + torch.ones(3, device='cuda:1'),
    'an index of the device for a tensor of the CPU': lambda x: torch.ones(3)[torch.tensor([0], device='cuda')],
    'numpy': lambda x: x.numpy(),
    'a device that does not exist': lambda x: x.to('cuda:2'),
    'a generator of the CPU': lambda x: torch.randn(3, device='cuda', generator=torch.Generator()),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refuses_what_a_gpu_refuses(case):
    with pytest.raises((RuntimeError, TypeError, IndexError)):
        REFUSED[case](torch.ones(3, device='cuda'))


def test_allows_what_a_gpu_allows():
    x = torch.arange(3.0, device='cuda')
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    x[torch.tensor([1])] = 5
    assert x.cpu().numpy().tolist() == [0, 5, 2]


def test_memory_is_limited():
    with pytest.raises(torch.cuda.OutOfMemoryError, match='out of memory'):
        torch.empty([2**40], dtype=torch.uint8, device='cuda')
    before = torch.cuda.memory_allocated()
    x = torch.empty([2**20], device='cuda')
    assert torch.cuda.memory_allocated() == before + 4 * 2**20 <= torch.cuda.max_memory_allocated()
    del x
    assert torch.cuda.memory_allocated() == before


COUNTED = {
    'a product': (lambda x: x * 2, dict(launches=1)),
    'a view': (lambda x: x.view(-1)[1:], {}),
    'item': (lambda x: x[0].item(), dict(synchronizations=1)),
    'bool': (lambda x: bool((x > 5).any()), dict(synchronizations=1)),
    'a mask as index': (lambda x: x[x > 1], dict(synchronizations=1)),
    'a constant': (lambda x: torch.tensor([1.0, 2.0], device='cuda'), {'pageable copies': 1, 'synchronizations': 1}),
    'a pinned copy': (
        lambda x: torch.ones(4).pin_memory().to('cuda', non_blocking=True),
        {'pinned copies': 1, 'synchronizations': 0},
    ),
    'a pinned copy that waits': (lambda x: torch.ones(4).pin_memory().cuda(), dict(synchronizations=1)),
    'to the CPU': (lambda x: x.cpu(), {'copies to host': 1, 'synchronizations': 1}),
    'float64': (lambda x: x.double() * 2, dict(float64=1)),
    'many tensors at once': (lambda x: torch._foreach_add_([x, x.clone()], 1), dict(launches=2)),  # and the clone
}


@pytest.mark.parametrize('case', COUNTED)
def test_counts_what_is_expensive(case):
    run, expected = COUNTED[case]
    x = torch.arange(4.0, device='cuda')
    with counted() as counts:
        run(x)
    assert {name: counts[name] for name in expected} == expected
    if 'synchronizations' not in expected:
        assert counts['synchronizations'] == 0


def test_synchronizations_can_be_refused():
    x = torch.ones(3, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        x.mul_(2)
        with pytest.raises(RuntimeError, match='synchronizing'):
            x.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def test_graphs_repeat_their_operators_on_the_same_memory():
    x, weight = torch.ones(4, device='cuda'), torch.ones(4, device='cuda', requires_grad=True)
    total = torch.zeros([], device='cuda')
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = (x * weight).square()
        (gradient,) = torch.autograd.grad(y.sum(), weight)
        total += y.detach().sum()
    assert total.item() == 0
    for value in (2.0, 3.0):
        x.fill_(value)
        with counted() as counts:
            graph.replay()
        assert counts['launches'] == 1
        assert y.tolist() == [value**2] * 4 and gradient.tolist() == [2 * value**2] * 4
    assert total.item() == 4 * (4 + 9)  # nothing was computed while it was captured
    with pytest.raises(RuntimeError, match='capturing'), torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.sum().item()
    torch.cuda.manual_seed(0)
    expected = [torch.rand(3, device='cuda').tolist() for _ in range(2)]
    torch.cuda.manual_seed(0)
    with torch.cuda.graph(graph):
        numbers = torch.rand(3, device='cuda')
    for values in expected:
        graph.replay()
        assert numbers.tolist() == values
    with pytest.raises(RuntimeError, match='capturing'), torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.copy_(torch.ones(4))


def test_the_memory_of_a_graph_is_kept_until_it_is_released():
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.memory_allocated()
    with torch.cuda.graph(graph):
        torch.ones(2**16, device='cuda')
        y = torch.ones(2**16, device='cuda')
    del y
    assert torch.cuda.memory_allocated() == before + 2 * 4 * 2**16
    graph.reset()
    assert torch.cuda.memory_allocated() == before
