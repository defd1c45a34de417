"""Write network pickles."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch

from dnnlib.files import atomic_file


def save_network_pkl(data: dict[str, Any], path: str | os.PathLike, durable: bool = False) -> None:
    """Write a network pickle, complete or not at all; equal networks give equal bytes.

    Args:
        data: Dict of `G`, `D`, `G_ema`, `augment_pipe` (modules on the CPU, or None) and plain data.
        path: Destination; an existing file is replaced.
        durable: Return only when the file has reached the disk.
    """
    with atomic_file(path, durable=durable) as file:
        _Pickler(file).dump(data)


class _Pickler(pickle.Pickler):
    """Write the same bytes for the same content; PyTorch names each storage by its address in memory."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, (torch.storage.TypedStorage, torch.UntypedStorage)):
            return NotImplemented
        rebuild, (content,) = obj.__reduce__()
        untyped = obj._untyped_storage if isinstance(obj, torch.storage.TypedStorage) else obj
        # The name occurs twice before the values: in the description of the storage, and in the list of names.
        return rebuild, (content.replace(_pickled_text(str(untyped._cdata)), _pickled_text('0'), 2),)


def _pickled_text(text: str) -> bytes:
    return pickle.BINUNICODE + len(text).to_bytes(4, 'little') + text.encode()
