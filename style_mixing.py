"""Mix the styles of seeds: image (row, column) is that of the row's seed with some layers styled like the column's."""

from __future__ import annotations

from dnnlib.cli import BOOL, Command, SeedRange, check_outdir, usage_errors

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
from pathlib import Path

import click
import torch

from dnnlib.errors import InvalidArgument
from generation import latents, mixing, options
from generation.editing.direction_options import Edit, direction_options

_DEFAULT_LAYERS = range(7)


@click.command(cls=Command)
@options.network_option()
@click.option(
    '--rows',
    type=SeedRange(),
    required=True,
    help='Random seeds, one row each, e.g. 0,1,4-6; ranges ascend, and blanks need quotes',
)
@click.option('--cols', type=SeedRange(), required=True, help='Random seeds, one column each')
@click.option(
    '--styles',
    type=SeedRange(),
    show_default='0-6, as far as the network has them',
    help="Layers that take the column's style; 0 is the coarsest",
)
@options.truncation_options()
@options.class_option()
@options.class_option('--col-class', 'Different class for the columns')
@options.label_option()
@options.label_option('--col-label', 'Different label for the columns')
@options.noise_mode_option()
@direction_options()
@click.option(
    '--labels',
    type=BOOL,
    default=False,
    show_default=True,
    help='Write the seeds beside grid.png and enlarge its images to 64 pixels or more',
)
@options.outdir_option()
@options.batch_option()
@options.execution_options()
def main(
    network: str,
    rows: list[int],
    cols: list[int],
    styles: list[int] | None,
    truncation: latents.Truncation,
    class_text: str | None,
    col_class_text: str | None,
    label: list[float] | None,
    col_label: list[float] | None,
    noise_mode: str,
    edit: Edit,
    labels: bool,
    outdir: str,
    batch_size: int,
    trust_pickle: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Mix styles: ROW-COL.png for each row and column, SEED-SEED.png for each seed, and grid.png of all images.

    \b
    Examples:
      python style_mixing.py --network=network.pkl --rows=85,100,75 --cols=55,821,1789 --outdir=out
      python style_mixing.py --network=network.pkl --rows=0-3 --cols=4-7 --styles=8-13 --trunc=0.7 --outdir=out
      python style_mixing.py --network=conditional.pkl --class=dog --col-class=cat --rows=0-3 --cols=4-7 --outdir=out
    """
    rows, cols = list(dict.fromkeys(rows)), list(dict.fromkeys(cols))
    cols_differ = col_class_text is not None or col_label is not None
    with usage_errors():
        latents.check_seeds(rows, 'rows')
        latents.check_seeds(cols, 'cols')
        if cols_differ:
            check_no_common_seeds(rows, cols)
    check_outdir(outdir)
    data, G, torch_device = options.open_generator(network, trust_pickle, device, cuda_graphs)

    options.warn_if_unconditional(
        G.c_dim, {'--class': class_text, '--col-class': col_class_text, '--label': label, '--col-label': col_label}
    )
    options.warn_if_without_noise(G, f'--noise-mode={noise_mode}', noise_mode != 'const')
    with usage_errors():
        options.check_truncation(G, truncation)
        offset = edit.offset(G)
        options.check_picture_size((len(cols) + 1, len(rows) + 1), G.img_resolution, 'rows')
        layers = choose_layers(styles, G.num_ws)
        row_c = col_c = latents.make_label(data, class_text, label, torch_device)
    if cols_differ:
        with usage_errors(None, **{'class': '--col-class', 'label': '--col-label'}):
            col_c = latents.make_label(data, col_class_text, col_label, torch_device)
    seeds = list(dict.fromkeys([*rows, *cols]))
    seed_labels = torch.cat([row_c if seed in rows else col_c for seed in seeds])
    center = latents.truncation_center(G, seed_labels, truncation.towards) if truncation.is_active else None
    ws = latents.ws_of_seeds(G, seeds, seed_labels, truncation.psi[0], truncation.cutoff, center)
    if offset is not None:
        ws = ws + offset.to(ws)
    mix = mixing.StyleMix(rows, cols, dict(zip(seeds, ws)), layers)
    written = mixing.write_mix(G, mix, Path(outdir), noise_mode, batch_size, labels)
    print(f'Wrote {written}')


def check_no_common_seeds(rows: list[int], cols: list[int]) -> None:
    """Raise InvalidArgument for a seed in both: with two classes it is two latents, but SEED-SEED.png is one file."""
    both = [seed for seed in rows if seed in cols]
    if both:
        raise InvalidArgument(
            'col_class',
            f'seed {both[0]} is in --rows and in --cols, and would give two images with one name: use other seeds.',
        )


def choose_layers(styles: list[int] | None, num_ws: int) -> list[int]:
    """Return the layers to mix; raise InvalidArgument if the network does not have one of them."""
    if styles is None:
        return [layer for layer in _DEFAULT_LAYERS if layer < num_ws]
    if max(styles) >= num_ws:
        raise InvalidArgument(
            'styles', f'Unknown layer {max(styles)}: this network has {num_ws} layers, 0 to {num_ws - 1}.'
        )
    return sorted(set(styles))


if __name__ == '__main__':
    main()
