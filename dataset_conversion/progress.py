"""Progress of a conversion or check, estimated by bytes: images of different sizes take different times."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from dataset_conversion.source_types import Reader
from dnnlib.progress import Progress

_KIB, _MIB = 2**10, 2**20
_MIN_BYTES_FOR_MIB = 100 * _MIB


class SourceProgress:
    """Context manager that shows how many bytes and images of a source are converted.

    Where the sizes of the images are not known in advance, only images are counted.

    Args:
        reader: Reader of the source.
        tickets: All images to convert.
        is_repeated: They are converted for the second time.
        enabled: Whether to show anything.
        verb: What happens to them.
    """

    def __init__(
        self,
        reader: Reader,
        tickets: Sequence[Any],
        is_repeated: bool = False,
        enabled: bool = True,
        verb: str = 'Converting',
    ):
        title = f'{verb} again, for the shape that most images have' if is_repeated else verb
        sizes = reader.sizes(tickets) if enabled else None
        self._num_images = len(tickets)
        self._bytes_until = None if sizes is None else [0, *itertools.accumulate(sizes)]
        total = 0 if self._bytes_until is None else self._bytes_until[-1]
        self._unit_bytes = _MIB if total >= _MIN_BYTES_FOR_MIB else _KIB
        if total:
            unit = 'MiB' if self._unit_bytes == _MIB else 'KiB'
            self._progress = Progress(title, max(total // self._unit_bytes, 1), unit, enabled)
        else:
            self._bytes_until = None
            self._progress = Progress(title, self._num_images, enabled=enabled)

    def update(self, num_images: int) -> None:
        """Show that the first `num_images` images are complete."""
        if self._bytes_until is None:
            self._progress.update(num_images)
        else:
            note = f'{num_images:,} of {self._num_images:,} img'
            self._progress.update(self._bytes_until[num_images] // self._unit_bytes, note)

    def __enter__(self) -> SourceProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
