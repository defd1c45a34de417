"""Find the latents with which a trained generator reproduces given pictures."""

from __future__ import annotations

from dnnlib.cli import PATH, Command, FiniteFloat, check_outdir, max_pixels_option, usage_errors

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dataset_format.images import MAX_PIXELS
from dnnlib.errors import InvalidArgument
from generation import latents, options
from generation.projection.optimization import ProjectionSettings, measure_w
from generation.projection.project_to_files import ALL_FILES, Projector, write_overview
from generation.projection.targets import TARGET_RULES, Target, check_channels, find_targets
from metrics.features import detectors
from metrics.features.projection_features import describe, features_of, open_detector

_DEFAULTS = ProjectionSettings()

HELP = f"""\
Find the latents with which a trained network reproduces given pictures.

\b
Examples:
  python projector.py --network=network.pkl --target=photo.jpg --outdir=out
  python projector.py --network=network.pkl --target=a.jpg --target=b.jpg --space=w+ --outdir=out
  python projector.py --network=conditional.pkl --class=3 --target=photos --num-steps=500 --outdir=out
  python generate.py --network=network.pkl --projected-w=out/projected_w.npz --outdir=out

{TARGET_RULES}

\b
The files of a single target are written to --outdir. Several targets get a folder each, named like the target, and
overview.png shows all of them:
  target.png                              the target as the network should reproduce it
  proj.png, projected_w.npz               after the last step: image; latent w, and noise if any
  proj_best.png, projected_w_best.npz     at the step with the lowest distance, as rendered then
  proj.mp4                                target and image side by side, one frame per step
  projection.json                         distances, and the settings they were computed with

Distances are measured by the network that LPIPS is based on (vgg16.pt, downloaded at first use), on images of at most
256 pixels per side; images smaller than 32 pixels are enlarged to 32. Images with alpha are compared on white and on
black.
"""


@click.command(cls=Command, help=HELP)
@options.network_option()
@click.option(
    '--target',
    'paths',
    type=PATH,
    required=True,
    multiple=True,
    metavar='IMAGE|DIR',
    help='Picture to project, or folder of pictures; may be given several times',
)
@options.outdir_option()
@options.class_option(help_text='Class of the targets, for conditional networks')
@options.label_option(help_text='Label of the targets, for networks whose labels are not classes, e.g. 0.2,1,0')
@click.option(
    '--space',
    type=click.Choice(['w', 'w+']),
    default=_DEFAULTS.space,
    show_default=True,
    help='One latent vector for all layers, or one for each: closer to the target, but harder to edit',
)
@click.option(
    '--num-steps',
    type=click.IntRange(min=1),
    default=_DEFAULTS.num_steps,
    show_default=True,
    help='Steps of the optimization',
)
@click.option(
    '--seed',
    type=click.IntRange(0, latents.MAX_SEED),
    default=_DEFAULTS.seed,
    show_default=True,
    help='Random seed',
)
@click.option(
    '--lr',
    'learning_rate',
    type=FiniteFloat(min=0, min_open=True, max=100),
    default=_DEFAULTS.learning_rate,
    show_default=True,
    help='Learning rate',
)
@click.option(
    '--noise-weight',
    type=FiniteFloat(min=0),
    default=_DEFAULTS.noise_weight,
    show_default=True,
    help='Weight of the penalty that keeps the noise from encoding the target, for networks that have noise',
)
@options.save_video_option('proj.mp4')
@max_pixels_option(MAX_PIXELS, 'targets')
@options.detectors_option()
@options.execution_options()
@click.pass_context
def main(
    ctx: click.Context,
    network: str,
    paths: tuple[str, ...],
    outdir: str,
    class_text: str | None,
    label: list[float] | None,
    space: str,
    num_steps: int,
    seed: int,
    learning_rate: float,
    noise_weight: float,
    save_video: bool,
    max_pixels: int,
    detector_dir: str | None,
    trust_pickle: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    if save_video:
        save_video = options.has_encoder(
            is_required=ctx.get_parameter_source('save_video') is not ParameterSource.DEFAULT
        )
    with usage_errors():
        targets = find_targets(paths, max_pixels)
        folders = folders_for(targets, outdir)
    if detector_dir is not None:
        with usage_errors('--detectors'):
            detectors.locate('vgg16', detector_dir)
    data, G, torch_device = options.open_generator(network, trust_pickle, device, cuda_graphs)
    weight_is_given = ctx.get_parameter_source('noise_weight') is not ParameterSource.DEFAULT
    options.warn_if_without_noise(G, '--noise-weight', weight_is_given)
    options.warn_if_unconditional(G.c_dim, {'--class': class_text, '--label': label})
    with usage_errors():
        check_network(G, targets, network)
        c = latents.make_label(data, class_text, label, torch_device)
    with usage_errors('--detectors'):
        detector = open_detector(detector_dir, G.img_resolution, torch_device)

    projector = Projector(
        G=G,
        features=features_of(detector),
        statistics=measure_w(G, c),
        settings=ProjectionSettings(
            num_steps=num_steps, seed=seed, space=space, learning_rate=learning_rate, noise_weight=noise_weight
        ),
        save_video=save_video,
        report={
            'network': network,
            'class': int(c.argmax()) if G.c_dim > 0 and label is None else None,
            'label': label if G.c_dim > 0 else None,
            'detector': describe(detector),
        },
    )
    with usage_errors():
        project_all(projector, targets, folders)
    if len(targets) > 1:
        print(f'Wrote {write_overview(folders, Path(outdir))}')


def project_all(projector: Projector, targets: list[Target], folders: list[Path]) -> None:
    """Project the targets one after the other, and print the distances."""
    for index, (target, folder) in enumerate(zip(targets, folders), start=1):
        title = target.name if len(targets) == 1 else f'{target.name} ({index}/{len(targets)})'
        result = projector.run(target, folder, title)
        print(
            f'{title}: distance {result.distances[0]:.4g} at the start, {result.last.distance:.4g} at the end, '
            f'{result.best.distance:.4g} at best (step {result.best.step}); wrote {folder}',
            flush=True,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def folders_for(targets: list[Target], outdir: str) -> list[Path]:
    """Return the output folder of each target; raise InvalidArgument if a target would be overwritten."""
    root = Path(outdir)
    folders = [root if len(targets) == 1 else root / target.name for target in targets]
    results = {(folder / name).resolve() for folder in folders for name in ALL_FILES}
    for target, folder in zip(targets, folders):
        check_outdir(str(folder))
        if target.path.resolve() in results:
            raise InvalidArgument('outdir', f'{target.path} would be overwritten: choose another folder.')
    return folders


def check_network(G: Any, targets: list[Target], network: str) -> None:
    """Raise InvalidArgument if the network's images are of another kind than the targets."""
    if G.img_channels not in (1, 2, 3, 4):
        raise InvalidArgument(
            'network',
            f'{network} generates images with {G.img_channels} channels, but projection needs 1 (grayscale) or 3 '
            '(RGB), optionally with alpha.',
        )
    for target in targets:
        check_channels(target, G.img_channels)


if __name__ == '__main__':
    main()
