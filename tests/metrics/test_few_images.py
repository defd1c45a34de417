"""Every metric of the table with 1, 3 and 30 images: a number with its interval, or one sentence that says why not."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from metrics.evaluation import Evaluation
from metrics.intervals import mean_interval, median_interval, share_interval
from metrics.metric_table import EXAMPLES, find_metric
from metrics.options import MetricOptions
from tests import metric_stand_ins as stand_ins
from torch_utils.distributed import World
from training import networks_stylegan3

ALONE = World(0, 1, torch.device('cpu'))
SUMMARIES_WITHOUT_INTERVAL = ('is40_std',)  # itself says how much a value scatters


def small_name(example):
    """'fid50k_full' → 'fid40_full'; names with two numbers keep thousands."""
    return re.sub(r'\d+k(?!\d)', '40', example) if not re.search(r'\dk\d', example) else example.replace('50k', '1k')


NAMES = sorted({small_name(example) for example in EXAMPLES})


@pytest.fixture(scope='module')
def generator():
    """Of StyleGAN3, so that all metrics are for it."""
    torch.manual_seed(0)
    sizes = dict(channel_base=256, channel_max=8, num_layers=4)
    return networks_stylegan3.Generator(8, 0, 8, stand_ins.RESOLUTION, 3, **sizes).eval().requires_grad_(False)


@pytest.fixture(params=[1, 3, 30])
def options(request, tmp_path, detector_folder):
    data = stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(request.param))
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=str(data))
    return MetricOptions(kwargs, bootstrap=50, num_samples=12, detectors=str(detector_folder), verbose=False)


REFUSED = {
    1: 'cleanfid cleankid cmmd fd fid fidinf kid memorization pr prdc'.split(),
    3: 'fidinf pr prdc'.split(),
    30: ['fidinf'],
}


def test_the_whole_table(options, generator):
    evaluation = Evaluation(NAMES, ALONE, generator, options)
    refused, num_images = set(), len(evaluation._samples.dataset())
    for name in NAMES:
        try:
            result = evaluation.compute(name)
        except ValueError as error:
            assert re.fullmatch(r'[^\n]+\.', str(error)) and 'image' in str(error), name
            refused.add(find_metric(name)[1].prefix)
            continue
        for ending, value in result['results'].items():
            if ending in SUMMARIES_WITHOUT_INTERVAL:
                continue
            interval = result.get('intervals', {}).get(ending)
            if interval is None:  # too few images for the median of all of them
                assert ending.endswith('_ratio_of_new') and num_images == 3, ending
                continue
            assert np.isfinite([interval['low'], interval['high']]).all(), ending
            assert interval['low'] <= value <= interval['high'], ending
    evaluation.close()
    assert refused == set(REFUSED[num_images])


def test_without_an_interval_a_result_says_so(options, generator):
    evaluation = Evaluation(['eqt1_int', 'ppl_wend'], ALONE, generator, dataclasses.replace(options, num_samples=1))
    for name in ('eqt1_int', 'ppl_wend'):
        result = evaluation.compute(name)
        assert 'intervals' not in result and result['no_interval'] == 'There are too few images for an interval.'
    evaluation.close()


# ---------------------------------------------------------------------------------------------------------------------
# Intervals of shares, means and medians


def test_intervals_contain_the_truth_as_often_as_they_promise():
    rng = np.random.RandomState(0)
    hits = np.zeros(3)
    for _ in range(400):
        low, high = share_interval(rng.binomial(30, 0.1), 30)
        hits[0] += low <= 0.1 <= high
        low, high = mean_interval(rng.randn(5) + 2)
        hits[1] += low <= 2 <= high
        low, high = median_interval(rng.exponential(size=20))
        hits[2] += low <= np.log(2) <= high
    assert (hits >= 370).all() and hits[1] <= 390


def test_intervals_of_nearly_nothing():
    assert share_interval(0, 1) == (0, pytest.approx(0.975))
    assert share_interval(3, 3)[1] == 1 and share_interval(3, 3)[0] < 0.4
    assert mean_interval([1.0]) is None and median_interval(np.arange(5.0)) is None
    assert median_interval(np.arange(6.0)) == (0, 5)
