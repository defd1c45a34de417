"""Train over two machines, and get what two processes on one machine get, to the bit.

The machines are two network namespaces of Linux, joined by a virtual cable: each has network interfaces and ports of
its own, and a folder of its own with a copy of the data set. Needs root and `ip` (package iproute2); where those are
missing, one sentence says so and the exit status is 3.

    sudo python scripts/two_machines.py                          about half a minute
    sudo python scripts/two_machines.py --rendezvous=static      with a fixed order of the machines
"""

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

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = ('10.213.77.1', '10.213.77.2')
PORT = 29400
NOT_POSSIBLE_HERE = 3  # exit status
TIMEOUT_SEC = 240
# A sum depends on how threads share it: two processes of one machine would get half of its cores each.
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


class NotPossibleHere(click.ClickException):
    exit_code = NOT_POSSIBLE_HERE


# ---------------------------------------------------------------------------------------------------------------------
# Machines


def _ip(*args: str) -> None:
    result = subprocess.run(['ip', *args], capture_output=True, text=True)
    if result.returncode != 0:
        raise NotPossibleHere(
            f'No network namespaces can be made here: `ip {" ".join(args)}` says '
            f'{result.stderr.strip()!r}; run as root, in a container with NET_ADMIN and SYS_ADMIN.'
        )


@contextlib.contextmanager
def two_namespaces() -> Iterator[list[tuple[str, str]]]:
    """(namespace, network interface) of two machines with the addresses ADDRESSES, that are gone afterwards."""
    if shutil.which('ip') is None:
        raise NotPossibleHere('No network namespaces can be made here: there is no command `ip` (package iproute2).')
    machines = [(f'gan{os.getpid()}{letter}', f'v{os.getpid()}{letter}') for letter in 'ab']
    made = []
    try:
        for namespace, _interface in machines:
            _ip('netns', 'add', namespace)
            made.append(namespace)
        (first, its_end), (second, other_end) = machines
        _ip('link', 'add', its_end, 'netns', first, 'type', 'veth', 'peer', 'name', other_end, 'netns', second)
        for (namespace, interface), address in zip(machines, ADDRESSES):
            _ip('-n', namespace, 'addr', 'add', f'{address}/24', 'dev', interface)
            _ip('-n', namespace, 'link', 'set', interface, 'up')
            _ip('-n', namespace, 'link', 'set', 'lo', 'up')
        yield machines
    finally:
        for namespace in made:
            subprocess.run(['ip', 'netns', 'del', namespace], capture_output=True)


def _rendezvous_options(kind: str, node: int) -> list[str]:
    """How the machines find each other. In a real network names resolve, and the last two of c10d are not needed."""
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


def _write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for index in range(32):
        pixels = random.randint(0, 256, size=[16, 16, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'img{index:08d}.png')


def _wait(processes: list[subprocess.Popen]) -> None:
    """Raises click.ClickException with the output of the first that fails; all have ended then."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SEC)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, outputs):
        if process.returncode != 0:
            raise click.ClickException(f'{" ".join(process.args)} ended with status {process.returncode}:\n{output}')


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
    _wait([_start([sys.executable, str(ROOT / 'train.py'), *TRAINING, '--gpus=2'], folder)])


def train_on_two_machines(folders: list[Path], rendezvous: str) -> None:
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
    content = open_network(str(sorted(folder.glob('runs/*/network-snapshot-*.pkl'))[-1]))
    return {
        f'{name}.{key}': tensor
        for name in ('G', 'D', 'G_ema')
        for key, tensor in misc.named_params_and_buffers(content[name])
    }


@click.command()
@click.option(
    '--rendezvous',
    type=click.Choice(['c10d', 'static']),
    default='c10d',
    show_default=True,
    help='How torchrun on one machine finds that on the other',
)
def main(rendezvous: str) -> None:
    """Train over two network namespaces and over two processes of one machine, and compare all parameters."""
    with tempfile.TemporaryDirectory() as scratch:
        one, first, second = folders = [Path(scratch, name) for name in ('one', 'first', 'second')]
        for folder in folders:
            _write_images(folder / 'images')
        train_on_two_machines([first, second], rendezvous)
        if (second / 'runs').exists():
            raise click.ClickException('the second machine has written a run directory, but only rank 0 writes.')
        train_on_one_machine(one)
        expected, actual = _final_parameters(one), _final_parameters(first)
    if expected.keys() != actual.keys():
        raise click.ClickException('the networks have other parameters.')
    differing = [name for name in expected if not torch.equal(expected[name], actual[name])]
    if differing:
        raise click.ClickException(f'{len(differing)} of {len(expected)} tensors differ, the first is {differing[0]}.')
    print(f'{len(expected)} tensors of two machines ({rendezvous}) equal those of two processes on one, to the bit.')


if __name__ == '__main__':
    main()
