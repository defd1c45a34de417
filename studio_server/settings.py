"""What studio.py was called with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset_format.images import MAX_PIXELS


@dataclass(frozen=True)
class Settings:
    """What studio.py was called with.

    Args:
        networks: Files, URLs and directories of runs.
        devices: One worker runs on each; networks are divided among them.
        outdir: Where everything that is kept is written.
        max_network_bytes: See `networks.NetworkStore`.
        trust: Run the code in pickles.
        detector_dir: Folder with vgg16.pt, or None.
        direction_files: Files that edit.py directions has written.
        max_pixels: Of a photograph.
    """

    networks: Sequence[str]
    devices: Sequence[torch.device]
    outdir: Path
    max_network_bytes: int
    trust: bool = False
    detector_dir: str | None = None
    direction_files: Sequence[str] = ()
    max_pixels: int = MAX_PIXELS
