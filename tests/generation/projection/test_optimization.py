"""The optimization: schedules and penalties against plain formulas, a few steps against plain code, recovery."""

import math

import numpy as np
import pytest
import torch

from generation.projection import optimization
from generation.projection.optimization import ProjectionSettings, WStatistics, feature_input, measure_w, project
from torch_utils import images
from training.networks_stylegan2 import Generator


def make_generator(c_dim=0, img_channels=3, resolution=16, noise_strength=0.1, **synthesis_kwargs):
    torch.manual_seed(1)
    G = Generator(
        z_dim=16, c_dim=c_dim, w_dim=16, img_resolution=resolution, img_channels=img_channels,
        mapping_kwargs={'num_layers': 2}, synthesis_kwargs={'channel_base': 256, 'channel_max': 16, **synthesis_kwargs},
    )  # fmt: skip
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(noise_strength)
    return G.eval().requires_grad_(False)


def make_features(num_channels=(16, 32)):
    """Return random convolutions, normalized over their channels as in LPIPS: [1, 3, H, W] → [1, D]."""
    random = torch.Generator().manual_seed(0)
    sizes = zip((3, *num_channels), num_channels)
    weights = [torch.randn(o, i, 3, 3, generator=random) / math.sqrt(9 * i) for i, o in sizes]

    def features(x):
        parts = []
        x = x / 127.5 - 1
        for weight in weights:
            x = torch.nn.functional.conv2d(x, weight, padding=1).relu()
            directions = torch.nn.functional.normalize(x, dim=1) / math.sqrt(x.shape[2] * x.shape[3])
            parts.append(directions.flatten(1))
            x = torch.nn.functional.avg_pool2d(x, 2)
        return torch.cat(parts, dim=1)

    return features


def image_of_seed(G, seed, label=None):
    with torch.no_grad():
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)).float()
        return images.to_uint8(G(z, label, noise_mode='const'))[0].numpy()


def w_of(G):
    return measure_w(G, torch.zeros([1, 0]))


@pytest.fixture(scope='module')
def G():
    return make_generator()


@pytest.fixture(scope='module')
def features():
    return make_features()


# ---------------------------------------------------------------------------------------------------------------------
# Schedules


@pytest.mark.parametrize('progress, expected', [
    (0, 0),                                     # start
    (0.025, 0.05),                              # half of the ramp-up
    (0.05, 0.1), (0.4, 0.1), (0.75, 0.1),       # maximum
    (0.875, 0.05),                              # half a cosine: half of the time, half of the height
    (0.95, 0.1 * math.sin(math.pi / 10) ** 2),  # 1/2 - cos(x)/2 = sin²(x/2), a fifth of it left
    (1, 0),
])  # fmt: skip
def test_learning_rate(progress, expected):
    assert optimization.learning_rate_at(progress, ProjectionSettings()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('progress, expected', [(0, 0.2), (0.375, 0.05), (0.6, 0.008), (0.75, 0), (0.9, 0)])
def test_noise_added_to_w(progress, expected):
    assert optimization.w_noise_at(progress, 4.0, ProjectionSettings()) == pytest.approx(expected, abs=1e-12)


def test_published_numbers():
    assert ProjectionSettings() == ProjectionSettings(
        num_steps=1000, seed=303, space='w', learning_rate=0.1, noise_weight=1e5, ramp_up=0.05, ramp_down=0.25,
        w_noise=0.05, w_noise_until=0.75,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# W's statistics


def test_w_statistics():
    G = make_generator(c_dim=3)
    label = torch.tensor([[0.0, 1, 0]])
    z = np.random.RandomState(123).randn(10000, 16)
    ws = np.stack([
        G.mapping(torch.from_numpy(z[i : i + 500]), label.repeat(500, 1))[:, 0].numpy() for i in range(0, 10000, 500)
    ]).reshape(10000, 16).astype(np.float64)  # fmt: skip
    statistics = measure_w(G, label)
    mean = ws.mean(axis=0)
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-5, atol=1e-6)
    assert statistics.deviation == pytest.approx(math.sqrt(((ws - mean) ** 2).sum() / 10000), rel=1e-5)
    assert (measure_w(G, label.roll(1)).mean - statistics.mean).abs().max() > 0.01


# ---------------------------------------------------------------------------------------------------------------------
# Noise


def autocorrelations(noise):
    """Return the mean products of a map [H, H] with itself shifted by one pixel in x and y, at all scales."""
    size = len(noise)
    correlations = [
        sum(noise[y][x] * noise[y - dy][x - dx] for y in range(size) for x in range(size)) / size**2
        for dy, dx in ((0, 1), (1, 0))
    ]
    if size <= 8:
        return correlations
    half = range(0, size, 2)
    smaller = [
        [(noise[y][x] + noise[y][x + 1] + noise[y + 1][x] + noise[y + 1][x + 1]) / 4 for x in half] for y in half
    ]
    return correlations + autocorrelations(smaller)


def test_noise_penalty():
    random = torch.Generator().manual_seed(0)
    maps = [torch.randn(size, size, generator=random) + 0.3 for size in (4, 8, 16, 32)]
    numbers = [autocorrelations(noise.double().tolist()) for noise in maps]
    assert [len(correlations) for correlations in numbers] == [2, 2, 4, 6]
    expected = sum(number**2 for correlations in numbers for number in correlations)
    assert optimization.noise_penalty(maps).item() == pytest.approx(expected, rel=1e-5)
    assert optimization.noise_penalty([]).item() == 0


def test_standardized_noise():
    noise = torch.rand(8, 8) * 5 + 2
    expected = (noise - noise.mean()) / noise.std(correction=0)
    optimization.standardize_(noise)
    torch.testing.assert_close(noise, expected)


# ---------------------------------------------------------------------------------------------------------------------
# Input of the features


@pytest.mark.parametrize('size, expected', [(4, 32), (16, 32), (32, 32), (128, 128), (256, 256), (1024, 256)])
def test_size_of_the_feature_input(size, expected):
    image = torch.rand(1, 1, size, size) * 255
    converted = feature_input(image)
    assert converted.shape == (1, 3, expected, expected) and optimization.feature_input_size(size) == (
        expected,
        expected,
    )
    assert torch.equal(converted[:, 0], converted[:, 2])
    if size > 256:
        factor = size // 256
        means = image[0, 0].reshape(256, factor, 256, factor).mean(dim=(1, 3))
        torch.testing.assert_close(converted[0, 1], means)
    else:
        factor = expected // size
        assert torch.equal(converted[0, 1], image[0, 0].repeat_interleave(factor, 0).repeat_interleave(factor, 1))


@pytest.mark.parametrize('size, expected', [
    ((64, 96), (64, 96)), ((512, 768), (171, 256)), ((768, 192), (256, 64)), ((8, 24), (32, 96)), ((32, 8), (128, 32)),
])  # fmt: skip
def test_the_feature_input_has_the_same_proportions(size, expected):
    image = torch.full([1, 3, *size], 7.0)
    image[:, :, : size[0] // 2] = 200  # the upper half stays the upper half
    converted = feature_input(image)
    assert converted.shape == (1, 3, *expected) and optimization.feature_input_size(size) == expected
    half = expected[0] // 2
    assert (converted[:, :, :half] == 200).all() and (converted[:, :, half + 1 :] == 7).all()


@pytest.mark.parametrize('num_channels', [2, 4])
def test_images_with_alpha_are_compared_on_white_and_on_black(num_channels):
    image = torch.rand(1, num_channels, 64, 96, dtype=torch.float64) * 255
    on_white, on_black = feature_input(image).split(1)
    alpha = image[:, -1:] / 255
    torch.testing.assert_close(on_black, (image[:, :-1] * alpha).expand(-1, 3, -1, -1))
    torch.testing.assert_close(on_white, (255 - (255 - image[:, :-1]) * alpha).expand(-1, 3, -1, -1))
    image[:, -1] = 999  # more than opaque
    assert torch.equal(feature_input(image), image[:, :-1].expand(2, 3, -1, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Steps


class PlainAdam:
    """Adam (arXiv 1412.6980, algorithm 1) for one tensor."""

    def __init__(self):
        self.first = self.second = self.time = 0

    def step(self, gradient, learning_rate):
        self.time += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.time), self.second / (1 - 0.999**self.time)
        return -learning_rate * first / (second.sqrt() + 1e-8)


def plain_projection(G, target, features, statistics, num_steps, seed):
    """Follow the published procedure on a network whose noise is overwritten; return the final w and noise."""
    torch.manual_seed(seed)
    modules = G.synthesis.named_modules()
    layers = {f'{name}.noise_const': layer for name, layer in modules if hasattr(layer, 'noise_const')}
    for layer in layers.values():
        layer.noise_const = torch.randn_like(layer.noise_const)
    w = statistics.mean.clone()
    adams = {name: PlainAdam() for name in ('w', *layers)}
    for step in range(num_steps):
        t = step / num_steps
        strength = 0.05 * statistics.deviation * max(0, 1 - t / 0.75) ** 2
        learning_rate = 0.1 * (0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))) * min(1, t / 0.05)
        unknowns = {'w': w, **{name: layer.noise_const for name, layer in layers.items()}}
        for tensor in unknowns.values():
            tensor.requires_grad_(True)
        ws = (w + torch.randn(1, 1, len(w)) * strength).repeat(1, G.num_ws, 1)
        image = (G.synthesis(ws, noise_mode='const') + 1) * 255 / 2
        doubled = image.repeat_interleave(2, 2).repeat_interleave(2, 3)  # 16 pixels, as 32
        target_image = torch.from_numpy(target)[None].float().repeat_interleave(2, 2).repeat_interleave(2, 3)
        loss = (features(doubled) - features(target_image)).square().sum()
        for layer in layers.values():
            noise = layer.noise_const
            while True:
                loss = loss + 1e5 * sum((noise * torch.roll(noise, 1, axis)).mean() ** 2 for axis in (0, 1))
                if len(noise) <= 8:
                    break
                noise = noise.unfold(0, 2, 2).unfold(1, 2, 2).mean(dim=(2, 3))
        gradients = dict(zip(unknowns, torch.autograd.grad(loss, list(unknowns.values()))))
        w = (w + adams['w'].step(gradients['w'], learning_rate)).detach()
        for name, layer in layers.items():
            noise = (layer.noise_const + adams[name].step(gradients[name], learning_rate)).detach()
            noise = noise - noise.mean()
            layer.noise_const = noise / noise.square().mean().sqrt()
    return w, {name: layer.noise_const for name, layer in layers.items()}


def test_the_published_procedure(features):
    target = image_of_seed(make_generator(), 5)
    G = make_generator()
    result = project(G, target, features, w_of(G), ProjectionSettings(num_steps=15, seed=11))
    w, noise = plain_projection(make_generator(), target, features, w_of(G), num_steps=15, seed=11)
    assert (w - w_of(G).mean).abs().max() > 0.3  # w has moved
    torch.testing.assert_close(result.last.ws, w.repeat(1, G.num_ws, 1), rtol=0, atol=1e-4)
    assert result.last.noise.keys() == noise.keys() and len(noise) == 5
    for name in noise:
        torch.testing.assert_close(result.last.noise[name], noise[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize('space', ['w', 'w+'])
def test_own_image_is_recovered(space):
    """A network without noise reproduces its own image: after 100 steps, a twentieth of the distance is left."""
    G = make_generator(noise_strength=0)
    target = image_of_seed(G, 5)
    result = project(G, target, make_features(), w_of(G), ProjectionSettings(num_steps=100, space=space))
    assert result.last.distance < 0.05 * result.distances[0]
    vectors = result.last.ws[0]
    assert (vectors[0] != vectors[1]).any() == (space == 'w+')
    if space == 'w':
        assert np.abs(optimization.render(G, result.last).astype(int) - target).mean() < 5


def test_last_and_best(G, features, monkeypatch):
    """`best` is the image with the lowest distance, including the noise added to w and the noise maps of its step."""
    monkeypatch.setattr(optimization, 'learning_rate_at', lambda progress, settings: 0.1 if progress < 0.5 else 2.0)
    calls = []
    result = project(G, image_of_seed(G, 5), features, w_of(G), ProjectionSettings(num_steps=40),
                     lambda *arguments: calls.append(arguments))  # fmt: skip
    steps, distances, rendered = zip(*calls)
    assert steps == tuple(range(41)) and list(distances) == result.distances
    lowest = int(np.argmin(distances))
    assert 0 < lowest < 40, 'the learning rate above is meant to spoil the second half'
    assert (result.best.step, result.best.distance) == (lowest, distances[lowest])
    assert (result.last.step, result.last.distance) == (40, distances[40])
    for candidate in (result.best, result.last):
        np.testing.assert_array_equal(
            optimization.render(G, candidate), images.to_uint8(rendered[candidate.step])[0].numpy())  # fmt: skip
    for noise in result.last.noise.values():
        assert abs(noise.mean()) < 1e-6 and abs(noise.square().mean() - 1) < 1e-5


def test_best_includes_the_noise_added_to_w(G, features):
    """With a negligible learning rate, only the noise added to w changes the distance."""
    settings = ProjectionSettings(num_steps=20, learning_rate=1e-12)
    result = project(G, image_of_seed(G, 5), features, w_of(G), settings)
    assert 0 <= result.best.step < 15 and result.best.distance < result.last.distance
    assert (result.best.ws - w_of(G).mean).abs().max() > 1e-3
    torch.testing.assert_close(result.last.ws, w_of(G).mean.repeat(1, G.num_ws, 1))


def test_seed_determines_the_result(G, features):
    target = image_of_seed(G, 5)

    def run(seed):
        torch.manual_seed(seed + 77)  # the global state has no effect and is not changed
        before = torch.get_rng_state()
        result = project(G, target, features, w_of(G), ProjectionSettings(num_steps=5, seed=seed))
        assert torch.equal(before, torch.get_rng_state())
        return result

    first, again, other = run(1), run(1), run(2)
    assert first.distances == again.distances and torch.equal(first.last.ws, again.last.ws)
    assert all(torch.equal(first.last.noise[name], again.last.noise[name]) for name in first.last.noise)
    assert not torch.equal(first.last.ws, other.last.ws)


@pytest.mark.parametrize('is_training', [False, True])
def test_the_network_is_not_changed(features, is_training):
    G = make_generator().train(is_training).requires_grad_(is_training)
    target = image_of_seed(G, 5)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    project(G, target, features, w_of(G), ProjectionSettings(num_steps=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())
    assert G.training == is_training and not any(buffer.requires_grad for buffer in G.buffers())
    assert all(tensor.requires_grad == is_training and tensor.grad is None for tensor in G.parameters())


def test_network_without_noise(features):
    G = make_generator(use_noise=False)
    result = project(G, image_of_seed(G, 1), features, w_of(G), ProjectionSettings(num_steps=3))
    assert result.last.noise == {} and result.distances[-1] < result.distances[0]


def test_gray_network_and_its_file(features):
    G = make_generator(img_channels=1)
    result = project(G, image_of_seed(G, 5), features, w_of(G), ProjectionSettings(num_steps=3))
    assert optimization.render(G, result.last).shape == (1, 16, 16)
    stored = result.last.to_latents()
    assert stored.ws.shape == (1, G.num_ws, 16) and stored.ws.dtype == np.float32
    assert {name: noise.shape for name, noise in stored.noise.items()} == {
        'b4.conv1.noise_const': (1, 4, 4), 'b8.conv0.noise_const': (1, 8, 8), 'b8.conv1.noise_const': (1, 8, 8),
        'b16.conv0.noise_const': (1, 16, 16), 'b16.conv1.noise_const': (1, 16, 16)}  # fmt: skip


def test_divergence_is_an_error(G, features):
    target = image_of_seed(G, 5)
    with pytest.raises(ValueError, match='became nan in step 1: use a lower'):
        project(G, target, features, w_of(G), ProjectionSettings(num_steps=3, noise_weight=1e300))
    with pytest.raises(ValueError, match='nan at the start: the images of the network'):
        project(G, target, features, WStatistics(torch.full([16], math.nan), 1.0), ProjectionSettings(num_steps=3))
