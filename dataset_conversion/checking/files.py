"""The files that a check writes: findings as JSON, a list for `--exclude`, and a contact sheet; and reading the first.

The list has a line for each image with a finding: its name, a tab, and the reason. Lines that begin with '# ' are not
in force: they suggest images of which only people can say whether they are a problem.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.checking.rules import KINDS, CheckResult
from dataset_conversion.exclusion import exclusion_line
from dnnlib.files import atomic_file
from dnnlib.json_input import read_json
from dnnlib.schema import Integer, ListOf, Optional, Record, Text

FINDINGS_JSON, EXCLUDE_TXT, CONTACT_SHEET_PNG = 'findings.json', 'exclude.txt', 'contact-sheet.png'
MAX_LISTED = 1000  # findings of a kind in the JSON; the list has all

_COUNT = Integer(0, 2**53)
_FINDINGS = Record(
    {
        'data': Text(4096),
        'num_images': _COUNT,
        'notes': ListOf(Text(10_000), max_length=100),
        'class_sizes': Optional(ListOf(_COUNT, max_length=100_000)),
        'kinds': ListOf(
            Record(
                {
                    'kind': Text(100),
                    'title': Text(200),
                    'hint': Text(1000),
                    'count': _COUNT,
                    'images': ListOf(ListOf(Text(10_000), min_length=2, max_length=2), max_length=MAX_LISTED),
                },
                required=['kind', 'title', 'hint', 'count', 'images'],
            ),
            max_length=100,
        ),
    },
    required=['data', 'num_images', 'notes', 'class_sizes', 'kinds'],
    ignores_others=True,
)


@dataclass(frozen=True)
class CheckFolder:
    """The folder of a check; it names the files."""

    path: Path

    @property
    def findings_json(self) -> Path:
        """All counts, and the first findings of each kind."""
        return self.path / FINDINGS_JSON

    @property
    def exclude_txt(self) -> Path:
        """The list for `--exclude`."""
        return self.path / EXCLUDE_TXT

    @property
    def contact_sheet_png(self) -> Path:
        """Pictures of the findings."""
        return self.path / CONTACT_SHEET_PNG


def default_folder(data: str) -> Path:
    """Return where the check of a dataset goes unless another folder is named: `NAME-check` beside it."""
    path = Path(os.path.abspath(data))
    name = path.stem if path.suffix.lower() == '.zip' else path.name
    return path.with_name(f'{name}-check')


def write_findings(folder: CheckFolder, result: CheckResult, names: Sequence[str], data: str) -> None:
    """Write the JSON and the list; an older check is replaced."""
    kinds = [
        {
            'kind': kind,
            'title': KINDS[kind].title,
            'hint': KINDS[kind].hint,
            'count': len(items),
            'images': [[_shortened(names[item.index]), _shortened(item.reason)] for item in items[:MAX_LISTED]],
        }
        for kind, items in result.findings.items()
    ]
    content = {
        'data': _shortened(os.path.abspath(data)),
        'num_images': result.num_images,
        'notes': result.notes,
        'class_sizes': result.class_sizes,
        'kinds': kinds,
    }
    with atomic_file(folder.findings_json) as file:
        file.write(f'{json.dumps(content, indent=1)}\n'.encode())
    with atomic_file(folder.exclude_txt) as file:
        file.write(
            b'# One image per line. Lines that begin with "# " are not in force: remove it to exclude an image.\n'
        )
        listed: set[int] = set()
        for kind, items in result.findings.items():
            for item in items:
                if item.index in listed:
                    continue
                if KINDS[kind].is_excluded:
                    listed.add(item.index)
                line = exclusion_line(names[item.index], f'{KINDS[kind].title}: {item.reason}')
                file.write(line if KINDS[kind].is_excluded else b'# ' + line)


def _shortened(text: str) -> str:
    """Return a text as JSON can hold it: bytes of names that are not UTF-8 are escaped."""
    return text.encode(errors='backslashreplace').decode()[:4000]


def read_findings(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check `findings.json`.

    Raises:
        OSError: It does not exist or cannot be read.
        ValueError: It is not such a file; one sentence.
    """
    content = read_json(path)
    _FINDINGS.check(content, os.fspath(path))
    return content
