"""Programs of `torch.export`: the network as a graph of PyTorch's own operators, which runs without this project."""

from __future__ import annotations

import os
from typing import Any, cast

import torch

from dnnlib.files import atomic_file
from dnnlib.text import excerpt
from exporting.models import MAX_BATCH, Model, check_results, plain_operators
from torch_utils import precision


def export_program(model: Model) -> Any:
    """Return a `torch.export.ExportedProgram`, whose arguments are the inputs by name.

    Raises:
        ValueError: PyTorch cannot export this network, such as one with code of its own. One sentence.
    """
    batch = torch.export.Dim('batch', min=1, max=MAX_BATCH)
    free = {name: None if name in model.unbatched else {0: batch} for name in model.inputs}
    try:
        with plain_operators(), precision.readable_setting():
            return torch.export.export(
                model.module,
                (),
                dict(model.inputs),
                dynamic_shapes=free if model.batch is None else None,
                strict=False,
            )
    except RuntimeError as error:
        raise ValueError(f'PyTorch {torch.__version__} cannot export this network ({excerpt(error)}).') from error


def check_program(program: Any, model: Model) -> float:
    """Return how far the program's results are from the network's; see `exporting.models.check_results`."""
    module = program.module()
    return check_results(lambda inputs: module(**inputs), model, 'The program')


def write_program(program: Any, path: str | os.PathLike) -> None:
    """Write a program to a `*.pt2` file.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_file(path) as file:
        torch.export.save(program, cast(Any, file))  # before PyTorch 2.5, its annotation does not say that files work
