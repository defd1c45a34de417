"""Attribute dictionaries, and objects constructed by name.

Configurations are stored as JSON, so they name classes by text. The functions of `dnnlib.downloads` and
`dnnlib.text` that users know under the name `dnnlib.util` are re-exported here.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

from dnnlib.downloads import DownloadError, is_url, make_cache_dir_path, open_url  # noqa: F401
from dnnlib.text import format_time  # noqa: F401

# ---------------------------------------------------------------------------------------------------------------------
# Attribute dictionary


class EasyDict(dict):
    """A dict whose items can be read, set and deleted as attributes too: `d.lr = 0.1` is `d["lr"] = 0.1`.

    Network pickles hold `init_kwargs` of this type under the name `dnnlib.util.EasyDict`, so it stays a plain dict
    underneath, with no state of its own.
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


def _import_if_there(module_name: str) -> types.ModuleType | None:
    """The module, or None where there is none of this name; an error inside an existing module passes through."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ''
        if module_name == missing or module_name.startswith(missing + '.'):
            return None
        raise


def get_obj_by_name(name: str) -> Any:
    """The object with the dotted name `package.module.Class[.attribute]`.

    Raises ImportError where no such module or attribute exists.
    """
    parts = name.split('.')
    for module_length in range(len(parts) - 1, 0, -1):
        module = _import_if_there('.'.join(parts[:module_length]))
        if module is None:
            continue
        found: Any = module
        for depth, attribute in enumerate(parts[module_length:], start=module_length):
            if not hasattr(found, attribute):
                raise ImportError(f'{".".join(parts[:depth])} has nothing named {attribute!r} (looking for {name!r})')
            found = getattr(found, attribute)
        return found
    raise ImportError(f'no module found for {name!r}: the name must read package.module.object')


def call_func_by_name(*args: Any, func_name: str, **kwargs: Any) -> Any:
    """Call the function (or class) with the given dotted name."""
    function = get_obj_by_name(func_name)
    if not callable(function):
        raise TypeError(f'{func_name!r} is a {type(function).__name__} and cannot be called')
    return function(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Construct an object from a configuration such as `dict(class_name="torch.optim.Adam", lr=0.002)`."""
    return call_func_by_name(*args, func_name=class_name, **kwargs)
