"""Makes a video that moves through the latents of seeds, or of projected photographs."""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

import dnnlib.cli
from dataset_format.sizes import Resolution, sides
from dnnlib.cli import usage_errors
from generation import interpolation, latents, options, projected_latents, video
from network_files.reading import open_network

_LARGEST_SIDE = 16384  # pixels, of H.264 as players know it


@click.command(cls=dnnlib.cli.Command)
@click.option('--network', type=dnnlib.cli.PATH, required=True, metavar='PKL', help='Network pickle: file or URL')
@click.option('--seeds', type=dnnlib.cli.SeedRange(), help='The keys to move through, e.g. 0,1,4-6')
@click.option(
    '--projected-w',
    type=dnnlib.cli.PATH,
    multiple=True,
    metavar='NPZ',
    help='Move through these latents (from projector.py) instead of seeds, and through the noise found for '
    'them; give it several times to join files',
)
@click.option('--output', type=dnnlib.cli.PATH, required=True, metavar='FILE.mp4', help='Video to write')
@click.option(
    '--grid',
    'grid_size',
    type=options.GridSize(),
    default='1x1',
    show_default=True,
    metavar='WxH',
    help='So many pictures beside and above each other; the first seeds are the keys of the first picture',
)
@click.option(
    '--num-keyframes',
    type=click.IntRange(min=2),
    metavar='N',
    help='Keys of each picture: seeds are repeated or left out to fit  [default: all seeds, shared out]',
)
@click.option(
    '--w-frames',
    '--frames',
    'frames_per_key',
    type=click.IntRange(min=1),
    default=120,
    show_default=True,
    help='Frames from one key to the next',
)
@click.option(
    '--fps', type=dnnlib.cli.FiniteFloat(min=1, max=240), default=30, show_default=True, help='Frames per second'
)
@click.option(
    '--loop', type=dnnlib.cli.BOOL, default=True, show_default=True, help='End where it began; 0: end at the last key'
)
@click.option(
    '--interpolation',
    'kind',
    type=click.Choice(['cubic', 'linear']),
    default='cubic',
    show_default=True,
    help='A smooth curve through the keys, or straight lines from key to key',
)
@click.option(
    '--shuffle-seed', type=click.IntRange(0, latents.LARGEST_SEED), metavar='INT', help='Shuffle the order of the keys'
)
@options.trunc_option()
@click.option(
    '--class',
    'class_text',
    metavar='INDEX|NAME[,…]',
    help='Class to show, for conditional networks; or a class for each key, to move between them',
)
@options.label_option(
    multiple=True, help='Label to show, for networks whose labels are no classes, e.g. 0.2,1,0; several times: one for '
    'each key'
)  # fmt: skip
@options.noise_mode_option()
@click.option(
    '--enlarge',
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help='Draw each pixel this many pixels wide and high, for small networks',
)
@options.batch_option()
@options.trust_pickle_option()
@dnnlib.cli.device_option()
def main(
    network: str,
    seeds: list[int] | None,
    projected_w: tuple[str, ...],
    output: str,
    grid_size: tuple[int, int],
    num_keyframes: int | None,
    frames_per_key: int,
    fps: float,
    loop: bool,
    kind: str,
    shuffle_seed: int | None,
    truncation_psi: float,
    class_text: str | None,
    label: tuple[list[float], ...],
    noise_mode: str,
    enlarge: int,
    batch_size: int,
    trust_pickle: bool,
    device: str,
) -> None:
    """Make a video that moves from latent to latent.

    \b
    Examples:
      python gen_video.py --network=network.pkl --seeds=0-7 --output=video.mp4
      python gen_video.py --network=network.pkl --seeds=0-31 --grid=4x2 --trunc=0.7 --frames=60 --output=video.mp4
      python gen_video.py --network=conditional.pkl --seeds=0-2 --class=cat,dog,fox --output=video.mp4
      python gen_video.py --network=network.pkl --projected-w=a.npz --projected-w=b.npz --output=video.mp4
    """  # fmt: skip
    num_cells = grid_size[0] * grid_size[1]
    if projected_w:
        for path in projected_w:
            projected_latents.check_readable(path)
    elif seeds is None:
        raise click.UsageError('Nothing to show: give --seeds (e.g. --seeds=0-9) or --projected-w.')
    else:
        latents.check_seeds(seeds)
        check_shares(len(seeds), 'seeds', num_cells, num_keyframes)
    check_output(output)
    torch_device = dnnlib.cli.resolve_device(device)
    video.require_encoder()

    with usage_errors('--network'):
        data = open_network(network, trust=trust_pickle)
    G = data['G_ema'].to(torch_device)
    check_frame_size(grid_size, G.img_resolution, enlarge)
    if projected_w:
        options.warn_of_ignored(
            '--projected-w', seeds=seeds, class_text=class_text, label=label or None, truncation_psi=truncation_psi
        )
        found = projected_latents.join([projected_latents.read(path, G) for path in projected_w], G)
        check_shares(len(found), 'latents', num_cells, num_keyframes)
        keys = projected_latents.pick(found, order_of_keys(len(found), num_cells, num_keyframes, shuffle_seed))
    else:
        order = order_of_keys(len(seeds), num_cells, num_keyframes, shuffle_seed)
        labels = labels_of_keys(data, class_text, label, len(order), num_cells, torch_device)
        ws = latents.ws_of_seeds(G, [seeds[index] for index in order], labels, truncation_psi)
        keys = projected_latents.Projections(ws.cpu().numpy())
    way = interpolation.Interpolation(keys, num_cells, frames_per_key, kind, loop)
    interpolation.write(output, fps, G, way, grid_size, torch_device, noise_mode, batch_size, enlarge)
    click.echo(f'Wrote {output}: {way.num_frames} frames, {way.num_frames / fps:.1f} s')


# ------------------------------------------------------------------------------------------------ keys


def check_shares(count: int, what: str, num_cells: int, num_keyframes: int | None) -> None:
    """Raises click.UsageError where each of `num_cells` pictures cannot have its share of `count` latents."""
    if num_keyframes is not None:
        return
    cells = f'{num_cells} pictures of --grid' if num_cells > 1 else 'the video'
    if count % num_cells:
        raise click.UsageError(
            f'{count} {what} cannot be shared out evenly among {cells}: give a multiple of {num_cells}, or '
            '--num-keyframes.'
        )
    if count < 2 * num_cells:
        raise click.UsageError(
            f'Too few {what} for {cells} ({count}): there is nothing to move to; give {2 * num_cells} or more.'
        )


def order_of_keys(count: int, num_cells: int, num_keyframes: int | None, shuffle_seed: int | None) -> np.ndarray:
    """Which of `count` latents are the keys: [num_cells * keys of each cell], one cell's after the other's."""
    order = np.resize(np.arange(count), num_cells * (num_keyframes or count // num_cells))
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(order)
    return order


def labels_of_keys(
    data: dict, class_text: str | None, numbers: Sequence[list[float]], num_keys: int, num_cells: int,
    device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Labels [num_keys, c_dim]. `--class` names one class; or one for each key of a picture, the same in all; or one
    for each key of each picture. So does `--label`, given as often.

    Raises click.UsageError.
    """
    c_dim = data['G_ema'].c_dim
    wanted = sorted({1, num_keys // num_cells, num_keys})
    if numbers and len(numbers) not in wanted:
        raise click.BadParameter(
            f'{len(numbers)} labels for {num_keys} keys: give {" or ".join(map(str, wanted))}.', param_hint="'--label'"
        )
    if numbers:
        labels = torch.cat([latents.label_of(data, class_text, label, device) for label in numbers])
        return labels.repeat(num_keys // len(numbers), 1)
    texts: Sequence[str | None] = [class_text]
    # A name may have commas in it; and of a network without classes the whole is ignored, with one warning.
    if class_text is not None and c_dim > 0 and class_text.strip() not in latents.class_names_of(data, c_dim):
        texts = class_text.split(',')
    if len(texts) not in wanted:
        raise click.BadParameter(
            f'{len(texts)} classes for {num_keys} keys: give {" or ".join(map(str, wanted))}.', param_hint="'--class'"
        )
    labels = torch.cat([latents.label_of(data, text, None, device) for text in texts])
    return labels.repeat(num_keys // len(texts), 1)


# -------------------------------------------------------------------------------------- checking options


def check_output(output: str) -> None:
    """Raises click.BadParameter where no video can be written there; nothing is made yet."""
    if not output.lower().endswith('.mp4'):
        raise click.BadParameter(f'{output!r} is no mp4 file: give a name that ends in .mp4.', param_hint="'--output'")
    if os.path.isdir(output):
        raise click.BadParameter(f'{output!r} is a folder: give a file name.', param_hint="'--output'")
    dnnlib.cli.check_outdir(os.fspath(Path(output).parent), '--output')


def check_frame_size(grid_size: tuple[int, int], resolution: Resolution, enlarge: int) -> None:
    cell_height, cell_width = sides(resolution)
    width, height = grid_size[0] * cell_width * enlarge, grid_size[1] * cell_height * enlarge
    if max(width, height) > _LARGEST_SIDE:
        raise click.BadParameter(
            f'frames of {width}x{height} pixels are too large for a video, whose sides have {_LARGEST_SIDE} at most: '
            'give a smaller grid.',
            param_hint="'--grid'",
        )


if __name__ == '__main__':
    main()
