"""What to try next, by rules that are stated with the numbers that they look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reporting.run_record import Curve, RunRecord
from training.config import TrainingConfig

_FEW_TICKS = 5
_FEW_IMAGES = 5000
_LEAKING_P = 0.8  # augmentations may leak above (arXiv 2006.06676)
_MEMORIZED_R_V = 0.6
_SIGNS_WITHOUT_ADA = 0.75
_WINNING_D_LOSS, _IDLE_D_LOSS = 0.25, 1.35  # of 2 ln 2 = 1.386, the loss of a discriminator that cannot tell
_WORSE, _BETTER = 1.1, 0.95  # of a metric, by which it counts as worse or better
_LATE = 3  # snapshots after the best one
_ERROR_PREFIXES = ('fid', 'kid', 'fd', 'kd', 'cmmd', 'mind')  # distances between real and generated images
_SMALLER_IS_BETTER = (*_ERROR_PREFIXES, 'ppl', 'memorization')
_MANY_SKIPPED, _MANY_NONFINITE = 0.001, 0.01
_SLOW_MAINTENANCE = 0.5


@dataclass(frozen=True)
class Advice:
    """One suggestion.

    Args:
        action: What to try.
        reason: The numbers that lead to it, and what they mean.
    """

    action: str
    reason: str


Rule = Callable[[RunRecord, TrainingConfig], Iterator[Advice]]


def advise(record: RunRecord) -> list[Advice]:
    """Return what to try next, the most important first; [] without a configuration."""
    config = record.config
    if config is None:
        return []
    progress = record.curve('Progress/kimg')
    if progress is None or len(progress.values) < _FEW_TICKS:
        number = 0 if progress is None else len(progress.values)
        return [Advice('Wait.', f'The run has {number} ticks; from {_FEW_TICKS} on, its curves say something.')]
    rules: tuple[Rule, ...] = (_data, _numbers, _stopping, _overfitting, _augmentation, _gamma, _few_images, _time)
    return [advice for rule in rules for advice in rule(record, config)]


def _data(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    skipped = record.curve('Data/skipped_images')
    if skipped is not None and skipped.last_mean() > _MANY_SKIPPED:
        yield Advice(
            'Check the dataset: python dataset_tool.py --check=DATA.',
            f'{skipped.last_mean():.1%} of the images could not be read and were replaced by others.',
        )
    counts = {kind['kind']: kind['count'] for kind in (record.findings or {}).get('kinds', [])}
    removable = sum(counts.get(kind, 0) for kind in ('unreadable', 'duplicate', 'empty', 'transparent'))
    if removable:
        yield Advice(
            'Convert the images again without what the check has found: dataset_tool.py --exclude=LIST.',
            f'{removable:,} images are duplicates, empty, transparent or unreadable.',
        )


def _numbers(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    for phase in ('Gmain', 'Dmain'):
        curve = record.curve(f'Gradients/nonfinite/{phase}')
        if curve is not None and curve.last_mean() > _MANY_NONFINITE:
            yield Advice(
                'Use --fp32=1, or smaller --glr and --dlr.',
                f'{curve.last_mean():.1%} of the gradients of {phase} were infinite or NaN lately.',
            )


def _stopping(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    for name, curve in record.metrics.items():
        if not name.startswith(_ERROR_PREFIXES) or len(curve.values) <= _LATE:
            continue
        best = min(range(len(curve.values)), key=curve.values.__getitem__)
        value, last, kimg = curve.values[best], curve.last, curve.kimg[best]
        high = curve.high[best]
        if best < len(curve.values) - _LATE and last > max(_WORSE * value, high if high is not None else value):
            yield Advice(
                f'Stop, and use the network after {kimg:,.0f} kimg.',
                f'{name} was best there, {value:.4g}, and is {last:.4g} now.',
            )
        elif best == len(curve.values) - 1 and value < _BETTER * min(curve.values[: -max(len(curve.values) // 4, 1)]):
            yield Advice(
                'Train longer: resume with a larger --kimg.',
                f'{name} still falls: it is {last:.4g} at the end, more than 5% less than before the last quarter.',
            )


def _overfitting(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    r_v, signs = record.curve('Validation/r_v'), record.curve('Loss/signs/real')
    if r_v is not None and r_v.last_mean() > _MEMORIZED_R_V:
        yield Advice(
            'Use stronger means against overfitting (--aug=ada with a lower --target, --lecam, --apa), or more images.',
            f'r_v is {r_v.last_mean():.2f} lately: to the discriminator, held-out images look more like generated ones '
            'than like training images. It has memorized them.',
        )
    if config.ada_target is None and signs is not None and signs.last_mean() > _SIGNS_WITHOUT_ADA:
        yield Advice(
            'Use --aug=ada.',
            f'The discriminator recognizes {(1 + signs.last_mean()) / 2:.0%} of the real images (sign statistic '
            f'{signs.last_mean():.2f}), and nothing holds that back.',
        )


def _augmentation(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    p = record.curve('Progress/augment')
    if config.ada_target is None or p is None:
        return
    if p.last_mean() > _LEAKING_P:
        mirror = '' if config.training_set_kwargs.get('xflip') else '--mirror=1 if mirror images look right, '
        yield Advice(
            f'Try {mirror}a larger --gamma, or more images.',
            f'The augmentation strength is {p.last_mean():.2f}; above {_LEAKING_P:g}, augmentations can leak into the '
            'generated images (arXiv 2006.06676). Look for rotated or discolored ones.',
        )
    elif max(p.values) < 0.02 and len(p.values) > 2 * _FEW_TICKS:
        yield Advice(
            'Try a smaller --gamma.',
            f'The augmentation strength never exceeded {max(p.values):.3f}: the discriminator does not overfit, and '
            'may be held back too much.',
        )


def _gamma(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    loss, gamma = record.curve('Loss/D/loss'), config.loss_kwargs.get('r1_gamma')
    if loss is None or not isinstance(gamma, (int, float)) or 'r2_gamma' in config.loss_kwargs:
        return
    if loss.last_mean() < _WINNING_D_LOSS:
        yield Advice(
            f'Try --gamma={3 * gamma:.3g} (now {gamma:.3g}).',
            f'The loss of the discriminator is {loss.last_mean():.2f}: it tells nearly all images apart, and the '
            'generator learns little from it.',
        )
    elif loss.last_mean() > _IDLE_D_LOSS:
        yield Advice(
            f'Try --gamma={gamma / 3:.3g} (now {gamma:.3g}).',
            f'The loss of the discriminator is {loss.last_mean():.2f}, that of guessing (2 ln 2 = 1.39).',
        )


def _few_images(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    number = config.training_set_kwargs.get('max_size')
    if number is None or number >= _FEW_IMAGES:
        return
    if not config.training_set_kwargs.get('xflip'):
        yield Advice(
            'Try --mirror=1, if mirror images look right (faces and landscapes; not text).',
            f'It doubles the {number:,} images.',
        )
    if config.resume_pkl is None and number < 1000 and _side(config) >= 128:
        yield Advice(
            'Start from a trained network: --resume=ffhq256 or another one, even of other motifs.',
            f'{number:,} images of this size are few to learn from scratch.',
        )


def _side(config: TrainingConfig) -> int:
    resolution = config.training_set_kwargs.get('resolution') or 0
    return min(resolution) if isinstance(resolution, list) else resolution


def _time(record: RunRecord, config: TrainingConfig) -> Iterator[Advice]:
    share = maintenance_share(record)
    if share is not None and share > _SLOW_MAINTENANCE:
        yield Advice(
            'Use a larger --snap, or fewer metrics.',
            f'{share:.0%} of the time goes into snapshots and metrics.',
        )


def maintenance_share(record: RunRecord) -> float | None:
    """Return the share of the time that is spent between the ticks, or None if it is not known."""
    maintenance, ticks = record.curve('Timing/maintenance_sec'), record.curve('Timing/sec_per_tick')
    if maintenance is None or ticks is None or sum(ticks.values) <= 0:
        return None
    return sum(maintenance.values) / (sum(maintenance.values) + sum(ticks.values))


def has_best_value(name: str) -> bool:
    """Return whether a metric has a best value: the ratios of distances of `memorization` have none."""
    return not name.startswith('memorization') or name.endswith('_share')


def best_value(name: str, curve: Curve) -> tuple[float, float]:
    """Return the best value of a metric, and the kimg where it was reached."""
    better = min if name.startswith(_SMALLER_IS_BETTER) else max
    index = better(range(len(curve.values)), key=curve.values.__getitem__)
    return curve.values[index], curve.kimg[index]
