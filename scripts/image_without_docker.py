"""Execute the steps of docs/clusters/slim.Dockerfile without Docker, and use the image that results.

Each stage of the Dockerfile becomes a folder: `FROM debian:NAME-slim` is a minimal system by debootstrap, and RUN steps
are executed in it as the root of the file system, in namespaces of their own. The last stage is then used as a
container would be, under the user that the Dockerfile names: it must contain no compiler; a dataset is converted, a
training is checked, run and resumed, and its network generates images. Exit status 1 if a step fails.

Needs Linux, root, debootstrap, the programs `unshare`, `mount` and `chroot`, Debian's mirror and PyPI, and 4 GB of disk
(with the CPU build of PyTorch). If something of this machine is missing, the script says so and exits with status 3.

    sudo python scripts/image_without_docker.py --dest=/var/tmp/image \\
        --build-arg=TORCH_INDEX=https://download.pytorch.org/whl/cpu

Where pip is configured, pass this on: --mount=/etc/pip.conf --mount=/opt/own.pem --env=PIP_CERT=/opt/own.pem. Steps see
these files while they run; the image does not keep them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from dnnlib.cli import PATH, Command

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / 'docs' / 'clusters' / 'slim.Dockerfile'
UNSUPPORTED_STATUS = 3
PROGRAMS = ('debootstrap', 'unshare', 'mount', 'chroot')
COMPILERS = ('cc', 'c++', 'gcc', 'g++', 'clang', 'clang++', 'ld', 'as', 'make', 'cmake', 'ninja', 'nvcc')
DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

# $0 is the root, the words before -- are mounted in it, those after -- are executed. Mounts vanish with the process.
ENTER = """
set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
while [ "$1" != -- ]; do mount --bind "$1" "$0$1"; mount -o remount,bind,ro "$0$1"; shift; done
shift
exec "$@"
"""

# What is run in the image, in order: a small network is trained for 8 batches, and resumed for 8 more.
IMAGES = (
    "import pathlib, PIL.Image; pathlib.Path('images').mkdir(); "
    "[PIL.Image.new('RGB', (16, 16), (9 * i, 200, 99)).save(f'images/{i}.png') for i in range(24)]"
)
TRAINING = (
    'ada-gan train --data=data.zip --outdir=runs --cfg=tiny --cbase=128 --cmax=8 --batch=8 --tick=0.064 --snap=1 '
    '--device=cpu --metrics=none'
)
OPERATORS = "import ada_gan, runpy; runpy.run_module('torch_utils.ops', run_name='__main__')"
USES = (
    f'python -c {shlex.quote(IMAGES)}',
    'ada-gan dataset-tool --source=images --dest=data.zip',
    f'{TRAINING} --dry-run',
    f'{TRAINING} --kimg=0.064',
    f'{TRAINING} --kimg=0.128 --resume=latest',
    'ada-gan generate --network="$(echo runs/00000-*)" --seeds=0-3 --grid=2x2 --outdir=out',
    f'python -c {shlex.quote(OPERATORS)}',
)


class Unsupported(click.ClickException):
    """This machine cannot execute the steps."""

    exit_code = UNSUPPORTED_STATUS


@dataclass
class Stage:
    """The root of the file system of a stage, and what later steps in it inherit."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {'PATH': DEFAULT_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = '/'
    user: str = 'root'


# ---------------------------------------------------------------------------------------------------------------------
# The Dockerfile


def instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, what follows it) of each step of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith('#')]
    joined = re.sub(r'\\\n\s*', '', '\n'.join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(' ') for line in joined.split('\n')) if word
    ]


def ignored_by(dockerignore: Path) -> Callable[[str, list[str]], set[str]]:
    """Return a function for shutil.copytree that leaves out what the file lists: names in the root, or **/PATTERN."""
    patterns = [line for line in dockerignore.read_text().splitlines() if line and not line.startswith('#')]
    anywhere = [pattern.removeprefix('**/') for pattern in patterns if pattern.startswith('**/')]
    in_root = {pattern for pattern in patterns if not pattern.startswith('**/')}

    def ignored(folder: str, names: list[str]) -> set[str]:
        found = {name for pattern in anywhere for name in fnmatch.filter(names, pattern)}
        return found | (in_root & set(names) if Path(folder) == ROOT else set())

    return ignored


class Builder:
    """Executes the steps of a Dockerfile in folders.

    Args:
        dest: Folder for the stages; must not exist.
        arguments: Values for ARG.
        environment: Variables of all RUN steps that the image does not keep.
        mounts: Files and folders of this machine that RUN steps see under the same names.
        base: Folder with a minimal system to copy, or None to create one.
    """

    def __init__(
        self,
        dest: Path,
        arguments: dict[str, str],
        environment: dict[str, str],
        mounts: Sequence[Path],
        base: str | None,
    ):
        self.dest, self.arguments, self.environment, self.base = dest, arguments, environment, base
        self.mounts = [*mounts, Path('/etc/resolv.conf')]
        self.stages: dict[str, Stage] = {}

    def build(self, dockerfile: Path) -> Stage:
        """Execute all steps, and return the last stage."""
        stage: Stage | None = None
        for word, rest in instructions(dockerfile.read_text()):
            print(f'{word} {rest}', flush=True)
            if word == 'FROM':
                stage = self.start_stage(rest)
                continue
            if stage is None:
                raise click.ClickException(f'{dockerfile}: {word} comes before the first FROM.')
            self.step(stage, word, rest)
        if stage is None:
            raise click.ClickException(f'{dockerfile} has no FROM.')
        return stage

    def start_stage(self, text: str) -> Stage:
        image, _, name = text.partition(' AS ')
        root = self.dest / f'{len(self.stages)}-{name or "image"}'
        if image in self.stages:
            base = self.stages[image]
            _copy(base.root, root)
            stage = Stage(root, dict(base.environment), {}, base.folder, base.user)
        elif match := re.fullmatch(r'debian:(\w+)-slim', image):
            if self.base is not None:
                _copy(Path(self.base), root)
            else:
                _run(['unshare', '--mount', 'debootstrap', '--variant=minbase', match[1], str(root)])  # it mounts proc
            stage = Stage(root)
        else:
            raise click.ClickException(f'FROM {image}: must be debian:NAME-slim or an earlier stage.')
        self.stages[name or str(len(self.stages))] = stage
        return stage

    def step(self, stage: Stage, word: str, rest: str) -> None:
        if word == 'RUN':
            self.run(stage, rest, {**stage.arguments, **self.environment}, self.mounts)
        elif word == 'ARG':
            name, _, default = rest.partition('=')
            stage.arguments[name] = self.arguments.get(name, default)
        elif word == 'ENV':
            stage.environment |= dict(part.split('=', 1) for part in shlex.split(rest))
        elif word == 'COPY':
            self.copy(stage, rest.split())
        elif word == 'WORKDIR':
            stage.folder = rest
            (stage.root / rest.lstrip('/')).mkdir(parents=True, exist_ok=True)
        elif word == 'USER':
            stage.user = rest
        elif word not in ('VOLUME', 'CMD'):
            raise click.ClickException(f'{word} {rest}: this script does not know the instruction {word}.')

    def copy(self, stage: Stage, words: list[str]) -> None:
        origin, ignore = ROOT, ignored_by(DOCKERFILE.with_name(f'{DOCKERFILE.name}.dockerignore'))
        if words[0].startswith('--from='):
            origin, ignore = self.stages[words.pop(0).removeprefix('--from=')].root, shutil.ignore_patterns()
        source, dest = origin / words[0].lstrip('/'), stage.root / words[1].lstrip('/')
        if source.is_dir():
            shutil.copytree(source, dest, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(source, dest)

    def run(self, stage: Stage, command: str, environment: dict[str, str], mounts: Sequence[Path]) -> str:
        """Run a shell command in a stage, as the user and in the folder of the stage; return what it prints."""
        variables = [f'{name}={value}' for name, value in {**stage.environment, **environment}.items()]
        shell = ['/bin/sh', '-c', f'cd {shlex.quote(stage.folder)} && {command}']
        inside = ['chroot', f'--userspec={stage.user}', str(stage.root), '/usr/bin/env', '-i', *variables, *shell]
        namespaces = ['unshare', '--mount', '--pid', '--ipc', '--fork', '--kill-child']
        with _mount_points(stage.root, mounts):
            program = ['sh', '-c', ENTER, str(stage.root), *map(str, mounts), '--', *inside]
            return _run([*namespaces, *program])


@contextlib.contextmanager
def _mount_points(root: Path, mounts: Sequence[Path]) -> Iterator[None]:
    """Within this context, there is something in the root for each of the mounts."""
    created = []
    for mount in mounts:
        point = root / str(mount).lstrip('/')
        if not point.exists():
            missing = [parent for parent in point.parents if not parent.exists()]
            point.parent.mkdir(parents=True, exist_ok=True)
            point.mkdir() if mount.is_dir() else point.touch()
            created += [point, *missing]
    try:
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # a RUN step has put something there
                path.rmdir() if path.is_dir() else path.unlink()


def _copy(source: Path, dest: Path) -> None:
    _run(['cp', '--archive', '--reflink=auto', str(source), str(dest)])


def _run(command: list[str]) -> str:
    """Run a command, and return what it prints; raise click.ClickException with the end of its output if it fails."""
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    if result.returncode != 0:
        end = '\n'.join(result.stdout.splitlines()[-20:])
        raise click.ClickException(f'{shlex.join(command)[-300:]} exited with status {result.returncode}:\n{end}')
    return result.stdout


# ---------------------------------------------------------------------------------------------------------------------
# The image


def check_no_compiler(builder: Builder, image: Stage) -> None:
    """Require that no compiler is on the PATH of the image."""
    command = f'for name in {" ".join(COMPILERS)} pip; do command -v $name || true; done'
    found = builder.run(image, command, {}, []).split()
    if found:
        raise click.ClickException(f'The image contains {", ".join(found)}.')
    print(f'None of these is in the image: {", ".join(COMPILERS)}, pip.')


def size_mb(folder: Path) -> float:
    """Return the size of a folder in MB (10^6 bytes), each file once."""
    files = (os.lstat(path) for path in _files(folder))
    return sum({status.st_ino: status.st_blocks * 512 for status in files}.values()) / 1e6


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(parent, name))]
        yield from (os.path.join(parent, name) for name in names)


def named_values(_context: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Convert NAME=VALUE; NAME alone takes the value from the environment, if it has one."""
    pairs = (value.partition('=') for value in values)
    return {name: value if equals else os.environ.get(name, '') for name, equals, value in pairs}


@click.command(cls=Command)
@click.option('--dest', type=PATH, required=True, metavar='DIR', help='Folder for the stages; must not exist')
@click.option('--build-arg', multiple=True, callback=named_values, metavar='NAME=VALUE', help='Value for ARG')
@click.option(
    '--env', multiple=True, callback=named_values, metavar='NAME[=VALUE]', help='Environment of the steps, not kept'
)
@click.option('--mount', multiple=True, type=PATH, metavar='PATH', help='File or folder that the steps see')
@click.option('--base', type=PATH, metavar='DIR', help='Copy this system of debootstrap instead of creating one')
@click.option('--keep', is_flag=True, help='Keep the folder --dest afterwards')
def main(
    dest: str,
    build_arg: dict[str, str],
    env: dict[str, str],
    mount: tuple[str, ...],
    base: str | None,
    keep: bool,
) -> None:
    """Execute the steps of docs/clusters/slim.Dockerfile without Docker, and use the image that results."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise Unsupported(f'The command `{missing[0]}` was not found: install it (Debian: debootstrap, util-linux).')
    if os.getuid() != 0:
        raise Unsupported('Only root can change the root of the file system: run this with sudo.')
    if os.path.exists(dest):
        raise click.BadParameter(f'{dest!r} exists already: choose another folder.', param_hint='--dest')
    for option, paths in (('--mount', mount), ('--base', [base] if base is not None else [])):
        for path in paths:
            if not os.path.exists(path):
                raise click.BadParameter(f'{path!r} does not exist.', param_hint=option)
    known = {rest.partition('=')[0] for word, rest in instructions(DOCKERFILE.read_text()) if word == 'ARG'}
    for name in build_arg:
        if name not in known:
            raise click.BadParameter(
                f'{DOCKERFILE.name} has no argument {name!r}: use {" or ".join(sorted(known))}.',
                param_hint='--build-arg',
            )
    folder = Path(dest).resolve()
    folder.mkdir(parents=True)
    try:
        start = time.monotonic()
        builder = Builder(folder, build_arg, env, [Path(path).resolve() for path in mount], base)
        image = builder.build(DOCKERFILE)
        seconds = time.monotonic() - start
        print(f'\n{len(builder.stages)} stages in {seconds:.0f} s; the image has {size_mb(image.root):.0f} MB')
        check_no_compiler(builder, image)
        for command in USES:
            print(f'\n$ {command}', flush=True)
            lines = builder.run(image, command, {'OMP_NUM_THREADS': '1'}, []).splitlines()
            print('\n'.join(lines[-12:]))
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    main()
