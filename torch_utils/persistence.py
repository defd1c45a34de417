"""Objects whose pickles carry the source code they were made with.

A network that is pickled the ordinary way can only be opened where the very same class can be imported.
A class under `@persistent_class` is pickled together with the text of the module that defines it, so that
years later, beside a codebase that has moved on, `pickle.load` still gives a network that works:

    @persistence.persistent_class
    class Generator(torch.nn.Module): ...

    pickle.dump(G, f)       # writes the state of G and the whole source file of Generator
    G = pickle.load(f)      # runs that source as a module of its own, then fills in the state

Opening such a pickle therefore runs code from it. `legacy.load_network_pkl` reads the same files without.

In the pickle, an object is a call of `_reconstruct_persistent_obj` with one dict: `type` ('class'), `version` (6),
`module_src` (text), `class_name`, `state` (the object's `__dict__`, in which `_init_args` and `_init_kwargs` are
the arguments of its constructor). This layout is shared with the published StyleGAN code and must not change.
"""

import copy
import functools
import hashlib
import inspect
import linecache
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import dnnlib

FORMAT_VERSION = 6

_source_by_class: dict[type, str | None] = {}  # every decorated class; None: its source cannot be read
_source_by_module_name: dict[str, str] = {}  # modules that were made from a pickled source
_module_by_source: dict[str, types.ModuleType] = {}  # one module per distinct text, imported or embedded
_import_hooks: list[Callable[[dnnlib.EasyDict], dnnlib.EasyDict]] = []


# ------------------------------------------------------------------------------------------------ public


def persistent_class(cls: type) -> type:
    """Class decorator: instances remember their constructor's arguments and are pickled with their source.

    Adds to the class the read-only properties `init_args` (tuple) and `init_kwargs` (EasyDict); each access gives a
    fresh deep copy. The class itself is returned, so names, `inspect` and `isinstance` behave as without it.
    A subclass that should be persistent too needs the decorator itself; without it, it pickles by reference.
    """
    if cls in _source_by_class:
        return cls
    _source_by_class[cls] = _read_source(cls.__module__)
    _remember_arguments(cls)
    cls.init_args = property(_get_init_args, doc='Copy of the positional arguments of the constructor (tuple).')
    cls.init_kwargs = property(_get_init_kwargs, doc='Copy of the keyword arguments of the constructor (EasyDict).')
    cls.__reduce_ex__ = _make_reduce_ex(super_reduce_ex=cls.__reduce_ex__)
    if not hasattr(cls, '__deepcopy__'):
        cls.__deepcopy__ = _deepcopy
    return cls


def is_persistent(obj: Any) -> bool:
    """Whether `obj` is a persistent class or an instance of one."""
    return (obj if isinstance(obj, type) else type(obj)) in _source_by_class


def import_hook(hook: Callable[[dnnlib.EasyDict], dnnlib.EasyDict]) -> Callable[[dnnlib.EasyDict], dnnlib.EasyDict]:
    """Register a function that may change objects while they are unpickled; usable as a decorator.

    The hook is called once per object with an EasyDict of `type`, `version`, `module_src`, `class_name` and `state`
    and returns it, changed or not. Hooks run in the order of their registration.
    """
    if not callable(hook):
        raise TypeError(f'import_hook takes a function from meta to meta, not {hook!r}')
    _import_hooks.append(hook)
    return hook


def _reconstruct_persistent_obj(meta: dict) -> Any:
    """What a pickled object calls when it is loaded. The name is part of the file format."""
    meta = dnnlib.EasyDict(meta)
    meta.state = dnnlib.EasyDict(meta.state)
    for hook in _import_hooks:
        meta = hook(meta)
        if not isinstance(meta, dict):
            raise TypeError(f'import hook {hook!r} returned {meta!r}; it has to return the meta it was given')
    if meta.type != 'class':
        raise pickle.UnpicklingError(f"cannot rebuild a persistent object of type {meta.type!r}: only 'class' is known")

    cls = getattr(_module_from_source(meta.module_src), meta.class_name, None)
    if not isinstance(cls, type):
        raise pickle.UnpicklingError(f'the source in the pickle defines no class {meta.class_name!r}')
    obj = cls.__new__(cls)
    _set_state(obj, dict(meta.state))
    return obj


# ------------------------------------------------------------------------------------- source and modules


def _read_source(module_name: str) -> str | None:
    """Text of a loaded module, and a note that this module is what the text stands for.

    Read when the class is made, not when it is pickled: somebody may edit the file while a training run lasts.
    """
    if module_name in _source_by_module_name:
        return _source_by_module_name[module_name]
    module = sys.modules.get(module_name)
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # an interactive session, or a module without a file
        return None
    source = sys.intern(source)  # so that pickle writes the text once for all classes of a module
    _module_by_source.setdefault(source, module)
    return source


def _module_from_source(source: str) -> types.ModuleType:
    """The module a source text stands for: the imported one where the text is the same, else a new one."""
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


# ------------------------------------------------------------------------------ what the decorator adds


def _remember_arguments(cls: type) -> None:
    original_init = cls.__init__

    @functools.wraps(original_init)
    def __init__(self, *args, **kwargs):
        if _decorated_base(type(self)) is cls:  # not while a derived class calls super().__init__()
            self.__dict__['_init_args'] = _plain_copy(args)
            self.__dict__['_init_kwargs'] = _plain_copy(kwargs)
        original_init(self, *args, **kwargs)

    cls.__init__ = __init__


def _decorated_base(cls: type) -> type:
    return next(base for base in cls.__mro__ if base in _source_by_class)


def _plain_copy(value: Any) -> Any:
    """Deep copy in which every kind of dict has become a plain one, so that pickles need no class of ours for it."""
    if isinstance(value, dict):
        return {key: _plain_copy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain_copy(item) for item in value)
    return copy.deepcopy(value)


def _get_init_args(self) -> tuple:
    return copy.deepcopy(self._init_args)


def _get_init_kwargs(self) -> dnnlib.EasyDict:
    return dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))


def _make_reduce_ex(super_reduce_ex: Callable) -> Callable:
    def __reduce_ex__(self, protocol):
        if not is_persistent(self):  # a subclass without the decorator
            return super_reduce_ex(self, protocol)
        cls = type(self)
        source = _source_by_class[cls]
        if source is None:
            raise pickle.PicklingError(
                f'cannot pickle {cls.__qualname__}: the source of module {cls.__module__!r} cannot be read; '
                'define persistent classes in a file'
            )
        _require_plain(self._init_args, f'{cls.__qualname__}: constructor argument')
        _require_plain(self._init_kwargs, f'{cls.__qualname__}: constructor argument')
        meta = dict(
            type='class', version=FORMAT_VERSION, module_src=source, class_name=cls.__name__, state=_get_state(self)
        )
        return _reconstruct_persistent_obj, (meta,)

    return __reduce_ex__


def _deepcopy(self, memo: dict) -> Any:
    """Copies within one process need neither source nor hooks, and must cope with objects that refer to themselves."""
    clone = type(self).__new__(type(self))
    memo[id(self)] = clone
    _set_state(clone, copy.deepcopy(_get_state(self), memo))
    return clone


def _get_state(obj: Any) -> dict:
    return obj.__getstate__() if hasattr(obj, '__getstate__') else obj.__dict__  # object has it since Python 3.11


def _set_state(obj: Any, state: dict) -> None:
    if hasattr(obj, '__setstate__'):
        obj.__setstate__(state)
    else:
        obj.__dict__.update(state)


def _require_plain(value: Any, where: str) -> None:
    """Constructor arguments have to be readable without any code of ours: numbers, text, containers, arrays."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(item, f'{where} {key!r}')
    elif isinstance(value, (list, tuple, set, frozenset)) and type(value).__module__ in ('builtins', 'torch'):
        for item in value:
            _require_plain(item, where)
    elif not isinstance(value, _PLAIN_TYPES):
        raise pickle.PicklingError(
            f'{where} is a {type(value).__module__}.{type(value).__qualname__}; only plain data (numbers, text, '
            'lists, dicts, arrays, tensors) can be pickled with a persistent object'
        )


_PLAIN_TYPES = (
    type(None), bool, int, float, complex, str, bytes,
    np.generic, np.ndarray, torch.Tensor, torch.device, torch.dtype,
)  # fmt: skip
