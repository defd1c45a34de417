"""`python -m torch_utils.ops`: which implementation each operator uses on this machine, why, and whether it is right.

Every operator is run on every device in float32 and held against plain PyTorch in float64 on the CPU: result, gradient
and second derivative. Exit status 0 if all agree, else 1.
"""

import time

import click
import torch

from dnnlib.cli import Command
from torch_utils.ops import native
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.conv2d_gradfix import conv2d, conv_transpose2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

TOLERANCE = 1e-5  # of the largest magnitude


@click.command(cls=Command, help='Tell which implementation each operator uses on this machine, and test it.')
def main():
    devices = [torch.device('cpu')]
    if torch.cuda.is_available():
        devices += [torch.device('cuda', index) for index in range(torch.cuda.device_count())]
    print(f'PyTorch {torch.__version__}, {torch.get_num_threads()} threads on the CPU')
    if len(devices) == 1:
        print('CUDA: no device that PyTorch can use')
    right = [check_device(device) for device in devices]
    if not all(right):
        raise SystemExit(1)


def check_device(device):
    """Print what `device` uses and how it fares; return whether every result is right."""
    start = time.perf_counter()
    backend = native.backend(device)
    elapsed = time.perf_counter() - start
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    print(f'\n{device} ({name})')
    if backend.kernels is None:
        print(f'  plain PyTorch: {backend.reason}')
    else:
        print(f'  native kernels, ready after {elapsed:.2f} s')
        for line in describe(backend.kernels):
            print(f'  {line}')
    right = True
    for what, op, tensors in self_tests():
        start = time.perf_counter()
        error = largest_error(op, tensors, device)
        right &= error <= TOLERANCE
        verdict = 'right' if error <= TOLERANCE else 'WRONG'
        print(
            f'  {what:<42} {implementation(what, backend.kernels, device):<7} {verdict}, error {error:.1e} '
            f'in {(time.perf_counter() - start) * 1e3:.0f} ms'
        )
    return right


def describe(kernels):
    """Lines that a module of kernels has to say of itself."""
    return kernels.describe() if hasattr(kernels, 'describe') else []


def implementation(what, kernels, device):
    """'native', 'plain', or 'parts' for an operator that is put together from others."""
    if kernels is None:
        return 'plain'
    if what.startswith('3 x 3'):
        x, w = torch.ones(1, 32, 16, 16), torch.ones(32, 32, 3, 3)
        return 'native' if device.type == 'cpu' and kernels.supports_conv3x3(x, w) else 'plain'
    if what.startswith('filtered_lrelu'):
        x, f = torch.ones(1, 1, 1, 1, device=device), torch.ones(12, device=device)
        return 'native' if kernels.supports_filtered_lrelu(x, f, f, 2, 2) else 'parts'
    if what.startswith('bias_act'):
        act = what.split()[1]
        return 'native' if kernels.supports_bias_act(torch.ones(1, device=device), act, 0.2, 1.0) else 'plain'
    return 'native'


def self_tests():
    """(what, function of tensors, tensors in float64) for each case."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    short, long = setup_filter([1, 3, 3, 1]), setup_filter([1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1])
    x, b = randn(2, 8, 17, 19), randn(8)
    for act in activation_funcs:
        yield f'bias_act {act}', lambda x, b, act=act: bias_act(x, b, act=act, clamp=3.0), (x, b)
    for taps, f in (('4 x 4', short), ('12', long)):
        for up, down in ((1, 1), (2, 1), (1, 2)):
            options = dict(up=up, down=down, padding=[6, 5, 5, 6], gain=up**2)
            yield (
                f'upfirdn2d {taps} taps, up {up}, down {down}',
                lambda x, f=f, options=options: upfirdn2d(x, f.to(x.device), **options),
                (x,),
            )
    yield (
        'filtered_lrelu 12 taps, up 2, down 2',
        lambda x, b: filtered_lrelu(x, long.to(x.device), long.to(x.device), b, up=2, down=2, padding=10, clamp=3.0),
        (x, b),
    )
    w = randn(32, 32, 3, 3)
    yield '3 x 3 convolution', lambda x, w: conv2d(x, w, padding=1), (randn(2, 32, 17, 19), w)
    yield '3 x 3 convolution, stride 2', lambda x, w: conv2d(x, w, stride=2), (randn(1, 32, 131, 133), w)
    yield '3 x 3 convolution, transposed', lambda x, w: conv_transpose2d(x, w, stride=2), (randn(1, 32, 65, 66), w)


def largest_error(op, tensors, device):
    """Of result, gradients and second derivatives, relative to the largest magnitude of each."""
    layouts = (torch.contiguous_format, torch.channels_last)
    errors = []
    with native.textbook_only():
        expected = derivatives(op, tensors, torch.device('cpu'), torch.float64, layouts[0])
    for layout in layouts:
        for actual, wanted in zip(derivatives(op, tensors, device, torch.float32, layout), expected):
            errors.append(((actual.double().cpu() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item())
    return max(errors) if all(error == error for error in errors) else float('nan')


def derivatives(op, tensors, device, dtype, layout):
    """The result, the gradients of its weighted sum, and those of the weighted sum of the first gradient."""
    x, *others = (tensor.to(device, dtype) for tensor in tensors)
    leaves = [x.contiguous(memory_format=layout).requires_grad_(), *(other.requires_grad_() for other in others)]
    y = op(*leaves)
    dy = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=device).reshape(y.shape).requires_grad_()
    first = torch.autograd.grad(y, leaves, dy, create_graph=True)
    (second,) = torch.autograd.grad(first[0].sum(), dy)
    return [y.detach(), *(gradient.detach() for gradient in first), second]


if __name__ == '__main__':
    main(prog_name='python -m torch_utils.ops')
