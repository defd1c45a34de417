"""What the functions of the metric table compute with, on the main rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dnnlib.progress import Progress
from metrics import frechet_inception_distance
from metrics.features import randomness
from metrics.features.collectors import Moments
from metrics.metric_spec import INTERVAL_COVERAGE, MetricName
from metrics.options import MetricOptions


@dataclass(frozen=True)
class MetricInputs:
    """The data that a metric requested, by part, and everything else that its value depends on."""

    name: MetricName
    data: dict[str, Moments | np.ndarray]
    options: MetricOptions
    device: torch.device

    def array(self, part: str) -> np.ndarray:
        """Return a part as it was gathered."""
        array = self.data[part]
        assert isinstance(array, np.ndarray)
        return array

    def features(self, part: str) -> torch.Tensor:
        """Return features [N, D] on the device that computes fastest."""
        features = torch.from_numpy(self.array(part))
        return features.to(self.device) if self.device.type == 'cuda' else features

    def moments(self, part: str) -> tuple[Any, Any]:
        """Return the mean [D] and the covariance [D, D] of features."""
        data = self.data[part]
        if isinstance(data, Moments):
            return data.mean, data.cov
        return frechet_inception_distance.moments(self.features(part))

    def subset_rng(self) -> np.random.Generator:
        """Return the generator that draws subsets of images."""
        return randomness.generator(self.options.seed, randomness.SUBSETS)

    def resampling_rng(self) -> np.random.Generator:
        """Return the generator that draws bootstrap resamples."""
        return randomness.generator(self.options.seed, randomness.RESAMPLING)

    def progress(self, title: str, unit: str) -> Progress:
        """Return a progress display for a long computation."""
        return Progress(title, unit=unit, enabled=self.options.verbose)

    def bootstrap(self, function: Callable[..., tuple[float, float]], rng: np.random.Generator) -> dict[str, Any]:
        """Return the bootstrap interval of a distance between real and generated images, as it appears in results.

        Args:
            function: Function of real and generated features that returns both ends of the interval.
            rng: Generator for the function.
        """
        with self.progress('Resamples', unit='resample') as progress:
            low, high = function(
                self.features('real'),
                self.features('fake'),
                num_resamples=self.options.bootstrap,
                rng=rng,
                confidence=INTERVAL_COVERAGE,
                progress=progress.show,
            )
        return {
            'low': float(low),
            'high': float(high),
            'coverage': INTERVAL_COVERAGE,
            'num_resamples': self.options.bootstrap,
        }
