"""Finds the latents with which a trained generator shows given pictures."""

from pathlib import Path

import click
import torch
from click.core import ParameterSource

import dnnlib.cli
from dataset_format.sizes import Resolution
from dnnlib.cli import usage_errors
from generation import latents
from generation.options import label_option, trust_pickle_option
from generation.projection.optimization import Features, Settings, feature_input_size, measure_w
from generation.projection.projector import ALL_FILES, Projector, write_overview
from generation.projection.targets import TARGET_RULES, Target, check_channels, find_targets
from generation.video import NoEncoder, require_encoder
from metrics.features import detectors
from network_files.reading import open_network

_DEFAULTS = Settings()

HELP = f"""\
Find the latents with which a trained network shows given pictures.

\b
Examples:
  python projector.py --network=network.pkl --target=photo.jpg --outdir=out
  python projector.py --network=network.pkl --target=a.jpg --target=b.jpg --space=w+ --outdir=out
  python projector.py --network=conditional.pkl --class=3 --target=photos --num-steps=500 --outdir=out
  python generate.py --network=network.pkl --projected-w=out/projected_w.npz --outdir=out

{TARGET_RULES}

\b
A single target's files are written to --outdir, several ones' to a folder each there, called like the target, with
overview.png of them all:
  target.png                              the target as the network should show it
  proj.png, projected_w.npz               after the last step: image; latent w and noise
  proj_best.png, projected_w_best.npz     where the distance was lowest, as it was rendered then
  proj.mp4                                target and image side by side, one frame a step
  projection.json                         distances, and from what they come

Distances are measured by the network that LPIPS is based on (vgg16.pt, downloaded at first use), in images of at most
256 pixels each way; images below 32 pixels are enlarged to 32 for it. Images with alpha are measured on white and on
black.
"""


@click.command(cls=dnnlib.cli.Command, help=HELP)
@click.option('--network', type=dnnlib.cli.PATH, required=True, metavar='PKL', help='Network pickle: file or URL')
@click.option(
    '--target',
    'places',
    type=dnnlib.cli.PATH,
    required=True,
    multiple=True,
    metavar='IMAGE|DIR',
    help='Picture to project, or a folder of pictures; can be given several times',
)
@click.option('--outdir', type=dnnlib.cli.PATH, required=True, metavar='DIR', help='Folder for the results')
@click.option('--class', 'class_text', metavar='INDEX|NAME', help='Class of the targets, for conditional networks')
@label_option()
@click.option(
    '--space',
    type=click.Choice(['w', 'w+']),
    default=_DEFAULTS.space,
    show_default=True,
    help='One latent vector for all layers, or one for each: nearer to the target, less apt for editing',
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
    type=click.IntRange(0, latents.LARGEST_SEED),
    default=_DEFAULTS.seed,
    show_default=True,
    help='Random seed',
)
@click.option(
    '--lr',
    'learning_rate',
    type=dnnlib.cli.FiniteFloat(min=0, min_open=True, max=100),
    default=_DEFAULTS.learning_rate,
    show_default=True,
    help='Learning rate',
)
@click.option(
    '--noise-weight',
    type=dnnlib.cli.FiniteFloat(min=0),
    default=_DEFAULTS.noise_weight,
    show_default=True,
    help='How strongly the noise is kept from showing the target',
)
@click.option('--save-video', type=dnnlib.cli.BOOL, default=True, show_default=True, help='Write proj.mp4')
@click.option(
    '--detectors',
    'detector_dir',
    type=dnnlib.cli.PATH,
    metavar='DIR',
    help='Folder with vgg16.pt, instead of the download',
)
@trust_pickle_option()
@dnnlib.cli.device_option()
@click.pass_context
def main(
    ctx: click.Context,
    network: str,
    places: tuple[str, ...],
    outdir: str,
    class_text: str | None,
    label: list[float] | None,
    space: str,
    num_steps: int,
    seed: int,
    learning_rate: float,
    noise_weight: float,
    save_video: bool,
    detector_dir: str | None,
    trust_pickle: bool,
    device: str,
) -> None:
    if save_video:
        save_video = has_encoder(is_wish=ctx.get_parameter_source('save_video') is not ParameterSource.DEFAULT)
    targets = find_targets(places)
    folders = folders_for(targets, outdir)
    torch_device = dnnlib.cli.resolve_device(device)

    if detector_dir is not None:
        check_detector_file(detector_dir)
    with usage_errors('--network'):
        data = open_network(network, trust=trust_pickle)
    G = data['G_ema'].to(torch_device)
    check_network(G, targets, network)
    c = latents.label_of(data, class_text, label, torch_device)
    detector = open_detector(detector_dir, G.img_resolution, torch_device)

    projector = Projector(
        G=G,
        features=features_of(detector),
        statistics=measure_w(G, c),
        settings=Settings(
            num_steps=num_steps, seed=seed, space=space, learning_rate=learning_rate, noise_weight=noise_weight
        ),
        save_video=save_video,
        report={
            'network': network,
            'class': int(c.argmax()) if G.c_dim > 0 and label is None else None,
            'label': label if G.c_dim > 0 else None,
            'detector': {'name': detector.name, 'label': detector.label, 'sha256': detector.sha256},
        },
    )
    for index, (target, folder) in enumerate(zip(targets, folders), start=1):
        title = target.name if len(targets) == 1 else f'{target.name} ({index}/{len(targets)})'
        result = projector.run(target, folder, title)
        click.echo(
            f'{title}: distance {result.distances[0]:.4g} at the start, {result.last.distance:.4g} at the end, '
            f'{result.best.distance:.4g} at best (step {result.best.step}); wrote {folder}'
        )
    if len(targets) > 1:
        click.echo(f'Wrote {write_overview(folders, Path(outdir))}')


# ------------------------------------------------------------------------------------------------- checks


def has_encoder(is_wish: bool) -> bool:
    """Whether videos can be written. Where not: click.BadParameter if the user asked for one, else a notice."""
    try:
        require_encoder()
    except NoEncoder as error:
        if is_wish:
            raise click.BadParameter(f'{error}; or --save-video=0.', param_hint="'--save-video'") from error
        click.echo(f'No video will be written: {error}', err=True)
        return False
    return True


def folders_for(targets: list[Target], outdir: str) -> list[Path]:
    """Where the files of each target go. Raises click.BadParameter where they cannot, or would replace a target."""
    root = Path(outdir)
    folders = [root if len(targets) == 1 else root / target.name for target in targets]
    results = {(folder / name).resolve() for folder in folders for name in ALL_FILES}
    for target, folder in zip(targets, folders):
        dnnlib.cli.check_outdir(str(folder))
        if target.path.resolve() in results:
            raise click.BadParameter(
                f'{target.path} is among the files that would be written: give another place.', param_hint="'--outdir'"
            )
    return folders


def check_network(G: torch.nn.Module, targets: list[Target], network: str) -> None:
    """Raises click.BadParameter where the network's images are of another kind than the targets."""
    if G.img_channels not in (1, 2, 3, 4):
        raise click.BadParameter(
            f'{network} makes images of {G.img_channels} channels: projection needs 1 (grayscale) or 3 (RGB), or one '
            'more (alpha).',
            param_hint="'--network'",
        )
    for target in targets:
        check_channels(target, G.img_channels)


def check_detector_file(folder: str) -> None:
    """Raises click.UsageError where `--detectors` does not have it, before a network is downloaded."""
    try:
        detectors.locate('vgg16', folder)
    except detectors.DetectorError as error:
        raise click.UsageError(str(error)) from error


def open_detector(folder: str | None, resolution: Resolution, device: torch.device) -> detectors.Detector:
    """The feature network, tried on images of the size that it will see. Raises click.UsageError."""
    size = feature_input_size(resolution)
    try:
        detector = detectors.load('vgg16', device, folder=folder, verbose=True)
        detectors.check(detector, detectors.LPIPS, size, device)
        if not features_of(detector)(torch.zeros([1, 3, *size], device=device, requires_grad=True)).requires_grad:
            raise detectors.DetectorError(f'{detector.source} gives no gradients, which projection needs.')
    except detectors.DetectorError as error:
        raise click.UsageError(str(error)) from error
    return detector


def features_of(detector: detectors.Detector) -> Features:
    return lambda images: detector.module(images, **detectors.LPIPS)


if __name__ == '__main__':
    main()
