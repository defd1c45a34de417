// Resampling along one axis (zero insertion, padding, filter, downsampling), shared by the kernels.
//
// Legend: UP and DOWN, the sampling factors; TAPS, the number of filter taps. Output j reads input i through tap
// i * UP + pad - j * DOWN of the correlation kernel, so only every UP-th tap meets a pixel (polyphase filtering). In a
// tile whose first output is a multiple of UP / gcd(UP, DOWN), inputs are counted from the first input of the tile;
// everything except that origin is then known at compile time. PHASE is pad modulo UP, the offset between both grids.

#pragma once

#include "device.cuh"

DEVICE constexpr int floor_div(int a, int b) { return (a >= 0 ? a : a - b + 1) / b; }
DEVICE constexpr int ceil_div(int a, int b) { return -floor_div(-a, b); }
DEVICE constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }
DEVICE constexpr int largest(int a, int b) { return a > b ? a : b; }

template <int UP_, int DOWN_, int TAPS_, int PHASE> struct Axis {
    static constexpr int UP = UP_, DOWN = DOWN_, TAPS = TAPS_;

    // The tap that connects input i of the tile to output j, if it is one of 0 ... TAPS - 1.
    DEVICE static constexpr int tap(int j, int i) { return i * UP + PHASE - j * DOWN; }
    DEVICE static constexpr bool connects(int j, int i) { return tap(j, i) >= 0 && tap(j, i) < TAPS; }

    // The outputs 0 ... n - 1 need the inputs 0 ... inputs(n) - 1.
    DEVICE static constexpr int inputs(int n) {
        return largest(1, floor_div((n - 1) * DOWN + TAPS - 1 - PHASE, UP) + 1);
    }

    // The distance in the input that corresponds to n outputs, for n a multiple of the period.
    DEVICE static constexpr int advance(int n) { return n * DOWN / UP; }
};

// Read the taps of a filter as a correlation kernel. `flip` is the flip_filter of upfirdn2d: true for correlation with
// the filter as given. As in the reference implementation, the gain is applied in the precision of the filter.
template <int TAPS> DEVICE void read_taps(Wide* taps, const FILTER* filter, double gain, bool flip) {
    for (int t = threadIdx.x; t < TAPS; t += THREADS) {
        const FILTER value = filter ? filter[flip ? t : TAPS - 1 - t] : FILTER(1);
        taps[t] = static_cast<Wide>(value * static_cast<FILTER>(gain));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Passes over tiles in shared memory
//
// A thread computes RUN outputs of a line from a window of inputs in registers, so each number is read from shared
// memory once instead of once per tap. In both directions, neighboring threads work on neighboring lines. With an odd
// pitch, no two threads of a warp access the same bank.

// Filter all LINES, which are LINE_STEP elements apart, along the direction in which pixels are STEP elements apart, and
// call store(line, output, value) for OUTPUTS outputs of each line. OUTPUTS is a multiple of RUN.
template <class A, int RUN, int LINES, int OUTPUTS, int LINE_STEP, int STEP, class Store>
DEVICE void filter_lines(const Wide* source, const Wide* shared_taps, Store store) {
    constexpr int WINDOW = A::inputs(RUN);
    Wide taps[A::TAPS];
#pragma unroll
    for (int t = 0; t < A::TAPS; ++t) taps[t] = shared_taps[t];

    for (int item = threadIdx.x; item < LINES * (OUTPUTS / RUN); item += THREADS) {
        const int line = item % LINES, run = item / LINES;
        const Wide* start = source + run * A::advance(RUN) * STEP + line * LINE_STEP;
        Wide window[WINDOW];
#pragma unroll
        for (int i = 0; i < WINDOW; ++i) window[i] = start[i * STEP];
#pragma unroll
        for (int j = 0; j < RUN; ++j) {
            Wide sum = 0;
#pragma unroll
            for (int i = 0; i < WINDOW; ++i)
                if (A::connects(j, i)) sum += window[i] * taps[A::tap(j, i)];
            store(line, run * RUN + j, sum);
        }
    }
}

// Write COLS outputs along x for each of the ROWS.
template <class A, int RUN, int ROWS, int COLS, int PITCH_IN, int PITCH_OUT>
DEVICE void pass_along_x(Wide* target, const Wide* source, const Wide* shared_taps) {
    filter_lines<A, RUN, ROWS, COLS, PITCH_IN, 1>(
        source, shared_taps, [&](int row, int col, Wide value) { target[row * PITCH_OUT + col] = value; });
}

// Call store(row, column, value) for ROWS outputs along y of each of the COLS.
template <class A, int RUN, int ROWS, int COLS, int PITCH_IN, class Store>
DEVICE void pass_along_y(const Wide* source, const Wide* shared_taps, Store store) {
    filter_lines<A, RUN, COLS, ROWS, 1, PITCH_IN>(
        source, shared_taps, [&](int col, int row, Wide value) { store(row, col, value); });
}

// Read ROWS x COLS pixels of a plane, starting at (row0, col0), and add `bias` to them; zeros outside the image.
template <int ROWS, int COLS, int PITCH>
DEVICE void read_tile(Wide* target, const SCALAR* plane, const Strides& strides, int row0, int col0, int height,
                      int width, Wide bias) {
#pragma unroll 4
    for (int item = threadIdx.x; item < ROWS * COLS; item += THREADS) {
        const int row = item / COLS, col = item % COLS, iy = row0 + row, ix = col0 + col;
        const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
        target[row * PITCH + col] = inside ? widen(plane[pixel_offset(strides, iy, ix)]) + bias : Wide(0);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tiles
//
// Blocks are numbered by tiles along x, then tiles along y, then groups of planes.

struct Tiles {
    long long channels, planes;              // C and N * C
    long long in_w, in_h, out_w, out_h;      // pixels
    long long tiles_x, tiles_y;              // number of tiles that cover the output
    long long origin_x, origin_y;            // position of the first input of the first tile; see Axis
};

struct Tile { int x, y; unsigned group; };

DEVICE Tile this_tile(const Tiles& s) {
    const unsigned block = blockIdx.x, tiles_x = static_cast<unsigned>(s.tiles_x), tiles_y = static_cast<unsigned>(s.tiles_y);
    const unsigned row = block / tiles_x, group = row / tiles_y;
    return {static_cast<int>(block - row * tiles_x), static_cast<int>(row - group * tiles_y), group};
}

// Store the pixel (row, col) of a tile of TILE_Y x TILE_X outputs, if it is inside the image.
DEVICE void store_output(SCALAR* plane, const Strides& strides, const Tiles& s, const Tile& tile, int row, int col,
                         Wide value) {
    const int oy = tile.y * TILE_Y + row, ox = tile.x * TILE_X + col;
    if (oy < s.out_h && ox < s.out_w) plane[pixel_offset(strides, oy, ox)] = narrow<SCALAR>(value);
}
