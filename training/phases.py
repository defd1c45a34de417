"""Training phases: which network trains, on which part of the loss, how often.

Lazy regularisation (arXiv 1912.04958, appendix B) runs the regulariser of a network every
`interval` steps only, with its gradient scaled by the interval, on the same optimiser state.
"""

import dataclasses

import torch

import dnnlib
from torch_utils import distributed, training_stats


@dataclasses.dataclass
class Phase:
    """One optimiser step on one part of the loss, every `interval` batches."""

    name: str  # As `loss.accumulate_gradients` knows it.
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    interval: int
    nonfinite_steps: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros([]))  # In a row, up to now.

    def is_due(self, batch_idx):
        return batch_idx % self.interval == 0


def _optimizer(module, opt_kwargs, reg_interval):
    """An optimiser whose rate and betas make up for the extra steps of a lazy regulariser."""
    kwargs = dict(opt_kwargs, betas=[float(beta) for beta in opt_kwargs['betas']])
    if reg_interval is not None:
        ratio = reg_interval / (reg_interval + 1)
        kwargs['lr'] = kwargs['lr'] * ratio
        kwargs['betas'] = [beta**ratio for beta in kwargs['betas']]
    return dnnlib.util.construct_class_by_name(params=list(module.parameters()), **kwargs)


def build_phases(G, D, config):
    """Phases of one training batch, in their order.

    A regularisation interval of None puts the regulariser into every step of the network.
    """
    phases = []
    for name, module, opt_kwargs, reg_interval in (
        ('G', G, config.G_opt_kwargs, config.G_reg_interval),
        ('D', D, config.D_opt_kwargs, config.D_reg_interval),
    ):
        optimizer = _optimizer(module, opt_kwargs, reg_interval)
        if reg_interval is None:
            phases.append(Phase(f'{name}both', module, optimizer, 1))
        else:
            phases.append(Phase(f'{name}main', module, optimizer, 1))
            phases.append(Phase(f'{name}reg', module, optimizer, reg_interval))
    return phases


def run_phase(phase, loss, batches, world):
    """Accumulate the gradients of one phase over the rounds of a batch, and take its step.

    Args:
        phase: What to run.
        loss: Object with `accumulate_gradients`.
        batches: One dict(real_img, real_c, gen_z, gen_c) per accumulation round.
        world: Ranks to average the gradients over.
    """
    phase.optimizer.zero_grad(set_to_none=True)
    phase.module.requires_grad_(True)
    for batch in batches:
        loss.accumulate_gradients(phase=phase.name, gain=phase.interval / len(batches), **batch)
    phase.module.requires_grad_(False)
    nonfinite = distributed.average_gradients(world, phase.module.parameters())
    training_stats.report0(f'Gradients/nonfinite/{phase.name}', nonfinite)
    phase.nonfinite_steps = (phase.nonfinite_steps.to(nonfinite.device) + 1) * nonfinite
    phase.optimizer.step()
