"""The readers of what editing and other programs write: directions, latents, files of `torch.save` with networks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generation import projected_latents
from generation.editing import directions
from network_files import rosinality
from network_files.errors import NetworkPickleError
from network_files.reading import load_network_pkl
from scripts.fuzzing import structured_mutations as structured
from scripts.fuzzing.file_reader import FileReader, new_folder
from scripts.fuzzing.mutations import (
    BYTE_MUTATIONS,
    Mutation,
    change_bytes,
    exchange_names,
    mutate_opcodes,
    odd_numbers,
)
from training.networks_stylegan2 import Discriminator, Generator

_PICKLE_MUTATIONS: list[Mutation] = [mutate_opcodes, exchange_names, odd_numbers]


def _saved(value: Any, in_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=in_zip)
    return file.getvalue()


def _npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _mutations_of_torch_files() -> list[Mutation]:
    """Return mutations of both formats; the pickle of one is a member of a zip archive."""

    def in_zip_only(mutation: Mutation) -> Mutation:
        return lambda data, rng, others: (mutation if data.startswith(b'PK') else change_bytes)(data, rng, others)

    def of_member(mutation: Mutation) -> Mutation:
        return structured.zip_mutation(lambda name: mutation if name.endswith('data.pkl') else change_bytes)

    in_zip = [*map(of_member, _PICKLE_MUTATIONS * 2), structured.mutate_zip_directory]
    return [*BYTE_MUTATIONS, *map(in_zip_only, in_zip)]


def exchange_readers(folder: Path) -> list[FileReader]:
    """Return the readers of directions, of latents of other programs, and of networks in files of `torch.save`."""
    options = {'channel_base': 32, 'channel_max': 4}
    G = Generator(4, 0, 4, 8, 1, {'num_layers': 1}, options).eval().requires_grad_(False)
    D = Discriminator(0, 8, 1, channel_base=32, channel_max=4).eval().requires_grad_(False)
    layout = rosinality.to_layout({'G_ema': G, 'D': D})

    path = new_folder(folder / 'directions') / 'd.safetensors'
    direction = directions.make_direction('a', torch.ones(4), 1, 'sefa', [0, 1], G.num_ws)
    directions.write(path, [direction], G)
    of_safetensors = [*BYTE_MUTATIONS, *[structured.mutate_safetensors] * len(BYTE_MUTATIONS)]

    ws = torch.zeros(2, G.num_ws, 4)
    arrays = {'w+': _npy_of(ws.numpy()), 'w': _npy_of(ws[:, 0].numpy())}
    of_npy = [*BYTE_MUTATIONS, *[structured.mutate_npy] * len(BYTE_MUTATIONS)]
    tensors = {
        'tensor': _saved(ws),
        'before PyTorch 1.6': _saved(ws, in_zip=False),
        'pictures': _saved({f'{index}.png': {'latent': w, 'noise': [torch.zeros(2)]} for index, w in enumerate(ws)}),
    }
    networks = {
        'layout': _saved(layout),
        'layout before PyTorch 1.6': _saved(layout, in_zip=False),
        'module': _saved(G),
    }
    of_torch = _mutations_of_torch_files()

    def read_directions(path: Path) -> None:
        directions.read(path, G)

    def read_latents(path: Path) -> None:
        projected_latents.read(path, G)

    def read_networks(path: Path) -> None:
        with open(path, 'rb') as file:
            load_network_pkl(file)

    others = new_folder(folder / 'others')
    valid = {'directions': path.read_bytes()}
    return [
        FileReader('directions', path, valid, of_safetensors, read_directions, ValueError),
        FileReader('npy latents', others / 'w.npy', arrays, of_npy, read_latents, ValueError),
        FileReader('pt latents', others / 'w.pt', tensors, of_torch, read_latents, ValueError),
        FileReader('pt networks', others / 'g.pt', networks, of_torch, read_networks, NetworkPickleError),
    ]
