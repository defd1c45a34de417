"""What all tests share: few threads, golden files, scripts run as real processes."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

try:
    import torch
except ModuleNotFoundError:  # scripts/check_versions.py also runs what needs no PyTorch, where there is none
    torch = None

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / 'tests' / 'golden'

# The tensors of the tests are small, and pytest-xdist already keeps every core busy.
_NUM_THREADS = 1
if torch is not None:
    torch.set_num_threads(_NUM_THREADS)
os.environ['OMP_NUM_THREADS'] = str(_NUM_THREADS)  # for the processes that tests start

# A shell starts what it runs in the background with interrupts ignored, and processes inherit that: here some tests
# send interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _unchanged_precision():
    """A context within which the precision of products may change."""
    if torch is None:
        return contextlib.nullcontext()
    from torch_utils import precision

    return precision.unchanged_setting()


@pytest.fixture(autouse=True, scope='module')
def _same_precision_for_all_modules():
    """A training that a fixture runs in this process chooses the precision of products for the whole process."""
    with _unchanged_precision():
        yield


@pytest.fixture(autouse=True)
def _same_precision_for_all():
    """... and so does one that a test runs."""
    with _unchanged_precision():
        yield


@pytest.fixture(scope='session')
def golden():
    """Function: name of an npz in tests/golden → dict of its arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / name, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}

    return load


@pytest.fixture(scope='session')
def golden_path():
    """Function: name of a file in tests/golden → its path."""
    return lambda name: GOLDEN / name


@pytest.fixture(scope='session')
def read_video():
    """Function: path of a video → its frames, uint8 [T, H, W, 3], as a player shows them."""
    imageio_ffmpeg = pytest.importorskip('imageio_ffmpeg')

    def read(path: str | os.PathLike) -> np.ndarray:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-i', os.fspath(path)]
        pictures = subprocess.run([*command, '-f', 'image2pipe', '-c:v', 'ppm', '-'], capture_output=True, check=True)
        magic, size, depth = pictures.stdout.split(b'\n', 3)[:3]
        width, height = map(int, size.split())
        assert (magic, depth) == (b'P6', b'255')
        header = len(magic) + len(size) + len(depth) + 3
        frames = np.frombuffer(pictures.stdout, np.uint8).reshape(-1, header + height * width * 3)
        return frames[:, header:].reshape(-1, height, width, 3)

    return read


@pytest.fixture
def run_script(tmp_path):
    """Function: run a script of this repository in a process of its own, in the test's own folder.

    `run_script('generate.py', '--help')` → CompletedProcess with text output. `env` adds to the environment, `timeout`
    is in seconds.
    """

    def run(script: str, *args: object, env: dict[str, str] | None = None, timeout: float = 120, **kwargs):
        environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join(filter(None, [os.environ.get('PYTHONPATH'), str(ROOT)])),
            'PYTHONDONTWRITEBYTECODE': '1',
            'OMP_NUM_THREADS': str(_NUM_THREADS),
            **(env or {}),
        }
        command = [sys.executable, str(ROOT / script), *map(str, args)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, **kwargs
        )

    return run
