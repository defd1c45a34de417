"""The CUDA kernels behind `bias_act`, `upfirdn2d` and `filtered_lrelu`: which to compile, with which tiles, and how to
start them.

A `plan_...` function makes a `Launch` from the shapes and strides of tensors: plain data that needs no GPU and no
memory. The tests look at it, compile it for several architectures and run it on a CPU. `_run` adds the addresses,
compiles the kernel where that was not done before and puts it on the current stream. A kernel is compiled for the
filter's size, the factors and the type of the numbers, so that its loops are unrolled and its index arithmetic is done
by the compiler. Networks use a dozen such sets of constants.

Tensors may have any strides. Results are allocated by PyTorch: channels-last where x is, else contiguous.
Nothing waits for the GPU; filters are read by the kernels themselves.
"""

import functools
import math
import struct
from pathlib import Path
from typing import NamedTuple

import torch

from torch_utils.ops import cuda_driver, nvrtc

SCALARS = {torch.float16: 'half_t', torch.bfloat16: 'bfloat_t', torch.float32: 'float', torch.float64: 'double'}
ACTIVATIONS = ('linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish')  # as in elementwise.h

VECTOR_BYTES = 16  # the longest load or store
THREADS = 256
SHARED_BYTES = 40 * 1024  # of a block that declares its size; 48 KiB is the limit everywhere
DYNAMIC_SHARED_BYTES = 63 * 1024  # of a block that asks for more; 64 KiB, taps included, is Turing's limit
INT_LIMIT = 2**31 - 2**20  # offsets beyond need 64 bits; the rest is for the end of the last block
MAX_BLOCKS = 2**31 - 1

# Beyond these, unrolled loops take long to compile and leave no registers.
MAX_SEPARABLE_TAPS = 32
MAX_TAPS = 256  # kh * kw
MAX_FACTOR = 8


class Kernel(NamedTuple):
    """A kernel and the constants that it is compiled with."""

    file: str  # beside this one
    name: str
    constants: tuple  # of (macro, value)

    @property
    def source(self):
        macros = ''.join(f'#define {name} {value}\n' for name, value in self.constants)
        return f'{macros}#include "{self.file}"\n'


class Launch(NamedTuple):
    """All but the addresses of the tensors, which come first in the struct that a kernel takes."""

    kernel: Kernel
    blocks: int
    threads: int
    shared_bytes: int  # dynamic
    constants: bytes  # of the struct

    def argument(self, addresses):
        return struct.pack(f'={len(addresses)}Q', *addresses) + self.constants


class View(NamedTuple):
    """What planning needs to know of a tensor."""

    shape: tuple
    strides: tuple  # elements
    dtype: torch.dtype
    offset: int = 0  # of its address from a multiple of VECTOR_BYTES

    @property
    def numel(self):
        return math.prod(self.shape)


def view(tensor):
    return View(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.data_ptr() % VECTOR_BYTES)


# ---------------------------------------------------------------------------------------------------------------------
# Compiling and starting


@functools.cache
def available(device):
    """None where the kernels run on this CUDA device, else a sentence that says why not and what to do."""
    if torch.version.cuda is None:
        return 'this PyTorch was built without CUDA'
    probe = View((1,), (1,), torch.float32)
    try:
        _function(plan_bias_act(0, probe, False, 0, 'linear', 0.0, 1.0, math.inf), _index(device))
    except (nvrtc.CompilerMissing, nvrtc.CompilationFailed) as error:
        return str(error)
    except cuda_driver.DriverError as error:
        return f'the GPU does not take kernels of {nvrtc.compiler().path} ({error})'
    return None


def compile_kernel(kernel, target):
    """The kernel's `nvrtc.Binary` for a target such as sm_90."""
    options = (
        f'--gpu-architecture={target}',
        '--std=c++17',
        '--device-as-default-execution-space',
        '--ptxas-options=-v',
    )
    return nvrtc.build(kernel.name, kernel.source, _sources(), options)


def _run(launch, tensors):
    """Start a kernel on the tensors of its struct, of which all but the first may be None."""
    index = tensors[0].get_device()
    function = _function(launch, index)
    argument = launch.argument([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    stream = torch.cuda.current_stream(index).cuda_stream
    cuda_driver.device(index).launch(function, launch.blocks, launch.threads, launch.shared_bytes, argument, stream)


def _function(launch, index):
    """The kernel as the driver knows it on cuda:`index`."""
    kernel = launch.kernel

    def build():
        target = nvrtc.target(torch.cuda.get_device_capability(index), nvrtc.compiler().architectures)
        return compile_kernel(kernel, target).image

    return cuda_driver.device(index).function(kernel, kernel.name, build, launch.shared_bytes)


def _index(device):
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


@functools.lru_cache(maxsize=1)
def _sources():
    files = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in ('.cu', '.cuh', '.h'))
    return {file.name: file.read_text(encoding='utf-8') for file in files}


# ---------------------------------------------------------------------------------------------------------------------
# What the planning shares


def _pack(*fields):
    """The integers and doubles of a struct, all of 8 bytes, as the .cu files declare them after the addresses."""
    flat = [part for field in fields for part in (field if isinstance(field, tuple) else (field,))]
    return struct.pack('=' + ''.join('d' if isinstance(part, float) else 'q' for part in flat), *flat)


def _constants(**values):
    return tuple((name, int(value) if isinstance(value, bool) else value) for name, value in values.items())


def _vector(views, numbers):
    """The longest vector, in elements, that all addresses and numbers of elements are multiples of."""
    itemsize = views[0].dtype.itemsize
    size = VECTOR_BYTES // itemsize
    while size > 1 and (any(v.offset % (size * itemsize) for v in views) or any(n % size for n in numbers)):
        size //= 2
    return size


def _index_type(*views):
    """The type for offsets within a plane, or a channels-last image, of tensors [N, C, H, W]."""
    furthest = max(sum((size - 1) * stride for size, stride in zip(v.shape[1:], v.strides[1:])) for v in views)
    return 'int' if furthest < INT_LIMIT else 'long long'


def _power_of_two(number):
    """The lowest power of two that is not below the number."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()


def _is_channels_last(x):
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _empty_images(x, height, width):
    memory_format = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty([*x.shape[:2], height, width], dtype=x.dtype, device=x.device, memory_format=memory_format)


def _filter(f):
    """Taps as the kernels read them: dense, float32 or float64."""
    return f.to(f.dtype if f.dtype == torch.float64 else torch.float32).contiguous()


def inputs_for(outputs, up, down, taps, phase):
    """Pixels that `outputs` of them are made from; see resample.cuh."""
    return max(1, ((outputs - 1) * down + taps - 1 - phase) // up + 1)


def _period(up, down):
    """After so many outputs the taps meet the pixels as before."""
    return up // math.gcd(up, down)


def _tiles(x, y, tile_w, tile_h, origin_x, origin_y):
    """The struct of that name, and the number of tiles of a plane."""
    n, c, in_h, in_w = x.shape
    out_h, out_w = y.shape[2:]
    tiles_x, tiles_y = -(-out_w // tile_w), -(-out_h // tile_h)
    return (c, n * c, in_w, in_h, out_w, out_h, tiles_x, tiles_y, origin_x, origin_y), tiles_x * tiles_y


def _check_blocks(blocks):
    if blocks > MAX_BLOCKS:
        raise ValueError(f'{blocks} blocks are more than a GPU can start at once ({MAX_BLOCKS}); use a smaller batch')
    return blocks


# ---------------------------------------------------------------------------------------------------------------------
# bias_act


def supports_bias_act(x, act, alpha, gain):
    return x.dtype in SCALARS and act in ACTIVATIONS and gain != 0 and (act != 'lrelu' or alpha >= 0)


def bias_act(x, b, dim, act, alpha, gain, clamp):
    """clamp(gain * act(x + b)): x of any shape, b [x.shape[dim]] of x's type or None."""
    y = torch.empty_like(x)
    _start_bias_act(0, (y, x, None, None), b, dim, act, alpha, gain, clamp)
    return y


def bias_act_grad(dy, x, b, y, dim, act, alpha, gain, clamp):
    """dy times the derivative, which is found from x and b for swish and from y for all others."""
    reference, b = (x, b) if act == 'swish' else (y, None)
    dx = torch.empty_like(reference)
    _start_bias_act(1, (dx, dy, reference, None), b, dim, act, alpha, gain, clamp)
    return dx


def bias_act_grad2(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp):
    """dy times d_dx times the second derivative."""
    reference, b = (x, b) if act == 'swish' else (y, None)
    d_x = torch.empty_like(reference)
    _start_bias_act(2, (d_x, dy, reference, d_dx), b, dim, act, alpha, gain, clamp)
    return d_x


def _start_bias_act(order, tensors, b, dim, act, alpha, gain, clamp):
    out = tensors[0]
    tensors = [tensor if tensor is None else _like(out, tensor) for tensor in tensors]
    b = None if b is None else b.contiguous()
    offset = 0
    for tensor in tensors:
        offset |= 0 if tensor is None else tensor.data_ptr() % VECTOR_BYTES
    model = View(tuple(out.shape), out.stride(), out.dtype, offset)
    clamp = math.inf if clamp is None else float(clamp)
    launch = plan_bias_act(order, model, b is not None and view(b), dim, act, float(alpha), float(gain), clamp)
    _run(launch, [*tensors, b])


def _like(model, tensor):
    """The tensor with the strides of the dense `model`; itself where it has them."""
    return tensor if tensor.stride() == model.stride() else torch.empty_like(model).copy_(tensor)


@functools.lru_cache(maxsize=4096)
def plan_bias_act(order, model, bias, dim, act, alpha, gain, clamp):
    """For tensors that are dense with the same strides, those of `model`, and a dense bias or False."""
    count = model.numel
    vector = _vector([model], [])
    stride, size = (count, 1) if not bias or bias.numel == 1 else (model.strides[dim], model.shape[dim])
    unroll = 1 if count < 2**20 else 4 if order == 0 else 2  # two or three tensors are read where order is not 0
    kernel = Kernel(
        'bias_act.cu',
        'bias_act',
        _constants(
            SCALAR=SCALARS[model.dtype],
            INDEX='unsigned' if count < INT_LIMIT else 'unsigned long long',
            THREADS=THREADS,
            UNROLL=unroll,
            VECTOR=vector,
            ACTIVATION=ACTIVATIONS.index(act),
            ORDER=order,
            FROM_INPUT=act == 'swish',
            CLAMPED=clamp < math.inf,
            BIAS=_bias_access(bias, stride, size, vector),
        ),
    )
    blocks = -(-count // (THREADS * unroll * vector))
    return Launch(kernel, _check_blocks(blocks), THREADS, 0, _pack(count, stride, size, alpha, gain, clamp))


def _bias_access(bias, stride, size, vector):
    """How the elements of a vector find their biases; see bias_act.cu."""
    if not bias:
        return 0
    if stride % vector == 0:
        return 2
    return 3 if stride == 1 and size % vector == 0 else 1


# ---------------------------------------------------------------------------------------------------------------------
# upfirdn2d


def supports_upfirdn2d(x, f, up, down):
    if x.dtype not in SCALARS or not f.is_floating_point() or max(*up, *down) > MAX_FACTOR:
        return False
    return f.shape[0] <= MAX_SEPARABLE_TAPS if f.ndim == 1 else f.numel() <= MAX_TAPS


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    """Resample x [N, C, H, W] as `upfirdn2d.upfirdn2d` says; pairs are (x, y), padding is (x0, x1, y0, y1)."""
    x0, x1, y0, y1 = padding
    taps_x, taps_y = f.shape[-1], f.shape[0]
    y = _empty_images(
        x,
        (x.shape[2] * up[1] + y0 + y1 - taps_y) // down[1] + 1,
        (x.shape[3] * up[0] + x0 + x1 - taps_x) // down[0] + 1,
    )
    f = _filter(f)
    launch = plan_upfirdn2d(
        view(y), view(x), tuple(f.shape), f.dtype, tuple(up), tuple(down), (x0, y0), bool(flip_filter), float(gain)
    )
    _run(launch, [y, x, f])
    return y


@functools.lru_cache(maxsize=4096)
def plan_upfirdn2d(y, x, filter_shape, filter_dtype, up, down, pad, flip_filter, gain):
    """For the views y and x; pad: (x0, y0), what the other sides have shows in the size of y."""
    taps = (filter_shape[-1], filter_shape[0])
    phase = tuple(p % u for p, u in zip(pad, up))
    origin = tuple(-(p // u) for p, u in zip(pad, up))
    constants = dict(
        SCALAR=SCALARS[x.dtype],
        FILTER=SCALARS[filter_dtype],
        INDEX=_index_type(x, y),
        UP_X=up[0],
        UP_Y=up[1],
        DOWN_X=down[0],
        DOWN_Y=down[1],
        TAPS_X=taps[0],
        TAPS_Y=taps[1],
        PHASE_X=phase[0],
        PHASE_Y=phase[1],
    )
    axes = tuple(zip(up, down, taps, phase))
    channels_last = x.strides[1] == y.strides[1] == 1 and x.shape[1] > 1
    if len(filter_shape) == 1:
        name, tile, groups, threads = _separable_tile(constants, axes, x, y)
    elif channels_last:
        name, tile, groups, threads = _channels_tile(constants, axes, x, y)
    else:
        name, tile, groups, threads = _planes_tile(constants, axes, x, y)
    constants |= dict(TILE_X=tile[0], TILE_Y=tile[1], THREADS=threads)
    tiles, per_plane = _tiles(x, y, *tile, *origin)
    packed = _pack(y.strides, x.strides, tiles, gain ** (len(filter_shape) / 2), int(flip_filter))
    kernel = Kernel('upfirdn2d.cu', name, _constants(**constants))
    return Launch(kernel, _check_blocks(groups * per_plane), threads, 0, packed)


def _separable_tile(constants, axes, x, y):
    """Square tiles, as large as fit in shared memory twice (pixels, and what lies between the passes)."""
    (up_x, down_x, *_), (up_y, down_y, *_) = axes
    run_x, run_y = (_multiple(4, _period(up, down)) for up, down in ((up_x, down_x), (up_y, down_y)))
    wide = 8 if x.dtype == torch.float64 else 4

    def shared_bytes(tile_x, tile_y):
        cols, rows = inputs_for(tile_x, *axes[0]), inputs_for(tile_y, *axes[1])
        return wide * rows * ((cols | 1) + (tile_x | 1))

    for size in (64, 32, 16, 8, 4):
        tile = _multiple(min(size, y.shape[3]), run_x), _multiple(min(size, y.shape[2]), run_y)
        if shared_bytes(*tile) <= SHARED_BYTES:
            break
    constants |= dict(LAYOUT=2, RUN_X=run_x, RUN_Y=run_y)
    threads = min(THREADS, max(64, _power_of_two(tile[0] * tile[1] / run_x / 2)))
    return 'upfirdn2d_separable', tile, x.shape[0] * x.shape[1], threads


def _channels_tile(constants, axes, x, y):
    """Threads side by side along the channels, then over a patch of pixels."""
    (up_x, down_x, *_), (up_y, down_y, *_) = axes
    run_x, run_y = _period(up_x, down_x), _period(up_y, down_y)
    vector = _vector([x, y], [x.shape[1], *_strides(x, 0, 2, 3), *_strides(y, 0, 2, 3)])
    while vector > 1 and run_x * run_y * vector > 32:  # sums in registers
        vector //= 2
    while run_x * run_y * vector <= 16 and run_y < 4:
        run_y *= 2
    lanes = min(32, _power_of_two(x.shape[1] / vector))
    slices = -(-x.shape[1] // (lanes * vector))
    runs_x = min(8, THREADS // lanes, _power_of_two(y.shape[3] / run_x))
    runs_y = min(THREADS // lanes // runs_x, _power_of_two(y.shape[2] / run_y))
    constants |= dict(LAYOUT=1, RUN_X=run_x, RUN_Y=run_y, VECTOR=vector, LANES=lanes)
    return 'upfirdn2d_channels', (runs_x * run_x, runs_y * run_y), x.shape[0] * slices, lanes * runs_x * runs_y


def _planes_tile(constants, axes, x, y):
    """A warp along x, a few rows for each thread, several planes where they are small."""
    (up_x, down_x, *_), (up_y, down_y, *_) = axes
    itemsize, (out_h, out_w), planes = x.dtype.itemsize, y.shape[2:], x.shape[0] * x.shape[1]
    run_x = _multiple(2 if itemsize == 2 else 1, _period(up_x, down_x))
    run_y = _multiple(4, _period(up_y, down_y))
    vector = _vector([x], [x.shape[3], *_strides(x, 0, 1, 2)]) if x.strides[3] == 1 else 1

    def shared_bytes(runs_x, runs_y, together):
        cols, rows = inputs_for(runs_x * run_x, *axes[0]), inputs_for(runs_y * run_y, *axes[1])
        return itemsize * together * rows * _multiple(cols + vector - 1, vector)

    runs_x = min(32, _power_of_two(out_w / run_x))
    runs_y = min(THREADS // runs_x, _power_of_two(out_h / run_y))
    together = min(THREADS // (runs_x * runs_y), _power_of_two(planes), 16)
    while shared_bytes(runs_x, runs_y, together) > SHARED_BYTES and runs_x * runs_y * together > 1:
        if together > 1:
            together //= 2
        elif runs_y > 1:
            runs_y //= 2
        else:
            runs_x //= 2
    store_vector = math.gcd(run_x, _vector([y], [out_w, *_strides(y, 0, 1, 2)])) if y.strides[3] == 1 else 1
    constants |= dict(LAYOUT=0, RUN_X=run_x, RUN_Y=run_y, VECTOR=vector, PLANES=together, STORE_VECTOR=store_vector)
    threads = max(32, runs_x * runs_y * together)
    return 'upfirdn2d_planes', (runs_x * run_x, runs_y * run_y), -(-planes // together), threads


def _strides(v, *axes):
    """The strides that matter."""
    return [v.strides[axis] for axis in axes if v.shape[axis] > 1]


def _multiple(number, of):
    """The lowest multiple of `of` that is not below the number."""
    return -(-number // of) * of


# ---------------------------------------------------------------------------------------------------------------------
# filtered_lrelu

ACTIVATE, ACTIVATE_AND_WRITE, APPLY = range(3)  # MODE in filtered_lrelu.cu
PIXELS_PER_WORD = 16  # of the mask


def supports_filtered_lrelu(x, fu, fd, up, down):
    if x.dtype not in SCALARS or max(up, down) > MAX_FACTOR:
        return False
    if not all(f is None or (f.ndim == 1 and f.shape[0] <= MAX_SEPARABLE_TAPS) for f in (fu, fd)):
        return False
    # Of either direction, and of the phase that needs the most pixels.
    ways = ((up, down, _taps(fu), _taps(fd)), (down, up, _taps(fd), _taps(fu)))
    return all(lrelu_tile(x.dtype, *way, (0, 0), 1, 1) is not None for way in ways)


def filtered_lrelu(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter, want_mask):
    """As `filtered_lrelu.filtered_lrelu`, separable filters only; with the mask for the derivatives, or None.

    The mask is int32 [N, C, H_u, ceil(W_u / 16)] for H_u x W_u pixels after upsampling.
    """
    n, c, h, w = x.shape
    x0, x1, y0, y1 = padding
    mid_w, mid_h = w * up + x0 + x1 - _taps(fu) + 1, h * up + y0 + y1 - _taps(fu) + 1
    y = _empty_images(x, (mid_h - _taps(fd)) // down + 1, (mid_w - _taps(fd)) // down + 1)
    mask = None
    if want_mask:
        mask = torch.empty([n, c, mid_h, -(-mid_w // PIXELS_PER_WORD)], dtype=torch.int32, device=x.device)
    clamp = math.inf if clamp is None else float(clamp)
    mode = ACTIVATE_AND_WRITE if want_mask else ACTIVATE
    _start_filtered_lrelu(
        mode,
        y,
        x,
        b,
        fu,
        fd,
        mask,
        up,
        down,
        (x0, y0),
        (0, 0),
        (mid_w, mid_h),
        float(up),
        float(gain),
        float(slope),
        clamp,
        bool(flip_filter),
    )
    return y, mask


def filtered_lrelu_masked(
    x, mask, fu, fd, up, down, padding, mask_offset, mask_size, out_size, gain, slope, flip_filter
):
    """Upsampling, the derivative of the activation from the mask, downsampling: every derivative of `filtered_lrelu`.

    At the raised sampling rate, u[p] = sum over i of x[i] * fu[i * up + pad0 - p]; v[p] is u[p] * gain times 1, slope
    or 0, and 0 outside of the mask; y[o] = sum over t of v[o * down + t - mask_offset] * fd[t]. Unlike in
    `filtered_lrelu`, upsampling has no gain of its own. The transpose is of the same kind: filters and factors
    exchanged, flip_filter toggled, pad0' = len(fd) - 1 - mask_offset and mask_offset' = len(fu) - 1 - pad0.
    Pairs are (x, y).
    """
    y = _empty_images(x, out_size[1], out_size[0])
    _start_filtered_lrelu(
        APPLY,
        y,
        x,
        None,
        fu,
        fd,
        mask.contiguous(),
        up,
        down,
        (padding[0], padding[2]),
        tuple(mask_offset),
        tuple(mask_size),
        1.0,
        float(gain),
        float(slope),
        math.inf,
        bool(flip_filter),
    )
    return y


def _start_filtered_lrelu(mode, y, x, b, fu, fd, mask, up, down, *scalars):
    fu, fd = (None if f is None else _filter(f) for f in (fu, fd))
    kinds = {f.dtype for f in (fu, fd) if f is not None}
    if len(kinds) == 2:
        fu, fd = fu.double(), fd.double()
    launch = plan_filtered_lrelu(
        mode,
        view(y),
        view(x),
        torch.float64 if torch.float64 in kinds else torch.float32,
        _taps(fu),
        _taps(fd),
        up,
        down,
        *scalars,
    )
    _run(launch, [y, x, None if b is None else b.contiguous(), fu, fd, mask])


@functools.lru_cache(maxsize=4096)
def plan_filtered_lrelu(
    mode,
    y,
    x,
    filter_dtype,
    taps_up,
    taps_down,
    up,
    down,
    pad,
    mask_offset,
    mask_size,
    gain_up,
    gain,
    slope,
    clamp,
    flip_filter,
):
    """For the views y and x; pad: (x0, y0) with respect to the mask's first pixel."""
    pad = tuple(p + q for p, q in zip(pad, mask_offset))  # with respect to the first pixel that the output needs
    phase, origin = tuple(p % up for p in pad), tuple(-(p // up) for p in pad)
    tile = lrelu_tile(x.dtype, up, down, taps_up, taps_down, phase, *y.shape[:1:-1])
    words = -(-mask_size[0] // PIXELS_PER_WORD)
    index = 'long long' if words * mask_size[1] >= INT_LIMIT else _index_type(x, y)
    kernel = Kernel(
        'filtered_lrelu.cu',
        'filtered_lrelu',
        _constants(
            SCALAR=SCALARS[x.dtype],
            FILTER=SCALARS[filter_dtype],
            INDEX=index,
            THREADS=THREADS,
            UP_BY=up,
            TAPS_UP=taps_up,
            PHASE_X=phase[0],
            PHASE_Y=phase[1],
            DOWN_BY=down,
            TAPS_DOWN=taps_down,
            TILE_X=tile.width,
            TILE_Y=tile.height,
            RUN_UP=tile.run_up,
            RUN_DOWN=tile.run_down,
            MODE=mode,
        ),
    )
    tiles, per_plane = _tiles(x, y, tile.width, tile.height, *origin)
    packed = _pack(
        y.strides,
        x.strides,
        tiles,
        mask_size,
        words,
        -mask_offset[0],
        -mask_offset[1],
        gain_up,
        1.0,
        gain,
        slope,
        clamp,
        int(flip_filter),
    )
    blocks = _check_blocks(x.shape[0] * x.shape[1] * per_plane)
    return Launch(kernel, blocks, THREADS, tile.shared_bytes, packed)


class LreluTile(NamedTuple):
    width: int  # outputs of a block
    height: int
    run_up: int  # outputs of a thread at a time
    run_down: int
    shared_bytes: int


@functools.lru_cache(maxsize=1024)
def lrelu_tile(dtype, up, down, taps_up, taps_down, phase, out_w, out_h):
    """The tile with the least work per output among those whose buffers fit; None where none does."""
    run_up, run_down = _multiple(8, up), 4
    period = math.lcm(run_down, _period(up, down))
    best = None
    for width in (8, 16, 32, 48, 64):
        for height in (4, 8, 16, 24, 32, 48, 64):
            size = _multiple(width, math.lcm(period, _period(PIXELS_PER_WORD, down))), _multiple(height, period)
            tile, work = _lrelu_buffers(*size, run_up, run_down, dtype, up, down, taps_up, taps_down, phase)
            if tile.shared_bytes > DYNAMIC_SHARED_BYTES:
                continue
            work *= -(-out_w // tile.width) * -(-out_h // tile.height)
            if best is None or work < best[0]:
                best = work, tile
    return best and best[1]


def _lrelu_buffers(width, height, run_up, run_down, dtype, up, down, taps_up, taps_down, phase):
    """A tile, and the multiplications that it takes; sizes as in filtered_lrelu.cu."""
    mid_w, mid_h = (_multiple(inputs_for(size, 1, down, taps_down, 0), run_up) for size in (width, height))
    in_w, in_h = inputs_for(mid_w, up, 1, taps_up, phase[0]), inputs_for(mid_h, up, 1, taps_up, phase[1])
    even = max(in_h * (in_w | 1), mid_h * (mid_w | 1))
    odd = max(in_h * (mid_w | 1), mid_h * (width | 1))
    wide = 8 if dtype == torch.float64 else 4
    work = (
        mid_w * (in_h + mid_h) * -(-taps_up // up)
        + width * (mid_h + height) * taps_down
        + 2 * in_h * in_w
        + 2 * mid_w * mid_h
    )
    return LreluTile(width, height, run_up, run_down, wide * (even + odd)), work


def _taps(f):
    return 1 if f is None else f.shape[0]
