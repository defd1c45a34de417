"""The CUDA kernels behind `bias_act`, `finish`, `upfirdn2d` and `filtered_lrelu`, for tensors on a GPU.

`cpu_kernels` has the same functions. Tensors may have any strides. Results are allocated by PyTorch: channels last if x
is, else contiguous. Nothing waits for the GPU; the kernels themselves read the filters. `cuda_plans` chooses the
constants and tiles of a kernel, and `cuda_launch` compiles and launches it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_utils.ops import cuda_driver, cuda_launch, cuda_plans, nvrtc
from torch_utils.ops.arguments import ACTIVATION_CODES, BiasActOptions, Finish
from torch_utils.ops.cuda_plans import PIXELS_PER_WORD, SCALARS, VECTOR_BYTES, LreluOptions, View, view
from torch_utils.ops.resampling import FilteredActivation, MaskedResampling, Resampling, memory_format_of, num_taps

# For larger filters, unrolled loops take long to compile and need too many registers.
MAX_SEPARABLE_TAPS = 32
MAX_TAPS = 256  # kh * kw
MAX_FACTOR = 8


@functools.cache
def reason_unavailable(device: torch.device) -> str | None:
    """Return the reason why the kernels cannot be used on a CUDA device, as one sentence, or None if they can."""
    if torch.version.cuda is None:
        return 'this PyTorch was built without CUDA'
    probe = View((1,), (1,), torch.float32)
    index = torch.cuda.current_device() if device.index is None else device.index
    try:
        cuda_launch.load(cuda_plans.plan_bias_act(0, probe, None, BiasActOptions(0, 'linear', 0.0, 1.0, None)), index)
    except (nvrtc.CompilerMissing, nvrtc.CompilationFailed) as error:
        return str(error)
    except cuda_driver.DriverError as error:
        return f'the GPU or its driver rejects the kernels ({error})'
    return None


def describe(device: torch.device) -> list[str]:
    """Return lines about the compiler of the kernels of a CUDA device."""
    compiler, target = cuda_launch.choice(torch.cuda.current_device() if device.index is None else device.index)
    cuda, driver = ('.'.join(map(str, version)) for version in (compiler.version, cuda_driver.version()))
    return [f'compiled for {target} by NVRTC {cuda} ({compiler.path}); the driver supports CUDA {driver}']


def _empty_images(x: Tensor, height: int, width: int) -> Tensor:
    shape = [*x.shape[:2], height, width]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def _readable_filter(f: Tensor) -> Tensor:
    """Return a filter in the form that the kernels read: dense, float32 or float64."""
    return f.to(f.dtype if f.dtype == torch.float64 else torch.float32).contiguous()


# ---------------------------------------------------------------------------------------------------------------------
# bias_act


def supports_bias_act(x: Tensor, options: BiasActOptions) -> bool:
    """Return whether `bias_act` and its derivatives support these arguments."""
    _dim, act, alpha, gain, _clamp = options
    return x.dtype in SCALARS and act in ACTIVATION_CODES and gain != 0 and (act != 'lrelu' or alpha >= 0)


def bias_act(x: Tensor, b: Tensor | None, options: BiasActOptions) -> Tensor:
    """Return clamp(gain * act(x + b)) for x of any shape and b [x.shape[dim]], of x's type, or None."""
    y = torch.empty_like(x)
    _run_bias_act(0, y, (x, None, None), b, options)
    return y


def bias_act_grad(dy: Tensor, x: Tensor | None, b: Tensor | None, y: Tensor | None, options: BiasActOptions) -> Tensor:
    """Return dy times the derivative, which is computed from x and b for swish and from y for all others."""
    reference, b = options.reference(x, b, y)
    dx = torch.empty_like(reference)
    _run_bias_act(1, dx, (dy, reference, None), b, options)
    return dx


def bias_act_grad2(
    dy: Tensor, d_dx: Tensor, x: Tensor | None, b: Tensor | None, y: Tensor | None, options: BiasActOptions
) -> Tensor:
    """Return dy times d_dx times the second derivative."""
    reference, b = options.reference(x, b, y)
    d_x = torch.empty_like(reference)
    _run_bias_act(2, d_x, (dy, reference, d_dx), b, options)
    return d_x


def _run_bias_act(
    order: int, out: Tensor, others: Sequence[Tensor | None], b: Tensor | None, options: BiasActOptions
) -> None:
    """Run the kernel for the value, the gradient or the second derivative; see `struct BiasAct` in bias_act.cu."""
    tensors = [out, *(None if tensor is None else _like(out, tensor) for tensor in others)]
    b = None if b is None else b.contiguous()
    offset = 0
    for tensor in tensors:
        offset |= 0 if tensor is None else tensor.data_ptr() % VECTOR_BYTES
    out_view = View(tuple(out.shape), out.stride(), out.dtype, offset)
    plan = cuda_plans.plan_bias_act(order, out_view, None if b is None else view(b), options)
    cuda_launch.run(plan, [*tensors, b])


def finish(x: Tensor, finish: Finish) -> Tensor:
    """Compute `finish.finish` for x [N, C, H, W]."""
    y = _empty_images(x, *x.shape[2:])
    x = _like(y, x)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale, noise, b, options = finish
    noise = None if noise is None else noise.to(wide).contiguous()
    offset = (x.data_ptr() | y.data_ptr()) % VECTOR_BYTES
    plan = cuda_plans.plan_finish(
        View(tuple(y.shape), y.stride(), y.dtype, offset), 0 if noise is None else len(noise), options
    )
    cuda_launch.run(plan, [y, x, scale.to(wide).contiguous(), noise, b.to(x.dtype).contiguous()])
    return y


def _like(model: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor with the strides of the dense tensor `model`."""
    return tensor if tensor.stride() == model.stride() else torch.empty_like(model).copy_(tensor)


# ---------------------------------------------------------------------------------------------------------------------
# upfirdn2d


def supports_upfirdn2d(x: Tensor, f: Tensor, geometry: Resampling) -> bool:
    """Return whether `upfirdn2d` supports these arguments."""
    if x.dtype not in SCALARS or not f.is_floating_point() or max(*geometry.up, *geometry.down) > MAX_FACTOR:
        return False
    return f.shape[0] <= MAX_SEPARABLE_TAPS if f.ndim == 1 else f.numel() <= MAX_TAPS


def upfirdn2d(x: Tensor, f: Tensor, geometry: Resampling) -> Tensor:
    """Compute `upfirdn2d.upfirdn2d`."""
    y = _empty_images(x, *geometry.output_size(x.shape, f))
    f = _readable_filter(f)
    cuda_launch.run(cuda_plans.plan_upfirdn2d(view(y), view(x), tuple(f.shape), f.dtype, geometry), [y, x, f])
    return y


# ---------------------------------------------------------------------------------------------------------------------
# filtered_lrelu


def supports_filtered_lrelu(x: Tensor, fu: Tensor | None, fd: Tensor | None, up: int, down: int) -> bool:
    """Return whether `filtered_lrelu` and its derivatives support these arguments."""
    if x.dtype not in SCALARS or max(up, down) > MAX_FACTOR:
        return False
    if not all(f is None or (f.ndim == 1 and f.shape[0] <= MAX_SEPARABLE_TAPS) for f in (fu, fd)):
        return False
    # In both directions, for the phase that needs the most pixels.
    directions = ((up, down, num_taps(fu), num_taps(fd)), (down, up, num_taps(fd), num_taps(fu)))
    return all(cuda_plans.lrelu_tile(x.dtype, *direction, (0, 0), 1, 1) is not None for direction in directions)


def filtered_lrelu(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, options: FilteredActivation, want_mask: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute `filtered_lrelu.filtered_lrelu` for separable filters.

    Returns:
        The result and, if `want_mask`, the mask that the derivatives need, else None. The mask is int32
        [N, C, H_u, ceil(W_u / 16)] for H_u x W_u pixels after upsampling.
    """
    up, down, (x0, _x1, y0, _y1), gain, slope, clamp, flip_filter = options
    mid_w, mid_h = options.upsampled_size(x.shape, fu)
    out_w, out_h = options.output_size(x.shape, fu, fd)
    y = _empty_images(x, out_h, out_w)
    mask = None
    if want_mask:
        mask = torch.empty([*x.shape[:2], mid_h, -(-mid_w // PIXELS_PER_WORD)], dtype=torch.int32, device=x.device)
    _run_filtered_lrelu(
        (y, x, b, fu, fd, mask),
        mode=cuda_plans.ACTIVATE_AND_WRITE_MASK if want_mask else cuda_plans.ACTIVATE,
        up=up,
        down=down,
        pad=(x0, y0),
        mask_offset=(0, 0),
        mask_size=(mid_w, mid_h),
        gain_up=float(up),
        gain=gain,
        slope=slope,
        clamp=math.inf if clamp is None else clamp,
        flip_filter=flip_filter,
    )
    return y, mask


def filtered_lrelu_masked(
    x: Tensor, mask: Tensor, fu: Tensor | None, fd: Tensor | None, masked: MaskedResampling
) -> Tensor:
    """Compute a derivative of `filtered_lrelu`."""
    y = _empty_images(x, masked.out_size[1], masked.out_size[0])
    _run_filtered_lrelu(
        (y, x, None, fu, fd, mask.contiguous()),
        mode=cuda_plans.APPLY_MASK,
        up=masked.up,
        down=masked.down,
        pad=masked.pad,
        mask_offset=masked.offset,
        mask_size=masked.mask_size,
        gain_up=1.0,
        gain=masked.gain,
        slope=masked.slope,
        clamp=math.inf,
        flip_filter=masked.flip_filter,
    )
    return y


def _run_filtered_lrelu(tensors: Sequence[Tensor | None], **options: Any) -> None:
    """Run the kernel on the tensors of `struct FilteredLrelu` in filtered_lrelu.cu, with fields of `LreluOptions`."""
    y, x, b, fu, fd, mask = tensors
    assert y is not None and x is not None
    fu, fd = (None if f is None else _readable_filter(f) for f in (fu, fd))
    if fu is not None and fd is not None and fu.dtype != fd.dtype:
        fu, fd = fu.double(), fd.double()
    filter_dtype = next((f.dtype for f in (fu, fd) if f is not None), torch.float32)
    all_options = LreluOptions(filter_dtype=filter_dtype, taps_up=num_taps(fu), taps_down=num_taps(fd), **options)
    plan = cuda_plans.plan_filtered_lrelu(view(y), view(x), all_options)
    cuda_launch.run(plan, [y, x, None if b is None else b.contiguous(), fu, fd, mask])
