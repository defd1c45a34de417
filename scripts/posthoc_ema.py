"""Choose the length of the generator's average after the training (arXiv 2312.02696, section 3.2).

A run of `train.py --posthoc-ema` writes two averages of the generator with each snapshot. This script combines those of
all snapshots up to one into averages of other lengths, and writes a network pickle for each of them, in which G_ema is
the new average and everything else is that of the snapshot. Then `calc_metrics.py` shows which one is best.

    python scripts/posthoc_ema.py --run-dir=runs/00000-photos-auto1-posthoc0.05-0.1 --lengths=0.03,0.05,0.1,0.15 \\
        --outdir=out/averages
    python calc_metrics.py --network=out/averages/ema0.030-000400.pkl --network=out/averages/ema0.050-000400.pkl

A length is the standard deviation of the weights in time, as a fraction of the training. The error says how far the
weights of the combination are from the wanted ones: 0 % is perfect, and lengths far from those of the run, or that are
short compared with the distance of two snapshots, cannot be reached.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import torch

from bench.tables import text_table
from dnnlib.cli import PATH, Command, check_outdir, usage_error, usage_errors
from dnnlib.outputs import OutputFolder
from network_files.reading import open_network
from network_files.snapshots import complete_snapshots, kimg_of
from network_files.writing import save_network_pkl
from training.power_averages import Profile, combine, combined, exponent
from training.run import averages_files
from training.run.averages_files import StoredAverages
from training.run.run_dir import RunDir
from training.schema import MAX_LENGTH, MIN_LENGTH

LARGEST_ERROR = 0.2  # of a combination that is written without a warning


class Lengths(click.ParamType):
    """Lengths, separated by commas."""

    name = 'L,...'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            lengths = [float(number) for number in value.split(',')]
        except ValueError:
            lengths = []
        if not lengths or not all(MIN_LENGTH <= length <= MAX_LENGTH for length in lengths):
            self.fail(
                f'expected numbers from {MIN_LENGTH:g} to {MAX_LENGTH:g} such as 0.05,0.1, got {value!r}.', param, ctx
            )
        return lengths


def read_averages(run_dir: RunDir, network: Path) -> list[StoredAverages]:
    """Return the averages of all snapshots of a run up to one, oldest first.

    Raises:
        ValueError: There are none for this snapshot, or a file cannot be used.
        OSError: A file cannot be read.
    """
    last = kimg_of(network) or 0
    files = [path for path in run_dir.averages_files() if path.name <= Path(run_dir.averages(last * 1000)).name]
    if not files or files[-1].name != Path(run_dir.averages(last * 1000)).name:
        raise ValueError(
            f'{run_dir.path!r} has no averages for {network.name}: only runs of train.py --posthoc-ema have them.'
        )
    return [averages_files.read(path) for path in files]


def average_of_length(stored: list[StoredAverages], length: float) -> tuple[dict[str, torch.Tensor], float]:
    """Return the parameters of an average at the time of the last snapshot, and the error of its weights."""
    # What is earlier than all of a short average contributes nothing but rounding errors.
    profiles = [Profile(exponent(one), item.nimg) for item in stored for one in item.lengths]
    tensors = [tensors for item in stored for tensors in item.tensors]
    coefficients, error = combine(profiles, Profile(exponent(length), stored[-1].nimg))
    return combined(tensors, coefficients), error


def replace_parameters(G: torch.nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Give a generator other parameters; its buffers stay.

    Raises:
        ValueError: They are those of another network.
    """
    own = dict(G.named_parameters())
    if own.keys() != tensors.keys() or any(own[name].shape != tensors[name].shape for name in own):
        raise ValueError(f'the averages in {where!r} are of another generator than its network pickle.')
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


@click.command(cls=Command)
@click.option('--run-dir', type=PATH, required=True, metavar='DIR', help='Run of train.py --posthoc-ema')
@click.option('--lengths', type=Lengths(), required=True, help='Lengths of the averages to write')
@click.option('--outdir', type=OutputFolder(), required=True, metavar='DIR', help='Folder for the network pickles')
@click.option('--kimg', type=click.IntRange(min=0), metavar='N', help='Snapshot to end with', show_default='the last')
def main(run_dir: str, lengths: list[float], outdir: str, kimg: int | None) -> None:
    """Write network pickles whose generators are averages of other lengths."""
    check_outdir(outdir)
    with usage_errors('--run-dir'):
        networks = {kimg_of(path): path for path in complete_snapshots(run_dir)}
    last = max(number or 0 for number in networks) if kimg is None else kimg
    if last not in networks:
        raise usage_error('--kimg', f'{run_dir!r} has no network-snapshot-{last:06d}.pkl.')
    with usage_errors('--run-dir'):
        stored = read_averages(RunDir(run_dir), networks[last])
        content = open_network(str(networks[last]))
    os.makedirs(outdir, exist_ok=True)
    rows = []
    for length in lengths:
        tensors, error = average_of_length(stored, length)
        with usage_errors('--run-dir'):
            replace_parameters(content['G_ema'], tensors, run_dir)
        path = os.path.join(outdir, f'ema{length:.3f}-{last:06d}.pkl')
        save_network_pkl(content, path)
        rows.append([f'{length:g}', f'{length * stored[-1].nimg / 1000:,.1f}', f'{error:.1%}', path])
        if error > LARGEST_ERROR:
            print(f'Warning: the snapshots do not contain an average of length {length:g}.', file=sys.stderr)
    print(text_table(['length', 'kimg', 'error', 'network'], rows))


if __name__ == '__main__':
    main()
