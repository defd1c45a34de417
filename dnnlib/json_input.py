"""Reading JSON from outside: files of a run directory, datasets, caches and metadata.

Whoever made the file, parsing it takes memory and time in proportion to its size, and ends with a value or with one
sentence. What the value may be is checked by its reader.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, NoReturn

from dnnlib.files import read_file

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32


def read_json(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: Regular file.
        max_bytes: Largest size that is read.

    Raises:
        OSError: The file does not exist, is not a regular file, or cannot be read.
        ValueError: The file is too large, or not valid JSON; one sentence that begins with its path.
    """
    return parse_json(read_file(path, max_bytes), os.fspath(path), max_bytes)


def parse_json(content: bytes | str, name: str, max_bytes: int = MAX_BYTES, allow_nonfinite: bool = False) -> Any:
    """Parse JSON. Numbers are finite, and containers are nested at most `MAX_DEPTH` deep.

    Args:
        content: The text, in UTF-8, with or without a byte order mark.
        name: How error messages refer to the file.
        max_bytes: Largest size that is parsed.
        allow_nonfinite: Accept NaN and infinite numbers, which statistics may contain.

    Raises:
        ValueError: The text is too large, or not valid JSON; one sentence that begins with `name`.
    """
    if len(content) > max_bytes:
        raise ValueError(f'{name} has {len(content)} bytes, but at most {max_bytes} are read.')
    try:
        text = content.decode('utf-8-sig') if isinstance(content, bytes) else content
        parse_number = float if allow_nonfinite else _finite_float
        parse_constant = float if allow_nonfinite else _reject_constant
        value = json.loads(text, parse_constant=parse_constant, parse_float=parse_number)
        _check_depth(value)
    except UnicodeDecodeError as error:
        raise ValueError(f'{name} is not valid JSON: it is not UTF-8 text.') from error
    except RecursionError:
        raise ValueError(f'{name} is not valid JSON: it is nested more than {MAX_DEPTH} deep.') from None
    except ValueError as error:  # json.JSONDecodeError, numbers of thousands of digits, and those raised below
        raise ValueError(f'{name} is not valid JSON: {str(error).rstrip(".")}.') from error
    return value


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f'{constant} is not a JSON number')


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError('it contains a number beyond the range of float64')
    return number


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
    if level:
        raise ValueError(f'it is nested more than {MAX_DEPTH} deep')
