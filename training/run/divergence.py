"""Runs whose numbers have become infinite or NaN for good: seen, kept from being saved, and stopped.

Single steps with such gradients happen, above all in half precision, and are made harmless (NaN → 0, ±inf → ±1e5).
Where one follows another without end, or a weight itself is no number, the networks learn nothing more, and the last
good state is worth more than a new one.
"""

import torch

from torch_utils import distributed, misc

MAX_STEPS_SAVED = 10  # Steps of one phase in a row with non-finite gradients, up to which a snapshot is written.
MAX_STEPS = 100  # Up to which the run goes on.


def doubt(phases):
    """What speaks against saving the networks, None where nothing does. Waits for the GPU; the same on all ranks."""
    phase = max(phases, key=lambda phase: int(phase.nonfinite_steps))
    steps = int(phase.nonfinite_steps)
    if steps <= MAX_STEPS_SAVED:
        return None
    return f'the gradients of {phase.name} were not finite (inf or NaN) in each of its last {steps} steps'


def verdict(world, phases, parts, thorough):
    """Collective: why the run should end, None where it should not. Waits for the GPU.

    Args:
        world: Ranks.
        phases: All of them.
        parts: `training.run.checkpoint.Parts`.
        thorough: Look at all values of the networks too.
    """
    if any(int(phase.nonfinite_steps) > MAX_STEPS for phase in phases):
        return doubt(phases)
    if not thorough:
        return None
    of_ranks = distributed.gather_objects_to_main(world, _not_finite_in(parts))  # Running means are each rank's own.
    return distributed.broadcast_object(world, next((found for found in of_ranks if found), None))


def _not_finite_in(parts):
    tensors = {
        f'{name}.{key}': tensor
        for name, module in parts.networks.items()
        for key, tensor in misc.named_params_and_buffers(module)
    }
    for name, tensor in [*tensors.items(), *parts.loss.state_dict().items()]:
        if not bool(torch.isfinite(tensor).all()):
            return f'{name} is not finite (inf or NaN)'
    return None
