"""The networks that a client can choose from, loaded when they are first used and put out by least use."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dataset_format.sizes import sides
from dnnlib.errors import InvalidArgument
from dnnlib.util import is_url
from generation import image_transforms, latents
from generation.projected_latents import noise_buffers
from network_files import hub
from network_files.reading import open_network
from network_files.snapshots import complete_snapshots, kimg_of, list_snapshots
from studio_server.previews import PreviewPace, smaller_images

_KEYS = ('G_ema', 'class_names', 'classes_without_images', 'training_set_kwargs')
_MAX_CENTERS = 1000
_NEWEST_SEC = 10


@dataclass
class Network:
    """A generator on its device.

    Args:
        path: File or URL that it was read from.
        data: What the scripts expect from a network file: G_ema and the names of its classes.
        device: Where it is.
        centers: Mean w of labels, as far as they have been measured.
    """

    path: str
    data: dict[str, Any]
    device: torch.device
    centers: dict[bytes, torch.Tensor] = field(default_factory=dict)

    @functools.cached_property
    def preview_pace(self) -> PreviewPace:
        """Chooses the size of its previews."""
        return PreviewPace(len(smaller_images(self.G)))

    @property
    def G(self) -> Any:
        """The generator."""
        return self.data['G_ema']

    @property
    def num_bytes(self) -> int:
        """Memory of its tensors."""
        return sum(tensor.nbytes for tensor in (*self.G.parameters(), *self.G.buffers()))

    def center_of(self, label: torch.Tensor) -> torch.Tensor:
        """Return the mean w [1, w_dim] of the images of a label [1, c_dim]."""
        key = label.cpu().numpy().tobytes()
        if key not in self.centers:
            if len(self.centers) >= _MAX_CENTERS:
                self.centers.clear()
            center = latents.truncation_center(self.G, label, 'class')
            self.centers[key] = latents.mean_of_w(self.G)[None] if center is None else center
        return self.centers[key]

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to know."""
        G = self.G
        height, width = sides(G.img_resolution)
        return {
            'height': height,
            'width': width,
            'channels': G.img_channels,
            'num_ws': G.num_ws,
            'w_dim': G.w_dim,
            'c_dim': G.c_dim,
            'class_names': latents.class_names_of(self.data, G.c_dim),
            'has_noise': bool(noise_buffers(G)),
            'has_transform': image_transforms.is_supported(G),
            'has_preview': bool(smaller_images(G)),
            'path': self.path,
        }


class NetworkStore:
    """Networks by the number of the `--network` that names them; each device has a store of its own.

    Args:
        paths: Files, URLs and directories of runs; networks made here are appended. Nothing else is ever opened.
        device: Device of the networks.
        max_bytes: Memory of the networks that are kept; the one in use is kept in any case.
        trust: Run the code in pickles.
    """

    def __init__(self, paths: Sequence[str], device: torch.device, max_bytes: int, trust: bool = False):
        self._paths, self._device = paths, device  # the list may grow
        self._max_bytes, self._trust = max_bytes, trust
        self._loaded: OrderedDict[str, Network] = OrderedDict()
        self._newest: dict[str, tuple[int, float, str]] = {}
        self._lock = threading.Lock()

    def get(self, index: int, kimg: int | None = None) -> Network:
        """Return a network.

        Args:
            index: Number of the `--network`.
            kimg: Snapshot of a run; None: the newest one.

        Raises:
            ValueError: There is no such network, or it cannot be opened. One sentence.
            OSError: It cannot be read.
        """
        path = self._file_of(index, kimg)
        with self._lock:
            if path in self._loaded:
                self._loaded.move_to_end(path)
                return self._loaded[path]
            data = open_network(path, trust=self._trust, keys=_KEYS)
            data['G_ema'] = data['G_ema'].to(self._device)
            self._loaded[path] = network = Network(path, data, self._device)
            while len(self._loaded) > 1 and self.num_bytes > self._max_bytes:
                self._loaded.popitem(last=False)
            return network

    @property
    def num_bytes(self) -> int:
        """Memory of all networks that are kept."""
        return sum(network.num_bytes for network in self._loaded.values())

    def _file_of(self, index: int, kimg: int | None) -> str:
        if index >= len(self._paths):
            raise InvalidArgument('network', f'There is no network {index}: choose 0 to {len(self._paths) - 1}.')
        path = self._paths[index]
        if not is_run(path):
            return path
        if kimg is None:
            return self._newest_of(path)
        found = [file for file in list_snapshots(path) if kimg_of(file) == kimg]
        if not found:
            raise InvalidArgument('snapshot', f'This run has no network of {kimg} kimg.')
        return str(found[0])

    def _newest_of(self, run: str) -> str:
        """Return the newest network of a run, which is looked for again when a file has come or after some seconds."""
        changed = os.stat(run).st_mtime_ns
        known = self._newest.get(run)
        if known is None or known[0] != changed or time.monotonic() > known[1]:
            path = os.fspath(complete_snapshots(run)[-1])
            self._newest[run] = known = changed, time.monotonic() + _NEWEST_SEC, path
        return known[2]


def is_run(path: str) -> bool:
    """Return whether a `--network` is the directory of a run."""
    return not is_url(path) and os.path.isdir(path)


def describe_sources(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the page needs to know of each `--network`, without opening it."""
    result = []
    for path in paths:
        snapshots = [kimg_of(file) for file in list_snapshots(path)] if is_run(path) else []
        if hub.is_address(path):
            name = hub.Address.parse(path).repo
        else:
            name = path.rsplit('/', 1)[-1] if is_url(path) else Path(os.path.abspath(path)).name
        result.append({'name': name, 'path': path, 'is_run': is_run(path), 'snapshots': snapshots})
    return result
