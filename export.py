"""Export a trained network: as an ONNX file, as a program of PyTorch, or as a web page that contains it."""

from __future__ import annotations

from dnnlib.cli import PATH, Command, FiniteFloat, check_outdir, usage_error, usage_errors

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
import os
from pathlib import Path
from typing import Any, Literal

import click
import torch
from click.core import ParameterSource

from dnnlib.outputs import EXTENSIONS, OutputFile
from exporting import onnx_files, programs, web_page
from exporting.models import MAX_BATCH, Choices, make_model
from generation import latents, options
from network_files.reading import open_network

INPUT = 'input'  # value of --trunc


class Truncation(FiniteFloat):
    """A number, or 'input' (None)."""

    name = 'PSI|input'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return INPUT if value == INPUT else super().convert(value, param, ctx)


class BatchSize(click.IntRange):
    """A number of images, or 'free'."""

    name = 'N|free'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == 'free' else super().convert(value, param, ctx)


@click.command(cls=Command)
@options.network_option()
@click.option(
    '--dest',
    type=OutputFile('export', or_folder=True),
    required=True,
    metavar='FILE.onnx|FILE.pt2|DIR/',
    help='What to write: an ONNX file, a program of torch.export, or the folder of a web page',
)
@click.option(
    '--model',
    type=click.Choice(['G', 'D']),
    default='G',
    show_default=True,
    help='The generator (its average, G_ema) or the discriminator',
)
@click.option(
    '--input',
    'latent',
    type=click.Choice(['z', 'w']),
    default='z',
    show_default=True,
    help='What the generator takes: random latents z [N, z_dim], or w [N, num_ws, w_dim] such as those of projector.py',
)
@click.option(
    '--trunc',
    'truncation_psi',
    type=Truncation(),
    default='1',
    show_default=True,
    help='Truncation: a number, or an input of the exported network',
)
@options.trunc_cutoff_option()
@options.class_option(help_text='Class to fix, for conditional networks; by default, the label is an input')
@options.label_option('--label', 'Label to fix, for networks whose labels are not classes, e.g. 0.2,1,0')
@click.option(
    '--noise-mode',
    type=click.Choice(['const', 'none']),
    default='const',
    show_default=True,
    help='Fine detail: the noise stored in the network, or no noise',
)
@click.option(
    '--batch',
    type=BatchSize(min=1, max=MAX_BATCH),
    default='free',
    show_default=True,
    help='Images per call: a fixed number, or any',
)
@click.option(
    '--precision',
    type=click.Choice(['fp32', 'fp16']),
    default='fp32',
    show_default=True,
    help='fp16: half precision in the highest resolutions, as in training on CUDA',
)
@click.option(
    '--opset',
    type=click.IntRange(min=18, max=23),
    default=onnx_files.OPSET,
    show_default=True,
    metavar='N',
    help='Version of the ONNX operators',
)
@click.option(
    '--onnxruntime-web',
    'package',
    type=PATH,
    metavar='TGZ',
    show_default='downloaded from the npm registry',
    help='npm package of onnxruntime-web for the web page',
)
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickle (only if you trust its author)')
def main(
    network: str,
    dest: str,
    model: Literal['G', 'D'],
    latent: str,
    truncation_psi: float | str,
    truncation_cutoff: int | None,
    class_text: str | None,
    label: list[float] | None,
    noise_mode: str,
    batch: int | str,
    precision: str,
    opset: int,
    package: str | None,
    trust_pickle: bool,
) -> None:
    """Export a trained network.

    ONNX files run in ONNX Runtime and whatever else reads them; *.pt2 is a program of torch.export, which PyTorch runs
    without this project. Both contain standard operators only. The web page lets its visitors choose seeds, truncation,
    class, and a second seed to mix with; it is a folder for any web server, and loads nothing from elsewhere.

    What is exported is compared with the network before it is written. docs/export.md describes inputs and outputs.

    \b
    Examples:
      python export.py --network=network.pkl --dest=generator.onnx
      python export.py --network=conditional.pkl --dest=cats.onnx --class=cat --trunc=0.7 --batch=1
      python export.py --network=network.pkl --dest=synthesis.onnx --input=w --precision=fp16
      python export.py --network=network.pkl --dest=discriminator.pt2 --model=D
      python export.py --network=runs/00000-cats-auto1 --dest=page/
    """
    kind = 'page' if os.path.isdir(dest) else os.path.splitext(dest)[1].lower()[1:] or 'page'
    check_options(kind, model, latent, given_options(click.get_current_context()))
    check_outdir(dest if kind == 'page' else os.path.dirname(dest) or os.curdir, '--dest')
    if kind != 'pt2':
        with usage_errors('--dest'):
            onnx_files.require_packages()
    with usage_errors('--network'):
        data, exported = open_for_export(network, model, precision == 'fp16', trust_pickle)
    with usage_errors():
        choices = Choices(
            model='synthesis' if latent == 'w' else model,
            truncation_psi=None if isinstance(truncation_psi, str) else truncation_psi,
            truncation_cutoff=truncation_cutoff,
            label=fixed_label(data, exported, class_text, label),
            noise_mode=noise_mode,
            batch=None if isinstance(batch, str) else batch,
            half=precision == 'fp16',
        )
        truncates = kind == 'page' or truncation_psi != 1
        options.check_trunc_cutoff(exported, 0 if truncates else 1, truncation_cutoff)
        write(data, exported, dest, kind, choices, title_of(network), opset, package)


def title_of(network: str) -> str:
    """Return the name of a network file without its extension, or of the directory of a run, which may contain dots."""
    path = Path(network)
    return path.stem if path.suffix.lower() in EXTENSIONS['network'] else path.name


def given_options(context: click.Context) -> set[str]:
    """Return the options on the command line, such as '--trunc'."""
    given = [param for param in context.command.params if _is_given(context, param)]
    return {param.opts[0] for param in given}


def _is_given(context: click.Context, param: click.Parameter) -> bool:
    return param.name is not None and context.get_parameter_source(param.name) == ParameterSource.COMMANDLINE


def check_options(kind: str, model: str, latent: str, given: set[str]) -> None:
    """Raise BadParameter if options contradict each other."""
    reasons = {
        'the discriminator has no latents': (model == 'D', ('--input', '--trunc', '--trunc-cutoff', '--noise-mode')),
        '--input=w already contains them': (latent == 'w', ('--trunc', '--trunc-cutoff', '--class', '--label')),
        'visitors of the page choose it': (kind == 'page', ('--input', '--trunc', '--class', '--label', '--batch')),
        'it is for web pages': (kind != 'page', ('--onnxruntime-web',)),
        'it is for ONNX files': (kind == 'pt2', ('--opset',)),
    }
    for reason, (applies, names) in reasons.items():
        for name in names:
            if applies and name in given:
                raise usage_error(name, f'cannot be used here, since {reason}: remove the option.')
    if kind == 'page' and model == 'D':
        raise usage_error('--model', 'D has no images to show: use --dest=FILE.onnx or FILE.pt2.')


def open_for_export(network: str, model: str, half: bool, trust_pickle: bool) -> tuple[dict[str, Any], Any]:
    """Open a network file; return its content and the network to export.

    Raises:
        ValueError: The file does not contain it. One sentence.
    """
    key = 'D' if model == 'D' else 'G_ema'
    data = open_network(network, trust=trust_pickle)
    if data[key] is None or (key == 'D' and data['D'] is data['G_ema']):
        raise ValueError(f'{network} has no discriminator.')
    if half and not any(getattr(module, 'use_fp16', False) for module in data[key].modules()):
        data = open_network(network, force_fp16=True, trust=trust_pickle)
    return data, data[key]


def fixed_label(
    data: dict[str, Any], network: Any, class_text: str | None, numbers: list[float] | None
) -> torch.Tensor | None:
    """Return the label [1, c_dim] that the options fix, or None."""
    options.warn_if_unconditional(network.c_dim, {'--class': class_text, '--label': numbers})
    if network.c_dim == 0 or (class_text is None and numbers is None):
        return None
    return latents.make_label({**data, 'G_ema': network}, class_text, numbers, 'cpu')


def write(
    data: dict[str, Any],
    network: Any,
    dest: str,
    kind: str,
    choices: Choices,
    name: str,
    opset: int,
    package: str | None,
) -> None:
    """Write the export, and print what was written."""
    class_names = latents.class_names_of(data, network.c_dim)
    if kind == 'page':
        difference = web_page.write_page(
            network, dest, choices, name=name, class_names=class_names, opset=opset, package=package
        )
        print(f'Wrote a web page to {dest} (relative difference from PyTorch: {difference:.1e}). To look at it:')
        print(f'  python -m http.server --directory {dest}')
        return
    model = make_model(network, choices)
    program = programs.export_program(model)
    shapes = ', '.join(f'{name} {shape_text(name, tensor, choices.batch)}' for name, tensor in model.inputs.items())
    if kind == 'pt2':
        difference = programs.check_program(program, model)
        programs.write_program(program, dest)
    else:
        metadata = {'range': [-1, 1], 'class_names': class_names}
        content = onnx_files.convert(program, model, opset, metadata if choices.model != 'D' else {})
        difference = onnx_files.check(content, model)
        onnx_files.write(content, dest)
    print(f'Wrote {dest}: {shapes} → {model.output} (relative difference from PyTorch: {difference:.1e})')


def shape_text(name: str, tensor: torch.Tensor, batch: int | None) -> str:
    """Return the shape of an input, with N for a free batch."""
    sizes = [str(size) for size in tensor.shape]
    if sizes:
        sizes[0] = 'N' if batch is None else sizes[0]
    return f'[{", ".join(sizes)}]'


if __name__ == '__main__':
    main()
