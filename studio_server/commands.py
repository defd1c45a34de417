"""The command line of a script that makes the same picture or video."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from studio_server import picture_specs
from studio_server.networks import Network


def picture_command(network: Network, spec: dict[str, Any], path_of: Callable[[str], str]) -> str:
    """Return the command for a picture.

    A picture that has no options of its own is kept as a latent: `{npz}` stands for its file.

    Args:
        network: Its network.
        spec: From `picture_specs.parse`.
        path_of: Returns the path of a file of directions.
    """
    common = ['--network=' + network.path]
    transform = _transform_options(spec)
    seed = picture_specs.seed_of(spec)
    has_own_noise = picture_specs.has_own_noise(spec)
    if has_own_noise or not picture_specs.is_plain(spec):
        mode = [] if has_own_noise else _noise_options(spec)
        return _line('generate.py', [*common, '--projected-w={npz}', *mode, *transform, '--outdir=out'])
    options = [*_label_options(network, spec), *_truncation_options(spec), *_noise_options(spec)]
    options += _direction_options(spec, path_of)
    if not spec['mix']:
        return _line('generate.py', [*common, f'--seeds={seed}', *options, *transform, '--outdir=out'])
    (mix,) = spec['mix']
    layers = ','.join(str(layer) for layer in sorted(mix['layers']) if layer < network.G.num_ws)
    mixed = [f'--rows={seed}', f'--cols={mix["seed"]}', f'--styles={layers}'] if layers else [f'--seeds={seed}']
    return _line('style_mixing.py' if layers else 'generate.py', [*common, *mixed, *options, '--outdir=out'])


def kept_command(network: Network) -> str:
    """Return the command for a latent of the shelf; `{npz}` stands for its file."""
    return _line('generate.py', ['--network=' + network.path, '--projected-w={npz}', '--outdir=out'])


def video_command(network: Network, paths: Sequence[str], options: dict[str, Any], output: str) -> str:
    """Return the command for a video through kept latents.

    Args:
        network: Its network.
        paths: Files of the latents.
        options: `frames`, `fps`, `loop`, `kind` and `easing`.
        output: The video.
    """
    return _line(
        'gen_video.py',
        [
            '--network=' + network.path,
            *(f'--projected-w={path}' for path in paths),
            f'--frames={options["frames"]}',
            f'--fps={options["fps"]:g}',
            f'--loop={int(options["loop"])}',
            f'--interpolation={options["kind"]}',
            f'--easing={options["easing"]}',
            f'--output={output}',
        ],
    )


def blend_command(first: Network, second: Network, settings: Sequence[str], dest: str) -> str:
    """Return the command that blends two networks with the same settings."""
    return _line('edit.py', ['blend', f'--network={first.path}', f'--with={second.path}', *settings, f'--dest={dest}'])


def _line(script: str, options: Sequence[str]) -> str:
    return ' '.join(['python', script, *map(_quoted, options)])


def _quoted(option: str) -> str:
    return option if '{npz}' in option else shlex.quote(option)


def _truncation_options(spec: dict[str, Any]) -> list[str]:
    if spec['psi'] == 1:
        return []
    cutoff = [] if spec['cutoff'] is None else [f'--trunc-cutoff={spec["cutoff"]}']
    towards = ['--trunc-to=class'] if spec['center'] == 'class' else []
    return [f'--trunc={spec["psi"]!r}', *cutoff, *towards]


def _label_options(network: Network, spec: dict[str, Any]) -> list[str]:
    if network.G.c_dim == 0:
        return []
    if spec['label'] is not None:
        return ['--label=' + ','.join(map(repr, spec['label']))]
    return [f'--class={spec["class"] if spec["class"] is not None else "#0"}']


def _noise_options(spec: dict[str, Any]) -> list[str]:
    return [] if spec['noise_mode'] == 'const' else [f'--noise-mode={spec["noise_mode"]}']


def _direction_options(spec: dict[str, Any], path_of: Callable[[str], str]) -> list[str]:
    options = []
    for edit in spec['edits']:
        layers = '' if edit['layers'] is None else ':' + ','.join(map(str, edit['layers']))
        options.append(f'--direction={path_of(edit["file"])}:{edit["name"]}:{edit["strength"]!r}{layers}')
    return options


def _transform_options(spec: dict[str, Any]) -> list[str]:
    options = [] if spec['shift'] == [0, 0] else [f'--translate={spec["shift"][0]!r},{spec["shift"][1]!r}']
    return options if spec['rotation'] == 0 else [*options, f'--rotate={spec["rotation"]!r}']
