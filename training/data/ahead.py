"""Batches on the device: while one trains, the next is already on its way to the GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch


class LoadedBatch(NamedTuple):
    """What the data loader gives for a batch."""

    pixels: torch.Tensor  # uint8 [N, C, H, W]
    labels: torch.Tensor  # [N, c_dim]
    messages: Sequence[str]  # '' for each image that was read


class BatchesAhead:
    """The batches of a data loader on a device.

    On CUDA, `start_next` reads the next batch and starts its copy on a stream of its own, from pinned memory. The copy
    runs beside the kernels of the batch before it. All copies arrive in the same two tensors; a batch takes over their
    values before the next copy starts. Nothing waits for the GPU.

    On other devices a batch is read when it is needed.

    Args:
        loader: Batches as (pixels, labels, messages); all have the same shape.
        device: Where they are needed.
    """

    def __init__(self, loader: Iterator[Sequence], device: torch.device):
        self._loader = loader
        self._device = device
        self._is_ahead = device.type == 'cuda'
        self._next: LoadedBatch | None = None  # on the device, perhaps not arrived yet
        self._error: Exception | None = None  # raised when the batch that it belongs to is due
        self._staging: list[torch.Tensor] = []  # pixels and labels
        if self._is_ahead:
            self._stream = torch.cuda.Stream(device)
            self._is_free = torch.cuda.Event()  # the last batch has been taken out of the staging tensors

    def __next__(self) -> LoadedBatch:
        """Return the next batch, on the device."""
        if not self._is_ahead:
            pixels, labels, messages = next(self._loader)
            return LoadedBatch(pixels.to(self._device), labels.to(self._device), messages)
        self.start_next()
        if self._error is not None:
            raise self._error
        assert self._next is not None
        current, self._next = self._next, None
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        taken = LoadedBatch(current.pixels.clone(), current.labels.clone(), current.messages)
        self._is_free.record(torch.cuda.current_stream(self._device))
        return taken

    def start_next(self) -> None:
        """Read the next batch and start its copy to the GPU, unless that has been done or the device is no GPU.

        An error in reading it is raised when the batch is due: training may stop before it.
        """
        if not self._is_ahead or self._next is not None or self._error is not None:
            return
        try:
            pixels, labels, messages = next(self._loader)
        except Exception as error:
            self._error = error
            return
        if not self._staging:
            self._staging = [torch.empty_like(tensor, device=self._device) for tensor in (pixels, labels)]
            self._is_free.record(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._is_free)
            for staging, tensor in zip(self._staging, (pixels, labels), strict=True):
                if tensor.numel() > 0:  # labels may be empty
                    staging.copy_(tensor, non_blocking=tensor.is_pinned())
        self._next = LoadedBatch(self._staging[0], self._staging[1], messages)
