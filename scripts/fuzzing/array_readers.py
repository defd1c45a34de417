"""The readers of arrays, tensors, and notes beside files."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.cache import FileVersion, PartialFile
from generation import projected_latents
from metrics.features.cache import ArrayKind, StatisticsCache, cache_folder
from metrics.features.detectors import MANIFEST, label_of
from network_files import safetensors_files
from network_files.errors import NetworkPickleError
from network_files.reading import load_network_pkl
from scripts.fuzzing import structured_mutations as structured
from scripts.fuzzing.file_reader import FileReader, new_folder
from scripts.fuzzing.mutations import BYTE_MUTATIONS, Mutation
from training.data.digest import content_sha256
from training.networks_stylegan2 import Generator

# ---------------------------------------------------------------------------------------------------------------------
# Arrays and tensors


def _npz_of(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _mutation_of_array(name: str) -> Mutation:
    return structured.mutate_npy


def array_readers(folder: Path) -> list[FileReader]:
    """Return the readers of arrays and tensors."""
    G = Generator(4, 0, 4, 8, 1, {'num_layers': 1}, {'channel_base': 32, 'channel_max': 4}).eval().requires_grad_(False)
    noise = {
        f'noise_{name}': np.zeros([1, *buffer.shape]) for name, buffer in projected_latents.noise_buffers(G).items()
    }
    latents = {
        'w': _npz_of(w=np.zeros([2, G.num_ws, 4], np.float32)),
        'w and noise': _npz_of(w=np.zeros([1, G.num_ws, 4], np.float32), **noise),
    }
    of_npz = [
        *BYTE_MUTATIONS,
        *[structured.zip_mutation(_mutation_of_array)] * len(BYTE_MUTATIONS),
        structured.mutate_zip_directory,
    ]

    cache, key = StatisticsCache(), {'detector': 'd', 'images': 3}
    expected = {'mean': ArrayKind((3,), 'float64'), 'features': ArrayKind((3, 3), 'float32')}
    cache.save(key, {'mean': np.zeros(3), 'features': np.zeros([3, 3], np.float32)})
    [entry] = cache_folder().glob('*.npz')

    def read_entry(_path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            cache.load(key, expected)

    networks = new_folder(folder / 'networks') / 'x.safetensors'
    safetensors_files.write({'G_ema': G, 'training_set_kwargs': {'path': 'x'}}, networks)
    of_safetensors = [*BYTE_MUTATIONS, *[structured.mutate_safetensors] * len(BYTE_MUTATIONS)]

    def read_networks(path: Path) -> None:
        with open(path, 'rb') as file:
            load_network_pkl(file)

    def read_latents(path: Path) -> None:
        projected_latents.read(path, G)

    latents_path = new_folder(folder / 'latents') / 'projected_w.npz'
    safetensors = {'networks': networks.read_bytes()}
    return [
        FileReader('projected latents', latents_path, latents, of_npz, read_latents, ValueError),
        FileReader('cache of metrics', entry, {'entry': entry.read_bytes()}, of_npz, read_entry, ()),
        FileReader('safetensors', networks, safetensors, of_safetensors, read_networks, NetworkPickleError),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Notes beside files


@dataclass(frozen=True)
class _FixedDataset:
    """A dataset whose content is known."""

    last_change: float

    def content_sha256(self, progress: Callable[[int, int], object] | None = None) -> str:
        return '00' * 32

    def fingerprint(self) -> tuple[str, float]:
        return 'f' * 64, self.last_change


def note_readers(folder: Path) -> list[FileReader]:
    """Return the readers of notes in JSON that a program writes for itself."""
    of_json = [*BYTE_MUTATIONS, *[structured.mutate_json] * 3 * len(BYTE_MUTATIONS)]
    expected = (ValueError, OSError)

    detectors = new_folder(folder / 'detectors')
    (detectors / 'd.pt').write_bytes(b'')
    manifest = {'manifest': json.dumps({'label': 'x', 'inception': 'd.pt'}).encode()}

    def read_manifest(path: Path) -> None:
        label_of(path.parent)

    partial = PartialFile(new_folder(folder / 'downloads') / 'x.partial')
    partial.start(FileVersion(size=3, etag='"x"'))
    partial.path.write_bytes(b'abc')
    [note] = partial.path.parent.glob('*.json')

    def read_note(_path: Path) -> None:
        partial.resumable_version()

    before = set(cache_folder().glob('*'))
    content_sha256(_FixedDataset(last_change=0), verbose=False)
    [digest] = set(cache_folder().glob('*')) - before

    def read_digest(_path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            content_sha256(_FixedDataset(last_change=math.inf), verbose=False)  # whose digest is not stored again

    return [
        FileReader('manifest of detectors', detectors / MANIFEST, manifest, of_json, read_manifest, expected),
        FileReader('note of a download', note, {'note': note.read_bytes()}, of_json, read_note, ()),
        FileReader('digest of a dataset', digest, {'digest': digest.read_bytes()}, of_json, read_digest, ()),
    ]
