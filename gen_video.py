"""Make a video that moves through the latents of seeds, or of projected pictures."""

from __future__ import annotations

from dnnlib.cli import BOOL, Command, FiniteFloat, check_outdir, usage_errors

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import numpy as np
import torch

from dataset_format.sizes import Resolution, sides
from dnnlib.errors import InvalidArgument
from dnnlib.outputs import OutputFile
from generation import image_transforms, latents, options, projected_latents, video
from generation.circular_walk import CircularWalk
from generation.editing.direction_options import Edit, direction_options
from generation.interpolation import Interpolation, render_frames
from generation.projected_latents import ProjectedLatents

_MAX_SIDE = 16384  # pixels; the limit of H.264 in common players


def curve_options(command: Callable) -> Callable:
    """Add `--interpolation` and `--easing`, together the argument `curve`: arguments of `Interpolation`."""
    kind = click.option(
        '--interpolation',
        'kind',
        type=click.Choice(['cubic', 'linear']),
        default='cubic',
        show_default=True,
        help='A smooth curve through the keyframes, or straight lines between them',
    )
    easing = click.option(
        '--easing',
        type=click.Choice(['none', 'smooth']),
        default='none',
        show_default=True,
        help='Move steadily from keyframe to keyframe, or slow down at the keyframes',
    )

    @functools.wraps(command)
    def call(*args: Any, kind: str, easing: str, **kwargs: Any) -> Any:
        return command(*args, curve=dict(kind=kind, easing=easing), **kwargs)

    return kind(easing(call))


@click.command(cls=Command)
@options.network_option()
@options.seeds_option('Random seeds of the keyframes, e.g. 0,1,4-6; ranges ascend, and blanks need quotes')
@options.projected_w_option(
    'Use these latents (from projector.py) instead of seeds, and the noise found for them; several files are joined',
    multiple=True,
)
@click.option('--output', type=OutputFile('video'), required=True, metavar='FILE.mp4', help='Video to write')
@options.grid_option(
    'Show W images side by side in H rows; the first seeds are the keyframes of the first image', default='1x1'
)
@click.option(
    '--num-keyframes',
    type=click.IntRange(min=2),
    metavar='N',
    help='Keyframes of each image: seeds are repeated or left out to fit  [default: all seeds, divided evenly]',
)
@click.option(
    '--w-frames',
    '--frames',
    'frames_per_key',
    type=click.IntRange(min=1),
    default=120,
    show_default=True,
    help='Frames from one keyframe to the next, or of a whole circle',
)
@click.option('--fps', type=FiniteFloat(min=1, max=240), default=30, show_default=True, help='Frames per second')
@click.option('--loop', type=BOOL, default=True, show_default=True, help='Return to the first keyframe at the end')
@click.option(
    '--circle',
    type=BOOL,
    default=False,
    show_default=True,
    help='Move each image around a circle in z through its seed, with one seed for each image of --grid',
)
@curve_options
@click.option(
    '--shuffle-seed', type=click.IntRange(0, latents.MAX_SEED), metavar='INT', help='Shuffle the order of the keyframes'
)
@click.option(
    '--pan',
    type=options.ShiftType(),
    help='Shift the images this far to the right and down, in image sides, e.g. 0.3,0, and back again; with --loop=0 '
    'they do not return (only StyleGAN3)',
)
@click.option(
    '--spin',
    type=FiniteFloat(),
    metavar='TURNS',
    help='Rotate the images counterclockwise by this number of turns during the video; negative: clockwise (only '
    'StyleGAN3)',
)
@options.truncation_options(several='several keyframes of each seed')
@options.class_option(
    help_text='Class to generate, for conditional networks; or one class per keyframe', metavar='NAME|INDEX|#INDEX[,…]'
)
@options.label_option(
    help_text='Label to generate, for networks whose labels are not classes, e.g. 0.2,1,0; given several times: one '
    'label per keyframe',
    multiple=True,
)
@direction_options()
@options.noise_mode_option()
@options.batch_option()
@click.option(
    '--enlarge',
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help='Draw each pixel as a square of this many pixels, for small networks',
)
@options.execution_options()
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
    circle: bool,
    curve: dict[str, Any],
    shuffle_seed: int | None,
    pan: image_transforms.Shift | None,
    spin: float | None,
    truncation: latents.Truncation,
    class_text: str | None,
    label: tuple[list[float], ...],
    edit: Edit,
    noise_mode: str,
    enlarge: int,
    batch_size: int,
    trust_pickle: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Make a video that moves from latent to latent.

    \b
    Examples:
      python gen_video.py --network=network.pkl --seeds=0-7 --output=video.mp4
      python gen_video.py --network=network.pkl --seeds=0-31 --grid=4x2 --trunc=0.7 --frames=60 --output=video.mp4
      python gen_video.py --network=conditional.pkl --seeds=0-2 --class=cat,dog,fox --output=video.mp4
      python gen_video.py --network=network.pkl --projected-w=a.npz --projected-w=b.npz --output=video.mp4
      python gen_video.py --network=stylegan3.pkl --seeds=0-3 --spin=1 --pan=0.2,0 --output=video.mp4
    """
    num_cells = grid_size[0] * grid_size[1]
    with usage_errors():
        motion = make_motion(pan, spin, loop)
        check_inputs(seeds, projected_w, num_cells, num_keyframes, circle, truncation)
    check_output(output)
    data, G, torch_device = options.open_generator(network, trust_pickle, device, cuda_graphs)
    options.warn_if_without_noise(G, f'--noise-mode={noise_mode}', noise_mode != 'const')
    curve |= dict(num_cells=num_cells, frames_per_key=frames_per_key, loop=loop)
    with usage_errors():
        image_transforms.check_supported(G, {'pan': pan, 'spin': spin})
        check_frame_size(grid_size, G.img_resolution, enlarge)
        if projected_w:
            options.warn_about_ignored_latents('--projected-w', seeds, class_text, label, truncation)
            keys = edit.apply_to_projected(G, keys_of_files(G, projected_w, num_cells, num_keyframes, shuffle_seed))
            path: Interpolation | CircularWalk = Interpolation(keys, **curve)
        else:
            assert seeds is not None  # see check_inputs
            options.warn_if_unconditional(G.c_dim, {'--class': class_text, '--label': label or None})
            options.check_truncation(G, truncation)
            order = order_of_keys(len(seeds) * len(truncation.psi), num_cells, num_keyframes, shuffle_seed)
            labels = labels_of_keys(data, class_text, label, len(order), num_cells, torch_device)
            path = path_of_seeds(circle, curve, G, seeds, order, labels, truncation, edit.offset(G))
    frames = render_frames(G, path, grid_size, torch_device, noise_mode, batch_size, enlarge, motion)
    write(output, fps, frames, path.num_frames)


def check_output(output: str) -> None:
    """Check that a video can be written there."""
    check_outdir(os.path.dirname(output) or os.curdir, '--output')
    video.require_encoder()


def write(output: str, fps: float, frames: Iterable[np.ndarray], num_frames: int) -> None:
    """Write the video, and print what was written."""
    video.write_video(output, fps, frames, num_frames)
    print(f'Wrote {output}: {num_frames} frames, {num_frames / fps:.1f} s')


# ---------------------------------------------------------------------------------------------------------------------
# Keyframes


def order_of_keys(count: int, num_cells: int, num_keyframes: int | None, shuffle_seed: int | None) -> list[int]:
    """Return which of `count` latents are the keyframes: num_cells * keys of each cell, one cell after the other."""
    order = np.resize(np.arange(count), num_cells * (num_keyframes or count // num_cells))
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(order)
    return order.tolist()


def keys_of_seeds(
    G: Any,
    seeds: Sequence[int],
    order: Sequence[int],
    labels: torch.Tensor,
    truncation: latents.Truncation,
    offset: torch.Tensor | None,
) -> ProjectedLatents:
    """Return the keyframes of all images: each seed with each value of psi, in the given order."""
    keys = [(seed, psi) for seed in seeds for psi in truncation.psi]
    chosen, psis = zip(*(keys[index] for index in order))
    center = latents.truncation_center(G, labels, truncation.towards) if truncation.is_active else None
    ws = latents.ws_of_seeds(G, chosen, labels, psis, truncation.cutoff, center)
    return ProjectedLatents((ws if offset is None else ws + offset.to(ws)).cpu().numpy())


def path_of_seeds(
    circle: bool,
    curve: dict[str, Any],
    G: Any,
    seeds: Sequence[int],
    order: Sequence[int],
    labels: torch.Tensor,
    truncation: latents.Truncation,
    offset: torch.Tensor | None = None,
) -> Interpolation | CircularWalk:
    """Return the latents of all frames: on circles through the seeds, or on a curve through keyframes.

    Args:
        circle: Whether the images move on circles.
        curve: Arguments of `Interpolation`.
        G: Generator.
        seeds: The seeds.
        order: Which of the keyframes follow each other, see `keys_of_seeds`; not for circles.
        labels: float32 [keyframes, c_dim], or [cells, c_dim] for circles.
        truncation: How latents are truncated.
        offset: Added to each w, or None.
    """
    if circle:
        return CircularWalk(G, seeds, labels, truncation, curve['frames_per_key'], offset)
    return Interpolation(keys_of_seeds(G, seeds, order, labels, truncation, offset), **curve)


def keys_of_files(
    G: Any, paths: Sequence[str], num_cells: int, num_keyframes: int | None, shuffle_seed: int | None
) -> ProjectedLatents:
    """Return the keyframes of all images from files of projected latents."""
    keys = projected_latents.join([projected_latents.read(path, G) for path in paths], G)
    check_division(len(keys), 'latents', num_cells, num_keyframes)
    return projected_latents.select(keys, order_of_keys(len(keys), num_cells, num_keyframes, shuffle_seed))


def make_motion(pan: image_transforms.Shift | None, spin: float | None, loop: bool) -> image_transforms.Motion | None:
    """Return the movement that --pan and --spin describe; None without them."""
    if pan is None and spin is None:
        return None
    return image_transforms.Motion(pan or (0, 0), spin or 0, loop)


def labels_of_keys(
    data: dict[str, Any],
    class_text: str | None,
    numbers: Sequence[list[float]],
    num_keys: int,
    num_cells: int,
    device: torch.device,
) -> torch.Tensor:
    """Return the labels of all keyframes, [num_keys, c_dim].

    `class_text` names one class; or one for each keyframe of an image, the same in all images; or one for each keyframe
    of each image. `numbers` contains as many labels.

    Raises:
        InvalidArgument: Argument 'class' or 'label'.
    """
    c_dim = data['G_ema'].c_dim
    allowed = sorted({1, num_keys // num_cells, num_keys})
    if numbers and len(numbers) not in allowed:
        raise InvalidArgument(
            'label', f'{len(numbers)} labels for {num_keys} keyframes: use {" or ".join(map(str, allowed))}.'
        )
    if numbers:
        labels = torch.cat([latents.make_label(data, class_text, label, device) for label in numbers])
        return labels.repeat(num_keys // len(numbers), 1)
    texts: Sequence[str | None] = [class_text]
    # A name may contain commas. An unconditional network ignores the text, whatever it is.
    if class_text is not None and c_dim > 0 and class_text.strip() not in latents.class_names_of(data, c_dim):
        texts = class_text.split(',')
    if len(texts) not in allowed:
        raise InvalidArgument(
            'class', f'{len(texts)} classes for {num_keys} keyframes: use {" or ".join(map(str, allowed))}.'
        )
    labels = torch.cat([latents.make_label(data, text, None, device) for text in texts])
    return labels.repeat(num_keys // len(texts), 1)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_inputs(
    seeds: list[int] | None,
    projected_w: Sequence[str],
    num_cells: int,
    num_keyframes: int | None,
    circle: bool,
    truncation: latents.Truncation,
) -> None:
    """Check everything that can be checked before the network is opened."""
    if circle:
        check_circle(seeds, projected_w, num_cells, num_keyframes, truncation)
    elif projected_w:
        for path in projected_w:
            projected_latents.check_readable(path)
    elif seeds is None:
        raise click.UsageError('Nothing to show: use --seeds (e.g. --seeds=0-9) or --projected-w.')
    else:
        latents.check_seeds(seeds)
        count, what = len(seeds) * len(truncation.psi), 'seeds'
        if len(truncation.psi) > 1:
            what = f'keyframes of {len(seeds)} seeds with {len(truncation.psi)} values of --trunc'
        check_division(count, what, num_cells, num_keyframes)


def check_circle(
    seeds: list[int] | None,
    projected_w: Sequence[str],
    num_cells: int,
    num_keyframes: int | None,
    truncation: latents.Truncation,
) -> None:
    """Raise InvalidArgument if --circle cannot be combined with other options."""
    if projected_w or seeds is None:
        raise InvalidArgument('circle', 'circles are in z, which only seeds have: use --seeds.')
    latents.check_seeds(seeds)
    if len(seeds) != num_cells:
        raise InvalidArgument(
            'circle', f'{len(seeds)} seeds for {_cells(num_cells)}: use one for each image of --grid, here {num_cells}.'
        )
    if num_keyframes is not None:
        raise InvalidArgument('circle', 'a circle has no keyframes: leave --num-keyframes out.')
    if len(truncation.psi) > 1:
        raise InvalidArgument('circle', f'use a single value of --trunc, not {len(truncation.psi)}.')


def check_division(count: int, what: str, num_cells: int, num_keyframes: int | None) -> None:
    """Raise click.UsageError if `count` latents cannot be divided evenly among `num_cells` images."""
    if num_keyframes is not None:
        return
    cells = _cells(num_cells)
    if count % num_cells:
        raise click.UsageError(
            f'{count} {what} cannot be divided evenly among {cells}: use a multiple of {num_cells}, or --num-keyframes.'
        )
    if count < 2 * num_cells:
        raise click.UsageError(f'Too few {what} for {cells} ({count}): use {2 * num_cells} or more.')


def _cells(count: int) -> str:
    return f'{count} images of --grid' if count > 1 else 'the video'


def check_frame_size(grid_size: tuple[int, int], resolution: Resolution, enlarge: int) -> None:
    """Raise InvalidArgument if frames are too large for a video."""
    cell_height, cell_width = sides(resolution)
    width, height = grid_size[0] * cell_width * enlarge, grid_size[1] * cell_height * enlarge
    if max(width, height) > _MAX_SIDE:
        raise InvalidArgument(
            'grid',
            f'frames of {width}x{height} pixels are too large for a video, whose sides have at most {_MAX_SIDE} '
            'pixels: use a smaller grid.',
        )


if __name__ == '__main__':
    main()
