"""The rules for training states: which values and tensors a file may contain that `training.run.checkpoint` restores.

`STATE` is about the file alone. Whether its tensors have the shapes of the networks of a run is checked with
`Tensor.like` when the state is restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dnnlib.schema import Budget, Choice, Flag, Integer, ListIn, ListOf, MapOf, Number, Optional, Record, Rule, Text
from training.schema import FILE_LENGTHS, MAX_P

MAX_NIMG = 10**10  # images shown; the order of the images is replayed up to there

_MAX_NAMES = 10_000
_MAX_PROCESSES = 65_536


@dataclass(frozen=True)
class Tensor(Rule):
    """A dense tensor on the CPU.

    Args:
        shape: Its shape, or None for any.
        dtype: Its type.
        low: Smallest value allowed. None does not look at the values.
        high: Largest value allowed.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype
    low: float | None = None
    high: float = float('inf')

    @classmethod
    def like(cls, tensor: torch.Tensor) -> Tensor:
        """Return the rule for tensors that can replace `tensor`."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def description(self) -> str:
        shape = 'any shape' if self.shape is None else f'shape {list(self.shape)}'
        values = '' if self.low is None else f', from {self.low:,.10g} to {self.high:,.10g}'
        return f'a tensor of {shape} and type {str(self.dtype).removeprefix("torch.")}{values}'

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, torch.Tensor) or value.dtype != self.dtype:
            return False
        if self.shape is not None and tuple(value.shape) != self.shape:
            return False
        return self.low is None or bool(((value >= self.low) & (value <= self.high)).all())


@dataclass(frozen=True)
class AnyTensor(Rule):
    """A tensor of any kind, which is compared with that of a network later."""

    @property
    def description(self) -> str:
        return 'a tensor'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)


STEP = Tensor((), torch.float32, low=0, high=1e12)
"""The number of steps that Adam has taken for a parameter."""

# ---------------------------------------------------------------------------------------------------------------------
# Statistics

_MOMENTS = MapOf(Tensor((3,), torch.float64), _MAX_NAMES)
_PENDING = MapOf(
    MapOf(
        # float32 on Apple GPUs, float64 elsewhere
        AnyTensor(),
        max_length=100,
        key=Text(20, pattern=r'cpu|mps(:\d{1,4})?|cuda(:\d{1,4})?', kind='a device'),
    ),
    _MAX_NAMES,
)
_COLLECTOR = Record({'seen': _MOMENTS, 'moments': _MOMENTS}, required=['seen', 'moments'])
_CONTROLLER = Record(
    {'seen': _MOMENTS, 'moments': _MOMENTS, 'strong_ticks': Integer(0, 1000)}, required=['seen', 'moments']
)
_CONTROLLER_WITH_P = Record({**_CONTROLLER.keys, 'p': Number(0, 1)}, required=['seen', 'moments', 'p'])
_SECONDS = Number(-1e12, 1e12)

# ---------------------------------------------------------------------------------------------------------------------
# The file

_NUMPY_STATE = ListIn(
    (
        Choice(['MT19937']),
        Tensor((624,), torch.int64, low=0, high=2**32 - 1),
        Integer(0, 624),
        Integer(0, 1),
        Number(-1e6, 1e6),
    )
)
_RANDOM = Record(
    {
        'torch': Tensor(tuple(torch.get_rng_state().shape), torch.uint8),
        'numpy': _NUMPY_STATE,
        'cuda': AnyTensor(),
        'mps': AnyTensor(),
    },
    required=['torch', 'numpy'],
)
_TENSORS = MapOf(AnyTensor(), _MAX_NAMES)
_RANK = Record(
    {'random': _RANDOM, 'means': _TENSORS, 'loss': _TENSORS, 'pending': _PENDING},
    required=['random', 'means', 'loss', 'pending'],
)
_COUNT = Integer(0, 2**62)
_PROGRESS = Record(
    {
        'cur_nimg': Integer(0, MAX_NIMG),
        'batch_idx': Integer(0, MAX_NIMG),
        'tick': _COUNT,
        'tick_start_nimg': Integer(0, MAX_NIMG),
        'tick_is_open': Flag(),
    },
    required=['cur_nimg', 'batch_idx', 'tick', 'tick_start_nimg'],
)
_OPTIMIZER = Record(
    {'state': MapOf(_TENSORS, _MAX_NAMES, key=Integer(0, _MAX_NAMES))},
    required=['state'],
    ignores_others=True,  # settings, which the options of the run determine
)
_ENVIRONMENT = Record({'processes': Integer(1, _MAX_PROCESSES)}, required=['processes'], ignores_others=True)

STATE = Record(
    {
        'progress': _PROGRESS,
        'networks': Record(dict.fromkeys(('G', 'D', 'G_ema'), _TENSORS), required=['G', 'D', 'G_ema']),
        'optimizers': Record(dict.fromkeys(('G', 'D'), _OPTIMIZER), required=['G', 'D']),
        'augment_p': Optional(Number(0, MAX_P)),
        'ada': Optional(_CONTROLLER),
        'apa': Optional(_CONTROLLER_WITH_P),
        'validation': Optional(_COLLECTOR),
        'averages': Optional(_TENSORS),
        'shared_loss': _TENSORS,
        'statistics': Record(
            {
                'elapsed_sec': _SECONDS,
                'tick_sec': _SECONDS,
                'collector': _COLLECTOR,
                'achieved': MapOf(Number(0, 1e18), max_length=100),
            },
            required=['elapsed_sec', 'tick_sec', 'collector'],
        ),
        'totals': _MOMENTS,
        'ranks': ListOf(_RANK, max_length=_MAX_PROCESSES, min_length=1),
        'environment': _ENVIRONMENT,
        'files': FILE_LENGTHS,
    },
    required='progress networks optimizers augment_p ada statistics totals ranks environment files'.split(),
    ignores_others=True,  # the format, and the options of the run, which are not read from here
)


def check_content(content: Any) -> None:
    """Check the content of a training state, apart from its format.

    Raises:
        ValueError: It breaks a rule, or contradicts itself.
    """
    STATE.check(content, 'the state')
    progress = content['progress']
    if progress['tick_start_nimg'] > progress['cur_nimg']:
        raise ValueError(
            f'the state is of a tick that starts after {progress["tick_start_nimg"]} images, but only '
            f'{progress["cur_nimg"]} were shown.'
        )
    for index, rank in enumerate(content['ranks']):
        for name, by_device in rank['pending'].items():
            for moments in by_device.values():
                if tuple(moments.shape) != (3,) or moments.dtype not in (torch.float32, torch.float64):
                    raise ValueError(f'ranks[{index}].pending.{name} does not consist of three numbers.')


def check_tensors(
    where: str, tensors: Mapping[str, Any], expected: Iterable[tuple[str, torch.Tensor]], budget: Budget | None = None
) -> None:
    """Check that stored tensors have the names, shapes and types of those that they replace.

    Raises:
        ValueError: They differ.
    """
    own = dict(expected)
    Record({name: Tensor.like(tensor) for name, tensor in own.items()}, required=list(own)).check(
        tensors, where, budget
    )
