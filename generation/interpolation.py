"""Videos that move from latent to latent: keys, the curve through them, frames."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import scipy.interpolate
import torch

from dnnlib.progress import track
from generation import rendering
from generation.projected_latents import Projections
from generation.video import VideoWriter
from torch_utils import images


@dataclass
class Interpolation:
    """A way through w, and through the noise where the keys have their own.

    keys: The latents of every cell after those of the one before: cells * num_keys of them.
    num_cells: So many pictures are beside each other in a frame.
    frames_per_key: Frames from one key to the next.
    kind: 'cubic' (a spline: smooth also at the keys) or 'linear' (straight from key to key).
    loop: Go on from the last key to the first, so that the video can be repeated without a jump; else end there.
    """

    keys: Projections
    num_cells: int
    frames_per_key: int
    kind: str = 'cubic'
    loop: bool = True

    @property
    def num_keys(self) -> int:
        """Keys of each cell."""
        return len(self.keys) // self.num_cells

    @property
    def num_frames(self) -> int:
        if self.loop:
            return self.num_keys * self.frames_per_key
        return (self.num_keys - 1) * self.frames_per_key + 1

    def chunks(self, frames_at_once: int) -> Iterator[Projections]:
        """What the frames show, some frames at a time: frames * cells of them, frame by frame.

        The noise between two keys is a blend of theirs, scaled to be as strong as they are: a plain mean would fade.
        """
        w_at = self._curve()
        for start in range(0, self.num_frames, frames_at_once):
            times = np.arange(start, min(start + frames_at_once, self.num_frames)) / self.frames_per_key
            ws = np.asarray(w_at(times), dtype=np.float32)  # [T, cells, num_ws, w_dim]
            noise = {name: self._noise_at(times, array) for name, array in self.keys.noise.items()}
            yield Projections(ws.reshape(-1, *ws.shape[2:]), noise)

    def _curve(self) -> scipy.interpolate.PPoly:
        """Function of times [T], in keys: → w [T, cells, num_ws, w_dim]."""
        ws = self._by_key(self.keys.ws).astype(np.float64)
        if self.loop:
            ws = np.concatenate([ws, ws[:1]])
        times = np.arange(len(ws))
        if self.kind == 'linear':
            return scipy.interpolate.PPoly(np.stack([np.diff(ws, axis=0), ws[:-1]]), times)
        ends = 'periodic' if self.loop else 'natural'
        return scipy.interpolate.CubicSpline(times, ws, bc_type=ends)

    def _noise_at(self, times: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """[T * cells, H, W] of the keys' [cells * num_keys, H, W]."""
        by_key = self._by_key(noise)  # [num_keys, cells, H, W]
        before = np.floor(times).astype(int)
        share = (times - before).astype(np.float32)[:, None, None, None]
        after = (before + 1) % self.num_keys
        blend = (1 - share) * by_key[before] + share * by_key[after]
        strength = _root_mean_square(by_key)  # [num_keys, cells, 1, 1]
        wanted = (1 - share) * strength[before] + share * strength[after]
        blend *= wanted / np.maximum(_root_mean_square(blend), np.finfo(np.float32).tiny)
        return blend.reshape(-1, *noise.shape[1:])

    def _by_key(self, array: np.ndarray) -> np.ndarray:
        """[cells * num_keys, …] → [num_keys, cells, …]."""
        return array.reshape(self.num_cells, self.num_keys, *array.shape[1:]).swapaxes(0, 1)


def _root_mean_square(noise: np.ndarray) -> np.ndarray:
    """[…, 1, 1] of […, H, W]."""
    return np.sqrt(np.square(noise).mean(axis=(-2, -1), keepdims=True))


def write(
    path: str | os.PathLike, fps: float, G: torch.nn.Module, interpolation: Interpolation, *arguments, **options
) -> None:
    """`frames(G, interpolation, …)` as a video, whole or not at all. Raises generation.video.VideoError."""
    pictures = frames(G, interpolation, *arguments, **options)
    with VideoWriter(path, fps) as writer:
        for frame in track(pictures, interpolation.num_frames, 'frame'):
            writer.add(frame)


def frames(
    G: torch.nn.Module,
    interpolation: Interpolation,
    grid_size: tuple[int, int],
    device: torch.device,
    noise_mode: str = 'const',
    batch_size: int = 1,
    enlarge: int = 1,
) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [H, W, C] or [H, W]: a grid (columns, rows) of pictures in reading order.

    enlarge: Each pixel of the network becomes so many along each axis.
    """
    num_cells = interpolation.num_cells
    frames_at_once = max(batch_size // num_cells, 1)
    num_rendered = 0
    for chunk in interpolation.chunks(frames_at_once):
        pictures = rendering.of_projections(G, chunk, device, noise_mode, batch_size, first_noise_seed=num_rendered)
        while frame := list(islice(pictures, num_cells)):
            canvas = images.image_grid(np.stack(frame), grid_size)
            yield canvas.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
        num_rendered += len(chunk)
