"""The terms in which the metric table is written: patterns of names, and what a metric needs.

Like the table, this module does not import PyTorch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from metrics.features.feature_requests import (
    ALL,
    HELD_OUT,
    TRAINING,
    VGG_LPIPS,
    DetectorCall,
    EquivarianceRequest,
    FeatureRequest,
    PathRequest,
    Request,
    num_copies,
)
from metrics.options import MetricOptions

MAX_IMAGES = 10_000_000
INTERVAL_COVERAGE = 0.95

# ---------------------------------------------------------------------------------------------------------------------
# Names

_PLACEHOLDERS = {
    '<count>': r'(?P<count>[1-9]\d*k?)',
    '<count-k>': r'(?P<count>[1-9]\d*k)',  # the k separates the count from the number that follows
    '<nearest>': r'(?P<nearest>[1-9]\d?)',
    '[_full]': r'(?P<images>_full|_train|_held_out)?',
}

_IMAGES_OF_ENDING = {'_train': TRAINING, '_held_out': HELD_OUT}


@dataclass(frozen=True)
class MetricName:
    """The name of a metric, such as `pr50k3_full`, and its parts."""

    text: str
    count: int = 0  # generated images, or 0 if the name has no number
    full: bool = False  # whether the metric uses all of its real images, without mirroring
    nearest: int = 0  # the neighbor whose distance is the radius, or 0 if the name has no such number
    images: str = ALL  # which real images: ALL, TRAINING or HELD_OUT

    @property
    def prefix(self) -> str:
        """The letters at the beginning: `pr`."""
        return re.split(r'[^a-z]', self.text)[0]

    def with_label(self, label: str | None, prefix: str) -> str:
        """Return the name for results: `fd-LABEL50k_full` if the detectors are stand-ins with a label.

        Args:
            label: Label of the detectors, or None for the published ones.
            prefix: Prefix to use with a label instead of the published one.
        """
        if label is None:
            return self.text
        return f'{prefix}-{label}{self.text.removeprefix(self.prefix)}'


def match_name(pattern: str, text: str) -> MetricName | None:
    """Return the parts of a name, or None if it does not match.

    Args:
        pattern: Text with placeholders: '<count>', '<count-k>' (in thousands), '<nearest>', '[_full]' (which also
            stands for '_train' and '_held_out').
        text: The name.

    Raises:
        ValueError: The number of images is too large.
    """
    regex = pattern
    for placeholder, part in _PLACEHOLDERS.items():
        regex = regex.replace(placeholder, part)
    match = re.fullmatch(regex, text, flags=re.ASCII)
    if match is None:
        return None
    parts = match.groupdict()
    count = _parse_count(parts.get('count') or '0')
    if count > MAX_IMAGES:
        raise ValueError(f'{text!r} needs more than {MAX_IMAGES:,} images. Use a smaller number.')
    ending = parts.get('images') or ''
    return MetricName(text, count, bool(ending), int(parts.get('nearest') or 0), _IMAGES_OF_ENDING.get(ending, ALL))


def _parse_count(text: str) -> int:
    """Return 50000 for '50k'; absurdly long numbers are cut, but stay above `MAX_IMAGES`."""
    return int(text.removesuffix('k')[:12]) * (1000 if text.endswith('k') else 1)


# ---------------------------------------------------------------------------------------------------------------------
# Results


class Pair(NamedTuple):
    """A generated image and a training image that is near to it."""

    generated: int  # index
    training: int  # index
    ratio: float  # how near it is: `metrics.memorization`


@dataclass(frozen=True)
class Measured:
    """What a metric has found."""

    values: dict[str, float]  # by the ending of their names, '' for a single value
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)  # likewise, of `INTERVAL_COVERAGE`
    details: dict[str, Any] = field(default_factory=dict)  # other entries of the result, as for JSON
    pairs: list[Pair] = field(default_factory=list)  # images to look at, the most suspicious ones first


# ---------------------------------------------------------------------------------------------------------------------
# Needs


class Needs(Protocol):
    """What a metric needs to know about images."""

    @property
    def call(self) -> DetectorCall | None:
        """The detector, and how it is called; None if the metric needs none."""

    def requests(self, name: MetricName, options: MetricOptions) -> dict[str, Request]:
        """Return the requests by their part in the computation, such as 'real' and 'fake'."""

    def min_images(self, name: MetricName) -> int:
        """Return how many images each request must find at least."""


@dataclass(frozen=True)
class RealAndGenerated:
    """Features of real images ('real') and of generated ones ('fake').

    Args:
        call: Detector call.
        max_real: Limit for the number of real images of `_full`, `_train` and `_held_out` metrics; None uses all of
            them. Other metrics use as many real images as generated ones.
        at_least: Images of each kind that the metric requires, in addition to the `nearest` neighbors.
        as_moments: Whether mean and covariance suffice, except for intervals.
    """

    call: DetectorCall
    max_real: int | None = None
    at_least: int = 1
    as_moments: bool = False

    def requests(self, name: MetricName, options: MetricOptions) -> dict[str, Request]:
        as_moments = self.as_moments and not options.bootstrap
        real_count = self.max_real if name.full else name.count
        xflip = num_copies(options.dataset_kwargs) > 1 and not name.full
        return {
            'real': FeatureRequest(self.call, real_count, True, as_moments, xflip, name.images),
            'fake': FeatureRequest(self.call, name.count, real=False, as_moments=as_moments),
        }

    def min_images(self, name: MetricName) -> int:
        return self.at_least + name.nearest


@dataclass(frozen=True)
class TrainingAndHeldOut:
    """Features of the training images ('real'), of generated ones ('fake') and of held-out ones ('held_out').

    If no images are held out, there is no such part. Mirror images count if the network was trained on them.

    Args:
        call: Detector call.
    """

    call: DetectorCall

    def requests(self, name: MetricName, options: MetricOptions) -> dict[str, Request]:
        xflip = num_copies(options.dataset_kwargs) > 1
        held_out = {} if options.held_out_kwargs is None else {'held_out': self._real(HELD_OUT, xflip=False)}
        return {
            'real': self._real(TRAINING, xflip),
            'fake': FeatureRequest(self.call, name.count, real=False),
            **held_out,
        }

    def _real(self, images: str, xflip: bool) -> Request:
        return FeatureRequest(self.call, None, real=True, xflip=xflip, images=images)

    def min_images(self, name: MetricName) -> int:
        return 1


@dataclass(frozen=True)
class GeneratedOnly:
    """Features of generated images ('fake').

    Args:
        call: Detector call.
        at_least: Images that the metric requires.
    """

    call: DetectorCall
    at_least: int = 1

    def requests(self, name: MetricName, options: MetricOptions) -> dict[str, Request]:
        return {'fake': FeatureRequest(self.call, name.count, real=False)}

    def min_images(self, name: MetricName) -> int:
        return self.at_least


@dataclass(frozen=True)
class PathPairs:
    """LPIPS distances of pairs of images that are a small step apart ('pairs').

    Args:
        space: Latent space of the step, 'z' or 'w'.
        sampling: 'full' for a random point between two latents, 'end' for the first latent.
        crop: Whether only the center counts, where faces are in FFHQ.
    """

    call: ClassVar[DetectorCall] = VGG_LPIPS
    space: str
    sampling: str
    crop: bool = True

    def requests(self, name: MetricName, options: MetricOptions) -> dict[str, Request]:
        return {'pairs': PathRequest(self.space, self.sampling, self.crop, options.num_samples)}

    def min_images(self, name: MetricName) -> int:
        return 1


@dataclass(frozen=True)
class TransformedImages:
    """Errors of generated images under a transformation of the generator's input ('fake'). Needs no detector.

    Args:
        transformation: 'integer translation', 'fractional translation' or 'rotation'.
    """

    call: ClassVar[None] = None
    transformation: str

    def requests(self, name: MetricName, options: MetricOptions) -> dict[str, Request]:
        return {'fake': EquivarianceRequest(self.transformation, name.count)}

    def min_images(self, name: MetricName) -> int:
        return 1
