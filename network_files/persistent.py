"""Rebuild networks from the persistent objects in a pickle (see `torch_utils.persistence`) with our own classes.

A pickle contains the class name of an object, the arguments of its constructor, and its whole `__dict__`. A new object
is built from the first two; parameters and buffers are taken from the last, by way of `_modules`. Other attributes
follow from the constructor, and what a fork has added to them is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from dnnlib.text import excerpt
from network_files import construction
from network_files.errors import NetworkPickleError, UnsupportedNetworkError
from network_files.generations import KNOWN_CLASSES
from network_files.safe_pickle import ForeignObject, Global, PersistentObject

_MAX_DEPTH = 32

# Modules of classes that are pickled without persistence, by forks and early versions of the published code.
_MODULE_NAMES = ('training.networks', 'training.networks_stylegan2', 'training.networks_stylegan3', 'training.augment')


def _named_class(class_name: str) -> Callable[[], PersistentObject]:
    return lambda: PersistentObject(class_name, version=0, module_src='', state={})


READERS = {
    f'{module}.{class_name}': _named_class(class_name) for module in _MODULE_NAMES for class_name in KNOWN_CLASSES
}
"""Readers for `safe_pickle.loads`: objects that a pickle names by module and class, without their source."""


def rebuild(
    stored: PersistentObject | ForeignObject | Global,
    where: str,
    allowance: construction.Allowance,
    force_fp16: bool = False,
) -> torch.nn.Module:
    """Return a module of our own class that equals the stored one.

    Args:
        stored: Content of the pickle.
        where: Name of the module in errors: 'FILE: G_ema'.
        allowance: As in `construction.build`.
        force_fp16: As in `construction.build`.

    Raises:
        UnsupportedNetworkError: It contains an unknown class, or does not match ours.
        NetworkPickleError: It is damaged, or too large.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path, part in _walk(stored, where, allowance):
        if part.class_name not in KNOWN_CLASSES:
            raise _unsupported(part.class_name, _origin(part), path, where)
        tensors.update(_tensors_of(part, path, where, allowance))
    assert isinstance(stored, PersistentObject)  # `_walk` raises for the others
    args, kwargs = stored.state.get('_init_args', ()), stored.state.get('_init_kwargs', {})
    return construction.build(stored.class_name, args, kwargs, tensors, where, allowance, force_fp16)


def _unsupported(class_name: str, origin: str, path: str, where: str) -> UnsupportedNetworkError:
    part = f'its part {_name(where, path)}' if path else 'it'
    reason = f'{part} is of class {excerpt(class_name)!r} ({origin}), which this version does not support'
    return UnsupportedNetworkError(where, reason)


def _origin(part: PersistentObject) -> str:
    if part.module_src:
        num_lines = part.module_src.rstrip('\n').count('\n') + 1
        return f'from {num_lines} lines of source in the file'
    return 'named without source'


def _name(where: str, path: str) -> str:
    return excerpt('.'.join(filter(None, [where.rpartition(': ')[2], path])))


def _walk(stored: object, where: str, allowance: construction.Allowance) -> Iterator[tuple[str, PersistentObject]]:
    """Yield the stored module and all its submodules once, with dotted paths; '' is the module itself."""
    pending: list[tuple[str, Any, int]] = [('', stored, 0)]
    seen: set[int] = set()
    while pending:
        path, part, depth = pending.pop()
        if isinstance(part, (ForeignObject, Global)):
            class_name = part.class_name if isinstance(part, ForeignObject) else part.name
            raise _unsupported(class_name, 'named without source', path, where)
        if not isinstance(part, PersistentObject) or id(part) in seen or depth > _MAX_DEPTH:
            raise NetworkPickleError(f'{where}: {_name("", path)} is a {type(part).__name__} instead of a module')
        seen.add(id(part))
        yield path, part
        pending += [
            (_joined(path, name), child, depth + 1)
            for name, child in _entries(part, '_modules', where, allowance)
            if child is not None
        ]


def _tensors_of(
    part: PersistentObject, path: str, where: str, allowance: construction.Allowance
) -> Iterator[tuple[str, torch.Tensor]]:
    for kind in ('_parameters', '_buffers'):
        for name, tensor in _entries(part, kind, where, allowance):
            if isinstance(tensor, torch.Tensor):
                yield _joined(path, name), tensor
            elif tensor is not None:
                raise NetworkPickleError(f'{where}: {_joined(path, name)} is a {type(tensor).__name__}, not a tensor')


def _entries(
    part: PersistentObject, kind: str, where: str, allowance: construction.Allowance
) -> Iterator[tuple[str, object]]:
    entries = part.state.get(kind, {})
    if isinstance(entries, dict):
        allowance.spend_parts(len(entries), where)  # several modules may share the dict
    if not isinstance(entries, dict) or not all(isinstance(name, str) and len(name) < 100 for name in entries):
        raise NetworkPickleError(f'{where} was not opened: {kind} of a {excerpt(part.class_name)} is damaged')
    return iter(entries.items())


def _joined(path: str, name: str) -> str:
    return f'{path}.{name}' if path else name
