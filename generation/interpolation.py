"""Videos that move from latent to latent: keyframes, the curve through them, and the frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import scipy.interpolate
import torch

from generation import rendering
from generation.circular_walk import CircularWalk
from generation.image_transforms import Motion
from generation.projected_latents import ProjectedLatents
from torch_utils import images


@dataclass
class Interpolation:
    """A path through w, and through the noise if the keyframes have noise of their own.

    Args:
        keys: Latents of all keyframes, num_cells * num_keys of them, one cell after the other.
        num_cells: Number of images side by side in a frame.
        frames_per_key: Number of frames from one keyframe to the next.
        kind: 'cubic' (a spline, smooth at the keyframes) or 'linear' (straight lines between them).
        loop: Continue from the last keyframe to the first, so that the video repeats without a jump.
        easing: 'none' (steady from keyframe to keyframe) or 'smooth' (slow at the keyframes, fast between them).
    """

    keys: ProjectedLatents
    num_cells: int
    frames_per_key: int
    kind: str = 'cubic'
    loop: bool = True
    easing: str = 'none'

    @property
    def num_keys(self) -> int:
        """Number of keyframes of each cell."""
        return len(self.keys) // self.num_cells

    @property
    def num_frames(self) -> int:
        """Number of frames of the video."""
        if self.loop:
            return self.num_keys * self.frames_per_key
        return (self.num_keys - 1) * self.frames_per_key + 1

    def chunks(self, frames_at_once: int) -> Iterator[ProjectedLatents]:
        """Yield the latents of a few frames at a time: frames * cells of them, frame by frame.

        The noise between two keyframes is a blend of theirs, scaled to their strength; a plain mean would be weaker.
        """
        w_at = self._curve()
        for start in range(0, self.num_frames, frames_at_once):
            times = self._eased(np.arange(start, min(start + frames_at_once, self.num_frames)) / self.frames_per_key)
            ws = np.asarray(w_at(times), dtype=np.float32)  # [T, cells, num_ws, w_dim]
            noise = {name: self._noise_at(times, array) for name, array in self.keys.noise.items()}
            yield ProjectedLatents(ws.reshape(-1, *ws.shape[2:]), noise)

    def _eased(self, times: np.ndarray) -> np.ndarray:
        """Return where the video is at these times, both measured in keyframes."""
        if self.easing == 'none':
            return times
        before = np.floor(times)
        fraction = times - before
        return before + fraction * fraction * (3 - 2 * fraction)

    def _curve(self) -> scipy.interpolate.PPoly:
        """Return a function of times [T], measured in keyframes, that gives w [T, cells, num_ws, w_dim]."""
        ws = self._by_key(self.keys.ws).astype(np.float64)
        if self.loop:
            ws = np.concatenate([ws, ws[:1]])
        times = np.arange(len(ws))
        if self.kind == 'linear':
            return scipy.interpolate.PPoly(np.stack([np.diff(ws, axis=0), ws[:-1]]), times)
        ends = 'periodic' if self.loop else 'natural'
        return scipy.interpolate.CubicSpline(times, ws, bc_type=ends)

    def _noise_at(self, times: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return [T * cells, H, W] from the noise of the keyframes, [cells * num_keys, H, W]."""
        by_key = self._by_key(noise)  # [num_keys, cells, H, W]
        before = np.floor(times).astype(int)
        fraction = (times - before).astype(np.float32)[:, None, None, None]
        after = (before + 1) % self.num_keys
        blend = (1 - fraction) * by_key[before] + fraction * by_key[after]
        strength = _root_mean_square(by_key)  # [num_keys, cells, 1, 1]
        target_strength = (1 - fraction) * strength[before] + fraction * strength[after]
        blend *= target_strength / np.maximum(_root_mean_square(blend), np.finfo(np.float32).tiny)
        return blend.reshape(-1, *noise.shape[1:])

    def _by_key(self, array: np.ndarray) -> np.ndarray:
        """Rearrange [cells * num_keys, ...] to [num_keys, cells, ...]."""
        return array.reshape(self.num_cells, self.num_keys, *array.shape[1:]).swapaxes(0, 1)


def _root_mean_square(noise: np.ndarray) -> np.ndarray:
    """Return [..., 1, 1] for [..., H, W]."""
    return np.sqrt(np.square(noise).mean(axis=(-2, -1), keepdims=True))


def render_frames(
    G: torch.nn.Module,
    interpolation: Interpolation | CircularWalk,
    grid_size: tuple[int, int],
    device: torch.device,
    noise_mode: str = 'const',
    batch_size: int = 1,
    enlarge: int = 1,
    motion: Motion | None = None,
) -> Iterator[np.ndarray]:
    """Yield the frames of a video, each a grid of images in reading order.

    Args:
        G: Generator on `device`.
        interpolation: Latents of the frames.
        grid_size: (columns, rows).
        device: Device of G.
        noise_mode: 'const', 'random' or 'none'.
        batch_size: Number of images rendered at once.
        enlarge: Repeat each pixel this many times along both axes.
        motion: Movement of the images, for generators that can transform them. Each frame is then rendered by itself.

    Yields:
        uint8 [H, W, C], or [H, W] for grayscale.
    """
    num_cells = interpolation.num_cells
    frames_at_once = max(batch_size // num_cells, 1) if motion is None else 1
    num_rendered = 0
    for chunk in interpolation.chunks(frames_at_once):
        frame_index = num_rendered // num_cells
        transform = None if motion is None else motion.at(frame_index, interpolation.num_frames)
        rendered = rendering.render_projected(
            G, chunk, device, noise_mode, batch_size, first_noise_seed=num_rendered, transforms=[transform]
        )
        while cells := list(islice(rendered, num_cells)):
            frame = images.image_grid(np.stack(cells), grid_size)
            yield frame.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
        num_rendered += len(chunk)
