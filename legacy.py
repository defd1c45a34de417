"""Opens network pickles; as a script, rewrites them in this project's format.

`load_network_pkl` reads what `train.py` and the published PyTorch code write: a dict of `G`, `D`, `G_ema`,
`augment_pipe` and `training_set_kwargs`. Nothing in the file is executed. Its networks are rebuilt from the arguments
of their constructors with the classes of this project, then filled with the stored values, each of which must find
its place by name and shape. Only `trust=True` runs the source that the file carries, as `pickle.load` does.
"""

import functools
import inspect
import os
import pickle
from collections.abc import Iterator
from typing import Any, BinaryIO

import click
import torch

import dnnlib
import dnnlib.cli
from torch_utils import safe_pickle
from torch_utils.files import atomic_file
from torch_utils.safe_pickle import PersistentObject

NETWORK_KEYS = ('G', 'D', 'G_ema')
_EXPECTED_KEYS = (*NETWORK_KEYS, 'augment_pipe', 'training_set_kwargs')

_KNOWN_CLASSES = {
    'Generator': 'training.networks_stylegan2',
    'MappingNetwork': 'training.networks_stylegan2',
    'SynthesisNetwork': 'training.networks_stylegan2',
    'SynthesisBlock': 'training.networks_stylegan2',
    'SynthesisLayer': 'training.networks_stylegan2',
    'ToRGBLayer': 'training.networks_stylegan2',
    'FullyConnectedLayer': 'training.networks_stylegan2',
    'Conv2dLayer': 'training.networks_stylegan2',
    'Discriminator': 'training.networks_stylegan2',
    'DiscriminatorBlock': 'training.networks_stylegan2',
    'DiscriminatorEpilogue': 'training.networks_stylegan2',
    'MinibatchStdLayer': 'training.networks_stylegan2',
    'AugmentPipe': 'training.augment',
}
_FP16_SETTINGS = dict(num_fp16_res=4, conv_clamp=256)
_WAY_OUT = (
    'If you trust whoever made the file, let it run its own code: --trust-pickle (from Python: trust=True)'
)


class NetworkPickleError(ValueError):
    """A file that is no network pickle, or one that cannot be opened without running its code."""


def load_network_pkl(f: BinaryIO, force_fp16: bool = False, trust: bool = False) -> dict[str, Any]:
    """Read a network pickle.

    Args:
        f: Binary file, read from its current position to the end.
        force_fp16: Let the 4 highest resolutions compute in half precision (activations clamped at 256),
            whatever the file says.
        trust: Unpickle the ordinary way, which runs code in the file.

    Returns:
        Dict with `G`, `D`, `G_ema` (modules on the CPU, eval mode, without gradients; `G` and `D` are None where the
        file lacks them), `augment_pipe` (module or None), `training_set_kwargs` (dict or None), and the file's further
        keys as they are.

    Raises:
        NetworkPickleError: Not a network pickle, or it holds something that is not known. One sentence.
    """
    name = str(getattr(f, 'name', None) or 'the pickle')
    data = _load_trusted(f, name) if trust else _load_safely(f.read(), name)
    data = {**dict.fromkeys(_EXPECTED_KEYS), **data}
    if data['G_ema'] is None:
        raise NetworkPickleError(f"{name} has no network 'G_ema' (it has {', '.join(map(repr, data))})")

    for key, value in data.items():
        fp16 = force_fp16 and key in NETWORK_KEYS
        if isinstance(value, PersistentObject):
            data[key] = _rebuild(value, f'{name}: {key}', force_fp16=fp16)
        elif isinstance(value, torch.nn.Module):
            data[key] = _remake_with_fp16(value) if fp16 else value
        elif value is not None and key in (*NETWORK_KEYS, 'augment_pipe'):
            raise NetworkPickleError(f'{name}: {key} is a {type(value).__name__}, not a network')
        if isinstance(data[key], torch.nn.Module):
            data[key].eval().requires_grad_(False)
    return data


def open_network(
    path_or_url: str, force_fp16: bool = False, trust: bool = False, option: str = '--network'
) -> dict[str, Any]:
    """`load_network_pkl` for an option of a script: what goes wrong becomes a usage error that names the option."""
    try:
        with dnnlib.util.open_url(path_or_url) as f:
            return load_network_pkl(f, force_fp16=force_fp16, trust=trust)
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.BadParameter(f'{path_or_url}: {reason}', param_hint=f"'{option}'") from error
    except NetworkPickleError as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from error


# ---------------------------------------------------------------------------------------- reading the file


def _load_safely(content: bytes, name: str) -> dict:
    try:
        data = safe_pickle.loads(content)
    except safe_pickle.RefusedGlobal as error:
        if error.name.startswith('dnnlib.tflib.'):
            raise NetworkPickleError(
                f'{name} is a TensorFlow pickle ({error.name}); this version reads PyTorch pickles only'
            ) from error
        raise NetworkPickleError(f'{name} was not opened: {error}. Nothing in it was run. {_WAY_OUT}') from error
    except pickle.UnpicklingError as error:
        raise NetworkPickleError(f'{name} is not a network pickle: {error}') from error
    return _require_dict(data, name)


def _load_trusted(f: BinaryIO, name: str) -> dict:
    try:
        data = pickle.load(f)
    except (pickle.UnpicklingError, EOFError, ImportError, AttributeError) as error:
        raise NetworkPickleError(f'{name} cannot be unpickled, even trusting it: {error}') from error
    return _require_dict(data, name)


def _require_dict(data: Any, name: str) -> dict:
    if not isinstance(data, dict) or not any(key in data for key in NETWORK_KEYS):
        raise NetworkPickleError(
            f'{name} is not a network pickle: it holds a {type(data).__name__} without G, D or G_ema'
        )
    return dict(data)


# ------------------------------------------------------------------------------------ rebuilding networks


def _rebuild(stored: PersistentObject, where: str, force_fp16: bool) -> torch.nn.Module:
    """A module of our own class that equals the stored one. `where` names it in errors: 'FILE: G_ema'."""
    for path, part in _walk_modules(stored, where):
        if part.class_name not in _KNOWN_CLASSES:
            raise NetworkPickleError(
                f'{where} was not opened: its part {path} is of class {part.class_name!r}, which this version does '
                f'not know. {_WAY_OUT}'
            )
    cls = dnnlib.util.get_obj_by_name(f'{_KNOWN_CLASSES[stored.class_name]}.{stored.class_name}')
    args, kwargs = stored.state.get('_init_args', ()), stored.state.get('_init_kwargs', {})
    kwargs = _adapt_kwargs(stored.class_name, kwargs)
    if force_fp16:
        kwargs = _with_fp16(stored.class_name, kwargs)
    try:
        inspect.signature(cls).bind(*args, **kwargs)
        module = cls(*args, **kwargs)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        raise NetworkPickleError(
            f'{where} was not opened: {stored.class_name} cannot be built from the arguments in the file ({error}). '
            f'{_WAY_OUT}'
        ) from error
    _fill(module, dict(_stored_tensors(stored)), where)
    return module


def _walk_modules(stored: PersistentObject, path: str) -> Iterator[tuple[str, PersistentObject]]:
    """The stored module and all below it, with dotted paths."""
    pending = [(path, stored)]
    seen = set()
    while pending:
        path, part = pending.pop()
        if not isinstance(part, PersistentObject) or id(part) in seen:
            raise NetworkPickleError(f'{path} is a {type(part).__name__} where a module belongs')
        seen.add(id(part))
        yield path, part
        children = part.state.get('_modules', {})
        pending += [(f'{path}.{name}', child) for name, child in children.items() if child is not None]


def _stored_tensors(stored: PersistentObject) -> Iterator[tuple[str, torch.Tensor]]:
    for path, part in _walk_modules(stored, ''):
        for kind in ('_parameters', '_buffers'):
            for name, tensor in part.state.get(kind, {}).items():
                if tensor is not None:
                    yield f'{path}.{name}'.removeprefix('.'), tensor


def _fill(module: torch.nn.Module, stored: dict[str, torch.Tensor], where: str) -> None:
    """Copy every stored tensor to the parameter or buffer of its name; anything left on either side is an error."""
    ours = dict(module.named_parameters()) | dict(module.named_buffers())
    complaints = [f'{name} has no place' for name in stored if name not in ours]
    complaints += [f'{name} is missing' for name in ours if name not in stored]
    complaints += [
        f'{name} has shape {list(tensor.shape)} in place of {list(ours[name].shape)}'
        for name, tensor in stored.items()
        if name in ours and tensor.shape != ours[name].shape
    ]
    if complaints:
        more = f' and {len(complaints) - 5} more' if len(complaints) > 5 else ''
        raise NetworkPickleError(
            f'{where} was not opened: its values do not fit {type(module).__name__} '
            f'({"; ".join(complaints[:5])}{more}). {_WAY_OUT}'
        )
    with torch.no_grad():
        for name, tensor in stored.items():
            ours[name].copy_(tensor)


def _adapt_kwargs(class_name: str, kwargs: dict) -> dict:
    """Constructor arguments in today's layout: stylegan3 wrote the synthesis options beside `synthesis_kwargs`."""
    kwargs = dict(kwargs)
    if class_name == 'Generator':
        known = _parameter_names('training.networks_stylegan2.Generator')
        loose = {key: kwargs.pop(key) for key in list(kwargs) if key not in known}
        synthesis_kwargs = {**loose, **(kwargs.get('synthesis_kwargs') or {})}
        synthesis_kwargs.pop('fused_modconv_default', None)  # how convolutions are computed, not what they give
        if synthesis_kwargs:
            kwargs['synthesis_kwargs'] = synthesis_kwargs
    return kwargs


@functools.cache
def _parameter_names(class_name: str) -> frozenset[str]:
    return frozenset(inspect.signature(dnnlib.util.get_obj_by_name(class_name)).parameters)


# --------------------------------------------------------------------------------------- half precision


def _with_fp16(class_name: str, kwargs: dict) -> dict:
    if class_name == 'Generator':
        return {**kwargs, 'synthesis_kwargs': {**(kwargs.get('synthesis_kwargs') or {}), **_FP16_SETTINGS}}
    return {**kwargs, **_FP16_SETTINGS}


def _remake_with_fp16(old: torch.nn.Module) -> torch.nn.Module:
    """For trusted pickles, whose modules are of the class in the file."""
    new = type(old)(*old.init_args, **_with_fp16(type(old).__name__, dict(old.init_kwargs)))
    new.load_state_dict(old.state_dict())
    return new


# --------------------------------------------------------------------------------------------- the script


def save_network_pkl(data: dict[str, Any], path: str | os.PathLike) -> None:
    """Write a network pickle; under its final name there is either the whole file or what was there before."""
    with atomic_file(path) as f:
        pickle.dump(data, f)


@click.command(cls=dnnlib.cli.Command)
@click.option('--source', required=True, type=dnnlib.cli.PATH, help='Network pickle to read: file or URL')
@click.option('--dest', required=True, type=dnnlib.cli.PATH, help='Network pickle to write')
@click.option('--force-fp16', type=dnnlib.cli.BOOL, default=False, show_default=True,
              help='Compute the 4 highest resolutions in half precision')  # fmt: skip
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the source (only if you trust its maker)')
def main(source: str, dest: str, force_fp16: bool, trust_pickle: bool) -> None:
    """Rewrite a network pickle with the classes of this project.

    \b
    Example: python legacy.py --source=old-network.pkl --dest=network.pkl
    """
    data = open_network(source, force_fp16=force_fp16, trust=trust_pickle, option='--source')
    save_network_pkl(data, dest)
    print(f'Wrote {dest}')


if __name__ == '__main__':
    main()
