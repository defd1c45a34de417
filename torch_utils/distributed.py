"""Processes and ranks: one launcher for training and metrics, and the few collectives they need.

A script calls `launch(function, num_processes, device, *args)`; `function(world, *args)` then runs
once per process with a `World` that says who it is. Started by `torchrun`, the processes are
already there and `launch` joins them. NCCL on CUDA, gloo elsewhere.
"""

import contextlib
import dataclasses
import datetime
import logging
import multiprocessing.connection
import os
import pickle
import tempfile
import time
from pathlib import Path

import click
import torch

from dnnlib import signals
from dnnlib.cli import error_sentence
from dnnlib.machine import keep_freed_memory

GRACE_SEC = 10  # For the other processes to end by themselves after an interrupt, or after one of them has failed.
SETTLING_SEC = 0.2  # For threads of a process that is about to end.
PASS_ON_SEC = 0.25  # Between two looks of the starting process at the signals that it got.

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
    """Name of what carries the collectives between processes that work on `device` (or its name).

    On CUDA gloo serves tensors on the CPU: ranks can agree on something without a wait for their GPUs.
    """
    return 'cpu:gloo,cuda:nccl' if torch.device(device).type == 'cuda' else 'gloo'


def _check_environment():
    """Raise click.UsageError where a launcher's variables are incomplete or contradict each other."""
    values = {}
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        text = os.environ.get(name, '0' if name == 'LOCAL_RANK' else os.environ['WORLD_SIZE'])
        if not text.isdecimal():
            raise click.UsageError(
                f'The environment has {name}={text!r}, which is no number: start with torchrun, '
                'or unset WORLD_SIZE and RANK.'
            )
        values[name] = int(text)
    for rank, size in (('RANK', 'WORLD_SIZE'), ('LOCAL_RANK', 'LOCAL_WORLD_SIZE')):
        if values[rank] >= values[size]:
            raise click.UsageError(
                f'The environment has {rank}={values[rank]}, which must be below '
                f'{size}={values[size]}: start with torchrun, or unset WORLD_SIZE and RANK.'
            )
    missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing and values['WORLD_SIZE'] > 1:
        raise click.UsageError(
            f'The environment has WORLD_SIZE={values["WORLD_SIZE"]}, but no {missing[0]}: start '
            'with torchrun, or unset WORLD_SIZE and RANK.'
        )


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
            param_hint="'--gpus'",
        )
    num_processes = started or gpus or 1
    here = processes_on_this_machine(num_processes)
    if device.type == 'cuda' and here > torch.cuda.device_count():
        raise click.BadParameter(
            f'{here} processes need a CUDA device each, but this machine has {torch.cuda.device_count()}: '
            'ask for fewer, or add --device=cpu.',
            param_hint="'--gpus'",
        )
    if num_processes > 1 and (device.type == 'mps' or device.index is not None):
        raise click.BadParameter(
            f'{device} is one device, which {num_processes} processes cannot share: use --gpus=1, cuda or cpu.',
            param_hint="'--device'",
        )
    return num_processes


class PeerLostError(RuntimeError):
    """A collective failed because another process is gone: a consequence of what that one met."""


def launch(function, num_processes, device, *args, heeds_signals=False):
    """Run `function(world, *args)` in `num_processes` processes and wait for all of them; returns what it returns.

    Where one of the processes fails, the others are ended within `GRACE_SEC`.

    Args:
        function: Importable function. What it returns on the main rank comes back, on its rank under `torchrun`.
        num_processes: Started by this call, unless `torchrun` did.
        device: 'cuda', 'cuda:N', 'mps' or 'cpu'. Several processes on CUDA take one device each.
        *args: Picklable arguments.
        heeds_signals: Whether the function has a `signals.SignalWatch`: the requests that the starting process gets are
            passed on to it. Otherwise an interrupt of the starting process ends all.

    Raises:
        ValueError: with the sentence of a user's mistake that a process met, or where a process was killed.
        torch.multiprocessing.ProcessRaisedException: for any other error of a started process.
        SystemExit: a signal has stopped the processes in the middle of something.
    """
    if under_torchrun():
        local_rank, local_size = int(os.environ.get('LOCAL_RANK', 0)), processes_on_this_machine(num_processes)
        rank, size = int(os.environ['RANK']), num_processes_of_torchrun()
        try:
            return _run(function, rank, size, local_rank, local_size, device, 'env://', args)
        except PeerLostError as error:
            raise ValueError(
                f'Process {rank} of {size} stops, as another one is gone: see what that one says.'
            ) from error
    if num_processes == 1:
        return _run(function, 0, 1, None, 1, device, None, args)
    return _spawn(function, num_processes, device, args, heeds_signals)


def _spawn(function, num_processes, device, args, heeds_signals):
    spawn = torch.multiprocessing.spawn
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_errors_only('torch.multiprocessing.spawn'))
        watch = stack.enter_context(signals.SignalWatch(announce=True)) if heeds_signals else None
        with signals.ignored() if heeds_signals else contextlib.nullcontext():
            context = spawn(_run_spawned, (function, num_processes, device, folder, args), num_processes, join=False)
        grace_sec = 0 if heeds_signals else GRACE_SEC  # An interrupt that gets through insists.
        try:
            _wait_for(context.processes, watch)
            grace_sec = GRACE_SEC
        finally:
            ended_here = _end_processes(context.processes, grace_sec)
        _raise_what_failed(context, Path(folder), ended_here)
        return pickle.loads(Path(folder, 'result').read_bytes())


def _wait_for(processes, watch):
    """Until all have ended or one has failed, pass on the requests that `watch` (None: no watch) sees."""
    while alive := [process for process in processes if process.is_alive()]:
        if any(process.exitcode for process in processes):
            return
        multiprocessing.connection.wait(
            [process.sentinel for process in alive], timeout=None if watch is None else PASS_ON_SEC
        )
        request = signals.Request.NONE if watch is None else watch.take()
        if request == signals.Request.SAVE:
            _send(alive[:1], signals.SAVE_SIGNALS)
        elif request == signals.Request.STOP:
            _send(alive, signals.STOP_SIGNALS[-1:])  # Again and again: one that just starts still ignores it.


def _send(processes, numbers):
    for process in processes:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _raise_what_failed(context, folder, ended_here):
    """The error of the first process that failed by itself: not of one that failed of that, or that was ended here."""
    processes = context.processes
    failed = [index for index, process in enumerate(processes) if process.exitcode and index not in ended_here]
    causes = [index for index in failed if not (folder / f'peer-lost-{index}').exists()] or failed
    if not causes:
        return
    if any(process.exitcode == signals.STOPPED_STATUS for process in processes):
        raise SystemExit(signals.STOPPED_STATUS)
    for index in causes:
        note = folder / f'sentence-{index}'
        if note.exists():
            raise ValueError(note.read_text(encoding='utf-8'))
        if processes[index].exitcode < 0:
            raise ValueError(_sentence_of_killed(index, processes))
    context.sentinels = {processes[causes[0]].sentinel: causes[0]}
    context.join()


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


def _sentence_of_killed(index, processes):
    number = -processes[index].exitcode
    return (
        f'Process {index} of {len(processes)} was killed by the system (signal {number}), perhaps for want of '
        'memory: use a smaller --batch-gpu, or fewer --gpus and --workers.'
    )


def _end_processes(processes, grace_sec):
    """After an interrupt or a failure: wait for all processes to end, and end those that do not; returns which."""
    deadline = time.monotonic() + grace_sec
    ended = set()
    for index, process in enumerate(processes):
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            ended.add(index)
            process.kill()  # SIGTERM may be a request to the process, which waits for one that is gone.
            process.join()
    return ended


def _run_spawned(rank, function, size, device, folder, args):
    """Run the function; its result, or a sentence for the user, crosses to the starting process through the folder."""
    keep_freed_memory()
    folder = Path(folder)
    note = folder / f'sentence-{rank}'
    try:
        result = _run(function, rank, size, rank, size, device, f'file://{folder}/rendezvous', args)
        if rank == 0:
            (folder / 'result').write_bytes(pickle.dumps(result))
    except PeerLostError:
        (folder / f'peer-lost-{rank}').touch()
        raise
    except KeyboardInterrupt:  # Left alone it would look like success.
        note.write_text(f'Process {rank} of {size} was interrupted.', encoding='utf-8')
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        sentence = error_sentence(error)
        if sentence is not None:
            note.write_text(sentence, encoding='utf-8')
        raise


@contextlib.contextmanager
def _settling():
    """Leave this context a moment later than asked for.

    Gloo's threads need the interpreter once more, to let go of the tensors of the last collectives. One that asks for
    it when the process already tears it down aborts the process: "terminate called without an active exception".
    """
    try:
        yield
    finally:
        time.sleep(SETTLING_SEC)


@contextlib.contextmanager
def _peer_loss_named():
    """What collectives raise when another process is gone becomes a PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or '/gloo/' in str(error):
            signals.ignore_sigterm_from_here_on()  # A launcher that sees the other one gone sends SIGTERM.
            raise PeerLostError(str(error)) from error
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
        return function(world, *args)
    with _settling(), _peer_loss_named():
        torch.distributed.init_process_group(
            backend_for(device), init_method=rendezvous, rank=rank, world_size=size, timeout=LONGEST_WAIT
        )
        result = function(world, *args)
        # All leave together, or a process that is gone could disturb those that still write their last files. Not after
        # an error: leaving the group makes the others fail too, perhaps before this error is known.
        torch.distributed.barrier(device_ids=[device.index] if device.type == 'cuda' else None)
        torch.distributed.destroy_process_group()
        return result


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
    """Replace gradients by their mean over the ranks, and non-finite entries by finite ones; returns if there were any.

    NaN → 0 and ±inf → ±1e5. One flat all-reduce: every rank must have gradients for the same
    parameters; those without are left alone. What is returned is a tensor, 0 or 1, alike on all ranks.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros([])
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    if world.is_distributed:
        torch.distributed.all_reduce(flat)
        flat /= world.size
    nonfinite = 1 - flat.isfinite().all().to(torch.float32)
    torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
    for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(piece.view_as(gradient))
    return nonfinite


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


def largest_over_ranks(world, number):
    """The largest of the whole numbers of all ranks; the CPUs wait for each other, not for their GPUs."""
    if not world.is_distributed:
        return number
    largest = torch.tensor(number)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


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
        of_ranks, None if error is None else (sentence, f'{type(error).__name__}: {error}')
    )
    if error is not None:
        raise error
    rank, (sentence, description) = next((rank, failure) for rank, failure in enumerate(of_ranks) if failure)
    if sentence is not None:
        raise ValueError(sentence)
    raise RuntimeError(f'rank {rank} failed with {description}')
