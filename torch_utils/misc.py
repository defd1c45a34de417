"""Small helpers that networks and network pickles lean on.

The public names are part of the frozen interface: the source embedded in a network pickle imports
them by name, from this project's pickles and from the published ones alike.
"""

import contextlib
import functools
import warnings

import numpy as np
import torch

nan_to_num = torch.nan_to_num
symbolic_assert = torch._assert


@functools.lru_cache(maxsize=1024)
def _constant_from_bytes(data, value_shape, numpy_dtype, shape, dtype, device, memory_format):
    array = np.frombuffer(data, dtype=numpy_dtype).reshape(value_shape)
    with torch.inference_mode(False):  # A tensor made in inference mode would be of no use to autograd later.
        tensor = torch.as_tensor(array.copy(), dtype=dtype, device=device)
        if shape is not None:
            tensor = tensor.expand(shape)
        return tensor.contiguous(memory_format=memory_format)


def constant(value, shape=None, dtype=None, device=None, memory_format=None):
    """Tensor with the given value, made once and then taken from a cache.

    Saves the copy from the host that `torch.tensor` makes each time. The result is shared: never
    write into it.

    Args:
        value: Number, nested sequence or array.
        shape: Shape to broadcast the value to; the value's own by default.
        dtype: Default: the current default dtype.
        device: Default: the CPU.
        memory_format: Default: contiguous.
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


@contextlib.contextmanager
def suppress_tracer_warnings():
    """Within this context `torch.jit.trace` does not warn about Python values that it freezes."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', category=torch.jit.TracerWarning)
        yield


def assert_shape(tensor, ref_shape):
    """Raise AssertionError unless `tensor` has the shape `ref_shape`; None stands for any size."""
    shape = tuple(tensor.shape)
    expected = tuple(ref_shape)
    fits = len(shape) == len(expected) and all(
        want is None or int(size) == int(want) for size, want in zip(shape, expected)
    )
    if not fits:
        words = ', '.join('any' if want is None else str(int(want)) for want in expected)
        raise AssertionError(f'tensor of shape {list(shape)} where [{words}] is expected')


def profiled_function(fn):
    """Decorate `fn` so that the PyTorch profiler shows its calls under its name."""

    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return wrapper


def named_params_and_buffers(module):
    """List of (name, tensor): all parameters, then all buffers, in registration order."""
    return [*module.named_parameters(), *module.named_buffers()]


def params_and_buffers(module):
    """List of all parameters, then all buffers."""
    return [tensor for _, tensor in named_params_and_buffers(module)]


@torch.no_grad()
def copy_params_and_buffers(src_module, dst_module, require_all=False):
    """Copy the tensors of one module into those of another that have the same name.

    Args:
        src_module: Where the values come from; what only it has is left out.
        dst_module: Where they go, in place; requires_grad stays as it is.
        require_all: Raise KeyError where `dst_module` has a tensor that `src_module` has not.
    """
    source = dict(named_params_and_buffers(src_module))
    for name, tensor in named_params_and_buffers(dst_module):
        if name in source:
            tensor.copy_(source[name].detach())
        elif require_all:
            raise KeyError(f'the source module has no parameter or buffer named {name}')


# ------------------------------------------------------------------------------------------------
# Module summary


def _tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return []


def _record_outputs(module, inputs, max_nesting):
    """Run the module; return its result and [(submodule, output tensors)] in order of completion."""
    calls, hooks, depth = [], [], 0

    def enter(_module, _inputs):
        nonlocal depth
        depth += 1

    def leave(submodule, _inputs, outputs):
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


def print_module_summary(module, inputs, max_nesting=3, skip_redundant=True):
    """Run `module(*inputs)` once and print a table of its layers; returns the module's result.

    Each tensor is counted at the first layer that finishes with it, so the columns add up.

    Args:
        module: Module to run.
        inputs: Positional arguments, a list.
        max_nesting: Depth of submodules to list.
        skip_redundant: Leave out layers that add neither parameters, buffers nor new outputs.
    """
    result, calls = _record_outputs(module, inputs, max_nesting)
    names = {submodule: name for name, submodule in module.named_modules()}
    seen = set()

    def unseen(tensors):
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
        shown = fresh_outputs or outputs
        rows.append(
            (
                names.get(submodule) or '<top-level>',
                str(num_params or '-'),
                str(num_buffers or '-'),
                '; '.join(str(list(t.shape)) for t in shown) or '-',
                '; '.join(str(t.dtype).removeprefix('torch.') for t in shown) or '-',
            )
        )
    rows.append(('Total', str(total_params), str(total_buffers), '-', '-'))

    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    rule = '  '.join('-' * width for width in widths)
    print('\n'.join(['', lines[0], rule, *lines[1:-1], rule, lines[-1], '']))
    return result


@contextlib.contextmanager
def full_precision():
    """Inside, CUDA computes float32 as float32; PyTorch lets convolutions drop 13 bits of it by default."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before):
            backend.allow_tf32 = allowed
