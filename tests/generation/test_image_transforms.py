"""Transforms of images: their matrices, generators that use them for a while, and the motion of videos."""

import json

import numpy as np
import pytest
import torch

from dnnlib.errors import InvalidArgument
from generation import image_transforms, rendering
from generation.image_transforms import Motion, combine, make_transform, use_transform
from tests.small_generators import make_generator, make_stylegan3_generator
from training.networks_stylegan3 import Generator


@pytest.mark.parametrize('degrees, expected', [(0, (1, 0)), (90, (0, -1)), (-90, (0, 1)), (450, (0, -1)),
                                               (30, (3**0.5 / 2, -0.5))])  # fmt: skip
def test_rotations_are_counterclockwise_and_come_before_shifts(degrees, expected):
    """y points down. The signs are those of the published script."""
    point = make_transform((0.25, -2), degrees) @ [1, 0, 1]
    np.testing.assert_allclose(point, [expected[0] + 0.25, expected[1] - 2, 1], atol=1e-12)


@pytest.mark.parametrize('name', ['t-32', 'r-32-cond', 't-default-layers-64'])
def test_the_network_is_given_the_inverse(golden, name):
    data = golden('networks_stylegan3.npz')
    (case,) = [case for case in json.loads(str(data['cases'])) if case['name'] == name]
    G = Generator(**case['kwargs']).eval().requires_grad_(False)
    for key, tensor in [*G.named_parameters(), *G.named_buffers()]:
        tensor.copy_(torch.from_numpy(data[f'{name}/state/{key}']))
    ws = torch.from_numpy(data[f'{name}/ws'])
    own = G.synthesis.input.transform
    with use_transform(G, np.linalg.inv(data[f'{name}/transform'].astype(np.float64))):
        image = G.synthesis(ws).numpy()
    expected = data[f'{name}/img_transformed']
    assert np.abs(image - expected).max() <= 1e-3 * np.abs(expected).max()
    assert G.synthesis.input.transform is own and torch.equal(
        own, torch.from_numpy(data[f'{name}/state/synthesis.input.transform'])
    )


def test_images_move_right_and_down_and_turn_counterclockwise():
    G = make_stylegan3_generator()
    quarter = 8 / 32

    def render(*transforms):
        pictures = rendering.render_seeds(G, [3], torch.zeros(1, 0), transforms=transforms)
        return [picture[0].astype(float) for picture in pictures]

    image, shifted, turned = render(None, make_transform((quarter, quarter)), make_transform(degrees=90))
    contrast = image.std()
    assert np.abs(shifted[8:, 8:] - image[:-8, :-8]).max() < contrast / 4
    assert np.abs(turned - np.rot90(image)).max() < contrast / 4
    assert np.abs(turned - np.rot90(image, -1)).mean() > contrast / 2


def test_the_own_transform_returns_after_an_error():
    G = make_stylegan3_generator()
    own = make_transform((0.5, 0), 20)
    G.synthesis.input.transform.copy_(torch.from_numpy(own))
    with pytest.raises(KeyboardInterrupt), use_transform(G, make_transform((1, 0))):
        raise KeyboardInterrupt
    assert torch.equal(G.synthesis.input.transform, torch.from_numpy(own).float())
    with use_transform(G, None):
        assert torch.equal(G.synthesis.input.transform, torch.from_numpy(own).float())


def test_lists_have_one_length_or_one_value():
    assert combine(None, None) == [None]
    assert len(combine([(0, 0), (1, 0), (2, 0)], None)) == len(combine(None, [1, 2, 3])) == 3
    one_shift = combine([(0.5, 0)], [0, 90])
    assert [matrix[0, 2] for matrix in one_shift] == [0.5, 0.5] and not np.allclose(*one_shift)
    both = combine([(0, 0), (1, 2)], [0, 90])
    np.testing.assert_array_equal(both[1], make_transform((1, 2), 90))
    with pytest.raises(InvalidArgument, match='3 rotations do not match 2 translations') as error:
        combine([(0, 0), (1, 2)], [0, 1, 2])
    assert error.value.argument == 'rotate'
    with pytest.raises(InvalidArgument, match='1,001 values are too many'):
        combine([(0, 0)] * 1001, None)


def test_networks_without_transform_are_refused():
    with pytest.raises(InvalidArgument, match='only those of StyleGAN3') as error:
        image_transforms.check_supported(make_generator(), {'pan': None, 'spin': 0})
    assert error.value.argument == 'spin'
    image_transforms.check_supported(make_generator(), {'pan': None, 'spin': None})
    image_transforms.check_supported(make_stylegan3_generator(), {'pan': (0, 0), 'spin': 0})


def test_a_loop_ends_where_it_began():
    motion = Motion((0.5, -0.25), spin=-2)
    frames = [motion.at(frame, 40) for frame in range(40)]
    np.testing.assert_allclose(frames[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(frames[20][:2, 2], [0.5, -0.25], atol=1e-12)
    np.testing.assert_allclose(frames[5], make_transform(frames[5][:2, 2], -90), atol=1e-12)
    steps = [np.abs(after - before).max() for before, after in zip(frames, frames[1:])]
    assert np.abs(frames[-1] - frames[0]).max() < max(steps) * 1.01
    with pytest.raises(InvalidArgument, match='0.5 turns do not close a loop') as error:
        Motion(spin=0.5)
    assert error.value.argument == 'spin'


def test_without_a_loop_the_motion_ends_at_its_goal():
    motion = Motion((0.5, -0.25), spin=0.25, loop=False)
    np.testing.assert_allclose(motion.at(0, 9), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(motion.at(8, 9), make_transform((0.5, -0.25), 90), atol=1e-12)
    np.testing.assert_allclose(motion.at(4, 9), make_transform((0.25, -0.125), 45), atol=1e-12)
