// Schemes of minimal filtering (Winograd 1980) for 3×3 convolutions; see cpu_winograd.h.
//
// A scheme SPREADS if NaN or infinity in one pixel of a tile affects pixels that do not depend on it.
//
// Along one axis, a tile reads READ pixels, STEP pixels after the previous tile, and computes WRITE pixels from POINTS
// products. `pixels` is B, `weights` is G, `result` is A; functions named `_adjoint` are transposes, for the gradient of
// the weights.

#pragma once

#include "cpu_vectors.h"

struct Keep {  // y[p] = d[p] g[0] + d[p + 1] g[1] + d[p + 2] g[2]
    static const bool SPREADS = false;
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

// Four pixels at once, from the values of polynomials at 0, ±NEAR, ±FAR and infinity. With these numbers, whose product is 1,
// rounding errors are small: about 1.7 times those of the definition.
struct KeepFour {
    static const bool SPREADS = true;
    static const int POINTS = 6, READ = 6, STEP = 4, WRITE = 4;
    static constexpr float NEAR = 2 / 3.0f, FAR = 3 / 2.0f, NEAR2 = NEAR * NEAR, FAR2 = FAR * FAR, SUM2 = NEAR2 + FAR2;
    static constexpr float NEAR3 = NEAR2 * NEAR, FAR3 = FAR2 * FAR;
    static constexpr float NEAR_FACTOR = 1 / (2 * NEAR2 * (NEAR2 - FAR2)), FAR_FACTOR = 1 / (2 * FAR2 * (FAR2 - NEAR2));

    static ADA_INLINE void pixels(const Vec* d, Vec* v) {
        const Vec near_even = d[4] - d[2] * FAR2, near_odd = d[3] - d[1] * FAR2;
        const Vec far_even = d[4] - d[2] * NEAR2, far_odd = d[3] - d[1] * NEAR2;
        v[0] = d[0] + d[4] - d[2] * SUM2, v[5] = d[1] + d[5] - d[3] * SUM2;
        v[1] = near_even + near_odd * NEAR, v[2] = near_even - near_odd * NEAR;
        v[3] = far_even + far_odd * FAR, v[4] = far_even - far_odd * FAR;
    }
    static ADA_INLINE void weights(const Vec* g, Vec* u) {
        const Vec near_even = g[0] * NEAR_FACTOR + g[2] * (NEAR_FACTOR * NEAR2), near_odd = g[1] * (NEAR_FACTOR * NEAR);
        const Vec far_even = g[0] * FAR_FACTOR + g[2] * (FAR_FACTOR * FAR2), far_odd = g[1] * (FAR_FACTOR * FAR);
        u[0] = g[0], u[1] = near_even + near_odd, u[2] = near_even - near_odd;
        u[3] = far_even + far_odd, u[4] = far_even - far_odd, u[5] = g[2];
    }
    static ADA_INLINE void result(const Vec* m, Vec* y) {
        const Vec near_even = m[1] + m[2], near_odd = m[1] - m[2], far_even = m[3] + m[4], far_odd = m[3] - m[4];
        y[0] = m[0] + near_even + far_even, y[1] = near_odd * NEAR + far_odd * FAR;
        y[2] = near_even * NEAR2 + far_even * FAR2, y[3] = near_odd * NEAR3 + far_odd * FAR3 + m[5];
    }
    static ADA_INLINE void result_adjoint(const Vec* y, Vec* m) {
        const Vec near_even = y[0] + y[2] * NEAR2, near_odd = y[1] * NEAR + y[3] * NEAR3;
        const Vec far_even = y[0] + y[2] * FAR2, far_odd = y[1] * FAR + y[3] * FAR3;
        m[0] = y[0], m[1] = near_even + near_odd, m[2] = near_even - near_odd;
        m[3] = far_even + far_odd, m[4] = far_even - far_odd, m[5] = y[3];
    }
    static ADA_INLINE void weights_adjoint(const Vec* u, Vec* g) {
        const Vec near_even = (u[1] + u[2]) * NEAR_FACTOR, near_odd = (u[1] - u[2]) * (NEAR_FACTOR * NEAR);
        const Vec far_even = (u[3] + u[4]) * FAR_FACTOR, far_odd = (u[3] - u[4]) * (FAR_FACTOR * FAR);
        g[0] = u[0] + near_even + far_even, g[1] = near_odd + far_odd;
        g[2] = near_even * NEAR2 + far_even * FAR2 + u[5];
    }
};

struct Halve {  // y[p] = d[2p] g[0] + d[2p + 1] g[1] + d[2p + 2] g[2]: minimal filtering of the even pixels with g[0], g[2]
    static const bool SPREADS = false;
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
    static const bool SPREADS = false;
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
