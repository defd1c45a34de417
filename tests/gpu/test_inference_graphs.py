"""Inference by CUDA graphs gives the same numbers, however often it is replayed."""

import pytest
import torch

from generation.image_transforms import make_transform, use_transform
from tests.small_generators import make_generator, make_stylegan3_generator
from torch_utils import inference_graphs
from torch_utils.inference_graphs import MAX_RECORDINGS, WARM_UPS, Replayed, call, replaying

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]
NUM_CALLS = WARM_UPS + 3  # one is recorded, the others are replayed


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are recorded, in order."""
    recorded, original = [], torch.cuda.CUDAGraph
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: recorded.append(original()) or recorded[-1])
    return recorded


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def images(G, noise_mode, batch=2):
    """Images of the same latents and seeds each time it is called."""
    torch.manual_seed(0)
    result = []
    for _ in range(NUM_CALLS):
        ws = torch.randn([batch, G.num_ws, G.w_dim], device='cuda')
        result.append(call(G.synthesis, ws, noise_mode=noise_mode))
    return result


@pytest.mark.parametrize('noise_mode', ['const', 'random'])
@pytest.mark.parametrize('make', [make_generator, make_stylegan3_generator])
def test_replayed_images_are_the_same(graphs, make, noise_mode):
    G = make().cuda()
    expected = images(G, noise_mode)
    assert not graphs
    with replaying():
        actual = images(G, noise_mode)
    assert len(graphs) == 1
    for image, other in zip(actual, expected):
        assert torch.equal(image, other) and image.data_ptr() not in [x.data_ptr() for x in actual if x is not image]


def test_whole_generators_are_replayed(graphs):
    G = make_generator(c_dim=2).cuda()
    z, c = torch.randn([5, 3, 8], device='cuda'), torch.eye(3, 2, device='cuda')
    expected = [G(each, c, noise_mode='const') for each in z]
    with replaying():
        actual = [call(G, each, c, noise_mode='const') for each in z]
    assert len(graphs) == 1 and all(map(torch.equal, actual, expected))


def test_tensors_may_change_in_place_or_be_replaced(graphs):
    G = make_stylegan3_generator().cuda()
    ws = torch.randn([1, G.num_ws, G.w_dim], device='cuda')
    transforms = [make_transform((0.1 * index, 0), 30 * index) for index in range(NUM_CALLS)]
    expected = []
    for transform in transforms:
        with use_transform(G, transform):
            expected.append(G.synthesis(ws))
    with replaying():
        for transform, image in zip(transforms, expected):
            with use_transform(G, transform):
                assert torch.equal(call(G.synthesis, ws), image)
        assert len(graphs) == 1
        G.synthesis.input.transform = torch.eye(3, device='cuda')
        assert torch.equal(call(G.synthesis, ws), G.synthesis(ws))


def test_each_shape_and_option_has_a_recording_of_its_own(graphs):
    G = make_generator().cuda()
    with replaying():
        for batch in range(1, MAX_RECORDINGS + 2):
            assert all(len(image) == batch for image in images(G, 'const', batch))
        assert len(graphs) == MAX_RECORDINGS
    with replaying():
        images(G, 'none')
        images(G, 'const')
    assert len(graphs) == MAX_RECORDINGS + 2


def test_training_and_gradients_are_not_recorded(graphs):
    G = make_generator().cuda()
    with replaying():
        with torch.enable_grad():
            images(G, 'const')
        images(G.train(), 'const')
    with replaying(False):
        images(G.eval(), 'const')
    assert not graphs


def test_what_cannot_be_recorded_runs_as_it_is(graphs, capsys):
    inference_graphs._print_once.cache_clear()
    waiting = Replayed(lambda x: [x * x.sum().item()])
    with replaying():
        for value in range(1, NUM_CALLS + 1):
            assert waiting(torch.full([2], float(value), device='cuda'))[0].tolist() == [2 * value**2] * 2
    assert len(graphs) == 1 and capsys.readouterr().err.count('Not replayed as a CUDA graph') == 1
