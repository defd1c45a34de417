"""From latents to images, and from images to files.

Images are yielded one by one but computed in batches, so that memory does not grow with their number. Legend: N images,
C channels (as in `torch_utils.images`), H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.progress import track
from generation import latents
from generation.image_transforms import use_transform
from generation.projected_latents import ProjectedLatents, noise_buffers, use_projected_noise
from torch_utils import images, inference_graphs, precision


@torch.no_grad()
def render(
    G: Any,
    ws: torch.Tensor,
    noise_mode: str = 'const',
    noise_seeds: Sequence[int] | None = None,
    force_fp32: bool = False,
) -> np.ndarray:
    """Render images from latents w.

    Args:
        G: Generator on the device of `ws`.
        ws: [N, num_ws, w_dim].
        noise_mode: 'const', 'random' or 'none'.
        noise_seeds: Seeds of the random noise of each image; None: 0, 1, 2, ...
        force_fp32: Use full precision even if the network was made for half precision.

    Returns:
        uint8 [N, C, H, W].
    """
    options: dict[str, Any] = dict(noise_mode=noise_mode, force_fp32=force_fp32)
    if noise_mode != 'random':
        return images.to_uint8(inference_graphs.call(G.synthesis, ws, **options)).cpu().numpy()
    # One image at a time: otherwise the noise of a seed would depend on the other images of the batch.
    rendered = []
    for seed, w in zip(range(len(ws)) if noise_seeds is None else noise_seeds, ws):
        with _seeded(seed, ws.device):
            rendered.append(images.to_uint8(inference_graphs.call(G.synthesis, w.unsqueeze(0), **options)))
    return torch.cat(rendered).cpu().numpy()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators within this context, and restore them afterwards."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def render_seeds(
    G: Any,
    seeds: Sequence[int],
    label: torch.Tensor,
    truncation: latents.Truncation = latents.NO_TRUNCATION,
    noise_mode: str = 'const',
    batch_size: int = 1,
    transforms: Sequence[np.ndarray | None] = (None,),
    offset: torch.Tensor | None = None,
    num_turns: int = 1,
) -> Iterator[np.ndarray]:
    """Yield the images of each seed: one for each place on its circle, each value of psi and each transform.

    Args:
        G: Generator.
        seeds: Seeds of the latents, and of random noise.
        label: float32 [1, c_dim] on the device of G.
        truncation: How latents are truncated; it may be a series.
        noise_mode: 'const', 'random' or 'none'.
        batch_size: Number of images rendered at once; with several transforms it is 1.
        transforms: Transforms of the images, see `image_transforms`. None: that of the generator itself.
        offset: Added to each w: float32 [num_ws, w_dim], or None.
        num_turns: Number of places on the circle through each seed, see `latents.z_on_circle`. 1: the seed itself.

    Yields:
        uint8 [C, H, W].
    """
    step = batch_size if len(transforms) == 1 else 1
    center = latents.truncation_center(G, label, truncation.towards) if truncation.is_active else None
    jobs = [(seed, turn / num_turns, psi) for seed in seeds for turn in range(num_turns) for psi in truncation.psi]
    for start in range(0, len(jobs), step):
        batch, turns, psis = zip(*jobs[start : start + step])
        on_circle = turns if num_turns > 1 else None
        ws = latents.ws_of_seeds(G, batch, label, psis, truncation.cutoff, center, on_circle)
        if offset is not None:
            ws = ws + offset.to(ws)
        for transform in transforms:
            with use_transform(G, transform):
                rendered = render(G, ws, noise_mode, batch)
            yield from rendered


def render_projected(
    G: Any,
    projected: ProjectedLatents,
    device: torch.device,
    noise_mode: str = 'const',
    batch_size: int = 1,
    first_noise_seed: int = 0,
    as_projected: bool = False,
    transforms: Sequence[np.ndarray | None] = (None,),
) -> Iterator[np.ndarray]:
    """Yield an image for each projected latent, or one for each latent and transform, latent by latent.

    With noise_mode='const', latents that come with noise of their own are rendered one by one and in full precision, as
    the projector did. So are those of networks without noise, if `as_projected`.

    Args:
        G: Generator on `device`.
        projected: Latents w, optionally with noise.
        device: Device of G.
        noise_mode: 'const', 'random' or 'none'.
        batch_size: Number of images rendered at once.
        first_noise_seed: Seed of the random noise of the first image; it increases by 1 with each latent.
        as_projected: The latents were found by projection, not taken from seeds.
        transforms: See `render_seeds`.

    Yields:
        uint8 [C, H, W].
    """
    has_own_noise = bool(projected.noise) and noise_mode == 'const'
    is_exact = has_own_noise or (as_projected and not noise_buffers(G))
    step = 1 if is_exact or len(transforms) > 1 else batch_size
    for start in range(0, len(projected), step):
        ws = torch.from_numpy(projected.ws[start : start + step]).to(device)
        noise_seeds = range(first_noise_seed + start, first_noise_seed + start + len(ws))
        for transform in transforms:
            with contextlib.ExitStack() as stack:
                stack.enter_context(use_transform(G, transform))
                if has_own_noise:
                    stack.enter_context(use_projected_noise(G, projected, start))
                if is_exact:
                    stack.enter_context(precision.tensor_float32(False))
                rendered = render(G, ws, noise_mode, noise_seeds, force_fp32=is_exact)
            yield from rendered


# ---------------------------------------------------------------------------------------------------------------------
# Files


def write_images(rendered: Iterable[np.ndarray], file_names: Sequence[str], outdir: Path) -> str:
    """Write each image [C, H, W] to its own PNG file, and return a description of what was written."""
    for image, file_name in zip(track(rendered, len(file_names), 'image'), file_names):
        images.save_png(image, outdir / file_name)
    return str(outdir / file_names[0]) if len(file_names) == 1 else f'{len(file_names)} images to {outdir}'


def write_grid(rendered: Iterable[np.ndarray], count: int, outdir: Path, grid_size: tuple[int, int]) -> str:
    """Write `count` images [C, H, W] to grid.png, in (columns, rows), and return a description of what was written."""
    path = outdir / 'grid.png'
    images.save_image_grid(np.stack(list(track(rendered, count, 'image'))), path, grid_size)
    return f'{count} images as {path}'
