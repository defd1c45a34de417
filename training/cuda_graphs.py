"""The rounds of a phase as CUDA graphs: all kernels of a forward and backward pass, launched at once.

A graph repeats the kernels that were recorded, on the same memory. What changes from step to step is therefore in
tensors that stay where they are: images, labels and latents, the strength of the augmentation, running means,
statistics and gradients. PyTorch's generator of random numbers takes part, so that each replay draws new ones. What the
CPU decides is drawn before: where styles are mixed is a tensor, and whether they are mixed, like the number of taps of
the blur, selects one of several graphs.

The same numbers result as without graphs, except for those of `--apa`: see `PseudoAugmentation`. Each graph is recorded
after some rounds that ran without it, since kernels have to be compiled, algorithms chosen, and constants copied first.
Gradients are averaged over ranks, and optimizers take their steps, outside of the graphs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from torch_utils import cuda_memory, distributed
from training.loss import Decisions, StyleGAN2Loss

WARM_UP_ROUNDS = 3  # of each kind, before it is recorded


@dataclasses.dataclass
class _Gradients:
    """The flat buffer of a phase, and the gradients in it."""

    flat: torch.Tensor
    of_parameter: dict[torch.nn.Parameter, torch.Tensor]

    def start(self) -> None:
        """Set all gradients to zero, where graphs expect them."""
        self.flat.zero_()
        for parameter, gradient in self.of_parameter.items():
            parameter.grad = gradient


@dataclasses.dataclass
class _Round:
    """One kind of round of a phase: how often it has run, its graph, and the inputs of the graph."""

    num_runs: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    inputs: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    crossovers: torch.Tensor | None = None  # int64, one for each mixing
    blur_sigma: torch.Tensor | None = None
    new_keys: dict[str, list[torch.Tensor]] = dataclasses.field(default_factory=dict)  # of `InstanceDiscrimination`


class PhaseGraphs:
    """Accumulate the gradients of phases, in graphs as soon as they are recorded.

    Args:
        loss: The training objective, on a CUDA device.
        device: The device.
    """

    def __init__(self, loss: StyleGAN2Loss, device: torch.device):
        self._loss = loss
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._rounds: dict[Hashable, _Round] = {}
        self._inputs: dict[Hashable, dict[str, torch.Tensor]] = {}  # by shapes, shared by the graphs
        self._num_mixings: dict[Hashable, int] = {}  # decisions about style mixing in a round of each kind
        self._gradients: dict[str, _Gradients] = {}  # by phase
        self._blur_radius = 0
        self._pool: Any = None  # memory of all graphs, which never run at the same time

    def accumulate(
        self,
        phase: str,
        parameters: Iterable[torch.nn.Parameter],
        pieces: Sequence[Mapping[str, torch.Tensor]],
        gain: float,
        cur_nimg: int,
    ) -> torch.Tensor | None:
        """Compute the gradients of a phase, and return their flat buffer; None if there are none.

        Args:
            phase: Name of the phase.
            parameters: Parameters of the network that it trains, which require gradients and have none.
            pieces: Tensors `real_img`, `real_c`, `gen_z` and `gen_c` of each round.
            gain: See `StyleGAN2Loss.accumulate_gradients`.
            cur_nimg: Number of images shown so far.
        """
        parameters = list(parameters)
        gradients = self._gradients.get(phase)
        if gradients is not None:
            gradients.start()
        self._forget_other_blurs(cur_nimg)
        for piece in pieces:
            self._run_round(phase, piece, gain, cur_nimg)
        if gradients is None:
            return self._flatten(phase, parameters)
        reached = [parameter for parameter in parameters if parameter.grad is not None]
        assert len(reached) == len(gradients.of_parameter), f'{phase} has reached other parameters than before'
        return gradients.flat

    def num_graphs(self) -> int:
        """Return how many graphs are recorded."""
        return sum(kind.graph is not None for kind in self._rounds.values())

    def _flatten(self, phase: str, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor | None:
        """Return the gradients in a flat buffer, which the phase keeps using from now on."""
        flat = distributed.flatten_gradients(parameters)
        if flat is not None:
            pairs = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
            self._gradients[phase] = _Gradients(flat, pairs)
        return flat

    def _forget_other_blurs(self, cur_nimg: int) -> None:
        """Release the graphs of a blur that will not come back."""
        radius = self._loss.blur_radius(cur_nimg)
        if radius != self._blur_radius:
            self._rounds.clear()
            self._blur_radius = radius

    def _run_round(self, phase: str, piece: Mapping[str, torch.Tensor], gain: float, cur_nimg: int) -> None:
        variant = self._loss.variant(phase)
        if (phase, variant) not in self._num_mixings:
            with self._on_own_stream():
                self._num_mixings[phase, variant] = self._loss.count_mixings(
                    lambda: self._loss.accumulate_gradients(phase, gain=gain, cur_nimg=cur_nimg, **piece)
                )
            return
        num_mixings = self._num_mixings[phase, variant]
        crossovers = [self._loss.draw_crossover(self._loss.G.num_ws) for _ in range(num_mixings)]
        is_mixed = tuple(crossover is not None for crossover in crossovers)
        shapes = tuple(tuple(tensor.shape) for tensor in piece.values())
        kind = self._rounds.setdefault((phase, shapes, gain, is_mixed, variant), _Round())
        if kind.num_runs < WARM_UP_ROUNDS or phase not in self._gradients:
            kind.num_runs += int(self._loss.has_fixed_shapes())
            with self._on_own_stream(), self._loss.deciding(Decisions(iter(crossovers))):
                self._loss.accumulate_gradients(phase, gain=gain, cur_nimg=cur_nimg, **piece)
            return
        if kind.graph is None:
            kind.inputs = self._inputs.setdefault(shapes, {name: torch.empty_like(piece[name]) for name in piece})
            kind.crossovers = torch.zeros([num_mixings], dtype=torch.int64, device=self._device)
            kind.blur_sigma = torch.zeros([], device=self._device)
        self._set_inputs(kind, piece, crossovers, cur_nimg)
        if kind.graph is None:
            self._record(kind, phase, gain, cur_nimg, is_mixed)
        assert kind.graph is not None
        kind.graph.replay()
        if self._loss.instances is not None:
            copies = {name: [key.clone() for key in keys] for name, keys in kind.new_keys.items()}
            self._loss.instances.add_new_keys(copies)

    @contextlib.contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """Within this context, launch on the stream that PyTorch asks for before a recording."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _set_inputs(
        self, kind: _Round, piece: Mapping[str, torch.Tensor], crossovers: Sequence[int | None], cur_nimg: int
    ) -> None:
        """Copy what this round works on to where the graph expects it."""
        assert kind.crossovers is not None and kind.blur_sigma is not None
        filled = [name for name, tensor in piece.items() if tensor.numel() > 0]
        torch._foreach_copy_([kind.inputs[name] for name in filled], [piece[name] for name in filled])
        if any(crossover is not None for crossover in crossovers):
            numbers = torch.tensor([crossover or 0 for crossover in crossovers])
            kind.crossovers.copy_(cuda_memory.to_device(numbers, self._device))
        if self._blur_radius > 0:
            kind.blur_sigma.fill_(self._loss.blur_sigma(cur_nimg))

    def _record(self, kind: _Round, phase: str, gain: float, cur_nimg: int, is_mixed: Sequence[bool]) -> None:
        """Record the graph. Nothing is computed until it is replayed."""
        assert kind.crossovers is not None
        crossovers = (kind.crossovers[index] if mixed else None for index, mixed in enumerate(is_mixed))
        graph = torch.cuda.CUDAGraph()
        instances = self._loss.instances
        earlier_keys = {} if instances is None else instances.take_new_keys()
        # Threads of the data loader may pin memory in the meantime.
        recording = torch.cuda.graph(graph, pool=self._pool, capture_error_mode='thread_local')
        with recording, self._loss.deciding(Decisions(crossovers, kind.blur_sigma)):
            self._loss.accumulate_gradients(phase, gain=gain, cur_nimg=cur_nimg, **kind.inputs)
        if instances is not None:
            kind.new_keys = instances.take_new_keys()
            instances.add_new_keys(earlier_keys)
        self._pool = graph.pool()
        kind.graph = graph
