"""Start the processes of training and metrics, on one machine or under `torchrun`.

A script calls `launch(function, num_processes, device, *args)`; `function(world, *args)` then runs once per process,
with a `torch_utils.distributed.World` that tells which one it is. Under `torchrun` the processes exist already, and
`launch` joins them. The backend is NCCL on CUDA and gloo elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import multiprocessing.connection
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dnnlib import signals
from dnnlib.errors import InvalidArgument, error_sentence
from dnnlib.machine import keep_freed_memory
from dnnlib.scratch import scratch_folder
from dnnlib.streams import protect_standard_streams
from dnnlib.terminal import clean_output
from dnnlib.text import ESCAPED
from torch_utils.distributed import World

GRACE_SEC = 10  # for the other processes to end by themselves after an interrupt or a failure
SETTLING_SEC = 0.2  # for the threads of a process that is about to end
PASS_ON_SEC = 0.25  # interval at which the starting process passes on the signals it has received

# How long a rank waits for the others: rank 0 alone computes the values of large metrics.
LONGEST_WAIT = datetime.timedelta(hours=6)

# ---------------------------------------------------------------------------------------------------------------------
# Number of processes


def under_torchrun() -> bool:
    """Return whether `torchrun`, or another launcher with the same environment, started this process."""
    return 'WORLD_SIZE' in os.environ and 'RANK' in os.environ


def num_processes_of_torchrun() -> int | None:
    """Return the number of processes that the launcher has started, or None without a launcher."""
    return int(os.environ['WORLD_SIZE']) if under_torchrun() else None


def is_first_process() -> bool:
    """Return whether this process prints and validates, before `launch` has assigned ranks."""
    return not under_torchrun() or os.environ['RANK'] == '0'


def processes_on_this_machine(num_processes: int) -> int:
    """Return how many of the `num_processes` of a run are on this machine."""
    return int(os.environ.get('LOCAL_WORLD_SIZE', num_processes)) if under_torchrun() else num_processes


def number_of_machines() -> int:
    """Return the number of machines that `torchrun` connects; 1 without it."""
    return int(os.environ.get('GROUP_WORLD_SIZE', 1)) if under_torchrun() else 1


def backend_for(device: torch.device | str) -> str:
    """Return the backend of collectives between processes that work on `device`.

    On CUDA, gloo handles tensors on the CPU, so that ranks can agree on something without waiting for their GPUs.
    """
    return 'cpu:gloo,cuda:nccl' if torch.device(device).type == 'cuda' else 'gloo'


def number_of_processes(gpus: int | None, device: torch.device) -> int:
    """Return the number of processes of a run.

    Args:
        gpus: Requested number, or None for as many as `torchrun` has started, else 1.
        device: Device of the run.

    Raises:
        InvalidArgument: Argument 'gpus' or 'device': this machine does not have enough devices, or the environment
            variables of the launcher are incomplete or contradict each other.
    """
    if under_torchrun():
        _check_environment()
    started = num_processes_of_torchrun()
    if started is not None and gpus is not None and gpus != started:
        raise InvalidArgument(
            'gpus', f'{gpus} disagrees with torchrun, which started {started} processes: remove the option.'
        )
    num_processes = started or gpus or 1
    here = processes_on_this_machine(num_processes)
    if device.type == 'cuda' and here > torch.cuda.device_count():
        raise InvalidArgument(
            'gpus',
            f'{here} processes need a CUDA device each, but this machine has {torch.cuda.device_count()}: '
            'use fewer, or add --device=cpu.',
        )
    if num_processes > 1 and (device.type == 'mps' or device.index is not None):
        raise InvalidArgument(
            'device',
            f'{device} is one device, which {num_processes} processes cannot share: use --gpus=1, cuda or cpu.',
        )
    return num_processes


def _check_environment() -> None:
    """Raise InvalidArgument if a launcher's variables are incomplete or contradict each other."""
    values = {}
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        text = os.environ.get(name, '0' if name == 'LOCAL_RANK' else os.environ['WORLD_SIZE'])
        if not text.isdecimal():
            raise InvalidArgument(
                'gpus',
                f'the environment variable {name} is {text!r}, but must be a number: start with torchrun, or unset '
                'WORLD_SIZE and RANK.',
            )
        values[name] = int(text)
    for rank, size in (('RANK', 'WORLD_SIZE'), ('LOCAL_RANK', 'LOCAL_WORLD_SIZE')):
        if values[rank] >= values[size]:
            raise InvalidArgument(
                'gpus',
                f'the environment variable {rank} is {values[rank]}, but must be less than {size}={values[size]}: '
                'start with torchrun, or unset WORLD_SIZE and RANK.',
            )
    missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing and values['WORLD_SIZE'] > 1:
        raise InvalidArgument(
            'gpus',
            f'the environment variable WORLD_SIZE is {values["WORLD_SIZE"]}, but {missing[0]} is not set: start with '
            'torchrun, or unset WORLD_SIZE and RANK.',
        )


# ---------------------------------------------------------------------------------------------------------------------
# Launching


class PeerLostError(RuntimeError):
    """A collective that failed because another process is gone; the cause is in that process."""


def launch(
    function: Callable[..., Any], num_processes: int, device: str, *args: Any, handles_signals: bool = False
) -> Any:
    """Run `function(world, *args)` in several processes, wait for all of them, and return the result.

    If one of the processes fails, the others are ended within `GRACE_SEC`.

    Args:
        function: Importable function. The main rank's result is returned; under `torchrun`, each rank returns its own.
        num_processes: Number of processes; they are started by this call, unless `torchrun` has done so.
        device: 'cuda', 'cuda:N', 'mps' or 'cpu'. Several processes on CUDA use one device each.
        *args: Picklable arguments.
        handles_signals: Whether the function uses a `signals.SignalWatch`: the requests that the starting process gets
            are passed on to it. Otherwise an interrupt of the starting process ends all.

    Raises:
        ValueError: The message of a user's mistake in one of the processes, or a process was killed.
        torch.multiprocessing.ProcessRaisedException: Any other error in a started process.
        SystemExit: A signal has stopped the processes in the middle of something.
    """
    if under_torchrun():
        local_rank, local_size = int(os.environ.get('LOCAL_RANK', 0)), processes_on_this_machine(num_processes)
        rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
        try:
            return _run(function, World(rank, size, torch.device(device)), local_rank, local_size, 'env://', args)
        except PeerLostError as error:
            raise ValueError(
                f'Process {rank} of {size} stops because another process has ended: see the message of that one.'
            ) from error
    if num_processes == 1:
        return _run(function, World(0, 1, torch.device(device)), None, 1, '', args)
    return _spawn(function, num_processes, device, args, handles_signals)


def _spawn(
    function: Callable[..., Any], num_processes: int, device: str, args: Sequence[Any], handles_signals: bool
) -> Any:
    spawn = torch.multiprocessing.spawn
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder('launch'))
        stack.enter_context(_errors_only('torch.multiprocessing.spawn'))
        watch = stack.enter_context(signals.SignalWatch(announce=True)) if handles_signals else None
        with signals.ignored() if handles_signals else contextlib.nullcontext():
            context: Any = spawn(
                _run_spawned, (function, num_processes, device, str(folder), args), num_processes, join=False
            )
        grace_sec = 0 if handles_signals else GRACE_SEC  # an interrupt that gets through is a repeated one
        try:
            _wait_for(context.processes, watch)
            grace_sec = GRACE_SEC
        finally:
            ended_here = _end_processes(context.processes, grace_sec)
        _raise_first_failure(context, folder, ended_here)
        return pickle.loads((folder / 'result').read_bytes())


def _wait_for(processes: Sequence[Any], watch: signals.SignalWatch | None) -> None:
    """Pass on the requests that `watch` receives, until all processes have ended or one has failed."""
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
            _send(alive, signals.STOP_SIGNALS[-1:])  # repeatedly, since a process that is starting ignores it


def _send(processes: Sequence[Any], numbers: Sequence[int]) -> None:
    for process in processes:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _raise_first_failure(context: Any, folder: Path, ended_here: set[int]) -> None:
    """Raise the error of the first process that failed by itself, not as a consequence, and was not ended here."""
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
            raise ValueError(_message_about_killed(index, processes))
    context.sentinels = {processes[causes[0]].sentinel: causes[0]}
    context.join()


@contextlib.contextmanager
def _errors_only(logger_name: str) -> Iterator[None]:
    """Silence a logger below errors: it would report that the other processes are ended after one has failed."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _message_about_killed(index: int, processes: Sequence[Any]) -> str:
    number = -processes[index].exitcode
    return (
        f'Process {index} of {len(processes)} was killed by the system (signal {number}), perhaps because memory ran '
        'out: use a smaller --batch-gpu, or fewer --gpus and --workers.'
    )


def _end_processes(processes: Sequence[Any], grace_sec: float) -> set[int]:
    """Wait for all processes to end after an interrupt or a failure, kill those that do not, and return which."""
    deadline = time.monotonic() + grace_sec
    killed = set()
    for index, process in enumerate(processes):
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            killed.add(index)
            process.kill()  # SIGTERM could be a request to the process, which waits for another one that is gone
            process.join()
    return killed


def _run_spawned(
    rank: int, function: Callable[..., Any], size: int, device: str, folder_name: str, args: Sequence[Any]
) -> None:
    """Run the function; its result, or a message for the user, reaches the starting process through the folder."""
    keep_freed_memory()
    protect_standard_streams()
    folder = Path(folder_name)
    note = folder / f'sentence-{rank}'
    try:
        world = World(rank, size, torch.device(device))
        with clean_output():
            result = _run(function, world, rank, size, f'file://{folder}/rendezvous', args)
        if rank == 0:
            (folder / 'result').write_bytes(pickle.dumps(result))
    except PeerLostError:
        (folder / f'peer-lost-{rank}').touch()
        raise
    except KeyboardInterrupt:  # otherwise it would look like success
        note.write_text(f'Process {rank} of {size} was interrupted.', encoding='utf-8')
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        message = error_sentence(error)
        if message is not None:
            note.write_text(message, encoding='utf-8', errors=ESCAPED)
        raise


@contextlib.contextmanager
def _settling() -> Iterator[None]:
    """Leave this context with a short delay.

    Gloo's threads need the interpreter once more, to release the tensors of the last collectives. A thread that does so
    while the process is shutting down aborts it: "terminate called without an active exception".
    """
    try:
        yield
    finally:
        time.sleep(SETTLING_SEC)


@contextlib.contextmanager
def _peer_loss_detected() -> Iterator[None]:
    """Convert the errors that collectives raise when another process is gone to PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or '/gloo/' in str(error):
            signals.ignore_sigterm()  # a launcher that notices the other process sends SIGTERM
            raise PeerLostError(str(error)) from error
        raise


def _run(
    function: Callable[..., Any],
    world: World,
    local_rank: int | None,
    local_size: int,
    rendezvous: str,
    args: Sequence[Any],
) -> Any:
    device = world.device
    if device.type == 'cuda':
        if local_rank is not None and world.is_distributed:
            device = torch.device('cuda', local_rank)
        torch.cuda.set_device(device)
    elif local_size > 1 and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))

    world = dataclasses.replace(world, device=device)
    if not world.is_distributed:
        return function(world, *args)
    with _settling(), _peer_loss_detected():
        torch.distributed.init_process_group(
            backend_for(device),
            init_method=rendezvous,
            rank=world.rank,
            world_size=world.size,
            timeout=LONGEST_WAIT,
        )
        result = function(world, *args)
        # All ranks leave together, since one that leaves early could disturb others that still write their last files.
        # Skipped after an error: leaving the group makes the others fail too, perhaps before this error is known.
        torch.distributed.barrier(device_ids=[device.index] if device.type == 'cuda' else None)
        torch.distributed.destroy_process_group()
        return result
