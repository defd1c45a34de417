// Activation functions with their first and second derivatives, shared by the CPU and GPU kernels.
//
// z is the input of a function and u = act(z) its output. Derivatives are expressed in terms of u wherever possible, so
// a backward pass reads one tensor only; those of swish are expressed in terms of z. `alpha` is the slope of lrelu for
// negative inputs and must be at least 0. Comparisons treat NaN as PyTorch's own operators do.

#pragma once

#ifndef __CUDACC_RTC__  // NVRTC has no headers; these functions are built in.
#include <math.h>
#endif

#ifndef ADA_HD
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define ADA_HD __host__ __device__ __forceinline__
#else
#define ADA_HD static inline __attribute__((always_inline))
#endif
#endif

// In the order of bias_act.activation_funcs.
enum Activation { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

// Klambauer et al., arXiv 1706.02515: with these constants, mean 0 and variance 1 are a fixed point.
#define SELU_SCALE 1.0507009873554804934193349852946
#define SELU_ALPHA 1.6732632423543772848170429916717
#define SOFTPLUS_LINEAR_FROM 20  // PyTorch's threshold, above which softplus is the identity.

template <class T> ADA_HD T logistic(T z) { return T(1) / (T(1) + exp(-z)); }

template <int ACT, class T> ADA_HD T activate(T z, T alpha) {
    if constexpr (ACT == RELU) return z <= T(0) ? T(0) : z;
    if constexpr (ACT == LRELU) return z > T(0) ? z : z * alpha;
    if constexpr (ACT == TANH) return tanh(z);
    if constexpr (ACT == SIGMOID) return logistic(z);
    if constexpr (ACT == ELU) return z <= T(0) ? expm1(z) : z;
    if constexpr (ACT == SELU) return z <= T(0) ? T(SELU_SCALE * SELU_ALPHA) * expm1(z) : T(SELU_SCALE) * z;
    if constexpr (ACT == SOFTPLUS) return z > T(SOFTPLUS_LINEAR_FROM) ? z : log1p(exp(z));
    if constexpr (ACT == SWISH) return logistic(z) * z;
    return z;
}

// du / dz.
template <int ACT, class T> ADA_HD T slope_of(T z, T u, T alpha) {
    if constexpr (ACT == RELU) return u <= T(0) ? T(0) : T(1);
    if constexpr (ACT == LRELU) return u > T(0) ? T(1) : alpha;
    if constexpr (ACT == TANH) return T(1) - u * u;
    if constexpr (ACT == SIGMOID) return u * (T(1) - u);
    if constexpr (ACT == ELU) return u <= T(0) ? u + T(1) : T(1);
    if constexpr (ACT == SELU) return u <= T(0) ? u + T(SELU_SCALE * SELU_ALPHA) : T(SELU_SCALE);
    if constexpr (ACT == SOFTPLUS) return -expm1(-u);
    if constexpr (ACT == SWISH) {
        const T s = logistic(z);
        return s + z * s * (T(1) - s);
    }
    return T(1);
}

// d²u / dz².
template <int ACT, class T> ADA_HD T curvature_of(T z, T u, T) {
    if constexpr (ACT == TANH) return T(-2) * u * (T(1) - u * u);
    if constexpr (ACT == SIGMOID) return u * (T(1) - u) * (T(1) - T(2) * u);
    if constexpr (ACT == ELU) return u <= T(0) ? u + T(1) : T(0);
    if constexpr (ACT == SELU) return u <= T(0) ? u + T(SELU_SCALE * SELU_ALPHA) : T(0);
    if constexpr (ACT == SOFTPLUS) {
        const T rest = exp(-u);
        return rest * (T(1) - rest);
    }
    if constexpr (ACT == SWISH) {
        const T s = logistic(z);
        return s * (T(1) - s) * (T(2) + z * (T(1) - T(2) * s));
    }
    return T(0);
}

// Clamp to [-limit, +limit]; NaN remains NaN.
template <class T> ADA_HD T clamp_to(T value, T limit) {
    return value < -limit ? -limit : value > limit ? limit : value;
}
