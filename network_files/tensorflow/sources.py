"""Read the networks of a TensorFlow pickle: keywords, variables and functions, without interpreting them yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnnlib.text import excerpt
from network_files.safe_pickle import PersistentObject
from network_files.tensorflow.keywords import OLDER_FUNCTIONS, PROGRESSIVE_FUNCTIONS
from network_files.tensorflow.messages import damaged, quoted, refusal
from network_files.tensorflow.variables import COUNTED_DOWN, PARTS

_OLDEST_VERSION = 4  # of the pickled object's layout: that of StyleGAN2
_MAX_DEPTH = 4  # of nested networks
_MAX_NETWORKS = 16  # inside one; those of StyleGAN2 have two
_MAX_KEYWORDS = 200  # those of StyleGAN2 have about 30; several may share an array


@dataclass(eq=False)
class TensorFlowNetwork(PersistentObject):
    """The content of a pickle about a `dnnlib.tflib` network; everything is in `state`."""

    class_name: str = 'dnnlib.tflib.network.Network'
    version: int = 0
    module_src: str = field(default='', repr=False)
    state: dict[str, Any] = field(default_factory=dict, repr=False)


READERS: dict[str, Callable[..., Any]] = {
    f'{path}.Network': lambda: TensorFlowNetwork()
    for path in ('dnnlib.tflib.network', 'dnnlib.tflib', 'tflib.network', 'tflib', 'tfutil')
}
"""Readers for `safe_pickle.loads`: the names that the class has had in the published code."""


@dataclass(eq=False)
class Source:
    """A network of the file with its nested networks; names and types have been checked, values have not."""

    where: str
    keywords: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, np.ndarray] = field(default_factory=dict)  # by name, without the part of a generator
    functions: set[str] = field(default_factory=set)

    @property
    def is_generator(self) -> bool:
        """Whether it is a generator, judging by its variables."""
        return any(re.search(r'/Const/|/mod_(weight|bias)$', name) for name in self.variables)

    @property
    def counts_down(self) -> bool:
        """Whether it is a network that grows progressively during training."""
        return bool(self.functions & PROGRESSIVE_FUNCTIONS) or any(map(COUNTED_DOWN.fullmatch, self.variables))

    def width_of(self, name: str) -> int | None:
        """Return the number of output features of a dense layer, or None if the file lacks it."""
        weight = self.variables.get(name)
        return weight.shape[1] if weight is not None and weight.ndim == 2 else None


def read_source(network: TensorFlowNetwork, where: str) -> Source:
    """Read a network and its nested networks; `where` names it in errors."""
    source = Source(where)
    states = list(_states(network, where))
    for state in states:
        for name, value in _entries(state, 'static_kwargs', where).items():
            source.keywords.setdefault(name, value)
        if len(source.keywords) > _MAX_KEYWORDS:
            raise damaged(where, f'it has more than {_MAX_KEYWORDS} keywords')
        _read_variables(state.get('variables'), source)
        function = state.get('build_func_name')
        source.functions.update([function.removesuffix('_func')] if isinstance(function, str) else [])
    if isinstance(source.keywords.get('synthesis_func'), str):
        source.functions.add(source.keywords['synthesis_func'])
    _refuse_older(source)
    for state in states:
        version = state.get('version')
        if type(version) is not int:
            raise damaged(where, 'its version is missing')
        if version < _OLDEST_VERSION:
            raise refusal(where, f'its version is {quoted(version)}, but StyleGAN2 starts with {_OLDEST_VERSION}')
    return source


def _states(network: TensorFlowNetwork, where: str) -> Iterator[dict[str, Any]]:
    """Yield the states of a network and of its nested networks, from the outside to the inside."""
    pending: list[tuple[Any, int]] = [(network, 0)]
    seen: set[int] = set()
    while pending:
        network, depth = pending.pop()
        if not isinstance(network, TensorFlowNetwork) or not isinstance(network.state, dict):
            raise damaged(where, f'found a {type(network).__name__} instead of a network')
        if id(network) in seen or depth > _MAX_DEPTH:
            raise damaged(where, 'a network contains itself')
        seen.add(id(network))
        if len(seen) > _MAX_NETWORKS:
            raise damaged(where, f'it contains more than {_MAX_NETWORKS} networks')
        yield network.state
        components = _entries(network.state, 'components', where)
        pending += [(component, depth + 1) for component in components.values()]


def _entries(state: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    entries = {} if state.get(key) is None else state[key]
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise damaged(where, f'{key} is not a dict with names')
    return entries


def _read_variables(pairs: Any, source: Source) -> None:
    if not isinstance(pairs, (list, tuple)):
        raise damaged(source.where, 'it has no list of variables')
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise damaged(source.where, 'its variables are not pairs of name and array')
        name = PARTS.sub('', pair[0])
        if not isinstance(pair[1], (np.ndarray, np.number, float)) or np.asarray(pair[1]).dtype.kind not in 'fiu':
            raise damaged(source.where, f'its variable {excerpt(name, 80)} is not an array of numbers')
        if name in source.variables:
            raise damaged(source.where, f'it has two variables {excerpt(name, 80)}')
        source.variables[name] = np.asarray(pair[1])


def _refuse_older(source: Source) -> None:
    older = [title for function, title in OLDER_FUNCTIONS.items() if function in source.functions]
    if any('/StyleMod/' in name for name in source.variables):
        older.append(OLDER_FUNCTIONS['G_style'])
    if older:
        raise refusal(source.where, f'it is a network of {older[0]}, but only those of StyleGAN2 can be converted')
    if 'LabelConcat/weight' in source.variables:
        raise refusal(
            source.where,
            'it is a conditional generator from before StyleGAN2-ADA, which normalizes latent and label together '
            '(LabelConcat/weight), whereas ours normalizes each separately: no weights make the two equal',
        )


def assign_keys(sources: list[Source], where: str) -> dict[str, Source]:
    """Return the networks by key: 'G', 'D' and 'G_ema', as far as the file contains them."""
    generators = [source for source in sources if source.is_generator]
    others = [source for source in sources if not source.is_generator]
    for source in others:
        if not any(re.search(r'^Output/|/Conv1_down/|FromRGB', name) for name in source.variables):
            raise refusal(source.where, 'it is neither a generator nor a discriminator of StyleGAN2')
    if not generators or len(generators) > 2 or len(others) > 1:
        raise refusal(
            where, f'it contains {len(generators)} generators and {len(others)} discriminators instead of G, D and Gs'
        )
    by_key = {'G': generators[0]} if len(generators) > 1 else {}
    return by_key | ({'D': others[0]} if others else {}) | {'G_ema': generators[-1]}
