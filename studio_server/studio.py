"""What the server knows and does, without HTTP: networks, shelf, jobs and the pages that are open."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
import secrets
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dnnlib.cli import available_devices
from dnnlib.errors import InvalidArgument, error_sentence
from dnnlib.schema import Choice, Flag, Integer, Optional, Record, Rule, Text
from dnnlib.scratch import scratch_folder
from generation.projected_latents import ProjectedLatents
from generation.projection.targets import Target
from studio_server import (
    commands,
    editing,
    inside,
    made_files,
    optimizing,
    picture_specs,
    pictures,
    projecting,
    run_pages,
    videos,
)
from studio_server.jobs import Job, Jobs
from studio_server.networks import Network, NetworkStore, describe_sources, is_run
from studio_server.settings import Settings
from studio_server.shelf import Shelf
from studio_server.workers import Client, RenderWorker

PAGE_DIR = Path(__file__).parent / 'page'

_MAX_UPLOADS = 8
_MAX_REMOVED = 500  # that a page is told of
_MADE_FILE = re.compile(r'(kept/[0-9]{4,12}\.(png|npz|json)|videos/[0-9]{4,12}\.mp4)')
_REQUEST = Record(
    {
        'view': Text(40, r'[a-z0-9-]+', 'lowercase letters, digits and dashes'),
        'id': Integer(0, 2**53),
        'spec': picture_specs.SPEC,
        'format': Choice(pictures.FORMATS),
        'preview': Flag(),
        'max_side': Optional(Integer(8, 4096)),
        'look': Optional(inside.RULES),
    },
    required=['view', 'id', 'spec'],
)
_MADE = Record({'folder': Choice(tuple(made_files.SUFFIXES)), 'number': made_files.NUMBER}, ['folder', 'number'])


class Studio:
    """The state of a server. Its coroutines run in one event loop."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._made = made_files.all_made(settings.outdir)
        self.clients: set[Client] = set()
        self.shelf = Shelf(self._made['kept'])
        self.workers: list[RenderWorker] = []
        numbers = {*self._made['networks'].numbers(), *self._made['networks'].removed()}
        made = [os.fspath(self._made['networks'].path(number)) for number in sorted(numbers, key=int)]
        self._networks = [*settings.networks, *made]  # those made here keep their place when they are removed
        self._directions = editing.DirectionFiles(self._made['directions'], settings.direction_files)
        self._jobs = Jobs(self._on_news)
        self._uploads: dict[int, Target] = {}
        self._numbers = itertools.count(1)
        self._runs = run_pages.RunReader()
        self._lock = threading.Lock()
        self._start = secrets.token_hex(8)
        self._actions: dict[str, tuple[Rule, Callable[[dict[str, Any]], Awaitable[Any]]]] = {
            'describe': (Record({'spec': picture_specs.SPEC}, ['spec']), self._describe),
            'keep': (Record({'spec': picture_specs.SPEC, 'name': Text(200)}, ['spec', 'name']), self._keep),
            'rename': (
                Record(dict(kept=made_files.NUMBER, name=Text(200), note=Text(10_000)), ['kept']),
                self._rename,
            ),
            'remove': (_MADE, self._remove),
            'restore': (_MADE, self._restore),
            'find-directions': (editing.FIND_RULES, self._find_directions),
            'open-directions': (
                Record({'spec': picture_specs.SPEC, 'file': Text(40)}, ['spec', 'file']),
                self._open_directions,
            ),
            'blend': (editing.BLEND_RULES, self._blend),
            'drag': (optimizing.DRAG_RULES, self._drag),
            'tune': (optimizing.TUNE_RULES, self._tune),
            'project': (projecting.RULES, self._project),
            'video': (videos.RULES, self._video),
            'job': (
                Record({'job': Integer(0, 10**9), 'act': Choice(('pause', 'resume', 'stop'))}, ['job', 'act']),
                self._act,
            ),
            'keep-job': (Record({'job': Integer(0, 10**9), 'name': Text(200)}, ['job', 'name']), self._keep_job),
        }

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the workers, in the event loop that they will run in."""
        self._loop = loop
        settings = self._settings
        self.workers = [
            RenderWorker(NetworkStore(self._networks, device, settings.max_network_bytes, settings.trust))
            for device in settings.devices
        ]
        self._scratch = scratch_folder('studio')
        self._upload_dir = self._scratch.__enter__()

    async def close(self) -> None:
        """Stop all jobs and workers."""
        await asyncio.to_thread(self._jobs.close)
        for worker in self.workers:
            worker.close()
        self._scratch.__exit__(None, None, None)

    def worker_of(self, index: int) -> RenderWorker:
        """Return the worker of the networks of a `--network`."""
        return self.workers[index % len(self.workers)]

    # -----------------------------------------------------------------------------------------------------------------
    # Pictures

    def parse_picture(self, content: Any) -> dict[str, Any]:
        """Check a request for a picture.

        Raises:
            ValueError: It is not one. One sentence.
        """
        _REQUEST.check(content, 'The request')
        return content

    def picture(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Render a picture, in the thread of its worker; return what the page needs to know of it, and the image."""
        times = [time.perf_counter()]
        spec = picture_specs.parse(request['spec'])
        network = self._network_of(spec)
        latent = self._latent_of(network, spec)
        if request.get('look') is not None:
            header, picture = inside.look(network, latent, request['look'])
            return header, pictures.encode(picture, 'png')
        times.append(time.perf_counter())
        is_preview = request.get('preview', False)
        left_out = network.preview_pace.left_out if is_preview else 0
        image = pictures.render(network, latent, left_out)
        times.append(time.perf_counter())
        if is_preview:
            network.preview_pace.note(times[-1] - times[-2])
        content = pictures.encode(image, request.get('format', 'png'), request.get('max_side'))
        times.append(time.perf_counter())
        latent_ms, render_ms, encode_ms = (1000 * (end - start) for start, end in zip(times, times[1:]))
        header = {
            'seed': picture_specs.seed_of(spec),
            'command': commands.picture_command(network, spec, self._directions.path_of),
            'left_out': left_out,
            'latent_ms': latent_ms,
            'render_ms': render_ms,
            'encode_ms': encode_ms,
        }
        return header, content

    def _network_of(self, spec: dict[str, Any]) -> Network:
        if self._is_removed(spec['network']):
            raise InvalidArgument('network', f'{self._networks[spec["network"]]} was removed: undo brings it back.')
        return self.worker_of(spec['network']).store.get(spec['network'], spec.get('snapshot'))

    def _latent_of(self, network: Network, spec: dict[str, Any]) -> picture_specs.Latent:
        return picture_specs.latent_of(network, spec, self.shelf.read, self._directions.offset)

    def _is_removed(self, index: int) -> bool:
        """Return whether a network was made here, and is not there any more."""
        is_made = len(self._settings.networks) <= index < len(self._networks)
        return is_made and not os.path.exists(self._networks[index])

    async def _describe(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])

        def describe() -> dict[str, Any]:
            network = self._network_of(spec)
            return {**network.describe(), 'layers': inside.layer_names(network.G)}

        return await self.worker_of(spec['network']).call(describe)

    # -----------------------------------------------------------------------------------------------------------------
    # Shelf

    async def _keep(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])

        def keep() -> str:
            network = self._network_of(spec)
            latent = self._latent_of(network, spec)
            command = commands.picture_command(network, spec, self._directions.path_of)
            image = pictures.render(network, latent)
            return self.shelf.keep(
                latent.projected, image, content['name'], network=network.path, spec=spec, command=command
            )

        return self._kept(await self.worker_of(spec['network']).call(keep))

    async def _keep_job(self, content: dict[str, Any]) -> dict[str, Any]:
        job = self._jobs.get(content['job'])
        if not isinstance(job.result, ProjectedLatents):
            raise InvalidArgument('job', f'Job {job.number} has no latent to keep.')
        return self._kept(await job.worker.call(lambda: self._keep_result(job, content['name'])))

    def _keep_result(self, job: Job, name: str) -> str:
        """Put the latent that a job has found on the shelf, and return its number."""
        network = self._network_of(job.details['spec'])
        image = pictures.render(network, picture_specs.Latent(job.result, 'const', 0, None, is_kept=True))
        command = commands.kept_command(network)
        return self.shelf.keep(job.result, image, name, network=network.path, spec=None, command=command)

    async def _rename(self, content: dict[str, Any]) -> dict[str, Any]:
        before = self.shelf.entry(content['kept'])
        self.shelf.rename(content['kept'], content.get('name', before['name']), content.get('note', before['note']))
        return self._kept(content['kept'])

    async def _remove(self, content: dict[str, Any]) -> dict[str, Any]:
        self._made[content['folder']].remove(content['number'])
        self._tell_changed()
        return content

    async def _restore(self, content: dict[str, Any]) -> dict[str, Any]:
        self._made[content['folder']].restore(content['number'])
        self._tell_changed()
        return content

    def _kept(self, kept: str) -> dict[str, Any]:
        self._tell_changed()
        return self.shelf.entry(kept)

    def made_file(self, name: str) -> Path | None:
        """Return a file of `--outdir` that was made here, or None for any other name."""
        if not _MADE_FILE.fullmatch(name):
            return None
        path = self._settings.outdir / name
        return path if path.is_file() and not path.is_symlink() else None

    # -----------------------------------------------------------------------------------------------------------------
    # Jobs

    async def take_photograph(self, content: bytes) -> dict[str, Any]:
        """Take an uploaded picture; return its number and its size."""
        number = next(self._numbers)
        path = self._upload_dir / f'photograph-{number}'

        def take() -> Target:
            path.write_bytes(content)
            return projecting.photograph_at(path, self._settings.max_pixels)

        try:
            target = await asyncio.to_thread(take)
        except (ValueError, OSError) as error:
            path.unlink(missing_ok=True)
            sentence = (error_sentence(error) or str(error)).replace(f'{path}', 'The picture')
            raise InvalidArgument('target', sentence) from error
        self._uploads[number] = target
        while len(self._uploads) > _MAX_UPLOADS:
            self._uploads.pop(min(self._uploads)).path.unlink(missing_ok=True)
        return {'upload': number}

    async def _project(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])
        target = self._upload(content['upload'])

        def work(job: Job) -> None:
            job.details['spec'], job.photograph = content['spec'], target
            network = self._network_of(spec)
            projecting.project_photograph(job, network, target, content, self._settings.detector_dir)
            self._keep_if_closing(job)

        return self._jobs.start('project', 'Projection', self.worker_of(spec['network']), work).describe()

    async def _video(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])
        worker = self.worker_of(spec['network'])

        def work(job: Job) -> None:
            videos.make_video(job, self._network_of(spec), self.shelf, content, self._made['videos'])

        return self._jobs.start('video', f'Video of {len(content["kept"])} keyframes', worker, work).describe()

    async def _find_directions(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])
        found = await self.worker_of(spec['network']).call(
            lambda: self._directions.find(self._network_of(spec), content)
        )
        self._tell_changed()
        return {'file': found}

    async def _open_directions(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])
        known = await self.worker_of(spec['network']).call(
            lambda: self._directions.read(content['file'], self._network_of(spec).G)
        )
        return {'directions': [{'name': name, 'layers': direction.layers} for name, direction in known.items()]}

    async def _blend(self, content: dict[str, Any]) -> dict[str, Any]:
        specs = [picture_specs.parse(content[key]) for key in ('spec', 'other')]

        def work(job: Job) -> None:
            first, second = map(self._network_of, specs)
            editing.blend(job, first, second, content, self._made['networks'])
            self._add_network(job)

        return self._jobs.start('blend', 'Blended network', self.worker_of(specs[0]['network']), work).describe()

    async def _drag(self, content: dict[str, Any]) -> dict[str, Any]:
        spec = picture_specs.parse(content['spec'])
        mask = None if content.get('mask') is None else self._upload(content['mask'])

        def work(job: Job) -> None:
            job.details['spec'] = content['spec']
            network = self._network_of(spec)
            optimizing.drag(job, network, self._latent_of(network, spec), content, mask)
            self._keep_if_closing(job)

        return self._jobs.start('drag', 'Dragged picture', self.worker_of(spec['network']), work).describe()

    async def _tune(self, content: dict[str, Any]) -> dict[str, Any]:
        projection = self._jobs.get(content['job'])
        if projection.kind != 'project':
            raise InvalidArgument('job', f'Job {projection.number} is not a projection.')
        spec = picture_specs.parse(projection.details['spec'])

        def work(job: Job) -> None:
            network, detectors = self._network_of(spec), self._settings.detector_dir
            optimizing.tune_network(job, network, projection, content, detectors, self._made['networks'])
            self._add_network(job)

        return self._jobs.start('tune', 'Tuned network', projection.worker, work).describe()

    def _upload(self, number: int) -> Target:
        if number not in self._uploads:
            raise InvalidArgument('upload', 'The picture is not here any more: drop it again.')
        return self._uploads[number]

    def _add_network(self, job: Job) -> None:
        """Offer a network that a job has made, from the thread of the job."""
        path = os.fspath(self._made['networks'].path(job.result))
        with self._lock:
            self._networks.append(path)
            job.details['network'] = len(self._networks) - 1
        self._loop.call_soon_threadsafe(self._tell_changed)

    def _keep_if_closing(self, job: Job) -> None:
        """Keep the latent of a job that has ended because the server ends."""
        if self._jobs.is_closing and isinstance(job.result, ProjectedLatents):
            self._keep_result(job, f'{job.title}, when the studio ended')

    async def _act(self, content: dict[str, Any]) -> dict[str, Any]:
        job = self._jobs.get(content['job'])
        {'pause': job.pause, 'resume': job.resume, 'stop': job.stop}[content['act']]()
        return job.describe()

    def _on_news(self, job: Job) -> None:
        """Tell all pages about a job, from any thread."""
        news, picture = {'job': job.describe()}, job.picture
        self._loop.call_soon_threadsafe(self._broadcast, f'job {job.number}', news, picture)

    def _tell_changed(self) -> None:
        """Let all pages ask for the state again."""
        self._broadcast('shelf', {'changed': 'shelf'})

    def _broadcast(self, key: str, header: dict[str, Any], content: bytes = b'') -> None:
        message = packed(header, content)
        for client in self.clients:
            client.outbox.put(key, message)

    # -----------------------------------------------------------------------------------------------------------------
    # Everything else

    async def state(self) -> dict[str, Any]:
        """Return what a page needs to know when it opens."""
        sources = await asyncio.to_thread(describe_sources, self._networks)
        return {
            'start': self._start,
            'networks': [{**source, 'is_removed': self._is_removed(index)} for index, source in enumerate(sources)],
            'removed': await asyncio.to_thread(self._removed),
            'shelf': await asyncio.to_thread(self.shelf.entries),
            'jobs': [job.describe() for job in self._jobs.all()],
            'directions': await asyncio.to_thread(self._directions.names),
            'outdir': str(self._settings.outdir),
            'devices': [str(device) for device in self._settings.devices],
            'machine': available_devices(),
        }

    def _removed(self) -> list[dict[str, str]]:
        made = [{'folder': name, 'number': number} for name, files in self._made.items() for number in files.removed()]
        return made[-_MAX_REMOVED:]

    async def do(self, action: str, content: Any) -> Any:
        """Do what a page asks for.

        Raises:
            ValueError: It cannot be done. One sentence.
        """
        if action not in self._actions:
            raise InvalidArgument('action', 'There is no such action.')
        rule, method = self._actions[action]
        rule.check(content, 'The request')
        return await method(content)

    async def run_state(self, index: int) -> dict[str, Any]:
        """Return the state of a training run."""
        return await self._runs.describe(self._run_path(index))

    async def run_picture(self, index: int, name: str) -> bytes:
        """Return a grid of a training run."""
        return await asyncio.to_thread(run_pages.run_picture, self._run_path(index), name)

    def _run_path(self, index: int) -> str:
        paths = self._networks
        if index >= len(paths) or not is_run(paths[index]):
            raise InvalidArgument('network', f'Network {index} is not a training run.')
        return paths[index]


def packed(header: dict[str, Any], content: bytes = b'') -> bytes:
    """Return a message: the size of the JSON header in four bytes, the header, and the bytes of a picture."""
    encoded = json.dumps(finite(header), allow_nan=False).encode()
    return struct.pack('>I', len(encoded)) + encoded + content


def finite(value: Any) -> Any:
    """Return content for JSON, which knows no NaN and no infinity: a network may well compute them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
