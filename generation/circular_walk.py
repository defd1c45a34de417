"""Walks on circles through z: each returns to its seed, and all of its latents are as likely as any others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from generation import latents
from generation.projected_latents import ProjectedLatents


@dataclass
class CircularWalk:
    """The latents of a video in which each image of the frame moves around a circle of its own.

    Args:
        G: Generator.
        seeds: Seed of each image, where its circle begins; see `latents.z_on_circle`.
        labels: float32 [num_cells, c_dim] on the device of G.
        truncation: How latents are truncated, with a single value of psi.
        num_frames: Frames of the whole circle.
        offset: Added to each w: float32 [num_ws, w_dim], or None.
    """

    G: Any
    seeds: Sequence[int]
    labels: torch.Tensor
    truncation: latents.Truncation
    num_frames: int
    offset: torch.Tensor | None = None

    @property
    def num_cells(self) -> int:
        """Number of images side by side in a frame."""
        return len(self.seeds)

    def chunks(self, frames_at_once: int) -> Iterator[ProjectedLatents]:
        """Yield the latents of a few frames at a time: frames * cells of them, frame by frame."""
        truncation = self.truncation
        center = None
        if truncation.is_active:
            center = latents.truncation_center(self.G, self.labels, truncation.towards)
        for start in range(0, self.num_frames, frames_at_once):
            frames = range(start, min(start + frames_at_once, self.num_frames))
            turns = [frame / self.num_frames for frame in frames for _cell in self.seeds]
            ws = latents.ws_of_seeds(
                self.G,
                [*self.seeds] * len(frames),
                self.labels.repeat(len(frames), 1),
                truncation.psi[0],
                truncation.cutoff,
                None if center is None else center.repeat(len(frames), 1),
                turns,
            )
            if self.offset is not None:
                ws = ws + self.offset.to(ws)
            yield ProjectedLatents(ws.cpu().numpy())
