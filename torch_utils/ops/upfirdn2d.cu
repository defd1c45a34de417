// upfirdn2d: zero insertion, padding, filter and downsampling in one step. Its gradient is the same operation again.
//
// Memory bound for the filters in use. Memory traffic, with s the size of an element: s bytes per input pixel and s bytes
// per output pixel, so 1.25 s per output pixel for up 2, 5 s for down 2, and 2 s for filtering alone. The only other reads
// are the borders that neighboring tiles share, which are mostly served by the L2 cache.
//
// There are three kernels, one of which is compiled at a time:
//   LAYOUT 0: upfirdn2d_planes, filter [kh, kw], contiguous rows. The input tile is in shared memory.
//   LAYOUT 1: upfirdn2d_channels, filter [kh, kw], channels last. Vectors of channels, in registers only.
//   LAYOUT 2: upfirdn2d_separable, filter [k] along x and along y in one kernel, any strides. The intermediate image stays
//             in shared memory; two separate kernels would write it to global memory and read it back.
//
// Constants: SCALAR; FILTER, the type of the taps; INDEX; THREADS; UP_X, UP_Y, DOWN_X, DOWN_Y, TAPS_X, TAPS_Y, PHASE_X and
// PHASE_Y (see resample.cuh); TILE_X and TILE_Y, the outputs of a block; RUN_X and RUN_Y, the outputs that a thread
// computes at a time; VECTOR, the elements of a load; for LAYOUT 0 PLANES, the planes of a block, and STORE_VECTOR, the
// elements of a store; for LAYOUT 1 LANES, the vectors of channels in a block.

#include "resample.cuh"

using AxisX = Axis<UP_X, DOWN_X, TAPS_X, PHASE_X>;
using AxisY = Axis<UP_Y, DOWN_Y, TAPS_Y, PHASE_Y>;

struct Resampling {
    SCALAR* y;
    const SCALAR* x;
    const FILTER* filter;
    Strides y_strides, x_strides;
    Tiles tiles;
    double gain;     // per pass: squared for a separable filter
    long long flip;
};

// Read the taps [kh, kw] into shared memory, as a correlation kernel.
DEVICE void read_kernel(Wide* taps, const Resampling& r) {
    for (int t = threadIdx.x; t < TAPS_Y * TAPS_X; t += THREADS)
        taps[t] = static_cast<Wide>(r.filter[r.flip ? t : TAPS_Y * TAPS_X - 1 - t] * static_cast<FILTER>(r.gain));
}

constexpr bool TAPS_IN_REGISTERS = TAPS_Y * TAPS_X * sizeof(Wide) <= 144;

// The taps, copied to registers if they fit.
struct Taps {
    const Wide* shared;
    Wide own[TAPS_IN_REGISTERS ? TAPS_Y * TAPS_X : 1];

    DEVICE explicit Taps(const Wide* taps) : shared(taps) {
        if constexpr (TAPS_IN_REGISTERS) {
#pragma unroll
            for (int t = 0; t < TAPS_Y * TAPS_X; ++t) own[t] = taps[t];
        }
    }

    DEVICE Wide at(int ty, int tx) const {
        if constexpr (TAPS_IN_REGISTERS) return own[ty * TAPS_X + tx];
        return shared[ty * TAPS_X + tx];
    }
};

constexpr int WINDOW_X = AxisX::inputs(RUN_X), WINDOW_Y = AxisY::inputs(RUN_Y);  // inputs of a run

// Call visit(j, l, k, tap) for each tap that connects pixel k of input row i to output (j, l) of a run.
template <class Visit> DEVICE void for_each_tap(const Taps& taps, int i, Visit visit) {
#pragma unroll
    for (int j = 0; j < RUN_Y; ++j) {
        if (!AxisY::connects(j, i)) continue;
#pragma unroll
        for (int l = 0; l < RUN_X; ++l)
#pragma unroll
            for (int k = 0; k < WINDOW_X; ++k)
                if (AxisX::connects(l, k)) visit(j, l, k, taps.at(AxisY::tap(j, i), AxisX::tap(l, k)));
    }
}

#if LAYOUT == 0

constexpr int ROWS = AxisY::inputs(TILE_Y), COLS = AxisX::inputs(TILE_X);
constexpr int PITCH = round_up(COLS + VECTOR - 1, VECTOR);  // Vectors start up to VECTOR - 1 pixels before the tile.

// Read a tile; return by how many pixels the rows in shared memory start before the first pixel of the tile.
DEVICE int read_planes(SCALAR* shared, const Resampling& r, const Tile& tile) {
    using Pixels = Vector<SCALAR, VECTOR>;
    const Tiles& s = r.tiles;
    const int col0 = static_cast<int>(s.origin_x) + AxisX::advance(TILE_X) * tile.x;
    const int row0 = static_cast<int>(s.origin_y) + AxisY::advance(TILE_Y) * tile.y;
    const int left = floor_div(col0, VECTOR) * VECTOR;
    const int in_h = static_cast<int>(s.in_h), in_w = static_cast<int>(s.in_w);
    constexpr int PER_ROW = PITCH / VECTOR;
#pragma unroll 4
    for (int item = threadIdx.x; item < PLANES * ROWS * PER_ROW; item += THREADS) {
        const int col = item % PER_ROW * VECTOR, row = item / PER_ROW % ROWS, p = PLANES == 1 ? 0 : item / (PER_ROW * ROWS);
        const int iy = row0 + row, ix = left + col;
        const unsigned plane = tile.group * PLANES + p;
        const bool inside = plane < s.planes && iy >= 0 && iy < in_h && ix >= 0 && ix < in_w;
        const SCALAR* source = r.x;
        if (inside)
            source = plane_of(r.x, r.x_strides, plane, s.channels) + pixel_offset(r.x_strides, iy, ix);
        copy_to_shared(reinterpret_cast<Pixels*>(shared + (p * ROWS + row) * PITCH + col),
                       reinterpret_cast<const Pixels*>(source), inside);
    }
    return col0 - left;
}

extern "C" __global__ void __launch_bounds__(THREADS) upfirdn2d_planes(const Resampling r) {
    alignas(16) __shared__ SCALAR pixels[PLANES * ROWS * PITCH];
    __shared__ Wide shared_taps[TAPS_Y * TAPS_X];
    const Tiles& s = r.tiles;
    const Tile tile = this_tile(s);
    const int shift = read_planes(pixels, r, tile);
    read_kernel(shared_taps, r);
    wait_for_copies();
    __syncthreads();

    const Taps taps(shared_taps);
    constexpr int RUNS_X = TILE_X / RUN_X, RUNS_Y = TILE_Y / RUN_Y;
    for (int item = threadIdx.x; item < PLANES * RUNS_X * RUNS_Y; item += THREADS) {
        const int run_x = item % RUNS_X, run_y = item / RUNS_X % RUNS_Y, p = PLANES == 1 ? 0 : item / (RUNS_X * RUNS_Y);
        const SCALAR* corner = pixels + (p * ROWS + run_y * AxisY::advance(RUN_Y)) * PITCH
                             + run_x * AxisX::advance(RUN_X) + shift;
        Wide sums[RUN_Y][RUN_X] = {};
#pragma unroll
        for (int i = 0; i < WINDOW_Y; ++i) {
            Wide window[WINDOW_X];
#pragma unroll
            for (int k = 0; k < WINDOW_X; ++k) window[k] = widen(corner[i * PITCH + k]);
            for_each_tap(taps, i, [&](int j, int l, int k, Wide tap) { sums[j][l] += window[k] * tap; });
        }

        const unsigned plane = tile.group * PLANES + p;
        const int oy = tile.y * TILE_Y + run_y * RUN_Y, ox = tile.x * TILE_X + run_x * RUN_X;
        if (plane >= s.planes || ox >= s.out_w) continue;
        SCALAR* target = plane_of(r.y, r.y_strides, plane, s.channels);
#pragma unroll
        for (int j = 0; j < RUN_Y; ++j) {
            if (oy + j >= s.out_h) break;
            SCALAR* line = target + static_cast<INDEX>(oy + j) * static_cast<INDEX>(r.y_strides.h);
#pragma unroll
            for (int l = 0; l < RUN_X; l += STORE_VECTOR) {  // The width is a multiple of STORE_VECTOR.
                if (ox + l >= s.out_w) break;
                Vector<SCALAR, STORE_VECTOR> out;
#pragma unroll
                for (int e = 0; e < STORE_VECTOR; ++e) out.at[e] = narrow<SCALAR>(sums[j][l + e]);
                *reinterpret_cast<Vector<SCALAR, STORE_VECTOR>*>(
                    line + static_cast<INDEX>(ox + l) * static_cast<INDEX>(r.y_strides.w)) = out;
            }
        }
    }
}

#elif LAYOUT == 1

// A block computes TILE_X x TILE_Y pixels of LANES vectors of channels. Neighboring threads process neighboring vectors;
// pixels that several threads of a block read are served by the L1 cache.
extern "C" __global__ void __launch_bounds__(THREADS) upfirdn2d_channels(const Resampling r) {
    using Channels = Vector<SCALAR, VECTOR>;
    __shared__ Wide shared_taps[TAPS_Y * TAPS_X];
    read_kernel(shared_taps, r);
    __syncthreads();

    const Tiles& s = r.tiles;
    const Tile tile = this_tile(s);
    constexpr int RUNS_X = TILE_X / RUN_X;
    const unsigned slices = static_cast<unsigned>((s.channels + LANES * VECTOR - 1) / (LANES * VECTOR));  // per image
    const unsigned image = tile.group / slices;
    const int channel = static_cast<int>(tile.group - image * slices) * (LANES * VECTOR)
                      + static_cast<int>(threadIdx.x) % LANES * VECTOR;
    const int run = threadIdx.x / LANES, run_x = run % RUNS_X, run_y = run / RUNS_X;
    const int oy = tile.y * TILE_Y + run_y * RUN_Y, ox = tile.x * TILE_X + run_x * RUN_X;
    if (channel >= s.channels || oy >= s.out_h || ox >= s.out_w) return;

    const int iy0 = static_cast<int>(s.origin_y) + AxisY::advance(TILE_Y) * tile.y + AxisY::advance(RUN_Y) * run_y;
    const int ix0 = static_cast<int>(s.origin_x) + AxisX::advance(TILE_X) * tile.x + AxisX::advance(RUN_X) * run_x;
    const int in_h = static_cast<int>(s.in_h), in_w = static_cast<int>(s.in_w);
    const SCALAR* source = r.x + image * r.x_strides.n + channel;
    const Taps taps(shared_taps);
    Wide sums[RUN_Y][RUN_X][VECTOR] = {};
#pragma unroll
    for (int i = 0; i < WINDOW_Y; ++i) {
        Channels window[WINDOW_X];
#pragma unroll
        for (int k = 0; k < WINDOW_X; ++k) {
            const int iy = iy0 + i, ix = ix0 + k;
            window[k] = {};
            if (iy >= 0 && iy < in_h && ix >= 0 && ix < in_w)
                window[k] = *reinterpret_cast<const Channels*>(source + pixel_offset(r.x_strides, iy, ix));
        }
        for_each_tap(taps, i, [&](int j, int l, int k, Wide tap) {
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) sums[j][l][e] += widen(window[k].at[e]) * tap;
        });
    }

    SCALAR* target = r.y + image * r.y_strides.n + channel;
#pragma unroll
    for (int j = 0; j < RUN_Y; ++j) {
#pragma unroll
        for (int l = 0; l < RUN_X; ++l) {
            if (oy + j >= s.out_h || ox + l >= s.out_w) continue;
            Channels out;
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) out.at[e] = narrow<SCALAR>(sums[j][l][e]);
            *reinterpret_cast<Channels*>(target + pixel_offset(r.y_strides, oy + j, ox + l)) = out;
        }
    }
}

#elif LAYOUT == 2

extern "C" __global__ void __launch_bounds__(THREADS) upfirdn2d_separable(const Resampling r) {
    constexpr int ROWS = AxisY::inputs(TILE_Y), COLS = AxisX::inputs(TILE_X);
    constexpr int PITCH_IN = COLS | 1, PITCH_OUT = TILE_X | 1;  // odd; see resample.cuh
    __shared__ Wide pixels[ROWS * PITCH_IN], between[ROWS * PITCH_OUT];
    __shared__ Wide taps_x[TAPS_X], taps_y[TAPS_Y];
    const Tiles& s = r.tiles;
    const Tile tile = this_tile(s);
    read_taps<TAPS_X>(taps_x, r.filter, r.gain, r.flip);
    read_taps<TAPS_Y>(taps_y, r.filter, r.gain, r.flip);
    read_tile<ROWS, COLS, PITCH_IN>(pixels, plane_of(r.x, r.x_strides, tile.group, s.channels), r.x_strides,
                                    static_cast<int>(s.origin_y) + AxisY::advance(TILE_Y) * tile.y,
                                    static_cast<int>(s.origin_x) + AxisX::advance(TILE_X) * tile.x,
                                    static_cast<int>(s.in_h), static_cast<int>(s.in_w), Wide(0));
    __syncthreads();
    pass_along_x<AxisX, RUN_X, ROWS, TILE_X, PITCH_IN, PITCH_OUT>(between, pixels, taps_x);
    __syncthreads();

    SCALAR* target = plane_of(r.y, r.y_strides, tile.group, s.channels);
    pass_along_y<AxisY, RUN_Y, TILE_Y, TILE_X, PITCH_OUT>(between, taps_y, [&](int row, int col, Wide value) {
        store_output(target, r.y_strides, s, tile, row, col, value);
    });
}

#endif
