"""Count what a training iteration and an image cost on a GPU, on the rehearsal device: the table of docs/gpu.md.

python -m tests.rehearsal.report
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.networks import TrainingStep, construct_generator, training_setup
from bench.tables import markdown_table
from tests.rehearsal.backend import counted
from tests.small_runs import write_images
from torch_utils.distributed import World
from training.batches import TrainingBatches
from training.cuda_graphs import WARM_UP_ROUNDS
from training.options import Options, build_config, open_training_set

COLUMNS = ('launches', 'synchronizations', 'pageable copies', 'pinned copies', 'allocations', 'float64')
PRESETS = ('auto', 'stylegan3-t')
DEVICE = torch.device('cuda', 0)
RESOLUTION, BATCH, CHANNEL_BASE, AUGMENT_P = 32, 4, 512, 0.5


def count(run: Any, before: int = 2) -> list[str]:
    """Return the counts of one call, after others that compile and prepare."""
    for _ in range(before):
        run()
    with counted() as counts:
        run()
    return [f'{counts[name]:,}' for name in COLUMNS]


def rows(cfg: str) -> list[list[str]]:
    """Return the rows of a preset."""
    found = []
    config, dataset = training_setup(RESOLUTION, BATCH, 1, DEVICE, CHANNEL_BASE, AUGMENT_P, cfg)
    step = TrainingStep(World(0, 1, DEVICE), config, dataset)
    for name, run in step.cases().items():
        found.append([f'{cfg}: {name}', *count(run)])
    G, _channel_base = construct_generator(RESOLUTION, True, DEVICE, cfg)
    z, c = torch.randn([1, G.z_dim], device=DEVICE), torch.zeros([1, 0], device=DEVICE)
    with torch.no_grad():
        found.append([f'{cfg}: one image', *count(functools.partial(G, z, c))])
    return found


def graph_rows(cfg: str) -> list[list[str]]:
    """Return the rows of the phases of a preset with `--cuda-graphs=1`, where styles are mixed."""
    config, dataset = training_setup(RESOLUTION, BATCH, 1, DEVICE, CHANNEL_BASE, AUGMENT_P, cfg)
    step = TrainingStep(World(0, 1, DEVICE), dataclasses.replace(config, cuda_graphs=True), dataset)
    if step.loss.style_mixing_prob > 0:
        step.loss.style_mixing_prob = 1
    cases = {name: run for name, run in step.cases().items() if name != 'EMA'}
    return [[f'{cfg}, graphs: {name}', *count(run, WARM_UP_ROUNDS + 2)] for name, run in cases.items()]


def data_row(folder: str) -> list[str]:
    """Return the row of the data of a batch, images and labels."""
    options = Options(outdir=folder, data=folder, batch=BATCH, device=str(DEVICE), workers=0)
    config = build_config(options, open_training_set(options), str(DEVICE), 1)
    batches = TrainingBatches(World(0, 1, DEVICE), config, 0)
    return ['data of a batch', *count(lambda: (batches.next_real(), batches.start_next()))]


if __name__ == '__main__':
    table = [row for cfg in PRESETS for row in (*rows(cfg), *graph_rows(cfg))]
    with tempfile.TemporaryDirectory() as scratch:
        table.append(data_row(str(write_images(Path(scratch, 'data')))))
    print(markdown_table(['what', *COLUMNS], table))
