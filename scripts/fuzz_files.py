"""Attack the readers of all other files with mutations: images, datasets, run directories, caches and arrays.

    python scripts/fuzz_files.py                            20,000 mutations; some minutes on two cores
    python scripts/fuzz_files.py --count=500 --only=state

Every reader must open a file or refuse it with one sentence, without executing anything, without touching other files,
and within bounds of time and memory (`scripts/fuzzing/sandbox.py`). The readers are in
`scripts/fuzzing/file_readers.py`. Files that break a rule are saved to a folder. `scripts/fuzz_pickles.py` does the
same for network pickles.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.cli import PATH, Command, FiniteFloat, usage_error
from dnnlib.progress import progress_bar
from scripts.fuzzing.campaign import Outcomes
from scripts.fuzzing.file_reader import FileReader
from scripts.fuzzing.file_readers import all_readers
from scripts.fuzzing.workers import Worker, run_side_by_side


def fuzz(count: int, only: str, seed: int, processes: int, limit_sec: float, outcomes: Outcomes) -> None:
    """Try `count` files and print the results."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        working = os.getcwd()
        os.chdir(folder)  # for files that a reader would write to the working directory
        try:
            folders = [Path(folder, str(index)) for index in range(processes)]
            workers = [
                Worker(readers_with(only, own), own, index, processes, seed, limit_sec)
                for index, own in enumerate(folders)
            ]
            with progress_bar(count, 'file', disable=None) as progress:
                run_side_by_side(workers, count, outcomes, progress.update)
            strange = sorted(set(os.listdir(folder)) - {own.name for own in folders})
        finally:
            os.chdir(working)
    if strange:
        outcomes.add_fault(f'a reader has written {", ".join(strange)}')
    outcomes.print_counts()
    print(f'{count} files in {time.monotonic() - start:.0f} s by {processes} processes, seed {seed}')


def readers_with(text: str, folder: Path) -> list[FileReader]:
    """Return the readers with a text in their name, with their files in an empty folder."""
    readers = all_readers(folder)
    chosen = [reader for reader in readers if text in reader.name]
    if not chosen:
        names = ', '.join(reader.name for reader in readers)
        raise usage_error('--only', f'no reader has {text!r} in its name. Choose from: {names}.')
    return chosen


# Freed memory is not kept for reuse, because that would hide memory that the readers allocate.
@click.command(cls=Command, keep_memory=False)
@click.option(
    '--count', type=click.IntRange(min=0), default=20_000, show_default=True, help='Number of mutated files to try'
)
@click.option('--only', default='', metavar='TEXT', help='Try only the readers with this text in their name')
@click.option('--seed', type=int, default=0, show_default=True, help='Random seed of the mutations')
@click.option('--processes', type=click.IntRange(min=1), default=2, show_default=True, help='Number of processes')
@click.option(
    '--time-limit', 'limit_sec', type=FiniteFloat(min=0.1), default=10, show_default=True, help='Seconds for one file'
)
@click.option(
    '--failures', type=PATH, default='fuzz-failures', show_default=True, help='Folder for files that break a rule'
)
def main(count: int, only: str, seed: int, processes: int, limit_sec: float, failures: str) -> None:
    """Attack the readers of files; the exit status is 1 if one breaks a rule."""
    torch.set_num_threads(1)
    outcomes = Outcomes(Path(failures).absolute())
    fuzz(count, only, seed, processes, limit_sec, outcomes)
    if outcomes.faults:
        raise click.ClickException(f'{len(outcomes.faults)} faults; see the lines above')
    print('no faults')


if __name__ == '__main__':
    main()
