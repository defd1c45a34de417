"""Moving average of the generator's weights, which snapshots and metrics use (arXiv 1710.10196)."""

from __future__ import annotations

import torch


def ema_decay(batch_size: int, cur_nimg: int, ema_kimg: float, ema_rampup: float | None) -> float:
    """Return the factor of the old average in one step.

    Args:
        batch_size: Images per step.
        cur_nimg: Images shown so far.
        ema_kimg: Half-life of the average in thousands of images. 0: no averaging.
        ema_rampup: Limits the half-life to `ema_rampup * cur_nimg` images at the beginning. None: no limit.
    """
    half_life_nimg = ema_kimg * 1000
    if ema_rampup is not None:
        half_life_nimg = min(half_life_nimg, cur_nimg * ema_rampup)
    return 0.5 ** (batch_size / half_life_nimg) if half_life_nimg > 0 else 0.0


@torch.no_grad()
def update_ema(G_ema: torch.nn.Module, G: torch.nn.Module, decay: float) -> None:
    """Move the parameters of `G_ema` toward those of `G`, and copy the buffers."""
    torch._foreach_lerp_(list(G_ema.parameters()), list(G.parameters()), 1 - decay)
    if buffers := list(G_ema.buffers()):
        torch._foreach_copy_(buffers, list(G.buffers()))
