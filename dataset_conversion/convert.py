"""Convert all images of a source with one transform into a destination, in several processes.

Results return in order, so that the destination does not depend on the number of processes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_conversion.loading import load_image
from dataset_conversion.processes import map_in_processes
from dataset_conversion.progress import SourceProgress
from dataset_conversion.results import Picture, Rejection, Shape, Tally
from dataset_conversion.source_types import Reader, Source
from dataset_conversion.transforms import SkippedImage, Transform, check_output_size
from dataset_conversion.writer import open_destination
from dataset_format.images import BadImage, encode_png, to_pixels
from dataset_format.labels import LABEL_FILE, Label, classes_without_images, format_label_file
from dnnlib.text import excerpt

CHUNK_BYTES = 4 * 2**20
MAX_CHUNK_IMAGES = 128
NUM_SAMPLES = 15
MAX_BAD_IMAGES = 100  # without --skip-bad, searching for more would only keep the user waiting


@dataclass
class Summary:
    """The result of a conversion.

    Args:
        num_images: Number of images written.
        num_bytes: Size of these images.
        elapsed_sec: Duration of the conversion.
        shape: [H, W] or [H, W, C] of the images, or None before the first one.
        num_classes: Number of classes that occur in the labels.
        empty_classes: Classes without images: smaller numbers than the others, or only named.
        bad: (name, reason) of images that cannot be used.
        skipped: (name, reason) of images that are too small for the transform.
    """

    num_images: int = 0
    num_bytes: int = 0
    elapsed_sec: float = 0
    shape: tuple[int, ...] | None = None
    num_classes: int = 0
    empty_classes: list[int] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class UnusableImages(ValueError):
    """A conversion that failed because of bad images.

    Args:
        message: One sentence.
        bad: (name, reason) of each bad image.
    """

    def __init__(self, message: str, bad: list[tuple[str, str]]):
        super().__init__(message)
        self.bad = bad


def convert(
    source: Source,
    dest: Path,
    transform: Transform,
    max_images: int | None = None,
    skip_bad: bool = False,
    workers: int = 1,
    show_progress: bool = True,
) -> Summary:
    """Convert the images of a source to a dataset.

    Args:
        source: Images to convert.
        dest: Zip archive or folder to write.
        transform: Conversion of each image.
        max_images: Convert only this many images, or None for all.
        skip_bad: Leave out bad images. Otherwise nothing is written if there are any.
        workers: Number of processes.
        show_progress: Whether to show the progress.

    Raises:
        UnusableImages: There are bad images, or no images are left.
        ValueError: The destination cannot be written, or a process was killed.
    """
    start_time = time.monotonic()
    tickets = source.tickets[:max_images]
    conversion = _Conversion(source, tickets, dest, transform, skip_bad, workers, show_progress)
    try:
        summary = conversion.run(expected_shape(source.reader, tickets, transform))
    except _OtherShapeIsUsual as error:
        summary = conversion.run(error.shape, is_certain=True)
    summary.elapsed_sec = time.monotonic() - start_time
    return summary


def archive_name(index: int) -> str:
    """Return the path of an image in a dataset, such as '00012/img00012345.png': a thousand images per folder."""
    return f'{index // 1000:05d}/img{index:08d}.png'


def expected_shape(reader: Reader, tickets: Sequence[Any], transform: Transform) -> Shape | None:
    """Guess from a few pictures which shape most will have.

    Returns:
        The shape, or None if the transform decides it, or if none of these pictures can be used.
    """
    if transform.gives_one_shape:
        return None
    step = max(len(tickets) // NUM_SAMPLES, 1)
    results = (convert_one(reader, ticket, transform) for ticket in tickets[::step][:NUM_SAMPLES])
    shapes = Counter(result.shape for result in results if isinstance(result, Picture))
    return shapes.most_common(1)[0][0] if shapes else None


class _OtherShapeIsUsual(Exception):
    """Most pictures turned out to have another shape than expected."""

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.shape = shape


@dataclass(frozen=True)
class _Conversion:
    """The arguments of `convert`, with the tickets to convert."""

    source: Source
    tickets: Sequence[Any]
    dest: Path
    transform: Transform
    skip_bad: bool
    workers: int
    show_progress: bool

    def run(self, expected: Shape | None, is_certain: bool = False) -> Summary:
        """Convert all images, and keep the pictures of the expected shape.

        Raises:
            _OtherShapeIsUsual: Most pictures have another shape, and `is_certain` is False. Nothing was written.
        """
        source, summary = self.source, Summary()
        tally = Tally(source.names, expected)
        labels: list[tuple[str, Label]] = []
        results = convert_all(source.reader, self.tickets, self.transform, self.workers)
        progress = SourceProgress(source.reader, self.tickets, is_certain, self.show_progress)
        with closing(results), open_destination(self.dest) as writer, progress:
            num_seen = 0
            for index, result in enumerate(results):
                num_seen = index + 1
                progress.update(num_seen)
                is_usable = tally.add(index, result)
                if tally.num_bad >= MAX_BAD_IMAGES and not self.skip_bad:
                    break
                # After a bad image nothing is kept: only further bad ones matter.
                if is_usable and isinstance(result, Picture) and (self.skip_bad or not tally.num_bad):
                    name = archive_name(summary.num_images)
                    writer.write(name, result.png)
                    if source.labels is not None:
                        labels.append((name, source.labels[index]))
                    summary.num_images += 1
                    summary.num_bytes += len(result.png)
            usual = tally.usual_shape
            if self.skip_bad and usual is not None and usual != tally.expected and not is_certain:
                raise _OtherShapeIsUsual(usual)
            self._check_outcome(tally, num_seen)
            writer.write(LABEL_FILE, format_label_file(None if source.labels is None else labels, source.class_names))
        summary.shape, summary.bad, summary.skipped = tally.expected, tally.bad, tally.skipped
        classes = {label for _name, label in labels if isinstance(label, int)}
        if classes:
            num_possible = max(max(classes) + 1, len(source.class_names or ()))
            summary.empty_classes = classes_without_images(classes, num_possible)
        summary.num_classes = len(classes)
        return summary

    def _check_outcome(self, tally: Tally, num_seen: int) -> None:
        """Raise UnusableImages if there are bad images that are not to be left out, or no usable ones."""
        num_images, bad = len(self.tickets), tally.bad
        if bad and not self.skip_bad:
            seen = f'all {num_seen}' if num_seen == num_images else f'the first {num_seen} of {num_images}'
            name, reason = bad[0]
            way_out = 'use --channels=rgb or gray for one kind, ' if tally.mixes_channels else ''
            raise UnusableImages(
                f'{len(bad)} of {seen} images cannot be used, such as {excerpt(name)}: {reason}; '
                f'{way_out}fix them, or add --skip-bad to leave them out.',
                bad,
            )
        if tally.usual_shape is None:
            reasons = Counter(reason for _name, reason in bad + tally.skipped)
            raise UnusableImages(
                f'None of {num_images} images can be used (most frequent reason: {reasons.most_common(1)[0][0]}).', bad
            )


# ---------------------------------------------------------------------------------------------------------------------
# Single images


@dataclass(frozen=True)
class _ConvertOne:
    """`convert_one` as a function of the ticket."""

    reader: Reader
    transform: Transform

    def __call__(self, ticket: Any) -> Picture | Rejection:
        return convert_one(self.reader, ticket, self.transform)


def convert_all(
    reader: Reader, tickets: Sequence[Any], transform: Transform, workers: int
) -> Generator[Picture | Rejection, None, None]:
    """Yield the results for all tickets, in order."""
    chunk_size = _images_per_chunk(reader, tickets, transform)
    return map_in_processes(_ConvertOne(reader, transform), tickets, chunk_size, workers)


def convert_one(reader: Reader, ticket: Any, transform: Transform) -> Picture | Rejection:
    """Read, transform and encode one image."""
    try:
        image = transform(load_image(reader.read(ticket), transform.alpha, transform.channels, transform.max_pixels))
        check_output_size(image)
    except BadImage as bad:
        return Rejection(str(bad), is_bad=True)
    except SkippedImage as skipped:
        return Rejection(str(skipped), is_bad=False)
    pixels = to_pixels(image)
    return Picture(encode_png(pixels), pixels.shape)


def _images_per_chunk(reader: Reader, tickets: Sequence[Any], transform: Transform) -> int:
    """Choose by the size of the first result: large chunks save communication, small ones memory."""
    first = convert_one(reader, tickets[0], transform)
    num_bytes = len(first.png) if isinstance(first, Picture) else CHUNK_BYTES // 8
    return min(max(CHUNK_BYTES // num_bytes, 1), MAX_CHUNK_IMAGES)
