"""The complete configuration of one training run, as plain data that goes to `training_options.json` and back.

`training.options.build_config` makes one from the options of a command line.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any

from dnnlib.files import atomic_file
from dnnlib.json_input import parse_json
from training import schema

DEFAULT_MAX_P = 1.0
DEFAULT_HEURISTIC = 'rt'
DEFAULT_D_REG_INTERVAL = 16


@dataclass
class TrainingConfig:
    """One training run. The dicts hold a `class_name` and the keywords of its constructor, as `dnnlib` expects."""

    # Processes
    num_gpus: int
    device: str
    # Data
    training_set_kwargs: dict[str, Any]
    data_loader_kwargs: dict[str, Any]
    # Networks; training.setup adds c_dim, img_resolution and img_channels
    G_kwargs: dict[str, Any]
    D_kwargs: dict[str, Any]
    # Optimization
    G_opt_kwargs: dict[str, Any]
    D_opt_kwargs: dict[str, Any]
    loss_kwargs: dict[str, Any]
    batch_size: int  # images per step, over all processes
    batch_gpu: int  # images that a process handles at once
    total_kimg: float
    ema_kimg: float
    ema_rampup: float | None
    # Augmentation: the strength starts at `augment_p`; ADA adjusts it if `ada_target` is given
    augment_kwargs: dict[str, Any] | None = None
    augment_p: float = 0
    ada_target: float | None = None
    ada_max_p: float = DEFAULT_MAX_P
    ada_heuristic: str = DEFAULT_HEURISTIC  # of training.ada, for the pseudo augmentation too
    apa_target: float | None = None  # of adaptive pseudo augmentation, if it is used; as fast as ADA
    ada_kimg: float = 500
    ada_interval: int = 4
    # Steps between two regularization steps of a network; None: every step includes the regularizer
    G_reg_interval: int | None = 4
    D_reg_interval: int | None = DEFAULT_D_REG_INTERVAL
    # Output
    run_dir: str | None = None
    options: dict[str, Any] | None = None  # of the command line; identify the run when it is resumed
    kimg_per_tick: float = 4
    image_snapshot_ticks: int = 50
    network_snapshot_ticks: int = 50
    metrics: list[str] = field(default_factory=list)
    detectors: str | None = None  # folder with replacements for the published detectors of the metrics
    keep_states: int = 2  # number of training states to keep, newest first
    trackers: list[str] = field(default_factory=list)  # of schema.TRACKERS: services that get the numbers and images
    # Execution
    random_seed: int = 0
    resume_pkl: str | None = None
    resume_kimg: float = 0  # thousands of images that count as shown when the run starts from `resume_pkl`
    resume_optimizer: bool = False  # take Adam's moments from the training state beside `resume_pkl`
    frozen_G_layers: int = 0  # of the synthesis network, from the first one on
    frozen_mapping_layers: int = 0
    frozen_embedding: bool = False
    cudnn_benchmark: bool = True
    allow_tf32: bool = False
    half_dtype: str = 'float16'  # of the layers in half precision: float16 or bfloat16
    cuda_graphs: bool = False  # the phases run as CUDA graphs
    deterministic: bool = False  # bit-identical results every time, on CUDA as on the CPU
    validation_set_kwargs: dict[str, Any] | None = None  # images held out of training
    posthoc_ema: list[float] | None = None  # lengths of the averages of `training.power_averages`
    strict_data: bool = False  # an unreadable image ends the run; otherwise another image takes its place

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes | str, name: str = 'the training options') -> TrainingConfig:
        """Parse what `to_json` returned, which may have been edited, and check it against `training.schema`.

        Args:
            text: JSON.
            name: How error messages refer to it.

        Raises:
            ValueError: The text is not such a configuration. One sentence.
        """
        values = parse_json(text, name)
        schema.TRAINING_OPTIONS.check(values, name)
        config = cls(**values)
        config.check_batches(name)
        return config

    def check_batches(self, name: str) -> None:
        """Check that the batch can be divided among processes, rounds, and groups of images that D compares.

        Args:
            name: How error messages refer to the configuration.

        Raises:
            ValueError: It cannot.
        """
        if self.batch_size % (self.num_gpus * self.batch_gpu):
            raise ValueError(
                f'{name} does not fit together: batch_size={self.batch_size} is not a multiple of '
                f'num_gpus={self.num_gpus} times batch_gpu={self.batch_gpu}.'
            )
        group = (self.D_kwargs.get('epilogue_kwargs') or {}).get('mbstd_group_size') or 1
        if self.batch_gpu % min(group, self.batch_gpu):
            raise ValueError(
                f'{name} does not fit together: batch_gpu={self.batch_gpu} is not a multiple of '
                f'mbstd_group_size={group}.'
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write the JSON file, complete or not at all."""
        with atomic_file(path) as file:
            file.write(f'{self.to_json()}\n'.encode())
