"""Errors that libraries raise for a mistake of the user; they know arguments, not command-line options.

`dnnlib.cli.usage_errors` turns them into usage errors that name the option.
"""

from __future__ import annotations


class InvalidArgument(ValueError):
    """An argument that a function cannot use.

    Args:
        argument: Name of the argument, such as 'batch_gpu'.
        message: One sentence: the value, the rule, and how to fix it.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(message)
        self.argument = argument

    def __reduce__(self) -> tuple[type[InvalidArgument], tuple[str, str]]:
        return type(self), (self.argument, str(self))
