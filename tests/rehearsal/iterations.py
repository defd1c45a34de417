"""Count what each iteration of a real training run costs on a GPU, with and without planted faults.

    python -m tests.rehearsal.iterations COUNTS.json OPTIONS OF train.py ...

This runs train.py in this process and writes a list to the file, one dict per iteration: what is counted, by name, and
the operators that waited. `deviations` compares it with what is allowed.
"""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

WAITS, PAGEABLE, FLOAT64 = 'waits', 'pageable copies', 'float64 outside of statistics'
KINDS = (WAITS, PAGEABLE, FLOAT64)

# ---------------------------------------------------------------------------------------------------------------------
# What is allowed


class Allowance(NamedTuple):
    """What one part of an iteration may cost, and how often it runs in the iteration of an index."""

    costs: dict[str, int]
    times: Callable[[int], int]


DREG_INTERVAL = 4
REGULARIZED = f'--d-reg-interval={DREG_INTERVAL}'

# The only place that says so. Today nothing waits within an iteration, and every copy is pinned.
ALLOWED: dict[str, Allowance] = {}


class Deviation(NamedTuple):
    """A count that is not what is allowed."""

    iteration: int
    kind: str
    found: int
    allowed: int
    operators: dict[str, int]  # that waited


def allowed(kind: str, iteration: int) -> int:
    """Return how often something expensive may happen in the iteration of this index."""
    return sum(part.costs.get(kind, 0) * part.times(iteration) for part in ALLOWED.values())


def deviations(iterations: list[dict[str, Any]]) -> list[Deviation]:
    """Return where counts differ from what is allowed; the first iteration, which prepares, is not compared."""
    return [
        Deviation(index, kind, counts[kind], allowed(kind, index), counts['operators'])
        for index, counts in enumerate(iterations)
        for kind in KINDS
        if index > 0 and counts[kind] != allowed(kind, index)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Planted faults


def read_a_number(logits: torch.Tensor) -> torch.Tensor:
    """Wait for the GPU."""
    return logits * (1 + 0 * logits.detach().sum().item())


def copy_from_pageable_memory(logits: torch.Tensor) -> torch.Tensor:
    """Copy from memory that is not pinned, which waits although it does not look like that."""
    return logits + torch.zeros([1, 1]).to(logits.device, non_blocking=True)


def multiply_in_float64(features: torch.Tensor) -> torch.Tensor:
    """Multiply half precision by a constant in float64, which makes all of it float64."""
    assert features.dtype == torch.float16
    return (features * torch.ones([1], dtype=torch.float64, device=features.device)).to(torch.float16)


FAULTS = {5: (WAITS, read_a_number), 6: (PAGEABLE, copy_from_pageable_memory), 7: (FLOAT64, multiply_in_float64)}
NUM_ITERATIONS = 8  # all phases run in every fourth one, from 0 on

# ---------------------------------------------------------------------------------------------------------------------
# Counting


class IterationCounter:
    """Counts from the end of one iteration to the end of the next, and plants faults in some of them."""

    def __init__(self) -> None:
        from tests.rehearsal.backend import counts, synchronizations

        self.iterations: list[dict[str, Any]] = []
        self._read = lambda: (counts(), synchronizations())
        self._float64_of_statistics = 0
        self._before = self._read()

    @property
    def fault(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What is planted in the iteration that runs."""
        return FAULTS.get(len(self.iterations), (None, None))[1]

    def start(self) -> None:
        """Begin to count, where an iteration does."""
        self._before, self._float64_of_statistics = self._read(), 0

    def end_iteration(self) -> None:
        """Store the counts of an iteration, and begin those of the next."""
        (found, operators), (found_before, operators_before) = self._read(), self._before
        found.subtract(found_before)
        counts = dict(found)
        # A copy from pageable memory waits, too; it counts as such.
        counts[WAITS] = found['synchronizations'] - found['pageable copies']
        counts[FLOAT64] = found['float64'] - self._float64_of_statistics
        self.iterations.append({**counts, 'operators': dict(Counter(operators) - Counter(operators_before))})
        self.start()

    def statistic(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose operators in float64 are allowed."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            before, inside = self._read()[0]['float64'], self._float64_of_statistics
            result = function(*args, **kwargs)
            self._float64_of_statistics = inside + self._read()[0]['float64'] - before  # calls within are part of it
            return result

        return run


def hooked(before: Callable[[], None] | None, function: Callable[..., Any], after: Callable[[], None] | None) -> Any:
    """Return a function that also makes other calls before and after."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        result = function(*args, **kwargs)
        if after is not None:
            after()
        return result

    return run


def install(counter: IterationCounter) -> None:
    """Let the training of this process report its iterations and statistics to the counter, and take its faults."""
    from torch_utils import training_stats
    from torch_utils.ops import bias_act
    from training import loss
    from training.ada import AdaController
    from training.run.stats_writer import RunStatistics

    RunStatistics.start_tick = hooked(None, RunStatistics.start_tick, counter.start)  # what a tick costs is left out
    RunStatistics.show_progress = hooked(None, RunStatistics.show_progress, counter.end_iteration)
    training_stats.report = counter.statistic(training_stats.report)
    training_stats.Collector.update = counter.statistic(training_stats.Collector.update)
    AdaController.update = counter.statistic(AdaController.update)
    softplus, activation = loss.softplus, bias_act.bias_act

    def faulty_softplus(x: torch.Tensor) -> torch.Tensor:
        return softplus(counter.fault(x) if counter.fault in (read_a_number, copy_from_pageable_memory) else x)

    def faulty_activation(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y = activation(x, *args, **kwargs)
        return multiply_in_float64(y) if counter.fault is multiply_in_float64 and y.dtype == torch.float16 else y

    loss.softplus, bias_act.bias_act = faulty_softplus, faulty_activation


def main() -> None:
    """Run train.py with the options of the command line, and write the counts."""
    path = Path(sys.argv.pop(1))
    counter = IterationCounter()
    install(counter)
    import train

    try:
        train.main()
    finally:
        path.write_text(json.dumps(counter.iterations))


if __name__ == '__main__':
    main()
