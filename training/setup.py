"""Construct the parts of a training run from its configuration, and check them: networks and augmentation."""

from __future__ import annotations

import copy
import dataclasses
import socket
from typing import Any

import torch

from network_files.changes.conversion import Report
from torch_utils import distributed, misc
from torch_utils.distributed import World
from training import known_classes, transfer
from training.ada import AdaController
from training.architecture import describe_architecture
from training.augment import AugmentPipe
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.loss import StyleGAN2Loss
from training.pseudo_augmentation import MAX_P, PseudoAugmentation


def construct_networks(config: TrainingConfig, dataset: ImageFolderDataset) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return G and D with random weights, for the images and labels of `dataset`."""
    common: dict[str, Any] = dict(
        c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels
    )
    G = known_classes.construct(config.G_kwargs, known_classes.GENERATORS, **common)
    D = known_classes.construct(config.D_kwargs, known_classes.DISCRIMINATORS, **common)
    return G, D


def check_resume(config: TrainingConfig, dataset: ImageFolderDataset, source: transfer.Pretrained) -> str:
    """Check, before anything is written, that a run can start from a network file.

    Returns:
        What it takes from the file and what it changes, as a table and sentences.

    Raises:
        ValueError: None of the weights match.
    """
    G, D = construct_networks(config, dataset)
    networks = dict(G=G, D=D, G_ema=copy.deepcopy(G))
    report = _start_from(source, networks, dataset, measure=True)
    table = describe_architecture(source, networks, _class_names(dataset))
    return '\n'.join([table, *report.describe()])


def _start_from(
    source: transfer.Pretrained, networks: dict[str, torch.nn.Module], dataset: ImageFolderDataset, measure: bool
) -> Report:
    one_hot = dataset.has_onehot_labels or not dataset.has_labels
    return transfer.start_from(source, networks, _class_names(dataset), one_hot, measure)


def _class_names(dataset: ImageFolderDataset) -> list[str] | None:
    """Return the names of the classes, or of the entries of the labels; None if they have none for each of them."""
    names = dataset.class_names
    return names if names is not None and len(names) == dataset.label_dim else None


def build_networks(
    world: World, config: TrainingConfig, dataset: ImageFolderDataset, resume_pkl: str | None
) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """Collective: return G, D and G_ema on the device, with the same weights on all ranks.

    Args:
        world: Ranks.
        config: Configuration of the run.
        dataset: Determines the shapes of images and labels.
        resume_pkl: Network pickle to copy weights from. None: random weights.
    """
    G, D = construct_networks(config, dataset)
    for module in (G, D):
        module.train().requires_grad_(False).to(world.device)
        choose_half_dtype(module, getattr(torch, config.half_dtype))
    G_ema = copy.deepcopy(G).eval()
    if resume_pkl is not None and world.is_main:
        print(f'Starting from "{resume_pkl}"')
        networks = dict(G=G, D=D, G_ema=G_ema)
        report = _start_from(transfer.open_pretrained(resume_pkl), networks, dataset, measure=False)
        for line in report.describe():
            print(line)
    for module in (G, D, G_ema):
        distributed.broadcast_tensors(world, misc.params_and_buffers(module))
    return G, D, G_ema


def choose_half_dtype(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Let the layers in half precision compute in another type than float16. Network pickles do not say so."""
    if dtype == torch.float16:
        return
    for module in network.modules():
        if getattr(module, 'use_fp16', False):
            module.half_dtype = dtype  # type: ignore[assignment]


def build_augmentation(config: TrainingConfig, device: torch.device) -> tuple[AugmentPipe | None, AdaController | None]:
    """Return the augmentation pipe and the controller of its strength, or None for each that the run does not use."""
    if config.augment_kwargs is None or (config.augment_p == 0 and config.ada_target is None):
        return None, None
    augment_pipe = known_classes.construct(config.augment_kwargs, known_classes.AUGMENTATIONS)
    augment_pipe.train().requires_grad_(False).to(device)
    augment_pipe.p.copy_(torch.as_tensor(config.augment_p))
    if config.ada_target is None:
        return augment_pipe, None
    return augment_pipe, AdaController(
        augment_pipe,
        config.ada_target,
        config.ada_interval,
        config.ada_kimg,
        config.batch_size,
        config.ada_max_p,
        config.ada_heuristic,
    )


def build_pseudo_augmentation(
    config: TrainingConfig, device: torch.device
) -> tuple[PseudoAugmentation | None, AdaController | None]:
    """Return the pseudo augmentation and the controller of its probability, or None for both."""
    if config.apa_target is None:
        return None, None
    pseudo = PseudoAugmentation(device, fixed_shapes=config.cuda_graphs)
    return pseudo, AdaController(
        pseudo,
        config.apa_target,
        config.ada_interval,
        config.ada_kimg,
        config.batch_size,
        MAX_P,
        config.ada_heuristic,
        on_change=pseudo.send_p,
    )


def build_loss(
    config: TrainingConfig,
    device: torch.device,
    G: torch.nn.Module,
    D: torch.nn.Module,
    augment_pipe: torch.nn.Module | None = None,
    pseudo: PseudoAugmentation | None = None,
) -> StyleGAN2Loss:
    """Return the training objective for networks on `device`."""
    return known_classes.construct(
        config.loss_kwargs, known_classes.LOSSES, device=device, G=G, D=D, augment_pipe=augment_pipe, pseudo=pseudo
    )


def check_same_on_all_ranks(world: World, config: TrainingConfig, dataset: ImageFolderDataset) -> None:
    """Collective: check that all ranks train with the same options and data. Paths may differ.

    On several machines, each has its own command line and perhaps its own copy of the dataset.

    Raises:
        ValueError: A rank differs from rank 0. Raised on all ranks.
    """
    if not world.is_distributed:
        return
    per_rank: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(per_rank, (socket.gethostname(), _shared_facts(config, dataset)))
    _host, expected = per_rank[0]
    for rank, (host, facts) in enumerate(per_rank):
        name = next((name for name in expected if facts[name] != expected[name]), None)
        if name is not None:
            raise ValueError(
                f'Rank {rank} (on {host}) differs from rank 0 in {name}: {facts[name]} instead of '
                f'{expected[name]}. Start all machines with the same options and the same data.'
            )


def _shared_facts(config: TrainingConfig, dataset: ImageFolderDataset) -> dict[str, Any]:
    """Return what must be equal on all ranks, by name: the options except for paths, and the content of the dataset."""
    facts = dataclasses.asdict(config)
    for name in ('run_dir', 'device', 'detectors', 'resume_pkl', 'data_loader_kwargs', 'options'):
        del facts[name]
    del facts['training_set_kwargs']['path']
    (facts['validation_set_kwargs'] or {}).pop('path', None)
    return dict(facts, images=dataset.metadata_sha256())
