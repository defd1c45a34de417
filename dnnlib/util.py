"""Attribute dictionaries, and objects that are looked up or constructed by name.

Configurations are stored as JSON, so they refer to classes by name. The functions of other modules that users know
under the name `dnnlib.util` are re-exported here.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

from dnnlib.downloads import DownloadError, is_url, make_cache_dir_path, open_url
from dnnlib.text import format_time

__all__ = [
    'DownloadError',
    'EasyDict',
    'call_func_by_name',
    'construct_class_by_name',
    'format_time',
    'get_obj_by_name',
    'is_url',
    'make_cache_dir_path',
    'open_url',
]

# ---------------------------------------------------------------------------------------------------------------------
# Attribute dictionary


class EasyDict(dict):
    """A dict whose items are also attributes: `d.lr = 0.1` is `d["lr"] = 0.1`.

    Network pickles contain `init_kwargs` of this type under the name `dnnlib.util.EasyDict`, so it remains a plain dict
    without state of its own.
    """

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        raise AttributeError(f'EasyDict has no item {key!r}')

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        if key not in self:
            raise AttributeError(f'EasyDict has no item {key!r}')
        del self[key]


# ---------------------------------------------------------------------------------------------------------------------
# Objects by name


def _import_if_exists(module_name: str) -> types.ModuleType | None:
    """Import a module, or return None if it does not exist. Errors inside an existing module are not hidden."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ''
        if module_name == missing or module_name.startswith(missing + '.'):
            return None
        raise


def get_obj_by_name(name: str) -> Any:
    """Return the object with the dotted name `package.module.Class[.attribute]`.

    Raises:
        ImportError: The module or the attribute does not exist.
    """
    parts = name.split('.')
    for module_length in range(len(parts) - 1, 0, -1):
        module = _import_if_exists('.'.join(parts[:module_length]))
        if module is None:
            continue
        obj: Any = module
        for depth, attribute in enumerate(parts[module_length:], start=module_length):
            if not hasattr(obj, attribute):
                raise ImportError(
                    f'{".".join(parts[:depth])} has no attribute {attribute!r} (while looking up {name!r})'
                )
            obj = getattr(obj, attribute)
        return obj
    raise ImportError(f'No module found for {name!r}: the name must have the form package.module.object')


def call_func_by_name(*args: Any, func_name: str, **kwargs: Any) -> Any:
    """Call the function or class with the given dotted name."""
    function = get_obj_by_name(func_name)
    if not callable(function):
        raise TypeError(f'{func_name!r} is a {type(function).__name__} and cannot be called')
    return function(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Construct an object from a configuration such as `dict(class_name="torch.optim.Adam", lr=0.002)`."""
    return call_func_by_name(*args, func_name=class_name, **kwargs)
