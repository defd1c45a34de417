"""Conversion: all images of a source through one transform into a destination, on many processes.

Images travel in chunks, and their results come back in order, so that the destination does not depend on the number
of processes. Only so many chunks are under way that memory stays bounded however large the source is.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataset_conversion.sources import Reader, Source
from dataset_conversion.transforms import SkippedImage, Transform, check_output_size
from dataset_conversion.writer import open_destination
from dataset_format.images import CHANNEL_KINDS, BadImage, encode_png, load_image, to_pixels
from dataset_format.labels import LABEL_FILE, Label, format_label_file
from dnnlib.progress import progress_bar

CHUNK_BYTES = 4 * 2**20
MAX_CHUNK_IMAGES = 128
MAX_BAD_IMAGES = 100  # without --skip-bad, looking for more would only keep the user waiting


@dataclass(frozen=True)
class Picture:
    """A converted image. `shape` is [H, W] or [H, W, C]."""

    png: bytes
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """Why an image was not converted: it is bad, or too small for the transform."""

    reason: str
    is_bad: bool


@dataclass
class Summary:
    """What a conversion did. `bad` and `skipped` hold (name, reason)."""

    num_images: int = 0
    num_bytes: int = 0
    elapsed_sec: float = 0
    shape: tuple[int, ...] | None = None
    num_classes: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class UnusableImages(ValueError):
    """Raised at the end of a conversion that met bad images; `bad` holds (name, reason)."""

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
    show_progress: bool | None = None,
) -> Summary:
    """Write the dataset `dest` (zip archive or folder) from the first `max_images` images of `source`.

    Bad images are left out with `skip_bad`; otherwise UnusableImages names them after all images were seen, and
    nothing is written. `show_progress`: None = on a terminal. Raises ValueError.
    """
    start_time = time.monotonic()
    names = source.names[:max_images]
    tickets = source.tickets[:max_images]
    summary = Summary()
    labels: list[tuple[str, Label]] = []

    results = convert_all(source.reader, tickets, transform, workers)
    with (
        closing(results),
        open_destination(dest) as writer,
        progress_bar(len(names), 'img', disable=None if show_progress is None else not show_progress) as progress,
    ):
        for index, result in enumerate(results):
            progress.update()
            if isinstance(result, Picture):
                result = _refuse_other_shape(result, summary)
            if isinstance(result, Refusal):
                (summary.bad if result.is_bad else summary.skipped).append((names[index], result.reason))
                if len(summary.bad) >= MAX_BAD_IMAGES and not skip_bad:
                    break
                continue
            if summary.bad and not skip_bad:
                continue  # nothing will be kept: only the names of further bad images matter
            name = archive_name(summary.num_images)
            writer.write(name, result.png)
            if source.labels is not None:
                labels.append((name, source.labels[index]))
            summary.num_images += 1
            summary.num_bytes += len(result.png)
        _check_outcome(summary, skip_bad, index + 1, len(names))
        named_labels = None if source.labels is None else labels
        writer.write(LABEL_FILE, format_label_file(named_labels, source.class_names))

    summary.num_classes = len({label for _name, label in labels if isinstance(label, int)})
    summary.elapsed_sec = time.monotonic() - start_time
    return summary


def archive_name(index: int) -> str:
    """'00012/img00012345.png': a thousand images to a folder."""
    return f'{index // 1000:05d}/img{index:08d}.png'


def _refuse_other_shape(picture: Picture, summary: Summary) -> Picture | Refusal:
    """The first picture says what shape all have."""
    if summary.shape is None:
        summary.shape = picture.shape
    if picture.shape == summary.shape:
        return picture
    return Refusal(f'{describe_shape(picture.shape)}, but images before it are {describe_shape(summary.shape)}', True)


def describe_shape(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]} {CHANNEL_KINDS[shape[2] if len(shape) == 3 else 1]}'


def _check_outcome(summary: Summary, skip_bad: bool, num_seen: int, num_images: int) -> None:
    if summary.bad and not skip_bad:
        seen = f'all {num_seen}' if num_seen == num_images else f'the first {num_seen} of {num_images}'
        name, reason = summary.bad[0]
        raise UnusableImages(
            f'{len(summary.bad)} of {seen} images cannot be used, such as {name}: {reason}; '
            'mend them, or add --skip-bad to leave them out.',
            summary.bad,
        )
    if not summary.num_images:
        reasons = Counter(reason for _name, reason in summary.bad + summary.skipped)
        raise UnusableImages(
            f'None of {num_images} images is left (most are left out because: {reasons.most_common(1)[0][0]}).',
            summary.bad,
        )


# ----------------------------------------------------------------------------
# Work, in this process or in many.


def convert_all(reader: Reader, tickets: Iterable, transform: Transform, workers: int) -> Iterator[Picture | Refusal]:
    """The results for all tickets, in their order."""
    chunks = list(_chunks(tickets, _images_per_chunk(reader, tickets, transform)))
    if workers == 1 or len(chunks) == 1:
        for ticket in tickets:
            yield convert_one(reader, ticket, transform)
        return

    workers = min(workers, len(chunks))
    # Fresh processes, not forks: forking a process that has threads (numpy's, tqdm's) can hang the child.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
        initargs=(reader, transform),
    )
    try:
        under_way: deque[concurrent.futures.Future] = deque()
        for chunk in chunks:
            with _interrupts_held_back():
                under_way.append(pool.submit(_convert_chunk, chunk))
            if len(under_way) > 2 * workers:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            'A worker process was killed, perhaps for want of memory; try again with fewer of them (--workers).'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def convert_one(reader: Reader, ticket: object, transform: Transform) -> Picture | Refusal:
    try:
        image = transform(load_image(reader.read(ticket), transform.alpha))
        check_output_size(image)
    except BadImage as bad:
        return Refusal(str(bad), is_bad=True)
    except SkippedImage as skipped:
        return Refusal(str(skipped), is_bad=False)
    pixels = to_pixels(image)
    return Picture(encode_png(pixels), pixels.shape)


def _images_per_chunk(reader: Reader, tickets: Iterable, transform: Transform) -> int:
    """By the size of the first result: large chunks save communication, small ones memory."""
    first = convert_one(reader, tickets[0], transform)
    num_bytes = len(first.png) if isinstance(first, Picture) else CHUNK_BYTES // 8
    return min(max(CHUNK_BYTES // num_bytes, 1), MAX_CHUNK_IMAGES)


def _chunks(tickets: Iterable, size: int) -> Iterator[Iterable]:
    for start in range(0, len(tickets), size):
        yield tickets[start : start + size]


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the block is over, and for ever in processes started in it.

    A terminal sends it to all processes; the main one alone is to react, and ends the others.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _start_worker(reader: Reader, transform: Transform) -> None:
    global _worker_tools
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where signals cannot be held back (Windows)
    _worker_tools = (reader, transform)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A killed main process cannot end its workers, so each looks out for it."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _convert_chunk(chunk: Iterable) -> list[Picture | Refusal]:
    reader, transform = _worker_tools
    return [convert_one(reader, ticket, transform) for ticket in chunk]
