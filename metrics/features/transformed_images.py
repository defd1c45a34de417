"""Generated images whose generator's input is transformed, for the metrics of equivariance (arXiv 2106.12423, app. E).

N images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from dataset_format.sizes import sides
from dnnlib.progress import Progress
from generation.image_transforms import is_supported, use_transform
from metrics.equivariance import Transformation, transformation
from metrics.features import randomness
from metrics.features.collectors import gather_rows
from metrics.features.feature_requests import EquivarianceRequest
from metrics.features.image_sources import MetricError, require_finite
from torch_utils import inference_graphs
from torch_utils.distributed import World
from training.dataset import Dataset
from training.networks_stylegan3 import SynthesisInput

NO_TRANSFORM = (
    'The input of this network cannot be moved or rotated, as metrics of equivariance (eqt…, eqr…) require: only '
    'networks of StyleGAN3 take a transform.'
)


def gather_errors(
    world: World,
    request: EquivarianceRequest,
    G: Any,
    dataset: Dataset,
    seed: int,
    batch: int,
    progress: Progress,
) -> np.ndarray | None:
    """Compute the errors of all images, each under its own transformation. Collective: every rank must call this.

    Args:
        world: Ranks.
        request: Kind of the transformations, and number of images.
        G: Generator in eval mode on `world.device`.
        dataset: Dataset from which labels are drawn.
        seed: Seed of all draws.
        batch: Images for which the generator renders the original and the transformed image at once.
        progress: Display for the number of images.

    Returns:
        float32 [N, 2] on the main rank, else None: sum of the squared errors, and number of the values that count;
        both are divided by the number of all values of an image.

    Raises:
        ValueError: The input of the generator cannot be transformed, or its images are not finite.
    """
    if not is_supported(G):
        raise MetricError(NO_TRANSFORM)
    G = copy.deepcopy(G)  # its transform is overwritten

    def errors(indices: range) -> torch.Tensor:
        c = randomness.labels(seed, indices, dataset).to(world.device)
        return _errors(G, request, indices, c, seed)

    return gather_rows(world, errors, request.count, (2,), batch, progress)


@torch.no_grad()
def _errors(G: Any, request: EquivarianceRequest, indices: range, c: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the errors of some images and the share of values that count, float32 [N, 2]."""
    height, width = sides(G.img_resolution)
    transformations = [
        transformation(request.transformation, _numbers(seed, index), height, width) for index in indices
    ]
    ws = G.mapping(randomness.latents(seed, indices, G.z_dim).to(c.device), c)
    originals, transformed = _render(G, ws, transformations, side=max(height, width))
    rows = []
    for row, each in enumerate(transformations):
        difference, mask = each.compare(originals[row : row + 1], transformed[row : row + 1])
        rows.append(torch.stack([(difference.square() * mask).mean(), mask.mean()]))
    return torch.stack(rows)


def _numbers(seed: int, index: int) -> np.ndarray:
    """Return the numbers from -1 to +1 that say how an image is transformed."""
    return randomness.generator(seed, randomness.TRANSFORMATION, index).uniform(-1, 1, size=3)


def _render(
    G: Any, ws: torch.Tensor, transformations: list[Transformation], side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images float32 [N, C, H, W] without and with their transformations; the transform of G is overwritten.

    Args:
        G: Generator.
        ws: [N, num_ws, w_dim].
        transformations: One for each image.
        side: Number of pixels along the longer side of an image.
    """
    transforms = [np.eye(3)] * len(transformations) + [each.matrix(side) for each in transformations]  # [2N, 3, 3]
    both_ws = torch.cat([ws, ws])
    if isinstance(G.synthesis.input, SynthesisInput):
        G.synthesis.input.transform = torch.from_numpy(np.linalg.inv(transforms)).to(torch.float32).to(ws.device)
        images = inference_graphs.call(G.synthesis, both_ws, noise_mode='const')
    else:  # Classes of others take a single transform.
        parts = []
        for w, transform in zip(both_ws.split(1), transforms):
            with use_transform(G, transform):
                parts.append(G.synthesis(w, noise_mode='const'))
        images = torch.cat(parts)
    originals, transformed = require_finite(images.to(torch.float32), 'The generator gives images').chunk(2)
    return originals, transformed
