"""dnnlib.machine: freed memory stays with the process unless the environment configures the allocator."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Prints whether a large block of memory causes page faults after another one of the same size was freed.
CODE = """
import ctypes, resource, sys
import dnnlib.cli, dnnlib.machine
if 'keep' in sys.argv:
    print(dnnlib.machine.keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 64 << 20
def touch():
    piece = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(piece, 1, size)
    libc.free(ctypes.c_void_p(piece))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > 1000)
"""


def run(*args, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'GLIBC_'))}
    done = subprocess.run(
        [sys.executable, '-c', CODE, *args],
        env={**environment, 'PYTHONPATH': str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='requires glibc')
def test_freed_memory_is_kept_on_request():
    assert run('keep') == ['True', 'False']
    assert run() == ['True']  # An import changes nothing.


@pytest.mark.parametrize(
    'settings',
    [
        {'MALLOC_MMAP_THRESHOLD_': '100000'},
        {'MALLOC_TRIM_THRESHOLD_': '100000'},
        {'GLIBC_TUNABLES': 'glibc.malloc.mmap_max=100000'},
    ],
)
def test_the_environment_takes_precedence(settings):
    assert run('keep', **settings)[0] == 'False'


WHEN_PYTORCH_IS_IMPORTED = """
import importlib.abc, os, runpy, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'torch':
            print(os.environ.get('GOMP_SPINCOUNT'), file=sys.stderr)

sys.meta_path.insert(0, Watch())
sys.argv[1:] = ['--help']
runpy.run_path(SCRIPT, run_name='__main__')
"""
ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob('*.py') if path.name != 'setup.py')


@pytest.mark.parametrize(
    'script, settings, expected',
    [
        *((script, {}, '1000') for script in SCRIPTS),
        ('style_mixing.py', {'GOMP_SPINCOUNT': '7'}, '7'),
        ('style_mixing.py', {'OMP_WAIT_POLICY': 'active'}, 'None'),
    ],
)
def test_scripts_limit_how_long_threads_spin_before_they_import_pytorch(script, settings, expected):
    others = {name: value for name, value in os.environ.items() if not name.startswith(('GOMP_', 'OMP_'))}
    program = WHEN_PYTORCH_IS_IMPORTED.replace('SCRIPT', repr(str(ROOT / script)))
    result = subprocess.run(
        [sys.executable, '-c', program], env=others | settings, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.split()[:1] in ([], [expected])  # Some scripts do not import PyTorch for their help.
    assert result.stderr or script in ('calc_metrics.py', 'dataset_tool.py', 'push.py', 'report.py', 'train.py')
