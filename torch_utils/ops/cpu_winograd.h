// 3×3 convolutions of channels-last float images with fewer multiplications than the definition, by minimal filtering
// (Winograd 1980; Lavin and Gray, arXiv 1509.09308). For 2×2 pixels of the smaller of input and output, they take
//   9 products of channel vectors and weights instead of 36 if the size stays the same (16 for small images), and
//   25 instead of 36 if the convolution halves the size (stride 2) or doubles it (transposed).
//
// Along each axis, a scheme (cpu_schemes.h) consists of three small matrices: y = A ((B d) · (G g)) for the input pixels d, the
// weights g and the output pixels y of a tile. Channels are summed by matrix products, one for each point of a tile.
//
// The gradient of the weights is the adjoint, Gᵀ ((B d) · (Aᵀ dy)) summed over the tiles; the gradient of the pixels is
// again a convolution.
//
// Results are bitwise independent of the number of threads and of the division into blocks.

#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "cpu_finish.h"
#include "cpu_matrix.h"
#include "cpu_memory.h"
#include "cpu_schemes.h"
#include "cpu_threads.h"
#include "cpu_vectors.h"

const int64_t CHANNEL_MULTIPLE = 32;  // numbers of channels must be multiples of this, on every processor

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

static ADA_INLINE bool is_zero(Vec v) {
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += v[lane];
    return sum == 0;
}

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

    template <void FUNCTION(const Vec*, Vec*), bool SCALED, int SIZE>
    static ADA_INLINE void transform(const float* const (&pixels)[SIZE][SIZE], const float* scale, int64_t first, int64_t channels,
                                     float* out, int64_t point_step) {
        for (int64_t i = 0; i < channels; i += LANES) {
            Vec in[SIZE][SIZE], points[S::POINTS][S::POINTS];
#pragma GCC unroll 8
            for (int r = 0; r < SIZE; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < SIZE; ++c) {
                    in[r][c] = load(pixels[r][c] + first + i);
                    if (SCALED) in[r][c] *= load(scale + first + i);
                }
            along_both<FUNCTION>(in, points);
#pragma GCC unroll 8
            for (int r = 0; r < S::POINTS; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < S::POINTS; ++c) store(out + (r * S::POINTS + c) * point_step + i, points[r][c]);
        }
    }

    // Compute the points of a tile of the input, for `channels` channels starting at `first`. Channels are multiplied by
    // `scale` [n, in_channels], unless that is null.
    void read_input(const float* x, const float* scale, int64_t tile, int64_t first, int64_t channels, const float* zeros,
                    float* out, int64_t point_step) const {
        const float* pixels[S::READ][S::READ];
        find(x, image(tile), row(tile) * S::STEP - shape.pad, column(tile) * S::STEP - shape.pad, shape.in_h, shape.in_w,
             shape.in_channels, zeros, pixels);
        if (scale) transform<S::pixels, true>(pixels, scale + image(tile) * shape.in_channels, first, channels, out, point_step);
        else transform<S::pixels, false>(pixels, nullptr, first, channels, out, point_step);
    }

    // Compute the points of a tile of the gradient of the output.
    void read_gradient(const float* dy, int64_t tile, int64_t first, int64_t channels, const float* zeros, float* out,
                       int64_t point_step) const {
        const float* pixels[S::WRITE][S::WRITE];
        find(dy, image(tile), row(tile) * S::WRITE, column(tile) * S::WRITE, shape.out_h, shape.out_w, shape.out_channels, zeros,
             pixels);
        transform<S::result_adjoint, false>(pixels, nullptr, first, channels, out, point_step);
    }

    // Compute a tile of the output from its points, for `channels` channels starting at `first`. Return whether everything is
    // finite, for schemes that spread other values.
    template <bool STREAM, bool FINISH>
    bool write_output(const float* points, int64_t point_step, int64_t tile, int64_t first, int64_t channels, float* y,
                      const Finish finish) const {
        const int64_t top = row(tile) * S::WRITE, left = column(tile) * S::WRITE, step = shape.out_channels;
        const int64_t high = std::min<int64_t>(S::WRITE, shape.out_h - top), wide = std::min<int64_t>(S::WRITE, shape.out_w - left);
        float* corner = y + ((image(tile) * shape.out_h + top) * shape.out_w + left) * step + first;
        float noise[S::WRITE][S::WRITE] = {};
        if (FINISH)
            for (int r = 0; r < high; ++r)
                for (int c = 0; c < wide; ++c) noise[r][c] = finish.noise_at(image(tile), (top + r) * shape.out_w + left + c);
        const float *factors = FINISH ? finish.scale_of(image(tile)) + first : nullptr, *biases = FINISH ? finish.bias + first : nullptr;
        // Streamed lines are written as a whole, because a processor combines the parts of a few lines only.
        alignas(LINE) float buffer[STREAM ? S::WRITE : 1][S::WRITE][CHANNEL_MULTIPLE];
        const int64_t some = STREAM ? std::min(CHANNEL_MULTIPLE, channels) : channels;
        const int64_t row_step = STREAM ? S::WRITE * CHANNEL_MULTIPLE : shape.out_w * step, pixel_step = STREAM ? CHANNEL_MULTIPLE : step;
        Vec zero = {};
        for (int64_t start = 0; start < channels; start += some) {
            for (int64_t o = start; o < start + some; o += LANES) {
                Vec in[S::POINTS][S::POINTS], out[S::WRITE][S::WRITE];
#pragma GCC unroll 8
                for (int r = 0; r < S::POINTS; ++r)
#pragma GCC unroll 8
                    for (int c = 0; c < S::POINTS; ++c) in[r][c] = load(points + (r * S::POINTS + c) * point_step + o);
                along_both<S::result>(in, out);
                float* target = STREAM ? buffer[0][0] + (o - start) : corner + o;
#pragma GCC unroll 8
                for (int r = 0; r < S::WRITE; ++r)
#pragma GCC unroll 8
                    for (int c = 0; c < S::WRITE; ++c)
                        if (r < high && c < wide) {
                            if (S::SPREADS) zero += out[r][c] * 0.0f;
                            if (FINISH) out[r][c] = finish(out[r][c], load(factors + o), load(biases + o) + noise[r][c]);
                            store(target + r * row_step + c * pixel_step, out[r][c]);
                        }
            }
            for (int r = 0; STREAM && r < high; ++r)
                for (int c = 0; c < wide; ++c)
                    for (int64_t o = 0; o < some; o += LANES)
                        stream(corner + (r * shape.out_w + c) * step + start + o, load(buffer[r][c] + o));
        }
        return !S::SPREADS || is_zero(zero);
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
// blocks; each block is used before the next one is computed. Blocks of V fit in the L2 cache together with their part of M,
// unless U exceeds the caches: then larger blocks are faster, because each block reads all of U.

const int64_t TILES_AT_ONCE = 36 / ROWS * ROWS, TILES_AT_ONCE_PAST_CACHES = 3 * TILES_AT_ONCE;
const int64_t CACHED_BYTES_OF_U = 16 << 20;
const int64_t INS_PER_BLOCK = 64;
const int64_t PRODUCT_DEPTH = 256;  // channels summed by one product, whose part of U fits in the L1 cache
const int64_t MOST_TILES_BY_PANELS = 128;
const int64_t INS_AT_ONCE = 4;  // channels whose weights are gathered at once, as many as a few cache lines hold

const int64_t GATHERED = 8;     // output channels whose weights are gathered by one call
const int64_t PREFETCHED = 16;  // input channels between the weights in use and those that are prefetched

// Write the taps of GATHERED output channels as [9][PANEL].
static ADA_INLINE void gather_taps(const Kernels<const float>& weights, int64_t out, int64_t in, float* taps) {
#if defined(__AVX__)
    if (weights.x_step == 1 && weights.y_step == 3) {  // Transpose two blocks of 8 channels × 4 taps; the last tap remains.
        const float* from = weights.data + out * weights.out_step + in * weights.in_step;
        const int64_t step = weights.out_step;
        const int first = weights.rotated ? 8 : 0, next = weights.rotated ? -PANEL : PANEL;
        taps += first * PANEL;
        for (int lane = 0; lane < GATHERED; ++lane) {
            taps[8 * next + lane] = from[lane * step + 8];
            __builtin_prefetch(from + lane * step + PREFETCHED * weights.in_step);
        }
        for (int tap = 0; tap < 8; tap += 4) {
            __m256 pair[4];
#pragma GCC unroll 8
            for (int row = 0; row < 4; ++row)
                pair[row] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + row * step + tap)),
                                                 _mm_loadu_ps(from + (row + 4) * step + tap), 1);
            const __m256 low = _mm256_unpacklo_ps(pair[0], pair[1]), high = _mm256_unpackhi_ps(pair[0], pair[1]);
            const __m256 low2 = _mm256_unpacklo_ps(pair[2], pair[3]), high2 = _mm256_unpackhi_ps(pair[2], pair[3]);
            _mm256_storeu_ps(taps + tap * next, _mm256_shuffle_ps(low, low2, 0x44));
            _mm256_storeu_ps(taps + (tap + 1) * next, _mm256_shuffle_ps(low, low2, 0xEE));
            _mm256_storeu_ps(taps + (tap + 2) * next, _mm256_shuffle_ps(high, high2, 0x44));
            _mm256_storeu_ps(taps + (tap + 3) * next, _mm256_shuffle_ps(high, high2, 0xEE));
        }
        return;
    }
#endif
    for (int lane = 0; lane < GATHERED; ++lane)
        for (int tap = 0; tap < 9; ++tap) taps[tap * PANEL + lane] = weights.at(out + lane, in, tap / 3, tap % 3);
}

// Compute U of one panel, for `ins` channels starting at `first`, as [point][in][PANEL].
template <class S>
static void transform_weights(const Kernels<const float>& weights, int64_t panel, int64_t first, int64_t ins, float* out,
                              int64_t point_step) {
    for (int64_t done = 0; done < ins; done += INS_AT_ONCE) {
        alignas(LINE) float taps_of[INS_AT_ONCE][9][PANEL];
        for (int64_t lane = 0; lane < PANEL; lane += GATHERED)
            for (int64_t i = 0; i < INS_AT_ONCE; ++i)
                gather_taps(weights, panel * PANEL + lane, first + done + i, taps_of[i][0] + lane);
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
    const float* styles;   // [n, in], factors of x, or null
    const Finish* finish;  // or null
    const int threads;
    const int64_t ins, outs, panels;
    const bool past;
    const Floats zeros;
    mutable std::atomic<bool> finite{true};

    Convolution(const float* x, const Kernels<const float>& weights, float* y, const Shape& s, const float* styles,
                const Finish* finish, int threads)
        : x(x), weights(weights), y(y), tiles(s), styles(styles), finish(finish), threads(threads), ins(s.in_channels), outs(s.out_channels), panels(outs / PANEL),
          past(past_caches(s.n * s.out_h * s.out_w * outs * (int64_t)sizeof(float)) && is_aligned(y)), zeros(ins) {
        std::fill(zeros.data, zeros.data + ins, 0.0f);
    }

    void write(const float* M, int64_t M_step, int64_t tile, int64_t first, int64_t channels) const {
        const auto function = finish ? (past ? &Tiles<S>::template write_output<true, true> : &Tiles<S>::template write_output<false, true>)
                                     : (past ? &Tiles<S>::template write_output<true, false> : &Tiles<S>::template write_output<false, false>);
        if (!(tiles.*function)(M, M_step, tile, first, channels, y, finish ? *finish : Finish())) finite = false;
    }

    // For V smaller than U. A thread processes one panel at a time, and sums over blocks of channels, so that each block of U
    // is used while it is in the L2 cache. V is [point][block][tile][in].
    void by_panels() const {
        const int64_t count = tiles.count;
        const int64_t V_step = count * ins + SPREAD, U_step = INS_PER_BLOCK * PANEL + SPREAD, M_step = count * PANEL + SPREAD;
        const Floats V(POINTS * V_step);
        in_parallel(count, threads_for(count * ins, threads), [&](int64_t tile) {
            for (int64_t first = 0; first < ins; first += INS_PER_BLOCK) {
                const int64_t some = std::min(INS_PER_BLOCK, ins - first);
                tiles.read_input(x, styles, tile, first, some, zeros.data, V.data + first * count + tile * some, V_step);
            }
        });
        in_parallel_with_scratch(panels, POINTS * (U_step + M_step), threads, [&](int64_t panel, float* U) {
            float* M = U + POINTS * U_step;
            for (int64_t first = 0; first < ins; first += INS_PER_BLOCK) {
                const int64_t some = std::min(INS_PER_BLOCK, ins - first);
                const auto multiply_all = first == 0 ? MatrixProduct<false, false>::run : MatrixProduct<false, true>::run;
                transform_weights<S>(weights, panel, first, some, U, U_step);
                for (int64_t p = 0; p < POINTS; ++p)
                    multiply_all(count, V.data + p * V_step + first * count, some, U + p * U_step, PANEL, M + p * M_step, PANEL, some);
            }
            for (int64_t tile = 0; tile < count; ++tile) write(M + tile * PANEL, M_step, tile, panel * PANEL, PANEL);
            if (past) finish_stores();
        });
    }

    // For U smaller than V. A thread processes one block of tiles at a time.
    void by_tiles() const {
        const int64_t U_step = ins * outs + SPREAD;
        const Floats U(POINTS * U_step);
        in_parallel(panels * (ins / CHANNEL_MULTIPLE), threads_for(ins * outs, threads), [&](int64_t item) {
            const int64_t panel = item % panels, first = item / panels * CHANNEL_MULTIPLE;
            transform_weights<S>(weights, panel, first, CHANNEL_MULTIPLE, U.data + (panel * ins + first) * PANEL, U_step);
        });
        const bool cached = POINTS * U_step * (int64_t)sizeof(float) <= CACHED_BYTES_OF_U;
        const int64_t share = (tiles.count + threads - 1) / threads;
        const int64_t at_once = std::min(cached ? TILES_AT_ONCE : TILES_AT_ONCE_PAST_CACHES, share);
        const int64_t blocks = (tiles.count + at_once - 1) / at_once;
        const int64_t V_step = at_once * ins + SPREAD, M_step = at_once * outs + SPREAD;
        in_parallel_with_scratch(blocks, POINTS * (V_step + M_step), threads, [&](int64_t block, float* V) {
            float* M = V + POINTS * V_step;
            const int64_t first = block * at_once, count = std::min(at_once, tiles.count - first);
            for (int64_t t = 0; t < count; ++t) tiles.read_input(x, styles, first + t, 0, ins, zeros.data, V + t * ins, V_step);
            for (int64_t p = 0; p < POINTS; ++p)
                for (int64_t panel = 0; panel < panels; ++panel)
                    for (int64_t in = 0; in < ins; in += PRODUCT_DEPTH) {
                        const int64_t some = std::min(PRODUCT_DEPTH, ins - in);
                        const auto product = in == 0 ? MatrixProduct<false, false>::run : MatrixProduct<false, true>::run;
                        product(count, V + p * V_step + in, ins, U.data + p * U_step + (panel * ins + in) * PANEL, PANEL,
                                M + p * M_step + panel * PANEL, outs, some);
                    }
            for (int64_t t = 0; t < count; ++t) write(M + t * outs, M_step, first + t, 0, outs);
            if (past) finish_stores();
        });
    }
};

// Return whether the result is right, which it may not be if it is not finite.
template <class S>
static bool convolve(const float* x, const Kernels<const float>& weights, float* y, const Shape& s, const float* styles,
                     const Finish* finish, int threads) {
    const Convolution<S> convolution(x, weights, y, s, styles, finish, threads);
    const int64_t tiles = convolution.tiles.count;
    if (tiles <= MOST_TILES_BY_PANELS && tiles <= s.out_channels) convolution.by_panels();
    else convolution.by_tiles();
    return convolution.finite;
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient of the weights
//
// The tiles are processed in strips. For each strip, V and Y (the points of the input and of the gradient of the output) are
// computed once, as [point][panel][tile][PANEL]; then their products over the tiles are added to the sums, which are
// [point][panel of inputs][panel of outputs][PANEL][PANEL].

const int64_t TILES_PER_STRIP = 256;
const int64_t TILES_PER_RUN = 8;       // neighbors, which share pixels and fill lines of V next to one another
const int64_t PANELS_PER_BLOCK = 128 / PANEL;

// Return whether the result is right, which it may not be if it is not finite.
template <class S>
static bool weight_gradient(const float* x, const float* dy, const Kernels<float>& gradient, const Shape& s, int threads) {
    const Tiles<S> tiles(s);
    const int64_t POINTS = Tiles<S>::POINTS, across = s.in_channels / PANEL, down = s.out_channels / PANEL;
    const int64_t most = std::min(TILES_PER_STRIP, tiles.count), strip = most * PANEL;
    const int64_t V_step = across * strip + SPREAD, Y_step = down * strip + SPREAD, block = PANEL * PANEL;
    const int64_t in_blocks = (across + PANELS_PER_BLOCK - 1) / PANELS_PER_BLOCK;
    const Floats V(POINTS * V_step), Y(POINTS * Y_step), sums(POINTS * across * down * block);
    const Floats zeros(std::max(s.in_channels, s.out_channels));
    std::fill(zeros.data, zeros.data + std::max(s.in_channels, s.out_channels), 0.0f);

    for (int64_t first = 0; first < tiles.count; first += most) {
        const int64_t count = std::min(most, tiles.count - first), runs = (count + TILES_PER_RUN - 1) / TILES_PER_RUN;
        in_parallel(2 * runs, threads_for(count * (s.in_channels + s.out_channels), threads), [&](int64_t item) {
            const int64_t start = item / 2 * TILES_PER_RUN, end = std::min(count, start + TILES_PER_RUN);
            const bool of_input = item % 2 == 0;
            for (int64_t panel = 0; panel < (of_input ? across : down); ++panel)
                for (int64_t t = start; t < end; ++t) {
                    const int64_t target = panel * strip + t * PANEL;
                    if (of_input) tiles.read_input(x, nullptr, first + t, panel * PANEL, PANEL, zeros.data, V.data + target, V_step);
                    else tiles.read_gradient(dy, first + t, panel * PANEL, PANEL, zeros.data, Y.data + target, Y_step);
                }
        });
        const auto multiply_all = first == 0 ? MatrixProduct<true, false>::run : MatrixProduct<true, true>::run;
        in_parallel(POINTS * in_blocks, threads, [&](int64_t item) {
            const int64_t p = item / in_blocks, start = item % in_blocks * PANELS_PER_BLOCK;
            const int64_t end = std::min(across, start + PANELS_PER_BLOCK);
            for (int64_t out = 0; out < down; ++out)
                for (int64_t in = start; in < end; ++in)
                    multiply_all(PANEL, V.data + p * V_step + in * strip, PANEL, Y.data + p * Y_step + out * strip, PANEL,
                                 sums.data + ((p * across + in) * down + out) * block, PANEL, count);
        });
    }

    std::atomic<bool> finite{true};
    in_parallel(s.in_channels, threads, [&](int64_t i) {
        Vec zero = {};
        for (int64_t o = 0; o < s.out_channels; o += LANES) {
            const float* sum = sums.data + (i / PANEL * down + o / PANEL) * block + i % PANEL * PANEL + o % PANEL;
            Vec points[S::POINTS][S::POINTS], taps[3][3];
            for (int p = 0; p < POINTS; ++p) points[p / S::POINTS][p % S::POINTS] = load(sum + p * across * down * block);
            along_both<S::weights_adjoint>(points, taps);
            for (int r = 0; r < 3; ++r)
                for (int c = 0; c < 3; ++c) {
                    if (S::SPREADS) zero += taps[r][c] * 0.0f;
                    for (int lane = 0; lane < LANES; ++lane) gradient.at(o + lane, i, r, c) = taps[r][c][lane];
                }
        }
        if (!is_zero(zero)) finite = false;
    });
    return finite;
}

// ---------------------------------------------------------------------------------------------------------------------
// The choice between two schemes for the same convolution

const int64_t FEWEST_LARGE_TILES = 16;

template <class LARGE, class SMALL> static bool large_tiles_pay(const Shape& s) {
    const int64_t large = Tiles<LARGE>(s).count, small = Tiles<SMALL>(s).count;
    return large >= FEWEST_LARGE_TILES && 4 * large * Tiles<LARGE>::POINTS <= 3 * small * Tiles<SMALL>::POINTS;
}

template <class LARGE, class SMALL>
static void convolve_by(const float* x, const Kernels<const float>& weights, float* y, const Shape& s, const float* styles,
                        const Finish* finish, int threads) {
    if (large_tiles_pay<LARGE, SMALL>(s) && convolve<LARGE>(x, weights, y, s, styles, finish, threads)) return;
    convolve<SMALL>(x, weights, y, s, styles, finish, threads);
}

template <class LARGE, class SMALL>
static void weight_gradient_by(const float* x, const float* dy, const Kernels<float>& gradient, const Shape& s, int threads) {
    if (large_tiles_pay<LARGE, SMALL>(s) && weight_gradient<LARGE>(x, dy, gradient, s, threads)) return;
    weight_gradient<SMALL>(x, dy, gradient, s, threads);
}
