"""`edit.py tune`: a network that shows given photographs exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from dataset_format.images import MAX_PIXELS
from dataset_format.sizes import Resolution
from dnnlib.cli import PATH, Command, FiniteFloat, check_outdir, max_pixels_option, usage_error, usage_errors
from dnnlib.errors import InvalidArgument
from generation import latents, options, projected_latents
from generation.editing.tune_files import Tuner, find_projections, load
from generation.editing.tuning import TuningResult, TuningSettings
from generation.projection.optimization import FeatureFunction
from generation.projection.targets import TARGET_RULES, Target, find_targets

FeatureOpener = Callable[[str | None, Resolution, torch.device], tuple[FeatureFunction, dict[str, Any]]]
"""Opens the features by which images are compared, for the value of `--detectors`, a resolution and a device. Returns
also what the report says about them."""

_DEFAULTS = TuningSettings()

HELP = f"""\
Tune a network until it shows photographs exactly, and stays as it was elsewhere (pivotal tuning, arXiv 2106.05744).

\b
Examples:
  python projector.py --network=network.pkl --target=photo.jpg --outdir=projected
  python edit.py tune --network=network.pkl --projection=projected --outdir=tuned
  python generate.py --network=tuned/tuned.pkl --projected-w=tuned/tuned_w.npz --outdir=out
  python edit.py tune --network=network.pkl --projected-w=two.npz --target=a.jpg --target=b.jpg --outdir=tuned

The photographs must have been projected with the same network: give the folder that projector.py has written
(--projection; of several targets, the folder above), or the latents and the photographs in the same order
(--projected-w, --target).

{TARGET_RULES}

\b
Files in --outdir:
  tuned.pkl                the tuned network, with everything else that the network file contained
  tuned_w.npz              latents and noise of the photographs, for --projected-w of all scripts
  tuned00.png, ...         the photographs as the tuned network renders them
  overview.png             photographs, their projections, and their images now
  tuning.mp4               photographs above, images below, one frame per step
  tuning.json              distances before and after, and the settings

Images are compared by the network that LPIPS is based on (vgg16.pt, downloaded at first use), and pixel by pixel.
"""


def make_command(open_features: FeatureOpener) -> click.Command:
    """Return the command.

    Args:
        open_features: Opens the features; their detectors are above this package.
    """

    @click.command(name='tune', cls=Command, help=HELP, short_help='Tune a network until it shows photographs exactly')
    @options.network_option()
    @click.option(
        '--projection',
        'projections',
        type=PATH,
        multiple=True,
        metavar='DIR',
        help='Output folder of projector.py; may be given several times',
    )
    @options.projected_w_option('Latents of --target (from projector.py); several files are joined', multiple=True)
    @click.option(
        '--target',
        'paths',
        type=PATH,
        multiple=True,
        metavar='IMAGE|DIR',
        help='Photograph, or folder of photographs, in the order of --projected-w; may be given several times',
    )
    @options.outdir_option()
    @_settings_options
    @options.save_video_option('tuning.mp4')
    @max_pixels_option(MAX_PIXELS, 'photographs')
    @options.detectors_option()
    @options.execution_options(cuda_graphs=False)
    @click.pass_context
    def tune(ctx: click.Context, **values: Any) -> None:
        if values['save_video']:
            is_required = ctx.get_parameter_source('save_video') is not ParameterSource.DEFAULT
            values['save_video'] = options.has_encoder(is_required)
        run(open_features, **values)

    return tune


def _settings_options(command: Callable) -> Callable:
    """Add the options that are fields of `TuningSettings`."""
    positive, not_negative = FiniteFloat(min=0, min_open=True, max=100), FiniteFloat(min=0, max=1e6)
    rows: list[tuple[str, str, click.ParamType, str]] = [
        ('--num-steps', 'num_steps', click.IntRange(min=1), 'Steps of the optimization'),
        ('--batch', 'batch_size', click.IntRange(min=1), 'Photographs in each step'),
        ('--lr', 'learning_rate', positive, 'Learning rate'),
        ('--l2-weight', 'l2_weight', not_negative, 'Weight of the pixels, beside the features'),
        (
            '--locality-weight',
            'locality_weight',
            not_negative,
            'Weight of what keeps other images as they are',
        ),
        ('--locality-samples', 'locality_samples', click.IntRange(1, 1000), 'Other images in each step'),
        (
            '--locality-distance',
            'locality_distance',
            positive,
            'Their distance from the photographs, in standard deviations of w',
        ),
        ('--seed', 'seed', click.IntRange(0, latents.MAX_SEED), 'Random seed'),
    ]
    for option, name, kind, text in reversed(rows):
        default = getattr(_DEFAULTS, name)
        command = click.option(option, name, type=kind, default=default, show_default=True, help=text)(command)
    return command


def run(
    open_features: FeatureOpener,
    network: str,
    projections: tuple[str, ...],
    projected_w: tuple[str, ...],
    paths: tuple[str, ...],
    outdir: str,
    save_video: bool,
    max_pixels: int,
    detector_dir: str | None,
    trust_pickle: bool,
    device: str,
    **settings: Any,
) -> None:
    """Run the command with the values of its options."""
    check_outdir(outdir)
    with usage_errors():
        targets, files = _find_inputs(projections, projected_w, paths, max_pixels)
    data, G, torch_device = options.open_generator(network, trust_pickle, device)
    names = {} if projected_w else {'projected_w': '--projection', 'target': '--projection'}
    with usage_errors(**names):
        if G.img_channels not in (1, 2, 3, 4):
            raise usage_error(
                '--network', f'{network} generates images with {G.img_channels} channels: 1 to 4 are needed.'
            )
        photographs, pivots = load(targets, files, G)
    with usage_errors('--detectors'):
        features, description = open_features(detector_dir, G.img_resolution, torch_device)
    tuner = Tuner(
        data=data,
        features=features,
        settings=TuningSettings(**settings),
        device=torch_device,
        save_video=save_video,
        report={'network': network, 'detector': description},
    )
    with usage_errors():
        result = tuner.run([target.name for target in targets], photographs, pivots, Path(outdir))
    _print_result(targets, result, outdir)


def _find_inputs(
    projections: tuple[str, ...], projected_w: tuple[str, ...], paths: tuple[str, ...], max_pixels: int
) -> tuple[list[Target], list[str]]:
    """Return the photographs and the files of their latents; raise InvalidArgument if the options do not fit."""
    if projections and (projected_w or paths):
        raise InvalidArgument('projection', 'cannot be combined with --projected-w and --target: use only one of them.')
    if projections:
        targets, files = find_projections(projections)
    elif projected_w and paths:
        targets, files = find_targets(paths, max_pixels), list(projected_w)
    else:
        argument = 'target' if projected_w else 'projected_w' if paths else 'projection'
        raise InvalidArgument(argument, 'is missing: give --projection, or both --projected-w and --target.')
    for file in files:
        projected_latents.check_readable(file)
    return targets, files


def _print_result(targets: list[Target], result: TuningResult, outdir: str) -> None:
    for target, before, after in zip(targets, result.before, result.after):
        print(f'{target.name}: distance {before.distance:.4g} before, {after.distance:.4g} now')
    print(f'Other images moved by a distance of {result.drift:.4g} on average; wrote {outdir}')
