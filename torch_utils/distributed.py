"""Processes and ranks: one launcher for training and metrics, and the few collectives they need.

A script calls `launch(function, num_processes, device, *args)`; `function(world, *args)` then runs
once per process with a `World` that says who it is. Started by `torchrun`, the processes are
already there and `launch` joins them. NCCL on CUDA, gloo elsewhere.
"""

import contextlib
import dataclasses
import datetime
import logging
import os
import tempfile
import time
from pathlib import Path
from signal import SIGTERM

import click
import torch

from dnnlib.cli import error_sentence
from dnnlib.memory import keep_freed_memory

GRACE_SEC = 10      # For the other processes to end by themselves after an interrupt.

# How long a rank waits for the others: the first one alone computes the figures of large metrics.
LONGEST_WAIT = datetime.timedelta(hours=6)


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


def is_first_process():
    """Whether this process prints and checks, before `launch` has said who it is."""
    return not under_torchrun() or os.environ['RANK'] == '0'


def processes_on_this_machine(num_processes):
    """How many of the `num_processes` of a run are here."""
    return int(os.environ.get('LOCAL_WORLD_SIZE', num_processes)) if under_torchrun() else num_processes


def number_of_machines():
    """Machines that `torchrun` joins; 1 without it."""
    return int(os.environ.get('GROUP_WORLD_SIZE', 1)) if under_torchrun() else 1


def backend_for(device):
    """Name of what carries the collectives between processes that work on `device` (or its name)."""
    return 'nccl' if torch.device(device).type == 'cuda' else 'gloo'


def _check_environment():
    """Raise click.UsageError where a launcher's variables are incomplete or contradict each other."""
    values = {}
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        text = os.environ.get(name, '0' if name == 'LOCAL_RANK' else os.environ['WORLD_SIZE'])
        if not text.isdecimal():
            raise click.UsageError(f'The environment has {name}={text!r}, which is no number: start with torchrun, '
                                   'or unset WORLD_SIZE and RANK.')
        values[name] = int(text)
    for rank, size in (('RANK', 'WORLD_SIZE'), ('LOCAL_RANK', 'LOCAL_WORLD_SIZE')):
        if values[rank] >= values[size]:
            raise click.UsageError(f'The environment has {rank}={values[rank]}, which must be below '
                                   f'{size}={values[size]}: start with torchrun, or unset WORLD_SIZE and RANK.')
    missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing and values['WORLD_SIZE'] > 1:
        raise click.UsageError(f'The environment has WORLD_SIZE={values["WORLD_SIZE"]}, but no {missing[0]}: start '
                               'with torchrun, or unset WORLD_SIZE and RANK.')


def number_of_processes(gpus, device):
    """What `--gpus` comes to: the option (None: not given), or what `torchrun` has started.

    Raises click.BadParameter where the devices of this machine do not suffice, click.UsageError where the launcher's
    variables do not fit together. `device` is a `torch.device`.
    """
    if under_torchrun():
        _check_environment()
    started = num_processes_of_torchrun()
    if started is not None and gpus is not None and gpus != started:
        raise click.BadParameter(
            f'{gpus} disagrees with torchrun, which started {started} processes: drop the option.',
            param_hint="'--gpus'")
    num_processes = started or gpus or 1
    here = processes_on_this_machine(num_processes)
    if device.type == 'cuda' and here > torch.cuda.device_count():
        raise click.BadParameter(
            f'{here} processes need a CUDA device each, but this machine has {torch.cuda.device_count()}: '
            'ask for fewer, or add --device=cpu.', param_hint="'--gpus'")
    if num_processes > 1 and (device.type == 'mps' or device.index is not None):
        raise click.BadParameter(
            f'{device} is one device, which {num_processes} processes cannot share: use --gpus=1, cuda or cpu.',
            param_hint="'--device'")
    return num_processes


def launch(function, num_processes, device, *args):
    """Run `function(world, *args)` in `num_processes` processes and wait for all of them.

    Args:
        function: Importable function; what it returns is lost where processes are started.
        num_processes: Started by this call, unless `torchrun` did.
        device: 'cuda', 'cuda:N', 'mps' or 'cpu'. Several processes on CUDA take one device each.
        *args: Picklable arguments.

    Raises:
        ValueError: with the sentence of a user's mistake that a process met, or where a process was killed.
        torch.multiprocessing.ProcessRaisedException: for any other error of a started process.
    """
    if under_torchrun():
        local_rank, local_size = int(os.environ.get('LOCAL_RANK', 0)), processes_on_this_machine(num_processes)
        rank, size = int(os.environ['RANK']), num_processes_of_torchrun()
        _run(function, rank, size, local_rank, local_size, device, 'env://', args)
    elif num_processes == 1:
        _run(function, 0, 1, None, 1, device, None, args)
    else:
        _spawn(function, num_processes, device, args)


def _spawn(function, num_processes, device, args):
    spawn = torch.multiprocessing.spawn
    with tempfile.TemporaryDirectory() as folder, _errors_only('torch.multiprocessing.spawn'):
        context = spawn(_run_spawned, (function, num_processes, device, folder, args), num_processes, join=False)
        try:
            while not context.join():
                pass
        except (torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException) as error:
            sentences = [path.read_text(encoding='utf-8') for path in sorted(Path(folder).glob('sentence-*'))]
            sentences += _sentences_of_killed(context.processes)
            if sentences:
                raise ValueError(sentences[0]) from error
            raise
        finally:
            _end_processes(context.processes)


@contextlib.contextmanager
def _errors_only(logger_name):
    """Within this context a logger is silent below errors: that the other processes are ended after one failed."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _sentences_of_killed(processes):
    """A sentence for each process that a signal has ended, but for those that the launcher ends (SIGTERM)."""
    return [f'Process {index} of {len(processes)} was killed by the system (signal {-process.exitcode}), perhaps for '
            'want of memory: use a smaller --batch-gpu, or fewer --gpus and --workers.'
            for index, process in enumerate(processes) if (process.exitcode or 0) < 0 and process.exitcode != -SIGTERM]


def _end_processes(processes):
    """After an interrupt: a terminal sends it to all processes, which then end by themselves; others are ended."""
    deadline = time.monotonic() + GRACE_SEC
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.terminate()
            process.join()


def _run_spawned(rank, function, size, device, folder, args):
    keep_freed_memory()
    _run(_noting_sentence, rank, size, rank, size, device, f'file://{folder}/rendezvous', (folder, function, args))


def _noting_sentence(world, folder, function, args):
    """Run the function; a sentence for the user crosses to the starting process as it is, not inside a traceback."""
    try:
        function(world, *args)
    except (ValueError, OSError) as error:
        sentence = error_sentence(error)
        if sentence is not None:
            Path(folder, f'sentence-{world.rank}').write_text(sentence, encoding='utf-8')
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
    torch.distributed.init_process_group(
        backend_for(device), init_method=rendezvous, rank=rank, world_size=size, timeout=LONGEST_WAIT)
    function(world, *args)
    # All leave together, or a process that is gone could disturb those that still write their last files. Not after an
    # error: leaving the group makes the others fail too, perhaps before this error is known.
    torch.distributed.barrier(device_ids=[device.index] if device.type == 'cuda' else None)
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


def sum_tensors(world, tensors):
    """Overwrite the tensors with their sums over the ranks."""
    if world.is_distributed:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def gather_to_main(world, tensor):
    """The tensors of all ranks, alike in shape and type, as a list in the order of ranks; [] but on the main one."""
    if not world.is_distributed:
        return [tensor]
    gathered = [torch.empty_like(tensor) for _ in range(world.size)] if world.is_main else None
    torch.distributed.gather(tensor.contiguous(), gathered, dst=0)
    return gathered or []


def gather_objects_to_main(world, value):
    """The picklable values of all ranks as a list in the order of ranks; [] but on the main one."""
    if not world.is_distributed:
        return [value]
    gathered = [None] * world.size if world.is_main else None
    torch.distributed.gather_object(value, gathered, dst=0)
    return gathered or []


@contextlib.contextmanager
def failing_together(world):
    """An error inside this block, on whichever rank, leaves it as an error on all: none waits for one that is gone.

    All ranks must enter. Those where all went well raise the sentence of the first one that failed as ValueError, or
    RuntimeError where it had none.
    """
    error = None
    try:
        yield
    except Exception as caught:
        if not world.is_distributed:
            raise
        error = caught
    if not world.is_distributed:
        return
    failed = torch.tensor(int(error is not None), device=world.device)
    torch.distributed.all_reduce(failed)
    if not failed:
        return
    sentence = error_sentence(error) if isinstance(error, (ValueError, OSError)) else None
    of_ranks = [None] * world.size
    torch.distributed.all_gather_object(
        of_ranks, None if error is None else (sentence, f'{type(error).__name__}: {error}'))
    if error is not None:
        raise error
    rank, (sentence, description) = next((rank, failure) for rank, failure in enumerate(of_ranks) if failure)
    if sentence is not None:
        raise ValueError(sentence)
    raise RuntimeError(f'rank {rank} failed with {description}')
