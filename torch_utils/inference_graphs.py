"""Inference by CUDA graphs: what a network launches is recorded once and replayed, which costs one launch.

Within `replaying`, `call` records calls of networks, and `Replayed` any function of tensors. Results are the same,
since the same kernels run with the same arguments. Outside of it, and on other devices, both just call the function. It
pays where launching the kernels takes longer than running them: for small images and small batches.

A recording belongs to the memory of a network's tensors, to the shapes of its inputs, and to PyTorch's switches for
precision. So tensors may be changed in place, and replacing them is noticed.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_utils import precision

WARM_UPS = 3  # calls before one is recorded: libraries choose their algorithms, and TorchScript compiles, in the first
MAX_RECORDINGS = 8  # each keeps memory for all activations
MAX_COUNTED = 64  # kinds of calls that are not recorded yet

_recordings: dict[Hashable, Replayed] | None = None  # None: not within `replaying`
_calls: Counter[Hashable] = Counter()


@contextlib.contextmanager
def replaying(enabled: bool = True) -> Iterator[None]:
    """Within this context, calls are recorded and replayed, if that is enabled. Not thread-safe."""
    global _recordings
    before, _recordings = _recordings, {} if enabled else None
    _calls.clear()
    try:
        yield
    finally:
        _recordings = before


class Replayed:
    """A function of tensors that is recorded after some calls within `replaying`, and replayed from then on.

    Args:
        function: Returns a sequence of tensors. It waits for nothing, and all that it does is to launch kernels, which
            depend on nothing but the inputs and the memory of tensors that stay where they are.
        warm_ups: Calls before that.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], warm_ups: int = WARM_UPS):
        self._function = function
        self._calls_left = warm_ups
        self._graph: Any = None  # torch.cuda.CUDAGraph
        self._inputs: list[Tensor] = []
        self._outputs: Sequence[Tensor] = []

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return what the function returns, in memory of its own."""
        if _recordings is None or not all(tensor.is_cuda for tensor in inputs):
            return self._function(*inputs)
        if self._calls_left > 0:
            self._calls_left -= 1
            return self._function(*inputs)
        if self._graph is None and not self._record(inputs):
            return self._function(*inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given)
        self._graph.replay()
        return [output.clone() for output in self._outputs]

    def _record(self, inputs: Sequence[Tensor]) -> bool:
        """Record a call, and return whether that was possible."""
        device = inputs[0].device
        graph = torch.cuda.CUDAGraph()
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        try:
            # Recording must not advance the random numbers, which the first replay is going to draw.
            with torch.cuda.device(device), torch.random.fork_rng([device]), torch.cuda.graph(graph):
                self._outputs = self._function(*self._inputs)
        except RuntimeError as error:
            _print_once(f'Not replayed as a CUDA graph: {str(error).splitlines()[0]}')
            self._calls_left = sys.maxsize  # not again
            return False
        self._graph = graph
        return True


@functools.cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def call(module: torch.nn.Module, *inputs: Tensor, **options: Hashable) -> Tensor:
    """Return `module(*inputs, **options)` for a module in eval mode, by replaying a recording where there is one."""
    if _recordings is None or module.training or torch.is_grad_enabled() or not all(x.is_cuda for x in inputs):
        return module(*inputs, **options)
    key = _key(module, inputs, options)
    if key not in _recordings:
        if len(_calls) >= MAX_COUNTED:  # of tensors that are replaced all the time
            _calls.clear()
        _calls[key] += 1
        if _calls[key] <= WARM_UPS or len(_recordings) >= MAX_RECORDINGS:
            return module(*inputs, **options)
        _recordings[key] = Replayed(lambda *tensors: [module(*tensors, **options)], warm_ups=0)
    return _recordings[key](*inputs)[0]


def _key(module: torch.nn.Module, inputs: Sequence[Tensor], options: dict[str, Hashable]) -> Hashable:
    """Return all that a recording depends on, except for the content of tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    return (
        id(module),
        tuple((tensor.data_ptr(), tensor.shape, tensor.dtype) for tensor in tensors),
        tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in inputs),
        tuple(sorted(options.items())),
        precision.tensor_float32_setting(),
    )
