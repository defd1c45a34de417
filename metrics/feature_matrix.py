"""Sets of feature vectors as the mathematics of the metrics takes them: checked, and read in blocks of rows.

N vectors, D numbers in a vector.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

Features = np.ndarray | torch.Tensor
Progress = Callable[[int, int], object]  # called with what is done and the total

_ROWS_CHECKED_AT_ONCE = 4096


def feature_pair(real: Features, fake: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets as tensors [N, D] that share the memory of what was given; ValueError where they do not go together."""
    real, fake = as_matrix(real, 'real features'), as_matrix(fake, 'fake features')
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f'The real features have {real.shape[1]} dimensions, the fake ones {fake.shape[1]}: '
            'take both from the same detector.'
        )
    if (real.dtype, real.device) != (fake.dtype, fake.device):
        raise ValueError(
            f'The real features are {real.dtype} on {real.device}, the fake ones {fake.dtype} on {fake.device}: '
            'give both in one type and on one device.'
        )
    return real, fake


def as_matrix(features: Features, what: str) -> torch.Tensor:
    """Finite floating-point numbers [N, D] as a tensor that shares their memory; ValueError where they are not such."""
    if isinstance(features, torch.Tensor):
        tensor = features.detach()
    else:
        with warnings.catch_warnings():
            # Arrays that are read from files may be read-only, and nothing is written to them here.
            warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
            tensor = torch.from_numpy(np.asarray(features))
    if tensor.ndim != 2 or not tensor.is_floating_point() or 0 in tensor.shape:
        raise ValueError(
            f'The {what} have shape {list(tensor.shape)} and type {tensor.dtype}: give floating-point numbers '
            '[images, dimensions], at least one of each.'
        )
    for rows in spans(len(tensor), _ROWS_CHECKED_AT_ONCE):
        # What is not finite makes the sum so.
        bad = (~tensor[rows].sum(dim=1, dtype=compute_dtype(tensor.dtype)).isfinite()).nonzero()
        if len(bad):
            raise ValueError(
                f'The {what} of image {rows.start + int(bad[0])} are not finite: leave it out, or look for what the '
                'detector was given.'
            )
    return tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What products of features are computed in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def spans(count: int, size: int) -> list[slice]:
    """0 … count - 1 in pieces of `size`; the last may be shorter."""
    if size < 1:
        raise ValueError(f'Blocks of {size} rows cannot be computed: take 1 or more.')
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, float32 products keep float32 accuracy, whatever a training around it allows (TensorFloat-32, bfloat16).

    Metrics subtract large, nearly equal sums of such products.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
