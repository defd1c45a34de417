"""How metrics are computed, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Options of metrics, with their defaults in one place."""

    dataset_kwargs: dict[str, Any]  # as in pickles: `class_name` and keywords; a subset in them is ignored
    seed: int = 0
    batch: int = 64  # images that a detector sees at once
    detectors: str | None = None  # folder; None: the published ones
    num_samples: int = 50_000  # of the path length; the other metrics have it in their names
    bootstrap: int = 0  # resamples for intervals of FID and KID
    workers: int = 0  # processes that decode images, for each rank
    verbose: bool = True
