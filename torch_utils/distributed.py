"""The ranks of a run and the few collectives they need; `torch_utils.launcher` starts the processes.

Every collective does nothing in a single process.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

from dnnlib.errors import error_sentence

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class World:
    """The place of one process among all: `rank` of `size`, working on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are several processes."""
        return self.size > 1


# ---------------------------------------------------------------------------------------------------------------------
# Collectives


def broadcast_object(world: World, value: T) -> T:
    """Return the picklable `value` of rank 0 on every rank."""
    if not world.is_distributed:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=world.device)
    return box[0]


def broadcast_tensors(world: World, tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the tensors with those of rank 0."""
    if world.is_distributed:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), src=0)


def flatten_gradients(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor | None:
    """Move the gradients of parameters into one flat buffer, of which they become views, and return it.

    Parameters without a gradient are skipped; None if none has one.
    """
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in owners if parameter.grad is not None]
    if not gradients:
        return None
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    for parameter, piece in zip(owners, flat.split([gradient.numel() for gradient in gradients])):
        parameter.grad = piece.view_as(parameter)
    return flat


def average_gradients(world: World, flat: torch.Tensor | None) -> torch.Tensor:
    """Replace gradients by their mean over the ranks, and non-finite values by finite ones (NaN by 0, ±inf by ±1e5).

    Args:
        world: Ranks.
        flat: Result of `flatten_gradients`, changed in place. Every rank has gradients of the same parameters.

    Returns:
        A scalar, 1 if there were non-finite values on any rank, otherwise 0; the same on all ranks.
    """
    if flat is None:
        return torch.zeros([], device=world.device)
    if world.is_distributed:
        torch.distributed.all_reduce(flat)
        flat /= world.size
    lowest, highest = torch.aminmax(flat)  # NaN if there is a NaN
    torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
    return (lowest * 0 + highest * 0).ne(0).to(torch.float32)


def check_equal_over_ranks(world: World, named_tensors: Iterable[tuple[str, torch.Tensor]], what: str) -> None:
    """Raise RuntimeError, on every rank, if tensors differ from those of rank 0; NaN equals NaN.

    Args:
        world: Ranks.
        named_tensors: Pairs of name and tensor.
        what: Description of the tensors for the message.
    """
    if not world.is_distributed:
        return
    differing = []
    for name, tensor in named_tensors:
        reference = tensor.detach().clone()
        torch.distributed.broadcast(reference, src=0)
        if not torch.equal(torch.nan_to_num(tensor.detach()), torch.nan_to_num(reference)):
            differing.append(name)
    for rank, names in enumerate(_gather_objects(world, differing)):
        if names:
            raise RuntimeError(
                f'{what}: {len(names)} tensors of rank {rank} differ from rank 0, the first one is {names[0]}'
            )


def largest_over_ranks(world: World, number: int) -> int:
    """Return the largest of the integers of all ranks; the CPUs wait for each other, but not for their GPUs."""
    if not world.is_distributed:
        return number
    largest = torch.tensor(number)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


def sum_tensors(world: World, tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the tensors with their sums over the ranks."""
    if world.is_distributed:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def gather_to_main(world: World, tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors of all ranks, which have the same shape and dtype, on the main rank; [] elsewhere."""
    if not world.is_distributed:
        return [tensor]
    gathered = [torch.empty_like(tensor) for _ in range(world.size)] if world.is_main else None
    torch.distributed.gather(tensor.contiguous(), gathered, dst=0)
    return gathered or []


def gather_to_all(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors [N, ...] of all ranks, which have the same shape, one after the other in one tensor."""
    if not world.is_distributed:
        return tensor
    gathered = [torch.empty_like(tensor) for _rank in range(world.size)]
    torch.distributed.all_gather(gathered, tensor.contiguous())
    return torch.cat(gathered)


def gather_objects_to_main(world: World, value: T) -> list[T]:
    """Return the picklable values of all ranks on the main rank; [] elsewhere."""
    if not world.is_distributed:
        return [value]
    gathered: list[Any] | None = [None] * world.size if world.is_main else None
    torch.distributed.gather_object(value, gathered, dst=0)
    return gathered or []


def _gather_objects(world: World, value: T) -> list[T]:
    """Return the picklable values of all ranks on every rank."""
    gathered: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(gathered, value)
    return gathered


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@contextlib.contextmanager
def failing_together(world: World) -> Iterator[None]:
    """Make an error in this block, on whichever rank, an error on all ranks, so that no rank waits for a failed one.

    All ranks must enter the block. Ranks without an error raise the message of the first one that failed, as ValueError
    if it was a user's mistake and as RuntimeError otherwise.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        if not world.is_distributed:
            raise
        error = caught
    if not world.is_distributed:
        return
    any_failed = torch.tensor(int(error is not None), device=world.device)
    torch.distributed.all_reduce(any_failed)
    if not any_failed:
        return
    failure = None
    if error is not None:
        sentence = error_sentence(error) if isinstance(error, (ValueError, OSError)) else None
        failure = sentence, f'{type(error).__name__}: {error}'
    failures = _gather_objects(world, failure)
    if error is not None:
        raise error
    for rank, other in enumerate(failures):
        if other is not None:
            sentence, description = other
            raise (
                ValueError(sentence) if sentence is not None else RuntimeError(f'rank {rank} failed with {description}')
            )
