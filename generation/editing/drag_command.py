"""`edit.py drag`: move points of a generated or projected image."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from dnnlib.cli import PATH, Command, FiniteFloat, check_outdir, usage_errors
from dnnlib.errors import InvalidArgument
from generation import latents, options, projected_latents
from generation.editing.apply_command import find_latents
from generation.editing.drag_files import drag_to_files, read_mask, read_points
from generation.editing.dragging import SPACES, DragSession, check_mask, check_points, default_settings
from generation.projected_latents import ProjectedLatents

HELP = """\
Drag points of an image to where they should be, by changing its latent (DragGAN, arXiv 2305.10973).

\b
Examples:
  python edit.py drag --network=network.pkl --seed=7 --points=points.json --outdir=out
  python edit.py drag --network=network.pkl --projected-w=proj.npz --points=points.json --mask=mask.png --outdir=out
  python generate.py --network=network.pkl --projected-w=out/dragged_w.npz --outdir=out

\b
The points are a JSON file, in pixels from the top left (x to the right, y down; 0,0 is the center of the first pixel):
  {"points": [{"handle": [20, 31], "target": [28, 31]}]}

\b
Files in --outdir:
  before.png, after.png   the image before and after, with handle points (red) and targets (blue), enlarged
  dragged.png             the image after, as the network renders it
  dragged_w.npz           its latent, for --projected-w of all scripts
  drag.mp4                one frame per step
  drag.json               where the points went, and the settings

It ends when all points are within --tolerance of their targets, or after --num-steps. Lengths default to those of the
paper, which are for 512 pixels, in proportion to the size of the images, but not below 0.5 to 2 pixels.
"""


@click.command(name='drag', cls=Command, help=HELP, short_help='Drag points of an image to where they should be')
@options.network_option()
@click.option('--points', 'points_path', type=PATH, required=True, metavar='JSON', help='Handle points and targets')
@click.option('--mask', 'mask_path', type=PATH, metavar='IMAGE', help='Change the image only where this one is white')
@click.option('--seed', type=click.IntRange(0, latents.MAX_SEED), help='Random seed of the image  [default: 0]')
@options.class_option()
@options.label_option()
@options.truncation_options()
@options.projected_w_option('Start from this latent (from projector.py) instead of a seed')
@click.option(
    '--index', type=click.IntRange(min=0), default=0, show_default=True, help='Which latent of --projected-w, from 0'
)
@click.option(
    '--space',
    type=click.Choice(SPACES),
    default='w+',
    show_default=True,
    help='Change each of the first vectors w by itself, or all of them by the same amount',
)
@click.option(
    '--layers', 'num_layers', type=click.IntRange(min=1), metavar='N',
    help='Change the first N vectors w, the coarse ones; the others keep the appearance  [default: 6, or all]',
)  # fmt: skip
@click.option('--feature-layer', metavar='NAME', help='Layer to compare  [default: the first of half the image size]')
@click.option('--num-steps', type=click.IntRange(min=1), default=300, show_default=True, help='Largest number of steps')
@click.option('--lr', 'learning_rate', type=FiniteFloat(min=0, min_open=True, max=100), help='Learning rate')
@click.option(
    '--motion-radius',
    type=FiniteFloat(min=0, max=1000),
    metavar='PIXELS',
    help='Radius of the neighborhood that moves with a point',
)
@click.option(
    '--tracking-radius', type=FiniteFloat(min=0, max=1000), metavar='PIXELS', help='Largest shift of a point in a step'
)
@click.option(
    '--tolerance', type=FiniteFloat(min=0, max=1000), metavar='PIXELS', help='Distance at which a point has arrived'
)
@click.option(
    '--mask-weight',
    type=FiniteFloat(min=0, max=1e6),
    metavar='X',
    help='Weight of changes outside --mask  [default: 20]',
)
@options.outdir_option()
@options.save_video_option('drag.mp4')
@options.execution_options(cuda_graphs=False)
@click.pass_context
def drag(
    ctx: click.Context,
    network: str,
    points_path: str,
    mask_path: str | None,
    outdir: str,
    save_video: bool,
    num_steps: int,
    trust_pickle: bool,
    device: str,
    **values: Any,
) -> None:
    if save_video:
        save_video = options.has_encoder(ctx.get_parameter_source('save_video') is not ParameterSource.DEFAULT)
    check_outdir(outdir)
    with usage_errors():
        handles, targets = read_points(points_path)
        mask = None if mask_path is None else read_mask(mask_path)
        if values['projected_w'] is not None:
            projected_latents.check_readable(values['projected_w'])
    data, G, torch_device = options.open_generator(network, trust_pickle, device)
    with usage_errors():
        _check_network(G, network)
        check_points(handles, targets, G.img_resolution)
        check_mask(mask, G.img_resolution)
        latent = _latent(data, torch_device, **{name: values.pop(name) for name in _LATENT_OPTIONS})
        settings = default_settings(G, **values)
        session = DragSession(G, latent, handles, targets, mask, settings, torch_device)
        report = {'network': network, 'mask': mask_path, **dataclasses.asdict(settings)}
        state = drag_to_files(session, num_steps, Path(outdir), save_video, report)
    reached = (
        'all points have arrived' if state.is_done else f'the farthest point is {max(state.distances):.3g} pixels away'
    )
    print(f'After {state.step} steps {reached}; wrote {outdir}')


_LATENT_OPTIONS = ('seed', 'class_text', 'label', 'truncation', 'projected_w', 'index')


def _latent(
    data: dict[str, Any],
    device: torch.device,
    seed: int | None,
    class_text: str | None,
    label: list[float] | None,
    truncation: latents.Truncation,
    projected_w: str | None,
    index: int,
) -> ProjectedLatents:
    """Return the latent to start from: one of a file, or that of a seed."""
    if projected_w is not None and seed is not None:
        print('Warning: --seed is ignored, since --projected-w is given.', file=sys.stderr)
    seeds = [seed or 0] if projected_w is None else None
    found, _names = find_latents(data, data['G_ema'], seeds, projected_w, class_text, label, truncation, device)
    if projected_w is not None and index >= len(found):
        raise InvalidArgument('index', f'{index} is too large: {projected_w} has {len(found)} latents.')
    return projected_latents.select(found, [index if projected_w is not None else 0])


def _check_network(G: Any, network: str) -> None:
    if G.img_channels not in (1, 2, 3, 4):
        raise InvalidArgument(
            'network',
            f'{network} generates images with {G.img_channels} channels: 1 to 4 are needed.',
        )
