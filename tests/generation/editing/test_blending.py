"""Blends and averages of generators."""

import copy

import pytest
import torch

from dnnlib.errors import InvalidArgument
from generation.editing import blending
from network_files.construction import named_tensors
from tests.small_generators import make_generator, make_stylegan3_generator

MAKERS = {
    'stylegan2': make_generator,
    'conditional': lambda: make_generator(c_dim=3),
    'alpha': lambda: make_generator(img_channels=4),
    'stylegan3': make_stylegan3_generator,
}


def child_of(G, seed=5):
    """A copy of a generator whose parameters have moved, as those of a network that was trained further."""
    child = copy.deepcopy(G)
    random = torch.Generator().manual_seed(seed)
    for parameter in child.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    return child


@pytest.fixture(params=MAKERS)
def pair(request):
    first = MAKERS[request.param]()
    return first, child_of(first)


def middle(G):
    return sorted(set(blending.resolutions(G).values()))[1]


def test_layers_from_a_resolution_on_are_those_of_the_second(pair):
    first, second = pair
    result = blending.blend(first, second, middle(first))
    levels = blending.resolutions(first)
    ours, theirs, mixed = map(named_tensors, (first, second, result))
    for name, tensor in mixed.items():
        part = name.split('.')[1]
        is_second = name.startswith('synthesis.') and levels[part] >= middle(first)
        assert torch.equal(tensor, (theirs if is_second else ours)[name]), name
    assert any(name.startswith('synthesis.') and levels[name.split('.')[1]] < middle(first) for name in mixed)


def test_images_of_a_blend(pair):
    """Until the seam, activations are those of the first network; the input of the seam's layer shows it."""
    first, second = pair
    result = blending.blend(first, second, middle(first), mapping='second')
    z, c = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)), torch.eye(max(first.c_dim, 1))[:1]
    c = c if first.c_dim else torch.zeros(1, 0)
    assert torch.equal(result.mapping(z, c), second.mapping(z, c))
    ws = first.mapping(z, c)
    images = [G.synthesis(ws, noise_mode='const') for G in (first, second, result)]
    assert not torch.equal(images[2], images[0]) and not torch.equal(images[2], images[1])


def test_seam(pair):
    first, second = pair
    levels = blending.resolutions(first)
    top = max(levels.values())
    shares = blending.shares_of_second(first, top, seam=1)
    for name, level in levels.items():
        assert shares[name] == pytest.approx({top: 1, top // 2: 0.5}.get(level, 0)), name
    result = blending.blend(first, second, top, seam=1)
    ours, theirs, mixed = (named_tensors(G.synthesis) for G in (first, second, result))
    for name, tensor in mixed.items():
        share = shares[name.partition('.')[0]]
        torch.testing.assert_close(tensor, ours[name] + share * (theirs[name] - ours[name]))


@pytest.mark.parametrize('resolution', [1, 12, 64])
def test_resolutions_that_do_not_exist(resolution):
    with pytest.raises(InvalidArgument, match=r'use one of 8, 16\.'):
        blending.blend(make_generator(), make_generator(), resolution)


def test_first_resolution_replaces_everything():
    with pytest.raises(InvalidArgument, match='cannot be divided|can be divided'):
        blending.blend(make_generator(), make_generator(), 4)


@pytest.mark.parametrize('other', [
    make_generator(img_resolution=32), make_generator(img_channels=1), make_stylegan3_generator(),
], ids=['size', 'channels', 'generation'])  # fmt: skip
def test_other_shapes_are_refused(other):
    with pytest.raises(InvalidArgument, match='different layers .* same architecture') as caught:
        blending.blend(make_generator(), other, 8)
    assert str(caught.value).count('\n') == 0 and len(str(caught.value)) < 500
    with pytest.raises(InvalidArgument, match='different layers'):
        blending.average([make_generator(), other])


def test_blend_takes_any_classes_of_the_second():
    blending.blend(make_generator(c_dim=3), make_generator(c_dim=2), 8)
    with pytest.raises(InvalidArgument, match='different layers'):
        blending.average([make_generator(c_dim=3), make_generator(c_dim=2)])


# ---------------------------------------------------------------------------------------------------------------------
# Averages


def test_average_is_the_weighted_mean(pair):
    first, second = pair
    third = child_of(first, seed=9)
    result = named_tensors(blending.average([first, second, third], [1, 2, 5]))
    for name, tensor in result.items():
        a, b, c = (named_tensors(G)[name].double() for G in (first, second, third))
        torch.testing.assert_close(tensor.double(), (a + 2 * b + 5 * c) / 8, rtol=1e-5, atol=1e-6)
    assert torch.equal(named_tensors(blending.average([first, first]))['mapping.fc0.weight'], first.mapping.fc0.weight)


@pytest.mark.parametrize('weights', [[1], [1, -1], [1, 2, 3]])
def test_bad_weights(weights):
    with pytest.raises(InvalidArgument, match='weights for 2 networks'):
        blending.average([make_generator(), make_generator()], weights)


def test_other_waves_have_no_average():
    first, second = make_stylegan3_generator(), make_stylegan3_generator()
    second.synthesis.input.freqs.add_(0.1)
    with pytest.raises(InvalidArgument, match='no common ancestor'):
        blending.average([first, second])
