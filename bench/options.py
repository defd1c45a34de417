"""Command-line options that the benchmarks share, and the files that results are written to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.tables import MarkedSection
from dnnlib.cli import SeedRange, usage_error
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFile

F = TypeVar('F', bound=Callable[..., object])

_OPTIONS: dict[str, Callable[[Any], Any]] = {
    'quick': click.option('--quick', is_flag=True, help='Use tiny sizes, to see that it works, not how fast it is'),
    'threads': click.option(
        '--threads', type=click.IntRange(min=1), metavar='N', show_default='one per core', help='Threads of PyTorch'
    ),
    'json': click.option(
        '--json', 'json_path', type=OutputFile('data'), metavar='FILE', help='Write the time of every run to FILE'
    ),
    'markdown': click.option(
        '--markdown',
        'markdown_path',
        type=OutputFile('page'),
        metavar='FILE',
        help='Replace the table in FILE, a page of docs/',
    ),
}


def benchmark_options(*names: str) -> Callable[[F], F]:
    """Return a decorator that adds the options of these names: 'quick', 'threads', 'json', 'markdown'."""

    def decorator(function: F) -> F:
        for name in reversed(names):
            function = _OPTIONS[name](function)
        return function

    return decorator


class SectionNames(click.ParamType):
    """Names of sections, separated by commas.

    Args:
        sections: The names allowed.
    """

    name = 'NAME,...'

    def __init__(self, sections: Sequence[str]):
        self._sections = tuple(sections)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in str(value).split(','))
        for name in names:
            if name not in self._sections:
                self.fail(f'Unknown section {name!r}. Choose from {", ".join(self._sections)}.', param, ctx)
        return names


def sections_option(sections: Sequence[str]) -> Callable[[F], F]:
    """Return a decorator that adds `--only`, which selects from `sections`."""
    return click.option(
        '--only', type=SectionNames(sections), default=','.join(sections), show_default=True, help='Sections to run'
    )


class PositiveIntList(SeedRange):
    """A list of positive integers such as `2,4`."""

    name = 'N,...'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        numbers = super().convert(value, param, ctx)
        if min(numbers) < 1:
            self.fail(f'{value!r} contains a number below 1: use positive integers, such as 2,4.', param, ctx)
        return numbers


class BatchSizeList(click.ParamType):
    """Resolutions and batch sizes such as `64:4,256:1`, as pairs of integers."""

    name = 'RES:N,...'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[tuple[int, int]]:
        if isinstance(value, list):
            return value
        if re.fullmatch(r'\d+:\d+(,\d+:\d+)*', str(value)) is None:
            self.fail(f'Expected RESOLUTION:IMAGES pairs such as 64:4,256:1, got {value!r}.', param, ctx)
        pairs = (pair.split(':') for pair in str(value).split(','))
        return [(int(resolution), int(num_images)) for resolution, num_images in pairs]


class ResultFiles:
    """The files of `--json` and `--markdown`, checked before anything is measured.

    Args:
        section: Name of the section to replace in the Markdown file.
        json_path: Value of `--json`.
        markdown_path: Value of `--markdown`.

    Raises:
        click.BadParameter: The JSON file cannot be written.
        ValueError: The Markdown file does not have that section.
    """

    def __init__(self, section: str = '', json_path: str | None = None, markdown_path: str | None = None):
        if json_path is not None:
            _check_writable('--json', json_path)
        if markdown_path is not None:
            _check_writable('--markdown', markdown_path)
        self._json_path = json_path
        self._markdown = None if markdown_path is None else MarkedSection(markdown_path, section)

    def save(self, content: object = None, markdown: str = '') -> None:
        """Write `content` as JSON, and the Markdown text, to the files that were requested."""
        if self._json_path is not None:
            with atomic_file(self._json_path) as file:
                file.write((json.dumps(content, indent=2) + '\n').encode())
        if self._markdown is not None:
            self._markdown.replace(markdown)


def _check_writable(option: str, path: str) -> None:
    file = Path(path)
    folder = file.absolute().parent
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise usage_error(option, f'{path!r} cannot be written: use a file in an existing, writable folder.')
