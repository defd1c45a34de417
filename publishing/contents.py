"""The folder that is published: a network without paths of this machine, its card, a grid, metrics, options."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.files import atomic_file
from generation.latents import class_names_of
from generation.rendering import render_seeds
from network_files import safetensors_files
from network_files.writing import save_network_pkl
from publishing.card import Terms, card
from publishing.facts import Facts, private_texts, public_options, public_training_set
from torch_utils.images import enlarge_with_margin, save_image_grid

CARD = 'README.md'
NETWORK = 'network.safetensors'
PICKLE = 'network.pkl'
GRID = 'grid.png'
METRICS = 'metrics.json'
OPTIONS = 'training_options.json'
NAMES = (CARD, NETWORK, PICKLE, GRID, METRICS, OPTIONS)
"""All files that a published folder may have."""

_MAX_GRID_PIXELS = 2**23
_MAX_ROWS, _MAX_COLUMNS = 8, 8
_BATCH = 8


@dataclass(frozen=True)
class Choices:
    """What is published.

    Args:
        as_pickle: Also write a pickle.
        generator_only: Leave out G, D and the augmentation.
        with_card: Write the model card.
    """

    as_pickle: bool = False
    generator_only: bool = False
    with_card: bool = True


@dataclass(frozen=True)
class Publication:
    """A network that is to be published.

    Args:
        data: Content of the network file, of this project's classes, on the CPU.
        facts: What is known of it.
        network: Path or URL of the network file.
        terms: What the user says.
        choices: What is published.
        device: Where the grid is rendered.
    """

    data: dict[str, Any]
    facts: Facts
    network: str
    terms: Terms
    choices: Choices
    device: torch.device

    def write(self, folder: Path) -> list[str]:
        """Write the files into an empty folder, and return their names.

        Raises:
            ValueError: The networks cannot be written.
            OSError: A file cannot be written.
        """
        has_training = not self.choices.generator_only and has_all_networks(self.data)
        files = self._write_networks(folder, has_training)
        grid = write_grid(self.data, self.facts, folder / GRID, self.device)
        files.append((GRID, 'samples'))
        private = private_texts(self.facts, self.network)
        if self.facts.metrics:
            values = [dataclasses.asdict(value) for value in self.facts.metrics]
            text = _as_json({'network_sha256': self.facts.network_sha256, 'values': values})
            _write_text(folder / METRICS, text, private)
            files.append((METRICS, 'values of metrics, and how they were measured'))
        options = public_options(self.facts)
        if options is not None:
            _write_text(folder / OPTIONS, _as_json(options), private)
            files.append((OPTIONS, 'the configuration of the training'))
        if self.choices.with_card:
            _write_text(folder / CARD, card(self.facts, self.terms, files, grid, has_training), private)
        return sorted(path.name for path in folder.iterdir())

    def _write_networks(self, folder: Path, has_training: bool) -> list[tuple[str, str]]:
        """Write the networks; return the names of the files, and what they are."""
        public = _public_data(self.data, has_training)
        files = [
            (
                NETWORK,
                'generator G, its average G_ema, and discriminator D'
                if has_training
                else 'the averaged generator, G_ema',
            )
        ]
        safetensors_files.write(public, folder / NETWORK)
        if self.choices.as_pickle:
            # Published programs open no pickle without G and D, so G_ema stands in for them.
            stand_ins = {} if has_training else dict.fromkeys(('G', 'D'), public['G_ema'])
            save_network_pkl({**public, **stand_ins}, folder / PICKLE)
            files.append((PICKLE, 'the same as a pickle, for older programs; opening it the usual way runs code'))
        return files


def has_all_networks(data: dict[str, Any]) -> bool:
    """Return whether a training can start from a file: it has G, D and G_ema, each of its own."""
    networks = [data.get(name) for name in ('G', 'D', 'G_ema')]
    return all(network is not None for network in networks) and data['D'] is not data['G_ema']


def _public_data(data: dict[str, Any], has_training: bool) -> dict[str, Any]:
    """Return what is written of a network file: no keys but these, and no path."""
    names = class_names_of(data, data['G_ema'].c_dim)
    kwargs = data.get('training_set_kwargs')
    public = {
        'G': data['G'] if has_training else None,
        'D': data['D'] if has_training else None,
        'G_ema': data['G_ema'],
        'augment_pipe': data.get('augment_pipe') if has_training else None,
        'training_set_kwargs': public_training_set(kwargs) if isinstance(kwargs, dict) else None,
    }
    return public | ({'class_names': list(names)} if names else {})


def _write_text(path: Path, text: str, private: Sequence[str]) -> None:
    """Write a text. What may never be in it was left out before; this makes sure."""
    found = next((secret for secret in private if secret in text), None)
    if found is not None:
        raise ValueError(f'{path.name} would contain the path {found} of this machine, so nothing is published.')
    with atomic_file(path) as file:
        file.write(text.encode(errors='backslashreplace'))


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'


def write_grid(data: dict[str, Any], facts: Facts, path: Path, device: torch.device) -> str:
    """Write a grid of the first seeds, without truncation, and return what it shows.

    Networks with classes get a row for each of the first classes.
    """
    G = data['G_ema'].to(device)
    cell = max(facts.width, 64) * max(facts.height, 64)
    columns = _MAX_COLUMNS if cell * _MAX_COLUMNS * 4 <= _MAX_GRID_PIXELS else _MAX_COLUMNS // 2
    rows = max(min(_MAX_ROWS, _MAX_GRID_PIXELS // (cell * columns)), 2)
    labels: list[str] | None = None
    if facts.num_classes == 0:
        rows = min(rows, 4)
        seeds = range(rows * columns)
        rendered = list(render_seeds(G, seeds, torch.zeros([1, 0], device=device), batch_size=_BATCH))
        shown = f'Samples with the seeds 0 to {rows * columns - 1}, without truncation'
    else:
        rows = min(rows, facts.num_classes)
        one_hot = torch.eye(facts.num_classes, device=device)[:rows]
        rendered = [
            image for label in one_hot for image in render_seeds(G, range(columns), label[None], batch_size=_BATCH)
        ]
        labels = (facts.class_names or [str(index) for index in range(facts.num_classes)])[:rows]
        shown = f'Samples of {rows} of {facts.num_classes} classes, one per row, with the seeds 0 to {columns - 1}'
        shown += ', without truncation'
    save_image_grid(enlarge_with_margin(np.stack(rendered)), path, (columns, rows), row_labels=labels)
    G.to('cpu')
    return shown
