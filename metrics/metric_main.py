"""The table of metrics: what each family needs to know of images, and what it computes from that.

`metrics.names` has their names; the mathematics has a file for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metrics import frechet_inception_distance as fid
from metrics import inception_score, perceptual_path_length, precision_recall
from metrics import kernel_inception_distance as kid
from metrics.features import randomness
from metrics.features.collectors import Moments
from metrics.features.extraction import INCEPTION_FEATURES, INCEPTION_PROBABILITIES, VGG_FEATURES, VGG_LPIPS, Need
from metrics.features.image_sources import MetricError
from metrics.features.path_pairs import PathKind, gather_distances
from metrics.features.samples import Samples
from metrics.names import Metric
from metrics.options import Settings

CALLS = {
    'fid': INCEPTION_FEATURES,
    'kid': INCEPTION_FEATURES,
    'pr': VGG_FEATURES,
    'prdc': VGG_FEATURES,
    'is': INCEPTION_PROBABILITIES,
    'ppl': VGG_LPIPS,
}
_MOST_REALS = {'fid': None, 'kid': 1_000_000, 'pr': 200_000, 'prdc': 200_000}  # of the `_full` ones
_PATHS = {
    'ppl2_wend': PathKind('w', 'end', crop=False),
    'ppl_zfull': PathKind('z', 'full', crop=True),
    'ppl_wfull': PathKind('w', 'full', crop=True),
    'ppl_zend': PathKind('z', 'end', crop=True),
    'ppl_wend': PathKind('w', 'end', crop=True),
}
_NUM_SPLITS = 10
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000
_INTERVAL_COVERAGE = 0.95

# ---------------------------------------------------------------------------------------------------------------------
# What each family needs


def needs_of(metric: Metric, settings: Settings) -> dict[str, Need]:
    """Features of images, by their part in the computation: 'real', 'fake'."""
    if metric.family == 'ppl':
        return {}
    if metric.family == 'is':
        return {'fake': Need(CALLS[metric.family], metric.count, real=False)}
    moments = metric.family == 'fid' and not settings.bootstrap
    most_reals = _MOST_REALS[metric.family] if metric.full else metric.count
    xflip = bool(settings.dataset_kwargs.get('xflip')) and not metric.full
    return {
        'real': Need(CALLS[metric.family], most_reals, real=True, as_moments=moments, xflip=xflip),
        'fake': Need(CALLS[metric.family], metric.count, real=False, as_moments=moments),
    }


def gather_data(metric: Metric, samples: Samples) -> tuple[dict[str, Any], dict[str, int]]:
    """Collective: what the metric is computed from (on the main rank), and of how many images each part is.

    Raises:
        ValueError: a sentence; too few images, a detector that fails, a dataset that does not fit.
    """
    if metric.family == 'ppl':
        pairs = samples.settings.num_samples
        return {'distances': gather_distances(samples, _PATHS[metric.name], pairs)}, {'pairs': pairs}
    needs = needs_of(metric, samples.settings)
    counts = {part: samples.count(need) for part, need in needs.items()}
    least = {'kid': 2, 'pr': metric.nearest + 1, 'prdc': metric.nearest + 1, 'is': _NUM_SPLITS}.get(metric.family, 1)
    for part, count in counts.items():
        if count < least:
            kind = 'real' if part == 'real' else 'generated'
            raise MetricError(f'{metric.name} needs {least} {kind} images or more, but there are {count}.')
    return {part: samples.get(need) for part, need in needs.items()}, counts


# ---------------------------------------------------------------------------------------------------------------------
# What each family computes


@dataclass(frozen=True)
class Inputs:
    """All that a metric is computed from, on the main rank."""

    metric: Metric
    data: dict[str, Any]  # by part: 'real', 'fake' or 'distances'
    samples: Samples

    def features(self, part: str) -> torch.Tensor:
        """[N, D] where the mathematics is fastest."""
        features = torch.from_numpy(self.data[part])
        device = self.samples.world.device
        return features.to(device) if device.type == 'cuda' else features

    def moments(self, part: str) -> tuple[Any, Any]:
        """Mean [D] and covariance [D, D]."""
        kept = self.data[part]
        return (kept.mean, kept.cov) if isinstance(kept, Moments) else fid.moments(self.features(part))

    def rng(self, purpose: int) -> np.random.Generator:
        return randomness.generator(self.samples.settings.seed, purpose)


def compute_values(inputs: Inputs) -> dict[str, float]:
    """The metric's values by the ends of their names: '' for a single one.

    Raises:
        MetricError: a value is not finite.
    """
    values = _COMPUTE[inputs.metric.family](inputs)
    for ending, value in values.items():
        if not np.isfinite(value):
            raise MetricError(f'{inputs.metric.name}{ending} has no value for these images: it came out as {value}.')
    return {ending: float(value) for ending, value in values.items()}


def _frechet(inputs: Inputs) -> dict[str, float]:
    (mu_real, sigma_real), (mu_fake, sigma_fake) = inputs.moments('real'), inputs.moments('fake')
    return {'': fid.frechet_distance(mu_fake, sigma_fake, mu_real, sigma_real)}


def _kernel(inputs: Inputs) -> dict[str, float]:
    with inputs.samples.progress('Kernel distances', unit='subset') as progress:
        value = kid.kid(
            inputs.features('real'),
            inputs.features('fake'),
            num_subsets=_KID_SUBSETS,
            max_subset_size=_KID_SUBSET_SIZE,
            rng=inputs.rng(randomness.SUBSETS),
            progress=progress.show,
        )
    return {'': value}


def _manifolds(inputs: Inputs) -> dict[str, float]:
    with inputs.samples.progress('Nearest neighbours', unit='block') as progress:
        values = precision_recall.manifold_metrics(
            inputs.features('real'), inputs.features('fake'), nhood_size=inputs.metric.nearest, progress=progress.show
        )
    names = ('precision', 'recall', 'density', 'coverage')
    return {f'_{name}': values[name] for name in (names[:2] if inputs.metric.family == 'pr' else names)}


def _inception_score(inputs: Inputs) -> dict[str, float]:
    mean, std = inception_score.inception_score(inputs.data['fake'], num_splits=_NUM_SPLITS)
    return {'_mean': mean, '_std': std}


def _path_length(inputs: Inputs) -> dict[str, float]:
    return {'': perceptual_path_length.trimmed_mean(inputs.data['distances'])}


_COMPUTE: dict[str, Callable[[Inputs], dict[str, float]]] = {
    'fid': _frechet,
    'kid': _kernel,
    'pr': _manifolds,
    'prdc': _manifolds,
    'is': _inception_score,
    'ppl': _path_length,
}
_BOOTSTRAP = {'fid': fid.bootstrap, 'kid': kid.bootstrap}


def has_interval(metric: Metric) -> bool:
    return metric.family in _BOOTSTRAP


def interval(inputs: Inputs) -> dict[str, Any]:
    """Where 95 % of the values lie if the images had been others of the same kind; resampled with replacement."""
    num_resamples = inputs.samples.settings.bootstrap
    # For KID from where its subsets were drawn: the interval is about the value of these very subsets.
    purpose = randomness.SUBSETS if inputs.metric.family == 'kid' else randomness.RESAMPLING
    with inputs.samples.progress('Resamples', unit='resample') as progress:
        low, high = _BOOTSTRAP[inputs.metric.family](
            inputs.features('real'),
            inputs.features('fake'),
            num_resamples=num_resamples,
            rng=inputs.rng(purpose),
            confidence=_INTERVAL_COVERAGE,
            progress=progress.show,
        )
    return {'low': float(low), 'high': float(high), 'coverage': _INTERVAL_COVERAGE, 'num_resamples': num_resamples}
