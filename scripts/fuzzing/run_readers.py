"""The readers of what is in a run directory."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import torch

from scripts.comparison.figures import page
from scripts.comparison.results import Comparison, Run, Settings, read_comparison
from scripts.fuzzing import structured_mutations as structured
from scripts.fuzzing.file_reader import FileReader
from scripts.fuzzing.mutations import BYTE_MUTATIONS, Mutation, change_bytes, mutate_opcodes
from torch_utils.distributed import World
from training import setup
from training.config import TrainingConfig
from training.loss import StyleGAN2Loss
from training.options import Options, build_config, open_training_set
from training.phases import build_phases
from training.power_averages import PowerAverages
from training.run import averages_files, checkpoint, provenance
from training.run.resuming import find_run, resumed_config
from training.run.run_dir import RunDir, create_run_dir
from training.run.state import Counters, TrainingRun
from training.run.stats_writer import RunStatistics

_CPU = torch.device('cpu')


# ---------------------------------------------------------------------------------------------------------------------
# Run directories


class _Run:
    """A run directory in which a small run has written its files."""

    def __init__(self, outdir: Path, data: Path):
        self.options = Options(
            outdir=str(outdir), data=str(data), cond=True, cfg='tiny', cbase=32, cmax=4, batch=4, mbstd_group=2,
            metrics=(), workers=0, device='cpu', kimg=1,
        )  # fmt: skip
        self.dataset = open_training_set(self.options)
        config = build_config(self.options, self.dataset, 'cpu', 1)
        self.run_dir = RunDir(create_run_dir(str(outdir), 'small'))
        config.run_dir = self.run_dir.path
        config.save(self.run_dir.options_json)
        provenance.record_start(self.run_dir.path, config.options, _CPU)
        Path(self.run_dir.stats_jsonl).write_text('{"Progress/tick": {"num": 1, "mean": 0}}\n' * 3)
        Path(self.run_dir.metric_jsonl('fid50k_full')).write_text('{"results": {"fid50k_full": 3.5}}\n' * 3)
        Path(self.run_dir.log_txt).write_text('tick 1\n')
        self.run = self._new_run(config)
        state = checkpoint.save(self.run)
        assert state is not None
        self.state = state
        G = self.run.networks['G']
        averages_files.write(self.run_dir, PowerAverages(G, [0.05, 0.1]), self.run.counters.cur_nimg)
        self.averages = Path(self.run_dir.averages(self.run.counters.cur_nimg))
        self.comparison = outdir / 'comparison.json'
        settings = Settings('data', 'a' * 64, 100, 8.0, ['--cfg=tiny'], ['fid1k_full'], 'fid1k_full', {'label': 'x'})
        curves: dict[str, list[float | None]] = {'fid1k_full': [None, 3.0]}
        run = Run('ada', ['--aug=ada'], 0, [4, 8], curves, {'p': [0.1, 0.2]}, 2.5, 'a machine')
        Comparison(settings, [run]).save(self.comparison)

    def _new_run(self, config: TrainingConfig) -> TrainingRun:
        world = World(rank=0, size=1, device=_CPU)
        G, D, G_ema = setup.build_networks(world, config, self.dataset, resume_pkl=None)
        augment_pipe, ada = setup.build_augmentation(config, _CPU)
        return TrainingRun(
            world=world,
            config=config,
            counters=Counters(cur_nimg=1000),
            networks=dict(G=G, D=D, G_ema=G_ema),
            phases=build_phases(G, D, config),
            loss=StyleGAN2Loss(_CPU, G, D, augment_pipe),
            augment_pipe=augment_pipe,
            ada=ada,
            statistics=RunStatistics(self.run_dir, world, config.total_kimg),
        )

    def resume(self, _path: Path) -> None:
        """Do what `train.py --resume-run` does with the files of the run before it trains."""
        options = Options(outdir='', data='', resume_run=self.run_dir.path)
        run = find_run(options, {'resume_run'})
        assert run is not None
        config = resumed_config(run, self.dataset, 'cpu', 1)
        setup.construct_networks(config, self.dataset)
        build_phases(*setup.construct_networks(config, self.dataset), config)

    def restore(self, path: Path) -> None:
        """Transfer a training state to a run."""
        state = checkpoint.read(path)
        state.counters()
        state.restore(self.run)

    def read_comparison(self, path: Path) -> None:
        page(read_comparison(path))

    def read_averages(self, path: Path) -> None:
        averages_files.read(path)

    def read_provenance(self, _path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            provenance.read(self.run_dir.path)
            provenance.dataset_sha256(self.run_dir.path)


def run_readers(folder: Path, data: Path) -> list[FileReader]:
    """Return the readers of the options, the starts and the states of a run."""
    run = _Run(folder, data)
    of_json = [*BYTE_MUTATIONS, *[structured.mutate_json] * 3 * len(BYTE_MUTATIONS)]
    of_state = [*BYTE_MUTATIONS, *[structured.zip_mutation(_mutation_of_state)] * 2 * len(BYTE_MUTATIONS)]
    options, starts = Path(run.run_dir.options_json), Path(run.run_dir.provenance_json)
    expected = (ValueError, OSError)
    return [
        FileReader('options of a run', options, {options.name: options.read_bytes()}, of_json, run.resume, expected),
        FileReader(
            'starts of a run', starts, {starts.name: starts.read_bytes()}, of_json, run.read_provenance, expected
        ),
        FileReader('training state', run.state, {'state': run.state.read_bytes()}, of_state, run.restore, expected),
        FileReader(
            'averages', run.averages, {'averages': run.averages.read_bytes()}, of_state, run.read_averages, expected
        ),
        FileReader(
            'comparison',
            run.comparison,
            {'comparison': run.comparison.read_bytes()},
            of_json,
            run.read_comparison,
            expected,
        ),
    ]


def _mutation_of_state(name: str) -> Mutation:
    return _mutate_pickle if name.endswith('data.pkl') else change_bytes


def _mutate_pickle(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return rng.choice([*BYTE_MUTATIONS, *[mutate_opcodes] * len(BYTE_MUTATIONS)])(data, rng, [data])
