"""Projection as a job: find the latent of a photograph, and show every step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from dnnlib.schema import Choice, Integer, Number, Record
from generation import latents
from generation.projection.optimization import ProjectionSettings, measure_w, project
from generation.projection.targets import Target, check_channels, find_targets, load_target
from metrics.features.projection_features import features_of, open_detector
from studio_server import picture_specs
from studio_server.jobs import Job
from studio_server.networks import Network
from studio_server.pictures import jpeg_of

RULES = Record(
    {
        'upload': Integer(0, 10**9),
        'spec': picture_specs.SPEC,
        'steps': Integer(1, 100_000),
        'space': Choice(('w', 'w+')),
        'seed': Integer(0, latents.MAX_SEED),
        'lr': Number(0, 100, above_low=True),
    },
    required=['upload', 'spec'],
)


def project_photograph(
    job: Job, network: Network, target: Target, request: dict[str, Any], detector_dir: str | None
) -> None:
    """Project a photograph; the result of the job is the latent with the lowest distance.

    Args:
        job: The job.
        network: The network.
        target: The photograph.
        request: By `RULES`.
        detector_dir: Folder with the feature network, or None to download it.
    """
    check_channels(target, network.G.img_channels)
    pixels = load_target(target, network.G.img_resolution, network.G.img_channels)
    job.text = 'Loading the network that compares images …'
    detector = open_detector(detector_dir, network.G.img_resolution, network.device)
    G = copy.deepcopy(network.G)  # pictures change the buffers of the other one
    settings = ProjectionSettings(
        num_steps=request.get('steps', ProjectionSettings.num_steps),
        seed=request.get('seed', ProjectionSettings.seed),
        space=request.get('space', ProjectionSettings.space),
        learning_rate=request.get('lr', ProjectionSettings.learning_rate),
    )

    def on_render(step: int, distance: float, image: torch.Tensor) -> bool:
        job.values.append(distance)
        text = f'step {step} of {settings.num_steps}, distance {distance:.4g}'
        return job.step(step / settings.num_steps, text, lambda: jpeg_of(image))

    statistics = measure_w(G, picture_specs.label_of(network, picture_specs.parse(request['spec'])))
    result = project(G, pixels, features_of(detector), statistics, settings, on_render)
    job.result = result.best.to_latents()
    job.details['best'] = result.best.distance
    if job.is_stopped:
        steps = f'{len(job.values) - 1} of {settings.num_steps} steps'
        job.text = f'Stopped after {steps}: the best latent so far, distance {result.best.distance:.4g}, can be kept.'


def photograph_at(path: Path, max_pixels: int) -> Target:
    """Return an uploaded file as the projector takes it.

    Raises:
        ValueError: It cannot be decoded, or is too large. One sentence.
    """
    (target,) = find_targets([str(path)], max_pixels)
    return target
