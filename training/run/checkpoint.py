"""Training states: everything that a run needs to continue as if it had never stopped, in one file.

`save` writes `training-state-<kimg>.pt` beside the network pickles; `load_newest` reads the newest intact one, and
`Checkpoint.restore` transfers it to a newly constructed run. A training state consists of tensors, numbers and text in
plain containers, so `torch.load(path, weights_only=True)` opens it. It is read without executing anything, and checked
against `training.run.state_schema`, because it may come from somebody else.

A run can be killed at any moment, because a training state is written last, after everything that it counts as done.
It also records how long each appended file was at that time: whatever comes after that belongs to steps that are going
to be repeated (`training.run.appended_files`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dnnlib.files import atomic_file
from dnnlib.schema import shown
from dnnlib.text import excerpt, message_line
from network_files import tensor_archives
from torch_utils import distributed, misc, training_stats
from torch_utils.distributed import World
from training.config import TrainingConfig
from training.run import appended_files, state_schema
from training.run.run_dir import RunDir
from training.run.state import Counters, TrainingRun

FORMAT = 1  # of the dict in the file: increase it when an older reader would misunderstand a newer file


class DamagedState(ValueError):
    """A file that is not a complete training state; the message gives the reason."""


def is_per_rank(tensor_name: str) -> bool:
    """Return whether each rank has its own value of a network's tensor, as for the running means of a generator.

    All other tensors are equal on all ranks.
    """
    return tensor_name.endswith(('w_avg', 'magnitude_ema'))


# ---------------------------------------------------------------------------------------------------------------------
# Run → checkpoint → run


class Checkpoint:
    """The state of a run at the end of a batch, as the dict that is in the file.

    Attributes:
        content: Plain data; the keys are in `capture`, and `files` has the lengths of the appended files.
    """

    def __init__(self, content: dict[str, Any]):
        self.content = content

    @classmethod
    def capture(cls, run: TrainingRun) -> Checkpoint | None:
        """Collective: return the state of a run on the main rank, None on the others. Tensors are not copied."""
        per_rank = distributed.gather_objects_to_main(run.world, _capture_rank(run))
        if not run.world.is_main:
            return None
        return cls(
            {
                'format': FORMAT,
                'progress': dataclasses.asdict(run.counters),
                'networks': {
                    name: {key: tensor.detach() for key, tensor in misc.named_params_and_buffers(module)}
                    for name, module in run.networks.items()
                },
                'optimizers': {name: optimizer.state_dict() for name, optimizer in run.optimizers.items()},
                'augment_p': None if run.augment_pipe is None else run.augment_p,
                'ada': None if run.ada is None else run.ada.state_dict(),
                'apa': None if run.apa is None else {**run.apa.state_dict(), 'p': float(run.apa.augment_pipe.p)},
                'validation': None if run.validation is None else run.validation.state_dict(),
                'shared_loss': run.loss.shared_state_dict(),
                'averages': None if run.averages is None else run.averages.state_dict(),
                'statistics': run.statistics.state_dict(),
                'totals': training_stats.totals(),
                'ranks': per_rank,
                'environment': _environment(run.world),
                'config': run.config.to_json(),
            }
        )

    def restore(self, run: TrainingRun) -> None:
        """Transfer the state to a newly constructed run, on every rank, as the last step before training continues.

        A rank that the state does not know keeps its random states and starts with the running means of rank 0. The
        networks and optimizers are removed from this object, so that they do not occupy memory for the rest of the run.

        Raises:
            ValueError: The tensors in the state differ from those of the run.
        """
        networks, optimizers = self.content.pop('networks'), self.content.pop('optimizers')
        with _differences_explained():
            for name, module in run.networks.items():
                _copy_tensors(name, module, networks[name])
            for name, optimizer in run.optimizers.items():
                _load_optimizer(name, optimizer, optimizers[name]['state'])
            if run.augment_pipe is not None and self.content['augment_p'] is not None:
                run.augment_pipe.p.fill_(self.content['augment_p'])
            self._restore_averages(run)
            shared = self.content.pop('shared_loss', {})
            state_schema.check_tensors('shared_loss', shared, run.loss.shared_state_dict().items())
            run.loss.load_shared_state_dict(shared)
            own = self._restore_rank(run)

            # The remaining ranks take on what those that no longer exist had counted.
            per_rank, rank = self.content['ranks'], run.world.rank
            pending = [per_rank[other]['pending'] for other in range(rank, len(per_rank), run.world.size)]
            training_stats.set_state(self.content['totals'], pending, run.world.device)
            run.statistics.load_state_dict(self.content['statistics'])
            if run.ada is not None and self.content['ada'] is not None:
                run.ada.load_state_dict(self.content['ada'])
            if run.validation is not None and self.content.get('validation') is not None:
                run.validation.load_state_dict(self.content['validation'])
            if run.apa is not None:
                if self.content.get('apa') is None:
                    raise ValueError('it has no strength of the pseudo augmentation')
                run.apa.load_state_dict(self.content['apa'])
                run.apa.augment_pipe.p.fill_(self.content['apa']['p'])
                run.apa.on_change()
            if rank < len(per_rank):
                set_random_states(own['random'], run.world.device)

    def _restore_averages(self, run: TrainingRun) -> None:
        stored = self.content.pop('averages', None)
        if run.averages is None:
            return
        if stored is None:
            raise ValueError('it has no averages of the generator')
        state_schema.check_tensors('averages', stored, run.averages.state_dict().items())
        run.averages.load_state_dict(stored)

    def _restore_rank(self, run: TrainingRun) -> dict[str, Any]:
        """Restore what belongs to this rank except for its random states, and return its part of the state."""
        per_rank, rank = self.content['ranks'], run.world.rank
        own = per_rank[rank] if rank < len(per_rank) else per_rank[0]
        state_schema.check_tensors('means', own['means'], _per_rank_tensors(run))
        for name, tensor in _per_rank_tensors(run):
            tensor.copy_(own['means'][name])
        state_schema.check_tensors('loss', own['loss'], run.loss.state_dict().items())
        run.loss.load_state_dict(own['loss'])
        return own

    def counters(self) -> Counters:
        """Return how far the run had come."""
        return Counters(**self.content['progress'])

    def check_progress(self, path: Path, config: TrainingConfig) -> None:
        """Check that the counters of the state fit each other.

        Raises:
            ValueError: They do not.
        """
        counters = self.counters()
        if counters.cur_nimg != counters.batch_idx * config.batch_size:
            raise ValueError(
                f'{path} is of {counters.cur_nimg} images, which are not its {counters.batch_idx} batches of '
                f'{config.batch_size}: it has been edited, or is of another run. Delete it, or start from the network '
                'pickle instead (--resume=PKL).'
            )

    def print_differences(self, world: World) -> None:
        """Print what differs from the environment that the state was written in, since results will differ too."""
        now, before = _environment(world), self.content['environment']
        changes = [
            f'{name} {excerpt(before.get(name, "unknown"), 80)} -> {now[name]}'
            for name in now
            if before.get(name) != now[name]
        ]
        if changes:
            print(f'The run continues, but its results will not be bit-identical: {", ".join(changes)}')
        if now['processes'] > before['processes']:
            print(f'Processes from number {before["processes"]} on start with fresh random numbers.')


def _capture_rank(run: TrainingRun) -> dict[str, Any]:
    """Return the part of the state that belongs to this rank alone."""
    return {
        'random': random_states(run.world.device),
        'means': {name: tensor.detach().cpu() for name, tensor in _per_rank_tensors(run)},
        'loss': {key: tensor.detach().cpu() for key, tensor in run.loss.state_dict().items()},
        'pending': training_stats.pending(),
    }


def _per_rank_tensors(run: TrainingRun) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in run.networks.items():
        for key, tensor in misc.named_params_and_buffers(module):
            if is_per_rank(key):
                yield f'{name}/{key}', tensor


@contextlib.contextmanager
def _differences_explained() -> Iterator[None]:
    """Within this context, a state that does not fit the run is one sentence."""
    try:
        yield
    except (ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise ValueError(
            f'The training state does not match its own options: {excerpt(error).rstrip(".")}. Another version of this '
            'program has written it, or it has been edited; start from the network pickle instead (--resume=PKL).'
        ) from error


@torch.no_grad()
def _copy_tensors(name: str, module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    state_schema.check_tensors(name, tensors, misc.named_params_and_buffers(module))
    for key, tensor in misc.named_params_and_buffers(module):
        tensor.copy_(tensors[key])


def _load_optimizer(name: str, optimizer: torch.optim.Optimizer, state: dict[int, dict[str, torch.Tensor]]) -> None:
    """Restore the moments of Adam. Its settings are those of the run, whatever the state says."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    for index, moments in state.items():
        if index >= len(parameters):
            raise ValueError(f'the optimizer of {name} has {len(parameters)} parameters, but the state has more')
        like = [(key, parameters[index]) for key in ('exp_avg', 'exp_avg_sq')]
        where = f'the optimizer of {name}, parameter {index}'
        state_schema.check_tensors(where, {key: moments[key] for key in moments if key != 'step'}, like)
        state_schema.STEP.check(moments.get('step'), f'{where}.step')
    optimizer.load_state_dict({'state': state, 'param_groups': optimizer.state_dict()['param_groups']})


def _environment(world: World) -> dict[str, Any]:
    """Return what else the results depend on, down to the last bit."""
    on_cuda = world.device.type == 'cuda'
    return {
        'processes': world.size,
        'device': torch.cuda.get_device_name(world.device) if on_cuda else world.device.type,
        'threads of a process': torch.get_num_threads(),
        'PyTorch': str(torch.__version__),
        'NumPy': np.__version__,
        'machine': platform.platform(),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Random states


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all random generators that training draws from, as plain data."""
    kind, keys, position, has_gauss, cached_gaussian = np.random.get_state(legacy=True)
    numpy_state = [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached_gaussian]
    states = dict(torch=torch.get_rng_state(), numpy=numpy_state)
    if device.type != 'cpu':
        states[device.type] = getattr(torch, device.type).get_rng_state()
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_states` returned. The generator of a device of another type keeps its state."""
    kind, keys, position, has_gauss, cached_gaussian = states['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached_gaussian))
    torch.set_rng_state(states['torch'])
    if device.type in states:
        getattr(torch, device.type).set_rng_state(states[device.type])


# ---------------------------------------------------------------------------------------------------------------------
# Files


def save(run: TrainingRun) -> Path | None:
    """Collective, at the end of a batch: write the training state, then delete all but the `keep_states` newest.

    Returns:
        The file on the main rank, None on the others.

    Raises:
        OSError: The file cannot be written. Earlier states are unchanged.
    """
    checkpoint = Checkpoint.capture(run)
    if checkpoint is None:
        return None
    path = Path(run.run_dir.training_state(run.counters.cur_nimg))
    checkpoint.content['files'] = appended_files.flush(run.run_dir)
    with atomic_file(path, durable=True) as file:
        _write(checkpoint.content, file)
    states = run.run_dir.training_states()
    newest = states.index(path)  # those that seem newer are damaged, or this run would have resumed from them
    for outdated in states[:newest] + states[newest + run.config.keep_states :]:
        outdated.unlink()
    return path


def _write(content: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch.save complains about its unfinished archive, which hides the error that interrupted it.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (OSError, KeyboardInterrupt)):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None


def read(path: str | os.PathLike) -> Checkpoint:
    """Read a training state.

    Raises:
        DamagedState: The file is not a complete training state.
        ValueError: Another version of this program has written it.
        OSError: The file cannot be opened.
    """
    try:
        content = tensor_archives.load(path)
    except tensor_archives.DamagedArchive as error:
        raise DamagedState(str(error)) from error
    content_format = content.get('format') if isinstance(content, dict) else None
    if not isinstance(content_format, int):
        raise DamagedState('it is not a training state')
    if content_format != FORMAT:
        raise ValueError(
            f'{path} was written by another version of this program (format {shown(content_format)}, here {FORMAT}). '
            'Resume with that version, or start from the network pickle (--resume=PKL).'
        )
    try:
        state_schema.check_content(content)
    except ValueError as error:
        raise DamagedState(str(error).rstrip('.')) from error
    return Checkpoint(content)


def load_newest(run_dir: RunDir) -> tuple[Path, Checkpoint] | None:
    """Return the newest intact training state of a run with its file, or None if the run has no state at all.

    Prints the names of newer ones that are damaged.

    Raises:
        ValueError: All states are damaged.
    """
    states = run_dir.training_states()
    for path in states:
        try:
            checkpoint = read(path)
            name = os.path.basename(run_dir.training_state(checkpoint.counters().cur_nimg))
            if path.name != name:
                raise DamagedState(f'its content belongs into {name}')
            return path, checkpoint
        except DamagedState as error:
            print(f'{path} is damaged ({message_line(error)}) and will be ignored.', flush=True)
    if states:
        raise ValueError(
            f'{run_dir.path} cannot be resumed, because all its training states are damaged: start from its last '
            'network pickle (--resume=PKL).'
        )
    return None
