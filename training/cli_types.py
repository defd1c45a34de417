"""The types of the options of `train.py`. No other module of this package imports click."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from dnnlib.cli import BOOL, PATH, FiniteFloat
from dnnlib.errors import InvalidArgument
from dnnlib.text import message_line
from training.options import LATEST
from training.presets import RESUME_SOURCES
from training.schema import MIRRORINGS

_COUNT = click.IntRange(min=1)

RESUME_HELP = (
    f'Network file to start from: {", ".join(RESUME_SOURCES)}, a file, a URL, hf://owner/name, or the directory of a '
    'run for its newest one, with which a new run starts; size, channels and classes may differ (docs/transfer.md); '
    f'{LATEST} means --resume-run={LATEST}'
)
RESUME_RUN_HELP = (
    'Resume the run in this folder, or, with latest, the newest run in --outdir with the same options, or start one if '
    'there is none; options that do not change the result may be given again with other values'
)


class ThousandsOfImages(FiniteFloat):
    """A positive number. Whole numbers become ints, because they appear in the names of folders."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        return int(number) if number.is_integer() else number


KIMG = ThousandsOfImages(min=0, min_open=True)


class StoredText(click.ParamType):
    """Text with rules of its own, in the form in which it is stored with a run."""

    def __init__(self, name: str, canonical: Callable[[str], str]):
        self.name = name
        self._canonical = canonical

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._canonical(value)
        except InvalidArgument as error:
            self.fail(message_line(error), param, ctx)


class Mirroring(click.ParamType):
    """Directions in which images are mirrored: x (or a true boolean), y, xy, or none (a false boolean)."""

    name = '0|1|x|y|xy'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool | str:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if text in MIRRORINGS:
            return text
        if text == 'x':
            return True
        try:
            return BOOL.convert(text, param, ctx)
        except click.BadParameter:
            self.fail(f'expected x, y, xy, or a boolean (1 is x), got {value!r}.', param, ctx)


class CountOrPath(click.ParamType):
    """A number of images, or a path; a folder whose name is a number is written ./7."""

    name = 'N|DIR|ZIP'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or value.lstrip('+-').isdecimal():
            return _COUNT.convert(value, param, ctx)
        return PATH.convert(value, param, ctx)


class RunSuffix(click.ParamType):
    """Text that can end the name of a folder on every system."""

    name = 'text'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r'[A-Za-z0-9._+=-]{1,100}', value) is None:
            self.fail(
                f"{value!r} becomes part of a folder's name: use up to 100 letters, digits and any of . _ + = -",
                param,
                ctx,
            )
        return value
