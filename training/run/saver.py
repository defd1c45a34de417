"""Snapshots of a run, and what becomes of the run where they cannot be written.

A snapshot is a network pickle, an image grid and a training state. One that fails, as on a full disk, is a warning: the
one before it stays, and the next one tries again. Several that fail in a row end the run, which would work for nothing;
so does the last one, or one after which the run was asked to stop. None is written of networks that are in doubt.
"""

import contextlib
import os

from dnnlib.cli import error_sentence
from torch_utils import distributed, misc
from training.run import checkpoint, divergence, snapshots

MAX_FAILURES = 3  # Snapshots in a row that cannot be written.


class Saver:
    """Writes the snapshots of a run: `begin`, then what belongs to it, then `conclude`; all of them on all ranks.

    Args:
        world: Ranks.
        config: `training.config.TrainingConfig`.
        run_dir: Where the files go.
        parts: `training.run.checkpoint.Parts`.
        phases: All `training.phases.Phase`.
        dataset: Its class names go into network pickles.
        fakes_grid: `training.run.snapshots.FakesGrid`, on the main rank.
    """

    def __init__(self, world, config, run_dir, parts, phases, dataset, fakes_grid):
        self._world, self._config, self._run_dir, self._parts = world, config, run_dir, parts
        self._phases, self._dataset, self._fakes_grid = phases, dataset, fakes_grid
        self._doubt = None  # What speaks against this snapshot.
        self._failures = []  # Sentences about files of this snapshot.
        self._failed_in_a_row = 0
        self._has_state = False
        self.saved_nimg = None  # Images shown at the last snapshot with a training state.

    def network_pkl(self, cur_nimg):
        """Path of the network pickle after so many images."""
        return os.path.join(self._run_dir, f'network-snapshot-{cur_nimg // 1000:06d}.pkl')

    def check_finite(self, thorough=False):
        """ValueError where the numbers of the run have become infinite or NaN for good."""
        reason = divergence.verdict(self._world, self._phases, self._parts, thorough)
        if reason is not None:
            raise ValueError(
                f'The training has diverged: {reason}. {self._last_state()} If the machine is to blame, go on from '
                f'there (--resume-run={self._run_dir}); if not, start a new run from a network pickle of this one '
                '(--resume) with a smaller --glr and --dlr, or a larger --gamma.'
            )

    def begin(self):
        """Look at the numbers; returns whether there is something to be saved."""
        self.check_finite(thorough=True)
        self._doubt = divergence.doubt(self._phases)
        if self._doubt is not None and self._world.is_main:
            print(f'Warning: no snapshot is written, as {self._doubt}. {self._last_state()}')
        return self._doubt is None

    def save_network(self, cur_nimg):
        """Write the network pickle, once it is sure that the networks of all ranks are the same."""
        if self._doubt is not None:
            return
        for name, module in self._parts.networks.items():
            shared = [
                (key, tensor) for key, tensor in misc.named_params_and_buffers(module) if not checkpoint.is_own(key)
            ]
            distributed.check_equal_over_ranks(self._world, shared, what=name)
        if self._world.is_main:
            extra = {} if self._dataset.class_names is None else dict(class_names=list(self._dataset.class_names))
            modules = dict(self._parts.networks, augment_pipe=self._parts.augment_pipe)
            with self._noting_failure():
                snapshots.save_network_pickle(
                    self.network_pkl(cur_nimg), modules, self._config.training_set_kwargs, **extra
                )

    def save_images(self, cur_nimg):
        """Write the image grid."""
        if self._doubt is None and self._world.is_main:
            path = os.path.join(self._run_dir, f'fakes{cur_nimg // 1000:06d}.png')
            with self._noting_failure():
                self._fakes_grid.save(self._parts.networks['G_ema'], path)

    def save_state(self, progress):
        """Write the training state, unless there are statistics that it would count as written and that are not."""
        if self._doubt is not None:
            return
        self._has_state = True
        failures_before = len(self._failures)
        with self._noting_failure():
            self._parts.statistics.check_written()
        if distributed.largest_over_ranks(self._world, len(self._failures) - failures_before) == 0:
            with self._noting_failure():
                checkpoint.save(self._world, self._run_dir, self._config, self._parts, progress)

    def conclude(self, progress, is_last=False):
        """Warn of what could not be written. Raises ValueError where it happens too often, or for the last time."""
        if self._doubt is not None:
            if is_last:
                raise ValueError(f'The last networks are not saved, as {self._doubt}. {self._last_state()}')
            return
        failure = distributed.broadcast_object(self._world, self._failures[0] if self._failures else None)
        has_state, self._failures, self._has_state = self._has_state, [], False
        if failure is None:
            self._failed_in_a_row = 0
            self.saved_nimg = progress.cur_nimg if has_state else self.saved_nimg
            return
        self._failed_in_a_row += 1
        way_out = f'{self._last_state()} Once that is mended, go on with --resume-run={self._run_dir}.'
        if is_last:
            raise ValueError(f'The last snapshot could not be written ({failure}). {way_out}')
        if self._failed_in_a_row >= MAX_FAILURES:
            raise ValueError(f'{MAX_FAILURES} snapshots in a row could not be written ({failure}). {way_out}')
        if self._world.is_main:
            print(
                f'Warning: this snapshot could not be written ({failure}). {self._last_state()} The training goes '
                f'on, but not after {MAX_FAILURES} such snapshots in a row.'
            )

    def parting_words(self, progress):
        """For a run that a signal has stopped."""
        return (
            f'Stopped by a signal after {progress.cur_nimg / 1000:g} of {self._config.total_kimg:g} kimg. '
            f'{self._last_state()} The run goes on from there with --resume-run={self._run_dir}.'
        )

    @contextlib.contextmanager
    def _noting_failure(self):
        try:
            yield
        except OSError as error:
            self._failures.append(error_sentence(error))

    def _last_state(self):
        """Where the run can be taken up again, as a sentence."""
        if not os.path.isdir(self._run_dir):  # On another machine than the main rank's.
            return f'The training states are in {self._run_dir} of the first machine.'
        states = checkpoint.list_states(self._run_dir)
        return f'The last good state is {states[0]}.' if states else 'There is no training state yet.'
