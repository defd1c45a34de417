"""The constants, tiles and launch sizes of the CUDA kernels, planned from the shapes and strides of tensors.

A `plan_...` function returns a `Launch`, which is plain data: planning needs no GPU and no memory, so the tests can
inspect plans, compile them for several architectures, and run them on a CPU. A kernel is compiled for one filter size,
one set of factors and one data type, so that the compiler unrolls its loops and computes its index arithmetic. Networks
use about a dozen such sets of constants.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from torch_utils.ops.arguments import ACTIVATION_CODES, BiasActOptions
from torch_utils.ops.cuda_launch import Kernel, Launch
from torch_utils.ops.resampling import Resampling

SCALARS = {torch.float16: 'half_t', torch.bfloat16: 'bfloat_t', torch.float32: 'float', torch.float64: 'double'}

VECTOR_BYTES = 16  # the longest load or store
THREADS = 256
SHARED_BYTES = 40 * 1024  # static shared memory per block; the limit is 48 KiB everywhere
DYNAMIC_SHARED_BYTES = 63 * 1024  # dynamic shared memory per block; Turing's limit is 64 KiB, including the taps
INT_LIMIT = 2**31 - 2**20  # Larger offsets need 64 bits; the margin is for the end of the last block.
MAX_BLOCKS = 2**31 - 1


class View(NamedTuple):
    """The properties of a tensor that plans depend on."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    dtype: torch.dtype
    offset: int = 0  # bytes from a multiple of VECTOR_BYTES to the tensor's address

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def view(tensor: torch.Tensor) -> View:
    """Return the properties of a tensor."""
    return View(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.data_ptr() % VECTOR_BYTES)


class Axis(NamedTuple):
    """Resampling along one axis; see resample.cuh."""

    up: int
    down: int
    taps: int
    phase: int  # the padding modulo `up`

    def inputs(self, outputs: int) -> int:
        """Return how many consecutive input pixels a number of output pixels needs."""
        return max(1, ((outputs - 1) * self.down + self.taps - 1 - self.phase) // self.up + 1)

    @property
    def period(self) -> int:
        """The number of outputs after which taps and pixels are aligned as before."""
        return self.up // math.gcd(self.up, self.down)


# ---------------------------------------------------------------------------------------------------------------------
# Shared by all plans


def _pack(*fields: Any) -> bytes:
    """Pack the 8-byte integers and doubles that follow the addresses in a struct of a .cu file."""
    flat = [part for field in fields for part in (field if isinstance(field, tuple) else (field,))]
    return struct.pack('=' + ''.join('d' if isinstance(part, float) else 'q' for part in flat), *flat)


def _constants(**values: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((name, int(value) if isinstance(value, bool) else value) for name, value in values.items())


def _vector(views: Sequence[View], numbers: Sequence[int]) -> int:
    """Return the longest vector, in elements, that divides all addresses and all given numbers of elements."""
    itemsize = views[0].dtype.itemsize
    size = VECTOR_BYTES // itemsize
    while size > 1 and (any(v.offset % (size * itemsize) for v in views) or any(n % size for n in numbers)):
        size //= 2
    return size


def _index_type(*views: View) -> str:
    """Return the type for offsets within a plane, or within a channels-last image, of tensors [N, C, H, W]."""
    furthest = max(sum((size - 1) * stride for size, stride in zip(v.shape[1:], v.strides[1:])) for v in views)
    return 'int' if furthest < INT_LIMIT else 'long long'


def _power_of_two(number: float) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()


def _round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `number`."""
    return -(-number // multiple) * multiple


def _significant_strides(v: View, *axes: int) -> list[int]:
    """Return the strides along axes of more than one element."""
    return [v.strides[axis] for axis in axes if v.shape[axis] > 1]


def _tiles(x: View, y: View, tile: tuple[int, int], origin: tuple[int, int]) -> tuple[tuple[int, ...], int]:
    """Return the members of the struct Tiles, and the number of tiles per plane."""
    n, c, in_h, in_w = x.shape
    out_h, out_w = y.shape[2:]
    tiles_x, tiles_y = -(-out_w // tile[0]), -(-out_h // tile[1])
    return (c, n * c, in_w, in_h, out_w, out_h, tiles_x, tiles_y, *origin), tiles_x * tiles_y


def _check_blocks(blocks: int) -> int:
    if blocks > MAX_BLOCKS:
        raise ValueError(f'{blocks} blocks exceed the limit of a GPU ({MAX_BLOCKS}); use a smaller batch')
    return blocks


# ---------------------------------------------------------------------------------------------------------------------
# bias_act


@functools.lru_cache(maxsize=4096)
def plan_bias_act(order: int, out: View, bias: View | None, options: BiasActOptions) -> Launch:
    """Plan the kernel of bias_act.cu.

    Args:
        order: 0 for the value, 1 for the gradient, 2 for the second derivative.
        out: The result. All other tensors have the same strides and are dense.
        bias: The bias, dense, or None.
        options: The arguments of `bias_act`.
    """
    dim, act, alpha, gain, clamp = options
    limit = math.inf if clamp is None else clamp
    count = out.numel
    vector = _vector([out], [])
    stride, size = (count, 1) if bias is None or bias.numel == 1 else (out.strides[dim], out.shape[dim])
    unroll = 1 if count < 2**20 else 4 if order == 0 else 2  # Orders 1 and 2 read two or three tensors.
    kernel = Kernel(
        'bias_act.cu',
        'bias_act',
        _constants(
            SCALAR=SCALARS[out.dtype],
            INDEX='unsigned' if count < INT_LIMIT else 'unsigned long long',
            THREADS=THREADS,
            UNROLL=unroll,
            VECTOR=vector,
            ACTIVATION=ACTIVATION_CODES[act],
            ORDER=order,
            FROM_INPUT=act == 'swish',
            CLAMPED=limit < math.inf,
            BIAS=_bias_access(bias, stride, size, vector),
        ),
    )
    blocks = -(-count // (THREADS * unroll * vector))
    return Launch(
        kernel, _check_blocks(blocks), THREADS, 0, _pack(count, stride, size, float(alpha), float(gain), float(limit))
    )


def _bias_access(bias: View | None, stride: int, size: int, vector: int) -> int:
    """Return how the elements of a vector read the bias: the constant BIAS of bias_act.cu."""
    if bias is None:
        return 0
    if stride % vector == 0:
        return 2
    return 3 if stride == 1 and size % vector == 0 else 1


@functools.lru_cache(maxsize=4096)
def plan_finish(y: View, num_noises: int, options: BiasActOptions) -> Launch:
    """Plan the kernel of finish.cu.

    Args:
        y: The result [N, C, H, W], contiguous or channels last, with the strides of x; `offset` is for both.
        num_noises: Images of noise: 0, 1 or N.
        options: Activation, gain and clamp.
    """
    _dim, act, alpha, gain, clamp = options
    limit = math.inf if clamp is None else clamp
    _n, channels, height, width = y.shape
    is_channels_last = y.strides[1] == 1 and channels > 1
    vector = _vector([y], [channels if is_channels_last else height * width])
    unroll = 1 if y.numel < 2**20 else 4
    kernel = Kernel(
        'finish.cu',
        'finish',
        _constants(
            SCALAR=SCALARS[y.dtype],
            INDEX='unsigned' if y.numel < INT_LIMIT else 'unsigned long long',
            THREADS=THREADS,
            UNROLL=unroll,
            VECTOR=vector,
            ACTIVATION=ACTIVATION_CODES[act],
            CLAMPED=limit < math.inf,
            CHANNELS_LAST=is_channels_last,
            NOISE=num_noises > 0,
        ),
    )
    blocks = _check_blocks(-(-y.numel // (THREADS * unroll * vector)))
    pixels = height * width
    sizes = (y.numel, channels, pixels, pixels if num_noises > 1 else 0)
    return Launch(kernel, blocks, THREADS, 0, _pack(sizes, float(alpha), float(gain), float(limit)))


# ---------------------------------------------------------------------------------------------------------------------
# upfirdn2d


class Layout(NamedTuple):
    """The choice among the kernels of upfirdn2d.cu, and its constants."""

    name: str
    tile: tuple[int, int]  # outputs (x, y) per block
    groups: int  # of planes or channels: blocks per tile
    threads: int
    constants: dict[str, int]


@functools.lru_cache(maxsize=4096)
def plan_upfirdn2d(
    y: View, x: View, filter_shape: tuple[int, ...], filter_dtype: torch.dtype, geometry: Resampling
) -> Launch:
    """Plan a kernel of upfirdn2d.cu.

    Args:
        y: The result [N, C, H', W'].
        x: The images [N, C, H, W].
        filter_shape: (kh, kw), or (k,) for a separable filter.
        filter_dtype: float32 or float64.
        geometry: The arguments of `upfirdn2d`.
    """
    up, down, (x0, _x1, y0, _y1), flip_filter, gain = geometry
    pad = x0, y0  # The padding at the other sides follows from the size of y.
    taps = (filter_shape[-1], filter_shape[0])
    axis_x, axis_y = (Axis(u, d, t, p % u) for u, d, t, p in zip(up, down, taps, pad))
    if len(filter_shape) == 1:
        layout = _separable_layout(axis_x, axis_y, x, y)
    elif x.strides[1] == y.strides[1] == 1 and x.shape[1] > 1:
        layout = _channels_layout(axis_x, axis_y, x, y)
    else:
        layout = _planes_layout(axis_x, axis_y, x, y)
    constants = _constants(
        SCALAR=SCALARS[x.dtype],
        FILTER=SCALARS[filter_dtype],
        INDEX=_index_type(x, y),
        UP_X=axis_x.up,
        UP_Y=axis_y.up,
        DOWN_X=axis_x.down,
        DOWN_Y=axis_y.down,
        TAPS_X=axis_x.taps,
        TAPS_Y=axis_y.taps,
        PHASE_X=axis_x.phase,
        PHASE_Y=axis_y.phase,
        **layout.constants,
        TILE_X=layout.tile[0],
        TILE_Y=layout.tile[1],
        THREADS=layout.threads,
    )
    tiles, per_plane = _tiles(x, y, layout.tile, (-(pad[0] // up[0]), -(pad[1] // up[1])))
    packed = _pack(y.strides, x.strides, tiles, float(gain) ** (len(filter_shape) / 2), int(flip_filter))
    kernel = Kernel('upfirdn2d.cu', layout.name, constants)
    return Launch(kernel, _check_blocks(layout.groups * per_plane), layout.threads, 0, packed)


def _separable_layout(axis_x: Axis, axis_y: Axis, x: View, y: View) -> Layout:
    """Use square tiles, as large as shared memory allows for the pixels and the result of the first pass."""
    run_x, run_y = (_round_up(4, axis.period) for axis in (axis_x, axis_y))
    bytes_per_number = 8 if x.dtype == torch.float64 else 4

    def shared_bytes(tile_x: int, tile_y: int) -> int:
        cols, rows = axis_x.inputs(tile_x), axis_y.inputs(tile_y)
        return bytes_per_number * rows * ((cols | 1) + (tile_x | 1))

    for size in (64, 32, 16, 8, 4):
        tile = _round_up(min(size, y.shape[3]), run_x), _round_up(min(size, y.shape[2]), run_y)
        if shared_bytes(*tile) <= SHARED_BYTES:
            break
    threads = min(THREADS, max(64, _power_of_two(tile[0] * tile[1] / run_x / 2)))
    constants = dict(LAYOUT=2, RUN_X=run_x, RUN_Y=run_y)
    return Layout('upfirdn2d_separable', tile, x.shape[0] * x.shape[1], threads, constants)


def _channels_layout(axis_x: Axis, axis_y: Axis, x: View, y: View) -> Layout:
    """Arrange threads along the channels, then over a patch of pixels."""
    run_x, run_y = axis_x.period, axis_y.period
    strides = [*_significant_strides(x, 0, 2, 3), *_significant_strides(y, 0, 2, 3)]
    vector = _vector([x, y], [x.shape[1], *strides])
    while vector > 1 and run_x * run_y * vector > 32:  # The sums are in registers.
        vector //= 2
    while run_x * run_y * vector <= 16 and run_y < 4:
        run_y *= 2
    lanes = min(32, _power_of_two(x.shape[1] / vector))
    slices = -(-x.shape[1] // (lanes * vector))
    runs_x = min(8, THREADS // lanes, _power_of_two(y.shape[3] / run_x))
    runs_y = min(THREADS // lanes // runs_x, _power_of_two(y.shape[2] / run_y))
    tile = runs_x * run_x, runs_y * run_y
    constants = dict(LAYOUT=1, RUN_X=run_x, RUN_Y=run_y, VECTOR=vector, LANES=lanes)
    return Layout('upfirdn2d_channels', tile, x.shape[0] * slices, lanes * runs_x * runs_y, constants)


def _planes_layout(axis_x: Axis, axis_y: Axis, x: View, y: View) -> Layout:
    """Arrange a warp along x, compute a few rows per thread, and combine several planes if they are small."""
    itemsize, (out_h, out_w), planes = x.dtype.itemsize, y.shape[2:], x.shape[0] * x.shape[1]
    run_x = _round_up(2 if itemsize == 2 else 1, axis_x.period)
    run_y = _round_up(4, axis_y.period)
    vector = _vector([x], [x.shape[3], *_significant_strides(x, 0, 1, 2)]) if x.strides[3] == 1 else 1

    def shared_bytes(runs_x: int, runs_y: int, planes_per_block: int) -> int:
        cols, rows = axis_x.inputs(runs_x * run_x), axis_y.inputs(runs_y * run_y)
        return itemsize * planes_per_block * rows * _round_up(cols + vector - 1, vector)

    runs_x = min(32, _power_of_two(out_w / run_x))
    runs_y = min(THREADS // runs_x, _power_of_two(out_h / run_y))
    planes_per_block = min(THREADS // (runs_x * runs_y), _power_of_two(planes), 16)
    while shared_bytes(runs_x, runs_y, planes_per_block) > SHARED_BYTES and runs_x * runs_y * planes_per_block > 1:
        if planes_per_block > 1:
            planes_per_block //= 2
        elif runs_y > 1:
            runs_y //= 2
        else:
            runs_x //= 2
    store_vector = 1
    if y.strides[3] == 1:
        store_vector = math.gcd(run_x, _vector([y], [out_w, *_significant_strides(y, 0, 1, 2)]))
    threads = max(32, runs_x * runs_y * planes_per_block)
    tile = runs_x * run_x, runs_y * run_y
    constants = dict(
        LAYOUT=0, RUN_X=run_x, RUN_Y=run_y, VECTOR=vector, PLANES=planes_per_block, STORE_VECTOR=store_vector
    )
    return Layout('upfirdn2d_planes', tile, -(-planes // planes_per_block), threads, constants)


# ---------------------------------------------------------------------------------------------------------------------
# filtered_lrelu

ACTIVATE, ACTIVATE_AND_WRITE_MASK, APPLY_MASK = range(3)  # MODE in filtered_lrelu.cu
PIXELS_PER_WORD = 16  # of the mask


class LreluOptions(NamedTuple):
    """The arguments of filtered_lrelu.cu other than tensors. Pairs are (x, y)."""

    mode: int
    filter_dtype: torch.dtype
    taps_up: int
    taps_down: int
    up: int
    down: int
    pad: tuple[int, ...]  # before the image, with respect to the first pixel of the mask
    mask_offset: tuple[int, ...]  # see `resampling.MaskedResampling`
    mask_size: tuple[int, int]  # pixels
    gain_up: float  # of the upsampling, per axis
    gain: float
    slope: float
    clamp: float  # may be infinite
    flip_filter: bool


@functools.lru_cache(maxsize=4096)
def plan_filtered_lrelu(y: View, x: View, options: LreluOptions) -> Launch:
    """Plan the kernel of filtered_lrelu.cu for the result y [N, C, H', W'] and images x [N, C, H, W]."""
    up, down, taps_up, taps_down = options.up, options.down, options.taps_up, options.taps_down
    mask_size, mask_offset = options.mask_size, options.mask_offset
    pad = [p + q for p, q in zip(options.pad, mask_offset)]  # with respect to the first pixel that the output needs
    phase = pad[0] % up, pad[1] % up
    out_h, out_w = y.shape[2:]
    tile = lrelu_tile(x.dtype, up, down, taps_up, taps_down, phase, out_w, out_h)
    assert tile is not None
    words = -(-mask_size[0] // PIXELS_PER_WORD)
    constants = _constants(
        SCALAR=SCALARS[x.dtype],
        FILTER=SCALARS[options.filter_dtype],
        INDEX='long long' if words * mask_size[1] >= INT_LIMIT else _index_type(x, y),
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
        MODE=options.mode,
    )
    tiles, per_plane = _tiles(x, y, (tile.width, tile.height), (-(pad[0] // up), -(pad[1] // up)))
    mask = (*mask_size, words, -mask_offset[0], -mask_offset[1])
    factors = (options.gain_up, 1.0, options.gain, options.slope, options.clamp)
    packed = _pack(y.strides, x.strides, tiles, mask, factors, int(options.flip_filter))
    blocks = _check_blocks(x.shape[0] * x.shape[1] * per_plane)
    return Launch(Kernel('filtered_lrelu.cu', 'filtered_lrelu', constants), blocks, THREADS, tile.shared_bytes, packed)


class LreluTile(NamedTuple):
    """The tile of a block of filtered_lrelu.cu."""

    width: int  # outputs per block
    height: int
    run_up: int  # outputs that a thread computes at a time
    run_down: int
    shared_bytes: int


@functools.lru_cache(maxsize=1024)
def lrelu_tile(
    dtype: torch.dtype, up: int, down: int, taps_up: int, taps_down: int, phase: tuple[int, int], out_w: int, out_h: int
) -> LreluTile | None:
    """Return the tile with the least work per output among those whose buffers fit, or None if none fits."""
    run_up, run_down = _round_up(8, up), 4
    period = math.lcm(run_down, Axis(up, down, 1, 0).period)
    period_x = math.lcm(period, Axis(PIXELS_PER_WORD, down, 1, 0).period)
    up_x, up_y = Axis(up, 1, taps_up, phase[0]), Axis(up, 1, taps_up, phase[1])
    best = None
    for width in (8, 16, 32, 48, 64):
        for height in (4, 8, 16, 24, 32, 48, 64):
            size = _round_up(width, period_x), _round_up(height, period)
            tile, work = _lrelu_buffers(*size, run_up, run_down, dtype, up_x, up_y, Axis(1, down, taps_down, 0))
            if tile.shared_bytes > DYNAMIC_SHARED_BYTES:
                continue
            work *= -(-out_w // tile.width) * -(-out_h // tile.height)
            if best is None or work < best[0]:
                best = work, tile
    return None if best is None else best[1]


def _lrelu_buffers(
    width: int, height: int, run_up: int, run_down: int, dtype: torch.dtype, up_x: Axis, up_y: Axis, down: Axis
) -> tuple[LreluTile, int]:
    """Return a tile, and the number of multiplications that it takes; sizes as in filtered_lrelu.cu."""
    mid_w, mid_h = (_round_up(down.inputs(size), run_up) for size in (width, height))
    in_w, in_h = up_x.inputs(mid_w), up_y.inputs(mid_h)
    even = max(in_h * (in_w | 1), mid_h * (mid_w | 1))
    odd = max(in_h * (mid_w | 1), mid_h * (width | 1))
    bytes_per_number = 8 if dtype == torch.float64 else 4
    work = (
        mid_w * (in_h + mid_h) * -(-up_x.taps // up_x.up)
        + width * (mid_h + height) * down.taps
        + 2 * in_h * in_w
        + 2 * mid_w * mid_h
    )
    return LreluTile(width, height, run_up, run_down, bytes_per_number * (even + odd)), work
