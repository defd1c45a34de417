"""Option types for what scripts write. A name whose extension says something else than will be written is refused.

`EXTENSIONS` is the only place that says which extension stands for what.
"""

from __future__ import annotations

import os
import re
from typing import Any

import click

from dnnlib.cli import PATH

EXTENSIONS = {
    'network': ('.pkl', '.safetensors'),
    'exchange': ('.pkl', '.safetensors', '.pt'),  # networks, also for other programs
    'video': ('.mp4',),
    'dataset': ('.zip',),
    'list': ('.txt', '.tsv'),
    'data': ('.json',),
    'page': ('.md',),
    'detector': ('.pt',),
    'report': ('.html',),
    'export': ('.onnx', '.pt2'),
}
"""Extensions of the files that scripts write, in lower case, by the kind of their content."""

_EXTENSIONS_OF_FILES = frozenset(
    '.7z .avi .bmp .bz2 .csv .gif .gz .h5 .hdf5 .html .jpeg .jpg .json .jsonl .lmdb .log .md .mkv .mov .mp4 .npy .npz '
    '.onnx .pdf .pickle .pkl .png .pt .pt2 .pth .rar .safetensors .svg .tar .tfrecord .tfrecords .tgz .tif .tiff .tsv '
    '.txt .webm .webp .xz .yaml .yml .zip .zst'.split()
)


class OutputFile(click.ParamType):
    """A file to write, as a path with `~` expanded.

    Args:
        kind: What is written, a key of `EXTENSIONS`.
        or_folder: Whether a folder can be written instead: a name without an extension, the name of an existing folder,
            or a name that ends in a slash.
    """

    name = 'path'

    def __init__(self, kind: str, or_folder: bool = False):
        self._extensions, self._or_folder = EXTENSIONS[kind], or_folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = _local_path(value, param, ctx)
        extension = os.path.splitext(path)[1].lower()
        if os.path.isdir(path):
            if not self._or_folder:
                self.fail(f'{path!r} is a folder: use a file name.', param, ctx)
        elif self._or_folder:
            if extension not in self._extensions and re.fullmatch(r'\.\w*[a-z]\w*', extension.strip()):
                self.fail(
                    f'{path!r} must end in {_either(self._extensions)}, or have no extension to be a folder '
                    f'({path + os.sep!r} is a folder of this name).',
                    param,
                    ctx,
                )
        elif extension not in self._extensions:
            self.fail(f'{path!r} must end in {_either(self._extensions)}.', param, ctx)
        return path


class OutputFolder(click.ParamType):
    """A folder to write files to, as a path with `~` expanded. A new one cannot be called like a file."""

    name = 'path'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = _local_path(value, param, ctx)
        extension = os.path.splitext(path)[1].lower()
        if extension in _EXTENSIONS_OF_FILES and not os.path.exists(path):
            self.fail(
                f'{path!r} is the name of a file, but several files are written: use the name of a folder '
                f'({path + os.sep!r} is a folder of this name).',
                param,
                ctx,
            )
        return path


def _local_path(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
    path = PATH.convert(value, param, ctx)
    if '://' in path:
        raise click.BadParameter(f'{path} is a URL; specify a path on this machine.', ctx, param)
    return path


def _either(extensions: tuple[str, ...]) -> str:
    return ' or '.join(filter(None, [', '.join(extensions[:-1]), extensions[-1]]))
