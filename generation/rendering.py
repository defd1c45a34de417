"""From latents to pictures, and from pictures to files.

Pictures come one after another, computed in batches, so that memory does not grow with their number. Legend: N images,
C channels (as in `torch_utils.images`), H height, W width.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dnnlib.progress import track
from generation import latents
from generation.projected_latents import Projections, noise_of
from torch_utils import images, misc


@torch.no_grad()
def render(
    G: torch.nn.Module,
    ws: torch.Tensor,
    noise_mode: str = 'const',
    noise_seeds: Sequence[int] | None = None,
    force_fp32: bool = False,
) -> np.ndarray:
    """Images uint8 [N, C, H, W] of ws [N, num_ws, w_dim], which are on the network's device.

    noise_seeds: With noise_mode='random', where the noise of each image comes from; 0, 1, 2 … by default.
    force_fp32: No half precision, whatever the network is made for.
    """
    options = dict(noise_mode=noise_mode, force_fp32=force_fp32)
    if noise_mode != 'random':
        return images.to_uint8(G.synthesis(ws, **options)).cpu().numpy()
    # Drawn one image at a time, or the noise of a seed would depend on its neighbours in the batch.
    pictures = []
    for seed, w in zip(range(len(ws)) if noise_seeds is None else noise_seeds, ws):
        with _seeded(seed, ws.device):
            pictures.append(images.to_uint8(G.synthesis(w.unsqueeze(0), **options)))
    return torch.cat(pictures).cpu().numpy()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's global generators start at `seed` inside, and go on as if nothing had been outside."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def of_seeds(
    G: torch.nn.Module,
    seeds: Sequence[int],
    label: torch.Tensor,
    truncation_psi: float = 1,
    noise_mode: str = 'const',
    batch_size: int = 1,
) -> Iterator[np.ndarray]:
    """A picture uint8 [C, H, W] for each seed. `label` is [1, c_dim], on the network's device."""
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        ws = latents.ws_of_seeds(G, batch, label, truncation_psi)
        yield from render(G, ws, noise_mode, batch)


def of_projections(
    G: torch.nn.Module,
    projections: Projections,
    device: torch.device,
    noise_mode: str = 'const',
    batch_size: int = 1,
    first_noise_seed: int = 0,
) -> Iterator[np.ndarray]:
    """A picture uint8 [C, H, W] for each projection; with noise_mode='const' and its own noise where it has some.

    Those with noise of their own are computed one by one and in full precision, as the projector has seen them. The
    noise of noise_mode='random' starts at `first_noise_seed` for the first picture, the next number for the next.
    """
    own_noise = bool(projections.noise) and noise_mode == 'const'
    step = 1 if own_noise else batch_size
    for start in range(0, len(projections), step):
        ws = torch.from_numpy(projections.ws[start : start + step]).to(device)
        noise_seeds = range(first_noise_seed + start, first_noise_seed + start + len(ws))
        with contextlib.ExitStack() as exits:
            if own_noise:
                exits.enter_context(noise_of(G, projections, start))
                exits.enter_context(misc.full_precision())
            pictures = render(G, ws, noise_mode, noise_seeds, force_fp32=own_noise)
        yield from pictures


# ------------------------------------------------------------------------------------------------ files


def write_images(pictures: Iterable[np.ndarray], file_names: Sequence[str], outdir: Path) -> str:
    """Each picture [C, H, W] into its own PNG file. Returns what was written, in words."""
    for picture, file_name in zip(track(pictures, len(file_names), 'image'), file_names):
        images.save_png(picture, outdir / file_name)
    return str(outdir / file_names[0]) if len(file_names) == 1 else f'{len(file_names)} images to {outdir}'


def write_grid(pictures: Iterable[np.ndarray], count: int, outdir: Path, grid_size: tuple[int, int]) -> str:
    """All `count` pictures [C, H, W] into grid.png, which is `grid_size` = (columns, rows) of them. Returns words."""
    path = outdir / 'grid.png'
    images.save_image_grid(np.stack(list(track(pictures, count, 'image'))), path, grid_size)
    return f'{count} images as {path}'
