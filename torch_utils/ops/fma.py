"""Fused multiply-add: a * b + c in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a * b + c, with the usual broadcasting. Differentiable any number of times."""
    if torch.compiler.is_compiling():  # PyTorch 2.6 cannot convert addcmul with a free batch size to ONNX
        return c + a * b
    return torch.addcmul(c, a, b)
