"""Where the numbers of a run come from: `provenance.json` in its directory, with an entry for each start."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
import torch

from dnnlib.errors import error_sentence
from dnnlib.files import atomic_file
from dnnlib.json_input import read_json
from dnnlib.machine import processor_name
from dnnlib.text import message_line
from training import schema
from training.config import TrainingConfig
from training.data.digest import content_sha256
from training.dataset import ImageFolderDataset
from training.run.run_dir import RunDir

_ROOT = Path(__file__).resolve().parents[2]
_GIT_TIMEOUT_SEC = 10
_DIGEST_WAIT_SEC = 1


def record(config: TrainingConfig, dataset: ImageFolderDataset, device: torch.device) -> None:
    """Add an entry for a start, and close the dataset; its digest is added when a background computation finishes."""

    def digest() -> str:
        try:
            return content_sha256(dataset, verbose=False)
        finally:
            dataset.close()

    assert config.run_dir is not None
    record_start(config.run_dir, config.options, device)
    record_dataset(config.run_dir, digest)


def record_start(run_dir: str, options: dict[str, Any] | None, device: torch.device) -> None:
    """Add an entry for the start of a process that trains in `run_dir`.

    Args:
        run_dir: Directory of the run.
        options: Options of the command line.
        device: Where the networks run.
    """
    entry = {
        'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        'command': shlex.join(sys.argv),
        'options': options,
        'git': _git_state(),
        'versions': {
            'python': platform.python_version(),
            'torch': str(torch.__version__),
            'cuda': torch.version.cuda,
            'numpy': np.__version__,
            'scipy': scipy.__version__,
            'pillow': PIL.__version__,
        },
        'platform': platform.platform(),
        'processor': processor_name(),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
        'threads': torch.get_num_threads(),
        'dataset_sha256': None,
    }
    _write(run_dir, [*read(run_dir), entry])


def record_dataset(run_dir: str, content_sha256: Callable[[], str]) -> None:
    """Add the digest of the dataset to the last entry, and print a warning if it is not that of the first entry.

    Training does not wait for this, because reading a large dataset takes minutes.

    Args:
        run_dir: Directory of the run.
        content_sha256: Computes the digest. If it raises an OSError or a ValueError, the entry has no digest.
    """
    thread = threading.Thread(target=_record_dataset, args=(run_dir, content_sha256), daemon=True)
    thread.start()
    thread.join(_DIGEST_WAIT_SEC)


def _record_dataset(run_dir: str, content_sha256: Callable[[], str]) -> None:
    try:
        digest = content_sha256()
        entries = read(run_dir)
        if _first_digest(entries) not in (None, digest):
            print('The dataset is not the one that this run started with: its files have changed since.', flush=True)
        if entries:
            entries[-1]['dataset_sha256'] = digest
            _write(run_dir, entries)
    except (OSError, ValueError) as error:
        path = RunDir(run_dir).provenance_json
        print(f'{path} has no digest of the dataset: {message_line(error)}', file=sys.stderr, flush=True)


def dataset_sha256(run_dir: str) -> str | None:
    """Return the digest of the dataset that a run started with, or None if it is not known."""
    return _first_digest(read(run_dir))


def _first_digest(entries: list[dict[str, Any]]) -> str | None:
    return next((entry['dataset_sha256'] for entry in entries if entry.get('dataset_sha256')), None)


def read(run_dir: str) -> list[dict[str, Any]]:
    """Return the entries of a run, oldest first; [] if the file does not exist, or is not valid, which is printed."""
    path = RunDir(run_dir).provenance_json
    try:
        entries = read_json(path)
        schema.PROVENANCE.check(entries, path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        print(f'{error_sentence(error) or path} Its entries are ignored.', file=sys.stderr, flush=True)
        return []
    return entries


def _write(run_dir: str, entries: list[dict[str, Any]]) -> None:
    with atomic_file(RunDir(run_dir).provenance_json) as file:
        file.write(f'{json.dumps(entries, indent=2)}\n'.encode())


def _git_state() -> dict[str, Any] | None:
    """Return the commit of this program and whether files differ from it, or None outside of its repository."""
    top = _git('rev-parse', '--show-toplevel')
    if top is None or Path(top).resolve() != _ROOT:
        return None
    changes = _git('status', '--porcelain', '--untracked-files=no')
    return {'commit': _git('rev-parse', 'HEAD'), 'dirty': None if changes is None else changes != ''}


def _git(*args: str) -> str | None:
    """Return the output of a git command, or None if it fails or git is not installed."""
    command = ['git', '-C', str(_ROOT), *args]
    environment = {name: value for name, value in os.environ.items() if not name.startswith('GIT_')}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_SEC, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
