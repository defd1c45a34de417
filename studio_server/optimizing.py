"""Dragging points and tuning a network, as jobs that can be watched: what `edit.py drag` and `edit.py tune` do."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.schema import Integer, ListOf, Number, Optional, Record
from generation.editing import network_outputs
from generation.editing.drag_files import read_mask
from generation.editing.dragging import MAX_POINTS, DragSession, default_settings
from generation.editing.tuning import TuningSettings, tune
from generation.projected_latents import ProjectedLatents
from generation.projection.targets import Target, load_target
from metrics.features.projection_features import open_feature_function
from studio_server import picture_specs
from studio_server.jobs import Job
from studio_server.made_files import MadeFiles
from studio_server.networks import Network
from studio_server.picture_specs import Latent
from studio_server.pictures import encode, jpeg_of

_POINT = ListOf(Number(-1e6, 1e6), 2, min_length=2)

DRAG_RULES = Record(
    {
        'spec': picture_specs.SPEC,
        'points': ListOf(Record({'handle': _POINT, 'target': _POINT}, ['handle', 'target']), MAX_POINTS, min_length=1),
        'mask': Optional(Integer(0, 10**9)),
        'steps': Integer(1, 10_000),
    },
    required=['spec', 'points', 'steps'],
)
"""`points` are in pixels of the image; `mask` is an uploaded picture, light where the image may change."""

TUNE_RULES = Record(
    {'job': Integer(0, 10**9), 'steps': Integer(1, 100_000), 'lr': Number(0, 100, above_low=True)}, required=['job']
)
"""`job` is a projection that has ended."""


def drag(job: Job, network: Network, latent: Latent, request: dict[str, Any], mask: Target | None) -> None:
    """Drag points until they arrive; the result of the job is the latent.

    Args:
        job: The job; its details have the places of the points.
        network: The network.
        latent: Where to start.
        request: By `DRAG_RULES`.
        mask: Uploaded picture, or None.

    Raises:
        ValueError: A point or the mask cannot be used.
    """
    handles, targets = ([tuple(pair[key]) for pair in request['points']] for key in ('handle', 'target'))
    pixels: np.ndarray | None = None if mask is None else read_mask(os.fspath(mask.path))
    session = DragSession(
        network.G, latent.projected, handles, targets, pixels, default_settings(network.G), network.device
    )
    for step in range(1, request['steps'] + 1):
        state = session.step()
        distance = sum(state.distances) / len(state.distances)
        job.values.append(distance)
        job.details['points'] = [list(point) for point in state.points]
        job.result = session.latent
        text = f'step {step} of {request["steps"]}, {distance:.2f} pixels left on average'
        progress = 1 if state.is_done else step / request['steps']
        if job.step(progress, text, lambda: encode(session.image, 'jpeg')):
            job.text = f'Stopped at {text}: the latent of this step can be kept.'
            return
        if state.is_done:
            return


def tune_network(
    job: Job, network: Network, projection: Job, request: dict[str, Any], detector_dir: str | None, networks: MadeFiles
) -> None:
    """Tune a network to a projected photograph, and write it under the next number.

    Args:
        job: The job. If it is stopped, the network is written as it is then.
        network: The network of the projection.
        projection: The job that has found the latent.
        request: By `TUNE_RULES`.
        detector_dir: Folder with the feature network, or None to download it.
        networks: Where the network is written.

    Raises:
        ValueError: The photograph is not there any more, or the loss is not finite.
    """
    if projection.photograph is None or not isinstance(projection.result, ProjectedLatents):
        raise InvalidArgument('job', f'Job {projection.number} is not a projection that has ended.')
    G = network.G
    photograph = load_target(projection.photograph, G.img_resolution, G.img_channels)
    features, _description = open_feature_function(detector_dir, G.img_resolution, network.device)
    defaults = TuningSettings()
    settings = TuningSettings(
        num_steps=request.get('steps', defaults.num_steps), learning_rate=request.get('lr', defaults.learning_rate)
    )

    def on_step(step: int, loss: float, rendered: dict[int, torch.Tensor]) -> bool:
        if not math.isnan(loss):
            job.values.append(loss)
        text = f'step {step} of {settings.num_steps}'
        return job.step(step / settings.num_steps, text, lambda: jpeg_of(*rendered.values()))

    result = tune(G, [photograph], projection.result, features, settings, network.device, on_step)
    number = networks.next()
    network_outputs.write(result.G.cpu(), network.data, os.fspath(networks.path(number)))
    stopped = f'Stopped after {result.num_steps} of {settings.num_steps} steps: ' if job.is_stopped else ''
    job.text = (
        f'{stopped}distance {result.before[0].distance:.4g} before, {result.after[0].distance:.4g} now; '
        f'wrote {networks.path(number)}'
    )
    job.made('networks', number)
