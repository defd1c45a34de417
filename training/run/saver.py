"""Snapshots of a run, and what happens to the run if they cannot be written.

A snapshot consists of a network pickle, an image grid and a training state. If it cannot be written, for example
because the disk is full, a warning is printed, the previous snapshot stays, and the next one tries again. The run ends
if several snapshots in a row fail, since its results would otherwise be lost, or if the last one fails. Networks that
`training.run.divergence` advises against saving are not written at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from dnnlib.errors import error_sentence
from dnnlib.text import message_line
from torch_utils import distributed, misc
from training.run import averages_files, checkpoint, divergence, snapshots
from training.run.snapshots import FakesGrid
from training.run.state import TrainingRun

MAX_FAILURES = 3  # consecutive snapshots that cannot be written


class Saver:
    """Write the snapshots of a run: `begin`, then its files, then `finish`; each of them is called on all ranks.

    Args:
        run: The run to save.
        class_names: Names of the classes, for the network pickles; None if the dataset has none.
        fakes_grid: The image grid, on the main rank; None on the others.
        classes_without_images: Classes about which the networks learn nothing, for the network pickles.
    """

    def __init__(
        self,
        run: TrainingRun,
        class_names: Sequence[str] | None,
        fakes_grid: FakesGrid | None,
        classes_without_images: Sequence[int] = (),
    ):
        self._run, self._fakes_grid = run, fakes_grid
        self._extra_content: dict[str, Any] = {}
        if class_names is not None:
            self._extra_content['class_names'] = list(class_names)
        if classes_without_images:
            self._extra_content['classes_without_images'] = list(classes_without_images)
        self._reason_not_to_save: str | None = None
        self._failures: list[str] = []  # one sentence for each file of this snapshot that could not be written
        self._num_failed = 0  # consecutive snapshots with failures
        self._includes_state = False
        self._saved_nimg: int | None = None  # images shown at the last complete snapshot with a training state

    def check_divergence(self, thorough: bool = False) -> None:
        """Check that the numbers of the run have not become infinite or NaN for good.

        Raises:
            ValueError: They have.
        """
        reason = divergence.reason_to_stop(self._run, thorough)
        if reason is not None:
            raise ValueError(
                f'The training has diverged: {reason}. {self._last_state()} If the machine is at fault, resume from '
                f'there (--resume-run={self._run.run_dir.path}); otherwise start a new run from one of the network '
                'pickles (--resume) with a smaller --glr and --dlr, or a larger --gamma.'
            )

    def begin(self) -> bool:
        """Begin a snapshot: check the networks, and return whether they are fit to be saved."""
        self.check_divergence(thorough=True)
        self._reason_not_to_save = divergence.reason_not_to_save(self._run.phases)
        if self._reason_not_to_save is not None and self._run.world.is_main:
            print(f'Warning: no snapshot is written, because {self._reason_not_to_save}. {self._last_state()}')
        return self._reason_not_to_save is None

    def save_network(self) -> None:
        """Write the network pickle, after checking that the networks are equal on all ranks."""
        if self._reason_not_to_save is not None:
            return
        run = self._run
        for name, module in run.networks.items():
            tensors = misc.named_params_and_buffers(module)
            shared = [(key, tensor) for key, tensor in tensors if not checkpoint.is_per_rank(key)]
            distributed.check_equal_over_ranks(run.world, shared, what=name)
        if run.world.is_main:
            modules = dict(run.networks, augment_pipe=run.augment_pipe)
            path = run.run_dir.network_pkl(run.counters.cur_nimg)
            with self._failures_recorded():
                snapshots.save_network_pickle(path, modules, run.config.training_set_kwargs, **self._extra_content)
                if run.averages is not None:
                    averages_files.write(run.run_dir, run.averages, run.counters.cur_nimg)

    def save_images(self) -> None:
        """Write the image grid."""
        if self._reason_not_to_save is None and self._fakes_grid is not None:
            path = self._run.run_dir.fakes_png(self._run.counters.cur_nimg)
            with self._failures_recorded():
                self._fakes_grid.save(path)
                self._run.statistics.tracking.image('fakes', path, self._run.counters.cur_nimg)

    def save_state(self) -> None:
        """Write the training state, unless statistics that it would count as written could not be written."""
        if self._reason_not_to_save is not None:
            return
        self._includes_state = True
        num_failures = len(self._failures)
        with self._failures_recorded():
            self._run.statistics.check_written()
        if distributed.largest_over_ranks(self._run.world, len(self._failures) - num_failures) == 0:
            with self._failures_recorded():
                checkpoint.save(self._run)

    def finish(self, is_last: bool = False) -> None:
        """Finish a snapshot: warn if any of it could not be written.

        Raises:
            ValueError: Too many snapshots in a row could not be written, or the last one could not.
        """
        if self._reason_not_to_save is not None:
            if is_last:
                raise ValueError(
                    f'The last networks are not saved, because {self._reason_not_to_save}. {self._last_state()}'
                )
            return
        failure = distributed.broadcast_object(self._run.world, self._failures[0] if self._failures else None)
        includes_state, self._failures, self._includes_state = self._includes_state, [], False
        if failure is None:
            self._num_failed = 0
            self._saved_nimg = self._run.counters.cur_nimg if includes_state else self._saved_nimg
            return
        self._num_failed += 1
        way_out = f'{self._last_state()} Fix the cause, then resume the run with --resume-run={self._run.run_dir.path}.'
        if is_last:
            raise ValueError(f'The last snapshot could not be written ({failure}). {way_out}')
        if self._num_failed >= MAX_FAILURES:
            raise ValueError(f'{MAX_FAILURES} snapshots in a row could not be written ({failure}). {way_out}')
        if self._run.world.is_main:
            print(
                f'Warning: this snapshot could not be written ({message_line(failure)}). {self._last_state()} '
                f'Training continues, but ends after {MAX_FAILURES} such snapshots in a row.'
            )

    def save_on_request(self, is_last: bool) -> None:
        """Write a network pickle and a training state between two ticks, unless both were just written.

        Args:
            is_last: The run stops after this snapshot.
        """
        if self._saved_nimg == self._run.counters.cur_nimg:
            return
        self.begin()
        if not self._run.counters.tick_is_open:
            self.save_network()
        self.save_state()
        self.finish(is_last)

    def stop_message(self) -> str:
        """Return what to print when a signal has stopped the run."""
        run = self._run
        return (
            f'Stopped by a signal after {run.counters.cur_nimg / 1000:g} of {run.config.total_kimg:g} kimg. '
            f'{self._last_state()} Resume the run from there with --resume-run={run.run_dir.path}.'
        )

    @contextlib.contextmanager
    def _failures_recorded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failures.append(error_sentence(error) or type(error).__name__)

    def _last_state(self) -> str:
        """Return a sentence that says where the run can be resumed."""
        run_dir = self._run.run_dir
        if not os.path.isdir(run_dir.path):  # another machine than that of the main rank
            return f'The training states are in {run_dir.path} on the first machine.'
        states = run_dir.training_states()
        return f'The last good state is {states[0]}.' if states else 'There is no training state yet.'
