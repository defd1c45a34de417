"""Try many files on readers, count the outcomes, and save the files with which a reader breaks a rule."""

from __future__ import annotations

import collections
import time
from pathlib import Path

from scripts.fuzzing.sandbox import OPENED, REFUSED, Sandbox, fault, is_fault, peak_memory_mib


class Outcomes:
    """The outcomes of all files that were tried.

    Args:
        failures: Folder for the files with which a reader breaks a rule; created for the first one.

    Attributes:
        faults: Descriptions of the broken rules.
    """

    def __init__(self, failures: Path):
        self.faults: list[str] = []
        self._failures = failures
        self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._slowest = (0.0, '')  # seconds and name of the file

    def add(self, kind: str, name: str, outcome: str, seconds: float) -> None:
        """Count an outcome."""
        self._slowest = max(self._slowest, (seconds, name))
        self._counts[kind]['fault' if is_fault(outcome) else outcome] += 1

    def save(self, name: str, file_name: str, content: bytes, outcome: str) -> None:
        """Save the file of a fault under a number and `file_name`."""
        self._failures.mkdir(parents=True, exist_ok=True)
        path = self._failures / f'{len(self.faults):04d}-{file_name}'
        path.write_bytes(content)
        self.add_fault(f'{name}: {outcome} (saved as {path})')

    def add_fault(self, description: str) -> None:
        """Count and print a fault."""
        self.faults.append(description)
        print(description, flush=True)

    def print_counts(self) -> None:
        """Print the number of outcomes of each kind of file."""
        for kind, counts in self._counts.items():
            print(
                f'{kind:22s}{sum(counts.values()):7d} files:{counts[REFUSED]:7d} refused with one sentence, '
                f'{counts[OPENED]:5d} opened (the change was harmless), {counts["fault"]} faults'
            )
        print(f'slowest: {self._slowest[0]:.2f} s ({self._slowest[1]})')


class Campaign:
    """A campaign against one reader in this process, which also watches its memory.

    Args:
        sandbox: The reader and its rules.
        failures: See `Outcomes`.
    """

    def __init__(self, sandbox: Sandbox, failures: Path):
        self.outcomes = Outcomes(failures)
        self._sandbox = sandbox
        self._largest_file = 0  # bytes
        self._largest_attack_mib = 0.0
        self._peak_at_start_mib = peak_memory_mib()

    def attack(self, kind: str, name: str, content: bytes) -> None:
        """Try a file that the reader must refuse, in a separate process."""
        start = time.perf_counter()
        outcome, memory_mib = self._sandbox.try_in_process(content)
        self._largest_attack_mib = max(self._largest_attack_mib, memory_mib)
        self._record(kind, name, content, fault('it was opened') if outcome == OPENED else outcome, start)

    def mutation(self, kind: str, name: str, content: bytes) -> None:
        """Try a file that the reader may open or refuse, in this process."""
        start = time.perf_counter()
        self._record(kind, name, content, self._sandbox.try_here(content), start)

    def _record(self, kind: str, name: str, content: bytes, outcome: str, start: float) -> None:
        self._largest_file = max(self._largest_file, len(content))
        self.outcomes.add(kind, name, outcome, time.perf_counter() - start)
        if is_fault(outcome):
            self.outcomes.save(name, 'network.pkl', content, outcome)

    def finish(self) -> None:
        """Check the memory that all mutations have used, and print a summary."""
        self.outcomes.print_counts()
        memory_mib = peak_memory_mib() - self._peak_at_start_mib
        bound_mib = self._sandbox.memory_bound_mib(self._largest_file)
        print(
            f'memory at most {self._largest_attack_mib:.0f} MiB by an attack, {memory_mib:.0f} MiB by all mutations; '
            f'the largest file has {self._largest_file / 2**20:.1f} MiB, the stated bound is '
            f'{self._sandbox.memory_mib:.0f} MiB and {self._sandbox.memory_per_byte:g} times the file'
        )
        if memory_mib > bound_mib:
            self.outcomes.add_fault(
                fault(f'{memory_mib:.0f} MiB of memory by all mutations, more than {bound_mib:.0f}')
            )
