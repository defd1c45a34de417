"""The type of the option `--metrics`. No other module of this package imports click."""

from __future__ import annotations

from typing import Any

import click

from metrics.metric_table import parse_names


class MetricNames(click.ParamType):
    """Names of metrics, separated by commas, or nothing or `none`: a tuple of names."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Check the names and return them; a tuple, such as a default, is returned unchanged."""
        try:
            return value if isinstance(value, tuple) else parse_names(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
