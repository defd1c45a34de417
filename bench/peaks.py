"""The peak rates of a machine, measured: convolution in FLOP/s and copying in bytes/s. Floors are work over these."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.common import Row, measure

# (images, channels in and out, pixels along a side) of 3x3 convolutions as the networks have them, from the lowest
# resolution to the highest: 19 GFLOP each, so that no time is lost in starting them.
CONVOLUTIONS = ((16, 512, 16), (4, 512, 32), (4, 256, 64), (4, 128, 128), (4, 64, 256))
QUICK_CONVOLUTIONS = ((4, 64, 16), (1, 32, 64))
COPY_MIB = 256  # beyond every cache
QUICK_COPY_MIB = 32

FORMATS = {'NCHW': torch.contiguous_format, 'NHWC': torch.channels_last}


@dataclass(frozen=True)
class Peaks:
    """What a floor is computed with."""

    flop_per_sec: float
    bytes_per_sec: float


def measure_peaks(device: torch.device, quick: bool) -> tuple[Peaks, list[Row]]:
    """The best rates met, and a row for each candidate."""
    convolutions = list(_convolution_rows(device, quick))
    copy = _copy_row(device, quick)
    best = max(convolutions, key=lambda row: row.rate)
    peaks = Peaks(flop_per_sec=best.rate * 1e9, bytes_per_sec=copy.rate * 1e9)
    return peaks, [*convolutions, copy]


def convolution_flop(images: int, channels: int, size: int, kernel: int = 3) -> int:
    """Multiplications and additions of a convolution with `channels` in and out and unit stride."""
    return 2 * images * channels**2 * kernel**2 * size**2


def _convolution_rows(device: torch.device, quick: bool) -> Iterator[Row]:
    shapes = QUICK_CONVOLUTIONS if quick else CONVOLUTIONS
    # The networks compute in half precision on CUDA only.
    dtypes = {'float32': torch.float32, **({'float16': torch.float16} if device.type == 'cuda' else {})}
    variants = {
        f'conv2d 3x3 [{n}, {c}, {size}, {size}] {format_name} {dtype_name}': (n, c, size, memory_format, dtype)
        for n, c, size in shapes
        for format_name, memory_format in FORMATS.items()
        for dtype_name, dtype in dtypes.items()
    }
    with torch.inference_mode():
        cases = {what: _convolution(*variant, device) for what, variant in variants.items()}
        times = measure(cases, device, budget_sec=10)
    for what, (n, c, size, _format, _dtype) in variants.items():
        yield Row('peaks', what, times[what], convolution_flop(n, c, size) / 1e9, 'GFLOP')


def _convolution(n, c, size, memory_format, dtype, device):
    x = torch.randn([n, c, size, size], device=device, dtype=dtype).to(memory_format=memory_format)
    weight = torch.randn([c, c, 3, 3], device=device, dtype=dtype).to(memory_format=memory_format)
    return lambda: F.conv2d(x, weight, padding=1)


def _copy_row(device: torch.device, quick: bool) -> Row:
    mib = QUICK_COPY_MIB if quick else COPY_MIB
    source = torch.ones([mib * 2**18], device=device)  # float32
    target = torch.zeros_like(source)
    what = f'copy of {mib} MiB (bytes read + written)'
    times = measure({what: lambda: target.copy_(source)}, device)
    return Row('peaks', what, times[what], 2 * source.nbytes / 1e9, 'GB')
