// The CPU kernels as a library with a C interface, for ctypes. Requires a C++17 compiler and nothing else.
//
// `type` is 0 for float and 1 for double. Pointers, sizes and strides (in elements) are those of PyTorch tensors.

#include <exception>
#include <limits>

#include "cpu_bias_act.h"
#include "cpu_filtered_lrelu.h"
#include "cpu_layouts.h"
#include "cpu_resample.h"
#include "cpu_winograd.h"

namespace {

template <class T>
void bias_act_as(void* out, const void* in, const void* reference, const void* direction, const void* bias, double* bias_gradient,
                 int64_t count, int64_t bias_stride, int64_t bias_size, int act, int order, double alpha, double gain, double clamp,
                 int threads) {
    const BiasAct<T> args = {static_cast<T*>(out), static_cast<const T*>(in), static_cast<const T*>(reference),
                             static_cast<const T*>(direction), static_cast<const T*>(bias), bias_gradient, count, bias_stride,
                             bias_size, T(alpha), T(gain), T(clamp)};
    bias_act(args, run_of<T>(act, order), threads);
}

template <class T>
void upfirdn2d_as(const void* in, void* out, bool channels_last, const int64_t* in_strides, const int64_t* out_strides, int64_t n,
                  int64_t c, const Axis& x, const Axis& y, const std::vector<double>& kernel, double tolerance, const Finish* finish,
                  int threads) {
    const Resample<T> args = {static_cast<const T*>(in), static_cast<T*>(out), n, c, in_strides[0], in_strides[1], in_strides[2],
                              out_strides[0], out_strides[1], out_strides[2], channels_last, x, y, finish};
    resample(args, kernel, tolerance, threads);
}

template <class T> LreluFilter<T> lrelu_filter(const double* values, int64_t taps, bool separable, double gain) {
    LreluFilter<T> filter = {taps, separable, {}, separable ? T(gain) : T(1)};
    for (int64_t k = 0; k < (separable ? taps : taps * taps); ++k) filter.values.push_back(T(separable ? values[k] : values[k] * gain));
    return filter;
}

LreluAxis lrelu_axis(const int64_t* g) { return {g[0], g[1], g[2], g[3], g[4], g[5], g[6]}; }

template <class T>
void filtered_lrelu_as(const void* x, const void* bias, void* y, void* mask, const int64_t* g, const double* filter_up,
                       const double* filter_down, double gain_up, double gain, double slope, double clamp, int threads) {
    const FilteredLrelu<T> args = {static_cast<const T*>(x), static_cast<const T*>(bias), static_cast<T*>(y), static_cast<uint8_t*>(mask),
                                   g[1], g[2], lrelu_axis(g + 7), lrelu_axis(g + 14), lrelu_filter<T>(filter_up, g[3], g[4] != 0, gain_up),
                                   lrelu_filter<T>(filter_down, g[5], g[6] != 0, 1), LreluMode(g[0]), T(gain), T(slope), T(clamp)};
    filtered_lrelu(args, threads);
}

Shape shape_of(const int64_t* s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]}; }

template <class T> Kernels<T> kernels_of(T* data, const int64_t* s) { return {data, s[0], s[1], s[2], s[3], s[4] != 0}; }

}  // namespace

extern "C" {

// Each function returns 0, or 1 if it runs out of memory.

int ada_bias_act(int type, void* out, const void* in, const void* reference, const void* direction, const void* bias,
                 double* bias_gradient, int64_t count, int64_t bias_stride, int64_t bias_size, int act, int order, double alpha,
                 double gain, double clamp, int threads) {
    try {
        (type ? bias_act_as<double> : bias_act_as<float>)(out, in, reference, direction, bias, bias_gradient, count, bias_stride,
                                                           bias_size, act, order, alpha, gain, clamp, threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

// `layout`: channels_last, then the strides along n, c and h of the input and of the output. `geometry`: n, c, then up,
// down, pad, taps, in and out, first for x, then for y. The filter is [y.taps, x.taps] or, if `separable`, one vector
// that is used for both axes. With `reverse`, it is reversed, as for a convolution. `finish` may be null.
int ada_upfirdn2d(int type, const void* in, void* out, const int64_t* layout, const int64_t* geometry, const void* filter,
                  int filter_type, int separable, int reverse, double gain, const Finish* finish, int threads) {
    try {
        const int64_t* g = geometry;
        const Axis x = {g[2], g[3], g[4], g[5], g[6], g[7]}, y = {g[8], g[9], g[10], g[11], g[12], g[13]};
        const int64_t size = separable ? x.taps : x.taps * y.taps;
        std::vector<double> taps(size);
        for (int64_t k = 0; k < size; ++k) {
            const int64_t from = reverse ? size - 1 - k : k;
            taps[k] = filter_type ? static_cast<const double*>(filter)[from] : static_cast<const float*>(filter)[from];
        }
        std::vector<double> kernel(x.taps * y.taps);
        for (int64_t r = 0; r < y.taps; ++r)
            for (int64_t k = 0; k < x.taps; ++k)
                kernel[r * x.taps + k] = gain * (separable ? taps[r] * taps[k] : taps[r * x.taps + k]);
        const double tolerance = 4 * (filter_type ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon());
        (type ? upfirdn2d_as<double> : upfirdn2d_as<float>)(in, out, layout[0] != 0, layout + 1, layout + 4, g[0], g[1], x, y, kernel,
                                                             tolerance, finish, threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

// Contiguous tensors. `geometry`: mode, planes, channels, then taps and whether the filter is separable for both filters, then
// up, down, pad, offset, in, out and mid, first for x, then for y. Filters are correlation kernels. `gain_up` is that of the
// upsampling along both axes together, `gain` that of the activation.
int ada_filtered_lrelu(int type, const void* x, const void* bias, void* y, void* mask, const int64_t* geometry, const double* filter_up,
                       const double* filter_down, double gain_up, double gain, double slope, double clamp, int threads) {
    try {
        (type ? filtered_lrelu_as<double> : filtered_lrelu_as<float>)(x, bias, y, mask, geometry, filter_up, filter_down, gain_up, gain,
                                                                       slope, clamp, threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

// Floats only, channels last. `scheme` is 0 if the size stays the same, 1 if it halves, 2 if it doubles. `shape`: n, in_h, in_w, in_channels,
// out_h, out_w, out_channels, pad. `weight_layout`: strides along out, in, y and x; whether the weights are rotated by
// 180 degrees. x is multiplied by `styles` [n, in_channels] first, unless they are null; `finish` may be null.
int ada_conv3x3(int scheme, const float* x, const float* weights, float* y, const int64_t* shape, const int64_t* weight_layout,
                const float* styles, const Finish* finish, int threads) {
    try {
        const auto run = scheme == 0 ? convolve_by<KeepFour, Keep> : scheme == 1 ? convolve_by<Halve, Halve> : convolve_by<Twice, Twice>;
        run(x, kernels_of(weights, weight_layout), y, shape_of(shape), styles, finish, threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

int ada_conv3x3_weight_gradient(int scheme, const float* x, const float* dy, float* gradient, const int64_t* shape,
                                const int64_t* weight_layout, int threads) {
    try {
        (scheme == 0 ? weight_gradient_by<KeepFour, Keep> : weight_gradient_by<Halve, Halve>)(
            x, dy, kernels_of(gradient, weight_layout), shape_of(shape), threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

// Sums of the squares of nine consecutive weights each.
int ada_energy(const float* weights, float* energy, int64_t count, int threads) {
    in_parallel(ceil_div(count, WORTH_A_THREAD), threads_for(9 * count, threads), [&](int64_t item) {
        for (int64_t k = item * WORTH_A_THREAD; k < std::min(count, (item + 1) * WORTH_A_THREAD); ++k) {
            float sum = 0;
            for (int tap = 0; tap < 9; ++tap) sum += weights[9 * k + tap] * weights[9 * k + tap];
            energy[k] = sum;
        }
    });
    return 0;
}

// `shape`: n, channels, h, w, margin. `map`: 0 from planes to pixels, 1 from pixels to planes, 2 products, which are written to
// `sums`; the others need `scale` instead. See cpu_layouts.h.
int ada_layouts(int map, float* planes, float* pixels, const float* scale, float* sums, const int64_t* shape, int threads) {
    const Layouts layouts = {planes, pixels, scale, shape[0], shape[1], shape[2], shape[3], shape[4]};
    if (map == 0) to_pixels(layouts, threads);
    else if (map == 1) to_planes(layouts, threads);
    else products(layouts, sums, threads);
    return 0;
}

int ada_lanes() { return LANES; }

int ada_has_threads() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

}
