"""A static web page that contains a network: files for any web server, which load nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from dataset_format.sizes import sides
from dnnlib.files import atomic_file
from exporting import browser_runtime, onnx_files
from exporting.models import Choices, Part, make_model
from exporting.programs import export_program

_PAGE = Path(__file__).parent / 'page'
_ENTRY = 'index.html'
_PARTS: tuple[Part, ...] = ('mapping', 'synthesis')


def write_page(
    G: Any,
    folder: str | os.PathLike,
    choices: Choices,
    *,
    name: str,
    class_names: list[str],
    opset: int = onnx_files.OPSET,
    package: str | os.PathLike | None = None,
) -> float:
    """Write the page of a generator; files of the same names are replaced.

    Args:
        G: Generator, on the CPU, in evaluation mode.
        folder: Folder to write to; created if it does not exist.
        choices: `truncation_cutoff`, `noise_mode` and `half`; the others are chosen by the visitor of the page.
        name: Title of the page.
        class_names: Names of the classes, or [].
        opset: Version of the ONNX operators.
        package: See `browser_runtime.files_of_runtime`.

    Returns:
        The largest relative difference between ONNX Runtime and PyTorch.

    Raises:
        OSError: A file cannot be written, or onnxruntime-web not be downloaded.
        ValueError: The network cannot be exported. One sentence.
    """
    files = {f'onnxruntime/{file}': content for file, content in browser_runtime.files_of_runtime(package).items()}
    difference = 0.0
    for part in _PARTS:
        fixed = dataclasses.replace(choices, model=part, truncation_psi=None, label=None, batch=1)
        model = make_model(G, fixed)
        files[f'{part}.onnx'] = onnx_files.convert(export_program(model), model, opset)
        difference = max(difference, onnx_files.check(files[f'{part}.onnx'], model))
    files['network.json'] = json.dumps(_description(G, name, class_names), indent=1).encode()
    files |= {path.name: path.read_bytes() for path in sorted(_PAGE.iterdir()) if path.is_file()}
    Path(folder, _ENTRY).unlink(missing_ok=True)  # half of this page and half of an older one would show wrong images
    for file in sorted(files, key=_ENTRY.__eq__):  # the page itself last
        with atomic_file(Path(folder, file)) as opened:
            opened.write(files[file])
    return difference


def _description(G: Any, name: str, class_names: list[str]) -> dict[str, Any]:
    height, width = sides(G.img_resolution)
    return {
        'name': name,
        'z_dim': G.z_dim,
        'c_dim': G.c_dim,
        'w_dim': G.w_dim,
        'num_ws': G.num_ws,
        'height': height,
        'width': width,
        'channels': G.img_channels,
        'class_names': class_names,
    }
