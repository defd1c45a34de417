"""Find the run that `--resume-run` or `--resume=latest` means, and the options it continues with.

A run stores the options it was started with in its `training_options.json`. Options that determine its result must stay
the same; `_CHANGEABLE` lists the others, which may differ from one start to the next.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dnnlib.errors import InvalidArgument, option_name
from dnnlib.files import open_regular, read_file
from dnnlib.json_input import MAX_BYTES
from dnnlib.text import excerpt
from training.batch_sizes import batch_per_process, check_batch_gpu, mbstd_group_of
from training.config import TrainingConfig
from training.held_out import held_out_size
from training.options import LATEST, PATH_OPTIONS, PER_CALL_OPTIONS, Options, checked_cuda_graphs, data_loader_kwargs
from training.presets import loss_of
from training.run import memory_estimate
from training.run.run_dir import RunDir, list_run_dirs
from training.tracker_options import parse_tracker

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset


# Options that may change when a run is resumed, and the fields of its configuration that follow from them.
_CHANGEABLE: dict[str, Callable[[Options], dict[str, Any]]] = {
    'kimg': lambda options: {'total_kimg': options.kimg},
    'snap': lambda options: {'image_snapshot_ticks': options.snap, 'network_snapshot_ticks': options.snap},
    'tick': lambda options: {'kimg_per_tick': options.tick},
    'metrics': lambda options: {'metrics': list(options.metrics)},
    'detectors': lambda options: {'detectors': options.detectors},
    'keep_states': lambda options: {'keep_states': options.keep_states},
    'strict_data': lambda options: {'strict_data': options.strict_data},
    'nobench': lambda options: {'cudnn_benchmark': not options.nobench},
    'deterministic': lambda options: {'deterministic': options.deterministic},
    'tracker': lambda options: {'trackers': parse_tracker(options.tracker)},
    'report': lambda options: {},  # only in the stored options
    # These depend on more than one option: see `resumed_config`.
    'cuda_graphs': lambda options: {},
    'data': lambda options: {},
    'gpus': lambda options: {},
    'batch_gpu': lambda options: {},
    'device': lambda options: {},
    'workers': lambda options: {},
}
_MAX_LINE_BYTES = 2**20  # of stats.jsonl; a line has a few thousand

_DECISIVE = [item.name for item in dataclasses.fields(Options) if item.name not in {*_CHANGEABLE, *PER_CALL_OPTIONS}]


@dataclasses.dataclass(frozen=True)
class ResumedRun:
    """A run that is resumed."""

    run_dir: str
    config: TrainingConfig  # as it was stored
    options: Options  # those stored, with the changes of this start
    changed: frozenset[str]  # names of the options given at this start
    has_moved_data: bool  # --data is another path than before; its content must be the same


def find_run(options: Options, given: set[str], required: bool = True) -> ResumedRun | None:
    """Return the run that `--resume-run=DIR|latest` means, or None to start a new one.

    Args:
        options: Options of the command line.
        given: Names of the options that were given explicitly.
        required: Raise an error if the run does not exist. False returns None instead: the first process, perhaps on
            another machine, reports the error.

    Raises:
        InvalidArgument: The directory is not a run, or options were given that would change its result.
    """
    run_dir = _latest_run(options) if options.resume_run == LATEST else options.resume_run
    if run_dir is None:
        return None
    run_dir = os.path.normpath(run_dir)
    stored = _read_stored(run_dir)
    if not required and stored is None:
        return None
    if stored is None or stored.options is None:
        raise InvalidArgument(
            'resume_run',
            f'{run_dir!r} is not the directory of a run that can be resumed: {_why_not_resumable(run_dir)}.',
        )
    before = _options_of(stored, run_dir)
    _check_unchanged(before, options, given, run_dir)
    _check_detectors(stored, options, given, run_dir)
    _check_files(run_dir)
    changed = frozenset(given & _CHANGEABLE.keys())
    merged = dataclasses.replace(
        before,
        outdir=os.path.dirname(run_dir),
        resume_run=run_dir,
        dry_run=options.dry_run,
        verify_data=options.verify_data,
        **{name: getattr(options, name) for name in changed},
    )
    return ResumedRun(run_dir, stored, merged, changed, not is_same_path(before.data, merged.data))


def _latest_run(options: Options) -> str | None:
    """Return the newest run in `--outdir` whose decisive options are the same."""
    for run_dir in list_run_dirs(options.outdir):
        try:
            stored = _read_stored(run_dir)
        except InvalidArgument:  # written by another program, or damaged
            continue
        if stored is None or stored.options is None:
            continue
        before = _options_of(stored, run_dir)
        if all(_change(name, before, options) is None for name in ('data', *_DECISIVE)):
            return run_dir
    return None


def _read_stored(run_dir: str) -> TrainingConfig | None:
    """Return the configuration of a run, or None if it has none."""
    path = RunDir(run_dir).options_json
    try:
        return TrainingConfig.from_json(read_file(path, MAX_BYTES), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgument('resume_run', f'{path} cannot be read: {error.strerror}.') from error
    except ValueError as error:
        raise InvalidArgument('resume_run', str(error)) from error


def _why_not_resumable(run_dir: str) -> str:
    if not os.path.isdir(run_dir):
        return 'it does not exist'
    path = RunDir(run_dir).options_json
    if not os.path.isfile(path):
        return f'it has no {os.path.basename(path)}'
    return 'it was written by a version without training states; start from its network pickle with --resume=PKL'


def _options_of(stored: TrainingConfig, run_dir: str) -> Options:
    """Return the options that a run was started with; options added since then have their defaults."""
    known = {item.name for item in dataclasses.fields(Options)} - {*PER_CALL_OPTIONS}
    values = {name: value for name, value in (stored.options or {}).items() if name in known}
    values['metrics'] = tuple(values.get('metrics', ()))
    return Options(outdir=os.path.dirname(run_dir), **values)


def _check_unchanged(before: Options, options: Options, given: set[str], run_dir: str) -> None:
    changes = [change for name in _DECISIVE if name in given and (change := _change(name, before, options))]
    if changes:
        raise InvalidArgument(
            'resume_run',
            f'{run_dir!r} continues with the options it was started with, but these differ: {", ".join(changes)}. '
            'Remove them, or start a new run from its network pickle with --resume=PKL.',
        )
    if 'outdir' in given and options.resume_run != LATEST:
        raise InvalidArgument(
            'outdir',
            f'the run of --resume-run continues in its own folder, {run_dir!r}: use only one of these two options.',
        )


def _change(name: str, before: Options, now: Options) -> str | None:
    """Return '--gamma=2 (it was 1)' if the option has changed."""
    old, new = _value(name, before), _value(name, now)
    are_paths = name in PATH_OPTIONS and isinstance(old, str) and isinstance(new, str) and old and new
    if old == new or (are_paths and is_same_path(old, new)):
        return None
    return f'{option_name(name)}={_as_text(new)} (it was {"not given" if old is None else _as_text(old)})'


def _value(name: str, options: Options) -> Any:
    """Return the value of an option; the loss of the preset if none was chosen."""
    value = getattr(options, name)
    return loss_of(options.cfg) if name == 'loss' and value is None else value


def is_same_path(one: str, other: str) -> bool:
    """Return whether two paths lead to the same file or folder."""
    return os.path.realpath(one) == os.path.realpath(other)


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f'{value:g}' if isinstance(value, float) else value


def _check_detectors(stored: TrainingConfig, options: Options, given: set[str], run_dir: str) -> None:
    """Require that the detectors of the run, whose files can contain code, are named on the command line again."""
    metrics = options.metrics if 'metrics' in given else stored.metrics
    if metrics and stored.detectors is not None and 'detectors' not in given:
        raise InvalidArgument(
            'resume_run',
            f'{run_dir!r} computes its metrics with the detectors in {excerpt(stored.detectors)!r}. Such files can '
            'contain code, so the folder of a run does not choose them: give --detectors again, or --metrics=none.',
        )


def _check_files(run_dir: str) -> None:
    """Reject a run that has lost its training states, and files that cannot be read or continued.

    A run that has not reached its first state may start over.
    """
    directory = RunDir(run_dir)
    special = directory.special_files()
    if special:
        raise InvalidArgument('resume_run', f'{special[0]} is not a regular file: remove it.')
    if directory.training_states():
        return
    try:
        with open_regular(directory.stats_jsonl) as file:
            has_ticks = file.read(_MAX_LINE_BYTES).count(b'\n') > 1
    except FileNotFoundError:
        return
    if has_ticks:
        raise InvalidArgument(
            'resume_run',
            f'{run_dir!r} no longer has a training state (training-state-*.pt): start a new run from its network '
            'pickle with --resume=PKL.',
        )


def check_networks(run: ResumedRun, config: TrainingConfig, dataset: ImageFolderDataset) -> None:
    """Check that the networks of a resumed run, whose options may have been edited, can be built and applied.

    Raises:
        InvalidArgument: They cannot.
    """
    try:
        memory_estimate.network_sizes(config, dataset)
    except Exception as error:  # keywords that do not fit together can make a constructor raise anything
        raise InvalidArgument(
            'resume_run',
            f'{RunDir(run.run_dir).options_json}: its networks cannot be built for the dataset '
            f'({excerpt(error) or type(error).__name__}).',
        ) from error


def resumed_config(run: ResumedRun, dataset: ImageFolderDataset, device: str, num_gpus: int) -> TrainingConfig:
    """Return the configuration with which a run continues over `num_gpus` processes on `device`.

    Raises:
        InvalidArgument: Its batch cannot be divided among them, an option is out of range, or the dataset has changed.
    """
    stored, options = run.config, run.options
    options.check()
    stored_path, num_images = stored.training_set_kwargs['path'], stored.training_set_kwargs.get('max_size')
    held_out = held_out_size(options.validation)
    if options.subset is None and num_images not in (None, len(dataset) - held_out):
        raise InvalidArgument(
            'resume_run',
            f'{run.run_dir!r} was trained on the {num_images + held_out} images of {options.data!r}, which now has '
            f'{len(dataset)}: restore the dataset as it was.',
        )
    path = stored_path if is_same_path(stored_path, options.data) else options.data
    changes: dict[str, Any] = {}
    for name in run.changed:
        changes.update(_CHANGEABLE[name](options))
    return dataclasses.replace(
        stored,
        num_gpus=num_gpus,
        device=device,
        batch_gpu=_resumed_batch_gpu(run, num_gpus),
        training_set_kwargs=dict(stored.training_set_kwargs, path=path),
        validation_set_kwargs=dict(stored.validation_set_kwargs, path=path)
        if stored.validation_set_kwargs and held_out
        else stored.validation_set_kwargs,
        data_loader_kwargs=data_loader_kwargs(options.workers, device),
        cuda_graphs=checked_cuda_graphs(options, device),
        run_dir=run.run_dir,
        options=options.to_stored(),
        **changes,
    )


def _resumed_batch_gpu(run: ResumedRun, num_gpus: int) -> int:
    """Return the number of images that a process handles at once."""
    stored = run.config
    if num_gpus == stored.num_gpus and 'batch_gpu' not in run.changed:
        return stored.batch_gpu  # `TrainingConfig.from_json` has checked it
    requested = run.options.batch_gpu if 'batch_gpu' in run.changed else None
    per_process = batch_per_process(stored.batch_size, num_gpus)
    batch_gpu = min(stored.batch_gpu, per_process) if requested is None else requested
    check_batch_gpu(stored.batch_size, num_gpus, batch_gpu, mbstd_group_of(stored))
    return batch_gpu
