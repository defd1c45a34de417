"""Random draws that belong to an image, not to a process: image 17 is the same whichever rank makes it.

Every draw comes from a counter-based generator (Philox; Salmon et al., SC 2011) whose key is the user's seed and whose
counter starts at the purpose of the draw and the image's index. So latents and labels depend neither on the batch
size nor on the number of processes. Noise inside the networks is drawn by PyTorch for a batch at once: it depends on
where batches begin, hence on the batch size, but not on who computes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

LATENT, LABEL, NOISE, SUBSETS, PATH, RESAMPLING = range(6)  # purposes; a new one goes to the end


def generator(seed: int, purpose: int, index: int = 0) -> np.random.Generator:
    """The generator of one purpose for one image."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, purpose, index]))


def latents(seed: int, indices: range, z_dim: int) -> torch.Tensor:
    """float32 [N, z_dim], standard normal."""
    rows = [generator(seed, LATENT, index).standard_normal(z_dim) for index in indices]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def labels(seed: int, indices: range, dataset) -> torch.Tensor:
    """float32 [N, label_dim]: the labels of images drawn at random from the dataset."""
    picks = [int(generator(seed, LABEL, index).integers(len(dataset))) for index in indices]
    return torch.from_numpy(np.stack([dataset.get_label(pick) for pick in picks]))


@contextlib.contextmanager
def own_noise(device: torch.device, seed: int, first_index: int) -> Iterator[None]:
    """Inside, PyTorch's global generators draw the noise of the batch that begins at an image.

    Afterwards they go on as if nothing had been drawn.
    """
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(int(generator(seed, NOISE, first_index).integers(2**63)))
        yield
