"""Pairs of images a small step apart, for the perceptual path length (StyleGAN, arXiv 1812.04948, section 4.1).

The step is along a great circle in z, or along a line in w. It begins at a random point between two latents ("full") or
at the first of them ("end").

N pairs, C channels, H height, W width, D dimensions of LPIPS vectors.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from dnnlib.progress import Progress
from metrics.features import detectors, randomness
from metrics.features.collectors import gather_rows
from metrics.features.detectors import Detector
from metrics.features.feature_requests import VGG_LPIPS, PathRequest
from metrics.features.image_sources import require_finite
from metrics.perceptual_path_length import path_lengths, slerp
from torch_utils import inference_graphs
from torch_utils.distributed import World
from torch_utils.images import on_background
from training.dataset import Dataset

EPSILON = 1e-4
_DETECTOR_RESOLUTION = 256


def gather_distances(
    world: World,
    request: PathRequest,
    G: Any,
    detector: Detector,
    dataset: Dataset,
    seed: int,
    batch: int,
    progress: Progress,
) -> np.ndarray | None:
    """Compute the squared LPIPS distances of all pairs, over ε². Collective: every rank must call this.

    Args:
        world: Ranks.
        request: Kind and number of pairs.
        G: Generator in eval mode on `world.device`.
        detector: VGG detector.
        dataset: Dataset from which labels are drawn.
        seed: Seed of all draws.
        batch: Pairs that the generator renders at once.
        progress: Display for the number of pairs.

    Returns:
        float32 [N] on the main rank, else None.
    """
    G = copy.deepcopy(G)  # its noise buffers are overwritten

    def distances(indices: range) -> torch.Tensor:
        c = randomness.labels(seed, indices, dataset).to(world.device)
        return _distances(G, detector, request, indices, c, seed)

    return gather_rows(world, distances, request.count, (), batch, progress)


@torch.no_grad()
def _distances(
    G: Any, detector: Detector, request: PathRequest, indices: range, c: torch.Tensor, seed: int
) -> torch.Tensor:
    """Return the distances of some pairs, float32 [N]."""
    ws = _latent_pairs(G, request, indices, c, seed)
    with randomness.batch_noise(c.device, seed, indices[0]):
        for name, buffer in G.named_buffers():
            if name.endswith('.noise_const'):
                buffer.normal_()
    images = inference_graphs.call(G.synthesis, ws, noise_mode='const', force_fp32=True).to(
        torch.float32
    )  # [2N, C, H, W]
    images = _detector_input(require_finite(images, 'The generator gives images'), request.crop)
    start, end = detectors.apply(detector, images, VGG_LPIPS).to(torch.float32).chunk(2)  # [N, D]
    return require_finite(path_lengths(start, end, EPSILON), 'The detector gives distances')


def _latent_pairs(G: Any, request: PathRequest, indices: range, c: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the starting points followed by the end points of all steps, in w: [2N, num_ws, w_dim]."""
    generators = [randomness.generator(seed, randomness.PATH, index) for index in indices]
    ends = np.stack([generator.standard_normal([2, G.z_dim]) for generator in generators])
    z0, z1 = torch.from_numpy(ends.astype(np.float32)).to(c.device).unbind(dim=1)  # [N, z_dim]
    if request.sampling == 'full':
        t = torch.tensor([generator.random() for generator in generators], dtype=torch.float32, device=c.device)
    else:
        t = torch.zeros([len(c)], device=c.device)
    both_c = torch.cat([c, c])
    if request.space == 'z':
        t = t[:, None]
        return G.mapping(torch.cat([slerp(z0, z1, t), slerp(z0, z1, t + EPSILON)]), both_c)
    w0, w1 = G.mapping(torch.cat([z0, z1]), both_c).chunk(2)  # [N, num_ws, w_dim]
    t = t[:, None, None]
    return torch.cat([w0.lerp(w1, t), w0.lerp(w1, t + EPSILON)])


def _detector_input(images: torch.Tensor, crop: bool) -> torch.Tensor:
    """Convert images [N, C, H, W] from -1 to +1 to RGB [N, 3, H', W'] from 0 to 255, on white.

    Large images are averaged down by the factor that reduces the shorter side of the whole image to 256 pixels or
    slightly more.

    Args:
        images: Images of the generator.
        crop: Whether to use only the part from 3/8 to 7/8 of the height and from 2/8 to 6/8 of the width.
    """
    height, width = images.shape[2:]
    factor = min(height, width) // _DETECTOR_RESOLUTION
    if crop:
        images = images[:, :, height // 8 * 3 : height // 8 * 7, width // 8 * 2 : width // 8 * 6]
    images = on_background(images, shade=1, transparent=-1, opaque=1)
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return ((images + 1) * 127.5).expand(-1, 3, -1, -1)
