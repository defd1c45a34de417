"""Tuning: losses against slow formulas in float64, and what happens to the network."""

import math

import numpy as np
import pytest
import torch

from dnnlib.errors import InvalidArgument
from generation.editing import tuning
from generation.editing.tuning import Target, TuningSettings, tune
from generation.projected_latents import ProjectedLatents, noise_buffers
from generation.rendering import render_projected
from tests.feature_stand_in import FeatureNetwork
from tests.small_generators import make_generator, make_stylegan3_generator
from torch_utils.images import on_white

FEATURES = FeatureNetwork()


def features(images):
    return FEATURES(images, resize_images=False, return_lpips=True)


class DoubleFeatures(torch.nn.Module):
    """Unit vectors of a random convolution in float64."""

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        x = torch.nn.functional.conv2d(images / 127.5 - 1, self.weight)
        return (x / x.norm(dim=1, keepdim=True)).flatten(1) / math.sqrt(x[0, 0].numel())


def photographs_of(G, count, seed=0):
    """Return smooth random pictures, uint8 [C, H, W]."""
    height, width = (G.img_resolution, G.img_resolution) if isinstance(G.img_resolution, int) else G.img_resolution
    small = torch.rand([count, G.img_channels, 4, 4], generator=torch.Generator().manual_seed(seed)) * 255
    smooth = torch.nn.functional.interpolate(small, [height, width], mode='bilinear')
    return list(smooth.to(torch.uint8).numpy())


def pivots_of(G, count, seed=0):
    random = np.random.RandomState(seed)
    noise = {name: random.randn(count, *b.shape).astype(np.float32) for name, b in noise_buffers(G).items()}
    return ProjectedLatents(random.randn(count, G.num_ws, G.w_dim).astype(np.float32), noise)


def render(G, pivots):
    return list(render_projected(G, pivots, torch.device('cpu'), as_projected=True))


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def slow_loss(image, photograph, network, l2_weight):
    """Pixels [C, H, W] from 0 to 255, without alpha; 32 pixels per side, so that features see them as they are."""
    ours, theirs = (
        [network(picture[None].expand(1, 3, -1, -1))[0] for picture in pair] for pair in (image, photograph)
    )
    distance = sum(float(((a - b) ** 2).sum()) for a, b in zip(ours, theirs))
    squares = [
        float((a - b) ** 2) / 127.5**2 for x, y in zip(image, photograph) for a, b in zip(x.flatten(), y.flatten())
    ]
    return distance + l2_weight * sum(squares) / len(squares)


@pytest.mark.parametrize('num_channels', [1, 3])
def test_loss_against_a_slow_formula(num_channels):
    random = torch.Generator().manual_seed(1)
    network = DoubleFeatures()
    image, photograph = torch.rand([2, 1, num_channels, 32, 32], dtype=torch.float64, generator=random) * 2 - 1
    target = Target.of_image(photograph, network)
    loss = tuning.photograph_loss(image, target, network, l2_weight=3)
    expected = slow_loss([(image[0] + 1) * 127.5], [(photograph[0] + 1) * 127.5], network, 3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('num_channels', [2, 4])
def test_loss_with_alpha_is_that_on_white_and_on_black(num_channels):
    random = torch.Generator().manual_seed(1)
    network = DoubleFeatures()
    image, photograph = torch.rand([2, 1, num_channels, 32, 32], dtype=torch.float64, generator=random) * 2 - 1
    loss = tuning.photograph_loss(image, Target.of_image(photograph, network), network, l2_weight=3)

    def on_both(picture):
        colors, alpha = (picture[0, :-1] + 1) * 127.5, (picture[0, -1:] + 1) / 2
        return [colors * alpha + shade * (1 - alpha) for shade in (255, 0)]

    expected = slow_loss(on_both(image), on_both(photograph), network, 3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_colors_of_transparent_pixels_do_not_matter():
    first, second = -torch.ones([2, 1, 4, 32, 32])
    second[:, :3] = 1
    assert tuning.photograph_loss(first, Target.of_image(second, features), features, 1) == 0


def test_gradients():
    random = torch.Generator().manual_seed(1)
    network = DoubleFeatures()
    image, photograph = torch.rand([2, 1, 4, 32, 32], dtype=torch.float64, generator=random) * 1.8 - 0.9
    target = Target.of_image(photograph, network)
    patch = torch.zeros([1, 4, 1, 2], dtype=torch.float64, requires_grad=True)

    def loss(patch):
        padded = torch.nn.functional.pad(patch, [10, 20, 10, 21])
        return tuning.photograph_loss(image + padded, target, network, 0.5)

    assert torch.autograd.gradcheck(loss, patch)


def test_photographs_are_compared_as_in_the_projector():
    photograph = np.random.RandomState(0).randint(0, 256, [3, 32, 32], dtype=np.uint8)
    target = Target.of(photograph, features, 'cpu')
    torch.testing.assert_close(target.features, features(torch.from_numpy(photograph)[None].float()))
    assert target.pixels.min() == -1 and target.pixels.max() == 1


def test_latents_around_the_pivots():
    """In float64: the distance is exact, and the direction that of the random latents."""
    random = torch.Generator().manual_seed(0)
    pivots, ws = torch.randn([2, 3, 5, 8], dtype=torch.float64, generator=random)
    found = tuning.interpolate(pivots, ws, 0.7)
    for pivot, w, other in zip(pivots.flatten(0, 1), ws.flatten(0, 1), found.flatten(0, 1)):
        length = math.sqrt(sum(float(a - b) ** 2 for a, b in zip(w, pivot)))
        expected = [float(p) + 0.7 * float(a - p) / length for a, p in zip(w, pivot)]
        np.testing.assert_allclose(other, expected, rtol=1e-12)


def test_locality_is_the_weighted_loss_between_both_networks():
    G, tuned = make_generator(c_dim=3), make_generator(c_dim=3)
    tuned.synthesis.requires_grad_(True)
    with torch.no_grad():
        tuned.synthesis.b16.torgb.bias += 0.3
    settings = TuningSettings(locality_samples=2, locality_weight=0.5, locality_distance=1, l2_weight=2)
    locality = tuning.Locality(G, features, settings, 'cpu')
    pivots = torch.from_numpy(pivots_of(G, 2).ws)
    value = locality.backward(tuned, pivots, torch.Generator().manual_seed(5))
    latents = locality.latents(pivots, torch.Generator().manual_seed(5))
    assert latents.shape == (2, G.num_ws, 8)
    distances = (latents - pivots[:, None]).norm(dim=3)  # of every latent from every pivot
    assert torch.isclose(distances, torch.tensor(tuning.w_deviation(G, 'cpu'))).all(dim=2).any(dim=0).all()
    expected = 0
    for w in latents:
        theirs, ours = (network.synthesis(w[None], noise_mode='const') for network in (G, tuned))
        expected += 0.25 * tuning.photograph_loss(ours, Target.of_image(theirs, features), features, 2)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(tuned.synthesis.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(expected, parameters)):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_standard_deviation_of_w():
    G = make_generator(c_dim=3)
    z = torch.randn([3, 3000, 8], generator=torch.Generator().manual_seed(9))
    ws = torch.cat([G.mapping(z[c], torch.eye(3)[[c]].expand(3000, -1))[:, 0] for c in range(3)])
    expected = (ws - ws.mean(dim=0)).square().sum(dim=1).mean().sqrt().item()
    assert tuning.w_deviation(G, 'cpu') == pytest.approx(expected, rel=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# Networks

GENERATORS = {
    'StyleGAN2': lambda: make_generator(),
    'StyleGAN2, classes, gray and alpha, not square': lambda: make_generator(3, 2, img_resolution=[16, 24]),
    'StyleGAN3': lambda: make_stylegan3_generator(equivariance='translation'),
    'StyleGAN3, classes, alpha': lambda: make_stylegan3_generator(img_channels=4, c_dim=3),
}


SLOW = ('StyleGAN2', 'StyleGAN3')  # what the others test as well


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in GENERATORS]
)
def test_images_become_the_photographs(name):
    G = GENERATORS[name]()
    before = {key: value.clone() for key, value in G.state_dict().items()}
    photographs, pivots = photographs_of(G, 2), pivots_of(G, 2)
    steps = []
    settings = TuningSettings(num_steps=40, learning_rate=0.02)
    result = tune(G, photographs, pivots, features, settings, on_step=lambda *values: steps.append(values))

    assert all((value == before[key]).all() for key, value in G.state_dict().items())
    tuned = result.G.state_dict()
    assert all((tuned[key] == before[key]).all() for key in before if key.startswith('mapping'))
    assert not any(parameter.requires_grad for parameter in result.G.parameters())
    shown = [
        on_white(torch.from_numpy(np.stack(p))).float()
        for p in (photographs, render(G, pivots), render(result.G, pivots))
    ]
    assert (shown[2] - shown[0]).abs().mean() < 0.8 * (shown[1] - shown[0]).abs().mean()
    assert all(new.distance < 0.75 * old.distance for old, new in zip(result.before, result.after))
    assert all(new.l2 < 0.75 * old.l2 for old, new in zip(result.before, result.after))
    assert [step for step, _loss, _images in steps] == list(range(41)) and math.isnan(steps[-1][1])
    assert all(sorted(rendered) == [0, 1] for _step, _loss, rendered in steps)
    assert steps[-2][1] < 0.75 * steps[0][1]


def test_locality_keeps_other_images():
    G = make_generator()
    arguments = (G, photographs_of(G, 1), pivots_of(G, 1), features)
    free, kept = (
        tune(*arguments, TuningSettings(num_steps=30, learning_rate=0.02, locality_weight=weight)) for weight in (0, 5)
    )
    assert 0 < kept.drift < free.drift


def test_same_seed_same_network_and_batches_take_turns():
    G = make_generator()
    arguments = (G, photographs_of(G, 3), pivots_of(G, 3), features)
    shown = []
    settings = TuningSettings(num_steps=3, batch_size=2)
    first = tune(*arguments, settings, on_step=lambda _step, _loss, rendered: shown.append(set(rendered)))
    again = tune(*arguments, settings)
    other = tune(*arguments, TuningSettings(num_steps=3, batch_size=2, seed=1))
    states = [[*result.G.state_dict().values()] for result in (first, again, other)]
    assert all((a == b).all() for a, b in zip(*states[:2]))
    assert any((a != b).any() for a, b in zip(states[0], states[2]))
    assert [len(batch) for batch in shown] == [2, 1, 2, 3] and shown[0] | shown[1] == {0, 1, 2}


def test_a_stopped_tuning_has_what_it_has_reached():
    G = make_generator()
    arguments = (G, photographs_of(G, 1), pivots_of(G, 1), features)
    stopped = tune(*arguments, TuningSettings(num_steps=50), on_step=lambda step, _loss, _images: step == 2)
    short = tune(*arguments, TuningSettings(num_steps=2))
    assert stopped.num_steps == short.num_steps == 2 and stopped.after == short.after
    states = [[*result.G.state_dict().values()] for result in (stopped, short)]
    assert all((a == b).all() for a, b in zip(*states))


def test_without_noise_of_its_own_a_pivot_has_that_of_the_network():
    G = make_generator()
    pivots = ProjectedLatents(pivots_of(G, 1).ws)
    result = tune(G, photographs_of(G, 1), pivots, features, TuningSettings(num_steps=1, learning_rate=1e-9))
    target = Target.of(photographs_of(G, 1)[0], features, 'cpu')
    image = G.synthesis(torch.from_numpy(pivots.ws), noise_mode='const')
    expected = tuning.compare(image, target, features)[0].item()
    assert result.before[0].distance == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_errors():
    G = make_generator()
    for photographs, match in (
        (photographs_of(G, 1), '1 photographs do not match 2 latents'),
        (photographs_of(make_generator(img_resolution=32), 2), 'has 32x32 pixels .*have 16x16'),
        (photographs_of(make_generator(img_channels=1), 2), '1 channels, .* and 3'),
    ):
        with pytest.raises(InvalidArgument, match=match) as caught:
            tune(G, photographs, pivots_of(G, 2), features, TuningSettings(num_steps=1))
        assert caught.value.argument == 'target'
    with pytest.raises(InvalidArgument, match='use a lower rate') as caught:
        tune(G, photographs_of(G, 1), pivots_of(G, 1), features, TuningSettings(num_steps=3, learning_rate=1e30))
    assert caught.value.argument == 'lr'
    G.synthesis.b8.conv1.bias.fill_(math.nan)
    with pytest.raises(InvalidArgument, match='not finite') as caught:
        tune(G, photographs_of(G, 1), pivots_of(G, 1), features, TuningSettings(num_steps=1))
    assert caught.value.argument == 'network'
