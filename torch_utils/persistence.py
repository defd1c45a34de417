"""Objects whose pickles contain their source code.

A network that is pickled the ordinary way can only be loaded where the same class can be imported. A class with the
decorator `@persistent_class` is pickled together with the text of the module that defines it, so that `pickle.load`
still gives a working network years later, when the code has changed:

    @persistence.persistent_class
    class Generator(torch.nn.Module): ...

    pickle.dump(G, f)       # writes the state of G and the whole source file of Generator
    G = pickle.load(f)      # runs that source as a new module, then restores the state

Loading such a pickle therefore runs code from it. `network_files.reading.load_network_pkl` reads the same files without
running anything.

In the pickle, an object is a call of `_reconstruct_persistent_obj` with one dict: `type` ('class'), `version` (6),
`module_src` (text), `class_name`, `state` (the object's `__dict__`, in which `_init_args` and `_init_kwargs` are
the arguments of its constructor). This layout is shared with the published StyleGAN code and must not change. Dicts
inside the arguments are stored as `dnnlib.EasyDict`, because programs that open pickles set attributes on them
(`init_kwargs.synthesis_kwargs.num_fp16_res = 4`).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import linecache
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

import dnnlib

FORMAT_VERSION = 6

C = TypeVar('C', bound=type)

_source_by_class: dict[type, str | None] = {}  # every decorated class; None: its source cannot be read
_source_by_module_name: dict[str, str] = {}  # modules created from a pickled source
_module_by_source: dict[str, types.ModuleType] = {}  # one module per distinct text, imported or embedded
_import_hooks: list[Callable[[dnnlib.EasyDict], dnnlib.EasyDict]] = []


# ---------------------------------------------------------------------------------------------------------------------
# Interface


def persistent_class(cls: C) -> C:
    """Decorate a class so that its instances store their constructor's arguments and are pickled with their source.

    The class gets the read-only properties `init_args` (tuple) and `init_kwargs` (EasyDict); each access returns a new
    deep copy. The class itself is returned, so names, `inspect` and `isinstance` behave as without the decorator. A
    subclass needs the decorator too; without it, it is pickled by reference.
    """
    decorated: Any = cls
    if cls in _source_by_class:
        return cls
    _source_by_class[cls] = _read_source(cls.__module__)
    _remember_arguments(cls)
    decorated.init_args = property(_get_init_args, doc='Copy of the positional arguments of the constructor (tuple).')
    decorated.init_kwargs = property(
        _get_init_kwargs, doc='Copy of the keyword arguments of the constructor (EasyDict).'
    )
    decorated.__reduce_ex__ = _make_reduce_ex(super_reduce_ex=cls.__reduce_ex__)
    if not hasattr(cls, '__deepcopy__'):
        decorated.__deepcopy__ = _deepcopy
    return cls


def is_persistent(obj: Any) -> bool:
    """Return whether `obj` is a persistent class or an instance of one."""
    return (obj if isinstance(obj, type) else type(obj)) in _source_by_class


def import_hook(hook: Callable[[dnnlib.EasyDict], dnnlib.EasyDict]) -> Callable[[dnnlib.EasyDict], dnnlib.EasyDict]:
    """Register a function that may modify objects while they are unpickled; usable as a decorator.

    The hook is called once per object with an EasyDict of `type`, `version`, `module_src`, `class_name` and `state`,
    and returns it, modified or not. Hooks run in the order of their registration.
    """
    if not callable(hook):
        raise TypeError(f'import_hook expects a function from meta to meta, got {hook!r}')
    _import_hooks.append(hook)
    return hook


def _reconstruct_persistent_obj(meta: dict) -> Any:
    """Rebuild an object; pickles call this function, so its name is part of the file format."""
    meta = dnnlib.EasyDict(meta)
    meta.state = dnnlib.EasyDict(meta.state)
    for hook in _import_hooks:
        meta = hook(meta)
        if not isinstance(meta, dict):
            raise TypeError(f'import hook {hook!r} returned {meta!r}, but must return the meta that it received')
    if meta.type != 'class':
        raise pickle.UnpicklingError(
            f"cannot rebuild a persistent object of type {meta.type!r}: only 'class' is supported"
        )

    cls = getattr(_module_from_source(meta.module_src), meta.class_name, None)
    if not isinstance(cls, type):
        raise pickle.UnpicklingError(f'the source in the pickle defines no class {meta.class_name!r}')
    obj = _new_object(cls)
    _set_state(obj, dict(meta.state))
    return obj


# ---------------------------------------------------------------------------------------------------------------------
# Sources and modules


def _read_source(module_name: str) -> str | None:
    """Return the text of a loaded module, and remember that the text stands for this module.

    It is read when the class is created, not when it is pickled, because the file may be edited during a training run.
    """
    if module_name in _source_by_module_name:
        return _source_by_module_name[module_name]
    module = sys.modules.get(module_name)
    if module is None:
        return None
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # an interactive session, or a module without a file
        return None
    source = sys.intern(source)  # so that pickle writes the text once for all classes of a module
    _module_by_source.setdefault(source, module)
    return source


def _module_from_source(source: str) -> types.ModuleType:
    """Return the module that a text stands for: the imported one if its text is the same, otherwise a new one."""
    if source in _module_by_source:
        return _module_by_source[source]
    name = 'persistent_source_' + hashlib.sha256(source.encode()).hexdigest()[:16]
    file_name = f'<{name}>'
    module = types.ModuleType(name)
    module.__file__ = file_name
    linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)  # for tracebacks
    _source_by_module_name[name] = source
    _module_by_source[source] = module
    sys.modules[name] = module
    try:
        exec(compile(source, file_name, 'exec'), module.__dict__)
    except BaseException:
        del _source_by_module_name[name], _module_by_source[source], sys.modules[name]
        raise
    return module


# ---------------------------------------------------------------------------------------------------------------------
# Methods added by the decorator


def _remember_arguments(cls: Any) -> None:
    original_init = cls.__init__

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if _decorated_base(type(self)) is cls:  # not while a derived class calls super().__init__()
            self.__dict__['_init_args'] = _copy_of_arguments(args)
            self.__dict__['_init_kwargs'] = dict(_copy_of_arguments(kwargs))
        original_init(self, *args, **kwargs)

    cls.__init__ = __init__


def _decorated_base(cls: type) -> type:
    return next(base for base in cls.__mro__ if base in _source_by_class)


def _copy_of_arguments(value: Any) -> Any:
    """Return a deep copy in which every kind of dict is an EasyDict."""
    if isinstance(value, dict):
        return dnnlib.EasyDict({key: _copy_of_arguments(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(_copy_of_arguments(item) for item in value)
    return copy.deepcopy(value)


def _get_init_args(self: Any) -> tuple[Any, ...]:
    return _copy_of_arguments(self._init_args)


def _get_init_kwargs(self: Any) -> dnnlib.EasyDict:
    return _copy_of_arguments(self._init_kwargs)


def _make_reduce_ex(super_reduce_ex: Callable[..., Any]) -> Callable[..., Any]:
    def __reduce_ex__(self: Any, protocol: int) -> Any:
        if not is_persistent(self):  # a subclass without the decorator
            return super_reduce_ex(self, protocol)
        cls = type(self)
        source = _source_by_class[cls]
        if source is None:
            raise pickle.PicklingError(
                f'cannot pickle {cls.__qualname__}: the source of module {cls.__module__!r} cannot be read; '
                'persistent classes must be defined in a file'
            )
        _check_plain(self._init_args, f'{cls.__qualname__}: constructor argument')
        _check_plain(self._init_kwargs, f'{cls.__qualname__}: constructor argument')
        state = _with_easy_dicts(_get_state(self))
        meta = dict(type='class', version=FORMAT_VERSION, module_src=source, class_name=cls.__name__, state=state)
        return _reconstruct_persistent_obj, (meta,)

    return __reduce_ex__


def _with_easy_dicts(state: Any) -> Any:
    """Return the state of an object with EasyDicts in its arguments, even if it comes from a pickle without them."""
    if not isinstance(state, dict):  # of a class with its own `__getstate__`
        return state
    state = dict(state)
    if isinstance(state.get('_init_args'), tuple):
        state['_init_args'] = _copy_of_arguments(state['_init_args'])
    if isinstance(state.get('_init_kwargs'), dict):
        state['_init_kwargs'] = dict(_copy_of_arguments(state['_init_kwargs']))
    return state


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """Copy an object within one process, without source and hooks; it may refer to itself."""
    clone = _new_object(type(self))
    memo[id(self)] = clone
    _set_state(clone, copy.deepcopy(_get_state(self), memo))
    return clone


def _new_object(cls: Any) -> Any:
    """Create an instance without calling the constructor."""
    return cls.__new__(cls)


def _get_state(obj: Any) -> dict:
    return obj.__getstate__() if hasattr(obj, '__getstate__') else obj.__dict__  # object has it since Python 3.11


def _set_state(obj: Any, state: dict) -> None:
    if hasattr(obj, '__setstate__'):
        obj.__setstate__(state)
    else:
        obj.__dict__.update(state)


def _check_plain(value: Any, where: str) -> None:
    """Raise PicklingError unless constructor arguments are plain data, which can be read without any of our code."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f'{where} {key!r}')
    elif isinstance(value, (list, tuple, set, frozenset)) and type(value).__module__ in ('builtins', 'torch'):
        for item in value:
            _check_plain(item, where)
    elif not isinstance(value, _PLAIN_TYPES):
        raise pickle.PicklingError(
            f'{where} is a {type(value).__module__}.{type(value).__qualname__}; only plain data (numbers, text, '
            'lists, dicts, arrays, tensors) can be pickled with a persistent object'
        )


_PLAIN_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_PLAIN_TYPES = (*_PLAIN_SCALARS, np.generic, np.ndarray, torch.Tensor, torch.device, torch.dtype)
