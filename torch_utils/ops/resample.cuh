// Resampling along one axis: zero insertion, padding, filter and downsampling as the kernels share them.
//
// Legend: `UP` and `DOWN` factors, `TAPS` of the filter. Output j takes input i with tap i * UP + pad - j * DOWN of the
// correlation's kernel: only every UP-th tap meets a pixel (polyphase). Within a tile whose first output is a multiple
// of UP / gcd(UP, DOWN), inputs can be counted from the tile's first one, and then all of this is known at compile time
// but for that origin. PHASE, pad modulo UP, says how the two grids lie to one another.

#pragma once

#include "device.cuh"

DEVICE constexpr int floor_div(int a, int b) { return (a >= 0 ? a : a - b + 1) / b; }
DEVICE constexpr int ceil_div(int a, int b) { return -floor_div(-a, b); }
DEVICE constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }
DEVICE constexpr int largest(int a, int b) { return a > b ? a : b; }

template <int UP_, int DOWN_, int TAPS_, int PHASE> struct Axis {
    static constexpr int UP = UP_, DOWN = DOWN_, TAPS = TAPS_;

    // The tap that connects the tile's input i with its output j, if it is one of 0 ... TAPS - 1.
    DEVICE static constexpr int tap(int j, int i) { return i * UP + PHASE - j * DOWN; }
    DEVICE static constexpr bool connects(int j, int i) { return tap(j, i) >= 0 && tap(j, i) < TAPS; }

    // Inputs 0 ... inputs(n) - 1 are all that the outputs 0 ... n - 1 need.
    DEVICE static constexpr int inputs(int n) {
        return largest(1, floor_div((n - 1) * DOWN + TAPS - 1 - PHASE, UP) + 1);
    }

    // How far n outputs, a whole number of periods, are apart in the input.
    DEVICE static constexpr int advance(int n) { return n * DOWN / UP; }
};

// A filter's taps as the kernel of a correlation. `flip` is that of upfirdn2d: it asks for correlation with the filter
// as it is given. The gain is multiplied in the filter's own precision, as the plain implementation does.
template <int TAPS> DEVICE void read_taps(Wide* taps, const FILTER* filter, double gain, bool flip) {
    for (int t = threadIdx.x; t < TAPS; t += THREADS) {
        const FILTER value = filter ? filter[flip ? t : TAPS - 1 - t] : FILTER(1);
        taps[t] = static_cast<Wide>(value * static_cast<FILTER>(gain));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Passes over tiles in shared memory. A thread makes RUN outputs of a line from a window of inputs in registers, so that
// each number is read from shared memory once and not once for each tap. In both directions neighbouring threads work
// on neighbouring lines. With an odd pitch no two of a warp meet in a bank.

// Outputs along x for all ROWS. COLS is a multiple of RUN.
template <class A, int RUN, int ROWS, int COLS, int PITCH_IN, int PITCH_OUT>
DEVICE void pass_along_x(Wide* target, const Wide* source, const Wide* shared_taps) {
    constexpr int WINDOW = A::inputs(RUN);
    Wide taps[A::TAPS];
#pragma unroll
    for (int t = 0; t < A::TAPS; ++t) taps[t] = shared_taps[t];

    for (int item = threadIdx.x; item < ROWS * (COLS / RUN); item += THREADS) {
        const int row = item % ROWS, run = item / ROWS;
        const Wide* line = source + row * PITCH_IN + run * A::advance(RUN);
        Wide window[WINDOW];
#pragma unroll
        for (int i = 0; i < WINDOW; ++i) window[i] = line[i];
#pragma unroll
        for (int j = 0; j < RUN; ++j) {
            Wide sum = 0;
#pragma unroll
            for (int i = 0; i < WINDOW; ++i)
                if (A::connects(j, i)) sum += window[i] * taps[A::tap(j, i)];
            target[row * PITCH_OUT + run * RUN + j] = sum;
        }
    }
}

// Outputs along y for all COLS, handed to store(row, column, value). ROWS is a multiple of RUN.
template <class A, int RUN, int ROWS, int COLS, int PITCH_IN, class Store>
DEVICE void pass_along_y(const Wide* source, const Wide* shared_taps, Store store) {
    constexpr int WINDOW = A::inputs(RUN);
    Wide taps[A::TAPS];
#pragma unroll
    for (int t = 0; t < A::TAPS; ++t) taps[t] = shared_taps[t];

    for (int item = threadIdx.x; item < COLS * (ROWS / RUN); item += THREADS) {
        const int col = item % COLS, run = item / COLS;
        const Wide* line = source + run * A::advance(RUN) * PITCH_IN + col;
        Wide window[WINDOW];
#pragma unroll
        for (int i = 0; i < WINDOW; ++i) window[i] = line[i * PITCH_IN];
#pragma unroll
        for (int j = 0; j < RUN; ++j) {
            Wide sum = 0;
#pragma unroll
            for (int i = 0; i < WINDOW; ++i)
                if (A::connects(j, i)) sum += window[i] * taps[A::tap(j, i)];
            store(run * RUN + j, col, sum);
        }
    }
}

// Read ROWS x COLS pixels of a plane from (row0, col0) on, with `bias` added; zeros outside of the image.
template <int ROWS, int COLS, int PITCH>
DEVICE void read_tile(Wide* target, const SCALAR* plane, const Strides& strides, int row0, int col0, int height,
                      int width, Wide bias) {
#pragma unroll 4
    for (int item = threadIdx.x; item < ROWS * COLS; item += THREADS) {
        const int row = item / COLS, col = item % COLS, iy = row0 + row, ix = col0 + col;
        const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
        const INDEX offset = static_cast<INDEX>(iy) * static_cast<INDEX>(strides.h)
                           + static_cast<INDEX>(ix) * static_cast<INDEX>(strides.w);
        target[row * PITCH + col] = inside ? widen(plane[offset]) + bias : Wide(0);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Which part of the output a block makes: tiles along x, then along y, then groups of planes.

struct Tiles {
    long long channels, planes;              // C and N * C
    long long in_w, in_h, out_w, out_h;      // pixels
    long long tiles_x, tiles_y;              // that cover the output
    long long origin_x, origin_y;            // of the input that the first output's first tap meets; see Axis
};

struct Tile { int x, y; unsigned group; };

DEVICE Tile this_tile(const Tiles& s) {
    const unsigned block = blockIdx.x, tiles_x = static_cast<unsigned>(s.tiles_x), tiles_y = static_cast<unsigned>(s.tiles_y);
    const unsigned row = block / tiles_x, group = row / tiles_y;
    return {static_cast<int>(block - row * tiles_x), static_cast<int>(row - group * tiles_y), group};
}
