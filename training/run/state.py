"""The state of a training run in one process: its configuration and everything that changes while it trains."""

from __future__ import annotations

import dataclasses

import torch

from torch_utils import training_stats
from torch_utils.distributed import World
from training.ada import AdaController
from training.augment import AugmentPipe
from training.config import TrainingConfig
from training.cuda_graphs import PhaseGraphs
from training.loss import StyleGAN2Loss
from training.phases import Phase
from training.power_averages import PowerAverages
from training.run.run_dir import RunDir
from training.run.stats_writer import RunStatistics
from training.validation import Validation


@dataclasses.dataclass
class Counters:
    """How far a run has come at the end of a batch."""

    cur_nimg: int = 0  # images shown so far, over all ranks
    batch_idx: int = 0
    tick: int = 0
    tick_start_nimg: int = 0
    tick_is_open: bool = False  # the snapshot of this tick is written, but not yet its metrics and statistics

    @classmethod
    def at_start(cls, config: TrainingConfig) -> Counters:
        """Return the counters of a run that starts, perhaps from networks that have seen images before."""
        batches = round(config.resume_kimg * 1000 / config.batch_size)
        nimg = batches * config.batch_size
        return cls(cur_nimg=nimg, batch_idx=batches, tick_start_nimg=nimg)

    def all_images_shown(self, config: TrainingConfig) -> bool:
        """Return whether the run has shown `total_kimg` thousand images."""
        return self.cur_nimg >= config.total_kimg * 1000

    def is_complete(self, config: TrainingConfig) -> bool:
        """Return whether the run has shown all images and finished its last tick."""
        return self.all_images_shown(config) and not self.tick_is_open


@dataclasses.dataclass
class TrainingRun:
    """A training run on one rank. `training.run.checkpoint` saves and restores everything from `counters` on."""

    world: World
    config: TrainingConfig
    counters: Counters
    networks: dict[str, torch.nn.Module]  # G, D, G_ema
    phases: list[Phase]  # with the optimizers
    loss: StyleGAN2Loss
    augment_pipe: AugmentPipe | None
    ada: AdaController | None
    statistics: RunStatistics
    apa: AdaController | None = None  # of the pseudo augmentation that the loss applies
    validation: Validation | None = None
    graphs: PhaseGraphs | None = None  # not saved: they are recorded again
    averages: PowerAverages | None = None  # on the main rank only, since the parameters are equal on all

    @property
    def run_dir(self) -> RunDir:
        """The directory of all files of the run."""
        return run_dir_of(self.config)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers of G and D; all phases of a network share one."""
        return {phase.name[0]: phase.optimizer for phase in self.phases}

    @property
    def augment_p(self) -> float:
        """The augmentation strength, or 0 without augmentation."""
        return 0.0 if self.augment_pipe is None else float(self.augment_pipe.p)

    @property
    def controllers(self) -> list[AdaController]:
        """All controllers of strengths."""
        return [controller for controller in (self.ada, self.apa) if controller is not None]

    def report_methods(self) -> None:
        """Report, at the end of a tick, what the status line does not show. Collective."""
        if self.validation is not None:
            self.validation.end_tick()
        if self.apa is not None:
            training_stats.report0('Progress/apa', float(self.apa.augment_pipe.p))

    def print_warnings(self) -> None:
        """Print, at the end of a tick, what the user should know about its augmentation."""
        warning = None if self.ada is None else self.ada.end_tick()
        if warning is not None and self.world.is_main:
            print(f'Warning: {warning}')


def run_dir_of(config: TrainingConfig) -> RunDir:
    """Return the directory of a run, which exists before its training starts."""
    assert config.run_dir is not None
    return RunDir(config.run_dir)
