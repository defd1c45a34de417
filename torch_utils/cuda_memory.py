"""Memory of CUDA devices: how much is free, and copies to it that nothing waits for."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device; for CUDA it is copied from pinned memory, without waiting."""
    if device.type == 'cuda' and tensor.device.type == 'cpu':
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_cuda_bytes(indices: list[int]) -> int | None:
    """Return the free memory of the fullest of these CUDA devices; None if one of them does not answer.

    A query takes some hundreds of MB on each device for as long as the process lives, so a separate process makes it.
    """
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return min(pool.submit(_free_of_devices, indices).result())
        except RuntimeError:  # a device that is full, or whose driver fails: training will say which
            return None


def _free_of_devices(indices: list[int]) -> list[int]:
    return [torch.cuda.mem_get_info(index)[0] for index in indices]
