"""Maps of layers: where the points of the image are in them, bilinear interpolation, names of layers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnnlib.errors import InvalidArgument
from generation.editing import feature_maps
from generation.editing.feature_maps import FeatureMaps
from tests.small_generators import make_generator, make_stylegan3_generator


def bilinear(features, x, y):
    """Interpolate [C, h, w] at one position, slowly; outside, the edge continues."""
    height, width = features.shape[1:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = x - left, y - top
    upper = features[:, top, left] * (1 - a) + features[:, top, right] * a
    lower = features[:, bottom, left] * (1 - a) + features[:, bottom, right] * a
    return upper * (1 - b) + lower * b


def test_interpolation():
    random = np.random.RandomState(0)
    features = random.randn(3, 5, 7)
    positions = random.uniform(-2, 8, [40, 2])
    expected = [bilinear(features, x, y) for x, y in positions]
    found = feature_maps.sample(torch.from_numpy(features), torch.from_numpy(positions))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gradients():
    torch.manual_seed(0)
    features = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    positions = (torch.rand(6, 2, dtype=torch.float64) * 2.5 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(feature_maps.sample, (features, positions))


def maps_of(size, rate=None):
    """Return maps of a layer of a generator of images of a size [H, W], with a sampling rate as in StyleGAN3."""
    layer = torch.nn.Identity() if rate is None else SimpleNamespace(out_sampling_rate=rate)
    G = SimpleNamespace(img_resolution=size, synthesis=SimpleNamespace(layer_names=['layer', 'image'], layer=layer))
    return FeatureMaps(G, 'layer')


# The content of the maps is the place in the image, so that every point must find itself.
@pytest.mark.parametrize(
    ('size', 'map_size', 'rate', 'pixel'),
    [
        ([16, 16], [8, 8], None, 2),
        ([16, 16], [16, 16], None, 1),
        ([32, 48], [8, 12], None, 4),
        ([32, 32], [16 + 20, 16 + 20], 16, 2),
        ([32, 48], [16 + 8, 24 + 8], 24, 2),
    ],
)
def test_places(size, map_size, rate, pixel):
    """`pixel` is the size of a pixel of the map in pixels of the image."""
    axes = [(np.arange(n) - (n - 1) / 2) * pixel + (side - 1) / 2 for n, side in zip(map_size, size)]
    y, x = np.meshgrid(*axes, indexing='ij')
    content = torch.from_numpy(np.stack([x, y]))
    points = torch.tensor([[6.25, 9.5], [pixel, 3], [size[1] - 1 - pixel, size[0] - 1 - pixel]], dtype=torch.float64)
    maps = maps_of(size, rate)
    torch.testing.assert_close(maps.at(content, points), points)

    mask = torch.arange(size[1], dtype=torch.float64).expand(*size)
    expected = torch.from_numpy(x).clamp(0, size[1] - 1)
    torch.testing.assert_close(maps.weights(mask, content), expected)


def test_offsets_are_the_nearest_first():
    like = torch.zeros([], dtype=torch.float64)
    square = feature_maps.offsets(1, 0.5, is_round=False, like=like)
    assert len(square) == 25 and square[0].tolist() == [0, 0] and square.dtype == torch.float64
    assert (square.norm(dim=1).diff() >= 0).all() and square.abs().max() == 1
    disc = feature_maps.offsets(1, 0.5, is_round=True, like=like)
    assert sorted(map(tuple, disc.tolist())) == sorted(p for p in map(tuple, square.tolist()) if np.hypot(*p) <= 1)


@pytest.mark.parametrize(
    ('make', 'names'),
    [
        (make_generator, ['b4', 'b8', 'b16']),
        (make_stylegan3_generator, None),
    ],
)
def test_layers(make, names):
    G = make()
    found = feature_maps.layer_names(G)
    assert found == (names or G.synthesis.layer_names[:-1])
    ws = torch.zeros([1, G.num_ws, 8], requires_grad=True)
    for name in found:
        image, features = FeatureMaps(G, name).render(ws)
        assert image.shape[:2] == (1, 3) and features.ndim == 3
        (gradient,) = torch.autograd.grad(features.square().sum(), ws)
        assert gradient.abs().sum() > 0
    assert not any(module._forward_hooks for module in G.modules())
    with pytest.raises(InvalidArgument, match=f"Unknown layer 'b5'.*{found[0]}.*{found[-1]}") as caught:
        FeatureMaps(G, 'b5')
    assert caught.value.argument == 'feature_layer'
