"""Behavior that all command lines share.

* `@click.command(cls=Command)`: option names may be written with `-` or `_`, and a ValueError or OSError with a message
  for the user ends the command with that message (exit status 1; usage errors: 2) instead of a traceback. A terminal
  that is closed or full, or cannot show a character, ends nothing (`dnnlib.streams`).
* Option types: `BOOL`, `PATH`, `FiniteFloat(min=...)`, `SeedRange()`, `Size()`; `check_outdir(path)`.
* Whatever a command prints has no control characters (`dnnlib.terminal`), and the lines of its errors have a limited
  length, because both may quote files.
* `usage_error(option, message)` and, for errors of libraries, `usage_errors(option)`: exit status 2, naming the option.
* `@device_option()` and `resolve_device(name)`: `--device auto|cuda|cuda:N|mps|cpu`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from dnnlib.errors import InvalidArgument, error_sentence, option_name
from dnnlib.machine import keep_freed_memory
from dnnlib.streams import lost_output, protect_standard_streams
from dnnlib.terminal import clean_output
from dnnlib.text import excerpt, message_line, message_lines
from dnnlib.util import is_url

if TYPE_CHECKING:
    import torch

_MAX_LIST_LENGTH = 10_000_000

# ---------------------------------------------------------------------------------------------------------------------
# Command


class _SafeOutput(click.Command):
    """A command whose output is protected: see the top of this file."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and exit; with status 1 if it was successful, but the text that it printed was lost.

        Nothing that it prints controls the terminal.
        """
        protect_standard_streams()
        with clean_output():
            try:
                return super().main(*args, **kwargs)
            except SystemExit as end:
                lost = lost_output() if end.code in (None, 0) else None
                if lost is None:
                    raise
                click.echo(f'Error: {error_sentence(lost)}', err=True)
                raise SystemExit(1) from None


class Group(_SafeOutput, click.Group):
    """A group of commands, each of which is a `Command`."""


class Command(_SafeOutput):
    """A click command with the behavior described at the top of this file.

    Args:
        *args: Positional arguments of `click.Command`.
        keep_memory: Call `dnnlib.machine.keep_freed_memory` before the command runs.
        **kwargs: Keyword arguments of `click.Command`.
    """

    def __init__(self, *args: Any, keep_memory: bool = True, **kwargs: Any):
        kwargs['context_settings'] = {
            'token_normalize_func': lambda name: name.replace('_', '-'),
            'max_content_width': 120,
            **(kwargs.get('context_settings') or {}),
        }
        super().__init__(*args, **kwargs)
        self.keep_memory = keep_memory

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; the message of an error is safe to show."""
        with _messages_cleaned():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors with a message for the user become `click.ClickException`."""
        if self.keep_memory:
            keep_freed_memory()
        with _messages_cleaned():
            try:
                return super().invoke(ctx)
            except (ValueError, OSError) as error:
                sentence = error_sentence(error)
                if sentence is None:
                    raise
                raise click.ClickException(message_line(sentence)) from error


@contextlib.contextmanager
def _messages_cleaned() -> Iterator[None]:
    """Within this context, the messages of click's errors are made safe to show: files may be quoted in them."""
    try:
        yield
    except click.ClickException as error:
        message = message_lines(error.format_message())
        error.format_message = lambda: message  # type: ignore[method-assign]
        raise


# ---------------------------------------------------------------------------------------------------------------------
# Usage errors


def usage_error(option: str, message: str) -> click.BadParameter:
    """Return the error for an invalid value of `option`, such as '--batch' (exit status 2)."""
    return click.BadParameter(message, param_hint=f"'{option}'")


@contextlib.contextmanager
def usage_errors(option: str | None = None, **options: str) -> Iterator[None]:
    """Within this context, errors of libraries become usage errors that name the option at fault (exit status 2).

    Args:
        option: Option to name for a ValueError or OSError. If None, only `InvalidArgument` is converted.
        **options: Options of arguments of `InvalidArgument` that have another name, such as `w='--projected-w'`. By
            default, 'batch_gpu' becomes '--batch-gpu'.

    Raises:
        click.BadParameter: The block raised one of these errors.
    """
    try:
        yield
    except InvalidArgument as error:
        option = options.get(error.argument, option_name(error.argument))
        raise usage_error(option, message_line(error)) from error
    except (ValueError, OSError) as error:
        message = error_sentence(error)
        if option is None or message is None:
            raise
        raise usage_error(option, message_line(message)) from error


# ---------------------------------------------------------------------------------------------------------------------
# Option types


class _Bool(click.ParamType):
    name = 'bool'
    _VALUES = {'1': True, 'true': True, 'yes': True, 'on': True, '0': False, 'false': False, 'no': False, 'off': False}

    def get_metavar(self, *_args: Any, **_kwargs: Any) -> str:
        return '0|1'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if text not in self._VALUES:
            self.fail(f'expected a boolean (1, 0, true or false), got {value!r}.', param, ctx)
        return self._VALUES[text]


class _Path(click.ParamType):
    name = 'path'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = os.fspath(value)
        if not text.strip():
            self.fail('the path is empty; specify a file or folder.', param, ctx)
        return text if is_url(text) else os.path.expanduser(text)


BOOL = _Bool()
"""A boolean: 1/0, true/false, yes/no or on/off."""

PATH = _Path()
"""A path with `~` expanded, or a URL, which is left unchanged. The script checks whether the path exists."""


class FiniteFloat(click.FloatRange):
    """A `click.FloatRange` that also rejects `nan` and `inf`, which pass its comparisons."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f'must be a finite number, got {value!r}.', param, ctx)
        return super().convert(number, param, ctx)

    def _describe_range(self) -> str:
        return '' if self.min is None and self.max is None else super()._describe_range()


class Size(click.ParamType):
    """Two positive integers, written WxH: (width, height) or (columns, rows).

    Args:
        example: Value to show in error messages.
        max_side: Largest number allowed.
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
                f'expected WxH, two integers from 1 to {self._max_side} such as {self._example}, got {value!r}.',
                param,
                ctx,
            )
        return int(match[1]), int(match[2])


def parse_int_list(text: str) -> list[int]:
    """Parse a list of integers and ranges: '0,1,4-6' becomes [0, 1, 4, 5, 6], in the given order.

    Blanks around numbers do not count. A range ascends.

    Raises:
        ValueError: The text is not such a list; the message is a sentence for the user.
    """
    numbers: list[int] = []
    for item in text.split(','):
        match = re.fullmatch(r'\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?', item)
        if match is None:
            hint = ' Write the list without blanks, or in quotes.' if text.rstrip().endswith((',', '-')) else ''
            raise ValueError(
                f'expected comma-separated integers and ranges such as 0,1,4-6, got {excerpt(repr(text), 100)}.{hint}'
            )
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise ValueError(f'the range {item.strip()!r} is in descending order; write {last}-{first}.')
        if len(numbers) + last - first >= _MAX_LIST_LENGTH:
            raise ValueError(f'{text!r} contains more than {_MAX_LIST_LENGTH:,} integers; use a shorter range.')
        numbers.extend(range(first, last + 1))
    return numbers


class SeedRange(click.ParamType):
    """A list of non-negative integers and ascending ranges such as `0,1,4-6`; see `parse_int_list`."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return parse_int_list(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def check_outdir(outdir: str, option: str = '--outdir') -> None:
    """Check that a folder is writable or can be created; nothing is created yet.

    Raises:
        click.BadParameter: The folder cannot be used.
    """
    existing = os.path.abspath(outdir)
    while not os.path.exists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        reason = f'cannot be a folder because {existing!r} is a file'
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f'cannot be written because you have no write permission for {existing!r}'
    else:
        return
    raise usage_error(option, f'{outdir!r} {reason}; choose another folder.')


# ---------------------------------------------------------------------------------------------------------------------
# Device


def max_pixels_option(default: int, what: str) -> Callable:
    """Return the decorator for `--max-pixels`, the limit of pictures from outside.

    Args:
        default: Number of pixels.
        what: The pictures, in the plural.
    """
    return click.option(
        '--max-pixels',
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        metavar='N',
        help=f'Refuse larger {what} before they are decoded, which takes about 8 bytes of memory per pixel',
    )


def device_option() -> Callable[[Callable], Callable]:
    """Return a decorator that adds `--device`, a string for `resolve_device`."""
    return click.option(
        '--device',
        metavar='auto|cuda|cuda:N|mps|cpu',
        default='auto',
        show_default=True,
        help='Device to run on; auto selects the first one available of cuda, mps, cpu',
    )


def cuda_graphs_option() -> Callable:
    """Return the decorator for `--cuda-graphs`."""
    return click.option(
        '--cuda-graphs',
        type=BOOL,
        default=False,
        show_default=True,
        help='Record the kernels of the network once and replay them, on CUDA: faster for small images, with the same '
        'result (not yet proven on a GPU)',
    )


def warn_if_not_cuda(option: str, device: torch.device) -> None:
    """Print that an option has no effect on this device if it is not a CUDA device."""
    if device.type != 'cuda':
        click.echo(f'Warning: {option} is ignored, since the device is {device}, not cuda.', err=True)


def available_devices() -> list[str]:
    """Return the devices of this machine, the fastest first: 'cuda:0', ..., 'mps', 'cpu'."""
    import torch

    devices = [f'cuda:{index}' for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append('mps')
    return [*devices, 'cpu']


def resolve_device(name: str) -> torch.device:
    """Return the device that `--device=name` selects on this machine.

    Raises:
        click.BadParameter: The name is unknown, or the device is not available.
    """
    import torch

    requested = name.strip().lower()
    if re.fullmatch(r'auto|cpu|mps|cuda(:\d+)?', requested) is None:
        raise usage_error('--device', f'Unknown device {name!r}. Choose from auto, cuda, cuda:N, mps or cpu.')
    available = available_devices()
    if requested == 'auto':
        return torch.device('cuda' if available[0].startswith('cuda') else available[0])
    if requested in available or (requested == 'cuda' and 'cuda:0' in available):
        return torch.device(requested)
    raise usage_error('--device', f'{name!r} is not available on this machine; use one of {", ".join(available)}.')
