"""Convert networks to ONNX files, fold constants, and compare the results of ONNX Runtime with those of PyTorch.

The packages onnx, onnxscript and onnxruntime are optional, and imported where they are used.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dnnlib.files import atomic_file
from dnnlib.text import excerpt
from exporting.models import Model, check_results
from torch_utils import precision

OPSET = 18
"""The default version of the operators: the oldest that PyTorch's exporter writes."""

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
_NO_LIMIT = 2**40


def require_packages() -> None:
    """Raise ValueError if the packages are not installed. One sentence with the command that installs them."""
    if 'dynamo' not in inspect.signature(torch.onnx.export).parameters:
        raise ValueError(f'ONNX files need PyTorch 2.6 or newer, but this is {torch.__version__}.')
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"ONNX files need the package {name}: pip install 'ada-gan[export]' ({error}).") from error


def convert(program: Any, model: Model, opset: int = OPSET, metadata: dict[str, Any] | None = None) -> bytes:
    """Convert a program of `exporting.programs` to the content of an ONNX file.

    Whatever depends on weights only is computed now: factors of weights, their squares, conversions to float16.

    Args:
        program: The exported program.
        model: What it was exported from.
        opset: Version of the operators.
        metadata: Values to store in the file, as JSON.

    Raises:
        ValueError: The exporter cannot convert it, or the network is larger than an ONNX file may be. One sentence.
    """
    import onnx
    import onnxscript.optimizer

    export: Any = torch.onnx.export  # its arguments depend on the version; see `require_packages`
    try:
        with _quiet(), precision.readable_setting():
            converted = export(
                program,
                kwargs=dict(model.inputs),
                dynamo=True,
                opset_version=opset,
                input_names=list(model.inputs),
                output_names=[model.output],
                optimize=False,
                verbose=False,
            )
            graph = converted.model
            onnxscript.optimizer.optimize_ir(graph, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
            proto = converted.model_proto
    except RuntimeError as error:  # includes those of torch.onnx
        raise ValueError(
            f'PyTorch {torch.__version__} cannot convert this network to ONNX ({excerpt(error)}): use another --opset, '
            'or newer versions of torch, onnx and onnxscript.'
        ) from error
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    for node in _all_nodes(proto):
        del node.metadata_props[:]  # the lines of source code that each operator comes from
        node.doc_string = ''
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ValueError('the network has more than 2 GiB, the most that an ONNX file can hold: use --precision=fp16.')
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = f'onnx {onnx.__version__} does not accept the file ({excerpt(error)})'
        raise ValueError(f'{reason}: use a smaller --opset, or a newer onnx.') from error
    return proto.SerializeToString()


def _all_nodes(proto: Any) -> list[Any]:
    return [*proto.graph.node, *(node for function in proto.functions for node in function.node)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter prints about its own progress and its plans."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def operators_of(content: bytes) -> dict[str, int]:
    """Return how often each operator occurs, those of other domains as 'domain::name'."""
    import onnx

    counts: dict[str, int] = {}
    for node in _all_nodes(onnx.load_from_string(content)):
        name = f'{node.domain}::{node.op_type}' if node.domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return counts


def run(content: bytes, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the output of an ONNX file with ONNX Runtime on the CPU.

    Raises:
        ValueError: This version of ONNX Runtime cannot run it. One sentence.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print is in the errors that it raises
    try:
        session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its classes of errors have no public name in common
        reason = f'ONNX Runtime {onnxruntime.__version__} cannot run the file ({excerpt(error)})'
        raise ValueError(f'{reason}: use a smaller --opset, or a newer onnxruntime.') from error
    wanted = {item.name for item in session.get_inputs()}
    (result,) = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in wanted})
    return torch.from_numpy(np.asarray(result))


def check(content: bytes, model: Model) -> float:
    """Return how far ONNX Runtime's results are from PyTorch's; see `exporting.models.check_results`."""
    return check_results(lambda inputs: run(content, inputs), model, 'ONNX Runtime')


def write(content: bytes, path: str | os.PathLike) -> None:
    """Write an ONNX file.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content)
