"""Processes and ranks: one launcher for training and metrics, and the few collectives they need.

A script calls `launch(function, num_processes, device, *args)`; `function(world, *args)` then runs
once per process with a `World` that says who it is. Started by `torchrun`, the processes are
already there and `launch` joins them. NCCL on CUDA, gloo elsewhere.
"""

import dataclasses
import os
import tempfile
from pathlib import Path

import torch

from dnnlib.cli import error_sentence


@dataclasses.dataclass(frozen=True)
class World:
    """The place of one process among all: `rank` of `size`, working on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self):
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_distributed(self):
        return self.size > 1


def under_torchrun():
    """Whether `torchrun` (or another launcher with the same environment) started this process."""
    return 'WORLD_SIZE' in os.environ and 'RANK' in os.environ


def num_processes_of_torchrun():
    """The number of processes that the launcher has started, None without one."""
    return int(os.environ['WORLD_SIZE']) if under_torchrun() else None


def launch(function, num_processes, device, *args):
    """Run `function(world, *args)` in `num_processes` processes and wait for all of them.

    Args:
        function: Importable function; what it returns is lost where processes are started.
        num_processes: Started by this call, unless `torchrun` did.
        device: 'cuda', 'cuda:N', 'mps' or 'cpu'. Several processes on CUDA take one device each.
        *args: Picklable arguments.

    Raises:
        ValueError: with the sentence of a user's mistake that a process met.
        torch.multiprocessing.ProcessRaisedException: for any other error of a started process.
    """
    if under_torchrun():
        local_rank = int(os.environ.get('LOCAL_RANK', 0))
        local_size = int(os.environ.get('LOCAL_WORLD_SIZE', num_processes))
        rank, size = int(os.environ['RANK']), num_processes_of_torchrun()
        _run(function, rank, size, local_rank, local_size, device, 'env://', args)
    elif num_processes == 1:
        _run(function, 0, 1, None, 1, device, None, args)
    else:
        _spawn(function, num_processes, device, args)


def _spawn(function, num_processes, device, args):
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.multiprocessing.spawn(
                _run_spawned, args=(function, num_processes, device, folder, args), nprocs=num_processes)
        except torch.multiprocessing.ProcessRaisedException as error:
            sentences = [path.read_text(encoding='utf-8') for path in sorted(Path(folder).glob('sentence-*'))]
            if sentences:
                raise ValueError(sentences[0]) from error
            raise


def _run_spawned(rank, function, size, device, folder, args):
    try:
        _run(function, rank, size, rank, size, device, f'file://{folder}/rendezvous', args)
    except (ValueError, OSError) as error:
        # A sentence for the user crosses to the starting process as it is, not as a traceback's last line.
        sentence = error_sentence(error)
        if sentence is not None:
            Path(folder, f'sentence-{rank}').write_text(sentence, encoding='utf-8')
        raise


def _run(function, rank, size, local_rank, local_size, device, rendezvous, args):
    device = torch.device(device)
    if device.type == 'cuda':
        if local_rank is not None and size > 1:
            device = torch.device('cuda', local_rank)
        torch.cuda.set_device(device)
    elif local_size > 1 and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))

    world = World(rank=rank, size=size, device=device)
    if not world.is_distributed:
        function(world, *args)
        return
    backend = 'nccl' if device.type == 'cuda' else 'gloo'
    torch.distributed.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=size)
    try:
        function(world, *args)
    finally:
        torch.distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------------
# Collectives; each does nothing in a single process

def broadcast_object(world, value):
    """The picklable `value` of rank 0, on every rank."""
    if not world.is_distributed:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=world.device)
    return box[0]


def broadcast_tensors(world, tensors):
    """Overwrite the tensors with those of rank 0."""
    if world.is_distributed:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), src=0)


def average_gradients(world, parameters):
    """Replace gradients by their mean over the ranks, and non-finite entries by finite ones.

    NaN → 0 and ±inf → ±1e5. One flat all-reduce: every rank must have gradients for the same
    parameters; those without are left alone.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    if world.is_distributed:
        torch.distributed.all_reduce(flat)
        flat /= world.size
    torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
    for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(piece.view_as(gradient))


def check_equal_over_ranks(world, named_tensors, what):
    """Raise RuntimeError, on every rank, naming tensors that differ from rank 0's; NaN equals NaN."""
    if not world.is_distributed:
        return
    differing = []
    for name, tensor in named_tensors:
        reference = tensor.detach().clone()
        torch.distributed.broadcast(reference, src=0)
        if not torch.equal(torch.nan_to_num(tensor.detach()), torch.nan_to_num(reference)):
            differing.append(name)
    of_ranks = [None] * world.size
    torch.distributed.all_gather_object(of_ranks, differing)
    if any(of_ranks):
        rank, names = next((rank, names) for rank, names in enumerate(of_ranks) if names)
        raise RuntimeError(f'{what}: {len(names)} tensors of rank {rank} differ from rank 0, the first is {names[0]}')
