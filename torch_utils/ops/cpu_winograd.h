// 3×3 convolutions of channels-last float images with fewer multiplications than the definition, by minimal filtering
// (Winograd 1980; Lavin and Gray, arXiv 1509.09308). For 2×2 pixels of the smaller of input and output, they take
//   16 products of channel vectors and weights instead of 36 if the size stays the same, and
//   25 instead of 36 if the convolution halves the size (stride 2) or doubles it (transposed).
//
// Along each axis, a scheme consists of three small matrices: y = A ((B d) · (G g)) for the input pixels d, the weights g
// and the output pixels y of a tile. All coefficients are 0, ±1 or ±1/2, so the result is as accurate as the definition,
// relative to the largest value of the tile. Channels are summed by matrix products, one for each point of a tile.
//
// The gradient of the weights is the adjoint, Gᵀ ((B d) · (Aᵀ dy)) summed over the tiles; the gradient of the pixels is
// again a convolution.
//
// Results are bitwise independent of the number of threads and of the division into blocks.

#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "cpu_memory.h"
#include "cpu_threads.h"
#include "cpu_vectors.h"

// ---------------------------------------------------------------------------------------------------------------------
// Sizes: ROWS × 2 vectors of channels are summed at once, as many as fit in registers

#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers; others have 16
const int ROWS = 14;
#else
const int ROWS = 6;
#endif
const int PANEL = 2 * LANES;           // channels (columns) per matrix product
const int64_t CHANNEL_MULTIPLE = 32;   // numbers of channels must be multiples of this, on every processor

struct Floats {
    explicit Floats(int64_t count)
        : data(static_cast<float*>(operator new(count * sizeof(float), std::align_val_t(LINE)))) {}
    ~Floats() { operator delete(data, std::align_val_t(LINE)); }
    Floats(const Floats&) = delete;
    Floats& operator=(const Floats&) = delete;
    float* const data;
};

// ---------------------------------------------------------------------------------------------------------------------
// Schemes
//
// Along one axis, a tile reads READ pixels, STEP pixels after the previous tile, and computes WRITE pixels from POINTS
// products. `pixels` is B, `weights` is G, `result` is A; functions named `_adjoint` are transposes, for the gradient of
// the weights.

struct Keep {  // y[p] = d[p] g[0] + d[p + 1] g[1] + d[p + 2] g[2]
    static const int POINTS = 4, READ = 4, STEP = 2, WRITE = 2;

    static ADA_INLINE void pixels(const Vec* d, Vec* v) {
        v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
    }
    static ADA_INLINE void weights(const Vec* g, Vec* u) {
        const Vec ends = (g[0] + g[2]) * 0.5f, middle = g[1] * 0.5f;
        u[0] = g[0], u[1] = ends + middle, u[2] = ends - middle, u[3] = g[2];
    }
    static ADA_INLINE void result(const Vec* m, Vec* y) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
    static ADA_INLINE void result_adjoint(const Vec* y, Vec* m) {
        m[0] = y[0], m[1] = y[0] + y[1], m[2] = y[0] - y[1], m[3] = -y[1];
    }
    static ADA_INLINE void weights_adjoint(const Vec* u, Vec* g) {
        const Vec ends = (u[1] + u[2]) * 0.5f;
        g[0] = u[0] + ends, g[1] = (u[1] - u[2]) * 0.5f, g[2] = ends + u[3];
    }
};

struct Halve {  // y[p] = d[2p] g[0] + d[2p + 1] g[1] + d[2p + 2] g[2]: minimal filtering of the even pixels with g[0], g[2]
    static const int POINTS = 5, READ = 5, STEP = 4, WRITE = 2;

    static ADA_INLINE void pixels(const Vec* d, Vec* v) {
        v[0] = d[0] - d[2], v[1] = d[2], v[2] = d[4] - d[2], v[3] = d[1], v[4] = d[3];
    }
    static ADA_INLINE void weights(const Vec* g, Vec* u) { u[0] = g[0], u[1] = g[0] + g[2], u[2] = g[2], u[3] = u[4] = g[1]; }
    static ADA_INLINE void result(const Vec* m, Vec* y) { y[0] = m[0] + m[1] + m[3], y[1] = m[1] + m[2] + m[4]; }
    static ADA_INLINE void result_adjoint(const Vec* y, Vec* m) {
        m[0] = m[3] = y[0], m[1] = y[0] + y[1], m[2] = m[4] = y[1];
    }
    static ADA_INLINE void weights_adjoint(const Vec* u, Vec* g) {
        g[0] = u[0] + u[1], g[1] = u[3] + u[4], g[2] = u[1] + u[2];
    }
};

struct Twice {  // y[2p] = d[p] g[2] + d[p + 1] g[0] and y[2p + 1] = d[p + 1] g[1]; d starts one pixel before the image
    static const int POINTS = 5, READ = 3, STEP = 2, WRITE = 4;

    static ADA_INLINE void pixels(const Vec* d, Vec* v) {
        v[0] = d[0] - d[1], v[1] = v[3] = d[1], v[2] = d[2] - d[1], v[4] = d[2];
    }
    static ADA_INLINE void weights(const Vec* g, Vec* u) { u[0] = g[2], u[1] = g[0] + g[2], u[2] = g[0], u[3] = u[4] = g[1]; }
    static ADA_INLINE void result(const Vec* m, Vec* y) { y[0] = m[0] + m[1], y[1] = m[3], y[2] = m[1] + m[2], y[3] = m[4]; }
};

template <void FUNCTION(const Vec*, Vec*), int IN, int OUT>
static ADA_INLINE void along_both(const Vec (&in)[IN][IN], Vec (&out)[OUT][OUT]) {
    Vec half[OUT][IN];
#pragma GCC unroll 8
    for (int column = 0; column < IN; ++column) {
        Vec before[IN], after[OUT];
#pragma GCC unroll 8
        for (int row = 0; row < IN; ++row) before[row] = in[row][column];
        FUNCTION(before, after);
#pragma GCC unroll 8
        for (int row = 0; row < OUT; ++row) half[row][column] = after[row];
    }
#pragma GCC unroll 8
    for (int row = 0; row < OUT; ++row) FUNCTION(half[row], out[row]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Matrix products: c[r][0 ... PANEL - 1] (+)= sum over i of a[r][i] b[i][0 ... PANEL - 1] for R rows

template <int R, bool TRANSPOSED, bool ADD>  // TRANSPOSED: a[r][i] is at a + i * a_step + r, else at a + r * a_step + i
static void multiply(const float* a, int64_t a_step, const float* b, int64_t b_step, float* c, int64_t c_step, int64_t count) {
    Vec sum[R][2] = {};
    for (int64_t i = 0; i < count; ++i) {
        const Vec left = load(b), right = load(b + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const float factor = TRANSPOSED ? a[r] : a[r * a_step];
            sum[r][0] += factor * left;
            sum[r][1] += factor * right;
        }
        a += TRANSPOSED ? a_step : 1;
        b += b_step;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        store(c + r * c_step, ADD ? load(c + r * c_step) + sum[r][0] : sum[r][0]);
        store(c + r * c_step + LANES, ADD ? load(c + r * c_step + LANES) + sum[r][1] : sum[r][1]);
    }
}

// A product with any number of rows, in groups of equal size that are as large as the registers allow.
template <bool TRANSPOSED, bool ADD> struct MatrixProduct {
    using Function = void (*)(const float*, int64_t, const float*, int64_t, float*, int64_t, int64_t);

    template <int R> static Function of(int64_t rows) {
        if constexpr (R == 1) return multiply<1, TRANSPOSED, ADD>;
        else return rows >= R ? multiply<R, TRANSPOSED, ADD> : of<R - 1>(rows);
    }

    static void run(int64_t rows, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c, int64_t c_step,
                    int64_t count) {
        const int64_t groups = (rows + ROWS - 1) / ROWS, each = (rows + groups - 1) / groups;
        const Function whole = of<ROWS>(each);
        for (int64_t r = 0; r < rows; r += each)
            (r + each <= rows ? whole : of<ROWS>(rows - r))(a + r * (TRANSPOSED ? 1 : a_step), a_step, b, b_step, c + r * c_step,
                                                            c_step, count);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Images as tiles

struct Shape {
    int64_t n, in_h, in_w, in_channels, out_h, out_w, out_channels, pad;
};

// Weights or their gradient, [out, in, 3, 3], with strides in elements; optionally rotated by 180 degrees.
template <class T> struct Kernels {
    T* data;
    int64_t out_step, in_step, y_step, x_step;
    bool rotated;

    T& at(int64_t out, int64_t in, int y, int x) const {
        return data[out * out_step + in * in_step + (rotated ? 2 - y : y) * y_step + (rotated ? 2 - x : x) * x_step];
    }
};

template <class S> struct Tiles {
    static const int POINTS = S::POINTS * S::POINTS;
    const Shape& shape;
    const int64_t rows, columns, count;

    explicit Tiles(const Shape& s)
        : shape(s), rows((s.out_h + S::WRITE - 1) / S::WRITE), columns((s.out_w + S::WRITE - 1) / S::WRITE),
          count(s.n * rows * columns) {}

    int64_t image(int64_t tile) const { return tile / (rows * columns); }
    int64_t row(int64_t tile) const { return tile / columns % rows; }
    int64_t column(int64_t tile) const { return tile % columns; }

    // Find the addresses of the SIZE × SIZE pixels that start at (y, x); pixels outside the image are `zeros`.
    template <int SIZE>
    static ADA_INLINE void find(const float* images, int64_t n, int64_t y, int64_t x, int64_t h, int64_t w, int64_t channels,
                                const float* zeros, const float* (&pixels)[SIZE][SIZE]) {
        for (int r = 0; r < SIZE; ++r)
            for (int c = 0; c < SIZE; ++c) {
                const bool inside = y + r >= 0 && y + r < h && x + c >= 0 && x + c < w;
                pixels[r][c] = inside ? images + ((n * h + y + r) * w + x + c) * channels : zeros;
            }
    }

    template <void FUNCTION(const Vec*, Vec*), int SIZE>
    static ADA_INLINE void transform(const float* const (&pixels)[SIZE][SIZE], int64_t first, int64_t channels, float* out,
                                     int64_t point_step) {
        for (int64_t i = 0; i < channels; i += LANES) {
            Vec in[SIZE][SIZE], points[S::POINTS][S::POINTS];
#pragma GCC unroll 8
            for (int r = 0; r < SIZE; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < SIZE; ++c) in[r][c] = load(pixels[r][c] + first + i);
            along_both<FUNCTION>(in, points);
#pragma GCC unroll 8
            for (int r = 0; r < S::POINTS; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < S::POINTS; ++c) store(out + (r * S::POINTS + c) * point_step + i, points[r][c]);
        }
    }

    // Compute the points of a tile of the input, for `channels` channels starting at `first`.
    void read_input(const float* x, int64_t tile, int64_t first, int64_t channels, const float* zeros, float* out,
                    int64_t point_step) const {
        const float* pixels[S::READ][S::READ];
        find(x, image(tile), row(tile) * S::STEP - shape.pad, column(tile) * S::STEP - shape.pad, shape.in_h, shape.in_w,
             shape.in_channels, zeros, pixels);
        transform<S::pixels>(pixels, first, channels, out, point_step);
    }

    // Compute the points of a tile of the gradient of the output.
    void read_gradient(const float* dy, int64_t tile, int64_t first, int64_t channels, const float* zeros, float* out,
                       int64_t point_step) const {
        const float* pixels[S::WRITE][S::WRITE];
        find(dy, image(tile), row(tile) * S::WRITE, column(tile) * S::WRITE, shape.out_h, shape.out_w, shape.out_channels, zeros,
             pixels);
        transform<S::result_adjoint>(pixels, first, channels, out, point_step);
    }

    // Compute a tile of the output from its points, for `channels` channels starting at `first`.
    template <bool STREAM>
    void write_output(const float* points, int64_t point_step, int64_t tile, int64_t first, int64_t channels, float* y) const {
        const int64_t top = row(tile) * S::WRITE, left = column(tile) * S::WRITE, step = shape.out_channels;
        const int64_t high = std::min<int64_t>(S::WRITE, shape.out_h - top), wide = std::min<int64_t>(S::WRITE, shape.out_w - left);
        float* corner = y + ((image(tile) * shape.out_h + top) * shape.out_w + left) * step + first;
        for (int64_t o = 0; o < channels; o += LANES) {
            Vec in[S::POINTS][S::POINTS], out[S::WRITE][S::WRITE];
#pragma GCC unroll 8
            for (int r = 0; r < S::POINTS; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < S::POINTS; ++c) in[r][c] = load(points + (r * S::POINTS + c) * point_step + o);
            along_both<S::result>(in, out);
#pragma GCC unroll 4
            for (int r = 0; r < S::WRITE; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < S::WRITE; ++c)
                    if (r < high && c < wide) (STREAM ? stream : store)(corner + (r * shape.out_w + c) * step + o, out[r][c]);
        }
    }
};

const int64_t SPREAD = LINE / sizeof(float);  // added to steps that are powers of two, to avoid conflicts in the caches

const int64_t RUNS_PER_THREAD = 8;

// Call work(item, scratch) for each item. Threads process runs of consecutive items, because neighbors share the data that
// they read. Each thread has its own scratch buffer of `scratch_size` floats.
template <class Work> static void in_parallel_with_scratch(int64_t items, int64_t scratch_size, int threads, Work work) {
    const int64_t workers = std::min<int64_t>(threads, items), runs = std::min(items, workers * RUNS_PER_THREAD);
    std::atomic<int64_t> next{0};
    std::atomic<bool> no_memory{false};
    in_parallel(workers, (int)workers, [&](int64_t) {
        try {
            const Floats scratch(scratch_size);
            for (int64_t run = next++; run < runs; run = next++)
                for (int64_t item = items * run / runs; item < items * (run + 1) / runs; ++item) work(item, scratch.data);
        } catch (const std::bad_alloc&) {  // Exceptions must not leave the thread.
            no_memory = true;
        }
    });
    if (no_memory) throw std::bad_alloc();
}

// ---------------------------------------------------------------------------------------------------------------------
// Convolution: V[point][tile][in] times U[point][panel][in][PANEL] is M[point][tile][out]
//
// x is read and y is written once. The smaller one of U and V is computed first, as a whole. The other one is computed in
// blocks that fit in the L2 cache together with their part of M; each block is used before the next one is computed.

const int64_t TILES_AT_ONCE = 28 / ROWS * ROWS;
const int64_t INS_AT_ONCE = 4;  // channels whose weights are gathered at once, as many as a few cache lines hold

// Compute U of one panel, for `ins` channels starting at `first`, as [point][in][PANEL].
template <class S>
static void transform_weights(const Kernels<const float>& weights, int64_t panel, int64_t first, int64_t ins, float* out,
                              int64_t point_step) {
    for (int64_t done = 0; done < ins; done += INS_AT_ONCE) {
        alignas(LINE) float taps_of[INS_AT_ONCE][9][PANEL];
        for (int64_t lane = 0; lane < PANEL; ++lane)
            for (int64_t i = 0; i < INS_AT_ONCE; ++i)
                for (int tap = 0; tap < 9; ++tap)
                    taps_of[i][tap][lane] = weights.at(panel * PANEL + lane, first + done + i, tap / 3, tap % 3);
        for (int64_t i = 0; i < INS_AT_ONCE; ++i)
            for (int half = 0; half < PANEL; half += LANES) {
                Vec taps[3][3], points[S::POINTS][S::POINTS];
                for (int tap = 0; tap < 9; ++tap) taps[tap / 3][tap % 3] = load(taps_of[i][tap] + half);
                along_both<S::weights>(taps, points);
                for (int p = 0; p < Tiles<S>::POINTS; ++p)
                    store(out + p * point_step + (done + i) * PANEL + half, points[p / S::POINTS][p % S::POINTS]);
            }
    }
}

template <class S> struct Convolution {
    static const int POINTS = Tiles<S>::POINTS;
    const float* x;
    const Kernels<const float>& weights;
    float* y;
    const Tiles<S> tiles;
    const int threads;
    const int64_t ins, outs, panels;
    const bool past;
    const Floats zeros;

    Convolution(const float* x, const Kernels<const float>& weights, float* y, const Shape& s, int threads)
        : x(x), weights(weights), y(y), tiles(s), threads(threads), ins(s.in_channels), outs(s.out_channels), panels(outs / PANEL),
          past(past_caches(s.n * s.out_h * s.out_w * outs * (int64_t)sizeof(float)) && is_aligned(y)), zeros(ins) {
        std::fill(zeros.data, zeros.data + ins, 0.0f);
    }

    void write(const float* M, int64_t M_step, int64_t tile, int64_t first, int64_t channels) const {
        if (past) tiles.template write_output<true>(M, M_step, tile, first, channels, y);
        else tiles.template write_output<false>(M, M_step, tile, first, channels, y);
    }

    // For V smaller than U. A thread processes one panel at a time.
    void by_panels() const {
        const int64_t V_step = tiles.count * ins + SPREAD, U_step = ins * PANEL, M_step = TILES_AT_ONCE * PANEL;
        const Floats V(POINTS * V_step);
        in_parallel(tiles.count, threads_for(tiles.count * ins, threads), [&](int64_t tile) {
            tiles.read_input(x, tile, 0, ins, zeros.data, V.data + tile * ins, V_step);
        });
        in_parallel_with_scratch(panels, POINTS * (U_step + M_step), threads, [&](int64_t panel, float* U) {
            float* M = U + POINTS * U_step;
            transform_weights<S>(weights, panel, 0, ins, U, U_step);
            for (int64_t first = 0; first < tiles.count; first += TILES_AT_ONCE) {
                const int64_t count = std::min(TILES_AT_ONCE, tiles.count - first);
                for (int64_t p = 0; p < POINTS; ++p)
                    MatrixProduct<false, false>::run(count, V.data + p * V_step + first * ins, ins, U + p * U_step, PANEL,
                                                     M + p * M_step, PANEL, ins);
                for (int64_t t = 0; t < count; ++t) write(M + t * PANEL, M_step, first + t, panel * PANEL, PANEL);
            }
            if (past) finish_stores();
        });
    }

    // For U smaller than V. A thread processes one block of tiles at a time.
    void by_tiles() const {
        const Floats U(POINTS * ins * outs);
        in_parallel(panels * (ins / CHANNEL_MULTIPLE), threads_for(ins * outs, threads), [&](int64_t item) {
            const int64_t panel = item % panels, first = item / panels * CHANNEL_MULTIPLE;
            transform_weights<S>(weights, panel, first, CHANNEL_MULTIPLE, U.data + (panel * ins + first) * PANEL, ins * outs);
        });
        const int64_t share = (tiles.count + threads - 1) / threads, at_once = std::min(TILES_AT_ONCE, share);
        const int64_t blocks = (tiles.count + at_once - 1) / at_once;
        const int64_t V_step = at_once * ins + SPREAD, M_step = at_once * outs + SPREAD;
        in_parallel_with_scratch(blocks, POINTS * (V_step + M_step), threads, [&](int64_t block, float* V) {
            float* M = V + POINTS * V_step;
            const int64_t first = block * at_once, count = std::min(at_once, tiles.count - first);
            for (int64_t t = 0; t < count; ++t) tiles.read_input(x, first + t, 0, ins, zeros.data, V + t * ins, V_step);
            for (int64_t p = 0; p < POINTS; ++p)
                for (int64_t panel = 0; panel < panels; ++panel)
                    MatrixProduct<false, false>::run(count, V + p * V_step, ins, U.data + (p * panels + panel) * ins * PANEL, PANEL,
                                                     M + p * M_step + panel * PANEL, outs, ins);
            for (int64_t t = 0; t < count; ++t) write(M + t * outs, M_step, first + t, 0, outs);
            if (past) finish_stores();
        });
    }
};

template <class S>
static void convolve(const float* x, const Kernels<const float>& weights, float* y, const Shape& s, int threads) {
    const Convolution<S> convolution(x, weights, y, s, threads);
    if (convolution.tiles.count <= s.out_channels) convolution.by_panels();
    else convolution.by_tiles();
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient of the weights
//
// A thread processes one square of channels at a time, whose sums over the tiles stay in the L2 cache. If there are few
// squares, the tiles are divided as well, into a number of slices that depends on the sizes alone.

const int64_t SQUARE = 128;            // channels
const int64_t TILES_PER_STEP = 32;
const int64_t FEWEST_ITEMS = 32, FEWEST_TILES = 8 * TILES_PER_STEP;  // threads beyond the number of items are idle

template <class S>
static void weight_gradient(const float* x, const float* dy, const Kernels<float>& gradient, const Shape& s, int threads) {
    const Tiles<S> tiles(s);
    const int64_t across = (s.in_channels + SQUARE - 1) / SQUARE, squares = across * ((s.out_channels + SQUARE - 1) / SQUARE);
    const int64_t slices = std::max<int64_t>(1, std::min(FEWEST_ITEMS / squares, tiles.count / FEWEST_TILES));
    const int64_t size = Tiles<S>::POINTS * SQUARE * SQUARE, step = TILES_PER_STEP * SQUARE + SPREAD;
    const Floats sums(slices * squares * size), zeros(std::max(s.in_channels, s.out_channels));
    std::fill(zeros.data, zeros.data + std::max(s.in_channels, s.out_channels), 0.0f);

    in_parallel_with_scratch(slices * squares, 2 * Tiles<S>::POINTS * step, threads, [&](int64_t item, float* V) {
        float *Y = V + Tiles<S>::POINTS * step, *sum = sums.data + item * size;
        const int64_t slice = item / squares, in = item % squares % across * SQUARE, out = item % squares / across * SQUARE;
        const int64_t ins = std::min(SQUARE, s.in_channels - in), outs = std::min(SQUARE, s.out_channels - out);
        std::fill(sum, sum + size, 0.0f);
        const int64_t end = tiles.count * (slice + 1) / slices;
        for (int64_t first = tiles.count * slice / slices; first < end; first += TILES_PER_STEP) {
            const int64_t count = std::min(TILES_PER_STEP, end - first);
            for (int64_t t = 0; t < count; ++t) {
                tiles.read_input(x, first + t, in, ins, zeros.data, V + t * SQUARE, step);
                tiles.read_gradient(dy, first + t, out, outs, zeros.data, Y + t * SQUARE, step);
            }
            for (int64_t p = 0; p < Tiles<S>::POINTS; ++p)
                for (int64_t o = 0; o < outs; o += PANEL)
                    MatrixProduct<true, true>::run(ins, V + p * step, SQUARE, Y + p * step + o, SQUARE, sum + (p * SQUARE) * SQUARE + o,
                                             SQUARE, count);
        }
    });

    in_parallel(s.in_channels, threads, [&](int64_t i) {
        for (int64_t o = 0; o < s.out_channels; o += LANES) {
            Vec points[S::POINTS][S::POINTS] = {}, taps[3][3];
            for (int64_t slice = 0; slice < slices; ++slice) {
                const float* sum = sums.data + (slice * squares + o / SQUARE * across + i / SQUARE) * size +
                                   i % SQUARE * SQUARE + o % SQUARE;
                for (int p = 0; p < Tiles<S>::POINTS; ++p) points[p / S::POINTS][p % S::POINTS] += load(sum + p * SQUARE * SQUARE);
            }
            along_both<S::weights_adjoint>(points, taps);
            for (int r = 0; r < 3; ++r)
                for (int c = 0; c < 3; ++c)
                    for (int lane = 0; lane < LANES; ++lane) gradient.at(o + lane, i, r, c) = taps[r][c][lane];
        }
    });
}
