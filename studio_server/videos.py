"""Videos through latents of the shelf, as a job: what gen_video.py makes of the same files."""

from __future__ import annotations

import os
from typing import Any

from dnnlib.schema import Choice, Flag, Integer, ListOf, Number, Record
from generation import projected_latents
from generation.interpolation import Interpolation, render_frames
from generation.video import VideoWriter, require_encoder
from studio_server import commands, picture_specs
from studio_server.jobs import Job, Stopped
from studio_server.made_files import NUMBER, MadeFiles
from studio_server.networks import Network
from studio_server.pictures import encode
from studio_server.shelf import Shelf

_BATCH = 4  # the default of gen_video.py
_MAX_KEYS, _MAX_FRAMES = 200, 100_000

RULES = Record(
    {
        'spec': picture_specs.SPEC,
        'kept': ListOf(NUMBER, _MAX_KEYS, min_length=2),
        'frames': Integer(1, _MAX_FRAMES),
        'fps': Number(1, 240),
        'loop': Flag(),
        'kind': Choice(('cubic', 'linear')),
        'easing': Choice(('none', 'smooth')),
    },
    required=['spec', 'kept', 'frames', 'fps', 'loop', 'kind', 'easing'],
)


def make_video(job: Job, network: Network, shelf: Shelf, request: dict[str, Any], videos: MadeFiles) -> None:
    """Render and write a video. One that is stopped leaves no file.

    Args:
        job: The job; its result is the number of the video.
        network: The network.
        shelf: Where the keyframes are.
        request: By `RULES`.
        videos: Where the video is written, under the next number.

    Raises:
        ValueError: A keyframe does not fit the network, or there is no encoder.
    """
    require_encoder()
    G = network.G
    keys = projected_latents.join([shelf.read(kept, G) for kept in request['kept']], G)
    path = Interpolation(keys, 1, request['frames'], request['kind'], request['loop'], request['easing'])
    number = videos.next()
    file = videos.path(number)
    with VideoWriter(file, request['fps']) as writer:
        frames = render_frames(G, path, (1, 1), network.device, 'const', _BATCH)
        for index, frame in enumerate(frames, start=1):
            writer.add(frame)
            text = f'frame {index} of {path.num_frames}'
            if job.step(index / path.num_frames, text, lambda frame=frame: encode(frame, 'jpeg')):  # type: ignore[misc]
                job.text = f'Stopped after {text}: a video is written to its end or not at all, so there is none.'
                raise Stopped
    files = [os.fspath(shelf.file(kept, '.npz')) for kept in request['kept']]
    job.details['command'] = commands.video_command(network, files, request, os.fspath(file))
    job.made('videos', number)
