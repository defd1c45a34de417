"""How much memory is free on CUDA devices."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import torch


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
