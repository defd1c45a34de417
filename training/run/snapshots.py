"""What a run leaves in its directory besides statistics: image grids and network pickles."""

import copy

import numpy as np
import torch

from dataset_format.sizes import sides
from network_files.writing import save_network_pkl
from torch_utils import images

MAX_GRID_PIXELS = (7680, 4320)  # Width and height: an 8K screen.
MAX_GRID_SIZE_ON_CPU = (12, 10)  # There a full grid would take longer than the training between two of them.


def grid_size_for(resolution, device):
    """(columns, rows) of the snapshot grid."""
    height, width = sides(resolution)
    columns, rows = (
        int(np.clip(pixels // side, least, 32)) for pixels, side, least in zip(MAX_GRID_PIXELS, (width, height), (7, 4))
    )
    if device.type == 'cpu':
        columns, rows = np.minimum((columns, rows), MAX_GRID_SIZE_ON_CPU).tolist()
    return columns, rows


def _indices_by_label(dataset, rng):
    """{label: shuffled image indices}, labels in sorted order."""
    by_label = {}
    for index in rng.permutation(len(dataset)):
        by_label.setdefault(tuple(dataset.get_label(index)), []).append(int(index))
    return dict(sorted(by_label.items(), reverse=True))  # One-hot vectors: class 0 first.


def pick_grid_images(dataset, grid_size, seed, read=None):
    """Real images and labels of the grid: a row per class where labels are classes, else at random.

    Args:
        dataset: Images with labels.
        grid_size: (columns, rows).
        seed: Of the choice.
        read: Function of an index that gives an image and its label; None: `dataset[index]`.

    Returns:
        images: uint8 [N, C, H, W], N = columns · rows.
        labels: float32 [N, label_dim].
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


class FakesGrid:
    """The same latents and labels, drawn by the averaged generator at each snapshot.

    Args:
        labels: [N, c_dim] of the grid.
        grid_size: (columns, rows).
        z_dim: Size of the latents.
        batch_size: Images at a time.
        seed: Of the latents.
        device: Of the generator.
    """

    def __init__(self, labels, grid_size, z_dim, batch_size, seed, device):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn([len(labels), z_dim], generator=generator).to(device)
        self.grid_size = grid_size
        self.latents = z.split(batch_size)
        self.labels = torch.as_tensor(labels, device=device).split(batch_size)

    @torch.no_grad()
    def save(self, G_ema, path):
        """Write the grid as a PNG file."""
        batches = [
            images.to_uint8(G_ema(z=z, c=c, noise_mode='const')).cpu() for z, c in zip(self.latents, self.labels)
        ]
        images.save_image_grid(torch.cat(batches).numpy(), path, grid_size=self.grid_size)


def _for_pickle(module):
    """Copy of a module as pickles hold it: on the CPU, in evaluation mode, without gradients."""
    if module is None:
        return None
    return copy.deepcopy(module).cpu().eval().requires_grad_(False)


def save_network_pickle(path, modules, training_set_kwargs, **extra):
    """Write a network pickle, complete or not at all; the same bytes for the same networks.

    Args:
        path: Destination.
        modules: Dict of 'G', 'D', 'G_ema' and 'augment_pipe' (may be None).
        training_set_kwargs: Constructor keywords of the dataset.
        **extra: Plain data of this project's own, such as `class_names`.
    """
    content = {name: _for_pickle(module) for name, module in modules.items()}
    content['training_set_kwargs'] = dict(training_set_kwargs)
    content.update(extra)
    save_network_pkl(content, path, durable=True)
