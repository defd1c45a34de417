// Images between planes [n, channels, h, w] and pixels [n, h + 2 margin, w + 2 margin, channels], scaled by a factor of each
// channel of each image on the way. All are linear maps of floats, and each is the derivative of another:
//   to_pixels   pixels = scale * planes, with zeros in the margin     to_planes   planes = scale * pixels, without the margin
//   products    the sums over each row of planes * pixels, [n, h, channels]
//
// Tiles of LANES pixels of LANES channels are transposed in registers, so that whole cache lines are read and written.
// Memory traffic: each element is read once and written once.

#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "cpu_memory.h"
#include "cpu_threads.h"
#include "cpu_vectors.h"

struct Layouts {
    float *planes, *pixels;
    const float* scale;  // [n, channels]
    int64_t n, channels, h, w, margin;

    int64_t row_of_pixels() const { return (w + 2 * margin) * channels; }
    float* plane_row(int64_t image, int64_t channel, int64_t y) const { return planes + ((image * channels + channel) * h + y) * w; }
    float* pixel_row(int64_t image, int64_t y) const {  // y counts from the upper margin, the result points past the left one
        return pixels + (image * (h + 2 * margin) + y) * row_of_pixels() + margin * channels;
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Tiles

const int TILES = LINE / (4 * LANES);              // that fill a cache line
const int64_t RUN = 128;                           // pixels of a plane that are written at a time
const int64_t SCATTERED_BYTES = int64_t(1) << 22;  // from which on lines that are far apart are better written past the caches

struct Tile {
    Vec rows[LANES];
};

#if defined(__has_builtin) && !defined(ADA_NO_SHUFFLES)
#if __has_builtin(__builtin_shufflevector)
#define ADA_SHUFFLES
#endif
#endif

#if defined(ADA_SHUFFLES)

// Exchange the off-diagonal blocks of S × S elements: in two rows that are S apart, the lanes whose number contains S.
template <int S, int... J> static ADA_INLINE void exchange(Vec& a, Vec& b, std::integer_sequence<int, J...>) {
    const Vec upper = __builtin_shufflevector(a, b, ((J & S) ? LANES + J - S : J)...);
    b = __builtin_shufflevector(a, b, ((J & S) ? LANES + J : J + S)...);
    a = upper;
}

template <int S> static ADA_INLINE void exchange_blocks(Tile& tile) {
    if constexpr (S < LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i)
            if (!(i & S)) exchange<S>(tile.rows[i], tile.rows[i + S], std::make_integer_sequence<int, LANES>());
        exchange_blocks<2 * S>(tile);
    }
}

static ADA_INLINE void transpose(Tile& tile) { exchange_blocks<1>(tile); }

#else

static ADA_INLINE void transpose(Tile& tile) {
    float* values = reinterpret_cast<float*>(tile.rows);
    for (int i = 0; i < LANES; ++i)
        for (int j = 0; j < i; ++j) std::swap(values[i * LANES + j], values[j * LANES + i]);
}

#endif

// Up to LANES rows of up to LANES floats, `step` floats apart; the rest of the tile is zero.
static ADA_INLINE Tile load_tile(const float* from, int64_t step, int64_t rows, int64_t columns) {
    Tile tile = {};
    if (rows == LANES && columns == LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) tile.rows[i] = load(from + i * step);
    } else {
        for (int64_t i = 0; i < rows; ++i) memcpy(&tile.rows[i], from + i * step, columns * sizeof(float));
    }
    return tile;
}

// Store TILES tiles side by side, which fill whole cache lines. `past`: past the caches, where the addresses are aligned.
static ADA_INLINE void store_tiles(const Tile* tiles, float* to, int64_t step, int64_t rows, int64_t columns, bool past) {
    if (columns == TILES * LANES) {
        past = past && reinterpret_cast<intptr_t>(to) % LINE == 0 && step * (int64_t)sizeof(float) % LINE == 0;
        for (int64_t i = 0; i < rows; ++i) {
#pragma GCC unroll 4
            for (int t = 0; t < TILES; ++t) {
                if (past) stream(to + i * step + t * LANES, tiles[t].rows[i]);
                else store(to + i * step + t * LANES, tiles[t].rows[i]);
            }
        }
        return;
    }
    for (int64_t i = 0; i < rows; ++i)
        for (int t = 0; t * LANES < columns; ++t)
            memcpy(to + i * step + t * LANES, &tiles[t].rows[i], std::min<int64_t>(LANES, columns - t * LANES) * sizeof(float));
}

static ADA_INLINE void multiply_rows(Tile& tile, Vec factors) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) tile.rows[i] *= factors;
}

static ADA_INLINE bool is_scattered(int64_t floats) { return floats * (int64_t)sizeof(float) >= SCATTERED_BYTES; }

// Floats up to the next start of a cache line, or those of a whole line.
static ADA_INLINE int64_t columns_to_line(const float* p) {
    return (LINE - reinterpret_cast<intptr_t>(p) % LINE) / (int64_t)sizeof(float);
}

static ADA_INLINE Vec load_some(const float* from, int64_t count) {
    Vec values = {};
    if (count == LANES) values = load(from);
    else memcpy(&values, from, count * sizeof(float));
    return values;
}

// ---------------------------------------------------------------------------------------------------------------------
// Maps

static void to_pixels(const Layouts& a, int threads) {
    const int64_t plane = a.h * a.w, rows = a.h + 2 * a.margin, row = a.row_of_pixels();
    const bool past = is_scattered(a.n * rows * row);
    in_parallel(a.n * rows, threads_for(a.n * rows * row, threads), [&](int64_t item) {
        const int64_t image = item / rows, y = item % rows;
        float* out = a.pixel_row(image, y);
        if (y < a.margin || y >= a.margin + a.h) {
            std::fill_n(out - a.margin * a.channels, row, 0.0f);
            return;
        }
        std::fill_n(out - a.margin * a.channels, a.margin * a.channels, 0.0f);
        std::fill_n(out + a.w * a.channels, a.margin * a.channels, 0.0f);
        for (int64_t c = 0; c < a.channels; c += TILES * LANES) {
            const int64_t channels = std::min<int64_t>(TILES * LANES, a.channels - c);
            for (int64_t x = 0; x < a.w; x += LANES) {
                const int64_t columns = std::min<int64_t>(LANES, a.w - x);
                Tile tiles[TILES];
                for (int t = 0; t * LANES < channels; ++t) {
                    const int64_t first = c + t * LANES, count = std::min<int64_t>(LANES, a.channels - first);
                    tiles[t] = load_tile(a.plane_row(image, first, y - a.margin) + x, plane, count, columns);
                    transpose(tiles[t]);
                    multiply_rows(tiles[t], load_some(a.scale + image * a.channels + first, count));
                }
                store_tiles(tiles, out + x * a.channels + c, a.channels, columns, channels, past);
            }
        }
        if (past) finish_stores();
    });
}

static void to_planes(const Layouts& given, int threads) {
    Layouts a = given;
    if (a.margin == 0) a.w *= a.h, a.h = 1;
    const int64_t plane = a.h * a.w, runs = (a.w + RUN - 1) / RUN;
    const bool past = is_scattered(a.n * plane * a.channels);
    in_parallel(a.n * a.h * runs, threads_for(a.n * plane * a.channels, threads), [&](int64_t item) {
        const int64_t image = item / (a.h * runs), y = item / runs % a.h;
        const int64_t begin = item % runs * RUN, end = std::min(a.w, begin + RUN);
        const float* in = a.pixel_row(image, y + a.margin);
        for (int64_t c = 0; c < a.channels; c += LANES) {
            const int64_t channels = std::min<int64_t>(LANES, a.channels - c);
            const Vec scale = load_some(a.scale + image * a.channels + c, channels);
            float* out = a.plane_row(image, c, y);
            int64_t columns = columns_to_line(out + begin);
            for (int64_t x = begin; x < end; x += columns, columns = TILES * LANES) {
                columns = std::min(columns, end - x);
                Tile tiles[TILES];
                for (int t = 0; t * LANES < columns; ++t) {
                    const int64_t first = x + t * LANES, count = std::min<int64_t>(LANES, columns - t * LANES);
                    tiles[t] = load_tile(in + first * a.channels + c, a.channels, count, channels);
                    multiply_rows(tiles[t], scale);
                    transpose(tiles[t]);
                }
                store_tiles(tiles, out + x, plane, channels, columns, past);
            }
        }
        if (past) finish_stores();
    });
}

// `sums`: [n, h, channels]. The scale is not used.
static void products(const Layouts& a, float* sums, int threads) {
    const int64_t plane = a.h * a.w;
    in_parallel(a.n * a.h, threads_for(a.n * plane * a.channels, threads), [&](int64_t item) {
        const int64_t image = item / a.h, y = item % a.h;
        const float* pixels = a.pixel_row(image, y + a.margin);
        for (int64_t c = 0; c < a.channels; c += LANES) {
            const int64_t channels = std::min<int64_t>(LANES, a.channels - c);
            const float* in = a.plane_row(image, c, y);
            Vec sum[2] = {};
            for (int64_t x = 0; x < a.w; x += LANES) {
                const int64_t columns = std::min<int64_t>(LANES, a.w - x);
                Tile tile = load_tile(in + x, plane, channels, columns);
                transpose(tile);
                const Tile other = load_tile(pixels + x * a.channels + c, a.channels, columns, channels);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i) sum[i % 2] += tile.rows[i] * other.rows[i];
            }
            sum[0] += sum[1];
            memcpy(sums + item * a.channels + c, &sum[0], channels * sizeof(float));
        }
    });
}
