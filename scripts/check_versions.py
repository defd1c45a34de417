"""Test the project with other versions of Python, PyTorch and all other packages, each in an environment of its own.

For each combination of --python, --torch and --resolution: creates an environment, installs a wheel of this checkout
with all extras, compiles all files with warnings as errors, checks types for this Python, runs the tests in --tests,
and a user's session with the installed command (scripts/versions/session.py). What fails is printed with the end of its
output and a file with all of it; the other steps go on, and the exit status is 1 at the end.

    python scripts/check_versions.py --python=3.11 --torch=2.13.0+cpu
    python scripts/check_versions.py --python=3.12 --torch=none --resolution=lowest-direct
    python scripts/check_versions.py --python=/usr/bin/python3 --torch=system --table=docs/installing.md
    python scripts/check_versions.py --python=3.11 --torch=types:2.4.0 --resolution=highest

--torch is one of these:

  VERSION          from a package index; on Linux, PyPI has CUDA builds only, so name another build (2.13.0+cpu), and
                   the place that has it with --find-links
  system           the PyTorch that this Python has already, such as that of a distribution
  none             no PyTorch: only what works without it is tested
  types:VERSION    a PyTorch that cannot be installed here: types are checked against it, so that attributes and
                   arguments that it does not have are errors; its wheel for macOS is used for that, and nothing in it
                   runs

`uv` must be installed (pip install uv).
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from bench.tables import MarkedSection, markdown_table
from dnnlib.cli import BOOL, PATH, Command, check_outdir, usage_error, usage_errors

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {'lowest-direct': 'oldest', 'highest': 'newest'}
HEADINGS = ('Python', 'PyTorch', 'other packages', 'tests', "user's session", 'types', 'where', 'date')
NUM_KEY_COLUMNS = 3
SECTION = 'versions'
TYPES_OF = 'types:'
STEP_TIMEOUT_SEC = 3 * 3600
_TAIL_LINES = 25

# What depends most on other packages: operators, networks, network files, images, metrics, exports.
TESTS = (
    'tests/dataset_conversion/test_parts.py tests/dataset_format tests/exporting/test_export.py tests/plain_pickle '
    'tests/metrics/test_mathematics.py tests/metrics/test_statistics.py tests/network_files '
    'tests/reporting/test_report.py tests/test_dataset_tool.py tests/test_generate.py tests/test_interface.py '
    'tests/test_legacy.py tests/torch_utils/ops/test_bias_act.py tests/torch_utils/ops/test_golden_ops.py '
    'tests/torch_utils/ops/test_native.py tests/torch_utils/ops/test_other_ops.py '
    'tests/torch_utils/ops/test_upfirdn2d.py tests/training/test_augment.py tests/training/test_dataset.py '
    'tests/training/test_ema.py tests/training/test_loss.py tests/training/test_networks_stylegan2.py '
    'tests/training/test_networks_stylegan3.py'
).split()
# What neither imports PyTorch nor tests modules or scripts that do.
TESTS_WITHOUT_TORCH = (
    'tests/dataset_conversion/test_checking.py tests/dataset_conversion/test_emoji_package.py '
    'tests/dataset_conversion/test_parts.py tests/dnnlib/test_archives.py tests/dnnlib/test_cli.py '
    'tests/dnnlib/test_downloads.py tests/dnnlib/test_json_input.py tests/dnnlib/test_machine.py '
    'tests/dnnlib/test_outputs.py tests/dnnlib/test_schema.py tests/dnnlib/test_scratch.py '
    'tests/dnnlib/test_streams.py tests/dnnlib/test_terminal.py tests/dnnlib/test_util.py '
    'tests/exporting/test_browser_runtime.py tests/network_files/test_snapshots.py tests/plain_pickle '
    '--deselect=tests/dnnlib/test_cli.py::TestDevice '
    '--deselect=tests/dnnlib/test_cli.py::test_this_machine_has_a_cpu '
    '--deselect=tests/dnnlib/test_machine.py::test_scripts_limit_how_long_threads_spin_before_they_import_pytorch '
    '--deselect=tests/dnnlib/test_outputs.py::test_every_output_is_checked_first '
    '--deselect=tests/dnnlib/test_outputs.py::test_networks_have_a_known_extension'
).split()
_NOT_COPIED = shutil.ignore_patterns('.*', 'tests', '__pycache__', 'build', 'out', 'runs', 'datasets', '*.egg-info')
_WITHOUT_TORCH = "torch ; python_version < '3'"  # takes PyTorch out of the resolution


class StepFailed(Exception):
    """A program that ended with an error; the text is the end of its output."""


@dataclass
class Combination:
    """One environment, and what came out.

    Args:
        python: Interpreter, or a version such as '3.11'.
        torch: A version, 'system' or 'none'.
        resolution: 'lowest-direct' or 'highest'.
        folder: Where everything of this combination is written.
    """

    python: str
    torch: str
    resolution: str
    folder: Path
    cells: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def programs(self) -> Path:
        return self.folder / 'venv' / ('Scripts' if os.name == 'nt' else 'bin')

    @property
    def interpreter(self) -> Path:
        return self.programs / 'python'

    def run(self, name: str, command: Sequence[object], cwd: Path = ROOT) -> str:
        """Run a program of a step, and return its output, which also goes to NAME.log.

        Raises:
            StepFailed: It failed.
        """
        log = self.folder / f'{name}.log'
        hidden = ('PYTHONPATH', 'VIRTUAL_ENV', 'PYTHONHOME')
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        # Bytecode goes to one place, and the checkout remains as it is.
        environment |= {'PYTHONPYCACHEPREFIX': str(self.folder / 'pycache'), 'OMP_NUM_THREADS': '1'}
        with open(log, 'ab') as file:
            file.write(f'$ {" ".join(map(str, command))}\n'.encode())
            file.flush()
            start = file.tell()
            try:
                status = subprocess.run(
                    [str(word) for word in command],
                    cwd=cwd,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=STEP_TIMEOUT_SEC,
                ).returncode
            except (OSError, subprocess.TimeoutExpired) as error:
                raise StepFailed(str(error)) from error
        output = log.read_bytes()[start:].decode('utf-8', 'replace')
        if status != 0:
            lines = output.splitlines()[-_TAIL_LINES:]
            raise StepFailed('\n'.join([*lines, f'exit status {status}; all of it: {log}']))
        return output

    def step(self, name: str, column: str | None, command: Sequence[object], cwd: Path = ROOT) -> str | None:
        """Run a step, and note in a column of the table how it went. A failure is printed, and None returned."""
        print(f'  {name} ...', flush=True)
        try:
            output = self.run(name, command, cwd)
        except StepFailed as failure:
            print(f'    failed:\n{failure}', flush=True)
            self.failures.append(name)
            if column is not None:
                self.cells[column] = outcome_of_tests(str(failure)) or 'failed'
            return None
        if column is not None:
            self.cells[column] = outcome_of_tests(output) or output.strip().splitlines()[-1:][0]
        return output


def outcome_of_tests(output: str) -> str | None:
    """Return the counts that pytest prints, such as '12 passed, 1 failed', or None."""
    counts = re.findall(r'(\d+) (passed|failed|skipped|errors?)\b', output.splitlines()[-1] if output else '')
    if not counts:
        found = [line for line in output.splitlines() if re.search(r'\d+ (passed|failed|errors?).* in [0-9.]+s', line)]
        counts = re.findall(r'(\d+) (passed|failed|skipped|errors?)\b', found[-1]) if found else []
    return ', '.join(f'{count} {what}' for count, what in counts) or None


# ---------------------------------------------------------------------------------------------------------------------
# Installation


def find_uv() -> str:
    """Return the path of uv.

    Raises:
        ValueError: It is not installed.
    """
    beside = Path(sys.executable).with_name('uv')
    found = str(beside) if beside.is_file() else shutil.which('uv')
    if found is None:
        raise ValueError('The program uv was not found: pip install uv.')
    return found


def build_wheel(uv: str, folder: Path) -> Path:
    """Build a wheel of a copy of this checkout, and return its path.

    Raises:
        StepFailed: It cannot be built.
    """
    shutil.copytree(ROOT, folder / 'source', ignore=_NOT_COPIED)
    Combination('', '', '', folder).run('wheel', [uv, 'build', '-q', '--wheel', '-o', folder, folder / 'source'])
    (wheel,) = folder.glob('ada_gan-*.whl')
    return wheel


def install(combination: Combination, uv: str, wheel: Path, find_links: Sequence[str]) -> None:
    """Create the environment.

    Raises:
        StepFailed: The packages cannot be installed.
    """
    folder, torch = combination.folder, combination.torch
    links = [word for place in find_links for word in ('--find-links', place)]
    shared = ['--system-site-packages'] if torch == 'system' else []
    combination.run('install', [uv, 'venv', '-q', *shared, '-p', combination.python, folder / 'venv'])
    (folder / 'override.in').write_text(
        f'torch=={torch}\n' if torch[0].isdigit() else f'{_WITHOUT_TORCH}\n', encoding='utf-8'
    )
    target = ['-p', combination.interpreter, '--only-binary=:all:']  # the oldest with wheels for this Python
    options = ['-q', f'--resolution={combination.resolution}', '--override', folder / 'override.in', *links]
    listed = folder / 'requirements.txt'
    # From pyproject.toml, because the dependencies of a wheel would be indirect ones, of which the newest are taken.
    combination.run('install', [uv, 'pip', 'compile', *target, *options, '--extra=all', 'pyproject.toml', '-o', listed])
    if re.search(r'^(nvidia-cudnn|triton|cuda-toolkit)', listed.read_text(), flags=re.MULTILINE):
        raise StepFailed(f'PyTorch {torch} is a CUDA build here: name another one, such as {torch}+cpu.')
    combination.run('install', [uv, 'pip', 'install', '-q', *target, '--no-deps', *links, '-r', listed, wheel])
    program = "import sys, importlib.util as u; print(sys.version.split()[0], u.find_spec('torch') is not None)"
    version, has_torch = combination.run('python', [combination.interpreter, '-c', program]).split()
    combination.cells['Python'] = version
    if torch.startswith(TYPES_OF):
        release = torch.removeprefix(TYPES_OF)
        options = ['--no-deps', '--python-platform', 'aarch64-apple-darwin', f'torch=={release}']
        combination.run('install', [uv, 'pip', 'install', '-q', *target, *options])
        combination.cells['PyTorch'] = f'{release}, types'
    elif torch != 'none':
        program = 'import torch; print(torch.__version__)'
        combination.cells['PyTorch'] = combination.run('torch', [combination.interpreter, '-c', program]).split()[-1]
    elif has_torch == 'True':
        raise StepFailed('--torch=none, but PyTorch is one of the packages that were installed')


# ---------------------------------------------------------------------------------------------------------------------
# Steps


def check(combination: Combination, tests: Sequence[str] | None, num_processes: int, types: bool) -> None:
    """Run all steps in an environment that is installed."""
    if types:
        check_types(combination)
    if combination.torch.startswith(TYPES_OF):
        return
    python = combination.interpreter
    files = sorted(path for path in ROOT.glob('*') if path.suffix == '.py' or (path / '__init__.py').is_file())
    files += [ROOT / 'scripts', ROOT / 'bench', ROOT / 'tests']
    combination.step('compile', None, [python, '-W', 'error', '-m', 'compileall', '-q', '-f', *files])
    folder = combination.folder / 'session'
    folder.mkdir()
    session = ROOT / 'scripts' / 'versions' / 'session.py'
    combination.step('session', "user's session", [python, session, combination.programs / 'ada-gan'], folder)
    chosen = tests or (TESTS_WITHOUT_TORCH if combination.torch == 'none' else TESTS)
    workers = ['-n', str(num_processes), '--dist', 'loadfile'] if num_processes > 1 else []
    pytest = [python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'not slow', '--timeout=900', *workers]
    combination.step('tests', 'tests', [*pytest, '--durations=10', *chosen])


def check_types(combination: Combination) -> None:
    """Run mypy for the Python of a combination, with the packages of this process, or with those of `types:VERSION`."""
    if importlib.util.find_spec('mypy') is None:
        return
    minor = '.'.join(combination.cells['Python'].split('.')[:2])
    options = [f'--python-version={minor}']
    if combination.torch.startswith(TYPES_OF):
        options += [f'--python-executable={combination.interpreter}', f'--cache-dir={combination.folder / "mypy"}']
        # The comments that silence errors of the current PyTorch may be unused.
        options += ['--no-warn-unused-ignores', '--no-warn-redundant-casts']
    output = combination.step('types', 'types', [sys.executable, '-m', 'mypy', *options])
    combination.cells['types'] = 'failed' if output is None else 'ok'


def write_row(table: str, combination: Combination) -> None:
    """Replace or add the row of a combination in the table of a document.

    Raises:
        ValueError: The document has no place for it.
    """
    section = MarkedSection(table, SECTION)
    lines = [line for line in section.text.splitlines() if line.startswith('|')][2:]
    rows = {
        tuple(row[:NUM_KEY_COLUMNS]): row
        for row in ([cell.strip() for cell in line.split('|')[1:-1]] for line in lines)
    }
    row = [combination.cells.get(heading, '–') for heading in HEADINGS]
    rows[tuple(row[:NUM_KEY_COLUMNS])] = row
    in_order = sorted(rows.values(), key=lambda row: ([int(part) for part in re.findall(r'\d+', row[0])], row[1:3]))
    section.replace(markdown_table(HEADINGS, in_order, left_columns=len(HEADINGS)))


def system_name() -> str:
    """Return the name and release of the operating system, and the architecture."""
    try:
        release = platform.freedesktop_os_release()
        version = release.get('VERSION_ID', release.get('VERSION_CODENAME', ''))
        name = f'{release["NAME"].removesuffix(" GNU/Linux")} {version}'
    except (OSError, KeyError):
        name = f'{platform.system()} {platform.release()}'
    return f'{name.strip()}, {platform.machine()}'


@click.command(cls=Command)
@click.option(
    '--python', 'pythons', multiple=True, default=['3.11'], metavar='X.Y|PATH', help='Interpreter; repeatable'
)
@click.option(
    '--torch', 'torches', multiple=True, required=True, metavar='VERSION|system|none|types:VERSION', help='See above'
)
@click.option(
    '--resolution',
    'resolutions',
    type=click.Choice(list(RESOLUTIONS)),
    multiple=True,
    default=list(RESOLUTIONS),
    help='Oldest or newest versions that pyproject.toml allows; both by default',
)
@click.option('--find-links', multiple=True, metavar='DIR|URL', help='Further places with wheels, such as of PyTorch')
@click.option('--types', type=BOOL, default=True, show_default=True, help='Check types, which takes minutes')
@click.option('--tests', type=PATH, multiple=True, help='Files or folders of tests instead of the usual ones')
@click.option('--processes', type=click.IntRange(min=1), default=1, show_default=True, help='Processes that run tests')
@click.option('--table', type=PATH, metavar='FILE.md', help='Document with the table of results, to add rows to')
@click.option('--outdir', type=PATH, metavar='DIR', help='Keep environments and logs here; temporary by default')
def main(
    pythons: tuple[str, ...],
    torches: tuple[str, ...],
    resolutions: tuple[str, ...],
    find_links: tuple[str, ...],
    types: bool,
    tests: tuple[str, ...],
    processes: int,
    table: str | None,
    outdir: str | None,
) -> None:
    """Test the project with other versions of Python, PyTorch and all other packages."""
    uv = find_uv()
    for torch in torches:
        if not re.fullmatch(rf'({TYPES_OF})?[0-9]+(\.[0-9]+)+\S*|system|none', torch):
            raise usage_error(
                '--torch', f"{torch!r} must be a version such as 2.4.0, 'system', 'none' or 'types:2.4.0'."
            )
    if table is not None:
        with usage_errors('--table'):
            MarkedSection(table, SECTION)
    if outdir is not None:
        check_outdir(outdir, '--outdir')
        if os.path.isdir(outdir) and os.listdir(outdir):
            raise usage_error('--outdir', f'{outdir} is not empty: name a new folder.')
    num_failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(outdir or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            wheel = build_wheel(uv, folder)
        except StepFailed as failure:
            raise click.ClickException(f'The wheel cannot be built:\n{failure}') from failure
        for index, (python, torch, resolution) in enumerate(
            (python, torch, resolution) for python in pythons for torch in torches for resolution in resolutions
        ):
            print(f'Python {python}, PyTorch {torch}, {RESOLUTIONS[resolution]} versions', flush=True)
            combination = Combination(python, torch, resolution, folder / f'{index:02d}-{resolution}')
            combination.folder.mkdir()
            combination.cells = {
                'PyTorch': 'none',
                'other packages': RESOLUTIONS[resolution],
                'where': system_name(),
                'date': datetime.date.today().isoformat(),
            }
            try:
                install(combination, uv, wheel, find_links)
            except StepFailed as failure:
                print(f'  cannot be installed:\n{failure}', flush=True)
                num_failed += 1
                continue
            check(combination, tests or None, processes, types)
            num_failed += bool(combination.failures)
            for heading in HEADINGS:
                print(f'  {heading}: {combination.cells.get(heading, "–")}')
            if table is not None:
                write_row(table, combination)
    if num_failed:
        raise click.ClickException(f'{num_failed} combinations failed; see above.')


if __name__ == '__main__':
    main()
