"""The metrics' mathematics against golden values, 80-digit arithmetic, and the definitions written out as loops."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

from metrics import frechet_inception_distance, inception_score, kernel_inception_distance, perceptual_path_length
from metrics.bootstrap import bootstrap_interval
from metrics.frechet_inception_distance import frechet_distance
from metrics.kernel_inception_distance import kid, kid_unbiased
from metrics.precision_recall import manifold_metrics, precision_recall
from torch_utils import precision


@pytest.fixture(scope='module')
def published(golden):
    return golden('metrics.npz')


def rotation(dim: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=[dim, dim]))[0]


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False, ddof=0)


# ---------------------------------------------------------------------------------------------------------------------
# Fréchet distance


def test_frechet_distance_golden(published):
    own = frechet_inception_distance.moments(torch.from_numpy(published['real_features']))
    assert own[0].numpy() == pytest.approx(published['real_mean'], rel=1e-12)
    assert own[1].numpy() == pytest.approx(published['real_cov'], rel=1e-12, abs=1e-12)
    fake = moments(published['gen_features'])
    value = frechet_distance(*fake, published['real_mean'], published['real_cov'])
    assert value == pytest.approx(float(published['fid']), rel=1e-10)


def exact_frechet_distance(mu_a, factor_a, mu_b, factor_b):
    """With covariances A Aᵀ and B Bᵀ, and the scale of its terms."""
    with mpmath.workdps(80):
        a, b = (mpmath.matrix(factor.tolist()) for factor in (factor_a, factor_b))
        squares = mpmath.eigsy((a.T * b).T * (a.T * b), eigvals_only=True)
        overlap = sum(mpmath.sqrt(max(square, mpmath.mpf(0))) for square in squares)
        scale = sum(mpmath.mpf(x) ** 2 for x in [*factor_a.ravel().tolist(), *factor_b.ravel().tolist()])
        scale += sum((mpmath.mpf(x) - mpmath.mpf(y)) ** 2 for x, y in zip(mu_a.tolist(), mu_b.tolist()))
        return float(scale - 2 * overlap), float(scale)


@pytest.mark.parametrize(
    ('dim', 'rank_a', 'rank_b', 'digits_lost'),
    [(8, 8, 8, 0), (8, 8, 8, 3), (8, 8, 8, 6), (10, 9, 10, 0), (10, 4, 10, 0), (10, 10, 4, 0), (6, 1, 1, 0)],
)
def test_frechet_distance_of_any_rank_to_13_digits(dim, rank_a, rank_b, digits_lost):
    """Standard deviations fall by `digits_lost` orders of magnitude, variances by twice as many."""
    random = np.random.default_rng(dim + rank_a)
    for _ in range(6):
        factors = [
            rotation(dim, seed) @ (random.normal(size=[dim, rank]) * np.logspace(0, -digits_lost, rank))
            for seed, rank in enumerate((rank_a, rank_b))
        ]
        mu_a, mu_b = random.normal(size=[2, dim])
        expected, scale = exact_frechet_distance(mu_a, factors[0], mu_b, factors[1])
        sigma_a, sigma_b = (factor @ factor.T for factor in factors)
        assert abs(frechet_distance(mu_a, sigma_a, mu_b, sigma_b) - expected) <= 1e-13 * scale
        assert abs(frechet_distance(mu_b, sigma_b, mu_a, sigma_a) - expected) <= 1e-13 * scale


def test_frechet_distance_in_one_dimension():
    mu_a, mu_b, deviation_a, deviation_b = 1.5, -0.25, 2.0, 0.5
    expected = (mu_a - mu_b) ** 2 + (deviation_a - deviation_b) ** 2
    arrays = [np.array([mu_a]), np.array([[deviation_a**2]]), np.array([mu_b]), np.array([[deviation_b**2]])]
    assert frechet_distance(*arrays) == pytest.approx(expected, rel=1e-14)
    assert frechet_distance(*map(torch.from_numpy, arrays)) == pytest.approx(expected, rel=1e-14)
    assert frechet_distance(*(x.astype(np.float32) for x in arrays)) == pytest.approx(expected, rel=1e-14)
    nothing = np.zeros([1, 1])  # every image gives the same features
    assert frechet_distance(arrays[0], nothing, arrays[2], nothing) == (mu_a - mu_b) ** 2


@pytest.mark.parametrize('count', [500, 10])
def test_frechet_distance_of_equal_statistics_is_zero_and_not_negative(count):
    for seed in range(5):
        mu, sigma = moments(np.random.default_rng(seed).normal(size=[count, 24]))
        assert 0 <= frechet_distance(mu, sigma, mu, sigma) <= 1e-13 * np.trace(sigma)


def test_frechet_distance_does_not_depend_on_the_axes():
    random = np.random.default_rng(0)
    a, b = random.normal(size=[300, 12]), random.gamma(2, size=[200, 12])
    turn = rotation(12)
    expected = frechet_distance(*moments(a), *moments(b))
    assert frechet_distance(*moments(a @ turn), *moments(b @ turn)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_few_images_from_float32_sums():
    """Rounding leaves such covariances eigenvalues on both sides of zero."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=[20, 64]), random.normal(size=[500, 64])
    expected = frechet_distance(*moments(a), *moments(b))
    single = [x.astype(np.float32) for x in (*moments(a), *moments(b))]
    assert np.linalg.eigvalsh(single[1].astype(np.float64)).min() < -1e-9
    assert frechet_distance(*single) == pytest.approx(expected, rel=1e-5)


GOOD = np.zeros(2), np.eye(2)


@pytest.mark.parametrize(
    ('mu', 'sigma', 'sentence'),
    [
        (np.zeros(3), np.eye(3), 'have 3 and 2 dimensions'),
        (np.zeros(2), np.eye(3), r'\[2\] and its covariance \[3, 3\]'),
        (np.zeros([2, 1]), np.eye(2), r'shape \[2, 1\]'),
        (np.array([0, np.nan]), np.eye(2), 'not finite'),
        (np.zeros(2), np.diag([1, np.inf]), 'not finite'),
        (np.zeros(2), np.array([[1, 0.5], [0, 1]]), 'not symmetric'),
        (np.zeros(2), np.array([[1.0, 2], [2, 1]]), 'eigenvalues from -1 to 3'),
        (np.zeros(2), -np.eye(2), 'eigenvalues from -1 to -1'),
    ],
)
def test_frechet_distance_refuses_what_is_no_gaussian(mu, sigma, sentence):
    with pytest.raises(ValueError, match=sentence):
        frechet_distance(mu, sigma, *GOOD)


# ---------------------------------------------------------------------------------------------------------------------
# Kernel distance


def looped_kid(real, fake) -> float:
    """Gretton et al., JMLR 2012, eq. 3, one pair at a time."""

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y)) / len(x) + 1) ** 3

    n, m = len(real), len(fake)
    within_real = sum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_fake = sum(kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(x, y) for x in real for y in fake) / (n * m)
    return within_real + within_fake - 2 * between


def array_kid(real, fake) -> float:
    """The same on float64 arrays."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def without_diagonal(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return without_diagonal(kernel(real, real)) + without_diagonal(kernel(fake, fake)) - 2 * kernel(real, fake).mean()


def published_draws_kid(real, fake, num_subsets, size, seed) -> float:
    random = np.random.RandomState(seed)
    values = []
    for _ in range(num_subsets):
        some_fake = fake[random.choice(len(fake), size, replace=False)]
        some_real = real[random.choice(len(real), size, replace=False)]
        values.append(array_kid(some_real, some_fake))
    return float(np.mean(values))


def feature_sets(num_real, num_fake, dim, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    real = random.gamma(2, 0.25, size=[num_real, dim])
    fake = random.gamma(2.2, 0.25, size=[num_fake, dim]) + random.normal(size=[num_fake, 1]) * 0.05
    return real.astype(dtype), fake.astype(dtype)


def test_kid_golden(published):
    real, fake = published['real_features'][:500], published['gen_features']
    expected = float(published['kid_whole_set'])
    assert kid_unbiased(real, fake) == pytest.approx(expected, rel=1e-6)
    assert kid(real, fake, num_subsets=2) == pytest.approx(expected, rel=1e-6)  # each subset is the whole set


def test_kid_is_the_definition():
    real, fake = feature_sets(7, 5, 3, np.float64)
    expected = looped_kid(real.tolist(), fake.tolist())
    assert array_kid(real, fake) == pytest.approx(expected, rel=1e-12)
    assert kid_unbiased(real, fake) == pytest.approx(expected, rel=1e-12)
    assert kid_unbiased(real.astype(np.float32), fake.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(('num_real', 'num_fake'), [(1200, 700), (512, 513), (2, 3)])
def test_kid_of_blocks_is_that_of_the_whole(num_real, num_fake):
    real, fake = feature_sets(num_real, num_fake, 16)
    expected = array_kid(real, fake)
    assert kid_unbiased(real, fake) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert kid_unbiased(real.astype(np.float64), fake.astype(np.float64)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ('num_real', 'num_fake', 'num_subsets', 'size'),
    [
        (60, 50, 30, 40),  # subsets share most pairs
        (900, 800, 3, 40),  # they share almost none
        (40, 1500, 4, 40),
    ],
)
def test_kid_of_the_published_draws(num_real, num_fake, num_subsets, size):
    real, fake = feature_sets(num_real, num_fake, 32)
    expected = published_draws_kid(real, fake, num_subsets, size, seed=5)
    value = kid(real, fake, num_subsets, size, rng=np.random.RandomState(5))
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-8)
    other_draws = kid(real, fake, num_subsets, size, rng=np.random.RandomState(6))
    assert other_draws != pytest.approx(expected, rel=1e-3)


def test_small_kid_keeps_its_digits():
    """Of equal distributions, in as many dimensions as the detector has: the terms are 5000 times the result."""
    random = np.random.default_rng(0)
    real, fake = (np.abs(random.normal(size=[300, 2048])).astype(np.float32) for _ in range(2))
    expected = array_kid(real, fake)
    assert abs(expected) < 1e-3
    assert kid_unbiased(real, fake) == pytest.approx(expected, abs=2e-8)


def test_kid_does_not_depend_on_order_axes_or_type():
    real, fake = feature_sets(90, 80, 12)
    expected = kid_unbiased(real, fake)
    random = np.random.default_rng(1)
    assert kid_unbiased(random.permutation(real), random.permutation(fake)) == pytest.approx(expected, rel=1e-6)
    turn = rotation(12)
    assert kid_unbiased(real.astype(float) @ turn, fake.astype(float) @ turn) == pytest.approx(expected, rel=1e-6)
    assert kid_unbiased(fake, real) == pytest.approx(expected, rel=1e-6)
    assert kid_unbiased(*map(torch.from_numpy, (real, fake))) == expected
    half = real.astype(np.float16), fake.astype(np.float16)
    assert kid_unbiased(*half) == kid_unbiased(*(x.astype(np.float32) for x in half))


@pytest.mark.parametrize('metric', [kid, manifold_metrics])
def test_programs_that_gave_up_precision_get_it_here(metric):
    inside = []
    with precision.tensor_float32(True):
        setting = precision.tensor_float32_setting()
        metric(*feature_sets(30, 20, 4), progress=lambda *_: inside.append(precision.tensor_float32_setting()[0]))
        assert precision.tensor_float32_setting() == setting
    with precision.tensor_float32(False):
        assert set(inside) == {precision.tensor_float32_setting()[0]}


@pytest.mark.parametrize('num_real', [60, 900])
def test_kid_reports_progress(num_real):
    real, fake = feature_sets(num_real, 50, 4)
    seen = []
    kid(real, fake, num_subsets=3, max_subset_size=20, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(index, seen[-1][1]) for index in range(1, seen[-1][1] + 1)]


@pytest.mark.parametrize(
    ('sizes', 'subsets', 'sentence'),
    [
        ((1, 9), (3, 5), '1 real and 9 fake'),
        ((9, 1), (3, 5), '9 real and 1 fake'),
        ((9, 9), (0, 5), '0 subsets'),
        ((9, 9), (3, 1), 'at most 1 vectors'),
    ],
)
def test_kid_refuses_too_little(sizes, subsets, sentence):
    with pytest.raises(ValueError, match=sentence):
        kid(*feature_sets(*sizes, 4), *subsets)


# ---------------------------------------------------------------------------------------------------------------------
# Precision, recall, density, coverage


def looped_manifold_metrics(real, fake, k, distances):
    """The definitions, one pair at a time; `distances` gives the table of those between two sets."""

    def radii(points):
        table = distances(points, points).tolist()
        return [sorted(d for j, d in enumerate(row) if j != i)[k - 1] for i, row in enumerate(table)]

    real_radii, fake_radii = radii(real), radii(fake)
    table = distances(real, fake).tolist()
    in_real_ball = [[d <= radius for d in row] for row, radius in zip(table, real_radii)]
    in_fake_ball = [[d <= radius for d, radius in zip(row, fake_radii)] for row in table]
    return {
        'precision': sum(map(any, zip(*in_real_ball))) / len(fake),
        'recall': sum(map(any, in_fake_ball)) / len(real),
        'density': sum(map(sum, in_real_ball)) / (k * len(fake)),
        'coverage': sum(map(any, in_real_ball)) / len(real),
    }


def squared_distances(a, b):
    return ((a[:, None].astype(np.float64) - b) ** 2).sum(axis=2)


def half_precision_distances(a, b):
    """As the published code computes them: by products, with each result rounded to float16."""
    lengths = [(x * x).astype(np.float64).sum(axis=1).astype(np.float16).astype(np.float64) for x in (a, b)]
    squares = lengths[0][:, None] + lengths[1] - 2 * (a.astype(np.float64) @ b.T.astype(np.float64))
    return np.sqrt(np.maximum(squares.astype(np.float16), np.float16(0)))


@pytest.mark.parametrize('k', [1, 3, 5])
def test_precision_and_recall_golden(published, k):
    real, fake = (published[name].astype(np.float16) for name in ('real_features', 'gen_features'))
    values = precision_recall(real, fake, nhood_size=k)
    # Counts over counts; the published ones are float32.
    assert np.float32(values).tolist() == published[f'pr_k{k}'].astype(np.float32).tolist()


@pytest.mark.parametrize('k', [1, 2, 4])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_manifold_metrics_are_the_definitions_with_ties(k, dtype):
    """On a coarse lattice many distances are equal, and many points too; the arithmetic is exact."""
    random = np.random.default_rng(k)
    real, fake = random.integers(0, 4, size=[45, 3]), random.integers(1, 5, size=[38, 3])
    expected = looped_manifold_metrics(real, fake, k, squared_distances)
    assert 0 < expected['precision'] < 1 and 0 < expected['recall'] < 1
    values = manifold_metrics(real.astype(dtype), fake.astype(dtype), nhood_size=k)
    assert values == pytest.approx(expected, rel=1e-15)


def test_manifold_metrics_of_float16_features_round_as_published():
    """Among lattice points far apart, squares fall between two float16 numbers; far from zero, rounding decides."""
    random = np.random.default_rng(0)
    differing = 0
    for k, case in itertools.product((1, 3), range(12)):
        sets = [
            random.normal(size=[40, 5]),
            random.normal(size=[30, 5]) + 0.5,
            random.integers(-16, 17, size=[40, 8]),
            random.integers(-16, 17, size=[30, 8]),
            random.uniform(10, 12, size=[40, 2]),
            random.uniform(10, 12, size=[30, 2]),
        ]
        real, fake = (x.astype(np.float16) for x in sets[2 * (case % 3) :][:2])
        expected = looped_manifold_metrics(real, fake, k, half_precision_distances)
        assert manifold_metrics(real, fake, nhood_size=k) == pytest.approx(expected, rel=1e-15)
        differing += manifold_metrics(real.astype(np.float32), fake.astype(np.float32), nhood_size=k) != expected
    assert differing > 6


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_block_sizes_do_not_change_manifold_metrics(dtype):
    real, fake = feature_sets(150, 130, 24, dtype)
    expected = manifold_metrics(real, fake)
    for row_batch, col_batch in itertools.product((7, 50, 1000), (9, 130)):
        assert manifold_metrics(real, fake, 3, row_batch, col_batch) == expected
    assert precision_recall(real, fake) == (expected['precision'], expected['recall'])


def test_copies_have_distance_zero():
    """Rounding of float32 products must not turn copies into neighbours at some distance."""
    random = np.random.default_rng(0)
    images = random.gamma(0.5, size=[6, 4096]).astype(np.float32)
    real = np.repeat(images, 4, axis=0)  # the third neighbour is a copy too: all radii are zero
    near = images * (1 + 0.01 * random.normal(size=images.shape)).astype(np.float32)
    assert manifold_metrics(real, np.concatenate([images, near]))['precision'] == 0.5
    values = manifold_metrics(real, np.repeat(images[:3], 5, axis=0))
    assert values == {'precision': 1, 'recall': 0.5, 'density': 4 / 3, 'coverage': 0.5}


def test_manifold_metrics_of_equal_and_of_distant_sets():
    real, fake = feature_sets(40, 30, 8)
    same = manifold_metrics(real, real)
    assert (same['precision'], same['recall'], same['coverage']) == (1, 1, 1) and same['density'] > 1
    assert set(manifold_metrics(real, fake + 100).values()) == {0}


def test_manifold_metrics_do_not_depend_on_order_axes_or_container():
    real, fake = feature_sets(80, 70, 10, np.float64)
    expected = manifold_metrics(real, fake)
    random = np.random.default_rng(1)
    assert manifold_metrics(random.permutation(real), random.permutation(fake)) == expected
    turn = rotation(10)
    assert manifold_metrics(real @ turn, fake @ turn) == expected
    assert manifold_metrics(*map(torch.from_numpy, (real, fake))) == expected
    read_only = real.copy()
    read_only.flags.writeable = False
    assert manifold_metrics(read_only, fake) == expected
    swapped = manifold_metrics(fake, real)
    assert (swapped['precision'], swapped['recall']) == (expected['recall'], expected['precision'])


def test_manifold_metrics_report_progress():
    real, fake = feature_sets(50, 40, 4)
    seen = []
    manifold_metrics(real, fake, 3, 16, 9, progress=lambda done, total: seen.append((done, total)))
    blocks = 4 * 5 // 2 + 3 * 4 // 2 + 4 * 5
    assert seen == [(index, blocks) for index in range(1, blocks + 1)]


@pytest.mark.parametrize(('sizes', 'k'), [((4, 3), 3), ((3, 4), 3), ((9, 9), 0), ((1, 1), 1)])
def test_manifold_metrics_refuse_too_few_vectors(sizes, k):
    with pytest.raises(ValueError, match=f'{sizes[0]} real and {sizes[1]} fake feature vectors'):
        manifold_metrics(*feature_sets(*sizes, 4), nhood_size=k)


def test_manifold_metrics_refuse_what_float16_cannot_hold():
    real, fake = (x.astype(np.float16) for x in feature_sets(9, 9, 4))
    with pytest.raises(ValueError, match='too large for the float16 arithmetic'):
        manifold_metrics(real * np.float16(300), fake)
    apart = np.linspace(-250, 250, 5, dtype=np.float16)[:, None]  # lengths are small enough, distances are not
    with pytest.raises(ValueError, match='too large for the float16 arithmetic'):
        manifold_metrics(apart, apart)
    assert manifold_metrics(apart.astype(np.float32), apart.astype(np.float32))['precision'] == 1


@pytest.mark.parametrize('metric', [kid_unbiased, manifold_metrics])
@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda real: real[:, :3], 'real features have 3 dimensions, the fake ones 4'),
        (lambda real: real[0], r'real features have shape \[4\]'),
        (lambda real: real[:0], r'real features have shape \[0, 4\]'),
        (lambda real: real.astype(np.int32), 'type torch.int32'),
        (lambda real: real.astype(np.float16), 'torch.float16 on cpu, the fake ones torch.float32'),
        (lambda real: np.where(np.arange(4) == 2, np.nan, real), 'of image 0 are not finite'),
        (lambda real: np.where(np.arange(20)[:, None] == 7, np.inf, real), 'of image 7 are not finite'),
    ],
)
def test_wrong_features_are_refused(metric, change, sentence):
    real, fake = feature_sets(20, 20, 4)
    with pytest.raises(ValueError, match=sentence):
        metric(change(real).astype(change(real).dtype), fake)


# ---------------------------------------------------------------------------------------------------------------------
# Intervals


@pytest.mark.parametrize('module', [frechet_inception_distance, kernel_inception_distance])
def test_interval_is_as_wide_as_the_metric_scatters(module):
    """Over independent draws of as many images. 95 % of a normal distribution are within 3.92 standard deviations."""

    def value(real, fake):
        if module is kernel_inception_distance:
            return kid(real, fake, num_subsets=20, rng=np.random.RandomState(0))
        return frechet_distance(*moments(real), *moments(fake))

    sets = [feature_sets(200, 150, 6, seed=seed) for seed in range(60)]
    true_width = 3.92 * np.std([value(*pair) for pair in sets])
    intervals = [module.bootstrap(*pair, 300, np.random.RandomState(0)) for pair in sets[:8]]
    widths = [high - low for low, high in intervals]
    assert 0.75 * true_width < np.mean(widths) < 1.5 * true_width
    assert all(low < value(*pair) < high for pair, (low, high) in zip(sets, intervals))


@pytest.mark.parametrize('module', [frechet_inception_distance, kernel_inception_distance])
def test_interval_repeats_and_follows_confidence(module):
    real, fake = feature_sets(60, 40, 50)  # fewer than dimensions
    intervals = [
        module.bootstrap(real, fake, 200, np.random.default_rng(3), confidence=confidence)
        for confidence in (0.95, 0.95, 0.5)
    ]
    assert intervals[0] == intervals[1]
    assert intervals[0][0] < intervals[2][0] < intervals[2][1] < intervals[0][1]
    seen = []
    module.bootstrap(real, fake, 20, np.random.RandomState(0), progress=lambda *state: seen.append(state))
    assert seen == [(index, 20) for index in range(1, 21)]
    for options, sentence in (({'num_resamples': 5}, '5 resamples'), ({'confidence': 1}, 'confidence of 1')):
        with pytest.raises(ValueError, match=sentence):
            module.bootstrap(real, fake, **{'num_resamples': 20, 'rng': np.random.default_rng(0), **options})


@pytest.mark.parametrize('max_compared', [30, 9])
def test_interval_of_kid_is_made_of_its_projections_and_of_the_subsets(max_compared):
    real, fake = feature_sets(20, 16, 3, np.float64)
    real[4] *= 3  # whose kernel with itself is large
    expected_rng, num_subsets, size = np.random.RandomState(2), 5, 7
    draws = [[expected_rng.choice(len(x), size, replace=False) for x in (fake, real)] for _ in range(num_subsets)]
    values = np.array([array_kid(real[of_real], fake[of_fake]) for of_fake, of_real in draws])
    compared = [expected_rng.choice(len(x), min(len(x), max_compared), replace=False).tolist() for x in (real, fake)]

    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    def influences(own, other, own_compared, other_compared):
        return np.array(
            [
                2 * np.mean([kernel(x, own[j]) for j in own_compared if j != i])
                - 2 * np.mean([kernel(x, other[j]) for j in other_compared])
                for i, x in enumerate(own)
            ]
        )

    parts = [influences(real, fake, *compared), influences(fake, real, *compared[::-1]), values]
    expected = bootstrap_interval(values.mean(), parts, 50, expected_rng)
    interval = kernel_inception_distance.bootstrap(
        real, fake, 50, np.random.RandomState(2), num_subsets, size, max_compared=max_compared
    )
    assert interval == pytest.approx(expected, rel=1e-9)


def test_interval_of_kid_from_some_of_the_vectors():
    real, fake = feature_sets(400, 300, 8)
    widths = []
    for max_compared in (400, 150):
        interval = kernel_inception_distance.bootstrap(
            real, fake, 400, np.random.RandomState(0), max_compared=max_compared
        )
        widths.append(interval[1] - interval[0])
    assert widths[0] != widths[1] == pytest.approx(widths[0], rel=0.2)


# ---------------------------------------------------------------------------------------------------------------------
# Inception score


def looped_inception_score(probs):
    classes = range(len(probs[0]))
    average = [sum(p[c] for p in probs) / len(probs) for c in classes]
    divergences = [sum(p[c] * math.log(p[c] / average[c]) for c in classes if p[c] > 0) for p in probs]
    return math.exp(sum(divergences) / len(divergences))


def test_inception_score_golden(published):
    for splits in (10, 4):
        score = inception_score.inception_score(published['is_probs'], splits)
        assert score == pytest.approx(published[f'is_splits{splits}'].tolist(), rel=1e-4)


def test_inception_score_is_the_definition():
    probs = np.random.default_rng(0).dirichlet(np.full(5, 0.1), size=23)
    probs[3] = [0, 1, 0, 0, 0]
    parts = [probs[0:7], probs[7:15], probs[15:23]]  # 23 · 1/3 = 7, 23 · 2/3 = 15
    scores = [looped_inception_score(part.tolist()) for part in parts]
    value = inception_score.inception_score(torch.from_numpy(probs), num_splits=3)
    assert value == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)


def test_inception_score_of_certain_and_of_uncertain_classes():
    certain = np.eye(8, dtype=np.float32)[np.arange(4800) % 8]  # more rows than are read at once
    assert inception_score.inception_score(certain, 1) == pytest.approx((8, 0), rel=1e-12)
    uncertain = np.full([40, 8], 1 / 8, dtype=np.float16)
    assert inception_score.inception_score(uncertain, 4) == pytest.approx((1, 0), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ('probs', 'splits', 'sentence'),
    [
        (np.full([5, 2], 0.5), 6, '5 images cannot be split into 6 parts'),
        (np.full([5, 2], 0.5), 0, 'into 0 parts'),
        (np.full([5], 0.5), 1, r'shape \[5\]'),
        (np.array([[0.5, 0.5], [np.nan, 1]]), 1, 'image 1 are not finite'),
        (np.array([[0.5, 0.5], [1.5, -0.5]]), 1, 'image 1 are not numbers from 0 to 1'),
        (np.array([[0.5, 0.5], [0.5, 0.5], [3.0, 1.0]]), 2, 'image 2 are not numbers from 0 to 1'),
    ],
)
def test_inception_score_refuses_what_are_no_probabilities(probs, splits, sentence):
    with pytest.raises(ValueError, match=sentence):
        inception_score.inception_score(probs, splits)


# ---------------------------------------------------------------------------------------------------------------------
# Perceptual path length


def test_slerp_golden(published):
    a, b, t = (torch.from_numpy(published[f'slerp_{name}']) for name in 'abt')
    value = perceptual_path_length.slerp(a, b, t)
    assert value.dtype == torch.float32
    assert value.numpy() == pytest.approx(published['slerp_out'], abs=1e-6)


def test_slerp_moves_along_the_circle_at_constant_speed():
    a, b = torch.from_numpy(np.random.default_rng(0).normal(size=[2, 4, 16])).unbind()
    unit_a, unit_b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    angles = (unit_a * unit_b).sum(dim=-1).acos()
    for part in (0, 0.3, 1):
        point = perceptual_path_length.slerp(a, b, torch.full([4, 1], part, dtype=torch.float64))
        assert point.norm(dim=-1).numpy() == pytest.approx(np.ones(4), rel=1e-14)
        cosines = torch.stack([(part * angles).cos(), ((1 - part) * angles).cos()])
        assert torch.allclose(torch.stack([(point * unit_a).sum(-1), (point * unit_b).sum(-1)]), cosines, atol=1e-14)


def test_slerp_between_nearly_equal_directions_keeps_its_digits():
    a = torch.tensor([[3.0, 0, 0, 4]])
    b = a + torch.tensor([[0, 1e-4, 0, 0]])
    middle = perceptual_path_length.slerp(a, b, torch.tensor([[0.5]]))
    assert float(middle[0, 1]) == pytest.approx(1e-5, rel=1e-5)
    assert torch.equal(perceptual_path_length.slerp(a, 2 * a, torch.tensor([[0.5]])), a / 5)


def test_path_lengths_are_squared_distances_over_the_squared_step():
    start = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    end = torch.tensor([[1.0, 2.5], [3.0, 4.0]])
    assert perceptual_path_length.path_lengths(start, end, 0.5).tolist() == [1, 100]


def test_trimmed_mean_golden(published):
    value = perceptual_path_length.trimmed_mean(published['ppl_distances'])
    assert value == pytest.approx(float(published['ppl_value']), rel=1e-6)


def test_trimmed_mean_keeps_the_percentiles_themselves():
    values = np.array([9.0, 1, 2, 3, 100], dtype=np.float32)
    trimmed_mean = perceptual_path_length.trimmed_mean
    assert trimmed_mean(values) == 23  # 1 % of five is none: the lower and the higher neighbours are the extremes
    assert trimmed_mean(values, low=25, high=75) == (2 + 3 + 9) / 3
    assert trimmed_mean(values, low=26, high=74) == (2 + 3 + 9) / 3
    assert trimmed_mean(torch.tensor([1.0, 1, 1, 5, 7, 7]), low=20, high=80) == (1 + 1 + 1 + 5 + 7 + 7) / 6  # ties stay
    assert trimmed_mean([4.5]) == 4.5


@pytest.mark.parametrize(
    ('values', 'percentiles', 'sentence'),
    [
        ([], (1, 99), r'shape \[0\]'),
        ([[1.0]], (1, 99), r'shape \[1, 1\]'),
        ([1.0, np.nan], (1, 99), 'finite'),
        ([1.0], (99, 1), 'Percentiles 99 and 1'),
        ([1.0], (-1, 99), 'Percentiles -1 and 99'),
    ],
)
def test_trimmed_mean_refuses_what_has_none(values, percentiles, sentence):
    with pytest.raises(ValueError, match=sentence):
        perceptual_path_length.trimmed_mean(values, *percentiles)
