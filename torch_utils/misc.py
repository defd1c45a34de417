"""Small helpers that networks and network pickles depend on.

The public names are part of the frozen interface: the source embedded in a network pickle imports them by name, in this
project's pickles and in the published ones.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar('T')

nan_to_num = torch.nan_to_num
symbolic_assert = torch._assert


@functools.lru_cache(maxsize=1024)
def _constant_from_bytes(
    data: bytes,
    value_shape: tuple[int, ...],
    numpy_dtype: str,
    shape: tuple[int, ...] | None,
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format,
) -> torch.Tensor:
    array = np.frombuffer(data, dtype=numpy_dtype).reshape(value_shape)
    with torch.inference_mode(False):  # autograd cannot use tensors made in inference mode
        tensor = torch.as_tensor(array.copy(), dtype=dtype, device=device)
        if shape is not None:
            tensor = tensor.expand(shape)
        return tensor.contiguous(memory_format=memory_format)


def constant(
    value: Any,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """Return a tensor with the given value, created once and then taken from a cache.

    This saves the copy from the host that `torch.tensor` makes each time. The result is shared: never modify it.

    Args:
        value: Number, nested sequence or array.
        shape: Shape to broadcast the value to; its own shape by default.
        dtype: Type of the result; PyTorch's default dtype by default.
        device: Device of the result; the CPU by default.
        memory_format: Memory format of the result; contiguous by default.
    """
    array = np.ascontiguousarray(value)
    return _constant_from_bytes(
        array.tobytes(),
        np.shape(value),
        array.dtype.str,
        None if shape is None else tuple(shape),
        dtype or torch.get_default_dtype(),
        torch.device('cpu' if device is None else device),
        memory_format or torch.contiguous_format,
    )


def suppress_tracer_warnings() -> contextlib.AbstractContextManager[None]:
    """Suppress the warnings of `torch.jit.trace` about Python values that it treats as constants."""
    # torch.compile and torch.export do not give them, and before PyTorch 2.7 cannot follow the other function.
    return contextlib.nullcontext() if torch.compiler.is_compiling() else _without_tracer_warnings()


@contextlib.contextmanager
def _without_tracer_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', category=torch.jit.TracerWarning)
        yield


def assert_shape(tensor: torch.Tensor, ref_shape: Iterable[int | None]) -> None:
    """Raise AssertionError unless `tensor` has the shape `ref_shape`, in which None stands for any size."""
    shape = tuple(tensor.shape)
    expected = tuple(ref_shape)
    fits = len(shape) == len(expected) and all(
        want is None or _is_same_size(size, want) for size, want in zip(shape, expected)
    )
    if not fits:
        sizes = ', '.join('any' if want is None else str(int(want)) for want in expected)
        raise AssertionError(f'expected a tensor of shape [{sizes}], got {list(shape)}')


def _is_same_size(size: Any, want: Any) -> bool:
    """Compare two sizes; those of `torch.export` stay symbols, so that an exported network takes any batch."""
    if isinstance(size, torch.SymInt) or isinstance(want, torch.SymInt):
        return bool(size == want)
    return int(size) == int(want)


def profiled_function(fn: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function so that the PyTorch profiler shows its calls under its name."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> T:
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return wrapper


def named_params_and_buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return (name, tensor) of all parameters, then of all buffers, in registration order."""
    return [*module.named_parameters(), *module.named_buffers()]


def params_and_buffers(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return all parameters, then all buffers."""
    return [tensor for _, tensor in named_params_and_buffers(module)]


@torch.no_grad()
def copy_params_and_buffers(
    src_module: torch.nn.Module, dst_module: torch.nn.Module, require_all: bool = False
) -> None:
    """Copy the tensors of one module into those of another that have the same name.

    Args:
        src_module: Source; tensors that only it has are ignored.
        dst_module: Destination, changed in place; requires_grad stays as it is.
        require_all: Raise KeyError if `dst_module` has a tensor that `src_module` lacks.
    """
    source = dict(named_params_and_buffers(src_module))
    for name, tensor in named_params_and_buffers(dst_module):
        if name in source:
            tensor.copy_(source[name].detach())
        elif require_all:
            raise KeyError(f'the source module has no parameter or buffer called {name}')


# ---------------------------------------------------------------------------------------------------------------------
# Module summary


def _tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return []


def _record_outputs(
    module: torch.nn.Module, inputs: Sequence[Any], max_nesting: int
) -> tuple[Any, list[tuple[torch.nn.Module, list[torch.Tensor]]]]:
    """Run the module; return its result, and (submodule, output tensors) in order of completion."""
    calls: list[tuple[torch.nn.Module, list[torch.Tensor]]] = []
    hooks: list[Any] = []
    depth = 0

    def enter(_module: torch.nn.Module, _inputs: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(submodule: torch.nn.Module, _inputs: Any, outputs: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth <= max_nesting:
            calls.append((submodule, _tensors_in(outputs)))

    for submodule in module.modules():
        if not isinstance(submodule, torch.jit.ScriptModule):
            hooks.append(submodule.register_forward_pre_hook(enter))
            hooks.append(submodule.register_forward_hook(leave))
    try:
        result = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return result, calls


def print_module_summary(
    module: torch.nn.Module, inputs: Sequence[Any], max_nesting: int = 3, skip_redundant: bool = True
) -> Any:
    """Run `module(*inputs)` once, print a table of its layers, and return the result.

    Each tensor is counted at the first layer that outputs it, so that the columns add up.

    Args:
        module: Module to run.
        inputs: Positional arguments.
        max_nesting: Maximum depth of the submodules to list.
        skip_redundant: Leave out layers that add no parameters, buffers or outputs.
    """
    result, calls = _record_outputs(module, inputs, max_nesting)
    names = {submodule: name for name, submodule in module.named_modules()}
    seen: set[int] = set()

    def unseen(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        fresh = [t for t in tensors if id(t) not in seen]
        seen.update(id(t) for t in fresh)
        return fresh

    rows = [(type(module).__name__, 'Parameters', 'Buffers', 'Output shape', 'Datatype')]
    total_params = total_buffers = 0
    for submodule, outputs in calls:
        num_params = sum(t.numel() for t in unseen(submodule.parameters()))
        num_buffers = sum(t.numel() for t in unseen(submodule.buffers()))
        fresh_outputs = unseen(outputs)
        if skip_redundant and not (num_params or num_buffers or fresh_outputs):
            continue
        total_params += num_params
        total_buffers += num_buffers
        listed = fresh_outputs or outputs
        rows.append(
            (
                names.get(submodule) or '<top-level>',
                str(num_params or '-'),
                str(num_buffers or '-'),
                '; '.join(str(list(t.shape)) for t in listed) or '-',
                '; '.join(str(t.dtype).removeprefix('torch.') for t in listed) or '-',
            )
        )
    rows.append(('Total', str(total_params), str(total_buffers), '-', '-'))

    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    rule = '  '.join('-' * width for width in widths)
    print('\n'.join(['', lines[0], rule, *lines[1:-1], rule, lines[-1], '']))
    return result
