"""The metric `memorization`: against the slow formula, with planted copies, and from images to the gallery."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import torch

from metrics.evaluation import Evaluation, SnapshotMetrics
from metrics.memorization import memorization, share_of_copies_interval
from metrics.options import MetricOptions
from scripts import planted_copies, train_detectors
from tests import metric_stand_ins as stand_ins
from torch_utils import launcher
from torch_utils.distributed import World

ALONE = World(0, 1, torch.device('cpu'))

# ---------------------------------------------------------------------------------------------------------------------
# Mathematics


def distance(a, b):
    return np.sqrt(((a - b) ** 2).sum())


def slow_ratio(x, training, images, left_out=None):
    """By the definition, one pair after another."""
    others = [row for row in range(len(training)) if images[row] != left_out]
    nearest = min(others, key=lambda row: distance(x, training[row]))
    to_own_neighbor = min(
        length
        for row in others
        if images[row] != images[nearest] and (length := distance(training[nearest], training[row])) > 0
    )
    return nearest, distance(x, training[nearest]) / to_own_neighbor


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16])
@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('with_held_out', [False, True])
def test_the_definition(dtype, mirrored, with_held_out, monkeypatch):
    monkeypatch.setattr('metrics.memorization._ROWS_AT_ONCE', 7)
    rng = np.random.RandomState(0)
    training = rng.randn(30, 6) + 3
    training[7] = training[3]  # exactly the same image twice
    if mirrored:
        training = np.concatenate([training, training + rng.randn(30, 6) * 0.2])
    training, generated, held_out = (x.astype(dtype) for x in (training, rng.randn(25, 6) + 3, rng.randn(20, 6) + 3))
    generated[0], generated[1] = training[5], training[7]
    num_mirrored = 30 if mirrored else 0
    found = memorization(training, generated, held_out if with_held_out else None, num_mirrored)
    images = np.arange(len(training)) % 30
    wide = [x.astype(np.float64) for x in (training, generated, held_out)]
    nearest, ratios = zip(*(slow_ratio(x, wide[0], images) for x in wide[1]))
    turns = [slow_ratio(wide[0][image], wide[0], images, left_out=image)[1] for image in range(30)]
    new_ratios = [slow_ratio(x, wide[0], images)[1] for x in wide[2]] if with_held_out else turns
    np.testing.assert_allclose(found.ratios, ratios, atol=1e-12)
    np.testing.assert_allclose(found.new_ratios, new_ratios, atol=1e-12)
    np.testing.assert_array_equal(training[found.nearest], training[list(nearest)])
    assert found.ratios[:2].tolist() == [0, 0]


def test_progress_ends_at_its_total(monkeypatch):
    monkeypatch.setattr('metrics.memorization._ROWS_AT_ONCE', 8)
    rng = np.random.RandomState(0)
    steps = []
    for held_out in (None, rng.randn(9, 4)):
        steps.clear()
        memorization(rng.randn(30, 4), rng.randn(17, 4), held_out, progress=lambda *step: steps.append(step))
        assert steps == [(done, len(steps)) for done in range(1, len(steps) + 1)]


def test_the_interval_contains_the_true_share():
    """Over draws of both kinds of images; the share of the intervals that do is at least what is promised."""
    rng = np.random.RandomState(0)
    for share, new_below, num_generated, num_new in ((0, 0.01, 1000, 500), (0.05, 0.01, 500, 300), (0.3, 0.1, 60, 40)):
        hits = 0
        for _ in range(80):
            below = rng.binomial(num_generated, share + (1 - share) * new_below)
            low, high = share_of_copies_interval(below, num_generated, rng.binomial(num_new, new_below), num_new)
            hits += low <= share <= high
        assert hits >= 76
    assert share_of_copies_interval(0, 10, 1, 10)[0] == 0
    assert share_of_copies_interval(10, 10, 0, 1000)[1] == 1
    low, high = share_of_copies_interval(0, 1000, 30, 1000)  # fewer than expected: no evidence, but no certainty either
    assert low == 0 and (1 - high) ** 1000 == pytest.approx(0.025)
    low, high = share_of_copies_interval(500, 10_000, 100, 10_000)
    assert low > 0.034 and high < 0.048


def test_too_few_images():
    rng = np.random.RandomState(0)
    one, same, two, three = rng.randn(1, 4), np.ones([5, 4]), rng.randn(2, 4), rng.randn(3, 4)
    for training, held_out, number in (
        (one, None, 3),
        (same, None, 3),
        (two, None, 3),
        (one, three, 2),
        (same, two, 2),
    ):
        with pytest.raises(ValueError, match=f'needs {number} training images or more that differ'):
            memorization(training, rng.randn(9, 4), held_out)
    found = memorization(three, rng.randn(9, 4))
    assert found.low == 0 < found.high
    found = memorization(three, three[[0] * 9])
    assert found.low < 0.9 and found.high == 1  # three images do not say much
    assert memorization(two, rng.randn(9, 4), one).low == 0


# ---------------------------------------------------------------------------------------------------------------------
# Planted copies of digits, seen by a small detector


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Images uint8 [N, 3, 8, 8] and a folder of detectors."""
    loaded = pytest.importorskip('sklearn.datasets').load_digits()
    images = torch.from_numpy((loaded.images * 15).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    folder = tmp_path_factory.mktemp('digits')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    backbone = train_detectors.train(
        images[:, :1], torch.from_numpy(loaded.target), train_detectors.SIZES['small'], epochs=2, seed=0
    )
    torch.set_num_threads(threads)
    train_detectors.save_detectors(backbone, str(folder), 'digits')
    return images, str(folder)


@pytest.mark.parametrize('call', planted_copies.CALLS.values(), ids=planted_copies.CALLS)
@pytest.mark.parametrize('with_held_out', [True, False])
def test_planted_copies_are_counted_and_nobody_else_is_accused(digits, call, with_held_out):
    images, folder = digits
    real, noisy = (
        planted_copies.features(pictures, call, folder) for pictures in (images, planted_copies.disturbed(images))
    )
    for copied, share in ((real, 0.0), (real, 0.05), (noisy, 0.05)):
        found = [planted_copies.trial(real, copied, share, 500, with_held_out, seed) for seed in range(8)]
        assert sum(x.low <= share <= x.high for x in found) >= 7
        assert sum(x.low > 0 for x in found) >= 8 if share else sum(x.low > 0 for x in found) <= 1
        assert np.mean([x.share for x in found]) == pytest.approx(share, abs=0.01)


# ---------------------------------------------------------------------------------------------------------------------
# From a generator to the result, with images of the training set among its own


class Replaying(torch.nn.Module):
    """A generator that shows training images for some latents, and images of its own for all others."""

    z_dim, c_dim, img_resolution, img_channels = 8, 0, stand_ins.RESOLUTION, 3

    def __init__(self, training, others, share):
        super().__init__()
        self.register_buffer('replayed', torch.from_numpy(training))
        self.register_buffer('others', torch.from_numpy(others))
        self.limit = torch.distributions.Normal(0, 1).icdf(torch.tensor(float(share)))

    def forward(self, z, c):
        numbers = (z[:, 1].abs() * 1e6).long()
        replayed, own = (x[numbers % len(x)] for x in (self.replayed, self.others))
        pixels = torch.where(z[:, 0, None, None, None] < self.limit, replayed, own)
        return pixels.to(torch.float32) / 127.5 - 1


ALL_IMAGES = stand_ins.random_images(400, seed=5)
OTHERS = stand_ins.random_images(1500, seed=6)


@pytest.fixture
def options(tmp_path, detector_folder):
    data = stand_ins.write_zip(tmp_path / 'data.zip', ALL_IMAGES)
    kwargs = {'class_name': 'training.dataset.ImageFolderDataset', 'path': str(data)}
    return MetricOptions(
        {**kwargs, 'max_size': 200, 'random_seed': 3, 'xflip': False},
        {**kwargs, 'max_size': 200, 'skip': 200, 'random_seed': 3},
        detectors=str(detector_folder),
        verbose=False,
    )


def training_images():
    """Those that the options select."""
    order = np.arange(400)
    np.random.RandomState(3).shuffle(order)
    return np.sort(order[:200])


def measure(options, G, metric='memorization1k', run_dir=None):
    evaluation = Evaluation([metric], ALONE, G, options)
    result = evaluation.compute(metric)
    path = evaluation.save_gallery(result, run_dir, 'network-snapshot-000012.pkl')
    evaluation.close()
    return result, path


def test_a_generator_that_replays_its_training_images(options, tmp_path):
    selected = training_images()
    G = Replaying(ALL_IMAGES[selected], OTHERS, 0.05)
    result, path = measure(options, G, run_dir=str(tmp_path))
    interval = result['intervals']['memorization1k_share']
    assert 0 < interval['low'] < 0.05 < interval['high'] < 0.09
    assert result['results']['memorization1k_share'] == pytest.approx(0.05, abs=0.02)
    assert result['num_images'] == {'real': 200, 'fake': 1000, 'held_out': 200}
    assert result['compared_with'] == 'held-out images'
    assert result['held_out_sha256'] == result['dataset_sha256']
    assert json.loads(json.dumps(result)) == result
    names = {f'00000/img{index:08d}.png' for index in selected}
    assert len(result['pairs']) == 32 and {pair['training'] for pair in result['pairs']} <= names
    assert all(pair['ratio'] < 0.1 for pair in result['pairs'])
    assert path == str(tmp_path / 'metric-memorization1k-000012-pairs.png')
    with PIL.Image.open(path) as picture:
        cell = 68 + 8  # with its margin and a part of the gap between pairs
        pixels = np.asarray(picture.convert('RGB'))[-8 * 68 :, -8 * cell :].reshape(8, 68, 4, 2, cell, 3)
    generated, nearest = pixels[:, :, :, 0, 8:], pixels[:, :, :, 1, :-8]
    assert np.abs(generated.astype(int) - nearest).max() <= 1 and generated.std() > 20


def test_a_clean_generator_is_not_accused(options, tmp_path):
    result, _path = measure(options, Replaying(ALL_IMAGES[training_images()], OTHERS, 0))
    assert result['intervals']['memorization1k_share']['low'] == 0
    # Copies of images that it was not trained on are no copies.
    untrained = np.setdiff1d(np.arange(400), training_images())
    result, _path = measure(
        dataclasses.replace(options, held_out_kwargs=None), Replaying(ALL_IMAGES[untrained], OTHERS, 0.5)
    )
    assert result['intervals']['memorization1k_share']['low'] == 0
    assert result['compared_with'] == 'training images, each left out in turn'


def test_mirror_images_count_if_the_network_has_seen_them(options):
    mirrored = ALL_IMAGES[training_images()][..., ::-1].copy()
    G = Replaying(mirrored, OTHERS, 0.2)
    result, _path = measure(options, G, 'memorization1k_vgg')
    assert result['intervals']['memorization1k_vgg_share']['low'] == 0
    with_mirror = dataclasses.replace(options, dataset_kwargs={**options.dataset_kwargs, 'xflip': True})
    result, _path = measure(with_mirror, G, 'memorization1k_vgg')
    interval = result['intervals']['memorization1k_vgg_share']
    assert interval['low'] < 0.2 < interval['high'] and interval['low'] > 0.1
    assert all(pair['training'].endswith('(mirrored)') for pair in result['pairs'])


def test_in_a_training(options, tmp_path, capsys):
    G = Replaying(ALL_IMAGES[training_images()], OTHERS, 0.05)
    network_pkl = str(tmp_path / 'network-snapshot-000012.pkl')
    values = SnapshotMetrics(['memorization100'], options)(ALONE, G, str(tmp_path), network_pkl)
    assert values.keys() == {f'memorization100_{ending}' for ending in ('share', 'ratio', 'ratio_of_new')}
    assert (tmp_path / 'metric-memorization100-000012-pairs.png').exists()
    assert json.loads((tmp_path / 'metric-memorization100.jsonl').read_text())['in_training']
    assert capsys.readouterr().err == ''


def evaluate_on_ranks(world, options, path):
    G = Replaying(ALL_IMAGES[training_images()], OTHERS, 0.05)
    evaluation = Evaluation(['memorization300'], world, G, options)
    result = evaluation.compute('memorization300')
    evaluation.close()
    if world.is_main:
        with open(path, 'w') as file:
            json.dump([result['results'], result['intervals'], result['pairs']], file)


def test_ranks_give_the_numbers_of_one(options, tmp_path):
    alone, _path = measure(options, Replaying(ALL_IMAGES[training_images()], OTHERS, 0.05), 'memorization300')
    launcher.launch(evaluate_on_ranks, 2, 'cpu', options, str(tmp_path / 'ranks.json'))
    values, intervals, pairs = json.loads((tmp_path / 'ranks.json').read_text())
    assert values == pytest.approx(alone['results'], rel=1e-6)
    assert intervals == alone['intervals'] and [pair['training'] for pair in pairs[:8]] == [
        pair['training'] for pair in alone['pairs'][:8]
    ]
