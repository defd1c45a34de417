"""The process of one tracker: it gets messages from `training.run.tracking` and calls the package of the tracker.

    python tracker_process.py          JSON lines on stdin, an answer to each on stdout

The package has a process of its own, so that nothing that it does can end, disturb or slow the training: it may raise
errors, hang, crash, draw random numbers, or print. What it prints is discarded, and errors are answers.

Nothing leaves this machine unless the environment says so: runs of wandb are offline without WANDB_MODE, those of
mlflow are in the run directory without MLFLOW_TRACKING_URI, and those of trackio stay in its local database without
TRACKIO_SPACE_ID or TRACKIO_SERVER_URL.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

PROJECT = 'ada-gan'
EXIT_SEC = 60  # how long the package may take to finish after the training process has ended
MAX_ANSWER = 2000

Message = dict[str, Any]


class Tracker(Protocol):
    """What this process calls; everything may raise anything. `logged_step` is the last step of an earlier start."""

    logged_step: int

    def log(self, message: Message) -> None:
        """Record numbers: `values` by name, `step` in images shown, `time` in seconds since 1970."""

    def image(self, message: Message) -> None:
        """Record the image in the file `path` under a name."""

    def finish(self, state: str) -> None:
        """End the run: 'finished', 'stopped' by a signal, or 'failed'."""


class WandbTracker:
    """Weights & Biases."""

    logged_step = -1

    def __init__(self, start: Message):
        import wandb

        self._wandb = wandb
        mode = os.environ.get('WANDB_MODE') or 'offline'
        private = dict(  # about this machine and this program
            console='off',
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host='',
            program='',
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        known = getattr(wandb.Settings, 'model_fields', private)
        own_folder(start, 'wandb')
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT') or PROJECT,
            id=start['id'],
            name=start['name'],
            config=start['config'],
            dir=start['run_dir'],
            mode=mode,
            resume='allow' if mode == 'online' else None,
            settings=wandb.Settings(**{name: value for name, value in private.items() if name in known}),
        )

    def log(self, message: Message) -> None:
        self._run.log(message['values'], step=message['step'])

    def image(self, message: Message) -> None:
        self._run.log({message['name']: self._wandb.Image(message['path'])}, step=message['step'])

    def finish(self, state: str) -> None:
        self._run.summary['state'] = state
        self._run.finish(exit_code=int(state == 'failed'))


class TrackioTracker:
    """Trackio of Hugging Face."""

    def __init__(self, start: Message):
        import trackio

        self._trackio = trackio
        quiet = dict(auto_log_gpu=False, auto_log_cpu=False, embed=False)
        known = inspect.signature(trackio.init).parameters
        self._run = trackio.init(
            project=os.environ.get('TRACKIO_PROJECT') or PROJECT,
            name=f'{start["name"]}-{start["id"][:8]}',  # names identify runs
            config=start['config'],
            resume='allow',
            **{name: value for name, value in quiet.items() if name in known},
        )
        self.logged_step = int(getattr(self._run, '_next_step', 0)) - 1

    def log(self, message: Message) -> None:
        self._trackio.log(message['values'], step=message['step'])

    def image(self, message: Message) -> None:
        self._trackio.log({message['name']: self._trackio.Image(message['path'])}, step=message['step'])

    def finish(self, state: str) -> None:
        self._trackio.finish()


class MlflowTracker:
    """MLflow."""

    STATES = {'finished': 'FINISHED', 'stopped': 'KILLED'}
    ID_TAG = 'ada_gan.id'
    PARAMETERS = 100  # in one call
    MAX_PARAMETER = 500  # characters

    def __init__(self, start: Message):
        import mlflow
        from mlflow import entities

        self._entities = entities
        uri, location = os.environ.get('MLFLOW_TRACKING_URI'), None
        if not uri:
            folder = own_folder(start, 'mlflow')
            uri = f'sqlite:///{folder / "mlflow.db"}'
            location = (folder / 'artifacts').as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._experiment(location)
        runs = self._client.search_runs([experiment], f"tags.`{self.ID_TAG}` = '{start['id']}'", max_results=1)
        run = runs[0] if runs else self._client.create_run(experiment, tags=self._tags(start), run_name=start['name'])
        self._run_id, self.logged_step = run.info.run_id, -1
        if runs:
            self.logged_step = round(run.data.metrics.get('Progress/kimg', -1e-3) * 1000)
            self._client.update_run(self._run_id, status='RUNNING')
        else:
            self._log_parameters(start['config'])
        # A database from elsewhere does not decide where files are written.
        self._has_place = location is None or run.info.artifact_uri.startswith(f'{location}/')

    def _experiment(self, location: str | None) -> str:
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME') or PROJECT
        known = self._client.get_experiment_by_name(name)
        return known.experiment_id if known else self._client.create_experiment(name, artifact_location=location)

    def _tags(self, start: Message) -> dict[str, str]:
        return {self.ID_TAG: start['id'], 'mlflow.user': '', 'mlflow.source.name': PROJECT}

    def _log_parameters(self, config: Message) -> None:
        pairs = [self._entities.Param(key, str(value)[: self.MAX_PARAMETER]) for key, value in flattened(config)]
        for first in range(0, len(pairs), self.PARAMETERS):
            self._client.log_batch(self._run_id, params=pairs[first : first + self.PARAMETERS])

    def log(self, message: Message) -> None:
        milliseconds = int(message['time'] * 1000)
        values = message['values'].items()
        metrics = [self._entities.Metric(name, value, milliseconds, message['step']) for name, value in values]
        self._client.log_batch(self._run_id, metrics=metrics)

    def image(self, message: Message) -> None:
        if not self._has_place:
            raise ValueError('its database says that images are elsewhere, because the run directory was moved')
        self._client.log_artifact(self._run_id, message['path'], artifact_path='images')

    def finish(self, state: str) -> None:
        self._client.set_terminated(self._run_id, self.STATES.get(state, 'FAILED'))


TRACKERS: dict[str, Callable[[Message], Tracker]] = {
    'wandb': WandbTracker,
    'trackio': TrackioTracker,
    'mlflow': MlflowTracker,
}


def own_folder(start: Message, name: str) -> Path:
    """Return a folder of the run directory, which is created; it is an error if something in it leads elsewhere."""
    folder = Path(start['run_dir'], name)
    if folder.is_symlink():
        raise ValueError(f'{name} in the run directory is a symbolic link: remove it')
    folder.mkdir(exist_ok=True)
    folder = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, entry) for entry in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(folder):  # wandb has links within its folder
                link = Path(name) / path.relative_to(folder)
                raise ValueError(f'{link} in the run directory is a symbolic link that leads out of {name}: remove it')
    return folder


def flattened(config: Message, prefix: str = '') -> list[tuple[str, Any]]:
    """Return the values of nested dictionaries with names like 'G_kwargs.z_dim'."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        pairs += flattened(value, f'{prefix}{key}.') if isinstance(value, dict) else [(f'{prefix}{key}', value)]
    return pairs


# ---------------------------------------------------------------------------------------------------------------------
# Messages


def handle(tracker: Tracker | None, message: Message) -> Tracker:
    """Do what a message says, and return the tracker, which the first one starts."""
    if tracker is None:
        return TRACKERS[message['tracker']](message)
    if message['do'] == 'finish':
        tracker.finish(message['state'])
    elif message['step'] > tracker.logged_step:  # otherwise repeated after a resume
        getattr(tracker, message['do'])(message)
    return tracker


def serve(answers: Any) -> None:
    """Handle messages until the last one, or until the training process has ended; then its run has failed."""
    tracker: Tracker | None = None
    for line in sys.stdin.buffer:
        message = json.loads(line)
        try:
            tracker = handle(tracker, message)
            answer = ''
        except BaseException as error:  # even SystemExit: a package must not decide
            answer = f'{type(error).__name__}: {error}'[:MAX_ANSWER]
        with contextlib.suppress(OSError):  # the training process may have ended
            answers.write(f'{json.dumps(answer)}\n'.encode())
            answers.flush()
        if tracker is None or message['do'] == 'finish':
            return
    if tracker is not None:
        with contextlib.suppress(BaseException):
            tracker.finish('failed')


def exit_after_parent(parent: int) -> None:
    """Wait for the end of the training process, then end this process when its time is over."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(EXIT_SEC)
    os._exit(1)


def main() -> None:
    """Run as a process of `training.run.tracking`."""
    answers = os.fdopen(os.dup(1), 'wb')
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    threading.Thread(target=exit_after_parent, args=(os.getppid(),), daemon=True).start()
    try:
        serve(answers)
    finally:
        answers.close()
        os._exit(0)  # without what packages do when Python ends, which may take forever


if __name__ == '__main__':
    sys.path.pop(0)  # this folder, whose modules are not top-level ones
    main()
