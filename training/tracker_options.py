"""The option `--tracker`: the services that get a run's numbers and images, besides the files of the run."""

from __future__ import annotations

from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt
from training.schema import TRACKERS

NO_TRACKER = 'none'


def canonical_tracker(text: str) -> str:
    """Return the value of `--tracker` with each name once, in the order of `TRACKERS`; 'none' for no names.

    Raises:
        InvalidArgument: A name is unknown.
    """
    names = {name for part in text.split(',') if (name := part.strip().lower())} - {NO_TRACKER}
    unknown = sorted(names.difference(TRACKERS))
    if unknown:
        raise InvalidArgument(
            'tracker',
            f'unknown tracker {excerpt(unknown[0], 50)!r}: use one or several of {", ".join(TRACKERS)}, separated by '
            f'commas, or {NO_TRACKER}.',
        )
    return ','.join(name for name in TRACKERS if name in names) or NO_TRACKER


def parse_tracker(text: str | None) -> list[str]:
    """Return the names in the value of `--tracker`."""
    names = canonical_tracker(text or NO_TRACKER)
    return [] if names == NO_TRACKER else names.split(',')
