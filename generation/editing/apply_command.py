"""`edit.py apply`: move latents along directions, and write the images and the latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from dataset_format.sizes import sides
from dnnlib.cli import Command, check_outdir, usage_errors
from dnnlib.errors import InvalidArgument
from dnnlib.outputs import OutputFile
from generation import latents, options, projected_latents, rendering
from generation.editing.direction_options import Edit, direction_options
from generation.interpolation import Interpolation, render_frames
from generation.projected_latents import ProjectedLatents
from generation.video import require_encoder, write_video
from torch_utils import images

_MAX_VIDEO_WIDTH = 16384  # pixels; the limit of H.264 in common players


@click.command(cls=Command)
@options.network_option()
@options.seeds_option('Random seeds of the images, e.g. 0,1,4-6; ranges ascend, and blanks need quotes')
@options.projected_w_option('Edit these latents (from projector.py) instead of seeds, with the noise found for them')
@direction_options()
@options.outdir_option()
@click.option(
    '--steps',
    'num_steps',
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar='N',
    help='Steps from the original to the edited image in strip.png',
)
@click.option(
    '--video', type=OutputFile('video'), metavar='FILE.mp4', help='Also write a video from original to edited and back'
)
@click.option(
    '--frames', type=click.IntRange(min=1), default=60, show_default=True, help='Frames of the video in each direction'
)
@options.truncation_options()
@options.class_option()
@options.label_option()
@options.noise_mode_option()
@options.batch_option()
@options.execution_options()
def apply(
    network: str,
    seeds: list[int] | None,
    projected_w: str | None,
    edit: Edit,
    outdir: str,
    num_steps: int,
    video: str | None,
    frames: int,
    truncation: latents.Truncation,
    class_text: str | None,
    label: list[float] | None,
    noise_mode: str,
    batch_size: int,
    trust_pickle: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Edit images along directions that `edit.py directions` has written.

    Writes seed0000.png or proj00.png …, the edited images; strip.png, with the original of each at the left; and
    edited_w.npz, the edited latents, which --projected-w of all scripts reads.

    \b
    Examples:
      python edit.py apply --network=network.pkl --seeds=0-3 --direction=edits.safetensors:pca0:2 --outdir=out
      python edit.py apply --network=network.pkl --projected-w=projected_w.npz --steps=6 --outdir=out \\
          --direction=edits.safetensors:smile:2 --direction=edits.safetensors:sefa1:-1.5:0-3
    """
    check_outdir(outdir)
    with usage_errors():
        check_inputs(seeds, projected_w, edit, num_steps)
    if video is not None:
        check_outdir(str(Path(video).parent), '--video')
        require_encoder()
    data, G, torch_device = options.open_generator(network, trust_pickle, device, cuda_graphs)

    options.warn_if_without_noise(G, f'--noise-mode={noise_mode}', noise_mode != 'const')
    with usage_errors():
        original, names = find_latents(data, G, seeds, projected_w, class_text, label, truncation, torch_device)
        edited = edit.apply_to_projected(G, original)
        options.check_picture_size((num_steps + 1, len(names)), G.img_resolution, 'steps')
        if video is not None and len(names) * sides(G.img_resolution)[1] > _MAX_VIDEO_WIDTH:
            raise InvalidArgument('video', f'{len(names)} images side by side are too wide for a video: use fewer.')
    along = steps_between(original, edited, num_steps)
    rendered = rendering.render_projected(
        G, along, torch_device, noise_mode, batch_size, as_projected=projected_w is not None
    )
    cells = np.stack(list(rendered))  # [names * (steps + 1), C, H, W]
    images.save_image_grid(cells, Path(outdir, 'strip.png'), (num_steps + 1, len(names)))
    for name, image in zip(names, cells[num_steps :: num_steps + 1]):
        images.save_png(image, Path(outdir, f'{name}.png'))
    projected_latents.write(Path(outdir, 'edited_w.npz'), edited)
    print(f'Wrote {len(names)} images, strip.png and edited_w.npz to {outdir}')
    if video is not None:
        path = Interpolation(steps_between(original, edited, 1), len(names), frames, 'linear')
        grid = (len(names), 1)
        write_video(video, 30, render_frames(G, path, grid, torch_device, noise_mode, batch_size), path.num_frames)
        print(f'Wrote {video}')


def find_latents(
    data: dict[str, Any],
    G: Any,
    seeds: list[int] | None,
    projected_w: str | None,
    class_text: str | None,
    label: list[float] | None,
    truncation: latents.Truncation,
    device: Any,
) -> tuple[ProjectedLatents, list[str]]:
    """Return the latents to edit, and the names of their images.

    Raises:
        InvalidArgument: They cannot be used for this network.
    """
    if projected_w is not None:
        options.warn_about_ignored_latents('--projected-w', seeds, class_text, label, truncation)
        projected = projected_latents.read(projected_w, G)
        return projected, [f'proj{index:02d}' for index in range(len(projected))]
    assert seeds is not None  # see check_inputs
    options.warn_if_unconditional(G.c_dim, {'--class': class_text, '--label': label})
    options.check_truncation(G, truncation)
    c = latents.make_label(data, class_text, label, device)
    center = latents.truncation_center(G, c, truncation.towards) if truncation.is_active else None
    ws = latents.ws_of_seeds(G, seeds, c, truncation.psi[0], truncation.cutoff, center)
    return ProjectedLatents(ws.cpu().numpy()), [f'seed{seed:04d}' for seed in seeds]


def steps_between(original: ProjectedLatents, edited: ProjectedLatents, num_steps: int) -> ProjectedLatents:
    """Return latents from each original to its edited one, num_steps + 1 of each, latent by latent."""
    progress = np.linspace(0, 1, num_steps + 1, dtype=np.float32)[None, :, None, None]
    start, end = original.ws[:, None], edited.ws[:, None]
    ws = start + (end - start) * progress  # [n, steps + 1, num_ws, w_dim]
    noise = {name: array.repeat(num_steps + 1, axis=0) for name, array in original.noise.items()}
    return ProjectedLatents(ws.reshape(-1, *ws.shape[2:]), noise)


def check_inputs(seeds: list[int] | None, projected_w: str | None, edit: Edit, num_steps: int) -> None:
    """Check everything that can be checked before the network is opened."""
    if not edit.steps:
        raise click.UsageError('Nothing to apply: use --direction (e.g. --direction=edits.safetensors:pca0:2).')
    if projected_w is not None:
        projected_latents.check_readable(projected_w)
    elif seeds is None:
        raise click.UsageError('Nothing to edit: use --seeds (e.g. --seeds=0-3) or --projected-w.')
    else:
        latents.check_seeds(seeds)
        if len(seeds) * (num_steps + 1) > 100_000:
            raise InvalidArgument('steps', f'{len(seeds)} seeds with {num_steps} steps are too many images.')
