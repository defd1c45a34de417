"""Write one HTML file about training runs: curves, images, data, configuration, and what to try next."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from dnnlib.cli import BOOL, PATH, Command, check_outdir, device_option, resolve_device, usage_error, usage_errors
from dnnlib.errors import error_sentence
from dnnlib.outputs import OutputFile
from dnnlib.text import message_line

if TYPE_CHECKING:
    import torch

    from reporting.run_record import RunRecord
    from reporting.samples import Samples


@click.command(cls=Command)
@click.argument('runs', nargs=-1, required=True, type=PATH, metavar='RUN [RUN ...]')
@click.option(
    '--output',
    type=OutputFile('report'),
    metavar='FILE.html',
    help='File to write  [default: report.html in the directory of the run; required for several runs]',
)
@click.option(
    '--samples',
    type=BOOL,
    default=True,
    show_default='1',
    help='Generate an interpolation with the newest network, and look for the training images nearest to what it makes',
)
@device_option()
def main(runs: tuple[str, ...], output: str | None, samples: bool, device: str) -> None:
    """Write one HTML file about training runs that needs nothing else: no network, no script.

    \b
    RUN is the directory of a training run. The curves of several runs share their charts:
      python report.py runs/00000-cats-auto1
      python report.py runs/00000-cats-auto1 runs/00001-cats-auto1-gamma2 --output=compared.html

    train.py writes the report of a run at each snapshot (--report=1).
    """
    from reporting.run_record import read_run
    from reporting.writing import write_report
    from training.run.run_dir import RunDir

    if output is None:
        if len(runs) > 1:
            raise usage_error('--output', 'is required for the report of several runs.')
        output = RunDir(runs[0]).report_html
    with usage_errors('RUN'):
        records = [read_run(run) for run in runs]
    check_outdir(os.path.dirname(output) or os.curdir, '--output')
    generated = {}
    if samples:
        on_device = resolve_device(device)
        for record in records:
            found = samples_of(record, on_device)
            if found is not None:
                generated[record.run_dir.path] = found
    with usage_errors('RUN'):
        num_bytes = write_report(output, runs, generated)
    click.echo(f'{output}: {num_bytes / 2**20:.1f} MiB')


def samples_of(record: RunRecord, device: torch.device) -> Samples | None:
    """Return pictures by the newest network of a run, or None if there is none that can be read."""
    from network_files.reading import open_network
    from network_files.snapshots import complete_snapshots, kimg_of
    from reporting.samples import UNREADABLE, NearestImages, make_samples

    networks = complete_snapshots(record.run_dir.path)
    if not networks:
        return None
    nearest, note = None, ''
    try:
        G = open_network(str(networks[-1]), keys=['G_ema'])['G_ema'].to(device)
        try:
            if record.config is not None:
                nearest = NearestImages(record.config.training_set_kwargs)
        except (ValueError, OSError) as error:
            note = UNREADABLE
            warn(note, error)
        return make_samples(G, kimg_of(networks[-1]), nearest, note)
    except (ValueError, OSError) as error:
        warn(f'{networks[-1]} cannot be used for samples.', error)
        return None


def warn(sentence: str, error: ValueError | OSError) -> None:
    """Print what the report will lack, and why."""
    reason = error_sentence(error) or str(error)
    print(f'{sentence} {message_line(reason)}', file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
