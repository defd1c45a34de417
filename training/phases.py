"""Training phases: which network is trained, on which part of the loss, and how often.

Lazy regularization (arXiv 1912.04958, appendix B) evaluates the regularizer of a network only every `interval` steps,
with its gradient multiplied by the interval. Both kinds of steps share the state of one optimizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from torch_utils import distributed, training_stats
from torch_utils.distributed import World
from training import known_classes
from training.config import TrainingConfig
from training.cuda_graphs import PhaseGraphs
from training.freezing import trainable_parameters
from training.loss import StyleGAN2Loss


@dataclasses.dataclass
class Phase:
    """One optimizer step on one part of the loss, every `interval` batches."""

    name: str  # a phase of the loss, such as 'Gmain'
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    interval: int
    nonfinite_steps: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros([]))  # consecutive, so far
    parameters: list[torch.nn.Parameter] = dataclasses.field(default_factory=list)  # to train; by default all

    def __post_init__(self) -> None:
        self.parameters = self.parameters or list(self.module.parameters())

    def is_due(self, batch_idx: int) -> bool:
        """Return whether the phase is part of this batch."""
        return batch_idx % self.interval == 0


def phase_intervals(reg_interval: int | None) -> dict[str, int]:
    """Return how many batches lie between two runs of each phase of a network, by the part of the loss.

    Args:
        reg_interval: The regularization interval. None: every step includes the regularizer.
    """
    return {'both': 1} if reg_interval is None else {'main': 1, 'reg': reg_interval}


def build_phases(G: torch.nn.Module, D: torch.nn.Module, config: TrainingConfig) -> list[Phase]:
    """Return the phases of a batch in their order.

    If the regularization interval of a network is None, every step of the network includes the regularizer.
    """
    phases = []
    for name, module, opt_kwargs, reg_interval in (
        ('G', G, config.G_opt_kwargs, config.G_reg_interval),
        ('D', D, config.D_opt_kwargs, config.D_reg_interval),
    ):
        parameters = [parameter for _name, parameter in trainable_parameters(name, module, config)]
        optimizer = _build_optimizer(parameters, opt_kwargs, reg_interval)
        steps = torch.zeros([], device=parameters[0].device)
        for part, interval in phase_intervals(reg_interval).items():
            phases.append(Phase(f'{name}{part}', module, optimizer, interval, steps.clone(), parameters))
    return phases


def _build_optimizer(
    parameters: list[torch.nn.Parameter], opt_kwargs: Mapping[str, Any], reg_interval: int | None
) -> torch.optim.Optimizer:
    """Return an optimizer whose learning rate and betas account for the extra steps of a lazy regularizer.

    On CUDA, it updates all parameters in a few kernels. Its state is the same, so that a run can go on elsewhere.
    """
    kwargs = dict(opt_kwargs, betas=[float(beta) for beta in opt_kwargs['betas']])
    if reg_interval is not None:
        ratio = reg_interval / (reg_interval + 1)
        kwargs['lr'] = kwargs['lr'] * ratio
        kwargs['betas'] = [beta**ratio for beta in kwargs['betas']]
    if all(parameter.is_cuda for parameter in parameters):
        kwargs['fused'] = True
    return known_classes.construct(kwargs, known_classes.OPTIMIZERS, params=parameters)


def run_phase(
    phase: Phase,
    loss: StyleGAN2Loss,
    batches: Sequence[Mapping[str, Any]],
    world: World,
    cur_nimg: int = 0,
    graphs: PhaseGraphs | None = None,
) -> None:
    """Accumulate the gradients of a phase over the rounds of a batch, and take its optimizer step.

    Args:
        phase: The phase to run.
        loss: The training objective.
        batches: Tensors `real_img`, `real_c`, `gen_z` and `gen_c` of each round of gradient accumulation.
        world: Ranks to average the gradients over.
        cur_nimg: Number of images shown so far.
        graphs: CUDA graphs of the rounds. None: their kernels are launched one by one.
    """
    phase.optimizer.zero_grad(set_to_none=True)
    for parameter in phase.parameters:
        parameter.requires_grad_(True)
    gain = phase.interval / len(batches)
    if graphs is not None:
        gradients = graphs.accumulate(phase.name, phase.parameters, batches, gain, cur_nimg)
    else:
        for batch in batches:
            loss.accumulate_gradients(phase=phase.name, gain=gain, cur_nimg=cur_nimg, **batch)
        gradients = distributed.flatten_gradients(phase.parameters)
    for parameter in phase.parameters:
        parameter.requires_grad_(False)
    nonfinite = distributed.average_gradients(world, gradients)
    training_stats.report0(f'Gradients/nonfinite/{phase.name}', nonfinite)
    phase.nonfinite_steps = (phase.nonfinite_steps.to(nonfinite.device) + 1) * nonfinite
    phase.optimizer.step()
