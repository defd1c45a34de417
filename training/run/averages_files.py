"""The averages of the generator that a run writes with each snapshot, for `scripts/posthoc_ema.py`.

A file consists of tensors, numbers and text in plain containers. It is read without executing anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from dnnlib.files import atomic_file
from dnnlib.schema import Integer, ListOf, MapOf, Number, Record
from network_files import tensor_archives
from training.power_averages import PowerAverages
from training.run.run_dir import RunDir
from training.run.state_schema import MAX_NIMG, AnyTensor
from training.schema import MAX_LENGTH, MIN_LENGTH

_FORMAT = 1
_CONTENT = Record(
    {
        'format': Integer(_FORMAT, _FORMAT),
        'nimg': Integer(1, MAX_NIMG),
        'lengths': ListOf(Number(MIN_LENGTH, MAX_LENGTH), min_length=1, max_length=10),
        'averages': MapOf(AnyTensor(), max_length=100_000),
    },
    required=['format', 'nimg', 'lengths', 'averages'],
)


@dataclass(frozen=True)
class StoredAverages:
    """What one file holds."""

    nimg: int  # images shown
    lengths: list[float]  # σ_rel of each average
    tensors: list[dict[str, torch.Tensor]]  # of each average, by name of the parameter


def write(run_dir: RunDir, averages: PowerAverages, cur_nimg: int) -> None:
    """Write the averages after `cur_nimg` images.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {name: tensor.cpu() for name, tensor in averages.state_dict().items()}
    content = {'format': _FORMAT, 'nimg': cur_nimg, 'lengths': averages.lengths, 'averages': tensors}
    with atomic_file(run_dir.averages(cur_nimg), durable=True) as file:
        torch.save(content, file)


def read(path: str | os.PathLike) -> StoredAverages:
    """Read a file of `write`.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged, or something else; one sentence that begins with its path.
    """
    try:
        content = tensor_archives.load(path)
    except tensor_archives.DamagedArchive as error:
        raise ValueError(f'{os.fspath(path)} is damaged ({error}).') from error
    _CONTENT.check(content, os.fspath(path))
    tensors: list[dict[str, torch.Tensor]] = [{} for _length in content['lengths']]
    for name, tensor in content['averages'].items():
        position, slash, parameter = name.partition('/')
        if not slash or not position.isdecimal() or int(position[:10]) >= len(tensors):
            raise ValueError(f'{os.fspath(path)} has averages of other lengths than it says.')
        tensors[int(position)][parameter] = tensor
    return StoredAverages(content['nimg'], content['lengths'], tensors)
