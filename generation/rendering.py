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
from generation.projected_latents import ProjectedLatents, use_projected_noise
from torch_utils import images, misc


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
    options = dict(noise_mode=noise_mode, force_fp32=force_fp32)
    if noise_mode != 'random':
        return images.to_uint8(G.synthesis(ws, **options)).cpu().numpy()
    # One image at a time: otherwise the noise of a seed would depend on the other images of the batch.
    rendered = []
    for seed, w in zip(range(len(ws)) if noise_seeds is None else noise_seeds, ws):
        with _seeded(seed, ws.device):
            rendered.append(images.to_uint8(G.synthesis(w.unsqueeze(0), **options)))
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
    truncation_psi: float = 1,
    noise_mode: str = 'const',
    batch_size: int = 1,
) -> Iterator[np.ndarray]:
    """Yield an image for each seed, uint8 [C, H, W]; `label` is float32 [1, c_dim] on the device of G."""
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        ws = latents.ws_of_seeds(G, batch, label, truncation_psi)
        yield from render(G, ws, noise_mode, batch)


def render_projected(
    G: Any,
    projected: ProjectedLatents,
    device: torch.device,
    noise_mode: str = 'const',
    batch_size: int = 1,
    first_noise_seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yield an image for each projected latent.

    With noise_mode='const', latents that come with noise of their own are rendered one by one and in full precision, as
    the projector did.

    Args:
        G: Generator on `device`.
        projected: Latents w, optionally with noise.
        device: Device of G.
        noise_mode: 'const', 'random' or 'none'.
        batch_size: Number of images rendered at once.
        first_noise_seed: Seed of the random noise of the first image; it increases by 1 with each image.

    Yields:
        uint8 [C, H, W].
    """
    has_own_noise = bool(projected.noise) and noise_mode == 'const'
    step = 1 if has_own_noise else batch_size
    for start in range(0, len(projected), step):
        ws = torch.from_numpy(projected.ws[start : start + step]).to(device)
        noise_seeds = range(first_noise_seed + start, first_noise_seed + start + len(ws))
        with contextlib.ExitStack() as stack:
            if has_own_noise:
                stack.enter_context(use_projected_noise(G, projected, start))
                stack.enter_context(misc.without_tf32())
            rendered = render(G, ws, noise_mode, noise_seeds, force_fp32=has_own_noise)
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
