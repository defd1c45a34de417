"""Estimate the peak memory of a training process from the shapes of the networks.

    process + STATE_FACTOR · (weights of G and D) + weights of all averages of G
            + (ACTIVATION_FACTOR · activations + warped images on CUDA) · images at once

The two factors are fitted to measured peaks of training steps with all phases, on a CPU at 64 to 256 pixels; from 16 to
256 pixels the estimate is within 10 % of the measurement (`bench/memory.py` repeats it), and for StyleGAN3-T and -R at
64 pixels within 14 %. With the relativistic loss, bCR and instance discrimination, alone and together, it is within 8 %
at 64 and 128 pixels. For the smallest networks, which need about half a GB, it is a third too low. On CUDA, with half
precision and another allocator, it has not been measured; for --cfg=auto at 128 to 1024 pixels it gives 5 to 12 GB,
while 5 to 8 GB were published for a V100.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import torch

from training import known_classes, setup
from training.batch_sizes import mbstd_group_of, possible_batch_gpus
from training.data.image_cache import DEFAULT_CACHE_MIB

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.dataset import ImageFolderDataset

ACCURACY = 0.25  # the estimate may be off by this fraction of itself

# Weights, gradients and the two moments of Adam make 4; the flat buffer of all gradients of one network, and temporary
# results of second derivatives and convolutions, make up the rest.
STATE_FACTOR = 6.2
# Per output of a convolution, G and D together: products with styles and noise, activations, and their gradients.
ACTIVATION_FACTOR = 3.1
# Per output of a convolution of D that is applied once more, for bCR, where the peak is in another phase.
SECOND_PASS_FACTOR = 0.5
# On CUDA, the augmentation warps images of 4 times the pixels, upsampled by 2, in float32 whatever the networks compute
# in: so many numbers for each pixel of an image, per channel and for the coordinates. That is the peak of the pipe
# alone with gradients and second derivatives, in tests/rehearsal. On a CPU, it is part of ACTIVATION_FACTOR.
WARPED_PER_CHANNEL = 47
WARPED_COORDINATES = 14
GEOMETRY = ('xflip', 'rotate90', 'xint', 'scale', 'rotate', 'aniso', 'xfrac')  # keywords of AugmentPipe
# Python, PyTorch and its libraries; on CUDA the context and the workspaces of cuDNN.
PROCESS_BYTES = {'cpu': 250 * 2**20, 'mps': 250 * 2**20, 'cuda': 600 * 2**20}


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one process: a fixed part, and the part of each image that it handles at once."""

    fixed_bytes: int
    image_bytes: int

    def num_bytes(self, batch_gpu: int) -> int:
        """Return the peak for `batch_gpu` images at once."""
        return self.fixed_bytes + self.image_bytes * batch_gpu


@dataclasses.dataclass(frozen=True)
class NetworkSizes:
    """Bytes of the parameters and buffers of G and D, and of the outputs of their convolutions for one image."""

    G_bytes: int
    D_bytes: int
    activation_bytes: int  # of both
    D_activation_bytes: int


def estimate(config: TrainingConfig, dataset: ImageFolderDataset) -> MemoryEstimate:
    """Return the estimate for a run; on a CPU it includes the decoded images that the dataset keeps in memory."""
    sizes = network_sizes(config, dataset)
    device_type = torch.device(config.device).type
    cache = 0 if device_type == 'cuda' else dataset_cache_bytes(config, dataset)
    averages = 1 + len(config.posthoc_ema or [])  # of G
    fixed = PROCESS_BYTES[device_type] + cache + STATE_FACTOR * (sizes.G_bytes + sizes.D_bytes)
    fixed += averages * sizes.G_bytes
    if config.loss_kwargs.get('insgen_weights') is not None:
        fixed += sizes.D_bytes  # an average of D
    image_bytes = ACTIVATION_FACTOR * sizes.activation_bytes + _method_bytes(config, sizes)
    if device_type == 'cuda':
        image_bytes += warped_bytes(config, dataset)
    return MemoryEstimate(int(fixed), int(image_bytes))


def warped_bytes(config: TrainingConfig, dataset: ImageFolderDataset) -> int:
    """Return what the geometric augmentations of one image need on CUDA; 0 if there are none."""
    is_used = config.augment_p > 0 or config.ada_target is not None
    if not is_used or not any((config.augment_kwargs or {}).get(name, 0) > 0 for name in GEOMETRY):
        return 0
    channels, height, width = dataset.image_shape
    return 4 * (WARPED_PER_CHANNEL * channels + WARPED_COORDINATES) * height * width


def _method_bytes(config: TrainingConfig, sizes: NetworkSizes) -> float:
    """Return what methods for few images need for one image in addition: more results of D at the same time."""
    is_relativistic = config.loss_kwargs['class_name'] == known_classes.RELATIVISTIC_LOSS
    # Real and generated images are in one graph, and both are differentiated twice.
    pairs = ACTIVATION_FACTOR * sizes.D_activation_bytes if is_relativistic else 0
    # The second pass of D is over before the peak, in the phase with R1, unless both are in one phase.
    if config.loss_kwargs.get('bcr_weights') is None:
        return pairs
    factor = SECOND_PASS_FACTOR if config.D_reg_interval is not None else ACTIVATION_FACTOR
    return pairs + factor * sizes.D_activation_bytes * (2 if is_relativistic else 1)


def dataset_cache_bytes(config: TrainingConfig, dataset: ImageFolderDataset) -> int:
    """Return the size of the dataset's cache of decoded images: all of them, or 0 if they are too many."""
    num_images = config.training_set_kwargs.get('max_size') or len(dataset)
    num_bytes = num_images * math.prod(dataset.image_shape)
    return num_bytes if num_bytes <= DEFAULT_CACHE_MIB * 2**20 else 0


def network_sizes(config: TrainingConfig, dataset: ImageFolderDataset) -> NetworkSizes:
    """Measure the networks of a run on one image, without allocating any memory for them."""
    half_precision = torch.device(config.device).type == 'cuda'
    activation_bytes = [0, 0]  # of G and D

    def count_outputs(convolution: torch.nn.Module, uses_fp16: bool, network_index: int) -> None:
        element_bytes = 2 if half_precision and uses_fp16 else 4

        def hook(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            activation_bytes[network_index] += output.numel() * element_bytes

        convolution.register_forward_hook(hook)

    with torch.device('meta'), torch.no_grad():
        G, D = setup.construct_networks(config, dataset)
        for index, network in enumerate((G, D)):
            for name, module in network.named_modules():
                weight = getattr(module, 'weight', None)
                if isinstance(weight, torch.Tensor) and weight.ndim == 4:
                    block = network.get_submodule(name.rpartition('.')[0])
                    count_outputs(module, getattr(module, 'use_fp16', getattr(block, 'use_fp16', False)), index)
        z, label = torch.zeros([1, config.G_kwargs['z_dim']]), torch.zeros([1, dataset.label_dim])
        D(G(z, label), label)
    return NetworkSizes(_num_bytes(G), _num_bytes(D), sum(activation_bytes), activation_bytes[1])


def _num_bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def fitting_batch_gpu(config: TrainingConfig, memory: MemoryEstimate, free_bytes: float) -> list[int]:
    """Return the values of --batch-gpu that fit into `free_bytes` without other changes, largest first."""
    group = mbstd_group_of(config)
    return [
        size
        for size in possible_batch_gpus(config)
        if size % min(group, size) == 0 and memory.num_bytes(size) <= free_bytes
    ]
