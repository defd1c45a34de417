"""All readers that `scripts/fuzz_files.py` tries."""

from __future__ import annotations

from pathlib import Path

from scripts.fuzzing.array_readers import array_readers, note_readers
from scripts.fuzzing.exchange_readers import exchange_readers
from scripts.fuzzing.file_reader import FileReader, use_cache_of
from scripts.fuzzing.image_readers import collection_readers, dataset_readers, image_readers, write_dataset
from scripts.fuzzing.report_readers import check_readers, report_readers
from scripts.fuzzing.run_readers import run_readers


def all_readers(folder: Path) -> list[FileReader]:
    """Return all readers.

    Args:
        folder: Empty folder for their files.
    """
    use_cache_of(folder)
    data = write_dataset(folder / 'data')
    return [
        *image_readers(folder / 'images'),
        *dataset_readers(folder / 'datasets', data),
        *collection_readers(folder / 'collections'),
        *run_readers(folder / 'runs', data),
        *report_readers(folder / 'reports', data),
        *check_readers(folder / 'checks'),
        *array_readers(folder / 'arrays'),
        *exchange_readers(folder / 'exchange'),
        *note_readers(folder / 'notes'),
    ]
