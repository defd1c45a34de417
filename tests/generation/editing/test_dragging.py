"""Dragging: motion supervision and tracking against known answers, and sessions with small generators."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnnlib.errors import InvalidArgument
from generation.editing import dragging
from generation.editing.dragging import DragSession, default_settings
from generation.editing.feature_maps import FeatureMaps
from generation.projected_latents import ProjectedLatents, noise_buffers
from generation.rendering import render_projected
from tests.small_generators import make_generator, make_stylegan3_generator

SIDE = 32


class Waves(torch.nn.Module):
    """A map of waves of many directions, which the first two numbers of the first w shift: [1, C, h, w].

    Args:
        size: h and w; the map covers an image of `SIDE` pixels.
    """

    def __init__(self, size, num_channels=24):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        angle = torch.rand(num_channels, generator=random, dtype=torch.float64) * 2 * math.pi
        frequency = torch.rand(num_channels, generator=random, dtype=torch.float64) * 0.2 + 0.1
        self.waves = torch.stack([angle.cos(), angle.sin()], dim=1) * frequency[:, None]  # radians per pixel
        self.phases = torch.rand(num_channels, generator=random, dtype=torch.float64) * 2 * math.pi
        self.size = size

    def forward(self, ws):
        axis = (torch.arange(self.size, dtype=torch.float64) + 0.5) * SIDE / self.size - 0.5
        y, x = torch.meshgrid(axis, axis, indexing='ij')
        places = torch.stack([x, y], dim=2) - ws[0, 0, :2].double()  # [h, w, 2]
        return torch.sin(places @ self.waves.t() + self.phases).permute(2, 0, 1)[None].to(ws.dtype)


class ShiftedWaves(torch.nn.Module):
    """A synthesis network whose image is shifted by w."""

    def __init__(self, size):
        super().__init__()
        self.layer_names = ['waves', 'image']
        self.waves = Waves(size)

    def forward(self, ws, **_options):
        return torch.nn.functional.interpolate(self.waves(ws)[:, :3], [SIDE, SIDE])


def make_shifting_generator(size=SIDE):
    return SimpleNamespace(
        synthesis=ShiftedWaves(size), img_resolution=SIDE, img_channels=3, num_ws=2, w_dim=4, c_dim=0
    )


def settings_of(**changes):
    defaults = dict(
        feature_layer='waves', space='w', num_layers=1, learning_rate=0.1, motion_radius=2, motion_step=1,
        tracking_radius=3, spacing=0.25, tolerance=0.5, mask_weight=20)  # fmt: skip
    return dragging.DragSettings(**{**defaults, **changes})


def latent_of(G, seed=0):
    return ProjectedLatents(np.random.RandomState(seed).randn(1, G.num_ws, G.w_dim).astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# Tracking


@pytest.mark.parametrize('shift', [(0, 0), (1.25, -0.75), (-3, 2.5)])
def test_tracking_finds_a_known_shift(shift):
    G = make_shifting_generator()
    maps = FeatureMaps(G, 'waves')
    points = torch.tensor([[12.0, 15.0], [20.25, 9.5]], dtype=torch.float64)
    ws = torch.zeros([2, 1, 2, 4], dtype=torch.float64)
    ws[1, :, :, :2] = torch.tensor(shift)
    first, moved = (maps.render(w)[1] for w in ws)
    found = dragging.track(maps, moved, points, maps.at(first, points), settings_of())
    torch.testing.assert_close(found, points + torch.tensor(shift), atol=0, rtol=0)


def test_tracking_in_a_small_map_is_as_exact_as_its_interpolation():
    G = make_shifting_generator(size=16)
    maps = FeatureMaps(G, 'waves')
    points = torch.tensor([[12.0, 15.0], [21.0, 9.0]], dtype=torch.float64)
    ws = torch.zeros([2, 1, 2, 4], dtype=torch.float64)
    ws[1, :, :, :2] = torch.tensor([1.5, 1])
    first, moved = (maps.render(w)[1] for w in ws)
    found = dragging.track(maps, moved, points, maps.at(first, points), settings_of())
    assert (found - points - torch.tensor([1.5, 1])).abs().max() <= 0.25


def test_tracking_stays_at_a_place_where_everything_is_the_same():
    maps = FeatureMaps(make_shifting_generator(), 'waves')
    points = torch.tensor([[5.0, 6.0]])
    flat = torch.ones([3, SIDE, SIDE])
    assert dragging.track(maps, flat, points, maps.at(flat, points), settings_of()).tolist() == [[5, 6]]


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def interpolated(features, x, y):
    """Interpolate one place inside [C, H, W], differentiably."""
    left, top = int(x), int(y)
    a, b = x - left, y - top
    corners = features[:, top : top + 2, left : left + 2]
    weights = torch.tensor([[(1 - a) * (1 - b), a * (1 - b)], [(1 - a) * b, a * b]], dtype=torch.float64)
    return (corners * weights).sum(dim=(1, 2))


def slow_motion_loss(features, points, targets, radius, step, spacing):
    total = 0
    for (x, y), (goal_x, goal_y) in zip(points, targets):
        distance = math.hypot(goal_x - x, goal_y - y)
        length = min(distance, step)
        terms = []
        count = round(radius / spacing)
        for i in range(-count, count + 1):
            for j in range(-count, count + 1):
                if math.hypot(i * spacing, j * spacing) > radius:
                    continue
                u, v = x + i * spacing, y + j * spacing
                du, dv = (length * (goal - place) / distance for goal, place in ((goal_x, x), (goal_y, y)))
                terms.append((interpolated(features, u + du, v + dv) - interpolated(features, u, v).detach()).abs())
        total = total + torch.stack(terms).mean()
    return total


def test_motion_loss_against_a_slow_formula():
    torch.manual_seed(0)
    features = torch.randn(5, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    points, targets = [(10.3, 12.1), (20.0, 8.0)], [(14.0, 20.0), (20.3, 7.6)]
    settings = settings_of(motion_radius=1.5, motion_step=0.7, spacing=0.5)
    maps = FeatureMaps(make_shifting_generator(), 'waves')
    loss = dragging.motion_loss(
        maps, features, *(torch.tensor(p, dtype=torch.float64) for p in (points, targets)), settings
    )
    expected = slow_motion_loss(features, points, targets, 1.5, 0.7, 0.5)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, features)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_points_that_have_arrived_are_left_alone():
    features = torch.randn(5, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    point = torch.tensor([[10.3, 12.1]], dtype=torch.float64)
    maps = FeatureMaps(make_shifting_generator(), 'waves')
    loss = dragging.motion_loss(maps, features, point, point, settings_of())
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss == 0 and (gradient == 0).all()


def test_mask_loss():
    first = torch.zeros(2, 3, 3)
    features = first + torch.tensor([1.0, -3.0])[:, None, None]
    fixed = torch.zeros(3, 3)
    fixed[0, 0], fixed[1, 1] = 1, 0.5
    assert dragging.mask_loss(features, first, fixed).item() == pytest.approx((1 + 0.5) * (1 + 3) / 18)


# ---------------------------------------------------------------------------------------------------------------------
# Sessions


def test_a_point_arrives_where_the_latent_is_known():
    """Dragging by (5, -3) shifts the waves by (5, -3), to which only one pair of numbers in w leads."""
    G = make_shifting_generator()
    latent = ProjectedLatents(np.zeros([1, 2, 4], np.float32))
    session = DragSession(G, latent, [(14, 17)], [(19, 14)], None, settings_of(tolerance=0.25))
    assert session.state.points == [(14, 17)] and session.state.distances == [pytest.approx(math.hypot(5, 3))]
    for _ in range(200):
        state = session.step()
        if state.is_done:
            break
    assert state.is_done and state.step == session.state.step > 5
    np.testing.assert_allclose(session.latent.ws[0, 0, :2], [5, -3], atol=0.5)
    np.testing.assert_array_equal(session.latent.ws[0, 1], 0)
    assert session.image.shape == (3, SIDE, SIDE) and session.image.dtype == np.uint8


GENERATORS = {
    'StyleGAN2': lambda: make_generator(),
    'StyleGAN2, classes, gray and alpha': lambda: make_generator(c_dim=3, img_channels=2),
    'StyleGAN2, not square': lambda: make_generator(img_resolution=[16, 24]),
    'StyleGAN3': lambda: make_stylegan3_generator(equivariance='translation'),
    'StyleGAN3, classes, alpha': lambda: make_stylegan3_generator(img_channels=4, c_dim=3),
}


@pytest.mark.parametrize('name', GENERATORS)
def test_generators(name):
    """The image of a session is what generate.py renders from its latent, and the loss of the mask has an effect."""
    G = GENERATORS[name]()
    before = {key: value.clone() for key, value in G.state_dict().items()}
    latent = latent_of(G)
    latent.noise |= {
        key: np.random.RandomState(1).randn(1, *b.shape).astype('f4') for key, b in noise_buffers(G).items()
    }
    height, width = (G.img_resolution, G.img_resolution) if isinstance(G.img_resolution, int) else G.img_resolution
    mask = np.zeros([height, width], bool)
    mask[:, : width // 2] = True
    changes = {}
    for weight in (0, 100):
        settings = default_settings(G, num_layers=3, learning_rate=0.05, mask_weight=weight)
        session = DragSession(G, latent, [(4, 5), (3, 9)], [(9, 6), (4, 4)], mask, settings)
        start = session.image
        for _ in range(4):
            state = session.step()
        assert state.step == 4 and state.loss > 0 and len(state.points) == len(state.distances) == 2
        rendered = next(iter(render_projected(G, session.latent, torch.device('cpu'), as_projected=True)))
        np.testing.assert_array_equal(session.image, rendered)
        assert (session.latent.ws[:, 3:] == latent.ws[:, 3:]).all() and (session.latent.ws != latent.ws)[:, :3].any()
        changes[weight] = np.abs(session.image.astype(float) - start)[:, :, width // 2 + 4 :].mean()
    assert changes[100] < changes[0]
    assert all((value == before[key]).all() for key, value in G.state_dict().items())


@pytest.mark.parametrize(('space', 'is_same'), [('w', True), ('w+', False)])
def test_spaces(space, is_same):
    G = make_generator()
    latent = latent_of(G)
    session = DragSession(G, latent, [(4, 5)], [(9, 6)], None, default_settings(G, space=space, num_layers=4))
    for _ in range(2):
        session.step()
    change = session.latent.ws - latent.ws
    assert np.abs(change[:, :4]).max() > 0 and (change[:, 4:] == 0).all()
    assert np.allclose(change[:, :4], change[:, :1], atol=1e-6) == is_same


def test_points_stay_inside_the_image():
    G = make_shifting_generator()
    settings = settings_of(learning_rate=1, tracking_radius=6)
    session = DragSession(G, ProjectedLatents(np.zeros([1, 2, 4], np.float32)), [(2, 2)], [(0, 0)], None, settings)
    points = np.array([session.step().points for _ in range(10)])
    assert points.min() >= 0 and points.max() <= SIDE - 1


def test_sessions_are_independent():
    G = make_generator()
    arguments = (G, latent_of(G), [(4, 5)], [(9, 6)], None, default_settings(G))
    alone = DragSession(*arguments)
    expected = [alone.step() for _ in range(3)]
    first, second = DragSession(*arguments), DragSession(*arguments)
    states = [(first.step(), second.step()) for _ in range(3)]
    assert [state for pair in zip(expected, expected) for state in pair] == [state for pair in states for state in pair]


def test_default_settings():
    G = SimpleNamespace(**vars(make_shifting_generator()))
    G.img_resolution, G.num_ws, G.synthesis.waves.out_sampling_rate = 512, 16, 256
    settings = default_settings(G, mask_weight=None, space='w')
    assert dataclasses.astuple(settings) == ('waves', 'w', 6, 0.002, 3, 1, 12, 1, 1, 20)
    small = default_settings(make_generator())
    assert (small.feature_layer, small.num_layers, small.learning_rate) == ('b8', 6, pytest.approx(0.01))
    assert default_settings(make_stylegan3_generator()).feature_layer.startswith('L')


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def refuse(argument, match, **changes):
    G = make_generator()
    arguments = dict(G=G, latent=latent_of(G), handles=[(4, 5)], targets=[(9, 6)], mask=None)
    arguments['settings'] = default_settings(G)
    with pytest.raises(InvalidArgument, match=match) as caught:
        DragSession(**{**arguments, **changes})
    assert caught.value.argument == argument


def test_errors():
    G = make_generator()
    refuse('points', r'handle 16,2 of point 0 is outside the image: x must be from 0 to 15', handles=[(16, 2)])
    refuse('points', 'target 3,-1 of point 0 is outside', targets=[(3, -1)])
    refuse('points', 'nan', targets=[(3, math.nan)])
    refuse('points', '1 points do not match 2 targets', targets=[(3, 1), (2, 2)])
    refuse('points', '0 points', handles=[], targets=[])
    refuse('points', '101 points', handles=[(1, 1)] * 101, targets=[(2, 2)] * 101)
    refuse('mask', 'it has 16x8 pixels, but the images of this network have 16x16', mask=np.ones([8, 16], bool))
    refuse('feature_layer', 'b4, b8, b16', settings=default_settings(G, feature_layer='b32'))
    refuse('layers', 'use 1 to 6', settings=default_settings(G, num_layers=7))
    refuse('tracking_radius', 'use 25 pixels or less', settings=default_settings(G, tracking_radius=26))
    refuse('space', "Unknown space 'z'", settings=default_settings(G, space='z'))
    refuse('projected_w', r'not \[2, 6, 8\]', latent=ProjectedLatents(np.zeros([2, 6, 8], np.float32)))


def test_images_that_are_not_finite():
    G = make_generator()
    session = DragSession(G, latent_of(G), [(4, 5)], [(9, 6)], None, default_settings(G, learning_rate=1e30))
    with pytest.raises(InvalidArgument, match='use a lower rate') as caught:
        for _ in range(3):
            session.step()
            session._optimizer.param_groups[0]['lr'] = math.inf
    assert caught.value.argument == 'lr'
    G.synthesis.b8.conv1.bias.fill_(math.nan)
    session = DragSession(G, latent_of(G), [(4, 5)], [(9, 6)], None, default_settings(G))
    with pytest.raises(InvalidArgument, match='not finite') as caught:
        session.step()
    assert caught.value.argument == 'network'
