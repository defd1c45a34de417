"""What a training run is made of, constructed from its configuration: networks, augmentation, and their checks."""

from __future__ import annotations

import copy
import dataclasses
import socket
from typing import Any

import torch

import dnnlib
from torch_utils import distributed, misc
from training import transfer
from training.ada import AdaController
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset


def construct_networks(config, dataset):
    """G and D as `config` has them, for the images and labels of `dataset`."""
    common = dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels)
    G = dnnlib.util.construct_class_by_name(**config.G_kwargs, **common)
    D = dnnlib.util.construct_class_by_name(**config.D_kwargs, **common)
    return G, D


def check_resume(config, dataset):
    """Refuse a network to start from that is none, or does not fit, before anything is written.

    Raises click.BadParameter where the file cannot be opened, ValueError where it does not fit.
    """
    G, D = construct_networks(config, dataset)
    transfer.open_source(config.resume_pkl, dict(G=G, D=D, G_ema=G))


def build_networks(world, config, dataset, resume_pkl):
    """G, D and G_ema on the device, with the same weights on all ranks; from a pickle where there is one."""
    G, D = construct_networks(config, dataset)
    for module in (G, D):
        module.train().requires_grad_(False).to(world.device)
    G_ema = copy.deepcopy(G).eval()
    if resume_pkl is not None and world.is_main:
        print(f'Starting from "{resume_pkl}"')
        networks = dict(G=G, D=D, G_ema=G_ema)
        transfer.take_over(transfer.open_source(resume_pkl, networks), networks)
    for module in (G, D, G_ema):
        distributed.broadcast_tensors(world, misc.params_and_buffers(module))
    return G, D, G_ema


def build_augmentation(config, device):
    """The augmentation pipe and the controller of its strength; None for what the run goes without."""
    if config.augment_kwargs is None or (config.augment_p == 0 and config.ada_target is None):
        return None, None
    augment_pipe = dnnlib.util.construct_class_by_name(**config.augment_kwargs)
    augment_pipe.train().requires_grad_(False).to(device)
    augment_pipe.p.copy_(torch.as_tensor(config.augment_p))
    if config.ada_target is None:
        return augment_pipe, None
    return augment_pipe, AdaController(
        augment_pipe, config.ada_target, config.ada_interval, config.ada_kimg, config.batch_size
    )


def check_same_on_all_ranks(world: distributed.World, config: TrainingConfig, dataset: ImageFolderDataset) -> None:
    """Raise ValueError, on all ranks, where one trains with other options or data than rank 0.

    On several machines each has a command line and perhaps a copy of the data set of its own. Paths may differ.
    """
    if not world.is_distributed:
        return
    facts = _facts(config, dataset)
    of_ranks = [None] * world.size
    torch.distributed.all_gather_object(of_ranks, (socket.gethostname(), facts))
    (_host, expected) = of_ranks[0]
    for rank, (host, found) in enumerate(of_ranks):
        differing = [name for name in expected if found[name] != expected[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f'Rank {rank} (on {host}) differs from rank 0 in {name}: {found[name]} instead of '
                f'{expected[name]}; start all machines with the same options and the same data.'
            )


def _facts(config: TrainingConfig, dataset: ImageFolderDataset) -> dict[str, Any]:
    """What must be the same everywhere, by name: the options but for places, and what the data set holds."""
    facts = dataclasses.asdict(config)
    for name in ('run_dir', 'device', 'detectors', 'resume_pkl', 'data_loader_kwargs', 'options'):
        del facts[name]
    del facts['training_set_kwargs']['path']
    return dict(facts, images=dataset.outline_sha256())
