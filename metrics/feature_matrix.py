"""Arrays of feature vectors for the mathematics of the metrics: checks, precision, blocks of rows.

N vectors, D dimensions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

from metrics.batching import row_blocks
from torch_utils import precision

FeatureArray = np.ndarray | torch.Tensor
ProgressCallback = Callable[[int, int], object]  # called with the finished steps and their total

_ROWS_CHECKED_AT_ONCE = 4096


def feature_pair(real: FeatureArray, fake: FeatureArray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return real and fake features as tensors [N, D] that share the memory of the arrays.

    Raises:
        ValueError: One of them is not usable, or they differ in dimensions, type or device.
    """
    real, fake = as_matrix(real, 'real features'), as_matrix(fake, 'fake features')
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f'The real features have {real.shape[1]} dimensions, the fake ones {fake.shape[1]}. '
            'Use the same detector for both.'
        )
    if (real.dtype, real.device) != (fake.dtype, fake.device):
        raise ValueError(
            f'The real features are {real.dtype} on {real.device}, the fake ones {fake.dtype} on {fake.device}. '
            'Use one type and one device.'
        )
    return real, fake


def as_matrix(features: FeatureArray, what: str) -> torch.Tensor:
    """Return features as a tensor that shares their memory.

    Args:
        features: Finite floating-point numbers [N, D].
        what: What the numbers are, for error messages.

    Raises:
        ValueError: The shape, the type or a value is not as described.
    """
    if isinstance(features, torch.Tensor):
        tensor = features.detach()
    else:
        with warnings.catch_warnings():
            # Arrays from files may be read-only. Nothing here writes to them.
            warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
            tensor = torch.from_numpy(np.asarray(features))
    if tensor.ndim != 2 or not tensor.is_floating_point() or 0 in tensor.shape:
        raise ValueError(
            f'The {what} have shape {list(tensor.shape)} and type {tensor.dtype}; expected floating-point numbers '
            '[images, dimensions], with at least one of each.'
        )
    for rows in row_blocks(len(tensor), _ROWS_CHECKED_AT_ONCE):
        # A sum is not finite if one of its terms is not.
        bad = (~tensor[rows].sum(dim=1, dtype=compute_dtype(tensor.dtype)).isfinite()).nonzero()
        if len(bad):
            raise ValueError(
                f'The {what} of image {rows.start + int(bad[0])} are not finite. Check the input of the detector, or '
                'remove the image.'
            )
    return tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type for products of features: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_float64(x: torch.Tensor) -> torch.Tensor:
    """Convert to float64. Tensors on Apple GPUs, which do not support it, move to the CPU."""
    return (x.cpu() if x.device.type == 'mps' else x).double()


class StepCounter:
    """Counts the steps of a computation for its progress; call it after each.

    Args:
        total: Number of all steps.
        progress: Called with the finished steps and their total; None shows nothing.
    """

    def __init__(self, total: int, progress: ProgressCallback | None):
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


@contextlib.contextmanager
def accurate_matmul() -> Iterator[None]:
    """Within this context, float32 products have float32 accuracy (no TensorFloat-32 or bfloat16), without gradients.

    Metrics subtract large, nearly equal sums of such products, so settings of the surrounding training must not apply.
    """
    with precision.accurate_products(), torch.no_grad():
        yield
