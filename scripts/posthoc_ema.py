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
from collections.abc import Sequence
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
from training.power_averages import Combination, Profile, combine, exponent
from training.run import averages_files
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


def averages_up_to(run_dir: RunDir, network: Path) -> list[Path]:
    """Return the files with the averages of a run up to a snapshot, oldest first.

    Raises:
        ValueError: There is none for this snapshot.
    """
    last = Path(run_dir.averages((kimg_of(network) or 0) * 1000)).name
    files = [path for path in run_dir.averages_files() if path.name <= last]
    if not files or files[-1].name != last:
        raise ValueError(
            f'{run_dir.path!r} has no averages for {network.name}: only runs of train.py --posthoc-ema have them.'
        )
    return files


def average_of_lengths(files: Sequence[Path], lengths: Sequence[float]) -> tuple[list[Combination], list[float], int]:
    """Combine the averages in files into those of other lengths. One file at a time is in memory.

    Returns:
        The averages, the errors of their weights, and the number of images shown at the end.

    Raises:
        ValueError: A file cannot be used; one sentence.
        OSError: A file cannot be read.
    """
    profiles: list[list[Profile]] = []  # of each file
    for path in files:
        stored = averages_files.read(path)
        profiles.append([Profile(exponent(length), stored.nimg) for length in stored.lengths])
    times = [of_file[0].time for of_file in profiles]
    if sorted(set(times)) != times:
        raise ValueError(f'{files[-1].parent} has averages whose names are not in the order of their times.')
    flat = [profile for of_file in profiles for profile in of_file]
    found = [combine(flat, Profile(exponent(length), times[-1])) for length in lengths]
    totals = [Combination() for _length in lengths]
    start = 0
    for path in files:
        for position, tensors in enumerate(averages_files.read(path).tensors):
            for total, (coefficients, _error) in zip(totals, found):
                try:
                    total.add(tensors, float(coefficients[start + position]))
                except ValueError as error:
                    raise ValueError(f'{path} cannot be used: {error}.') from error
        start += position + 1
    return totals, [error for _coefficients, error in found], int(times[-1])


def check_parameters(G: torch.nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Check that a generator can have these parameters.

    Raises:
        ValueError: They are those of another network.
    """
    own = dict(G.named_parameters())
    if own.keys() != tensors.keys() or any(own[name].shape != tensors[name].shape for name in own):
        raise ValueError(f'the averages in {where!r} are of another generator than its network pickle.')


@torch.no_grad()
def replace_parameters(G: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give a generator other parameters; its buffers stay."""
    for name, parameter in G.named_parameters():
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
        files = averages_up_to(RunDir(run_dir), networks[last])
        content = open_network(str(networks[last]))
        averages, errors, nimg = average_of_lengths(files, lengths)
        for average in averages:
            check_parameters(content['G_ema'], average.tensors(), run_dir)
    os.makedirs(outdir, exist_ok=True)
    rows = []
    for length, average, error in zip(lengths, averages, errors):
        replace_parameters(content['G_ema'], average.tensors())
        path = os.path.join(outdir, f'ema{length:.3f}-{last:06d}.pkl')
        save_network_pkl(content, path)
        rows.append([f'{length:g}', f'{length * nimg / 1000:,.1f}', f'{error:.1%}', path])
        if error > LARGEST_ERROR:
            print(f'Warning: the snapshots do not contain an average of length {length:g}.', file=sys.stderr)
    print(text_table(['length', 'kimg', 'error', 'network'], rows))


if __name__ == '__main__':
    main()
