"""What PyTorch 2.4 does not have is not needed: newer attributes are hidden, and what uses them still works."""

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from exporting import onnx_files
from torch_utils.ops import conv3x3

ROOT = Path(__file__).resolve().parents[2]

# PyTorch 2.5 and newer have buffers of a class of their own.
WITHOUT_BUFFERS = """
import torch
if hasattr(torch.nn, 'Buffer'):
    del torch.nn.Buffer
from torch_utils.ops import native
print(native.route(torch.ones(1)), native.route(torch.nn.Parameter(torch.ones(1))))
"""


def test_without_a_class_of_buffers():
    command = [sys.executable, '-c', WITHOUT_BUFFERS]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == 'eager eager\n'


def test_without_the_question_which_gradients_are_computed(monkeypatch):
    """Those that may be needed are computed."""
    monkeypatch.delattr(torch._C, '_will_engine_execute_node', raising=False)
    ctx = types.SimpleNamespace(needs_input_grad=(True, False))
    assert [conv3x3.needs_gradient(ctx, index) for index in range(2)] == [True, False]


def test_without_the_newer_exporter(monkeypatch):
    monkeypatch.setattr(torch.onnx, 'export', lambda model, args, f: None)
    with pytest.raises(ValueError, match=r'^ONNX files need PyTorch 2\.6 or newer, but this is '):
        onnx_files.require_packages()
