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
