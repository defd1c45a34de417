"""What the name of a metric says: the metric, the number of generated images and that of real ones.

    fid50k_full     Fréchet distance of 50,000 generated images to all real ones
    kid50k_full     kernel distance, of at most 1,000,000 real ones
    pr50k3_full     precision and recall for the 3 nearest neighbours, of at most 200,000 real ones
    prdc50k3_full   the same with density and coverage
    is50k           Inception score
    fid50k …        as many real as generated images, mirrored ones among them where the training has them
    ppl2_wend …     perceptual path length

Other counts go by other names: fid5k_full, kid10k, pr20k3_full, is500.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

import click

PATH_LENGTHS = ('ppl2_wend', 'ppl_zfull', 'ppl_wfull', 'ppl_zend', 'ppl_wend')
PUBLISHED = ('fid50k_full', 'kid50k_full', 'pr50k3_full', 'ppl2_wend', 'is50k', 'fid50k', 'kid50k', 'pr50k3')
PUBLISHED = (*PUBLISHED, *PATH_LENGTHS[1:])
MAX_IMAGES = 10_000_000

_COUNT = r'(?P<count>[1-9]\d*k?)'
_COUNT_AND_NEAREST = (
    r'(?P<count>[1-9]\d*k)(?P<nearest>[1-9]\d?)'  # without the k, who could tell the two numbers apart?
)
_FULL = r'(?P<full>_full)?'
_FAMILIES = {
    'fid': f'fid{_COUNT}{_FULL}',
    'kid': f'kid{_COUNT}{_FULL}',
    'pr': f'pr{_COUNT_AND_NEAREST}{_FULL}',
    'prdc': f'prdc{_COUNT_AND_NEAREST}{_FULL}',
    'is': f'is{_COUNT}',
}
# Where a stand-in answers for the published detector, the distances are called what they are: Fréchet, kernel.
_NEUTRAL_PREFIX = {'fid': 'fd', 'kid': 'kd'}


@dataclass(frozen=True)
class Metric:
    """A metric, as its name says."""

    name: str
    family: str  # 'fid', 'kid', 'pr', 'prdc', 'is', 'ppl'
    count: int | None = None  # generated images; None for path lengths, which have it in `Settings.num_samples`
    full: bool = False  # of all real images, unmirrored
    nearest: int = 3  # which neighbour's distance is the radius, for precision and recall

    def reported_name(self, label: str | None) -> str:
        """The name in results: `fd-LABEL50k_full`, for example, with stand-ins for the detectors of that label."""
        if label is None:
            return self.name
        return f'{_NEUTRAL_PREFIX.get(self.family, self.family)}-{label}{self.name.removeprefix(self.family)}'


def parse(name: str) -> Metric:
    """The metric of a name; ValueError with a sentence where there is none."""
    if name in PATH_LENGTHS:
        return Metric(name, 'ppl')
    for family, pattern in _FAMILIES.items():
        match = re.fullmatch(pattern, name, flags=re.ASCII)
        if match is not None:
            parts = match.groupdict()
            count = _number(parts['count'])
            if count > MAX_IMAGES:
                raise ValueError(f'{name!r} asks for more than {MAX_IMAGES:,} images: take a smaller number.')
            return Metric(name, family, count, bool(parts.get('full')), int(parts.get('nearest') or 3))
    close = difflib.get_close_matches(name, PUBLISHED, n=1)
    hint = f'did you mean {close[0]}?' if close else f'take some of {", ".join(PUBLISHED)}.'
    raise ValueError(f'{name!r} is no metric: {hint}')


def _number(text: str) -> int:
    """'50k' → 50000"""
    return int(text.removesuffix('k')[:12]) * (1000 if text.endswith('k') else 1)


def parse_list(text: str) -> tuple[str, ...]:
    """Names from `"fid50k_full,pr50k3_full"`, each once; () for `none`. ValueError with a sentence."""
    names = [name.strip().lower() for name in text.split(',')]
    if names == ['none']:
        return ()
    for name in names:
        parse(name)
    return tuple(dict.fromkeys(names))


class MetricNames(click.ParamType):
    """The option `--metrics`: names with commas between them, or `none`."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        try:
            return value if isinstance(value, tuple) else parse_list(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
