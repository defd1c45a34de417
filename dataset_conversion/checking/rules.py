"""From measurements to findings: which images look like a problem, and why.

Some rules are certain (an image that is there twice). Others compare an image with the rest of the set: a gray picture
is a problem among color photographs only. They are careful rather than complete, because people look at what they find.
The thresholds were chosen by looking at what they find in CIFAR-10 and in Noto Emoji (docs/checking.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dataset_conversion.checking.similar_images import find_similar
from dataset_format.labels import Label, classes_without_images, describe_classes
from dnnlib.text import excerpt


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Args:
        title: Heading, in the plural.
        hint: What it means for training.
        is_excluded: Whether the list for `--exclude` names such images, rather than only suggesting them.
    """

    title: str
    hint: str
    is_excluded: bool


KINDS = {
    'unreadable': Kind('Images that cannot be used', 'the conversion stops at them, or leaves them out', True),
    'duplicate': Kind('Duplicates', 'the same pixels as an earlier image; it is learned twice as strongly', True),
    'similar': Kind('Near-duplicates', 'almost the same as an earlier image: a copy, or a variant of a drawing', False),
    'empty': Kind('Nearly empty images', 'almost all pixels have the same color', True),
    'transparent': Kind('Transparent images', 'next to nothing of them can be seen', True),
    'opaque': Kind('Opaque among transparent images', 'perhaps a background was not removed', False),
    'cutout': Kind('Transparent among opaque images', 'see --alpha', False),
    'size': Kind('Images of unusual size', 'much smaller or longer than the others', False),
    'gray': Kind('Gray among color images', 'a network learns to draw some images without color', False),
    'cast': Kind('Color casts', 'one color lies over the whole image', False),
    'blurred': Kind('Blurred images', 'far less detail than the others', False),
    'border': Kind('Images with borders', 'bars of one color at opposite sides', False),
}
"""All kinds of findings, in the order in which they are reported."""

_MIN_CONTENT = 0.01  # share of pixels
_MIN_VISIBLE = 0.01
_MIN_MAX_ALPHA = 32
_RARE = 0.1  # share of a set up to which a property is unusual
_USUAL = 0.9  # share of a set that has the same size
_SMALL = 0.25  # of the median side
_LONG = 3  # times the median proportions
_MIN_CAST = 0.3  # mean color relative to the brightness
_MAX_CAST_SPREAD = 0.25  # relative to the mean color: all parts have the same tint
_MIN_CAST_CONTRAST = 35  # without contrast, it may be a picture of the sky
_BLURRED = 0.25  # of the median sharpness
_BLURRED_DEVIATIONS = 4  # below the median, of its logarithm
_MIN_BORDER = 0.02  # of the side
_UNBALANCED = 10
_FEW = 10


@dataclass(frozen=True)
class Finding:
    """An image and what is wrong with it.

    Args:
        index: Of the image.
        reason: Completes 'NAME: ...'.
        other: Index of the image that it repeats, or None.
    """

    index: int
    reason: str
    other: int | None = None


@dataclass
class CheckResult:
    """What was found.

    Args:
        num_images: Number of images that were looked at.
        findings: Findings by kind, in the order of `KINDS`; only kinds with findings.
        notes: Sentences about the set as a whole.
        class_sizes: Number of images of each class, or None without classes.
    """

    num_images: int
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    class_sizes: list[int] | None = None


def apply_rules(
    rows: Sequence[np.ndarray | str],
    names: Sequence[str],
    labels: Sequence[Label] | None,
    class_names: list[str] | None,
) -> CheckResult:
    """Return all findings.

    Args:
        rows: For each image a row of `measuring.MEASUREMENTS`, or why it cannot be used.
        names: Names of the images.
        labels: Labels of the images, if they have any.
        class_names: Names of the classes, if they have any.
    """
    result = CheckResult(len(rows))
    found: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    found['unreadable'] = [Finding(index, row) for index, row in enumerate(rows) if isinstance(row, str)]
    measured = [row for row in rows if not isinstance(row, str)]
    if measured:
        indices = np.array([index for index, row in enumerate(rows) if not isinstance(row, str)])
        table = np.stack(measured)
        _find_repetitions(found, result.notes, table, indices, names, labels)
        for kind, mask, reasons in _single_image_rules(table):
            found[kind] = [Finding(int(indices[row]), reasons(row)) for row in np.flatnonzero(mask).tolist()]
        result.notes += _notes_on_sizes(table)
    result.findings = {kind: items for kind, items in found.items() if items}
    if labels is not None and all(isinstance(label, int) for label in labels):
        _count_classes(result, [label for label in labels if isinstance(label, int)], class_names)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Repetitions


def _find_repetitions(
    found: dict[str, list[Finding]],
    notes: list[str],
    table: np.ndarray,
    indices: np.ndarray,
    names: Sequence[str],
    labels: Sequence[Label] | None,
) -> None:
    """Add the findings of images that are there more than once."""

    def finding(row: int, first: int, relation: str) -> Finding:
        index, other = int(indices[row]), int(indices[first])
        differs = labels is not None and labels[index] != labels[other]
        note = ', but with another label' if differs else ''
        return Finding(index, f'{relation} {excerpt(names[other])}{note}', other)

    _digests, first_rows, group = np.unique(table['digest'], return_index=True, return_inverse=True)
    first = first_rows[group]
    is_copy = first != np.arange(len(table))
    found['duplicate'] = [finding(row, first[row], 'the same as') for row in np.flatnonzero(is_copy).tolist()]
    has_content = (table['content'] >= _MIN_CONTENT) & (table['visible'] >= _MIN_VISIBLE)
    similar = find_similar(table['hash'], table['thumbnail'], has_content & ~is_copy)
    is_similar = similar.leader != np.arange(len(table))
    found['similar'] = [
        finding(row, similar.leader[row], 'almost the same as') for row in np.flatnonzero(is_similar).tolist()
    ]
    if not similar.is_complete:
        notes.append('Too many images are alike: the search for near-duplicates was ended early.')
    conflicts = [item for kind in ('duplicate', 'similar') for item in found[kind] if item.reason.endswith('label')]
    if conflicts:
        notes.append(f'Repetitions of an image that has another label: {len(conflicts):,}.')


def _images(number: int) -> str:
    return f'{number:,} image' if number == 1 else f'{number:,} images'


# ---------------------------------------------------------------------------------------------------------------------
# Single images


def _single_image_rules(table: np.ndarray) -> Iterable[tuple[str, np.ndarray, Callable[[int], str]]]:
    """Yield kind, bool [N] of the images that have the problem, and a function of the row that says why."""
    is_hidden = (table['visible'] < _MIN_VISIBLE) | (table['max_alpha'] < _MIN_MAX_ALPHA)
    is_empty = (table['content'] < _MIN_CONTENT) & ~is_hidden
    plain = is_hidden | is_empty
    yield (
        'transparent',
        is_hidden,
        lambda row: (
            f'{table["visible"][row]:.1%} of its pixels are visible, and the largest alpha is {table["max_alpha"][row]}'
        ),
    )
    yield 'empty', is_empty, lambda row: f'only {table["content"][row]:.1%} of its pixels differ from its main color'

    is_opaque = table['is_opaque'] | plain
    yield 'opaque', _if_rare(table['is_opaque'] & ~plain), lambda row: 'it has no transparent pixels'
    yield 'cutout', _if_rare(~is_opaque), lambda row: 'it has transparent pixels'

    yield 'size', _unusual_sizes(table), lambda row: f'{table["width"][row]}x{table["height"][row]} pixels'
    yield 'gray', _if_rare(table['is_gray'] & ~plain), lambda row: 'it has no color'
    yield 'cast', _casts(table) & ~plain, lambda row: f'{_name_of_cast(table["cast"][row])} all over'
    yield (
        'blurred',
        _blurred(table) & ~plain,
        lambda row: f'{table["sharpness"][row] / np.median(table["sharpness"]):.0%} of the usual sharpness',
    )
    left, right, top, bottom = table['borders'].T
    has_border = (np.minimum(left, right) >= _MIN_BORDER) | (np.minimum(top, bottom) >= _MIN_BORDER)
    yield 'border', has_border & ~plain, lambda row: _describe_borders(table['borders'][row])


def _if_rare(mask: np.ndarray) -> np.ndarray:
    return mask if mask.mean() <= _RARE else np.zeros_like(mask)


def _unusual_sizes(table: np.ndarray) -> np.ndarray:
    """Return which images have another size than nearly all, or else are much smaller or longer than most."""
    width, height = table['width'].astype(np.int64), table['height'].astype(np.int64)
    sizes, group, counts = np.unique(width << 32 | height, return_inverse=True, return_counts=True)
    usual = counts.argmax()
    if counts[usual] >= _USUAL * len(table):
        return group != usual
    shorter, proportions = np.minimum(width, height), np.log(width / height)
    is_long = np.abs(proportions - np.median(proportions)) > np.log(_LONG)
    return is_long | (shorter < _SMALL * np.median(shorter))


def _notes_on_sizes(table: np.ndarray) -> list[str]:
    sizes = {(int(width), int(height)) for width, height in zip(table['width'], table['height'])}
    if len(sizes) == 1:
        return []
    sides = np.minimum(table['width'], table['height'])
    return [
        f'Images have {len(sizes):,} different sizes; their shorter sides go from {sides.min()} to {sides.max()} '
        f'pixels, with a median of {np.median(sides):.0f}.'
    ]


def _casts(table: np.ndarray) -> np.ndarray:
    size = np.hypot(*table['cast'].T)
    is_even = table['cast_spread'] < _MAX_CAST_SPREAD * size
    return (size > _MIN_CAST) & is_even & (table['contrast'] > _MIN_CAST_CONTRAST) & table['is_opaque']


def _name_of_cast(cast: np.ndarray) -> str:
    """Name the color of a mean in the opponents red - green and yellow - blue."""
    names = ('red', 'orange', 'yellow', 'green', 'green', 'cyan', 'blue', 'magenta')
    angle = np.arctan2(cast[1], cast[0]) / (2 * np.pi) * len(names)
    return names[round(float(angle)) % len(names)]


def _blurred(table: np.ndarray) -> np.ndarray:
    """Return which images are far less sharp than the others, compared with how much these differ."""
    logarithm = np.log(table['sharpness'] + 1e-4)
    median = np.median(logarithm)
    deviation = 1.4826 * np.median(np.abs(logarithm - median))  # as of a normal distribution
    return (logarithm < median + np.log(_BLURRED)) & (logarithm < median - _BLURRED_DEVIATIONS * deviation)


def _describe_borders(borders: np.ndarray) -> str:
    sides = [f'{share:.0%} {side}' for share, side in zip(borders, ('left', 'right', 'top', 'bottom')) if share]
    return f'bars at {", ".join(sides)}'


# ---------------------------------------------------------------------------------------------------------------------
# Classes


def _count_classes(result: CheckResult, labels: list[int], class_names: list[str] | None) -> None:
    """Set the sizes of the classes, and add notes on empty and small ones and on the balance."""
    num_classes = max([max(labels, default=-1) + 1, len(class_names or ())])
    sizes = np.bincount(labels, minlength=num_classes)
    result.class_sizes = sizes.tolist()
    empty = classes_without_images(labels, num_classes)
    if empty:
        result.notes.append(f'Classes without images: {describe_classes(empty, class_names)}.')
    small = [index for index, size in enumerate(result.class_sizes) if 0 < size < _FEW]
    if small:
        result.notes.append(f'Classes with fewer than {_FEW} images: {describe_classes(small, class_names)}.')
    largest, smallest = sizes.max(initial=0), sizes[sizes > 0].min(initial=np.iinfo(np.int64).max)
    if largest >= _UNBALANCED * smallest:
        result.notes.append(
            f'The largest class has {_images(int(largest))}, the smallest {_images(int(smallest))}: what the network '
            'learns of the small ones is little.'
        )
