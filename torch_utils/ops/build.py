"""Compilation of the CPU kernels, once per machine, and the cache of compiled libraries.

The name of a library contains a hash of everything that it depends on: the sources, the compiler, its flags and the
processor. A library gets its name only when it is complete. A build that is killed leaves a folder that the next
process removes, and a lock that the system releases when the process ends.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dnnlib.scratch import partial_of, remove_abandoned

COMPILERS = ('c++', 'g++', 'clang++')  # tried after $CXX
FLAGS = ('-std=c++17', '-O3', '-fno-math-errno', '-fno-trapping-math', '-fPIC', '-shared')
# Additional flags, best first: the first variant that the compiler accepts is used.
VARIANTS = (('-march=native', '-fopenmp'), ('-march=native', '-fopenmp-simd'), ('-fopenmp-simd',), ())
COMPILE_LIMIT_SEC = 120
LOCK_LIMIT_SEC = 60  # After this time the holder has probably stopped; two simultaneous builds do no harm.


class BuildError(Exception):
    """The reason why there is no library, in one sentence with a way out."""


# ---------------------------------------------------------------------------------------------------------------------
# Cache


def cache_folder() -> Path:
    """Return PyTorch's folder for extensions: `TORCH_EXTENSIONS_DIR`, or `torch_extensions` in the user's cache."""
    named = os.environ.get('TORCH_EXTENSIONS_DIR')
    if named:
        return Path(named)
    if sys.platform == 'darwin':
        return Path('~/Library/Caches/torch_extensions').expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'torch_extensions'


def writable_folder(name: str) -> tuple[Path, str | None]:
    """Return a writable folder: `name` in the cache or, if that cannot be written, in the folder for temporary files.

    Returns:
        The path, and the reason why it is not in the cache, or None if it is.

    Raises:
        BuildError: Neither folder can be written.
    """
    preferred = cache_folder() / name
    reason = _reason_not_writable(preferred)
    if reason is None:
        return preferred, None
    owner = f'-{os.getuid()}' if hasattr(os, 'getuid') else ''
    fallback = Path(tempfile.gettempdir()) / f'torch_extensions{owner}' / name
    with contextlib.suppress(OSError):
        fallback.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(fallback.parent) or _reason_not_writable(fallback) is not None:
        raise BuildError(
            f'neither {preferred} ({reason}) nor {fallback} can be written; set TORCH_EXTENSIONS_DIR to a folder '
            'that you own'
        )
    return fallback, f'{preferred} cannot be written ({reason})'


def _reason_not_writable(folder: Path) -> str | None:
    """Try to create a file in a folder, which is created if needed; return the system's error message, or None."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _is_private(folder: Path) -> bool:
    """Return whether only this user can write to a folder: libraries in a shared folder could be anyone's code."""
    if not hasattr(os, 'getuid'):
        return True
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def shared_library(name: str, sources: Sequence[Path], main: Path) -> Path:
    """Return the path of a compiled library, from the cache if it has been compiled before.

    Args:
        name: Name of the library.
        sources: All files that the library depends on.
        main: The one of them to compile.

    Raises:
        BuildError: The library cannot be compiled.
    """
    compiler, version = find_compiler()
    key = hashlib.sha256()
    for part in (
        *(Path(source).read_bytes() for source in sorted(sources)),
        version.encode(),
        repr((compiler, FLAGS, VARIANTS)).encode(),
        processor().encode(),
    ):
        key.update(hashlib.sha256(part).digest())
    folder, reason = writable_folder(f'ada_gan_{name}')
    library = folder / f'{name}-{key.hexdigest()[:20]}.so'
    remove_abandoned(folder)
    if not library.exists():
        with _lock(folder / 'lock'):
            if not library.exists():  # Another process may have compiled it in the meantime.
                _compile(compiler, Path(main), library)
    if reason is not None:
        print(f'The CPU kernels are stored in {folder}, because {reason}.', file=sys.stderr)
    return library


def build_time_sec(library: Path) -> float | None:
    """Return how long it took to compile a library, or None if that is unknown."""
    try:
        return float(library.with_suffix('.seconds').read_text())
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Compiler


def find_compiler() -> tuple[tuple[str, ...], str]:
    """Return the command of the first C++ compiler that works, and its output for --version.

    Raises:
        BuildError: There is no such compiler.
    """
    named = os.environ.get('CXX')
    candidates = [shlex.split(named)] if named else []
    for command in (*candidates, *([name] for name in COMPILERS)):
        if not command or shutil.which(command[0]) is None:
            continue
        try:
            done = _run([*command, '--version'])
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return tuple(command), done.stdout
    raise BuildError('no working C++ compiler was found; install g++ or clang++, or set CXX')


@functools.cache
def processor() -> str:
    """Return a description of the processor that contains everything -march=native depends on."""
    try:
        lines = Path('/proc/cpuinfo').read_text(errors='replace').split('\n\n')[0].splitlines()
    except OSError:
        return f'{platform.machine()} {platform.processor()}'
    fields = ('vendor_id', 'cpu family', 'model', 'model name', 'flags', 'Features', 'CPU part')
    return '\n'.join(line for line in lines if line.partition(':')[0].strip() in fields) or platform.machine()


def _run(command: Sequence[str], scratch: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors='replace',
        timeout=COMPILE_LIMIT_SEC,
        stdin=subprocess.DEVNULL,
        env=None if scratch is None else {**os.environ, 'TMPDIR': str(scratch)},
    )


def _compile(compiler: Sequence[str], main: Path, library: Path) -> None:
    start = time.perf_counter()
    errors = []
    try:
        with partial_of(library, is_folder=True) as scratch:
            result = scratch / library.name
            for variant in VARIANTS:
                try:
                    done = _run([*compiler, *FLAGS, *variant, str(main), '-o', str(result)], scratch)
                except (OSError, subprocess.TimeoutExpired) as error:
                    raise BuildError(f'{shlex.join(compiler)} did not finish ({error})') from error
                if done.returncode == 0 and result.exists():
                    library.with_suffix('.seconds').write_text(f'{time.perf_counter() - start:.1f}')
                    os.replace(result, library)
                    return
                errors.append(_first_error(done.stderr) or f'exit status {done.returncode}')
    except OSError as error:
        raise BuildError(f'{library.parent} cannot be written ({error.strerror})') from error
    raise BuildError(
        f'{shlex.join(compiler)} cannot compile {main.name} ({errors[-1]}); '
        'install another compiler, or set CXX to one that works'
    )


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if 'error' in line.lower()), lines[0] if lines else '')[:200]


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Within this context, exclude other processes. The system releases the lock when its holder ends."""
    try:
        import fcntl
    except ImportError:  # Then two processes may compile the same library; the last one replaces the other.
        yield
        return
    deadline = time.monotonic() + LOCK_LIMIT_SEC
    with open(path, 'w') as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # Some network file systems do not support locks.
                break
        yield
