"""Numbered files in the folders of `--outdir`: latents, directions, networks and videos that were made here.

What is removed goes to the folder `removed` beside them, from where it can come back. Numbers are never given twice.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from dnnlib.errors import InvalidArgument
from dnnlib.schema import Text

SUFFIXES = {
    'kept': ('.npz', '.png', '.json'),
    'directions': ('.safetensors',),
    'networks': ('.pkl',),
    'videos': ('.mp4',),
}
"""What belongs to one number, by the folder; the first file must exist."""

NUMBER = Text(20, r'\d{4,12}', 'the number of something kept, such as 0007')

_NUMBER = re.compile(r'[0-9]{4,12}')


class MadeFiles:
    """The files of one folder.

    Args:
        folder: The folder; it is created with the first file.
        suffixes: Of the files of one number, see `SUFFIXES`.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]):
        self.folder, self._suffixes = folder, suffixes
        self._removed = folder / 'removed'
        self._lock = threading.Lock()
        self._last = 0

    def numbers(self) -> list[str]:
        """Return the numbers of what is there, oldest first."""
        return self._numbers_in(self.folder)

    def removed(self) -> list[str]:
        """Return the numbers of what was removed, oldest first."""
        return self._numbers_in(self._removed)

    def next(self) -> str:
        """Return a new number; jobs on several devices get different ones."""
        with self._lock:
            self._last = max(map(int, [*self.numbers(), *self.removed(), str(self._last)])) + 1
            return f'{self._last:04d}'

    def path(self, number: str, suffix: str | None = None) -> Path:
        """Return a file of a number, by default the first one."""
        suffix = self._suffixes[0] if suffix is None else suffix
        assert _NUMBER.fullmatch(number) and suffix in self._suffixes
        return self.folder / f'{number}{suffix}'

    def require(self, number: str) -> None:
        """Raise InvalidArgument unless a number is there."""
        if not _NUMBER.fullmatch(number) or not self.path(number).is_file():
            raise InvalidArgument('number', f'There is no {number!r} in the folder {self.folder.name}.')

    def remove(self, number: str) -> None:
        """Take something away; `restore` brings it back."""
        with self._lock:
            self.require(number)
            self._move(number, self.folder, self._removed)

    def restore(self, number: str) -> None:
        """Bring back what was removed."""
        with self._lock:
            if number not in self.removed():
                raise InvalidArgument('number', f'{number!r} was not removed from the folder {self.folder.name}.')
            self._move(number, self._removed, self.folder)

    def _numbers_in(self, folder: Path) -> list[str]:
        first = self._suffixes[0]
        names = os.listdir(folder) if folder.is_dir() else []
        stems = (name.removesuffix(first) for name in names if name.endswith(first))
        return sorted((stem for stem in stems if _NUMBER.fullmatch(stem)), key=int)

    def _move(self, number: str, source: Path, target: Path) -> None:
        """Move the files of a number; one that is there already is never overwritten."""
        target.mkdir(parents=True, exist_ok=True)
        names = [name for suffix in self._suffixes if (source / (name := f'{number}{suffix}')).exists()]
        for name in names:
            if os.path.lexists(target / name):
                raise InvalidArgument('number', f'{target / name} exists already: move it to another folder first.')
        for name in reversed(names):  # the first one last: what is incomplete is not listed
            os.replace(source / name, target / name)


def all_made(outdir: Path) -> dict[str, MadeFiles]:
    """Return the files of `--outdir`, by their folder."""
    return {name: MadeFiles(outdir / name, suffixes) for name, suffixes in SUFFIXES.items()}
