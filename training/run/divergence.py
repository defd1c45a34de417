"""Detect runs whose numbers have become infinite or NaN for good, so that they are not saved but stopped.

Isolated steps with infinite or NaN gradients are normal, especially in half precision, and harmless: NaN becomes 0,
±inf becomes ±1e5. If they happen in every step, or a weight itself is not finite, the networks no longer learn, and the
last good state is worth more than a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from torch_utils import distributed, misc
from training.phases import Phase
from training.run.state import TrainingRun

# Largest number of consecutive steps of a phase with non-finite gradients …
MAX_STEPS_SAVED = 10  # … with which snapshots are still written
MAX_STEPS = 100  # … with which the run continues


def reason_not_to_save(phases: Sequence[Phase]) -> str | None:
    """Return why the networks should not be saved now, or None if they are fine; the same on all ranks.

    Waits for the GPU.
    """
    phase = max(phases, key=lambda phase: int(phase.nonfinite_steps))
    steps = int(phase.nonfinite_steps)
    if steps <= MAX_STEPS_SAVED:
        return None
    return f'the gradients of {phase.name} were not finite (inf or NaN) in each of its last {steps} steps'


def reason_to_stop(run: TrainingRun, thorough: bool) -> str | None:
    """Collective: return why the run should end, or None if it should continue. Waits for the GPU.

    Args:
        run: The run.
        thorough: Look at all values of the networks too.
    """
    if any(int(phase.nonfinite_steps) > MAX_STEPS for phase in run.phases):
        return reason_not_to_save(run.phases)
    if not thorough:
        return None
    name = _first_nonfinite(_named_tensors(run))
    names = distributed.gather_objects_to_main(run.world, name)  # the running means differ between ranks
    name = distributed.broadcast_object(run.world, next((name for name in names if name), None))
    return None if name is None else f'{name} is not finite (inf or NaN)'


def _first_nonfinite(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor with an infinite or NaN value, or None if there is none."""
    return next((name for name, tensor in named_tensors if not bool(torch.isfinite(tensor).all())), None)


def _named_tensors(run: TrainingRun) -> Iterable[tuple[str, torch.Tensor]]:
    for name, module in run.networks.items():
        for key, tensor in misc.named_params_and_buffers(module):
            yield f'{name}.{key}', tensor
    yield from run.loss.state_dict().items()
