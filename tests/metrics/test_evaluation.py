"""Values of metrics, from images to numbers, against plain NumPy and SciPy; ranks, seeds, caches, what goes wrong."""

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest
import scipy.linalg
import torch

from metrics.evaluation import Evaluation, SnapshotMetrics, check_detectors, report
from metrics.features import detectors, path_pairs
from metrics.features.cache import StatisticsCache
from metrics.features.image_sources import RealImages
from metrics.metric_table import ENTRIES, find_metric
from metrics.options import MetricOptions
from tests import metric_stand_ins as stand_ins
from torch_utils import launcher
from torch_utils.distributed import World

ALONE = World(rank=0, size=1, device=torch.device('cpu'))
BATCH = 16
SEED = 5


def dataset_kwargs(path, **kwargs):
    return dict(class_name='training.dataset.ImageFolderDataset', path=str(path), **kwargs)


@pytest.fixture
def options(rgb_zip, detector_folder):
    return MetricOptions(
        dataset_kwargs(rgb_zip), seed=SEED, batch=BATCH, detectors=str(detector_folder), num_samples=40, verbose=False
    )


def compute(options, *metrics, G=None, cache=None):
    """Results of the metrics by name."""
    evaluation = Evaluation(metrics, ALONE, stand_ins.make_generator() if G is None else G, options, cache)
    results = [evaluation.compute(name) for name in metrics]
    evaluation.close()
    return {name: value for result in results for name, value in result['results'].items()}


# ---------------------------------------------------------------------------------------------------------------------
# Reference implementations, on images that the tests generate


def generated(count, G=None, labels=None):
    """uint8 [N, C, 16, 16]: what the generator draws for the latents and labels of the seed."""
    G = stand_ins.make_generator() if G is None else G

    def rng(purpose, index):
        return np.random.Generator(np.random.Philox(key=SEED, counter=[0, 0, purpose, index]))

    z = np.stack([rng(0, index).standard_normal(G.z_dim) for index in range(count)])
    c = torch.zeros([count, 0])
    if labels is not None:
        c = torch.eye(G.c_dim)[[labels[rng(1, index).integers(len(labels))] for index in range(count)]]
    with torch.no_grad():
        images = G(torch.from_numpy(z.astype(np.float32)), c, noise_mode='none').numpy()
    return np.clip(images * 127.5 + 128, 0, 255).astype(np.uint8)


def reference_fid(real, fake):
    sigmas = [np.cov(x.T, bias=True) for x in (real, fake)]
    # The eigenvalues of the square root are the square roots of the eigenvalues.
    overlap = np.sqrt(scipy.linalg.eigvals(sigmas[0] @ sigmas[1])).real.sum()
    return np.square(real.mean(axis=0) - fake.mean(axis=0)).sum() + np.trace(sum(sigmas)) - 2 * overlap


def reference_kid(real, fake):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (real, fake)]
    return sum(within) - 2 * kernel(real, fake).mean()


def reference_manifolds(real, fake, k=3):
    """As published: float16 features, and distances in float16."""
    real, fake = (x.astype(np.float32).astype(np.float16).astype(np.float64) for x in (real, fake))

    def distances(a, b):
        return np.sqrt(np.square(a[:, None] - b).sum(axis=2)).astype(np.float16)

    def radii(x):
        return np.sort(distances(x, x), axis=1)[:, k]  # The nearest is the point itself.

    fake_in_real = distances(fake, real) <= radii(real)  # [fake, real]
    real_in_fake = distances(real, fake) <= radii(fake)
    return dict(
        precision=fake_in_real.any(axis=1).mean(),
        recall=real_in_fake.any(axis=1).mean(),
        density=fake_in_real.sum() / (k * len(fake)),
        coverage=fake_in_real.any(axis=0).mean(),
    )


def reference_inception_score(probabilities, num_splits=10):
    scores = []
    for i in range(num_splits):
        p = probabilities[len(probabilities) * i // num_splits : len(probabilities) * (i + 1) // num_splits]
        scores.append(np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()))
    return np.mean(scores), np.std(scores)


def test_fid(options, rgb_images):
    real, fake = stand_ins.inception_features(rgb_images), stand_ins.inception_features(generated(200))
    found = compute(options, 'fid200_full', 'fid50')
    assert found['fid200_full'] == pytest.approx(reference_fid(real, fake), rel=1e-5)
    assert found['fid50'] == pytest.approx(reference_fid(real[:50], fake[:50]), rel=1e-5)


def test_kid(options, rgb_images):
    # As many generated as real images: every subset is the whole.
    real, fake = stand_ins.inception_features(rgb_images), stand_ins.inception_features(generated(len(rgb_images)))
    found = compute(options, f'kid{len(rgb_images)}_full')
    assert found == {f'kid{len(rgb_images)}_full': pytest.approx(reference_kid(real, fake), rel=1e-5)}


def test_precision_and_recall(options, tmp_path):
    # Real images that overlap with the generated ones in part: half of them are such, with some noise.
    rng = np.random.RandomState(0)
    near = generated(1100)[1000:].astype(np.int64) + rng.randint(-6, 7, size=[100, 3, 16, 16])
    images = np.concatenate([np.clip(near, 0, 255).astype(np.uint8), stand_ins.random_images(60)])
    path = stand_ins.write_zip(tmp_path / 'overlapping.zip', images)
    # The name can only say thousands; the real ones are fewer.
    real, fake = stand_ins.vgg_features(images), stand_ins.vgg_features(generated(1000))
    expected = reference_manifolds(real, fake)
    found = compute(dataclasses.replace(options, dataset_kwargs=dataset_kwargs(path)), 'pr1k3_full', 'prdc1k3_full')
    assert found.keys() == {
        'pr1k3_full_precision',
        'pr1k3_full_recall',
        'prdc1k3_full_precision',
        'prdc1k3_full_recall',
        'prdc1k3_full_density',
        'prdc1k3_full_coverage',
    }
    # An image that is as far away as a radius, to float16, counts or not by how the distance was rounded before; the
    # golden values hold the mathematics to the published way.
    for name, tolerance in (('precision', 2 / 1000), ('recall', 2 / 160), ('density', 6 / 3000), ('coverage', 2 / 160)):
        assert expected[name] > 0.1
        assert found[f'prdc1k3_full_{name}'] == pytest.approx(expected[name], abs=tolerance)
    assert found['pr1k3_full_precision'] == found['prdc1k3_full_precision']
    assert found['pr1k3_full_recall'] == found['prdc1k3_full_recall']


def test_inception_score(options):
    mean, std = reference_inception_score(stand_ins.class_probabilities(generated(105)))
    assert compute(options, 'is105') == {
        'is105_mean': pytest.approx(mean, rel=1e-5),
        'is105_std': pytest.approx(std, rel=1e-4),
    }


def reference_path_length(G, space, full, crop, count):
    """Pair by pair, in PyTorch up to the images, as the step is no larger than float32 can bear."""
    distances = []
    for index in range(count):
        rng = np.random.Generator(np.random.Philox(key=SEED, counter=[0, 0, 4, index]))
        z0, z1 = torch.from_numpy(rng.standard_normal([2, G.z_dim]).astype(np.float32))
        t = float(np.float32(rng.random())) if full else 0.0
        c = torch.zeros([1, 0])
        images = []
        for step in (t, t + 1e-4):
            if space == 'z':
                a, b = z0 / z0.norm(), z1 / z1.norm()
                angle = torch.arccos((a * b).sum())
                z = (torch.sin((1 - step) * angle) * a + torch.sin(step * angle) * b) / torch.sin(angle)
                w = G.mapping(z[None], c)
            else:
                w0, w1 = G.mapping(z0[None], c), G.mapping(z1[None], c)
                w = w0 + (w1 - w0) * step
            images.append(G.synthesis(w, noise_mode='none')[0].double().numpy())
        if crop:
            images = [image[:, 6:14, 4:12] for image in images]
        # The detector is linear: that of the difference.
        size = images[0].shape[1] // 4
        means = ((images[1] - images[0]) * 127.5 / 255).reshape(3, 4, size, 4, size).mean(axis=(2, 4))
        distances.append(np.square(means.reshape(-1) @ stand_ins.LPIPS).sum() / 1e-4**2)
    low, high = np.percentile(distances, 1, method='lower'), np.percentile(distances, 99, method='higher')
    return np.mean([d for d in distances if low <= d <= high])


@pytest.mark.parametrize(
    'name, space, full, crop',
    [
        ('ppl2_wend', 'w', False, False),
        ('ppl_wend', 'w', False, True),
        ('ppl_wfull', 'w', True, True),
        ('ppl_zend', 'z', False, True),
        ('ppl_zfull', 'z', True, True),
    ],
)
def test_path_lengths(options, name, space, full, crop):
    G = stand_ins.make_generator()
    G.synthesis.b16.torgb.weight.mul_(20)  # Larger differences, next to rounding.
    expected = reference_path_length(G, space, full, crop, 40)
    assert compute(options, name, G=G) == {name: pytest.approx(expected, rel=2e-2)}


def test_path_lengths_leave_the_network_as_it_is(options):
    G = stand_ins.make_generator(noise_strength=0.1)
    before = {name: buffer.clone() for name, buffer in G.named_buffers()}
    compute(options, 'ppl_wend', G=G)
    assert all(torch.equal(buffer, before[name]) for name, buffer in G.named_buffers())


# ---------------------------------------------------------------------------------------------------------------------
# Gray, labels, mirror, subset


def test_gray_images_and_drawn_labels(options, tmp_path):
    images = stand_ins.random_images(60, channels=1)
    labels = [index % 3 for index in range(60)]
    path = stand_ins.write_zip(tmp_path / 'gray.zip', images, labels)
    G = stand_ins.make_generator(channels=1, c_dim=3)
    found = compute(dataclasses.replace(options, dataset_kwargs=dataset_kwargs(path)), 'fid80_full', G=G)
    real = stand_ins.inception_features(images)
    fake = stand_ins.inception_features(generated(80, G, labels))
    assert found['fid80_full'] == pytest.approx(reference_fid(real, fake), rel=1e-5)


def test_mirror_and_subset(options, rgb_zip, rgb_images):
    """Names that end in _full mean all images as they are; the others keep the mirror images of the training."""
    kwargs = dataset_kwargs(rgb_zip, xflip=True, max_size=20, random_seed=1)
    found = compute(dataclasses.replace(options, dataset_kwargs=kwargs), 'fid300_full', 'fid300')
    both = np.concatenate([rgb_images, rgb_images[:, :, :, ::-1]])
    fake = stand_ins.inception_features(generated(300))
    assert found['fid300_full'] == pytest.approx(
        reference_fid(stand_ins.inception_features(rgb_images), fake), rel=1e-5
    )
    assert found['fid300'] == pytest.approx(reference_fid(stand_ins.inception_features(both), fake), rel=1e-5)
    assert found['fid300'] != pytest.approx(found['fid300_full'], rel=1e-4)


def test_intervals(options):
    evaluation = Evaluation(
        ['fid90_full', 'kid90_full'], ALONE, stand_ins.make_generator(), dataclasses.replace(options, bootstrap=50)
    )
    plain = compute(options, 'fid90_full', 'kid90_full')
    for name in ('fid90_full', 'kid90_full'):
        result = evaluation.compute(name)
        value, interval = result['results'][name], result['bootstrap']
        assert value == pytest.approx(plain[name], rel=1e-9)
        assert interval['low'] < value < interval['high']
        assert (interval['coverage'], interval['num_resamples']) == (0.95, 50)
    evaluation.close()


# ---------------------------------------------------------------------------------------------------------------------
# Results


def test_what_a_result_holds(options, rgb_images, detector_folder):
    evaluation = Evaluation(['fid40_full'], ALONE, stand_ins.make_generator(), options)
    result = evaluation.compute('fid40_full')
    evaluation.close()
    assert list(result)[:7] == [
        'results',
        'metric',
        'total_time',
        'total_time_str',
        'num_gpus',
        'snapshot_pkl',
        'timestamp',
    ]
    assert (result['metric'], result['num_gpus'], result['seed'], result['batch']) == ('fid40_full', 1, SEED, BATCH)
    assert result['num_images'] == {'real': len(rgb_images), 'fake': 40}
    inception = detectors.load('inception', folder=detector_folder)
    assert result['detector'] == {'name': 'inception-2015-12-05', 'sha256': inception.sha256}
    assert len(result['dataset_sha256']) == len(result['network_sha256']) == 64
    assert result['versions']['torch'] == torch.__version__
    json.dumps(result, allow_nan=False)


def test_hashes_tell_networks_apart_and_files_not(options):
    def network_hash(G):
        evaluation = Evaluation(['is10'], ALONE, G, options)
        result = evaluation.compute('is10')
        evaluation.close()
        return result['network_sha256']

    assert network_hash(stand_ins.make_generator()) == network_hash(stand_ins.make_generator())
    assert network_hash(stand_ins.make_generator()) != network_hash(stand_ins.make_generator(seed=1))


def test_reports_are_appended(tmp_path, capsys):
    result = {'results': {'fid1k_full': 2.5}, 'metric': 'fid1k_full', 'snapshot_pkl': None}
    for kimg in (1, 2):
        report(result, str(tmp_path), str(tmp_path / f'network-snapshot-00000{kimg}.pkl'))
    lines = (tmp_path / 'metric-fid1k_full.jsonl').read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert [json.loads(line)['snapshot_pkl'] for line in lines] == [
        'network-snapshot-000001.pkl',
        'network-snapshot-000002.pkl',
    ]


class FullDisk:
    """Stands in for a file on a disk that is full after some bytes."""

    def __init__(self, path, room):
        self.file, self.room = open(path, 'ab'), room

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.file.close()

    def write(self, content):
        self.file.write(content[: self.room])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr('metrics.evaluation.open', lambda path, mode: FullDisk(path, 10), raising=False)


def test_a_full_disk_leaves_the_results_of_before(tmp_path, full_disk):
    path = tmp_path / 'metric-fid1k_full.jsonl'
    path.write_text('{}\n')
    with pytest.raises(OSError, match='No space left') as error:
        report({'results': {}, 'metric': 'fid1k_full'}, str(tmp_path), str(tmp_path / 'network.pkl'))
    assert error.value.filename == str(path)
    assert path.read_text() == '{}\n'


# ---------------------------------------------------------------------------------------------------------------------
# Seeds, batches, ranks

ALL_KINDS = ('fid150_full', 'kid150_full', 'prdc1k3', 'is150', 'ppl_zfull')


def test_a_seed_repeats_the_numbers(options):
    G = stand_ins.make_generator(noise_strength=0.3)
    first = compute(options, *ALL_KINDS, G=G)
    torch.randn(7)
    assert compute(options, *ALL_KINDS, G=G) == first
    others = compute(dataclasses.replace(options, seed=SEED + 1), *ALL_KINDS, G=G)
    assert all(others[name] != first[name] for name in first if 'recall' not in name)


def test_neither_batch_nor_company_change_the_numbers(options):
    """But for noise, which this network does not use."""
    together = compute(options, 'fid150_full', 'kid150_full', 'is150')
    for name in ('fid150_full', 'kid150_full', 'is150'):
        alone = compute(dataclasses.replace(options, batch=33), name)
        for key, value in alone.items():
            assert value == pytest.approx(together[key], rel=1e-6)


def test_the_random_state_of_a_training_is_untouched(options):
    torch.manual_seed(0)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    compute(options, *ALL_KINDS, G=None)  # Makes its generator from a seed of its own.
    torch.manual_seed(0)
    G = stand_ins.make_generator()
    state = torch.get_rng_state()
    compute(options, *ALL_KINDS, G=G)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def evaluate_on_ranks(world, options, path):
    """Runs in processes of its own. A network with noise, batches that do not divide the images."""
    results = {}
    evaluation = Evaluation(ALL_KINDS, world, stand_ins.make_generator(noise_strength=0.3), options)
    for name in ALL_KINDS:
        result = evaluation.compute(name)
        assert (result is None) == (not world.is_main)
        results |= result['results'] if result else {}
    evaluation.close()
    # A rank that fails takes the others along, in a sentence, and all can go on.
    broken = stand_ins.make_generator()
    if world.rank == 1:
        broken.synthesis.b4.const.fill_(float('nan'))
    evaluation = Evaluation(['is150', 'fid20_full'], world, broken, options)
    try:
        evaluation.compute('is150')
    except ValueError as error:
        results['failure'] = str(error)
    evaluation.close()
    if world.is_main:
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(results, file)


@pytest.mark.parametrize('size', [2, 4])
def test_ranks_give_the_numbers_of_one(options, tmp_path, monkeypatch, size):
    alone = compute(options, *ALL_KINDS, G=stand_ins.make_generator(noise_strength=0.3))
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'fresh'))
    launcher.launch(evaluate_on_ranks, size, 'cpu', options, str(tmp_path / 'results.json'))
    together = json.loads((tmp_path / 'results.json').read_text())
    assert 'not finite' in together.pop('failure')
    assert together == pytest.approx(alone, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The cache of features

REAL_METRICS = ('fid60_full', 'kid60_full', 'prdc1k3')


def test_features_of_real_images_are_gathered_once(options, monkeypatch):
    first = compute(options, *REAL_METRICS)
    monkeypatch.setattr(RealImages, 'batches', None)
    assert compute(options, *REAL_METRICS) == first


def test_another_detector_is_not_served(options, tmp_path, detector_folder):
    before = compute(options, 'fid60_full')
    other = shutil.copytree(detector_folder, tmp_path / 'other')
    module = stand_ins.Inception()
    module.features.mul_(2)
    stand_ins.save_script(module, other / 'inception-2015-12-05.pt')
    found = compute(dataclasses.replace(options, detectors=str(other)), 'fid60_full')
    assert found['fid60_full'] == pytest.approx(4 * before['fid60_full'], rel=1e-5)


def test_a_changed_zip_is_not_served(options, tmp_path, monkeypatch):
    """Same path, same size, same time."""
    monkeypatch.setattr('training.data.digest._CLOCK_TICK_SEC', -1)
    path = stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(50, seed=1))
    os.utime(path, (1e9, 1e9))
    here = dataclasses.replace(options, dataset_kwargs=dataset_kwargs(path))
    size, before = path.stat().st_size, compute(here, *REAL_METRICS)
    images = stand_ins.random_images(50, seed=2)
    stand_ins.write_zip(path, images)
    os.utime(path, (1e9, 1e9))
    assert (path.stat().st_size, path.stat().st_mtime) == (size, 1e9)
    after = compute(here, *REAL_METRICS)
    assert after['fid60_full'] == pytest.approx(
        reference_fid(stand_ins.inception_features(images), stand_ins.inception_features(generated(60))), rel=1e-5
    )
    assert after['kid60_full'] != before['kid60_full']


def test_a_cache_file_cut_in_half_is_computed_again(options, cache_dir, capsys):
    first = compute(options, *REAL_METRICS)
    files = sorted((cache_dir / 'gan-metrics').glob('*.npz'))
    assert len(files) == 3
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert compute(options, *REAL_METRICS) == first
    assert capsys.readouterr().err.count('computed again') == 3
    assert compute(options, *REAL_METRICS) == first
    assert capsys.readouterr().err == ''


def test_a_cache_that_cannot_be_written_is_a_notice(options, tmp_path, monkeypatch, capsys):
    first = compute(options, *REAL_METRICS)
    (tmp_path / 'file').write_text('no folder')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'file'))
    capsys.readouterr()
    cache = StatisticsCache()
    assert compute(options, *REAL_METRICS, cache=cache) == first
    assert capsys.readouterr().err.count('cannot be written') >= 3
    monkeypatch.setattr(RealImages, 'batches', None)
    assert compute(options, *REAL_METRICS, cache=cache) == first  # Kept in memory.


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_a_network_that_gives_no_numbers(options):
    G = stand_ins.make_generator()
    G.synthesis.b8.conv0.weight.fill_(float('nan'))
    for name in ('fid60_full', 'ppl_wend'):
        with pytest.raises(ValueError, match='generator gives images that are not finite'):
            compute(options, name, G=G)


def test_data_that_do_not_fit(options, tmp_path):
    for words, path, G in (
        (
            '3 channels per image, but the network has 1',
            options.dataset_kwargs['path'],
            stand_ins.make_generator(channels=1),
        ),
        ('no labels', options.dataset_kwargs['path'], stand_ins.make_generator(c_dim=3)),
        (
            '2 numbers per label, but the network has 3',
            stand_ins.write_zip(tmp_path / 'two.zip', stand_ins.random_images(4), labels=[0, 1, 0, 1]),
            stand_ins.make_generator(c_dim=3),
        ),
        ('does not exist', tmp_path / 'gone.zip', None),
    ):
        with pytest.raises(ValueError, match=words):
            compute(dataclasses.replace(options, dataset_kwargs=dataset_kwargs(path)), 'fid60_full', G=G)


def test_too_few_images(options):
    for name, words in (
        ('is9', 'is9 needs 10 generated images or more, but there are 9'),
        ('kid1', 'kid1 needs 2 real images or more'),
        ('pr1k96_full', 'needs 97 real images or more, but there are 96'),
    ):
        with pytest.raises(ValueError, match=words):
            compute(options, name)


def test_a_broken_detector_does_not_take_the_others_along(options, tmp_path, detector_folder):
    broken = shutil.copytree(detector_folder, tmp_path / 'broken')
    (broken / 'vgg16.pt').write_bytes(b'cut')
    options = dataclasses.replace(options, detectors=str(broken))
    evaluation = Evaluation(['fid60_full', 'pr1k3'], ALONE, stand_ins.make_generator(), options)
    assert evaluation.compute('fid60_full')['results']
    with pytest.raises(detectors.DetectorError, match=r'vgg16\.pt cannot be opened'):
        evaluation.compute('pr1k3')
    evaluation.close()


def test_detectors_are_checked_before_anything_else(detector_folder, tmp_path):
    check_detectors(['fid50k_full', 'is50k', 'ppl2_wend', 'pr50k3'], str(detector_folder), 16)
    swapped = tmp_path / 'swapped'
    swapped.mkdir()
    shutil.copy(detector_folder / 'vgg16.pt', swapped / 'inception-2015-12-05.pt')
    check_detectors(['fid50k_full'], str(swapped), 16)
    with pytest.raises(detectors.DetectorError, match='another interface'):
        check_detectors(['fid50k_full', 'is50k'], str(swapped), 16)
    check_detectors(['fid50k_full'], None, 16, download=False)
    check_detectors(['eqt50k_int', 'eqr50k'], 'missing', 16)  # need none


def test_every_entry_of_the_table_is_complete(options):
    prefixes = set()
    for entry in ENTRIES:
        for example in entry.examples:
            found, name = find_metric(example)
            assert found is entry and found.needs.requests(name, options)
            prefixes.add(name.prefix)
    assert prefixes == set('fid kid pr prdc is ppl eqt eqr memorization cleanfid cleankid fd fidinf cmmd'.split())


# ---------------------------------------------------------------------------------------------------------------------
# In a training


def test_a_metric_that_fails_is_reported_and_the_others_go_on(options, tmp_path, capsys):
    watch = SnapshotMetrics(['is9', 'fid60_full', 'kid60_full'], options)
    pickle_path = str(tmp_path / 'network-snapshot-000004.pkl')
    values = watch(ALONE, stand_ins.make_generator(), str(tmp_path), pickle_path)
    assert values == compute(options, 'fid60_full', 'kid60_full')
    out, err = capsys.readouterr()
    assert err.startswith('Metric is9 of ') and 'training continues. is9 needs 10' in err and 'Traceback' not in err
    assert len(out.splitlines()) == 2
    assert {path.name for path in tmp_path.glob('metric-*')} == {'metric-fid60_full.jsonl', 'metric-kid60_full.jsonl'}


def test_a_full_disk_does_not_end_a_training(options, tmp_path, capsys, full_disk):
    watch = SnapshotMetrics(['fid60_full'], options)
    values = watch(ALONE, stand_ins.make_generator(), str(tmp_path), str(tmp_path / 'network-snapshot-000004.pkl'))
    assert values == {}
    assert 'failed; training continues' in (err := capsys.readouterr().err) and 'No space left' in err


def test_an_error_in_the_code_is_reported_with_its_trace(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('metrics.evaluation.network_sha256', None)
    values = SnapshotMetrics(['is60'], options)(ALONE, stand_ins.make_generator(), str(tmp_path), 'x.pkl')
    assert values == {}
    assert 'Traceback' in (err := capsys.readouterr().err) and 'training continues. TypeError' in err


# ---------------------------------------------------------------------------------------------------------------------
# Images with alpha, and images that are not square


def over_white(images):
    """uint8 [N, C, H, W] by the definition of alpha."""
    alpha = images[:, -1:].astype(np.float64) / 255
    return np.rint(images[:, :-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)


@pytest.mark.parametrize('channels', [2, 4])
def test_transparent_images_are_measured_on_white(options, tmp_path, channels):
    images = stand_ins.random_images(40, channels=channels)
    data = stand_ins.write_zip(tmp_path / 'alpha.zip', images)
    G = stand_ins.make_generator(channels=channels)
    options = dataclasses.replace(options, dataset_kwargs=dataset_kwargs(data))
    evaluation = Evaluation(['fid40_full'], ALONE, G, options)
    result = evaluation.compute('fid40_full')
    evaluation.close()
    assert result['transparency'] == 'on white'
    real, fake = (stand_ins.inception_features(over_white(pictures)) for pictures in (images, generated(40, G)))
    assert result['results']['fid40_full'] == pytest.approx(reference_fid(real, fake), rel=1e-4)


def test_opaque_images_say_nothing_of_transparency(options):
    evaluation = Evaluation(['is20'], ALONE, stand_ins.make_generator(), options)
    assert 'transparency' not in evaluation.compute('is20')
    evaluation.close()


@pytest.mark.parametrize('size, crop, expected', [
    ((64, 96), False, (64, 96)), ((64, 96), True, (32, 48)), ((512, 768), False, (256, 384)),
    ((768, 512), True, (192, 128)), ((96, 64), True, (48, 32)),
])  # fmt: skip
def test_path_lengths_of_images_that_are_not_square(size, crop, expected):
    images = torch.rand(1, 4, *size) * 2 - 1
    images[:, 3] = 1  # opaque
    seen = path_pairs._detector_input(images, crop)
    assert seen.shape == (1, 3, *expected)
    torch.testing.assert_close(seen, path_pairs._detector_input(images[:, :3], crop))
    images[:, 3] = -7  # more than transparent
    assert (path_pairs._detector_input(images, crop) == 255).all()
