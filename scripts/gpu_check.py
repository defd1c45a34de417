"""Check and measure everything on the GPU of this machine: the program of `scripts/gpu_check.sh`, which describes it.

Each part is a program of its own with a time limit. One that fails or takes too long is recorded with its last lines,
and the others go on. Exit status 1 if any of them did not pass.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import torch

from bench.gpu_report import LAST_LINES, describe, to_markdown
from bench.options import ResultFiles, sections_option
from dnnlib.cli import Command
from dnnlib.files import atomic_file
from dnnlib.json_input import read_json
from dnnlib.machine import processor_name
from dnnlib.outputs import OutputFolder
from torch_utils.ops import cuda_driver, cuda_launch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'benchmarks-gpu.md'
SECTION = 'scripts/gpu_check.sh'
QUICK_LIMITS = 10  # times as long: --quick is for devices that are emulated
AUTO_SIZES = '128:32,256:16,512:8,1024:4'  # with the batch sizes of --cfg=auto


@dataclass(frozen=True)
class Part:
    """A part of the check."""

    title: str
    limit_sec: int
    commands: Callable[[bool, str], list[list[str]]]  # (quick, file for what is measured) → commands
    min_gpus: int = 1


def _tests(quick: bool, _file: str) -> list[list[str]]:
    some = ['-k', 'golden or half_precision or captured and up or whole_generators'] if quick else []
    return [['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/gpu', *some]]


def _networks(section: str) -> Callable[[bool, str], list[list[str]]]:
    return lambda quick, file: [
        ['bench/gpu_networks.py', f'--only={section}', f'--json={file}', *(['--quick'] if quick else [])]
    ]


def _killed_run(*options: str) -> Callable[[bool, str], list[list[str]]]:
    return lambda quick, _file: [
        ['scripts/kill_test.py', '--kills=2', '--at-least=1', f'--ticks={3 if quick else 20}', '--', '--device=cuda',
         '--deterministic=1', '--init-p=0.5', *options]
    ]  # fmt: skip


def _ranks(quick: bool, file: str) -> list[list[str]]:
    sizes = ['--resolution=16', '--cbase=512', '--batch-gpu=2', '--rounds=1'] if quick else ['--resolution=256']
    return [
        ['bench/allreduce.py', '--processes=2', '--device=cuda', f'--json={file}', *sizes],
        *_killed_run('--gpus=2')(quick, file),
    ]


PARTS: dict[str, Part] = {
    'doctor': Part('kernels against plain PyTorch in float64', 90, lambda *_: [['-m', 'torch_utils.ops']]),
    'tests': Part('tests/gpu', 330, _tests),
    'kernels': Part(
        'kernels and bandwidth',
        150,
        lambda quick, file: [['bench/gpu_ops.py', f'--json={file}', *(['--quick'] if quick else [])]],
    ),
    'generator': Part('generators', 210, _networks('generator')),
    'training': Part('training', 330, _networks('training')),
    'memory': Part(
        'memory of a training step',
        120,
        lambda quick, file: [
            ['bench/memory.py', '--device=cuda', f'--json={file}',
             *(['--sizes=16:4', '--cbase=512'] if quick else [f'--sizes={AUTO_SIZES}'])]
        ],
    ),
    'run': Part('a training that is killed and resumed, to the byte', 150, _killed_run()),
    'ranks': Part('two GPUs', 120, _ranks, min_gpus=2),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Machine


def machine_facts() -> dict[str, Any]:
    """Return what the results depend on, from a process of its own, because that takes memory of the GPU."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(_facts).result()


def _facts() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    facts = dict(
        gpu=properties.name,
        num_gpus=torch.cuda.device_count(),
        capability=f'{properties.major}.{properties.minor}',
        memory_bytes=properties.total_memory,
        multiprocessors=properties.multi_processor_count,
        driver=_driver_name(),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        python=platform.python_version(),
        system=f'{platform.system()} {platform.machine()}',
        cpu=processor_name(),
        nvrtc=None,
        target='plain PyTorch',
        driver_cuda=None,
    )
    try:
        compiler, target = cuda_launch.choice(0)
        facts |= dict(nvrtc='.'.join(map(str, compiler.version)), target=target)
        facts['driver_cuda'] = '.'.join(map(str, cuda_driver.version()))
    except RuntimeError as error:  # the doctor says why
        print(error, file=sys.stderr)
    return facts


def _driver_name() -> str | None:
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def run_part(name: str, quick: bool, outdir: Path, num_gpus: int) -> dict[str, Any]:
    """Run a part, and return its result: 'passed', 'failed', 'timed out' or 'skipped', and what it has measured."""
    part = PARTS[name]
    found: dict[str, Any] = dict(title=part.title, result='passed', sec=0.0, last_lines=[], measured=None)
    if num_gpus < part.min_gpus:
        return found | dict(result='skipped', reason=f'needs {part.min_gpus} GPUs')
    measured = outdir / f'{name}.json'
    measured.unlink(missing_ok=True)
    start = time.monotonic()
    deadline = start + part.limit_sec * (QUICK_LIMITS if quick else 1)
    log_path = outdir / f'{name}.txt'
    with open(log_path, 'wb') as log:
        for command in part.commands(quick, str(measured)):
            status = _run([sys.executable, *command], log, deadline - time.monotonic())
            if status != 0:
                found['result'] = 'timed out' if status is None else 'failed'
                found['reason'] = f'after {deadline - start:.0f} s' if status is None else f'exit status {status}'
                break
    lines = log_path.read_text(encoding='utf-8', errors='replace').splitlines()
    found |= dict(sec=time.monotonic() - start, last_lines=lines[-LAST_LINES:])
    if measured.exists():
        found['measured'] = read_json(measured)
    return found


def _run(command: list[str], log: Any, limit_sec: float) -> int | None:
    """Run a command, and return its exit status; None if it took longer, and was killed with all its processes."""
    log.write(f'$ {" ".join(command)}\n'.encode())
    log.flush()
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [os.environ.get('PYTHONPATH'), str(ROOT)])))
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(timeout=max(limit_sec, 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def earlier_results(path: Path, machine: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Return the parts in a file of results, if they are of the same machine and of the same sizes."""
    if not path.exists():
        return {}
    before: Any = read_json(path)
    if before['machine'] != machine or before['quick'] != quick:
        print(f'{path} is of another machine, software or sizes: its results are replaced.')
        return {}
    return {name: part for name, part in before['parts'].items() if name in PARTS}


# ---------------------------------------------------------------------------------------------------------------------
# Command


@click.command(cls=Command)
@sections_option(list(PARTS))
@click.option('--quick', is_flag=True, help='Use tiny sizes, to see that it works, and do not write to docs/')
@click.option(
    '--outdir', type=OutputFolder(), default='out/gpu-check', show_default=True, help='Folder for results and logs'
)
def main(only: tuple[str, ...], quick: bool, outdir: str) -> None:
    """Check and measure everything on the GPU of this machine, in at most 25 minutes."""
    if not torch.cuda.is_available():
        raise click.ClickException(
            f'PyTorch {torch.__version__} finds no CUDA device: this check needs an NVIDIA GPU, its driver, and a CUDA '
            'build of PyTorch.'
        )
    page = ResultFiles(SECTION, markdown_path=None if quick else str(PAGE))
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    machine = machine_facts()
    print(describe(machine), flush=True)
    results_path = folder / 'results.json'
    earlier = earlier_results(results_path, machine, quick)
    parts: dict[str, Any] = {}
    for name in PARTS:
        if name not in only:
            parts |= {name: earlier[name]} if name in earlier else {}
            continue
        print(f'{name}: {PARTS[name].title} ...', flush=True)
        parts[name] = part = run_part(name, quick, folder, machine['num_gpus'])
        print(f'    {part["result"]}, {part["sec"]:.0f} s', *part['last_lines'][-5:], sep='\n    ', flush=True)
        results = dict(machine=machine, quick=quick, parts=parts | {k: v for k, v in earlier.items() if k not in parts})
        with atomic_file(results_path) as file:
            file.write((json.dumps(results, indent=2) + '\n').encode())
    text = to_markdown(dict(machine=machine, quick=quick, parts=parts))
    with atomic_file(folder / 'results.md') as file:
        file.write((text + '\n').encode())
    page.save(markdown=text)
    print(f'Wrote {results_path}' + ('' if quick else f' and {PAGE}'))
    failed = [name for name in only if parts[name]['result'] not in ('passed', 'skipped')]
    if failed:
        raise click.ClickException(f'{", ".join(failed)} did not pass: see {folder}.')


if __name__ == '__main__':
    main()
