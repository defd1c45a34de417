"""`python -m torch_utils.ops`: show which implementation each operator uses on this machine and why, and test it.

Every operator is run on every device in float32 and compared with the reference in float64 on the CPU: result,
gradients and second derivative. The exit status is 0 if all agree, else 1.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor

from dnnlib.cli import Command
from torch_utils.ops import native
from torch_utils.ops.arguments import BiasActOptions
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.conv2d_gradfix import conv2d, conv_transpose2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.modulated_layer import modulated_layer, reference
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

TOLERANCE = 1e-5  # relative to the largest magnitude


class SelfTest(NamedTuple):
    """An operator applied to float64 tensors on the CPU."""

    name: str
    op: Callable[..., Tensor]
    tensors: Sequence[Tensor]


@click.command(cls=Command, help='Show which implementation each operator uses on this machine, and test it.')
def main() -> None:
    devices = [torch.device('cpu')]
    if torch.cuda.is_available():
        devices += [torch.device('cuda', index) for index in range(torch.cuda.device_count())]
    print(f'PyTorch {torch.__version__}, {torch.get_num_threads()} threads on the CPU')
    if len(devices) == 1:
        print('CUDA: PyTorch finds no device')
    passed = [check_device(device) for device in devices]
    if not all(passed):
        raise SystemExit(1)


def check_device(device: torch.device) -> bool:
    """Print the implementations that `device` uses and the results of their tests; return whether all tests passed."""
    start = time.perf_counter()
    backend = native.backend(device)
    elapsed_sec = time.perf_counter() - start
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    print(f'\n{device} ({name})')
    if backend.kernels is None:
        print(f'  plain PyTorch: {backend.reason}')
    else:
        print(f'  native kernels, ready after {elapsed_sec:.2f} s')
        for line in backend.kernels.describe(device):
            print(f'  {line}')
    all_passed = True
    for test in self_tests():
        start = time.perf_counter()
        error = largest_error(test.op, test.tensors, device)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        passed = error <= TOLERANCE
        all_passed &= passed
        print(
            f'  {test.name:<42} {implementation(test.name, backend.kernels, device):<8} '
            f'{"passed" if passed else "FAILED"}, error {error:.1e} in {elapsed_ms:.0f} ms'
        )
    return all_passed


def implementation(test: str, kernels: ModuleType | None, device: torch.device) -> str:
    """Return 'native', 'PyTorch', or 'composed' for an operator that is composed of other operators."""
    if kernels is None:
        return 'PyTorch'
    if test.startswith('3 x 3 layer') and device.type == 'cuda':
        return 'native'
    if test.startswith('3 x 3'):
        x, w = torch.ones(1, 32, 16, 16), torch.ones(32, 32, 3, 3)
        return 'native' if device.type == 'cpu' and kernels.supports_conv3x3(x, w) else 'PyTorch'
    if test.startswith('filtered_lrelu'):
        x, f = torch.ones(1, 1, 1, 1, device=device), torch.ones(12, device=device)
        return 'native' if kernels.supports_filtered_lrelu(x, f, f, 2, 2) else 'composed'
    if test.startswith('bias_act'):
        options = BiasActOptions(0, test.split()[1], 0.2, 1.0, None)
        return 'native' if kernels.supports_bias_act(torch.ones(1, device=device), options) else 'PyTorch'
    return 'native'


def self_tests() -> Iterator[SelfTest]:
    """Yield the tests of all operators."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    short, long = setup_filter([1, 3, 3, 1]), setup_filter([1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1])
    x, b = randn(2, 8, 17, 19), randn(8)
    for act in activation_funcs:
        yield SelfTest(f'bias_act {act}', lambda x, b, act=act: bias_act(x, b, act=act, clamp=3.0), (x, b))
    for taps, f in (('4 x 4', short), ('12', long)):
        for up, down in ((1, 1), (2, 1), (1, 2)):
            options = dict(up=up, down=down, padding=[6, 5, 5, 6], gain=up**2)
            yield SelfTest(
                f'upfirdn2d {taps} taps, up {up}, down {down}',
                lambda x, f=f, options=options: upfirdn2d(x, f.to(x.device), **options),
                (x,),
            )
    yield SelfTest(
        'filtered_lrelu 12 taps, up 2, down 2',
        lambda x, b: filtered_lrelu(x, long.to(x.device), long.to(x.device), b, up=2, down=2, padding=10, clamp=3.0),
        (x, b),
    )
    w = randn(32, 32, 3, 3)
    yield SelfTest('3 x 3 convolution', lambda x, w: conv2d(x, w, padding=1), (randn(2, 32, 17, 19), w))
    yield SelfTest('3 x 3 convolution, stride 2', lambda x, w: conv2d(x, w, stride=2), (randn(1, 32, 131, 133), w))
    yield SelfTest(
        '3 x 3 convolution, transposed', lambda x, w: conv_transpose2d(x, w, stride=2), (randn(1, 32, 65, 66), w)
    )
    styles, b = randn(2, 32), randn(32)
    for up in (1, 2):
        layer = functools.partial(_layer, up=up, act='lrelu', gain=1.5, resample_filter=short)
        yield SelfTest(f'3 x 3 layer, up {up}', layer, (randn(2, 32, 9, 8), w, styles, randn(2, 1, 9 * up, 8 * up), b))


def _layer(*tensors: Tensor, up: int, resample_filter: Tensor, **options: Any) -> Tensor:
    """Compute a layer by one operator if it applies."""
    options |= dict(up=up, resample_filter=resample_filter.to(tensors[0].device))
    y = modulated_layer(*tensors, padding=1, flip_weight=up == 1, **options)
    return reference(*tensors, **options) if y is None else y


def largest_error(op: Callable[..., Tensor], tensors: Sequence[Tensor], device: torch.device) -> float:
    """Return the largest error of result, gradients and second derivative, relative to the largest value of each."""
    layouts = (torch.contiguous_format, torch.channels_last)
    errors = []
    with native.reference_only():
        expected = derivatives(op, tensors, torch.device('cpu'), torch.float64, layouts[0])
    for layout in layouts:
        for actual, exact in zip(derivatives(op, tensors, device, torch.float32, layout), expected):
            errors.append(((actual.double().cpu() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)).item())
    return max(errors) if all(error == error for error in errors) else float('nan')


def derivatives(
    op: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> list[Tensor]:
    """Return the result y, the gradients for a fixed gradient dy of y, and the derivative of the first one by dy."""
    x, *others = (tensor.to(device, dtype) for tensor in tensors)
    leaves = [x.contiguous(memory_format=layout).requires_grad_(), *(other.requires_grad_() for other in others)]
    y = op(*leaves)
    dy = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=device).reshape(y.shape).requires_grad_()
    first = torch.autograd.grad(y, leaves, dy, create_graph=True)
    (second,) = torch.autograd.grad(first[0].sum(), dy)
    return [y.detach(), *(gradient.detach() for gradient in first), second]


if __name__ == '__main__':
    main(prog_name='python -m torch_utils.ops')
