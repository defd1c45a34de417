"""The training state: everything that a run needs to go on as if it had never stopped, in one file.

`save` writes `training-state-<kimg>.pt` beside the network pickles; `load_newest` reads the newest sound one, `rewind`
takes back what was written to the run's files after it, and `restore` puts the state into freshly made parts. A state
is tensors, numbers and text in plain containers, so `torch.load(path, weights_only=True)` opens it.

Order is what makes any moment a good one to die: a state is written last, after everything that it counts as done, and
knows how long each appended file was then. What lies behind that length belongs to steps that are going to be repeated.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import platform
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dnnlib.files import atomic_file
from torch_utils import distributed, misc, training_stats
from torch_utils.distributed import World
from training.config import TrainingConfig

FORMAT = 1  # of the dict in the file: raise it when an older reader would misunderstand a newer one
_NAME = re.compile(r'training-state-(\d{6,})(?:\.(\d{3}))?\.pt')


class DamagedState(ValueError):
    """The file is no complete training state; the text says why."""


@dataclasses.dataclass
class Progress:
    """How far a run is, at the end of a batch."""

    cur_nimg: int = 0  # images shown, over all ranks
    batch_idx: int = 0
    tick: int = 0
    tick_start_nimg: int = 0
    tick_is_open: bool = False  # the tick is over and its snapshot written, but not its metrics and statistics


@dataclasses.dataclass
class Parts:
    """What changes in the course of a training, on one rank."""

    networks: dict[str, torch.nn.Module]  # G, D, G_ema
    optimizers: dict[str, torch.optim.Optimizer]  # of G and D
    loss: Any  # with state_dict and load_state_dict
    augment_pipe: torch.nn.Module | None
    ada: Any  # training.ada.AdaController, or None
    statistics: Any  # training.run.stats_writer.RunStatistics


def is_own(tensor_name: str) -> bool:
    """Whether a network's tensor is each rank's own: the running mean of W. All others are alike on all ranks."""
    return tensor_name.endswith('w_avg')


# ---------------------------------------------------------------------------------------------------------------------
# Random states


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all random generators that a training draws from, as plain data."""
    kind, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    of_numpy = [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached_gaussian]
    states = dict(torch=torch.get_rng_state(), numpy=of_numpy)
    if device.type != 'cpu':
        states[device.type] = getattr(torch, device.type).get_rng_state()
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_states`; a generator of another kind of device keeps its state."""
    kind, keys, position, has_gauss, cached_gaussian = states['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached_gaussian))
    torch.set_rng_state(states['torch'])
    if device.type in states:
        getattr(torch, device.type).set_rng_state(states[device.type])


# ---------------------------------------------------------------------------------------------------------------------
# Parts → dict → parts


def capture(world: World, config: TrainingConfig, parts: Parts, progress: Progress) -> dict[str, Any] | None:
    """Collective: the state as a dict, on the main rank; None elsewhere. Tensors are those in use, not copies."""
    of_ranks = distributed.gather_objects_to_main(world, _capture_own(world, parts))
    if not world.is_main:
        return None
    return {
        'format': FORMAT,
        'progress': dataclasses.asdict(progress),
        'networks': {
            name: {key: tensor.detach() for key, tensor in misc.named_params_and_buffers(module)}
            for name, module in parts.networks.items()
        },
        'optimizers': {name: optimizer.state_dict() for name, optimizer in parts.optimizers.items()},
        'augment_p': None if parts.augment_pipe is None else float(parts.augment_pipe.p),
        'ada': None if parts.ada is None else parts.ada.state_dict(),
        'statistics': parts.statistics.state_dict(),
        'totals': training_stats.totals(),
        'ranks': of_ranks,
        'environment': _environment(world),
        'config': config.to_json(),
    }


def _capture_own(world: World, parts: Parts) -> dict[str, Any]:
    """What is this rank's own."""
    return {
        'random': random_states(world.device),
        'means': {
            f'{name}/{key}': tensor.detach().cpu()
            for name, module in parts.networks.items()
            for key, tensor in misc.named_params_and_buffers(module)
            if is_own(key)
        },
        'loss': {key: tensor.detach().cpu() for key, tensor in parts.loss.state_dict().items()},
        'pending': training_stats.pending(),
    }


def restore(world: World, parts: Parts, state: dict[str, Any]) -> None:
    """Put a state into parts that were made for it, on every rank; the last thing to do before the training goes on.

    A rank that the state does not know keeps its random states and starts with the running means of the first one.
    What is large is taken out of the state, so that it does not fill the memory for the rest of the run.
    """
    networks, optimizers = state.pop('networks'), state.pop('optimizers')
    for name, module in parts.networks.items():
        _fill(name, module, networks[name])
    for name, optimizer in parts.optimizers.items():
        optimizer.load_state_dict(optimizers[name])
    if parts.augment_pipe is not None and state['augment_p'] is not None:
        parts.augment_pipe.p.fill_(state['augment_p'])
    of_ranks = state['ranks']
    own = of_ranks[world.rank] if world.rank < len(of_ranks) else of_ranks[0]
    for name, module in parts.networks.items():
        for key, tensor in misc.named_params_and_buffers(module):
            if is_own(key):
                tensor.copy_(own['means'][f'{name}/{key}'])
    parts.loss.load_state_dict(own['loss'])

    # What ranks that are gone had counted is taken over by those that are left.
    pending = [of_ranks[rank]['pending'] for rank in range(world.rank, len(of_ranks), world.size)]
    training_stats.set_state(state['totals'], pending, world.device)
    parts.statistics.load_state_dict(state['statistics'])
    if parts.ada is not None and state['ada'] is not None:
        parts.ada.load_state_dict(state['ada'])
    if world.rank < len(of_ranks):
        set_random_states(own['random'], world.device)


@torch.no_grad()
def _fill(name: str, module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own = dict(misc.named_params_and_buffers(module))
    for key in sorted(own.keys() | tensors.keys()):
        if key not in own or key not in tensors or own[key].shape != tensors[key].shape:
            raise ValueError(
                f'The training state does not fit its own options: {name} differs in {key}; it was written by another '
                'version of this program, so start from the network pickle instead (--resume=PKL).'
            )
        own[key].copy_(tensors[key])


def _environment(world: World) -> dict[str, Any]:
    """What else a result depends on, to the last bit."""
    on_cuda = world.device.type == 'cuda'
    return {
        'processes': world.size,
        'device': torch.cuda.get_device_name(world.device) if on_cuda else world.device.type,
        'threads of a process': torch.get_num_threads(),
        'PyTorch': str(torch.__version__),
        'NumPy': np.__version__,
        'machine': platform.platform(),
    }


def print_differences(world: World, state: dict[str, Any]) -> None:
    """Say where the run goes on in other circumstances, as its numbers will not be those it would have had."""
    now, before = _environment(world), state['environment']
    differing = [f'{name} {before[name]} -> {now[name]}' for name in now if before.get(name) != now[name]]
    if differing:
        print(f'The run goes on, though not to the same bits: {", ".join(differing)}')
    if now['processes'] > before['processes']:
        print(f'Processes from number {before["processes"]} on start with fresh random numbers.')


# ---------------------------------------------------------------------------------------------------------------------
# Files


def state_name(cur_nimg: int) -> str:
    """The thousands of images in the name have decimals unless they are whole, so that no two states share a name."""
    kimg, rest = divmod(cur_nimg, 1000)
    return f'training-state-{kimg:06d}' + (f'.{rest:03d}' if rest else '') + '.pt'


def list_states(run_dir: str | os.PathLike) -> list[Path]:
    """The training states of a run, newest first."""
    found = [(match, path) for path in Path(run_dir).iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda item: _cur_nimg(item[0]), reverse=True)]


def _cur_nimg(match: re.Match) -> int:
    return int(match[1]) * 1000 + int(match[2] or 0)


def save(
    world: World, run_dir: str | os.PathLike, config: TrainingConfig, parts: Parts, progress: Progress
) -> Path | None:
    """Collective, at the end of any batch: write the state, then delete all but the `config.keep_states` newest.

    Returns:
        The file on the main rank, None elsewhere.

    Raises:
        OSError: it cannot be written; the states from before are still there.
    """
    state = capture(world, config, parts, progress)
    if state is None:
        return None
    path = Path(run_dir) / state_name(progress.cur_nimg)
    state['files'] = _sync_appended_files(run_dir)
    with atomic_file(path, durable=True) as file:
        _write(state, file)
    states = list_states(run_dir)
    newest = states.index(path)  # what seems newer is damaged, or this run would have gone on from it
    for unneeded in states[:newest] + states[newest + config.keep_states :]:
        unneeded.unlink()
    return path


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # What ended the writing is hidden behind what torch.save then says about its unfinished archive.
        cause = error
        while cause is not None and not isinstance(cause, (OSError, KeyboardInterrupt)):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The state in a file. Raises DamagedState with a reason, or OSError where the file cannot be opened."""
    with open(path, 'rb') as file:
        _check_sums(file)  # torch.load does not
        file.seek(0)
        try:
            state = torch.load(file, map_location='cpu', weights_only=True)
            state_format = state['format']
        except (pickle.UnpicklingError, KeyError, TypeError) as error:
            raise DamagedState('it holds something else') from error
    if state_format != FORMAT:
        raise ValueError(
            f'{path} was written by another version of this program (format {state_format}, here {FORMAT}): go on with '
            'that version, or start from the network pickle (--resume=PKL).'
        )
    return state


def _check_sums(file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # whatever zipfile raises at damaged archives
        raise DamagedState(' '.join(str(error).split())[:100]) from error
    if broken is not None:
        raise DamagedState(f'checksum of {broken}')


def load_newest(run_dir: str | os.PathLike) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound state of a run and its content; newer ones, which are damaged, are named.

    None where the run has no state at all. Raises ValueError where all of them are damaged.
    """
    states = list_states(run_dir)
    for path in states:
        try:
            return path, read(path)
        except DamagedState as error:
            print(f'{path} is damaged ({error}) and left out.', flush=True)
    if states:
        raise ValueError(
            f'{run_dir} cannot be resumed, as all its training states are damaged: start from its last network pickle '
            '(--resume=PKL).'
        )
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Files that grow


def _appended_files(run_dir: str | os.PathLike) -> list[Path]:
    patterns = ('log.txt', 'stats.jsonl', 'metric-*.jsonl', 'events.out.tfevents.*')
    return sorted(path for pattern in patterns for path in Path(run_dir).glob(pattern))


def _sync_appended_files(run_dir: str | os.PathLike) -> dict[str, int]:
    """Length of each file by name; what was written so far is on the disk."""
    lengths = {}
    for path in _appended_files(run_dir):
        with open(path, 'r+b') as file:
            os.fsync(file.fileno())
            lengths[path.name] = os.fstat(file.fileno()).st_size
    return lengths


def rewind(run_dir: str | os.PathLike, lengths: dict[str, int]) -> None:
    """Take back the lines of ticks, and the events, that a run has written since its files had these lengths.

    Also goes what is left of files that a process was writing when it died. What else was logged stays, as do metrics
    that somebody has computed of a finished snapshot.
    """
    for path in _appended_files(run_dir):
        _cut(path, lengths.get(path.name, 0))
    for path in Path(run_dir).glob('.*.partial'):
        path.unlink(missing_ok=True)


def _cut(path: Path, length: int) -> None:
    with open(path, 'r+b') as file:
        size = file.seek(0, os.SEEK_END)
        if size <= length:
            return
        file.seek(length)
        kept = [line for line in file.read().splitlines(keepends=True) if _outlasts(path.name, line)]
        file.seek(length)
        file.write(b''.join(kept))
        file.truncate()
        size = file.tell()
    if size == 0 and path.name != 'log.txt':
        path.unlink()


def _outlasts(file_name: str, line: bytes) -> bool:
    """Whether a line stays although the steps after which it was written are repeated."""
    if not line.endswith(b'\n'):
        return False
    if file_name == 'log.txt':
        return not line.startswith(b'tick ')
    return file_name.startswith('metric-') and not _is_of_training(line)


def _is_of_training(line: bytes) -> bool:
    try:
        return bool(json.loads(line).get('in_training'))
    except (ValueError, AttributeError):
        return True
