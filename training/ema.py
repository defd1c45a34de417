"""Moving average of the generator's weights, what snapshots and metrics use (arXiv 1710.10196)."""

import torch


def ema_decay(batch_size, cur_nimg, ema_kimg, ema_rampup):
    """Factor of the old average in one step: half-life `ema_kimg`, in the beginning shorter.

    Args:
        batch_size: Images a step.
        cur_nimg: Images shown so far; the half-life is at most `ema_rampup` times that.
        ema_kimg: Half-life in thousands of images; 0: no averaging.
        ema_rampup: None: no ramp-up.
    """
    half_life_nimg = ema_kimg * 1000
    if ema_rampup is not None:
        half_life_nimg = min(half_life_nimg, cur_nimg * ema_rampup)
    return 0.5 ** (batch_size / half_life_nimg) if half_life_nimg > 0 else 0.0


@torch.no_grad()
def update_ema(G_ema, G, decay):
    """Move the parameters of `G_ema` towards those of `G`; buffers are copied."""
    for averaged, current in zip(G_ema.parameters(), G.parameters(), strict=True):
        averaged.lerp_(current, 1 - decay)
    for averaged, current in zip(G_ema.buffers(), G.buffers(), strict=True):
        averaged.copy_(current)
