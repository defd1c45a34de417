"""How much memory a training process takes at its peak, from the shapes of the networks.

    process + STATE_FACTOR · (weights of G and D) + weights of G_ema + ACTIVATION_FACTOR · activations · images at once

The two factors are fitted to peaks of training steps, all phases, measured on a CPU from 64 to 256 pixels; from 16 to
256 pixels the estimate is within 10 % of them (`bench/memory.py` measures anew). On CUDA, where there is half precision
and another allocator, it is not measured; for --cfg=auto from 128 to 1024 pixels it gives 5 to 10 GB, where 5 to 8 GB
were published for a V100.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from training import setup

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.dataset import Dataset

ACCURACY = 0.25  # The estimate may be wrong by this share of itself.

# Weights, gradients and Adam's two means make 4; the flat buffer of all gradients of one network and what second
# derivatives and convolutions keep for a while make the rest.
STATE_FACTOR = 6.2
# Of what the convolutions put out, G and D together: products with styles and noise, activations, their gradients.
ACTIVATION_FACTOR = 3.1
# Python, PyTorch and its libraries; on CUDA the context and the workspaces of cuDNN.
PROCESS_BYTES = {'cpu': 250 * 2**20, 'mps': 250 * 2**20, 'cuda': 600 * 2**20}


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Peak of one process: what is always there, and what each of the images at once adds."""

    fixed_bytes: int
    image_bytes: int

    def num_bytes(self, batch_gpu: int) -> int:
        return self.fixed_bytes + self.image_bytes * batch_gpu


@dataclasses.dataclass(frozen=True)
class NetworkSizes:
    """Bytes of the parameters and buffers of G and D, and of what their convolutions put out for one image."""

    G_bytes: int
    D_bytes: int
    activation_bytes: int


def estimate(config: TrainingConfig, dataset: Dataset) -> MemoryEstimate:
    """The estimate for a run; on a CPU with the decoded images that the dataset keeps in memory."""
    sizes = network_sizes(config, dataset)
    device_type = torch.device(config.device).type
    cache = 0 if device_type == 'cuda' else dataset_cache_bytes(config, dataset)
    fixed = PROCESS_BYTES[device_type] + cache + STATE_FACTOR * (sizes.G_bytes + sizes.D_bytes) + sizes.G_bytes
    return MemoryEstimate(int(fixed), int(ACTIVATION_FACTOR * sizes.activation_bytes))


def dataset_cache_bytes(config: TrainingConfig, dataset: Dataset) -> int:
    """What the decoded images take that a data set keeps: all that are shown, or none where they are too many."""
    from training.dataset import DEFAULT_CACHE_MIB

    num_bytes = config.training_set_kwargs.get('max_size', len(dataset)) * int(torch.tensor(dataset.image_shape).prod())
    return num_bytes if num_bytes <= DEFAULT_CACHE_MIB * 2**20 else 0


def network_sizes(config: TrainingConfig, dataset: Dataset) -> NetworkSizes:
    """From networks that take no memory, which see one image."""
    with torch.device('meta'):
        G, D = setup.construct_networks(config, dataset)
        half_precision = torch.device(config.device).type == 'cuda'
        activations = 0

        def count(name, module):
            element = 2 if half_precision and getattr(network.get_submodule(name), 'use_fp16', False) else 4

            def hook(_module, _inputs, output):
                nonlocal activations
                activations += output.numel() * element

            return module.register_forward_hook(hook)

        for network in (G, D):
            for name, module in network.named_modules():
                if getattr(module, 'weight', None) is not None and module.weight.ndim == 4:
                    count(name.rpartition('.')[0], module)
        with torch.no_grad():
            label = torch.zeros([1, G.c_dim])
            D(G(torch.zeros([1, G.z_dim]), label), label)
    return NetworkSizes(_num_bytes(G), _num_bytes(D), activations)


def _num_bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def fitting_batch_gpu(config: TrainingConfig, of_run: MemoryEstimate, free_bytes: float) -> list[int]:
    """Values of --batch-gpu that need no other option changed and fit into `free_bytes`, the largest first."""
    share = config.batch_size // config.num_gpus
    group = config.D_kwargs.get('epilogue_kwargs', {}).get('mbstd_group_size') or 1
    return [
        size
        for size in range(share, 0, -1)
        if share % size == 0 and size % min(group, size) == 0 and of_run.num_bytes(size) <= free_bytes
    ]
