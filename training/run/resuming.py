"""Which run goes on, and with which options: what `--resume-run` and `--resume=latest` come to.

A run keeps the options it was started with in its `training_options.json`. What decides about its result must stay as
it was; the rest may change from one start to the next, and `_CHANGEABLE` says what that is.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training import config as cfg
from training.config import LATEST, OF_THE_CALL, OPTIONS_FILE, PATH_OPTIONS, Options, TrainingConfig, wrong
from training.run.checkpoint import list_states

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset


# Options that may change when a run goes on → the fields of its configuration that follow.
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
    # These need the whole picture: see `continued_config`.
    'data': lambda options: {},
    'gpus': lambda options: {},
    'batch_gpu': lambda options: {},
    'device': lambda options: {},
    'workers': lambda options: {},
}
_DECISIVE = [item.name for item in dataclasses.fields(Options) if item.name not in {*_CHANGEABLE, *OF_THE_CALL}]


@dataclasses.dataclass(frozen=True)
class KeptRun:
    """A run that goes on."""

    run_dir: str
    config: TrainingConfig  # as it was kept
    options: Options  # those kept, with the changes of this start
    changed: frozenset[str]  # names of the options that this start gives
    has_moved_data: bool  # this start says that the dataset is in another place: it must be the same one


def find_run(options: Options, given: set[str], required: bool = True) -> KeptRun | None:
    """The run that `--resume-run=DIR|latest` means; None where there is none to go on with, and so a new one starts.

    Args:
        options: of the command line.
        given: names of those that were given rather than left to their defaults.
        required: False where another process, perhaps on another machine, knows the run: None where it is not here.

    Raises:
        click.BadParameter: the directory is no run, or options were given that would change its result.
    """
    run_dir = _latest_run(options) if options.resume_run == LATEST else options.resume_run
    if run_dir is None:
        return None
    run_dir = os.path.normpath(run_dir)
    kept = _read_kept(run_dir)
    if not required and kept is None:
        return None
    if kept is None or kept.options is None:
        raise wrong('--resume-run', f'{run_dir!r} is no folder of a run with training states: {_why_not(run_dir)}.')
    before = _options_of(kept, run_dir)
    changes = [_change(name, before, options) for name in _DECISIVE if name in given]
    changes = [change for change in changes if change is not None]
    if changes:
        raise wrong(
            '--resume-run',
            f'{run_dir!r} goes on with its own options, which {", ".join(changes)} would change: drop that, or start a '
            'new run from its network pickle with --resume=PKL.',
        )
    if 'outdir' in given and options.resume_run != LATEST:
        raise wrong('--outdir', f'the run of --resume-run goes on in its own folder, {run_dir!r}: drop one of the two.')
    _require_states(run_dir)
    changed = frozenset(given & _CHANGEABLE.keys())
    merged = dataclasses.replace(
        before,
        outdir=os.path.dirname(run_dir),
        resume_run=run_dir,
        dry_run=options.dry_run,
        verify_data=options.verify_data,
        **{name: getattr(options, name) for name in changed},
    )
    return KeptRun(run_dir, kept, merged, changed, not is_same_path(before.data, merged.data))


def _latest_run(options: Options) -> str | None:
    """The newest run in `--outdir` that was started with the same options, as far as they decide about the result."""
    folder = Path(options.outdir)
    names = [path.name for path in folder.iterdir() if re.match(r'\d{5}-', path.name)] if folder.is_dir() else []
    for name in sorted(names, reverse=True):
        run_dir = os.path.join(options.outdir, name)
        try:
            kept = _read_kept(run_dir)
        except click.BadParameter:  # not by this program, or torn
            continue
        if kept is None or kept.options is None:
            continue
        before = _options_of(kept, run_dir)
        if all(_change(option, before, options) is None for option in ('data', *_DECISIVE)):
            return run_dir
    return None


def _read_kept(run_dir: str) -> TrainingConfig | None:
    """The configuration of a run; None where it has none. Raises click.BadParameter where it cannot be read."""
    try:
        return TrainingConfig.from_json(Path(run_dir, OPTIONS_FILE).read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise wrong('--resume-run', f'{run_dir}/{OPTIONS_FILE} cannot be read: {error.strerror}.') from error
    except ValueError as error:
        raise wrong('--resume-run', f'{run_dir}/{OPTIONS_FILE}: {error}.') from error


def _why_not(run_dir: str) -> str:
    if not os.path.isdir(run_dir):
        return 'it does not exist'
    if not os.path.isfile(os.path.join(run_dir, OPTIONS_FILE)):
        return f'it has no {OPTIONS_FILE}'
    return 'it was written before there were any; start from its network pickle with --resume=PKL'


def _options_of(kept: TrainingConfig, run_dir: str) -> Options:
    """The options that a run was started with. Options that came later than the run have their defaults."""
    known = {item.name for item in dataclasses.fields(Options)} - {*OF_THE_CALL}
    values = {name: value for name, value in kept.options.items() if name in known}
    values['metrics'] = tuple(values.get('metrics', ()))
    return Options(outdir=os.path.dirname(run_dir), **values)


def _change(name: str, before: Options, now: Options) -> str | None:
    """'--gamma=2 (it was 1)' where the option decides otherwise now; None where it is the same."""
    old, new = getattr(before, name), getattr(now, name)
    if old == new or (name in PATH_OPTIONS and old and new and is_same_path(old, new)):
        return None
    option = '--' + name.replace('_', '-')
    return f'{option}={_shown(new)} (it was {"not given" if old is None else _shown(old)})'


def is_same_path(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f'{value:g}' if isinstance(value, float) else value


def _require_states(run_dir: str) -> None:
    """Only a run that has not come to its first state may start over: any other would be overwritten."""
    if list_states(run_dir):
        return
    try:
        ticks = len(Path(run_dir, 'stats.jsonl').read_bytes().splitlines())
    except FileNotFoundError:
        return
    if ticks > 1:
        raise wrong(
            '--resume-run',
            f'{run_dir!r} has no training state (training-state-*.pt) any more: start a new run from its network '
            'pickle with --resume=PKL.',
        )


def continued_config(run: KeptRun, dataset: ImageFolderDataset, device: str, num_gpus: int) -> TrainingConfig:
    """The configuration with which a run goes on over `num_gpus` processes on `device`.

    Raises click.BadParameter where its batch cannot be shared out like that, or the dataset is another.
    """
    kept, options = run.config, run.options
    data_path, num_images = kept.training_set_kwargs['path'], kept.training_set_kwargs.get('max_size')
    if not is_same_path(data_path, options.data):
        data_path = options.data
    if options.subset is None and num_images != len(dataset):
        raise wrong(
            '--resume-run',
            f'{run.run_dir!r} was trained on the {num_images} images of {options.data!r}, which now has '
            f'{len(dataset)}: put the dataset of that time there.',
        )
    batch_gpu = kept.batch_gpu
    if num_gpus != kept.num_gpus or 'batch_gpu' in run.changed:
        mbstd_group = kept.D_kwargs['epilogue_kwargs']['mbstd_group_size']
        share = cfg.share_of_batch(kept.batch_size, num_gpus)
        batch_gpu = options.batch_gpu if 'batch_gpu' in run.changed else min(kept.batch_gpu, share)
        cfg.check_batch_gpu(kept.batch_size, num_gpus, batch_gpu, mbstd_group)
    changes = {}
    for name in run.changed:
        changes.update(_CHANGEABLE[name](options))
    return dataclasses.replace(
        kept,
        num_gpus=num_gpus,
        device=device,
        batch_gpu=batch_gpu,
        training_set_kwargs=dict(kept.training_set_kwargs, path=data_path),
        data_loader_kwargs=cfg.data_loader_kwargs(options.workers, device),
        run_dir=run.run_dir,
        options=options.to_keep(),
        **changes,
    )
