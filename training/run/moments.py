"""Adam's moments for a run that starts from networks of another one: from the training state beside the network file.

A parameter takes the moments of the parameter with the same name, if that has the same shape. Others start without.
"""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from dnnlib.errors import InvalidArgument
from dnnlib.util import is_url
from network_files.changes.architectures import canonical_names
from network_files.snapshots import kimg_of
from torch_utils import distributed
from training.config import TrainingConfig
from training.freezing import trainable_parameters
from training.run import checkpoint, state_schema
from training.run.run_dir import RunDir
from training.run.state import TrainingRun
from training.transfer import open_pretrained

_NAMES = ('exp_avg', 'exp_avg_sq')


def state_beside(network_pkl: str) -> str:
    """Return the training state that was written with a network pickle.

    Raises:
        InvalidArgument: The pickle has no training state beside it.
    """
    kimg = kimg_of(network_pkl)
    folder = '' if is_url(network_pkl) else os.path.dirname(network_pkl)
    states = [] if is_url(network_pkl) else RunDir(folder or os.curdir).training_states()  # newest first
    name = re.compile(rf'training-state-{kimg:06d}(\.\d+)?\.pt' if kimg is not None else '(?!)')
    path = next((str(path) for path in states if name.fullmatch(path.name)), None)
    if path is None:
        raise InvalidArgument(
            'resume_optimizer',
            f"1 takes Adam's moments from the training state beside the network, but {network_pkl} has none "
            '(training-state-<kimg>.pt, with the same number): keep more of them with --keep-states, or remove this.',
        )
    return path


def take_from_file(run: TrainingRun) -> None:
    """Collective: set the moments of a new run, and print how many were taken.

    Raises:
        ValueError: The training state is damaged, or does not belong to the network file.
    """
    states: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    with distributed.failing_together(run.world):
        if run.world.is_main:
            states = _read(run)
    states = distributed.broadcast_object(run.world, states)
    for name, optimizer in run.optimizers.items():
        optimizer.load_state_dict({'state': states[name], 'param_groups': optimizer.state_dict()['param_groups']})


def _read(run: TrainingRun) -> dict[str, dict[int, dict[str, torch.Tensor]]]:
    """Return the state of each optimizer of the run, by the index of the parameter."""
    assert run.config.resume_pkl is not None
    path = state_beside(run.config.resume_pkl)
    try:
        content = checkpoint.read(path).content
        config = TrainingConfig.from_json(content['config'], f'the configuration in {path}')
    except (checkpoint.DamagedState, KeyError) as error:
        raise ValueError(f'{path} is not a training state ({error}): start without --resume-optimizer.') from error
    old = open_pretrained(run.config.resume_pkl).networks
    states = {}
    for name in run.optimizers:
        theirs = _by_name(name, old[name], config, content['optimizers'][name]['state'], path)
        ours = trainable_parameters(name, run.networks[name], run.config)
        names = {own: canonical for canonical, own in canonical_names(run.networks[name]).items()}
        states[name] = {
            index: moments
            for index, (key, parameter) in enumerate(ours)
            if (moments := theirs.get(names[key])) is not None and moments['exp_avg'].shape == parameter.shape
        }
        print(f"{name}: Adam's moments of {len(states[name])} of {len(ours)} parameters are taken from {path}")
    return states


def _by_name(
    name: str, network: Any, config: TrainingConfig, state: dict[int, dict[str, Any]], path: str
) -> dict[str, dict[str, torch.Tensor]]:
    """Return the moments in a training state by the canonical names of the parameters.

    Raises:
        ValueError: They are not those of the network.
    """
    names = {own: canonical for canonical, own in canonical_names(network).items()}
    parameters = trainable_parameters(name, network, config)
    if len(state) > len(parameters) or any(index >= len(parameters) for index in state):
        raise ValueError(f'{path} has moments of other parameters than {config.resume_pkl}: its networks differ.')
    moments = {}
    for index, tensors in state.items():
        key, parameter = parameters[index]
        where = f'{path}: the optimizer of {name}, parameter {index}'
        like = [(part, parameter.float()) for part in _NAMES]
        state_schema.check_tensors(where, {part: tensors[part] for part in tensors if part != 'step'}, like)
        state_schema.STEP.check(tensors.get('step'), f'{where}.step')
        moments[names[key]] = tensors
    return moments
