"""The shelf: latents that a user keeps, as files in `--outdir`.

`kept/0007.npz` is what projector.py writes and generate.py reads, `0007.png` the picture, `0007.json` the name, a note
and how it was made.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import InvalidArgument, error_sentence
from dnnlib.files import atomic_file
from dnnlib.json_input import read_json
from dnnlib.schema import Number, Optional, Record, Text
from generation import projected_latents
from generation.projected_latents import ProjectedLatents
from studio_server import picture_specs
from studio_server.made_files import MadeFiles
from torch_utils import images

MAX_KEPT = 5000

_MAX_NAME, _MAX_NOTE = 200, 10_000
_MAX_ENTRY_BYTES = 2**20
_ENTRY = Record(
    {
        'name': Text(_MAX_NAME),
        'note': Text(_MAX_NOTE),
        'network': Text(),
        'spec': Optional(picture_specs.SPEC),
        'command': Text(20_000),
        'created': Number(0, 1e12),
    },
    required=['name', 'note', 'network', 'spec', 'command', 'created'],
)


class Shelf:
    """The latents in a folder.

    Args:
        files: Where they are.
    """

    def __init__(self, files: MadeFiles):
        self._files = files

    def entries(self) -> list[dict[str, Any]]:
        """Return what is on the shelf, oldest first; damaged entries have a 'problem'."""
        return [self.entry(kept) for kept in self._files.numbers()[:MAX_KEPT]]

    def entry(self, kept: str) -> dict[str, Any]:
        """Return one entry."""
        blank = {'name': kept, 'note': '', 'network': '', 'spec': None, 'command': '', 'created': 0}
        try:
            content = read_json(self.file(kept, '.json'), _MAX_ENTRY_BYTES)
            _ENTRY.check(content, f'{kept}.json')
        except (ValueError, OSError) as error:
            return {**blank, 'id': kept, 'problem': error_sentence(error) or str(error)}
        return {**content, 'id': kept}

    def keep(self, latents: ProjectedLatents, image: np.ndarray, name: str, **entry: Any) -> str:
        """Put a latent on the shelf and return its number.

        Args:
            latents: One latent.
            image: uint8 [C, H, W].
            name: What the user sees.
            **entry: `network`, `spec`; and `command`, in which `{npz}` stands for the file.

        Raises:
            ValueError: The shelf is full.
            OSError: A file cannot be written.
        """
        if len(self._files.numbers()) >= MAX_KEPT:
            raise InvalidArgument('outdir', f'The shelf is full ({MAX_KEPT:,} latents): use another --outdir.')
        kept = self._files.next()
        projected_latents.write(self.file(kept, '.npz'), latents)
        images.save_png(image, self.file(kept, '.png'))
        file_option = shlex.quote(f'--projected-w={self.file(kept, ".npz")}')
        command = entry.pop('command').replace('--projected-w={npz}', file_option)
        content = {'name': name, 'note': '', 'created': time.time(), 'command': command, **entry}
        self._write_entry(kept, content)
        return kept

    def rename(self, kept: str, name: str, note: str) -> None:
        """Change the name and the note of an entry."""
        for text, limit, what in ((name, _MAX_NAME, 'name'), (note, _MAX_NOTE, 'note')):
            Text(limit).check(text, f'The {what}')
        self._files.require(kept)
        entry = {key: value for key, value in self.entry(kept).items() if key not in ('id', 'problem')}
        self._write_entry(kept, {**entry, 'name': name, 'note': note})

    def read(self, kept: str, G: Any) -> ProjectedLatents:
        """Read a latent for a generator.

        Raises:
            ValueError: It cannot be read, or belongs to another network. One sentence.
        """
        self._files.require(kept)
        return projected_latents.read(self.file(kept, '.npz'), G)

    def file(self, kept: str, suffix: str) -> Path:
        """Return a file of an entry: '.npz', '.png' or '.json'."""
        return self._files.path(kept, suffix)

    def _write_entry(self, kept: str, content: dict[str, Any]) -> None:
        with atomic_file(self.file(kept, '.json')) as f:
            f.write(json.dumps(content, indent=2).encode())
