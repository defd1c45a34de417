// Products of small matrices of floats, with one operand packed in panels of PANEL columns.

#pragma once

#include <stdint.h>

#include <new>

#include "cpu_memory.h"
#include "cpu_vectors.h"

// ROWS × 2 vectors are summed at once, as many as fit in registers.
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers; others have 16
const int ROWS = 14;
#else
const int ROWS = 6;
#endif
const int PANEL = 2 * LANES;  // columns per product

struct Floats {
    explicit Floats(int64_t count)
        : data(static_cast<float*>(operator new(count * sizeof(float), std::align_val_t(LINE)))) {}
    ~Floats() { operator delete(data, std::align_val_t(LINE)); }
    Floats(const Floats&) = delete;
    Floats& operator=(const Floats&) = delete;
    float* const data;
};

// c[r][0 ... PANEL - 1] (+)= sum over i of a[r][i] b[i][0 ... PANEL - 1] for R rows

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

// A product with any number of rows, in groups as large as the registers allow and as equal as possible.
template <bool TRANSPOSED, bool ADD> struct MatrixProduct {
    using Function = void (*)(const float*, int64_t, const float*, int64_t, float*, int64_t, int64_t);

    template <int R> static Function of(int64_t rows) {
        if constexpr (R == 1) return multiply<1, TRANSPOSED, ADD>;
        else return rows >= R ? multiply<R, TRANSPOSED, ADD> : of<R - 1>(rows);
    }

    static void run(int64_t rows, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c, int64_t c_step,
                    int64_t count) {
        const int64_t groups = (rows + ROWS - 1) / ROWS;
        for (int64_t group = 0; group < groups; ++group) {
            const int64_t r = rows * group / groups, some = rows * (group + 1) / groups - r;
            of<ROWS>(some)(a + r * (TRANSPOSED ? 1 : a_step), a_step, b, b_step, c + r * c_step, c_step, count);
        }
    }
};
