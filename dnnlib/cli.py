"""What the command lines share, so that they all behave alike.

* `@click.command(cls=Command)`: every option is understood with `-` and with `_` in its name, and a ValueError or an
  OSError that carries a sentence ends as that sentence (status 1; usage errors of click: status 2), not as a traceback.
* Option types: `BOOL`, `PATH`, `FiniteFloat(min=…)`, `SeedRange()`, `Size()`; `check_outdir(path)` for output folders.
* `usage_error(option, message)`, and `usage_errors(option)` for errors of libraries: exit status 2, naming the option.
* `@device_option()` and `resolve_device(name)`: `--device auto|cuda|cuda:N|mps|cpu`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.errors import InvalidArgument
from dnnlib.machine import keep_freed_memory
from dnnlib.util import is_url

if TYPE_CHECKING:
    import torch

_PROJECT_ROOT = Path(__file__).resolve().parent.parent
_MAX_LIST_LENGTH = 10_000_000

# ---------------------------------------------------------------------------------------------------------------------
# Command


class Command(click.Command):
    """A click command with the manners described at the top of this file.

    `keep_memory=False` leaves it to the command whether freed memory is kept.
    """

    def __init__(self, *args: Any, context_settings: dict | None = None, keep_memory: bool = True, **kwargs: Any):
        settings = {
            'token_normalize_func': lambda name: name.replace('_', '-'),
            'max_content_width': 120,
            **(context_settings or {}),
        }
        super().__init__(*args, context_settings=settings, **kwargs)
        self.keep_memory = keep_memory

    def invoke(self, ctx: click.Context) -> Any:
        if self.keep_memory:
            keep_freed_memory()
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            sentence = error_sentence(error)
            if sentence is None:
                raise
            raise click.ClickException(sentence) from error


def error_sentence(error: ValueError | OSError) -> str | None:
    """The message to show instead of a traceback, or None where the traceback is what helps.

    An OSError names a file and what the system said. A ValueError is a sentence for the user where this project's own
    code raised it; one from inside a library is a bug in its caller, and keeps its traceback.
    """
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:
            return None
        if error.strerror and isinstance(error.filename, (str, bytes, os.PathLike)):
            return f'{os.fsdecode(error.filename)}: {error.strerror}'
        return str(error) or None
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not str(error):
        return None
    raised_in = Path(frames[-1].filename).resolve()
    own_code = raised_in.is_relative_to(_PROJECT_ROOT) and 'site-packages' not in raised_in.parts
    return str(error) if own_code else None


# ---------------------------------------------------------------------------------------------------------------------
# Usage errors


def usage_error(option: str, message: str) -> click.BadParameter:
    """Return the error for an unusable value of `option`, such as '--batch' (exit status 2)."""
    return click.BadParameter(message, param_hint=f"'{option}'")


@contextlib.contextmanager
def usage_errors(option: str | None = None, **options: str) -> Iterator[None]:
    """Within this context, errors of libraries become usage errors that name the option at fault (exit status 2).

    Args:
        option: Option to name for a ValueError or OSError. None: only `InvalidArgument` is converted.
        **options: Options for arguments of `InvalidArgument` that are called something else: `w='--projected-w'`.
            Any other argument 'batch_gpu' becomes '--batch-gpu'.
    """
    try:
        yield
    except InvalidArgument as error:
        raise usage_error(options.get(error.argument, option_name(error.argument)), str(error)) from error
    except (ValueError, OSError) as error:
        message = None if option is None else error_sentence(error)
        if message is None:
            raise
        raise usage_error(option, message) from error


def option_name(argument: str) -> str:
    """Return the option of an argument: '--batch-gpu' for 'batch_gpu'."""
    return '--' + argument.replace('_', '-')


# ---------------------------------------------------------------------------------------------------------------------
# Option types


class _Bool(click.ParamType):
    name = 'bool'
    _WORDS = {'1': True, 'true': True, 'yes': True, 'on': True, '0': False, 'false': False, 'no': False, 'off': False}

    def get_metavar(self, *_args: Any, **_kwargs: Any) -> str:
        return '0|1'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word not in self._WORDS:
            self.fail(f'{value!r} is neither yes nor no: write 1 or 0, true or false.', param, ctx)
        return self._WORDS[word]


class _Path(click.ParamType):
    name = 'path'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = os.fspath(value)
        if not text.strip():
            self.fail('the path is empty: give a file or folder.', param, ctx)
        return text if is_url(text) else os.path.expanduser(text)


BOOL = _Bool()
"""1/0, true/false."""

PATH = _Path()
"""A path with `~` expanded; URLs pass unchanged. Whether it exists is the script's question."""


class FiniteFloat(click.FloatRange):
    """A click.FloatRange that refuses `nan` and `inf` too: those compare as if they were in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f'{value!r} is not a finite number.', param, ctx)
        return super().convert(number, param, ctx)


class Size(click.ParamType):
    """Two positive integers, written WxH: (width, height), or (columns, rows).

    Args:
        example: A value to show in error messages.
        max_side: The largest number allowed.
    """

    name = 'WxH'

    def __init__(self, example: str = '8x4', max_side: int = 9999):
        self._example, self._max_side = example, max_side

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d{0,8})[xX×]([1-9]\d{0,8})', str(value).strip())
        if match is None or max(int(match[1]), int(match[2])) > self._max_side:
            self.fail(
                f'expected WxH, two numbers from 1 to {self._max_side} such as {self._example}, got {value!r}.',
                param,
                ctx,
            )
        return int(match[1]), int(match[2])


def parse_int_list(text: str) -> list[int]:
    """`"0,1,4-6"` → `[0, 1, 4, 5, 6]`, in the order given. Raises ValueError with a sentence."""
    numbers: list[int] = []
    for item in text.split(','):
        match = re.fullmatch(r'\s*(\d+)\s*(?:-\s*(\d+)\s*)?', item)
        if match is None:
            raise ValueError(f'{text!r} is no list of numbers: write numbers and ranges with commas, such as 0,1,4-6.')
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise ValueError(f'the range {item.strip()!r} runs backwards: write the smaller number first.')
        if len(numbers) + last - first >= _MAX_LIST_LENGTH:
            raise ValueError(f'{text!r} names more than {_MAX_LIST_LENGTH:,} numbers: give a shorter range.')
        numbers.extend(range(first, last + 1))
    return numbers


class SeedRange(click.ParamType):
    """A list of non-negative integers such as `0,1,4-6`."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return parse_int_list(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def check_outdir(outdir: str, option: str = '--outdir') -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written; nothing is made yet.

    Raises click.BadParameter.
    """
    existing = os.path.abspath(outdir)
    while not os.path.exists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        reason = f'cannot be a folder, as {existing!r} is a file'
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f'cannot be written, as {existing!r} is read-only to you'
    else:
        return
    raise usage_error(option, f'{outdir!r} {reason}: choose another folder.')


# ---------------------------------------------------------------------------------------------------------------------
# Device


def device_option() -> Callable:
    """Decorator that adds `--device` (a string; the script passes it to `resolve_device`)."""
    return click.option(
        '--device',
        metavar='auto|cuda|cuda:N|mps|cpu',
        default='auto',
        show_default=True,
        help='Where the networks run; auto takes the first that is available of cuda, mps, cpu',
    )


def available_devices() -> list[str]:
    """Devices of this machine, the preferred one first: `cuda:0` …, `mps`, `cpu`."""
    import torch

    devices = [f'cuda:{index}' for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append('mps')
    return [*devices, 'cpu']


def resolve_device(name: str) -> torch.device:
    """The device that `--device=name` means on this machine.

    Raises click.BadParameter where the name is none or the device is not there, with what is.
    """
    import torch

    wanted = name.strip().lower()
    if re.fullmatch(r'auto|cpu|mps|cuda(:\d+)?', wanted) is None:
        raise usage_error('--device', f'unknown device {name!r}: choose auto, cuda, cuda:N, mps or cpu.')
    available = available_devices()
    if wanted == 'auto':
        return torch.device('cuda' if available[0].startswith('cuda') else available[0])
    if wanted in available or (wanted == 'cuda' and 'cuda:0' in available):
        return torch.device(wanted)
    raise usage_error('--device', f'{name!r} is not available on this machine, which has {", ".join(available)}.')
