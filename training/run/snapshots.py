"""What a run leaves in its directory besides statistics: image grids and network pickles."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dataset_format.sizes import Resolution, sides
from network_files.writing import save_network_pkl
from torch_utils import images
from training.dataset import ImageFolderDataset

MAX_GRID_PIXELS = (7680, 4320)  # width and height of an 8K screen
MAX_GRID_SIZE_ON_CPU = (12, 10)  # a full grid would take longer there than the training between two of them


def grid_size_for(resolution: Resolution, device: torch.device) -> tuple[int, int]:
    """Return the number of columns and rows of the snapshot grid."""
    height, width = sides(resolution)
    columns, rows = (
        int(np.clip(pixels // side, least, 32)) for pixels, side, least in zip(MAX_GRID_PIXELS, (width, height), (7, 4))
    )
    if device.type == 'cpu':
        columns, rows = np.minimum((columns, rows), MAX_GRID_SIZE_ON_CPU).tolist()
    return columns, rows


def pick_grid_images(
    dataset: ImageFolderDataset,
    grid_size: tuple[int, int],
    seed: int,
    read: Callable[[int], Sequence[np.ndarray]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pick real images and labels for the grid: one class per row if labels are classes, random ones otherwise.

    Args:
        dataset: Images with labels.
        grid_size: Columns and rows.
        seed: Random seed.
        read: Function of an index that returns an image and its label. None: `dataset[index]`.

    Returns:
        Images, uint8 [N, C, H, W], and labels, float32 [N, label_dim], with N = columns · rows.
    """
    columns, rows = grid_size
    rng = np.random.RandomState(seed)
    if dataset.has_onehot_labels:
        by_label = list(_indices_by_label(dataset, rng).values())
        indices = []
        for row in range(rows):
            same_label = by_label[row % len(by_label)]
            first = row // len(by_label) * columns
            indices += [same_label[(first + column) % len(same_label)] for column in range(columns)]
    else:
        order = rng.permutation(len(dataset))
        indices = [int(order[i % len(order)]) for i in range(columns * rows)]
    chosen = [(dataset.__getitem__ if read is None else read)(i) for i in indices]
    return np.stack([image for image, _ in chosen]), np.stack([label for _, label in chosen])


def _indices_by_label(dataset: ImageFolderDataset, rng: np.random.RandomState) -> dict[tuple[float, ...], list[int]]:
    """Return the shuffled indices of the images of each label, in the order of the classes."""
    by_label: dict[tuple[float, ...], list[int]] = {}
    for index in rng.permutation(len(dataset)):
        by_label.setdefault(tuple(dataset.get_label(index)), []).append(int(index))
    return dict(sorted(by_label.items(), reverse=True))  # of one-hot vectors, the largest is class 0


class FakesGrid:
    """Generated images of the same latents and labels, to compare the snapshots of a run.

    Args:
        G: The averaged generator of the run.
        labels: float32 [N, c_dim] with N = columns · rows.
        grid_size: Columns and rows.
        batch_size: Images that are generated at once.
        seed: Seed of the latents.
    """

    def __init__(self, G: Any, labels: np.ndarray, grid_size: tuple[int, int], batch_size: int, seed: int) -> None:
        device = next(G.parameters()).device
        z = torch.randn([len(labels), G.z_dim], generator=torch.Generator().manual_seed(seed)).to(device)
        self._G = G
        self._grid_size = grid_size
        self._latents = z.split(batch_size)
        self._labels = torch.as_tensor(labels, device=device).split(batch_size)

    @torch.no_grad()
    def save(self, path: str | os.PathLike) -> None:
        """Write the images that the generator makes now as one PNG file."""
        batches = [
            images.to_uint8(self._G(z=z, c=c, noise_mode='const')).cpu() for z, c in zip(self._latents, self._labels)
        ]
        images.save_image_grid(torch.cat(batches).numpy(), path, grid_size=self._grid_size)


def save_network_pickle(
    path: str | os.PathLike,
    modules: Mapping[str, torch.nn.Module | None],
    training_set_kwargs: Mapping[str, Any],
    **extra: Any,
) -> None:
    """Write a network pickle, complete or not at all. Equal networks give equal bytes.

    Args:
        path: Destination.
        modules: Modules `G`, `D`, `G_ema`, and `augment_pipe` (may be None).
        training_set_kwargs: Constructor keywords of the dataset.
        **extra: Plain data of this project's own, such as `class_names`.
    """
    content: dict[str, Any] = {name: _for_pickle(module) for name, module in modules.items()}
    content['training_set_kwargs'] = dict(training_set_kwargs)
    content.update(extra)
    save_network_pkl(content, path, durable=True)


def _for_pickle(module: torch.nn.Module | None) -> torch.nn.Module | None:
    """Return a copy of a module on the CPU, in evaluation mode and without gradients."""
    if module is None:
        return None
    copied = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    for layer in copied.modules():
        layer.__dict__.pop('half_dtype', None)  # how this run computes is no property of the network
    return copied
