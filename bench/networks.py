"""Networks and training steps of `train.py`, on data in memory and in any number of processes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from dataset_format.images import encode_png
from torch_utils.distributed import World
from training import setup
from training.augment import AugmentPipe
from training.config import TrainingConfig
from training.cuda_graphs import PhaseGraphs
from training.dataset import ImageFolderDataset
from training.ema import ema_decay, update_ema
from training.options import Options, build_config, open_training_set
from training.phases import Phase, build_phases, run_phase
from training.presets import augpipe_flags
from training.work import NetworkWork, Objective, phase_flop

QUICK_CHANNEL_BASE = 512
METHODS: dict[str, dict[str, Any]] = {
    'noaug': {'aug': 'noaug'},
    'ada': {'aug': 'ada'},
    'diffaugment': {'aug': 'noaug', 'diffaugment': 'color,translation,cutout'},
    'lecam': {'aug': 'noaug', 'lecam': 0.0003},
    'bcr': {'aug': 'noaug', 'bcr': '10'},
    'insgen': {'aug': 'noaug', 'insgen': '1,0.1'},
    'relativistic': {'aug': 'noaug', 'loss': 'relativistic'},
    'relativistic-each': {'aug': 'noaug', 'loss': 'relativistic', 'd_reg_interval': 1},
    'relativistic+bcr+insgen+ada': {'aug': 'ada', 'loss': 'relativistic', 'bcr': '10', 'insgen': '1,0.1'},
}
"""Options of `train.py` by name, for what they cost."""


def training_setup(
    resolution: int,
    batch_gpu: int,
    num_processes: int,
    device: torch.device,
    channel_base: int | None = None,
    augment_p: float | None = None,
    cfg: str = 'auto',
    methods: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> tuple[TrainingConfig, ImageFolderDataset]:
    """Return the configuration of `train.py` for RGB images of this resolution, and a dataset of that shape.

    The dataset knows the shape of its images, but its file no longer exists.

    Args:
        resolution: Pixels along each side.
        batch_gpu: Images of each process.
        num_processes: How many processes share a batch.
        device: Where the networks run.
        channel_base: Value of `--cbase`. None: that of the preset.
        augment_p: Fixed strength of the augmentation. None: ADA, which starts from 0.
        cfg: Preset.
        methods: Other fields of `training.method_options.MethodOptions`.
        **options: Further options of `train.py`, such as `fp32=True`.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'image.png').write_bytes(encode_png(np.zeros([resolution, resolution, 3], np.uint8)))
        augmentation = {'aug': 'ada' if augment_p is None else 'fixed', 'p': augment_p}
        all_options = Options(
            outdir=folder,
            data=folder,
            cfg=cfg,
            batch=batch_gpu * num_processes,
            cbase=channel_base,
            device=str(device),
            **{**augmentation, **methods, **options},
        )
        dataset = open_training_set(all_options)
        return build_config(all_options, dataset, str(device), num_processes), dataset


def quick_channel_base(quick: bool) -> int | None:
    """Return the `channel_base` to measure with: a small one with `--quick`, otherwise that of the preset."""
    return QUICK_CHANNEL_BASE if quick else None


def construct_generator(
    resolution: int, quick: bool, device: torch.device, cfg: str = 'auto', **options: Any
) -> tuple[Any, int]:
    """Return the generator of a preset for this resolution, ready for inference, and its `channel_base`.

    Further options are those of `train.py`.
    """
    config, dataset = training_setup(resolution, 1, 1, device, quick_channel_base(quick), cfg=cfg, **options)
    G, _D = setup.construct_networks(config, dataset)
    setup.choose_half_dtype(G, getattr(torch, config.half_dtype))
    layer_options = config.G_kwargs.get('synthesis_kwargs', config.G_kwargs)
    return G.eval().requires_grad_(False).to(device), layer_options['channel_base']


def construct_augment_pipe(augment_p: float, device: torch.device) -> Any:
    """Return the augmentation pipe `bgc` at a fixed strength."""
    flags: dict[str, Any] = augpipe_flags('bgc')
    pipe = AugmentPipe(**flags)
    pipe.train().requires_grad_(False).to(device)
    pipe.p.fill_(augment_p)
    return pipe


def gradient_bytes(G: torch.nn.Module, D: torch.nn.Module) -> dict[str, float]:
    """Return the bytes of the gradients of each network."""
    return {name: sum(parameter.nbytes for parameter in module.parameters()) for name, module in (('G', G), ('D', D))}


class TrainingStep:
    """Networks, loss and phases of a run without labels, with a batch of random images.

    All ranks construct the same networks; seed them alike first.

    Args:
        world: The processes.
        config: Configuration from `training_setup`.
        dataset: Dataset from `training_setup`.
    """

    def __init__(self, world: World, config: TrainingConfig, dataset: ImageFolderDataset):
        self.world, self.config = world, config
        device = world.device
        self.G: Any
        self.augment_pipe: Any
        self.G, self.D, self.G_ema = setup.build_networks(world, config, dataset, resume_pkl=None)
        self.augment_pipe, _ada = setup.build_augmentation(config, device)
        self.pseudo, _apa = setup.build_pseudo_augmentation(config, device)
        self.loss = setup.build_loss(config, device, self.G, self.D, self.augment_pipe, self.pseudo)
        self.phases = build_phases(self.G, self.D, config)
        self.graphs = PhaseGraphs(self.loss, device) if config.cuda_graphs else None
        no_label = torch.zeros([config.batch_gpu, 0], device=device)
        images = torch.randn([config.batch_gpu, *dataset.image_shape], device=device).clamp(-1, 1)
        self.batches = [
            dict(
                real_img=images,
                real_c=no_label,
                gen_c=no_label,
                gen_z=torch.randn([config.batch_gpu, self.G.z_dim], device=device),
            )
            for _ in range(config.batch_size // (config.batch_gpu * world.size))
        ]

    def run(self, batch_idx: int) -> None:
        """Run all phases that are due at this batch."""
        for phase in self.phases:
            if phase.is_due(batch_idx):
                self.runner(phase)()

    def run_steps(self, count: int) -> None:
        """Run the phases of the first `count` batches, with what comes after each."""
        for batch_idx in range(count):
            self.run(batch_idx)
            self.loss.end_batch(self.world)

    def runner(self, phase: Phase) -> Callable[[], None]:
        """Return a function that runs one phase, including the step of its optimizer."""
        return functools.partial(run_phase, phase, self.loss, self.batches, self.world, graphs=self.graphs)

    def cases(self) -> dict[str, Callable[[], None]]:
        """The phases by name, and the moving average of the weights as 'EMA', as functions to time."""
        config = self.config
        decay = ema_decay(config.batch_size, 10**6, config.ema_kimg, config.ema_rampup)
        cases = {phase.name: self.runner(phase) for phase in self.phases}
        cases['EMA'] = functools.partial(update_ema, self.G_ema, self.G, decay)
        return cases

    def intervals(self) -> dict[str, int]:
        """How many steps lie between two runs of each case."""
        return {phase.name: phase.interval for phase in self.phases} | {'EMA': 1}

    def flop(self) -> dict[str, int]:
        """Convolution work of one run of each phase."""
        return phase_flop(NetworkWork.of(self.G, self.D), self.config.batch_size, Objective.of(self.config.loss_kwargs))
