"""The table of metrics: the names of each, what it needs, and how it is computed.

An entry is a function with `@_entry(...)` above it:

    pattern     its names: 'fid<count>[_full]' stands for fid50k_full, fid5k, fid500_full and so on; where _full can
                stand, _train and _held_out can stand, too, for metrics of these images
    needs       features of images ('real', 'fake'), pairs of images along a path ('pairs'), or errors of transformed
                images ('fake'): `metrics.metric_spec`
    function    values by the ending of their names ('' for a single value), computed from `metrics.metric_inputs`; or
                `Measured`, which has intervals and images, too

To add a metric, write its mathematics in `metrics/<name>.py` as functions of feature arrays, and add one entry here.
Everything else follows from the entry: options and their errors, the pass over the images that all metrics share, the
cache, results, and metrics during training.

The mathematics is imported when a metric is computed, so that command lines can check names without loading PyTorch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metrics.features.feature_requests import (
    ALL,
    CLEAN_INCEPTION_FEATURES,
    CLIP_FEATURES,
    DINOV2_FEATURES,
    HELD_OUT,
    INCEPTION_FEATURES,
    INCEPTION_PROBABILITIES,
    VGG_FEATURES,
    num_copies,
)
from metrics.metric_spec import (
    INTERVAL_COVERAGE,
    GeneratedOnly,
    Measured,
    MetricName,
    Needs,
    Pair,
    PathPairs,
    RealAndGenerated,
    TrainingAndHeldOut,
    TransformedImages,
    match_name,
)

if TYPE_CHECKING:
    from metrics.metric_inputs import MetricInputs

    Compute = Callable[[MetricInputs], Measured | dict[str, float]]
    Interval = Callable[[MetricInputs], dict[str, Any]]

NUM_SPLITS = 10
KID_SUBSETS = {'num_subsets': 100, 'max_subset_size': 1000}
MAX_PAIRS = 32  # of images that results name and galleries show


@dataclass(frozen=True)
class TableEntry:
    """A metric for any number of images."""

    pattern: str
    needs: Needs
    compute: Compute
    examples: tuple[str, ...]  # names for help texts and error messages
    stand_in_prefix: str | None  # replaces the prefix of the name if the detectors are not the published ones
    interval: Interval | None  # bootstrap interval of the value
    is_distance: bool  # whether the value is a distance between the real and the generated images


ENTRIES: list[TableEntry] = []


def _entry(
    pattern: str,
    needs: Needs,
    *,
    examples: tuple[str, ...] = (),
    stand_in_prefix: str | None = None,
    interval: Interval | None = None,
    is_distance: bool = False,
) -> Callable[[Compute], Compute]:
    def add(compute: Compute) -> Compute:
        names = examples or (pattern,)
        ENTRIES.append(TableEntry(pattern, needs, compute, names, stand_in_prefix, interval, is_distance))
        return compute

    return add


def _with_interval(values: dict[str, float], ending: str, interval: tuple[float, float] | None) -> Measured:
    return Measured(values, {} if interval is None else {ending: interval})


# ---------------------------------------------------------------------------------------------------------------------
# Fréchet inception distance, arXiv 1706.08500


def _fid_interval(inputs: MetricInputs) -> dict[str, Any]:
    from metrics.frechet_inception_distance import bootstrap

    return inputs.bootstrap(bootstrap, inputs.resampling_rng())


# With the features of DINOv2 as in arXiv 2306.04675, and with the resizing of arXiv 2104.11222.
@_entry(
    'cleanfid<count>[_full]',
    RealAndGenerated(CLEAN_INCEPTION_FEATURES, at_least=2, as_moments=True),
    examples=('cleanfid50k_full',),
    stand_in_prefix='cleanfd',
    interval=_fid_interval,
    is_distance=True,
)
@_entry(
    'fd_dinov2_<count>[_full]',
    RealAndGenerated(DINOV2_FEATURES, at_least=2, as_moments=True),
    examples=('fd_dinov2_50k_full',),
    interval=_fid_interval,
    is_distance=True,
)
@_entry(
    'fid<count>[_full]',
    RealAndGenerated(INCEPTION_FEATURES, at_least=2, as_moments=True),
    examples=('fid50k_full', 'fid50k'),
    stand_in_prefix='fd',
    interval=_fid_interval,
    is_distance=True,
)
def _fid(inputs: MetricInputs) -> dict[str, float]:
    from metrics.frechet_inception_distance import frechet_distance

    return {'': frechet_distance(*inputs.moments('fake'), *inputs.moments('real'))}


# ---------------------------------------------------------------------------------------------------------------------
# Kernel inception distance, arXiv 1801.01401


def _kid_interval(inputs: MetricInputs) -> dict[str, Any]:
    from metrics.kernel_inception_distance import bootstrap

    return inputs.bootstrap(bootstrap, inputs.subset_rng())  # so that it draws the subsets of `_kid` again


@_entry(
    'cleankid<count>[_full]',
    RealAndGenerated(CLEAN_INCEPTION_FEATURES, max_real=1_000_000, at_least=2),
    examples=('cleankid50k_full',),
    stand_in_prefix='cleankd',
    interval=_kid_interval,
    is_distance=True,
)
@_entry(
    'kid<count>[_full]',
    RealAndGenerated(INCEPTION_FEATURES, max_real=1_000_000, at_least=2),
    examples=('kid50k_full', 'kid50k'),
    stand_in_prefix='kd',
    interval=_kid_interval,
    is_distance=True,
)
def _kid(inputs: MetricInputs) -> dict[str, float]:
    from metrics.kernel_inception_distance import kid

    real, fake = inputs.features('real'), inputs.features('fake')
    with inputs.progress('Kernel distances', unit='subset') as progress:
        return {'': kid(real, fake, rng=inputs.subset_rng(), progress=progress.show, **KID_SUBSETS)}


# ---------------------------------------------------------------------------------------------------------------------
# FID for infinitely many generated images, arXiv 1911.07023; CMMD, arXiv 2401.09603


@_entry(
    'fidinf<count>[_full]',
    RealAndGenerated(INCEPTION_FEATURES, max_real=1_000_000),
    examples=('fidinf50k_full',),
    stand_in_prefix='fdinf',
    is_distance=True,
)
def _fid_infinity(inputs: MetricInputs) -> Measured:
    from metrics.fid_infinity import fid_infinity, interval

    real, fake = inputs.features('real'), inputs.features('fake')
    with inputs.progress('Fréchet distances', unit='subset') as progress:
        found = fid_infinity(real, fake, inputs.subset_rng(), progress.show)
    intervals = {}
    if inputs.options.bootstrap:
        rng = inputs.resampling_rng()
        intervals[''] = interval(found, real, fake, inputs.options.bootstrap, rng, INTERVAL_COVERAGE)
    return Measured({'': found.value}, intervals)


@_entry(
    'cmmd<count>[_full]',
    RealAndGenerated(CLIP_FEATURES, max_real=200_000, at_least=2),
    examples=('cmmd50k_full',),
    is_distance=True,
)
def _cmmd(inputs: MetricInputs) -> Measured:
    from metrics.cmmd import cmmd

    with inputs.progress('Kernel values', unit='block') as progress:
        found = cmmd(inputs.features('real'), inputs.features('fake'), progress.show)
    intervals = {}
    if inputs.options.bootstrap:
        rng = inputs.resampling_rng()
        intervals[''] = found.interval(inputs.options.bootstrap, rng, INTERVAL_COVERAGE)
    return Measured({'': found.value}, intervals)


# ---------------------------------------------------------------------------------------------------------------------
# Precision and recall, arXiv 1904.06991; density and coverage, arXiv 2002.09797


def _manifold_metrics(inputs: MetricInputs, names: tuple[str, ...]) -> Measured:
    from metrics.intervals import mean_interval, share_interval
    from metrics.precision_recall import manifold_values

    real, fake = inputs.features('real'), inputs.features('fake')
    with inputs.progress('Nearest neighbors', unit='block') as progress:
        found = manifold_values(real, fake, nhood_size=inputs.name.nearest, progress=progress.show)
    found['density'] = found['density'] / inputs.name.nearest
    # Intervals are over other images, measured by the same manifolds.
    intervals = {
        name: share_interval(int(values.sum()), len(values)) if values.dtype == bool else mean_interval(values)
        for name, values in found.items()
    }
    return Measured(
        {f'_{name}': float(found[name].mean()) for name in names},
        {f'_{name}': interval for name in names if (interval := intervals[name]) is not None},
    )


@_entry(
    'prdc<count-k><nearest>[_full]',
    RealAndGenerated(VGG_FEATURES, max_real=200_000),
    examples=('prdc50k3_full',),
)
def _precision_recall_density_coverage(inputs: MetricInputs) -> Measured:
    return _manifold_metrics(inputs, ('precision', 'recall', 'density', 'coverage'))


@_entry(
    'pr<count-k><nearest>[_full]',
    RealAndGenerated(VGG_FEATURES, max_real=200_000),
    examples=('pr50k3_full', 'pr50k3'),
)
def _precision_recall(inputs: MetricInputs) -> Measured:
    return _manifold_metrics(inputs, ('precision', 'recall'))


# ---------------------------------------------------------------------------------------------------------------------
# Copies of training images, after arXiv 2004.05675


@_entry('memorization<count>', TrainingAndHeldOut(INCEPTION_FEATURES), examples=('memorization5k',))
@_entry('memorization<count>_vgg', TrainingAndHeldOut(VGG_FEATURES), examples=('memorization5k_vgg',))
@_entry('memorization<count>_dinov2', TrainingAndHeldOut(DINOV2_FEATURES), examples=('memorization5k_dinov2',))
@_entry('memorization<count>_clip', TrainingAndHeldOut(CLIP_FEATURES), examples=('memorization5k_clip',))
def _memorization(inputs: MetricInputs) -> Measured:
    import numpy as np

    from metrics.intervals import median_interval
    from metrics.memorization import memorization

    held_out = inputs.features('held_out') if 'held_out' in inputs.data else None
    training = inputs.features('real')
    with inputs.progress('Nearest neighbors', unit='block') as progress:
        found = memorization(
            training,
            inputs.features('fake'),
            held_out,
            num_mirrored=len(training) - len(training) // num_copies(inputs.options.dataset_kwargs),
            confidence=INTERVAL_COVERAGE,
            progress=progress.show,
        )
    worst = np.argsort(found.ratios, kind='stable')[:MAX_PAIRS].tolist()
    return Measured(
        values={
            '_share': found.share,
            '_ratio': float(np.median(found.ratios)),
            '_ratio_of_new': float(np.median(found.new_ratios)),
        },
        intervals={
            '_share': (found.low, found.high),
            **{
                ending: interval
                for ending, ratios in (('_ratio', found.ratios), ('_ratio_of_new', found.new_ratios))
                if (interval := median_interval(ratios)) is not None
            },
        },
        details={
            'compared_with': 'held-out images' if held_out is not None else 'training images, each left out in turn',
            'threshold': found.threshold,
        },
        pairs=[Pair(index, int(found.nearest[index]), float(found.ratios[index])) for index in worst],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Inception score, arXiv 1606.03498


@_entry('is<count>', GeneratedOnly(INCEPTION_PROBABILITIES, at_least=NUM_SPLITS), examples=('is50k',))
def _inception_score(inputs: MetricInputs) -> Measured:
    from statistics import fmean, pstdev

    from metrics.inception_score import split_scores
    from metrics.intervals import mean_interval

    scores = split_scores(inputs.array('fake'), num_splits=NUM_SPLITS)
    return _with_interval({'_mean': fmean(scores), '_std': pstdev(scores)}, '_mean', mean_interval(scores))


# ---------------------------------------------------------------------------------------------------------------------
# Perceptual path length, arXiv 1812.04948 and 1912.04958


@_entry('ppl_zfull', PathPairs('z', 'full'))
@_entry('ppl_wfull', PathPairs('w', 'full'))
@_entry('ppl_zend', PathPairs('z', 'end'))
@_entry('ppl_wend', PathPairs('w', 'end'))
@_entry('ppl2_wend', PathPairs('w', 'end', crop=False))
def _perceptual_path_length(inputs: MetricInputs) -> Measured:
    from metrics.intervals import interval_around
    from metrics.perceptual_path_length import trimmed_mean, trimmed_mean_influences

    distances = inputs.array('pairs')
    value = trimmed_mean(distances)
    return _with_interval({'': value}, '', interval_around(value, trimmed_mean_influences(distances)))


# ---------------------------------------------------------------------------------------------------------------------
# Equivariance to translation and rotation, arXiv 2106.12423, in dB


@_entry('eqt<count>_int', TransformedImages('integer translation'), examples=('eqt50k_int',))
@_entry('eqt<count>_frac', TransformedImages('fractional translation'), examples=('eqt50k_frac',))
@_entry('eqr<count>', TransformedImages('rotation'), examples=('eqr50k',))
def _equivariance(inputs: MetricInputs) -> Measured:
    from metrics.equivariance import psnr, psnr_influences
    from metrics.intervals import interval_around

    errors, weights = inputs.array('fake').T
    value = psnr(errors, weights)
    return _with_interval({'': value}, '', interval_around(value, psnr_influences(errors, weights)))


# ---------------------------------------------------------------------------------------------------------------------
# Looking up names

EXAMPLES = tuple(name for entry in ENTRIES for name in entry.examples)


def find_metric(text: str) -> tuple[TableEntry, MetricName]:
    """Return the entry of a metric, and the parts of its name.

    Raises:
        ValueError: No metric has this name, or it needs too many images.
    """
    for entry in ENTRIES:
        name = match_name(entry.pattern, text)
        if name is not None:
            return entry, name
    similar = difflib.get_close_matches(text, EXAMPLES, n=1)
    hint = f'Did you mean {similar[0]}?' if similar else f'Choose from {", ".join(EXAMPLES)}.'
    raise ValueError(f'Unknown metric {text!r}. {hint}')


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in a list such as 'fid50k_full,pr50k3_full', without duplicates; () for '' or 'none'.

    Raises:
        ValueError: As for `find_metric`.
    """
    names = [name.strip().lower() for name in text.split(',')]
    if names in ([''], ['none']):
        return ()
    for name in names:
        find_metric(name)
    return tuple(dict.fromkeys(names))


def needing_detector(names: Iterable[str]) -> list[str]:
    """Return the metrics that look at images with a detector."""
    return [name for name in names if find_metric(name)[0].needs.call is not None]


def using_held_out(names: Iterable[str]) -> list[str]:
    """Return the metrics that compare with images held out of the training, or do so if there are any."""
    found = {name: find_metric(name) for name in names}
    return [
        name
        for name, (entry, parts) in found.items()
        if parts.images == HELD_OUT or isinstance(entry.needs, TrainingAndHeldOut)
    ]


def requiring_held_out(names: Iterable[str]) -> list[str]:
    """Return the metrics that cannot be computed without images held out of the training."""
    return [name for name in names if find_metric(name)[1].images == HELD_OUT]


def with_held_out(names: Iterable[str]) -> tuple[str, ...]:
    """Add the metrics that a training with held-out images computes beside others.

    Each distance between all real and generated images is followed by the same one to the training images, and to the
    held-out ones: `fid50k_full`, `fid50k_train`, `fid50k_held_out`.
    """
    added: list[str] = []
    for name in names:
        entry, parts = find_metric(name)
        added.append(name)
        if entry.is_distance and parts.full and parts.images == ALL:
            added += [f'{name.removesuffix("_full")}{ending}' for ending in ('_train', '_held_out')]
    return tuple(dict.fromkeys(added))


def needing_transform(names: Iterable[str]) -> list[str]:
    """Return the metrics that only generators have whose input can be transformed."""
    return [name for name in names if isinstance(find_metric(name)[0].needs, TransformedImages)]
