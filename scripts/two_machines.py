"""Train on two machines, and check that the result equals that of two processes on one machine, to the bit.

The machines are two network namespaces of Linux, connected by a virtual cable: each has its own network interfaces and
ports, and its own folder with a copy of the dataset. Needs root and `ip` (package iproute2). If either is missing, the
script says so and exits with status 3.

    sudo python scripts/two_machines.py                          about half a minute
    sudo python scripts/two_machines.py --rendezvous=static      with a fixed order of the machines
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import PIL.Image
import torch

from network_files.reading import open_network
from torch_utils import misc
from training.run.run_dir import RunDir, list_run_dirs

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = ('10.213.77.1', '10.213.77.2')
PORT = 29400
UNSUPPORTED_STATUS = 3
TIMEOUT_SEC = 240
# The result of a sum depends on the number of threads, and two processes on one machine would use half its cores each.
ENVIRONMENT = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
TRAINING = [
    '--outdir=runs',
    '--data=images',
    '--cfg=tiny',
    '--cbase=128',
    '--cmax=8',
    '--batch=8',
    '--kimg=0.2',
    '--tick=0.1',
    '--snap=1',
    '--device=cpu',
    '--metrics=none',
]


class Unsupported(click.ClickException):
    """This machine cannot create network namespaces."""

    exit_code = UNSUPPORTED_STATUS


# ---------------------------------------------------------------------------------------------------------------------
# Machines


def _ip(*args: str) -> None:
    result = subprocess.run(['ip', *args], capture_output=True, text=True)
    if result.returncode != 0:
        raise Unsupported(
            f'Cannot create network namespaces: `ip {" ".join(args)}` failed with {result.stderr.strip()!r}. Run as '
            'root, and in a container with the capabilities NET_ADMIN and SYS_ADMIN.'
        )


@contextlib.contextmanager
def two_namespaces() -> Iterator[list[tuple[str, str]]]:
    """Within this context, two network namespaces with the addresses ADDRESSES exist.

    Yields:
        (namespace, network interface) of both.
    """
    if shutil.which('ip') is None:
        raise Unsupported('Cannot create network namespaces: the command `ip` was not found. Install iproute2.')
    machines = [(f'gan{os.getpid()}{letter}', f'v{os.getpid()}{letter}') for letter in 'ab']
    created = []
    try:
        for namespace, _interface in machines:
            _ip('netns', 'add', namespace)
            created.append(namespace)
        (first, first_end), (second, second_end) = machines
        _ip('link', 'add', first_end, 'netns', first, 'type', 'veth', 'peer', 'name', second_end, 'netns', second)
        for (namespace, interface), address in zip(machines, ADDRESSES):
            _ip('-n', namespace, 'addr', 'add', f'{address}/24', 'dev', interface)
            _ip('-n', namespace, 'link', 'set', interface, 'up')
            _ip('-n', namespace, 'link', 'set', 'lo', 'up')
        yield machines
    finally:
        for namespace in created:
            subprocess.run(['ip', 'netns', 'del', namespace], capture_output=True)


def _rendezvous_options(kind: str, node: int) -> list[str]:
    """Return the options by which the machines find each other.

    In a real network, where host names resolve, the last two options of c10d are not needed.
    """
    if kind == 'static':
        return [f'--node-rank={node}', f'--master-addr={ADDRESSES[0]}', f'--master-port={PORT}']
    return [
        '--rdzv-backend=c10d',
        f'--rdzv-endpoint={ADDRESSES[0]}:{PORT}',
        '--rdzv-id=two-machines',
        f'--rdzv-conf=is_host={int(node == 0)}',
        f'--local-addr={ADDRESSES[node]}',
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def _write_dataset(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for index in range(32):
        pixels = random.randint(0, 256, size=[16, 16, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'img{index:08d}.png')


def _wait(processes: list[subprocess.Popen]) -> None:
    """Wait for all processes; raise click.ClickException with the output of the first one that fails."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SEC)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, outputs):
        if process.returncode != 0:
            assert isinstance(process.args, list)
            raise click.ClickException(f'{" ".join(process.args)} exited with status {process.returncode}:\n{output}')


def _start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_on_one_machine(folder: Path) -> None:
    """Train in two processes on this machine."""
    _wait([_start([sys.executable, str(ROOT / 'train.py'), *TRAINING, '--gpus=2'], folder)])


def train_on_two_machines(folders: list[Path], rendezvous: str) -> None:
    """Train in one process on each of two machines."""
    with two_namespaces() as machines:
        processes = []
        for node, ((namespace, interface), folder) in enumerate(zip(machines, folders)):
            command = [
                'ip',
                'netns',
                'exec',
                namespace,
                sys.executable,
                '-m',
                'torch.distributed.run',
                '--nnodes=2',
                '--nproc-per-node=1',
                *_rendezvous_options(rendezvous, node),
                str(ROOT / 'train.py'),
                *TRAINING,
            ]
            processes.append(_start(command, folder, GLOO_SOCKET_IFNAME=interface))
        _wait(processes)


def _final_parameters(folder: Path) -> dict[str, torch.Tensor]:
    run_dir = RunDir(list_run_dirs(str(folder / 'runs'))[0])
    networks = open_network(str(run_dir.network_pkls()[-1]))
    return {
        f'{name}.{key}': tensor
        for name in ('G', 'D', 'G_ema')
        for key, tensor in misc.named_params_and_buffers(networks[name])
    }


@click.command()
@click.option(
    '--rendezvous',
    type=click.Choice(['c10d', 'static']),
    default='c10d',
    show_default=True,
    help='How torchrun on one machine finds torchrun on the other',
)
def main(rendezvous: str) -> None:
    """Train on two network namespaces and in two processes on one machine, and compare all parameters."""
    with tempfile.TemporaryDirectory() as scratch:
        single, first, second = folders = [Path(scratch, name) for name in ('single', 'first', 'second')]
        for folder in folders:
            _write_dataset(folder / 'images')
        train_on_two_machines([first, second], rendezvous)
        if (second / 'runs').exists():
            raise click.ClickException('The second machine wrote a run directory, but only rank 0 may write.')
        train_on_one_machine(single)
        expected, actual = _final_parameters(single), _final_parameters(first)
    if expected.keys() != actual.keys():
        raise click.ClickException('The networks have different parameters.')
    differing = [name for name in expected if not torch.equal(expected[name], actual[name])]
    if differing:
        raise click.ClickException(f'{len(differing)} of {len(expected)} tensors differ; the first is {differing[0]}.')
    print(f'{len(expected)} tensors of two machines ({rendezvous}) equal those of two processes on one, to the bit.')


if __name__ == '__main__':
    main()
