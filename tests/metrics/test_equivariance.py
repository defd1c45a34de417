"""Metrics of equivariance: golden operators, slow formulas, good and bad generators, ranks, results, refusals."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from metrics import equivariance
from metrics.evaluation import Evaluation
from metrics.features import transformed_images
from metrics.options import MetricOptions
from tests import metric_stand_ins as stand_ins
from torch_utils import launcher
from torch_utils.distributed import World
from training import networks_stylegan3

ALONE = World(rank=0, size=1, device=torch.device('cpu'))
SEED = 5
SIZE = 32


# ---------------------------------------------------------------------------------------------------------------------
# Operators


@pytest.fixture(scope='module')
def recorded(golden):
    return golden('stylegan3_training.npz')


def cases(recorded, kind):
    return [case for case in json.loads(str(recorded['cases'])) if case['kind'] == kind]


def assert_as_recorded(result, recorded, name, tolerance):
    images, mask = result
    expected = recorded[f'{name}/y']
    assert np.abs(images.numpy() - expected).max() <= tolerance * np.abs(expected).max()
    assert np.array_equal(mask.expand_as(images).numpy(), recorded[f'{name}/mask'])


def test_golden_translations(recorded):
    for case in cases(recorded, 'translation'):
        name, n = case['id'], case['n']
        images = torch.from_numpy(recorded[f'{name}/x'])
        dx, dy = case['tx'] * images.shape[3], case['ty'] * images.shape[2]
        pixels = equivariance.translate_by_pixels(images, round(dx), round(dy))
        assert_as_recorded(pixels, recorded, f'{name}/int{n}', 0)
        assert_as_recorded(equivariance.translate(images, dx, dy), recorded, f'{name}/frac{n}', 1e-4)


def test_golden_rotations(recorded):
    for case in cases(recorded, 'rotation'):
        name, n = case['id'], case['n']
        images, angle = torch.from_numpy(recorded[f'{name}/x']), case['angle']
        assert_as_recorded(equivariance.rotate(images, angle), recorded, f'{name}/rot{n}', 1e-4)
        filtered = equivariance.limit_to_rotated_band(images, angle)
        assert_as_recorded(filtered, recorded, f'{name}/pseudo{n}', 1e-4)


def lanczos(x):
    return np.sinc(x) * np.sinc(x / 3) * (np.abs(x) < 3)


@pytest.mark.parametrize('dx, dy', [(1.7, -2.25), (-0.5, 0.01), (3, 0), (-4, 2.5), (0, -1)])
def test_translation_is_a_sum_over_pixels(dx, dy):
    images = torch.randn([1, 2, 12, 17])
    moved, mask = equivariance.translate(images, dx, dy)
    weights = []
    for side, distance in ((12, dy), (17, dx)):
        table = lanczos(np.arange(side)[:, None] - distance - np.arange(-9, side + 9))
        weights.append((table / table.sum(axis=1, keepdims=True))[:, 9:-9])
    expected = np.einsum('yh,xw,nchw->ncyx', *weights, images.numpy().astype(np.float64))
    assert np.abs(moved.numpy() - expected).max() < 1e-5
    seen = np.einsum('yh,xw->yx', *weights)  # 1 where the pixels of the image are all that counts
    assert np.allclose(seen[mask[0, 0].numpy() > 0], 1)
    if dx != int(dx):
        assert mask[0, 0].sum() == np.isclose(seen, 1, atol=1e-9).sum()


@pytest.mark.parametrize('angle', [0.4, -1.9, math.pi / 4, 3.0])
def test_rotation_keeps_the_common_band_and_removes_the_rest(angle):
    """A plane wave turns if both grids can represent it, and vanishes if one of them cannot."""
    y, x = np.mgrid[:64, :48] - np.array([31.5, 23.5])[:, None, None]

    def wave(frequency, direction):
        phase = frequency * (np.cos(direction) * x + np.sin(direction) * y)
        return torch.from_numpy(np.cos(2 * np.pi * phase + 1).astype(np.float32))[None, None]

    for direction in (0.1, 1.0, 2.5):
        rotated, mask = equivariance.rotate(wave(0.2, direction), angle)
        error = (rotated - wave(0.2, direction - angle)) * mask
        assert mask.mean() > 0.3 and error.abs().max() < 0.03
    filtered, mask = equivariance.limit_to_rotated_band(wave(0.2, 0.7), angle)
    assert ((filtered - wave(0.2, 0.7)) * mask).abs().max() < 0.03
    if angle == math.pi / 4:
        for operator in (equivariance.rotate, equivariance.limit_to_rotated_band):
            images, mask = operator(wave(0.66, math.pi / 4), angle)
            assert (images * mask).abs().max() < 0.05


def test_constant_images_remain_constant():
    images = torch.full([1, 1, 40, 40], 0.5)
    for operator in (equivariance.rotate, equivariance.limit_to_rotated_band):
        result, mask = operator(images, 0.8)
        assert mask.sum() > 0 and ((result - 0.5) * mask).abs().max() < 1e-4
    result, mask = equivariance.translate(images, 1.3, -0.6)
    assert ((result - 0.5) * mask).abs().max() < 1e-6


def test_psnr_by_its_definition():
    rng = np.random.RandomState(0)
    differences, masks = rng.randn(5, 100), rng.randint(0, 2, size=[5, 100])
    mse = np.square(differences)[masks == 1].mean()
    found = equivariance.psnr(np.square(differences * masks).mean(axis=1), masks.mean(axis=1))
    assert found == pytest.approx(10 * np.log10(4 / mse))
    assert equivariance.psnr(torch.zeros(2), torch.ones(2)) == math.inf
    with pytest.raises(ValueError, match='too small to compare'):
        equivariance.psnr(np.zeros(2), np.zeros(2))


# ---------------------------------------------------------------------------------------------------------------------
# Generators that draw waves by formulas

NAMES = ('eqt24_int', 'eqt24_frac', 'eqr24')


class WaveInput(torch.nn.Module):
    """The place of the transform; generators of others take a single one."""

    def __init__(self):
        super().__init__()
        self.register_buffer('transform', torch.eye(3))


class Waves(torch.nn.Module):
    """Draw plane waves, `shift` pixels too far to the right wherever the transform is not the identity."""

    def __init__(self, height, width, shift):
        super().__init__()
        self.height, self.width, self.shift = height, width, shift
        self.input = WaveInput()

    def forward(self, ws, noise_mode='random'):
        assert noise_mode == 'const' and self.input.transform.shape == (3, 3)
        side = max(self.height, self.width)
        y, x = torch.meshgrid(
            (torch.arange(self.height) - (self.height - 1) / 2) / side,
            (torch.arange(self.width) - (self.width - 1) / 2) / side,
            indexing='ij',
        )
        if not torch.equal(self.input.transform, torch.eye(3)):
            x = x - self.shift / side
        points = torch.stack([x, y, torch.ones_like(x)], dim=2) @ self.input.transform.T  # [H, W, 3]
        images = []
        for w in ws:
            directions, phases = w[:6].reshape(3, 2), w[6:9]
            frequencies = directions / directions.norm(dim=1, keepdim=True) * (0.15 * side)
            images.append(torch.cos((points[:, :, :2] @ frequencies.T + phases) * 2 * np.pi).permute(2, 0, 1))
        return torch.stack(images)


class WaveGenerator(torch.nn.Module):
    z_dim, c_dim, img_channels = 9, 0, 3

    def __init__(self, height=SIZE, width=SIZE, shift=0.0):
        super().__init__()
        self.img_resolution = height if height == width else [height, width]
        self.synthesis = Waves(height, width, shift)

    def mapping(self, z, c):
        assert c.shape == (len(z), 0)
        return z


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    images = np.zeros([3, 3, SIZE, SIZE], np.uint8)
    return stand_ins.write_zip(tmp_path_factory.mktemp('equivariance') / 'data.zip', images, labels=[0, 1, 2])


@pytest.fixture
def options(data):
    """There is no folder of detectors: these metrics need none."""
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=str(data))
    return MetricOptions(kwargs, seed=SEED, batch=10, detectors='missing', verbose=False)


def evaluate(options, G, names=NAMES, world=ALONE):
    evaluation = Evaluation(names, world, G, options)
    results = [evaluation.compute(name) for name in names]
    evaluation.close()
    return results


def values(results):
    return {name: value for result in results for name, value in result['results'].items()}


def test_a_perfect_generator_and_bad_ones(options):
    perfect = values(evaluate(options, WaveGenerator(shift=1e-3)))
    assert perfect['eqt24_int'] > 60
    assert perfect['eqt24_frac'] > 40 and perfect['eqr24'] > 40  # limits of filters with six taps
    bad = values(evaluate(options, WaveGenerator(shift=0.5)))
    assert all(5 < bad[name] < 20 for name in NAMES)
    # Waves of amplitude 1 and any direction α that are off by half a pixel have a mean square error of
    # 2·sin²(π·0.15·0.5·cos α).
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    mse = (2 * np.sin(np.pi * 0.15 * 0.5 * np.cos(angles)) ** 2).mean()
    assert bad['eqt24_int'] == pytest.approx(10 * np.log10(4 / mse), abs=1)


def test_a_generator_that_ignores_its_input(options):
    G = WaveGenerator()
    G.synthesis.forward = lambda ws, noise_mode: Waves(SIZE, SIZE, 0)(ws, noise_mode)
    assert all(value < 10 for value in values(evaluate(options, G)).values())


def test_images_that_are_not_square(options, tmp_path):
    path = stand_ins.write_zip(tmp_path / 'wide.zip', np.zeros([2, 3, 24, 48], np.uint8))
    kwargs = dict(options.dataset_kwargs, path=str(path))
    found = values(evaluate(dataclasses.replace(options, dataset_kwargs=kwargs), WaveGenerator(24, 48, shift=1e-3)))
    assert found['eqt24_int'] > 60 and found['eqt24_frac'] > 40 and found['eqr24'] > 40


def test_the_definition_image_by_image(options):
    """Latents and transformations are drawn as documented, and errors averaged over pixels of all images."""
    G = WaveGenerator(shift=0.3)
    errors, weights = [], []
    for index in range(24):
        latent, moves = (
            np.random.Generator(np.random.Philox(key=SEED, counter=[0, 0, purpose, index])) for purpose in (0, 6)
        )
        w = torch.from_numpy(latent.standard_normal(9).astype(np.float32))[None]
        x, y = (round(number * SIZE / 8) for number in moves.uniform(-1, 1, size=3)[:2])
        G.synthesis.input.transform.copy_(torch.eye(3))
        original = G.synthesis(w, noise_mode='const')
        G.synthesis.input.transform[:2, 2] = torch.tensor([-x, -y]) / SIZE
        moved = G.synthesis(w, noise_mode='const')
        rows, columns = (slice(max(shift, 0), SIZE + min(shift, 0)) for shift in (y, x))
        ideal = original.roll([y, x], dims=[2, 3])
        difference = (ideal - moved)[:, :, rows, columns]
        errors.append(difference.double().square().sum().item())
        weights.append(difference.numel())
    expected = 10 * np.log10(4 * sum(weights) / sum(errors))
    assert values(evaluate(options, WaveGenerator(shift=0.3)))['eqt24_int'] == pytest.approx(expected, abs=1e-3)


def test_images_that_are_exactly_right(options):
    """Infinity is not a number that JSON knows."""
    with pytest.raises(ValueError, match='eqt3_int is inf for these images, not a finite number'):
        evaluate(options, WaveGenerator(), ['eqt3_int'])


def test_images_without_a_pixel_that_counts(options, tmp_path):
    path = stand_ins.write_zip(tmp_path / 'small.zip', np.zeros([2, 3, 8, 8], np.uint8))
    options = dataclasses.replace(options, dataset_kwargs=dict(options.dataset_kwargs, path=str(path)))
    with pytest.raises(ValueError, match='too small to compare'):
        evaluate(options, WaveGenerator(8, 8), ['eqr3'])


# ---------------------------------------------------------------------------------------------------------------------
# Networks of StyleGAN3


def make_generator(c_dim=0, **kwargs):
    torch.manual_seed(0)
    layers = dict(channel_base=512, channel_max=16, num_layers=4)
    G = networks_stylegan3.Generator(8, c_dim, 8, SIZE, 3, **{**layers, **kwargs})
    torch.nn.init.normal_(G.synthesis.input.affine.weight, std=0.1)
    return G.eval().requires_grad_(False)


def test_both_kinds_of_networks(options):
    """Untrained ones are equivariant to what they are built for."""
    for_translation = values(evaluate(options, make_generator()))
    for_rotation = values(evaluate(options, make_generator(conv_kernel=1, use_radial_filters=True)))
    assert for_translation['eqt24_int'] > 30 and for_rotation['eqt24_int'] > 30
    assert for_rotation['eqr24'] > for_translation['eqr24'] + 5
    assert values(evaluate(options, make_generator(margin_size=0)))['eqt24_int'] < for_translation['eqt24_int'] - 5


def test_the_network_stays_as_it_is_and_its_own_transform_does_not_count(options):
    G = make_generator()
    expected = values(evaluate(options, G))
    G.synthesis.input.transform[0, 2] = 0.3
    before = copy.deepcopy(G.state_dict())
    assert values(evaluate(options, G)) == expected
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert G.synthesis.input.transform.shape == (3, 3)


def test_transforms_of_a_batch_are_those_of_single_images(options, monkeypatch):
    expected = values(evaluate(options, make_generator()))
    monkeypatch.setattr(transformed_images, 'SynthesisInput', WaveInput)  # now the class is somebody else's
    assert values(evaluate(options, make_generator())) == pytest.approx(expected, abs=0.1)


def test_what_a_result_holds(options):
    G = make_generator()
    for result, name in zip(evaluate(options, G), NAMES, strict=True):
        assert result['metric'] == name and result['results'].keys() == {name}
        assert result['num_images'] == {'fake': 24} and result['detector'] is None
        assert result['seed'] == SEED and len(result['dataset_sha256']) == len(result['network_sha256']) == 64
        json.dumps(result, allow_nan=False)


def test_seeds_batches_and_labels(options):
    G = make_generator(c_dim=3)
    first = values(evaluate(options, G))
    assert values(evaluate(options, G)) == first
    others = values(evaluate(dataclasses.replace(options, batch=7), G))
    assert others == pytest.approx(first, abs=0.1)  # rounding, where hardly anything else is left
    others = values(evaluate(dataclasses.replace(options, seed=SEED + 1), G))
    assert all(others[name] != first[name] for name in NAMES)


def evaluate_on_ranks(world, options, path):
    """Runs in processes of its own."""
    results = evaluate(options, make_generator(c_dim=3), world=world)
    if world.is_main:
        path.write_text(json.dumps(values(results)))


def test_ranks_give_the_numbers_of_one(options, tmp_path):
    launcher.launch(evaluate_on_ranks, 2, 'cpu', options, tmp_path / 'results.json')
    alone = values(evaluate(options, make_generator(c_dim=3)))
    assert json.loads((tmp_path / 'results.json').read_text()) == alone


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_networks_without_a_transform_are_refused(tmp_path, options):
    path = stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(4))
    options = dataclasses.replace(options, dataset_kwargs=dict(options.dataset_kwargs, path=str(path)))
    for name in NAMES:
        with pytest.raises(ValueError, match=r'^The input of this network cannot be moved or rotated, .*StyleGAN3'):
            evaluate(options, stand_ins.make_generator(), [name])


def test_images_that_are_not_finite(options):
    G = make_generator()
    G.synthesis.input.weight.fill_(float('nan'))
    with pytest.raises(ValueError, match='generator gives images that are not finite'):
        evaluate(options, G, ['eqt3_int'])
