"""Random draws that belong to an image, not to a process: image 17 is the same on every rank.

Each draw comes from a counter-based generator (Philox; Salmon et al., SC 2011). Its key is the user's seed, and its
counter starts at the purpose of the draw and the index of the image. So latents and labels depend neither on the batch
size nor on the number of processes. PyTorch draws the noise inside the networks for a whole batch: it depends on where
the batch begins, and so on the batch size, but not on the rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from training.dataset import Dataset

LATENT, LABEL, NOISE, SUBSETS, PATH, RESAMPLING, TRANSFORMATION = range(7)  # purposes; add new ones at the end


def generator(seed: int, purpose: int, index: int = 0) -> np.random.Generator:
    """Return the generator for one purpose and one image."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, purpose, index]))


def latents(seed: int, indices: range, z_dim: int) -> torch.Tensor:
    """Return standard normal latents, float32 [N, z_dim]."""
    rows = [generator(seed, LATENT, index).standard_normal(z_dim) for index in indices]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def labels(seed: int, indices: range, dataset: Dataset) -> torch.Tensor:
    """Return the labels of images drawn at random from the dataset, float32 [N, label_dim]."""
    picks = [int(generator(seed, LABEL, index).integers(len(dataset))) for index in indices]
    return torch.from_numpy(np.stack([dataset.get_label(pick) for pick in picks]))


@contextlib.contextmanager
def batch_noise(device: torch.device, seed: int, first_index: int) -> Iterator[None]:
    """Within this context, PyTorch's global generators draw the noise of the batch that begins at an image.

    Afterwards they continue as if nothing had been drawn.
    """
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(int(generator(seed, NOISE, first_index).integers(2**63)))
        yield
