"""The type of the options that name a network. No other module of this package imports click."""

from __future__ import annotations

from typing import Any

import click

from dnnlib.cli import PATH
from dnnlib.errors import error_sentence
from network_files import snapshots


class NetworkFile(click.ParamType):
    """A file or URL with networks; the directory of a training run becomes the path of its newest network pickle."""

    name = 'path'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the file or URL; the script checks whether it exists."""
        path = PATH.convert(value, param, ctx)
        try:
            return snapshots.network_file(path)
        except (ValueError, OSError) as error:
            self.fail(error_sentence(error) or str(error), param, ctx)
