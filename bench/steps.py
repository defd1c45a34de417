"""One training step on data in memory, in a world of any size: what the benchmarks of several processes run."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from dataset_format.images import encode_png
from dnnlib.util import construct_class_by_name
from torch_utils.distributed import World
from training.config import Options, TrainingConfig, build_config, open_training_set
from training.dataset import ImageFolderDataset
from training.phases import build_phases, run_phase


def training_setup(
    resolution: int, batch_gpu: int, num_processes: int, device: torch.device, cbase: int | None = None
) -> tuple[TrainingConfig, ImageFolderDataset]:
    """What `train.py --cfg=auto` would run on RGB images of this size, `batch_gpu` of them in each process.

    The data set has the shape of such images; its only file is gone.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'image.png').write_bytes(encode_png(np.zeros([resolution, resolution, 3], np.uint8)))
        options = Options(outdir=folder, data=folder, batch=batch_gpu * num_processes, cbase=cbase, device=str(device))
        dataset = open_training_set(options)
        return build_config(options, dataset, str(device), num_processes), dataset


class TrainingStep:
    """Networks, loss and phases of a run without labels; `run()` is a step with all that are due at `batch_idx`.

    Args:
        world: Ranks; each makes the same networks, so seed them alike before.
        config: Of `training_config`.
        resolution: Of the images.
    """

    def __init__(self, world: World, config: TrainingConfig, resolution: int):
        self.world = world
        device = world.device
        common = dict(c_dim=0, img_resolution=resolution, img_channels=3)
        self.G = construct_class_by_name(**config.G_kwargs, **common).train().requires_grad_(False).to(device)
        self.D = construct_class_by_name(**config.D_kwargs, **common).train().requires_grad_(False).to(device)
        augment_pipe = construct_class_by_name(**config.augment_kwargs).train().requires_grad_(False).to(device)
        self.loss = construct_class_by_name(
            device=device, G=self.G, D=self.D, augment_pipe=augment_pipe, **config.loss_kwargs
        )
        self.phases = build_phases(self.G, self.D, config)
        no_label = torch.zeros([config.batch_gpu, 0], device=device)
        images = torch.randn([config.batch_gpu, 3, resolution, resolution], device=device).clamp(-1, 1)
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
        for phase in self.phases:
            if phase.is_due(batch_idx):
                run_phase(phase, self.loss, self.batches, self.world)
