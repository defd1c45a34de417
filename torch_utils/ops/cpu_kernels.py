"""The kernels of `cpu_kernels.cpp` for tensors on the CPU: float32 and float64, 16-bit types by way of float32.

`cuda_kernels` has the same functions. Arguments are as the operators have checked them: pairs are (x, y), padding is
(x0, x1, y0, y1), `dim` is not negative, the bias has x's type. The library is compiled on first use.
"""

import ctypes
import functools
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from torch_utils.ops import build

FOLDER = Path(__file__).parent
MAIN = 'cpu_kernels.cpp'
SOURCES = (
    MAIN,
    'cpu_bias_act.h',
    'cpu_memory.h',
    'cpu_resample.h',
    'cpu_threads.h',
    'cpu_vectors.h',
    'cpu_winograd.h',
    'elementwise.h',
)

FUSED_BIAS_GRADIENT = True  # bias_act_grad gives the bias's gradient too
ACTIVATIONS = {
    name: code
    for code, name in enumerate(['linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish'])
}  # as in elementwise.h
_TYPES = {torch.float32: 0, torch.float64: 1}
_VALUE, _GRADIENT, _CURVATURE = range(3)
_FEWEST_CHANNELS = 8  # for which vectors along the channels pay
_SCHEMES = {'keep': 0, 'halve': 1, 'twice': 2}  # as in cpu_kernels.cpp
_CHANNEL_MULTIPLE = 32  # as in cpu_winograd.h
_FEWEST_LANES = 8  # floats in a vector (AVX, AVX-512) with which convolutions beat PyTorch's; untried with ARM's 4


@functools.cache
def available(device):
    """None where the kernels run, else a sentence that says why not."""
    try:
        _library()
    except build.BuildError as error:
        return str(error)
    return None


@functools.cache
def _library():
    path = build.shared_library('cpu', [FOLDER / name for name in SOURCES], FOLDER / MAIN)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise build.BuildError(f'{path} does not load ({error}); remove it, or name another compiler in CXX') from error
    pointer, number, size, factor = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
    library.ada_bias_act.argtypes = [number, *[pointer] * 6, *[size] * 3, number, number, *[factor] * 3, number]
    library.ada_upfirdn2d.argtypes = [number, *[pointer] * 5, number, number, number, factor, number]
    library.ada_conv3x3.argtypes = library.ada_conv3x3_weight_gradient.argtypes = [number, *[pointer] * 5, number]
    library.path = path
    return library


def describe():
    """Lines for `python -m torch_utils.ops`."""
    path = _library().path
    seconds = build.build_time_sec(path)
    return [f'{path}' + ('' if seconds is None else f', compiled once in {seconds:.1f} s')]


def _check(status):
    if status != 0:
        raise MemoryError('the CPU kernels found no memory for their buffers')


# ----------------------------------------------------------------------------------------------------------------
# bias_act


def supports_bias_act(x, act, alpha, gain):
    return x.dtype in _TYPES


def bias_act(x, b, dim, act, alpha, gain, clamp):
    """clamp(gain * act(x + b)), in x's layout."""
    if act in _IN_PLACE:
        return _by_pytorch(x, b, dim, act, gain, clamp)
    y = torch.empty_like(x)
    _run_bias_act(_VALUE, y, x, None, None, b, dim, act, alpha, gain, clamp)
    return y


# PyTorch has vector instructions for these functions, which makes up for its passes over memory.
_IN_PLACE = {
    'tanh': torch.tanh_,
    'sigmoid': torch.sigmoid_,
    'elu': F.elu_,
    'selu': F.selu_,
    'softplus': lambda z: torch.ops.aten.softplus.out(z, out=z),
    'swish': lambda z: F.silu(z, inplace=True),
}


def _by_pytorch(x, b, dim, act, gain, clamp):
    if b is None:
        y = x.clone()
    else:
        shape = [1] * x.ndim
        shape[dim] = -1
        y = x + b.reshape(shape)
    y = _IN_PLACE[act](y)
    if gain != 1:
        y.mul_(gain)
    return y if clamp is None else y.clamp_(-clamp, clamp)


def bias_act_grad(dy, x, b, y, dim, act, alpha, gain, clamp, bias_gradient=False):
    """The gradient in x from that in y, and with `bias_gradient` the one in b too: (dx, db).

    Of x (and b) and y only one is read: x for swish, y for all others.
    """
    reference = x if act == 'swish' else y
    dx = torch.empty_like(reference)
    size = reference.shape[dim]
    db = torch.empty([size], dtype=torch.float64, device=reference.device) if bias_gradient else None
    _run_bias_act(_GRADIENT, dx, dy, reference, None, b if act == 'swish' else None, dim, act, alpha, gain, clamp, db)
    return (dx, db.to(dx.dtype)) if bias_gradient else dx


def bias_act_grad2(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp):
    """dy * d_dx * (second derivative): what a change of x does to <d_dx, dx>."""
    reference = x if act == 'swish' else y
    if ACTIVATIONS[act] <= ACTIVATIONS['lrelu']:
        return torch.zeros_like(reference)
    d_x = torch.empty_like(reference)
    _run_bias_act(_CURVATURE, d_x, dy, reference, d_dx, b if act == 'swish' else None, dim, act, alpha, gain, clamp)
    return d_x


def _run_bias_act(order, out, tensor, reference, direction, b, dim, act, alpha, gain, clamp, bias_gradient=None):
    strides = out.stride()
    operands = [None if operand is None else _like(operand, out, strides) for operand in (tensor, reference, direction)]
    if b is not None:
        b = b.contiguous()
    pointers = [None if operand is None else operand.data_ptr() for operand in (*operands, b, bias_gradient)]
    has_channels = b is not None or bias_gradient is not None
    # In a dense tensor the elements of a channel come in runs as long as its stride.
    size, stride = (out.shape[dim], max(strides[dim], 1)) if has_channels else (1, out.numel())
    _check(
        _library().ada_bias_act(
            _TYPES[out.dtype],
            out.data_ptr(),
            *pointers,
            out.numel(),
            stride,
            size,
            ACTIVATIONS[act],
            order,
            alpha,
            gain,
            math.inf if clamp is None else clamp,
            torch.get_num_threads(),
        )
    )


def _like(tensor, out, strides):
    """The tensor in the layout of `out`."""
    return tensor if tensor.stride() == strides else torch.empty_like(out).copy_(tensor)


# ----------------------------------------------------------------------------------------------------------------
# upfirdn2d


def supports_upfirdn2d(x, f, up, down):
    return x.dtype.itemsize <= 8 and f.dtype in _TYPES and f.device.type == 'cpu'


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    """See `upfirdn2d.upfirdn2d`."""
    if x.dtype not in _TYPES:
        return upfirdn2d(x.float(), f, up, down, padding, flip_filter, gain).to(x.dtype)
    n, c, h, w = x.shape
    kw, kh = f.shape[-1], f.shape[0]
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1) = up, down, padding
    out_h, out_w = (h * up_y + y0 + y1 - kh) // down_y + 1, (w * up_x + x0 + x1 - kw) // down_x + 1

    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    kernel_last = channels_last and (c >= _FEWEST_CHANNELS or (up == (1, 1) and down == (1, 1)))
    if not kernel_last and x.stride(3) != 1:
        x = x.contiguous()
    f = f.contiguous()
    layout = torch.channels_last if kernel_last else torch.contiguous_format
    y = torch.empty([n, c, out_h, out_w], dtype=x.dtype, device=x.device, memory_format=layout)
    strides, out_strides = x.stride(), y.stride()
    _check(
        _library().ada_upfirdn2d(
            _TYPES[x.dtype],
            x.data_ptr(),
            y.data_ptr(),
            (ctypes.c_int64 * 7)(kernel_last, *strides[:3], *out_strides[:3]),
            (ctypes.c_int64 * 14)(n, c, up_x, down_x, x0, kw, w, out_w, up_y, down_y, y0, kh, h, out_h),
            f.data_ptr(),
            _TYPES[f.dtype],
            f.ndim == 1,
            not flip_filter,
            gain,
            torch.get_num_threads(),
        )
    )
    return y if wanted == layout else y.contiguous(memory_format=wanted)


# ----------------------------------------------------------------------------------------------------------------
# filtered_lrelu: on a CPU its parts, each native, do as well; the intermediate image stays in the cache.


def supports_filtered_lrelu(x, fu, fd, up, down):
    return False


# ----------------------------------------------------------------------------------------------------------------
# 3×3 convolutions


def supports_conv3x3(x, w):
    """Whether the functions below take images [N, I, H, W] and weights [O, I, 3, 3]."""
    return (
        x.dtype == w.dtype == torch.float32
        and min(*x.shape, *w.shape) > 0
        and all(channels % _CHANNEL_MULTIPLE == 0 for channels in w.shape[:2])
        and _library().ada_lanes() >= _FEWEST_LANES
        and (_library().ada_has_threads() or torch.get_num_threads() == 1)
    )  # PyTorch's have threads.


def conv3x3(x, w, kind, size, rotated):
    """See `conv3x3.convolve`; `size` is (H', W'). Channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty([x.shape[0], w.shape[0], *size], dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _check(
        _library().ada_conv3x3(
            _SCHEMES[kind],
            x.data_ptr(),
            w.data_ptr(),
            y.data_ptr(),
            _shape(x, y, kind),
            (ctypes.c_int64 * 5)(*w.stride(), rotated),
            torch.get_num_threads(),
        )
    )
    return y


def conv3x3_weight_gradient(x, dy, kind, rotated):
    """[O, I, 3, 3] from images [N, I, H, W] and the gradient [N, O, H', W'] in what `kind`, but not 'twice', makes."""
    x, dy = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, dy))
    dw = torch.empty([dy.shape[1], x.shape[1], 3, 3], dtype=x.dtype, device=x.device)
    _check(
        _library().ada_conv3x3_weight_gradient(
            _SCHEMES[kind],
            x.data_ptr(),
            dy.data_ptr(),
            dw.data_ptr(),
            _shape(x, dy, kind),
            (ctypes.c_int64 * 5)(*dw.stride(), rotated),
            torch.get_num_threads(),
        )
    )
    return dw


def _shape(x, y, kind):
    (n, in_channels, *in_size), (_, out_channels, *out_size) = x.shape, y.shape
    pad = 0 if kind == 'halve' else 1  # Twice reads from one pixel before the image on.
    return (ctypes.c_int64 * 8)(n, *in_size, in_channels, *out_size, out_channels, pad)
