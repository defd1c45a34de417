"""Commands on the rehearsal device, each a process of its own: see `tests.rehearsal`."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests import rehearsal
from tests.small_runs import ROOT, words

REHEARSAL_IS_POSSIBLE = pytest.mark.skipif(
    torch.version.cuda is not None or sys.platform != 'linux' or shutil.which('g++') is None,
    reason='needs the CPU build of PyTorch, Linux and g++',
)
# For each command. On a machine that is busy with other things, it has to be longer.
TIMEOUT_SEC = float(os.environ.get('REHEARSAL_TIMEOUT_SEC', 280))


def run(command, devices=1, timeout=TIMEOUT_SEC, **variables):
    """Run a command on a machine with so many devices."""
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,
        **rehearsal.environment(devices, **variables),
    }
    return subprocess.run(words(*command), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def successful(command, devices=1, **variables):
    """The same, for a command that must succeed."""
    result = run(command, devices, **variables)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    return result


def script(name, *args):
    """The command of a script in the project's root."""
    return [sys.executable, ROOT / name, *args]


def on_both(command, folder, devices=2, **variables):
    """Run `command(device, outdir)` on the CPU and on the last device; return both output folders."""
    folders = []
    for device in ('cpu', f'cuda:{devices - 1}'):
        outdir = folder / device.replace(':', '')
        successful(command(f'--device={device}', outdir), devices, **variables)
        folders.append(outdir)
    return folders
