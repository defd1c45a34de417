"""Compile the CPU's kernels once for each machine, and find them again.

What was built lies in a folder named after everything that it was built from: the sources, the compiler, its flags and
the processor. A library appears there under its name when it is complete; a build that is killed leaves a partial file
that nobody reads and a lock that its process took along.
"""

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
import uuid
from pathlib import Path

COMPILERS = ('c++', 'g++', 'clang++')  # after $CXX
FLAGS = ('-std=c++17', '-O3', '-fno-math-errno', '-fno-trapping-math', '-fPIC', '-shared')
# The first that a compiler knows: its own processor's instructions and threads, then less.
VARIANTS = (('-march=native', '-fopenmp'), ('-march=native', '-fopenmp-simd'), ('-fopenmp-simd',), ())
COMPILE_LIMIT_SEC = 120
LOCK_LIMIT_SEC = 60  # Then whoever holds it has stopped, and two builds at once do no harm.
PARTIAL_LIMIT_SEC = 3600  # A partial file of this age belongs to a build that was killed.


class BuildError(Exception):
    """Why there is no library, as a sentence with the way out."""


def cache_folder():
    """Where PyTorch keeps extensions: `TORCH_EXTENSIONS_DIR`, or `torch_extensions` in the user's cache."""
    named = os.environ.get('TORCH_EXTENSIONS_DIR')
    if named:
        return Path(named)
    if sys.platform == 'darwin':
        return Path('~/Library/Caches/torch_extensions').expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'torch_extensions'


def writable_folder(name):
    """The folder `name` in the cache; where that cannot be written, in the system's folder for temporary files.

    Returns (path, reason): the reason tells why it is not in the cache, or is None. Raises BuildError.
    """
    wanted = cache_folder() / name
    reason = _why_not_writable(wanted)
    if reason is None:
        return wanted, None
    owner = f'-{os.getuid()}' if hasattr(os, 'getuid') else ''
    other = Path(tempfile.gettempdir()) / f'torch_extensions{owner}' / name
    with contextlib.suppress(OSError):
        other.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(other.parent) or _why_not_writable(other) is not None:
        raise BuildError(
            f'neither {wanted} ({reason}) nor {other} can be written; set TORCH_EXTENSIONS_DIR to a folder of yours'
        )
    return other, f'{wanted} cannot be written ({reason})'


def _why_not_writable(folder):
    """None for a folder in which files can be made (which this does try), else what the system says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _is_private(folder):
    """Whether nobody else can have put something there: what lies in a shared folder would be run."""
    if not hasattr(os, 'getuid'):
        return True
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def shared_library(name, sources, main):
    """Path of the library that `main` (one of the files `sources`) is compiled to, from the cache if it is there.

    Raises BuildError.
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
    if not library.exists():
        with _lock(folder / 'lock'):
            if not library.exists():  # Another process may have made it while this one waited.
                _remove_old_partials(folder)
                _compile(compiler, Path(main), library)
    if reason is not None:
        print(f'The CPU kernels are in {folder}, as {reason}.', file=sys.stderr)
    return library


def build_time_sec(library):
    """How long it took to compile, where that is on record."""
    try:
        return float(library.with_suffix('.seconds').read_text())
    except (OSError, ValueError):
        return None


def find_compiler():
    """(command, what it says of its version) of the first C++ compiler that runs. Raises BuildError."""
    named = os.environ.get('CXX')
    candidates = [shlex.split(named)] if named else []
    for command in (*candidates, *([name] for name in COMPILERS)):
        if not command or shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(
                [*command, '--version'],
                capture_output=True,
                text=True,
                timeout=COMPILE_LIMIT_SEC,
                stdin=subprocess.DEVNULL,
                errors='replace',
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return tuple(command), done.stdout
    raise BuildError('no C++ compiler that runs was found; install g++ or clang++, or set CXX')


@functools.cache
def processor():
    """What -march=native depends on."""
    try:
        lines = Path('/proc/cpuinfo').read_text(errors='replace').split('\n\n')[0].splitlines()
    except OSError:
        return f'{platform.machine()} {platform.processor()}'
    wanted = ('vendor_id', 'cpu family', 'model', 'model name', 'flags', 'Features', 'CPU part')
    return '\n'.join(line for line in lines if line.partition(':')[0].strip() in wanted) or platform.machine()


def _compile(compiler, main, library):
    partial = library.with_name(f'{library.stem}.{uuid.uuid4().hex}.partial')
    start = time.perf_counter()
    errors = []
    try:
        for variant in VARIANTS:
            command = [*compiler, *FLAGS, *variant, str(main), '-o', str(partial)]
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    errors='replace',
                    timeout=COMPILE_LIMIT_SEC,
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildError(f'{shlex.join(compiler)} did not finish ({error})') from error
            if done.returncode == 0 and partial.exists():
                library.with_suffix('.seconds').write_text(f'{time.perf_counter() - start:.1f}')
                os.replace(partial, library)
                return
            errors.append(_first_error(done.stderr) or f'exit status {done.returncode}')
    except OSError as error:
        raise BuildError(f'{library.parent} cannot be written ({error.strerror})') from error
    finally:
        partial.unlink(missing_ok=True)
    raise BuildError(
        f'{shlex.join(compiler)} cannot compile {main.name} ({errors[-1]}); '
        'install another compiler, or name one in CXX'
    )


def _first_error(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if 'error' in line.lower()), lines[0] if lines else '')[:200]


@contextlib.contextmanager
def _lock(path):
    """Only one process at a time within this context. The system takes the lock back when its holder ends."""
    try:
        import fcntl
    except ImportError:  # Then two may build the same; the last one's stays.
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
            except OSError:  # Some network file systems have none.
                break
        yield


def _remove_old_partials(folder):
    for partial in folder.glob('*.partial'):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > PARTIAL_LIMIT_SEC:
                partial.unlink()
