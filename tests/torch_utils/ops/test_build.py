"""Compilation of the CPU kernels: caching, missing or broken compilers, read-only caches, killed builds."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnnlib import scratch
from torch_utils.ops import build

ROOT = Path(__file__).resolve().parents[3]

# Compiles nothing: appends its arguments to a log, and copies the "source" to the path of the library.
COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo compiler 1.0; exit 0; fi
echo "$@" >> "{log}"
{before}
for last; do :; done
cp "{source}" "$last"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a cache of its own and a fast compiler."""
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(build.tempfile, 'gettempdir', lambda: str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    source = tmp_path / 'kernels.cpp'
    source.write_text('int answer() { return 42; }')
    use_compiler(tmp_path, monkeypatch)
    return tmp_path


def use_compiler(folder, monkeypatch, before=''):
    compiler = folder / 'compiler'
    compiler.write_text(COMPILER.format(log=folder / 'log', source=folder / 'kernels.cpp', before=before))
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))


def library_of(place):
    return build.shared_library('tiny', [place / 'kernels.cpp'], place / 'kernels.cpp')


def compilations(place):
    return (place / 'log').read_text().splitlines() if (place / 'log').exists() else []


def process(place, **kwargs):
    """Another Python process that builds the same library and prints its path."""
    code = (
        f'from torch_utils.ops import build; '
        f'print(build.shared_library("tiny", [{str(place / "kernels.cpp")!r}], {str(place / "kernels.cpp")!r}))'
    )
    return subprocess.Popen(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def test_built_once(place):
    path = library_of(place)
    assert path.is_relative_to(place / 'cache')
    assert path.read_text() == (place / 'kernels.cpp').read_text()
    assert library_of(place) == path
    assert len(compilations(place)) == 1
    assert build.build_time_sec(path) < 60


@pytest.mark.parametrize('what', ['source', 'compiler', 'flags', 'processor'])
def test_rebuilt_when_something_changes(place, monkeypatch, what):
    first = library_of(place)
    if what == 'source':
        (place / 'kernels.cpp').write_text('int answer() { return 43; }')
    elif what == 'compiler':
        compiler = place / 'compiler'
        compiler.write_text(compiler.read_text().replace('compiler 1.0', 'compiler 1.1'))
    elif what == 'flags':
        monkeypatch.setenv('CXX', f'{place / "compiler"} -DOTHER')
    else:
        monkeypatch.setattr(build, 'processor', lambda: 'another')
    second = library_of(place)
    assert second != first
    assert second.read_text() == (place / 'kernels.cpp').read_text()
    assert first.exists()


def test_several_processes_at_once_build_once(place, monkeypatch):
    use_compiler(place, monkeypatch, before='sleep 1')
    processes = [process(place) for _ in range(3)]
    results = [p.communicate(timeout=60) for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], results
    assert len({out for out, _err in results}) == 1
    assert len(compilations(place)) == 1


def test_killed_build_does_not_block_others(place, monkeypatch):
    use_compiler(place, monkeypatch, before='exec sleep 60')
    killed = process(place, start_new_session=True)
    while not compilations(place):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    use_compiler(place, monkeypatch)
    start = time.monotonic()
    assert library_of(place).read_text() == (place / 'kernels.cpp').read_text()
    assert time.monotonic() - start < 10


def test_stopped_build_blocks_for_a_limited_time(place, monkeypatch):
    fcntl = pytest.importorskip('fcntl')
    monkeypatch.setattr(build, 'LOCK_LIMIT_SEC', 0.2)
    folder = place / 'cache' / 'ada_gan_tiny'
    folder.mkdir(parents=True)
    with open(folder / 'lock', 'w') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert library_of(place).exists()


def test_leftovers_of_killed_builds_are_removed_and_those_in_use_are_not(place, monkeypatch):
    use_compiler(place, monkeypatch, before=f'touch "$TMPDIR/half" "{place}/on"; sleep 60')
    killed = process(place, start_new_session=True)
    while not (place / 'on').exists():
        time.sleep(0.01)
    (left,) = (place / 'cache').rglob('*.partial')
    scratch.remove_abandoned(left.parent)
    assert (left / 'half').exists()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert left.exists()
    use_compiler(place, monkeypatch)
    path = library_of(place)
    assert sorted(os.listdir(left.parent)) == sorted(['lock', path.name, path.with_suffix('.seconds').name])
    (left.parent / f'tiny-0.{"0" * 32}.partial').write_text('left by an earlier version of this program')
    assert library_of(place) == path
    assert not list(left.parent.glob('*.partial'))


def test_unsupported_flags_are_omitted(place, monkeypatch):
    use_compiler(place, monkeypatch, before='case "$*" in *-fopenmp\\ *) echo "error: no -fopenmp" >&2; exit 1;; esac')
    assert library_of(place).exists()
    assert len(compilations(place)) == 2
    assert '-fopenmp-simd' in compilations(place)[1]


def test_broken_compiler(place, monkeypatch):
    use_compiler(place, monkeypatch, before='echo "kernels.cpp:1: error: as is not installed" >&2; exit 1')
    message = 'compiler cannot compile kernels.cpp .*as is not installed.*CXX'
    with pytest.raises(build.BuildError, match=message) as caught:
        library_of(place)
    assert '\n' not in str(caught.value)
    assert not list((place / 'cache').rglob('*.partial'))


def test_no_compiler(place, monkeypatch):
    monkeypatch.delenv('CXX')
    monkeypatch.setenv('PATH', str(place))
    with pytest.raises(build.BuildError, match=r'no working C\+\+ compiler'):
        library_of(place)


def test_broken_compiler_is_skipped(place, monkeypatch):
    broken = place / 'bin' / 'c++'
    broken.parent.mkdir()
    broken.write_text('#!/bin/sh\nexit 1\n')
    good = place / 'bin' / 'g++'
    good.write_text((place / 'compiler').read_text())
    broken.chmod(0o755)
    good.chmod(0o755)
    monkeypatch.delenv('CXX')
    monkeypatch.setenv('PATH', f'{broken.parent}:{os.environ["PATH"]}')
    assert build.find_compiler() == (('g++',), 'compiler 1.0\n')


def test_cache_that_cannot_be_written(place, monkeypatch, capsys):
    (place / 'cache').write_text('not a folder')
    path = library_of(place)
    assert path.is_relative_to(place / 'temporary')
    assert stat.S_IMODE(path.parents[1].stat().st_mode) & 0o022 == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(place / 'cache') in line and str(path.parent) in line
    assert library_of(place) == path
    assert len(compilations(place)) == 1


def test_library_of_another_user_is_not_used(place):
    (place / 'cache').write_text('not a folder')
    shared = place / 'temporary' / f'torch_extensions-{os.getuid()}'
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(build.BuildError, match='TORCH_EXTENSIONS_DIR'):
        library_of(place)


def test_where_the_cache_is(monkeypatch):
    monkeypatch.delenv('TORCH_EXTENSIONS_DIR', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    monkeypatch.setattr(sys, 'platform', 'linux')
    assert build.cache_folder() == Path('/somewhere/torch_extensions')


CALLS = """
import torch
from torch_utils.ops import bias_act, native, upfirdn2d
for _ in range(2):
    y = bias_act.bias_act(torch.ones(1, 1, 4, 4), act='lrelu')
    y = upfirdn2d.upsample2d(y, upfirdn2d.setup_filter([1, 3, 3, 1]))
print(round(y[0, 0, 4, 4].item(), 4))
"""


@pytest.mark.parametrize('compiler', ['none', 'broken'])
def test_operators_work_without_a_compiler(place, monkeypatch, compiler):
    """They print one line about it."""
    if compiler == 'none':
        monkeypatch.setenv('CXX', str(place / 'nothing'))
        monkeypatch.setenv('PATH', str(place))
    else:
        use_compiler(place, monkeypatch, before='exit 1')
    done = subprocess.run(
        [sys.executable, '-c', CALLS],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, '1.4142\n'), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith('No native CPU kernels, using plain PyTorch instead: ')
