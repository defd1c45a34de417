"""Pairs of images a small step apart, for the perceptual path length (StyleGAN, arXiv 1812.04948, section 4.1).

The step is taken in z along a great circle, or in w along a line; at a random point between two latents ("full") or at
the first of them ("end"). N pairs, C channels, H height, W width, D numbers of the detector's vectors.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from metrics.features import detectors, randomness
from metrics.features.extraction import VGG_LPIPS
from metrics.features.image_sources import require_finite, split
from metrics.features.samples import Samples, networks_in_full_precision
from metrics.perceptual_path_length import path_lengths, slerp
from torch_utils.distributed import failing_together, gather_to_main
from torch_utils.images import on_background

EPSILON = 1e-4
_DETECTOR_RESOLUTION = 256


@dataclass(frozen=True)
class PathKind:
    """Where the step is taken, and whether only the middle of the images counts: where faces are in FFHQ."""

    space: str  # 'z' or 'w'
    sampling: str  # 'full' or 'end'
    crop: bool


def gather_distances(samples: Samples, kind: PathKind, count: int) -> np.ndarray | None:
    """Squared LPIPS distance over ε² of `count` pairs: float32 [N] on the main rank. Every rank must call this."""
    world = samples.world
    detector = samples.prepare(VGG_LPIPS)
    dataset = samples.dataset()
    # A copy, as the buffers with its noise are overwritten.
    G = copy.deepcopy(samples.G)
    spans = split(range(count), max(samples.images_at_once() // 2, 1))
    gathered = []
    with networks_in_full_precision(), samples.progress('Path lengths', count, unit='pair') as progress:
        for first in range(0, len(spans), world.size):
            of_ranks = [*spans[first : first + world.size], *[range(0)] * world.size][: world.size]
            with failing_together(world):
                distances = torch.zeros([len(of_ranks[0])], device=world.device)
                own = of_ranks[world.rank]
                if own:
                    c = randomness.labels(samples.settings.seed, own, dataset).to(world.device)
                    distances[: len(own)] = _distances(G, detector, kind, own, c, samples.settings.seed)
            for part, span in zip(gather_to_main(world, distances), of_ranks):
                gathered.append(part[: len(span)].cpu().numpy())
            progress.update(max(span.stop for span in of_ranks))
    return np.concatenate(gathered) if world.is_main else None


@torch.no_grad()
def _distances(
    G: torch.nn.Module, detector: detectors.Detector, kind: PathKind, indices: range, c: torch.Tensor, seed: int
) -> torch.Tensor:
    """float32 [N]"""
    ws = _pairs_of_latents(G, kind, indices, c, seed)
    with randomness.own_noise(c.device, seed, indices[0]):
        for name, buffer in G.named_buffers():
            if name.endswith('.noise_const'):
                buffer.normal_()
    images = G.synthesis(ws, noise_mode='const', force_fp32=True).to(torch.float32)  # [2N, C, H, W]
    images = _as_detector_sees(require_finite(images, 'The generator gives images'), kind.crop)
    here, there = detectors.ask(detector, images, detectors.LPIPS).to(torch.float32).chunk(2)  # [N, D]
    return require_finite(path_lengths(here, there, EPSILON), 'The detector gives distances')


def _pairs_of_latents(G: torch.nn.Module, kind: PathKind, indices: range, c: torch.Tensor, seed: int) -> torch.Tensor:
    """[2N, num_ws, w_dim]: the points, then their neighbours."""
    generators = [randomness.generator(seed, randomness.PATH, index) for index in indices]
    ends = np.stack([generator.standard_normal([2, G.z_dim]) for generator in generators])
    z0, z1 = torch.from_numpy(ends.astype(np.float32)).to(c.device).unbind(dim=1)  # [N, z_dim]
    if kind.sampling == 'full':
        t = torch.tensor([generator.random() for generator in generators], dtype=torch.float32, device=c.device)
    else:
        t = torch.zeros([len(c)], device=c.device)
    both_c = torch.cat([c, c])
    if kind.space == 'z':
        t = t[:, None]
        return G.mapping(torch.cat([slerp(z0, z1, t), slerp(z0, z1, t + EPSILON)]), both_c)
    w0, w1 = G.mapping(torch.cat([z0, z1]), both_c).chunk(2)  # [N, num_ws, w_dim]
    t = t[:, None, None]
    return torch.cat([w0.lerp(w1, t), w0.lerp(w1, t + EPSILON)])


def _as_detector_sees(images: torch.Tensor, crop: bool) -> torch.Tensor:
    """[N, C, H, W], [-1, +1] → [N, 3, H', W'], [0, 255]: the part that counts, averaged down where the whole is larger.

    The part is from 3/8 to 7/8 of the height and from 2/8 to 6/8 of the width; the whole becomes 256x256, or 256 pixels
    or a little more on its shorter side. What is transparent is on white.
    """
    height, width = images.shape[2:]
    factor = min(height, width) // _DETECTOR_RESOLUTION
    if crop:
        images = images[:, :, height // 8 * 3 : height // 8 * 7, width // 8 * 2 : width // 8 * 6]
    images = on_background(images, shade=1, transparent=-1, opaque=1)
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return ((images + 1) * 127.5).expand(-1, 3, -1, -1)
