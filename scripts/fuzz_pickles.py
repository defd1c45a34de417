"""Attack the reader of network files with hand-made attacks and thousands of mutated files.

    python scripts/fuzz_pickles.py                  12,000 mutations; a few minutes on one core
    python scripts/fuzz_pickles.py --count=500

`network_files.reading.load_network_pkl` must open each file or raise NetworkPickleError, without executing anything
and within bounds of time and memory (`scripts/fuzzing/sandbox.py`). Files that break a rule are saved to a folder.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.cli import BOOL, Command, FiniteFloat
from dnnlib.outputs import OutputFolder
from network_files import safetensors_files
from network_files.errors import NetworkPickleError
from network_files.reading import load_network_pkl
from scripts.fuzzing.campaign import Campaign
from scripts.fuzzing.mutations import KINDS, mutations_for
from scripts.fuzzing.pickle_attacks import MADE_BY_ATTACK, attacks
from scripts.fuzzing.sandbox import OPENED, Sandbox, Watch
from training import networks_stylegan3
from training.augment import AugmentPipe
from training.networks_stylegan2 import Discriminator, Generator

GOLDEN = Path(__file__).resolve().parents[1] / 'tests' / 'golden'

# ---------------------------------------------------------------------------------------------------------------------
# Valid files


def small_networks() -> dict[str, Any]:
    """Return the content of a small network pickle."""
    torch.manual_seed(0)
    common: dict[str, Any] = dict(c_dim=2, img_resolution=8, img_channels=1)
    options: dict[str, Any] = dict(
        mapping_kwargs={'num_layers': 1}, synthesis_kwargs={'channel_base': 32, 'channel_max': 4}
    )
    return {
        'G': None,
        'D': Discriminator(channel_base=32, channel_max=4, **common),
        'G_ema': Generator(z_dim=4, w_dim=4, **common, **options),
        'augment_pipe': AugmentPipe(xflip=1),
        'training_set_kwargs': dict(class_name='training.dataset.ImageFolderDataset', path='x.zip', max_size=7),
    }


def tiny_stylegan3() -> torch.nn.Module:
    """Return a small generator of StyleGAN3."""
    layers: dict[str, Any] = dict(channel_base=32, channel_max=4, num_layers=2, num_critical=1, margin_size=1)
    return networks_stylegan3.Generator(4, 2, 4, 8, 1, {'num_layers': 1}, use_radial_filters=True, **layers)


def valid_files(folder: Path) -> dict[str, bytes]:
    """Return files to mutate, by name. Most are tiny, for speed.

    Args:
        folder: Existing folder for temporary files.
    """
    networks = small_networks()
    files = {'own': pickle.dumps(networks)}
    tiny = {'G_ema': Generator(2, 0, 2, 4, 1, {'num_layers': 1}, {'channel_base': 8}), 'training_set_kwargs': {'a': 1}}
    files |= {f'own, protocol {protocol}': pickle.dumps(tiny, protocol=protocol) for protocol in (0, 2, 4, 5)}
    files |= {path.name: path.read_bytes() for path in sorted(GOLDEN.glob('*.pkl'))}
    stylegan3 = {'G_ema': tiny_stylegan3(), 'D': networks['D']}
    files['own, StyleGAN3'] = pickle.dumps(stylegan3)
    for name, content in {'own': networks, 'own, StyleGAN3,': stylegan3}.items():
        safetensors_files.write(content, folder / 'own.safetensors')
        files[f'{name} safetensors'] = (folder / 'own.safetensors').read_bytes()
    return files


def check_valid_files(files: dict[str, bytes], sandbox: Sandbox) -> None:
    """Raise ValueError unless the sandbox opens every file.

    Each file is read without the sandbox first, since some modules are imported only when they are needed.
    """
    for name, content in files.items():
        sandbox.read(sandbox.place(content))
        outcome = sandbox.try_here(content)
        if outcome != OPENED:
            raise ValueError(f'the valid file {name!r} does not open: {outcome}')


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def fuzz(with_attacks: bool, count: int, seed: int, limit_sec: float, failures: Path, folder: Path) -> int:
    """Run the attacks and mutations, print the results, and return the number of faults."""
    files = valid_files(folder)
    sandbox = Sandbox(load_network_pkl, NetworkPickleError, Watch(), limit_sec)
    check_valid_files(files, sandbox)
    campaign = Campaign(sandbox, failures)

    # Hand-made attacks.
    for name, content in attacks().items() if with_attacks else []:
        campaign.attack('attacks by hand', name, content)

    # Mutations of the valid files in turn.
    rng = random.Random(seed)
    names, contents = list(files), list(files.values())
    for index in range(count):
        name = names[index % len(names)]
        mutate = rng.choice(mutations_for(name))
        description = f'{mutate.__name__} of {name}, number {index}'
        campaign.mutation(KINDS[mutate], description, mutate(files[name], rng, contents))

    campaign.finish()
    return len(campaign.outcomes.faults)


# Freed memory is not kept for reuse, because that would hide memory that the reader allocates.
@click.command(cls=Command, keep_memory=False)
@click.option(
    '--attacks', 'with_attacks', type=BOOL, default=True, show_default=True, help='Also try the hand-made attacks'
)
@click.option(
    '--count', type=click.IntRange(min=0), default=12_000, show_default=True, help='Number of mutated files to try'
)
@click.option('--seed', type=int, default=0, show_default=True, help='Random seed of the mutations')
@click.option(
    '--time-limit', 'limit_sec', type=FiniteFloat(min=0.1), default=20, show_default=True, help='Seconds for one file'
)
@click.option(
    '--failures',
    type=OutputFolder(),
    default='fuzz-failures',
    show_default=True,
    help='Folder for files that break a rule',
)
def main(with_attacks: bool, count: int, seed: int, limit_sec: float, failures: str) -> None:
    """Attack the reader of network files; the exit status is 1 if it breaks a rule."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        num_faults = fuzz(with_attacks, count, seed, limit_sec, Path(failures), Path(folder))
    if os.path.exists(MADE_BY_ATTACK):
        raise click.ClickException('an attack has run a command')
    if num_faults:
        raise click.ClickException(f'{num_faults} faults; see the lines above')
    print('no faults')


if __name__ == '__main__':
    main()
