"""Check a source of images: measure all, apply the rules, and write what is found to a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from dataset_conversion.checking.contact_sheet import save_contact_sheet
from dataset_conversion.checking.files import CheckFolder, write_findings
from dataset_conversion.checking.measuring import MeasureOne
from dataset_conversion.checking.rules import CheckResult, apply_rules
from dataset_conversion.loading import load_image
from dataset_conversion.processes import map_in_processes
from dataset_conversion.progress import SourceProgress
from dataset_conversion.source_types import Source
from dataset_format.images import MAX_PIXELS, BadImage
from dnnlib.text import excerpt

_CHUNK_IMAGES = 64


def check_images(
    source: Source,
    data: str,
    folder: Path,
    max_images: int | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int = 1,
    show_progress: bool = True,
) -> CheckResult:
    """Check the images of a source, and write findings, a list and a contact sheet to a folder.

    Memory is about 1 KB per image, and one decoded image per process.

    Args:
        source: Images to check.
        data: The path of the source.
        folder: Where the files go.
        max_images: Check only this many images, or None for all.
        max_pixels: Largest number of pixels of an image.
        workers: Number of processes.
        show_progress: Whether to show the progress.

    Raises:
        OSError: The files cannot be written.
        ValueError: A process was killed.
    """
    tickets = source.tickets[:max_images]
    measure = MeasureOne(source.reader, max_pixels)
    rows: list[np.ndarray | str] = []
    with SourceProgress(source.reader, tickets, enabled=show_progress, verb='Checking') as progress:
        for row in map_in_processes(measure, tickets, _CHUNK_IMAGES, workers):
            rows.append(row if isinstance(row, np.ndarray) else excerpt(row))
            progress.update(len(rows))
    labels = None if source.labels is None else source.labels[:max_images]
    result = apply_rules(rows, source.names, labels, source.class_names)

    def read(index: int) -> PIL.Image.Image | None:
        try:
            return load_image(source.reader.read(tickets[index]), alpha='keep', max_pixels=max_pixels)
        except BadImage:
            return None

    files = CheckFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_findings(files, result, source.names, data)
    save_contact_sheet(files.contact_sheet_png, result, source.names, read)
    return result
