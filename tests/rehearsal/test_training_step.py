"""What a training iteration does on a GPU, on the rehearsal device. Run by `tests/test_rehearsal.py`."""

import pytest
import torch

from torch_utils.ops import upfirdn2d
from training.augment import SYM6, rotation, scaling, translation, warp_affine
from training.data.ahead import BatchesAhead

pytestmark = pytest.mark.skipif(not getattr(torch.cuda, 'rehearsal', False), reason='needs the rehearsal device')

if getattr(torch.cuda, 'rehearsal', False):
    from tests.rehearsal.backend import counted

CUDA = torch.device('cuda', 0)


# ---------------------------------------------------------------------------------------------------------------------
# Data


def loaded(count, fails_at=None):
    for index in range(count):
        if index == fails_at:
            raise OSError('the disk is gone')
        yield torch.full([2, 3, 4, 4], index, dtype=torch.uint8).pin_memory(), torch.zeros([2, 0]), ['', str(index)]


def test_the_next_batch_is_copied_while_the_current_one_trains():
    batches = BatchesAhead(loaded(3), CUDA)
    current = next(batches)
    with counted() as counts:
        batches.start_next()
        batches.start_next()
    assert counts['pinned copies'] >= 1 and counts['synchronizations'] == 0
    assert current.pixels.tolist() == torch.zeros([2, 3, 4, 4]).tolist()  # the copy arrives elsewhere
    with counted() as counts:
        following = next(batches)
    assert counts['pinned copies'] == counts['pageable copies'] == counts['synchronizations'] == 0
    assert following.pixels.unique().tolist() == [1] and following.messages == ['', '1']
    assert next(batches).pixels.unique().tolist() == [2]  # without `start_next`


def test_an_error_comes_when_its_batch_is_due():
    batches = BatchesAhead(loaded(3, fails_at=1), CUDA)
    next(batches)
    batches.start_next()
    with pytest.raises(OSError, match='disk'):
        next(batches)


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def random_maps(count, height, width, reach):
    """Rotations, scalings and translations; the larger `reach` is, the farther they go beyond the image."""
    angle, scale, shift = torch.rand(count) * 6.3, (torch.randn(count) * 0.3 * reach).exp2(), torch.randn(count, 2)
    shift = shift * reach * torch.tensor([width, height]) / 8
    return rotation(angle) @ scaling(scale, scale) @ translation(shift[:, 0], shift[:, 1])


@pytest.mark.parametrize('height, width, reach', [(16, 16, 0.5), (8, 24, 0.5), (24, 8, 0.5), (16, 16, 0)])
def test_warped_images_are_those_of_the_cpu(height, width, reach):
    torch.manual_seed(0)
    images, maps = torch.randn(6, 3, height, width), random_maps(6, height, width, reach)
    lowpass = upfirdn2d.setup_filter(SYM6)
    results = []
    for device in ('cpu', CUDA):
        x = images.to(device).requires_grad_()
        y = warp_affine(x, maps.to(device), lowpass.to(device))
        (dx,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y.detach().cpu(), dx.cpu()))
    for expected, actual in zip(*results):
        assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


def test_what_is_farther_than_the_longer_side_is_zero_as_on_the_cpu():
    """Within the reach of the filters from there, the CPU mixes in the zeros already."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, 16, 16)
    maps = translation(torch.tensor([0.0, 25.0]), torch.tensor([0.0, -3.0]))  # to 17 pixels beyond the border
    lowpass = upfirdn2d.setup_filter(SYM6)
    expected = warp_affine(images, maps, lowpass)
    actual = warp_affine(images.to(CUDA), maps.to(CUDA), lowpass.to(CUDA)).cpu()
    assert torch.allclose(actual[0], expected[0], atol=1e-4)
    assert torch.allclose(actual[1, ..., :3], expected[1, ..., :3], atol=1e-4) and actual[1, ..., :3].abs().max() > 0.1
    assert torch.allclose(actual[1, ..., 9:], torch.zeros([16, 7])) and not expected[1, ..., 9:].any()
