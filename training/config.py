"""The complete configuration of one training run, as plain data that goes to `training_options.json` and back.

`training.options.build_config` makes one from the options of a command line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from dataclasses import dataclass, field
from typing import Any

from dnnlib.files import atomic_file


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
    ada_kimg: float = 500
    ada_interval: int = 4
    # Steps between two regularization steps of a network; None: every step includes the regularizer
    G_reg_interval: int | None = 4
    D_reg_interval: int | None = 16
    # Output
    run_dir: str | None = None
    options: dict[str, Any] | None = None  # of the command line; identify the run when it is resumed
    kimg_per_tick: float = 4
    image_snapshot_ticks: int = 50
    network_snapshot_ticks: int = 50
    metrics: list[str] = field(default_factory=list)
    detectors: str | None = None  # folder with replacements for the published detectors of the metrics
    keep_states: int = 2  # number of training states to keep, newest first
    # Execution
    random_seed: int = 0
    resume_pkl: str | None = None
    cudnn_benchmark: bool = True
    allow_tf32: bool = False
    deterministic: bool = False  # bit-identical results every time, on CUDA as on the CPU
    strict_data: bool = False  # an unreadable image ends the run; otherwise another image takes its place

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainingConfig:
        """Parse what `to_json` returned.

        Raises:
            ValueError: The text is not such a configuration. One sentence.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f'the training options are not valid JSON: {error}') from error
        if not isinstance(values, dict):
            raise ValueError(f'the training options must be a JSON object, not a {type(values).__name__}')
        fields = {item.name: item for item in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - fields.keys())
        missing = [name for name, item in fields.items() if _is_required(item) and name not in values]
        if unknown or missing:
            raise ValueError(
                f'the training options do not match: unknown {unknown or "none"}, missing {missing or "none"}'
            )
        types = typing.get_type_hints(cls)
        for name, value in values.items():
            if not _is_of_type(value, types[name]):
                raise ValueError(f'training option {name!r} is {value!r}, but must be {fields[name].type}')
        return cls(**values)

    def save(self, path: str | os.PathLike) -> None:
        """Write the JSON file, complete or not at all."""
        with atomic_file(path) as file:
            file.write(f'{self.to_json()}\n'.encode())


def _is_required(item: dataclasses.Field) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _is_of_type(value: Any, expected: Any) -> bool:
    """Return whether a JSON value fits an annotation of this file; ints count as floats, bools never as numbers."""
    alternatives = typing.get_args(expected) if typing.get_origin(expected) not in (dict, list) else (expected,)
    for alternative in alternatives or (expected,):
        plain = typing.get_origin(alternative) or alternative
        if plain is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return True
        if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return True
    return False
