"""What is known of a network: from its own file and, if it is a snapshot of a run, from the files beside it.

These files may have been edited by anyone. They are read with the limits of `reporting.run_record`; what is taken from
them are numbers, texts of limited length, and no paths.
"""

from __future__ import annotations

import dataclasses
import ntpath
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_format.sizes import sides
from dnnlib.text import excerpt
from generation.latents import class_names_of
from metrics.features.samples import network_sha256
from network_files import hub
from network_files.changes.architectures import generation_of
from network_files.snapshots import kimg_of
from reporting.page import changed_options
from reporting.run_record import MAX_METRIC_FILES, RunRecord, lines_of, number, read_run
from training import schema
from training.run.run_dir import RunDir

MAX_METRICS = 200
_MAX_NAME = 100
_DIGEST = re.compile(r'[0-9a-f]{64}')
_NOT_SHOWN = (  # what does not change the network, and what the card says elsewhere
    '--cfg --data --desc --detectors --device --gpus --keep-states --metrics --outdir --report --snap --tick --workers'
).split()


@dataclass(frozen=True)
class MetricValue:
    """A value of a metric of this network.

    Args:
        name: Of the value, such as 'fid50k_full' or 'memorization5k_share'.
        metric: Of the metric, such as 'memorization5k'.
        value: The value.
        interval: Its ends `low` and `high`, and how often such an interval covers the true value, `coverage`; or None.
        num_images: Images by part: 'real', 'fake', ...
        detector: Name and digest of the feature network, or None.
        dataset_sha256: Digest of the real images.
        seed: Seed of the generated images.
        compared_with: With which images memorization was compared, or None.
    """

    name: str
    metric: str
    value: float
    interval: dict[str, float] | None = None
    num_images: dict[str, int] = field(default_factory=dict)
    detector: dict[str, str] | None = None
    dataset_sha256: str | None = None
    seed: int | None = None
    compared_with: str | None = None


@dataclass
class Facts:
    """What a model card can say.

    Args:
        kind: Architecture, such as 'stylegan2'.
        width: Of the images.
        height: Of the images.
        channels: Of the images.
        num_classes: Dimensions of the labels; 0: none.
        class_names: Their names, or [].
        z_dim: Dimensions of z.
        w_dim: Dimensions of w.
        num_parameters: Of the generator.
        network_sha256: Digest of the parameters of G_ema.
        kimg: Thousands of images shown to the discriminator until this snapshot, or None.
        training_set: Keywords of the dataset that follow the rules of the schema, or None.
        run: The training run, or None.
        metrics: Values for this network.
        problems: Sentences about what could not be read or used.
    """

    kind: str
    width: int
    height: int
    channels: int
    num_classes: int
    class_names: list[str]
    z_dim: int
    w_dim: int
    num_parameters: int
    network_sha256: str
    kimg: int | None = None
    training_set: dict[str, Any] | None = None
    run: RunRecord | None = None
    metrics: list[MetricValue] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def dataset_sha256(self) -> str | None:
        """Digest of the training images, or None."""
        starts = [] if self.run is None else self.run.starts
        return next((start['dataset_sha256'] for start in starts if start.get('dataset_sha256')), None)

    @property
    def hours(self) -> float | None:
        """Time of the training until this snapshot, or None."""
        curve = None if self.run is None else self.run.curve('Timing/total_hours')
        if curve is None or self.kimg is None:
            return None
        return next((v for k, v in reversed(list(zip(curve.kimg, curve.values))) if k <= self.kimg + 1), None)


def gather(data: dict[str, Any], network: str) -> Facts:
    """Return what is known of a network.

    Args:
        data: Content of the file, with G_ema.
        network: Path of the file, or its URL.
    """
    G = data['G_ema']
    height, width = sides(G.img_resolution)
    facts = Facts(
        kind=generation_of(G),
        width=width,
        height=height,
        channels=G.img_channels,
        num_classes=G.c_dim,
        class_names=class_names_of(data, G.c_dim),
        z_dim=G.z_dim,
        w_dim=G.w_dim,
        num_parameters=sum(parameter.numel() for parameter in G.parameters()),
        network_sha256=network_sha256(G),
        training_set=_checked_training_set(data.get('training_set_kwargs')),
    )
    folder = os.path.dirname(network) or os.curdir
    if not hub.is_address(network) and os.path.isfile(RunDir(folder).options_json):
        facts.run = read_run(folder)
        facts.kimg = kimg_of(network)
        if facts.run.config is None:
            facts.problems += facts.run.problems[:1]
        else:
            facts.training_set = _checked_training_set(facts.run.config.training_set_kwargs)
        num_problems = len(facts.run.problems)
        _read_metrics(facts, os.path.basename(network))
        # Not those of what is not published, such as statistics that cannot be drawn.
        facts.problems += facts.run.problems[num_problems:]
    return facts


def _checked_training_set(kwargs: Any) -> dict[str, Any] | None:
    try:
        schema.DATASET_FOR_METRICS.check(kwargs, 'training_set_kwargs')
    except ValueError:
        return None
    return {key: kwargs[key] for key in schema.DATASET_FOR_METRICS.keys if key in kwargs}


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


def _read_metrics(facts: Facts, file_name: str) -> None:
    """Add the metrics of this snapshot; of several results of a metric, the last one counts."""
    assert facts.run is not None
    found: dict[str, list[MetricValue]] = {}
    num_of_others = 0
    for path in facts.run.run_dir.metric_jsonls()[:MAX_METRIC_FILES]:
        with facts.run.noting_problems():
            for line in lines_of(facts.run, path):
                snapshot = line.get('snapshot_pkl')
                if not isinstance(snapshot, str) or base_name(snapshot) != file_name:
                    continue
                if line.get('network_sha256', facts.network_sha256) != facts.network_sha256:
                    num_of_others += 1
                    continue
                values = _values_of(line)
                if values:
                    found[values[0].metric] = values
    if num_of_others:
        facts.problems.append(f'{num_of_others:,} results are of another network with the name {file_name}.')
    facts.metrics = [value for name in sorted(found) for value in found[name]][:MAX_METRICS]


def _values_of(line: dict[str, Any]) -> list[MetricValue]:
    results, intervals, counts = line.get('results'), line.get('intervals'), line.get('num_images')
    intervals = intervals if isinstance(intervals, dict) else {}
    counts = counts if isinstance(counts, dict) else {}
    detector = line.get('detector')
    has_detector = isinstance(detector, dict) and isinstance(detector.get('name'), str)
    seed = line.get('seed')
    if not isinstance(results, dict):
        return []
    values = []
    for name, item in list(results.items())[:10]:
        value = number(item)
        if value is None:
            continue
        values.append(
            MetricValue(
                name=excerpt(name, _MAX_NAME),
                metric=excerpt(line.get('metric') or name, _MAX_NAME),
                value=value,
                interval=_interval_of(intervals.get(name)),
                num_images={excerpt(k, 20): n for k, n in list(counts.items())[:5] if _is_count(n)},
                detector={key: excerpt(detector.get(key), _MAX_NAME) for key in ('name', 'sha256')}
                if has_detector and isinstance(detector, dict)
                else None,
                dataset_sha256=_digest_of(line.get('dataset_sha256')),
                seed=seed if _is_count(seed) else None,
                compared_with=excerpt(line['compared_with'], 60)
                if isinstance(line.get('compared_with'), str)
                else None,
            )
        )
    return values


def _interval_of(interval: Any) -> dict[str, float] | None:
    if not isinstance(interval, dict):
        return None
    low, high, coverage = (number(interval.get(key)) for key in ('low', 'high', 'coverage'))
    if low is None or high is None or coverage is None or not 0 < coverage < 1 or low > high:
        return None
    return {'low': low, 'high': high, 'coverage': coverage}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _digest_of(value: Any) -> str | None:
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else None


# ---------------------------------------------------------------------------------------------------------------------
# Without paths


def base_name(path: str) -> str:
    """Return the last part of a path of any system."""
    return ntpath.basename(path.rstrip('/\\'))


def source_name(source: str) -> str:
    """Return how to name a network that a training started from: an address without passwords, or a file name."""
    if hub.is_address(source):
        return source
    if re.match('https?://', source):
        try:
            address = urllib.parse.urlsplit(source)
            return f'{address.scheme}://{address.hostname or ""}{address.path}'
        except ValueError:
            return 'a URL'
    return base_name(source)


def public_training_set(kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return keywords of a dataset with the name of its file instead of the path."""
    if kwargs is None or not isinstance(kwargs.get('path'), str):
        return kwargs
    return {**kwargs, 'path': base_name(kwargs['path'])}


def public_options(facts: Facts) -> dict[str, Any] | None:
    """Return the training options without paths, or None if there are none."""
    if facts.run is None or facts.run.config is None:
        return None
    values = dataclasses.asdict(facts.run.config)
    for name in ('run_dir', 'detectors'):
        values[name] = None
    for name in ('training_set_kwargs', 'validation_set_kwargs'):
        values[name] = public_training_set(values[name])
    if values['resume_pkl'] is not None:
        values['resume_pkl'] = source_name(values['resume_pkl'])
    if values['options'] is not None:
        known = {name: value for name, value in values['options'].items() if name in schema.COMMAND_LINE.keys}
        values['options'] = {
            name: source_name(value) if name in ('data', 'resume', 'validation') and isinstance(value, str) else value
            for name, value in known.items()
            if name != 'detectors'
        }
    return values


def public_changes(facts: Facts) -> list[tuple[str, str, str]]:
    """Return (option, value, default) of the options that differ from the preset and the defaults, without paths."""
    if facts.run is None or facts.run.config is None:
        return []
    rows = []
    for option, value, default in changed_options(facts.run):
        if option not in _NOT_SHOWN:
            is_path = option in ('--resume', '--validation')
            rows.append((option, source_name(value) if is_path else value, default))
    return rows


def private_texts(facts: Facts, network: str) -> list[str]:
    """Return the paths of this machine that no published text may contain."""
    paths = [str(Path.home()), os.path.abspath(os.path.dirname(network) or os.curdir)]
    if facts.run is not None:
        paths.append(os.path.abspath(facts.run.run_dir.path))
        config = facts.run.config
        if config is not None:
            kwargs = (config.training_set_kwargs, config.validation_set_kwargs or {})
            paths += [os.path.dirname(str(each['path'])) for each in kwargs if each.get('path')]
    return [path for path in dict.fromkeys(paths) if os.path.isabs(path) and len(path) > 3]
