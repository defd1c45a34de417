// bias_act on the CPU: bias, activation, gain and clamp, y = clamp(gain * act(x + b)), with its first and second derivative.
//
// Elementwise, so memory bound. Memory traffic in bytes, with s the size of an element (the bias stays in the cache):
//   value       read x, write y                                  2 s per element
//   gradient    read dy and the reference, write dx              3 s; the gradient of the bias is summed in the same pass
//   curvature   read dy, d_dx and the reference, write d_x       4 s
// The reference is y, which determines act(x + b) = y / gain, except for swish, which cannot be inverted: there it is x.

#pragma once

#include <algorithm>
#include <vector>

#include "elementwise.h"
#include "cpu_memory.h"
#include "cpu_threads.h"

enum Order { VALUE, GRADIENT, CURVATURE };

// All tensors are dense and have the same strides. The element at offset i has the bias i / bias_stride % bias_size.
template <class T> struct BiasAct {
    T* out;
    const T *in, *reference, *direction, *bias;  // x or dy; y or x; d_dx; b or null
    double* bias_gradient;                       // output: the sum over each channel; or null
    int64_t count, bias_stride, bias_size;
    T alpha, gain, clamp;                        // clamp: infinity if there is no limit
};

template <int ACT, int ORDER, class T>
ADA_HD T one_element(T in, T reference, T direction, T bias, const BiasAct<T>& a, T undo_gain) {
    if constexpr (ORDER == VALUE) {
        return clamp_to(a.gain * activate<ACT>(in + bias, a.alpha), a.clamp);
    } else {
        const T z = reference + bias;  // valid, and used, for swish only
        const T u = ACT == SWISH ? activate<ACT>(z, a.alpha) : reference * undo_gain;
        const T y = ACT == SWISH ? a.gain * u : reference;
        const T rate = ORDER == GRADIENT ? slope_of<ACT>(z, u, a.alpha) : curvature_of<ACT>(z, u, a.alpha) * direction;
        const T result = in * a.gain * rate;
        // Without a clamp, all values are inside, including infinity and NaN.
        const bool outside = a.clamp < T(INFINITY) && !(fabs(y) < a.clamp);
        return outside ? T(0) : result;
    }
}

// Compute the elements [first, last), whose biases are biases[0], biases[1], ..., and write them to `out`.
template <int ACT, int ORDER, class T>
static void run_of_elements(const BiasAct<T>& args, T* out, int64_t first, int64_t last, const T* biases) {
    const BiasAct<T> a = args;  // a copy, to keep the constants in registers
    const T undo_gain = T(1) / a.gain;
    const T *in = a.in + first, *reference = a.reference + first, *direction = a.direction + first;
    const int64_t count = last - first;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        out[i] = one_element<ACT, ORDER>(in[i], ORDER == VALUE ? T(0) : reference[i], ORDER == CURVATURE ? direction[i] : T(0),
                                         biases[i], a, undo_gain);
}

const int64_t BLOCK = 1024;       // elements at a time; they are summed while still in the cache
const int64_t SHORTEST_RUN = 16;  // elements of one channel for which a separate loop is worthwhile

template <class T> using Run = void (*)(const BiasAct<T>&, T*, int64_t, int64_t, const T*);

// The work of one thread. `sums` are the sums over the channels, or null.
template <class T> struct Share {
    const BiasAct<T>& a;
    const Run<T> run;
    double* sums;
    const bool stream;  // compute a block in the cache, then store it past the caches
    std::vector<T> block;

    // Compute elements [first, last); return a pointer to the results, still in the cache.
    const T* make(int64_t first, int64_t last, const T* biases) {
        if (!stream) {
            run(a, a.out + first, first, last, biases);
            return a.out + first;
        }
        block.resize(std::max<size_t>(block.size(), last - first));
        run(a, block.data(), first, last, biases);
        store_past_caches(a.out + first, block.data(), last - first);
        return block.data();
    }

    // For layouts in which the elements of a channel are contiguous.
    void channel_by_channel(int64_t first, int64_t last) {
        T biases[BLOCK] = {};
        int64_t filled = 0, plane = -1;
        while (first < last) {
            const bool same = first / a.bias_stride == plane;
            plane = first / a.bias_stride;
            const int64_t channel = plane % a.bias_size, end = std::min({last, (plane + 1) * a.bias_stride, first + BLOCK});
            if (a.bias && (!same || filled < end - first)) {
                filled = end - first;
                std::fill(biases, biases + filled, a.bias[channel]);
            }
            const T* made = make(first, end, biases);
            const int64_t count = end - first;
            if (sums) {
                T sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < count; ++i) sum += made[i];
                sums[channel] += sum;
            }
            first = end;
        }
    }

    // For layouts in which channels alternate quickly: `pattern` holds the biases of an integer number of periods.
    void pattern_by_pattern(int64_t first, int64_t last, const std::vector<T>& pattern) {
        const int64_t length = (int64_t)pattern.size(), flush_after = 128;  // patterns to sum in T before the sums are added in double
        std::vector<T> partial(sums ? length : 0);
        int64_t summed = 0;
        while (first < last) {
            const int64_t at = first % length, end = std::min(last, first - at + length), count = end - first;
            const T* made = make(first, end, pattern.data() + at);
            if (sums) {
                T* target = partial.data() + at;
#pragma omp simd
                for (int64_t i = 0; i < count; ++i) target[i] += made[i];
            }
            first = end;
            if (sums && (++summed % flush_after == 0 || first == last)) {
                for (int64_t i = 0; i < length; ++i) sums[i / a.bias_stride % a.bias_size] += partial[i];
                std::fill(partial.begin(), partial.end(), T(0));
            }
        }
    }
};

template <class T> static void bias_act(const BiasAct<T>& a, Run<T> run, int threads) {
    std::vector<T> pattern;
    if ((a.bias || a.bias_gradient) && a.bias_stride < SHORTEST_RUN) {
        const int64_t period = a.bias_stride * a.bias_size;
        pattern.resize(period * std::max<int64_t>(1, BLOCK / period));
        for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = a.bias ? a.bias[i / a.bias_stride % a.bias_size] : T(0);
    }
    const int workers = threads_for(a.count, threads);
    std::vector<double> sums(a.bias_gradient ? workers * a.bias_size : 0);
    in_parallel(workers, workers, [&](int64_t worker) {
        const int64_t first = a.count * worker / workers, last = a.count * (worker + 1) / workers;
        Share<T> share = {a, run, a.bias_gradient ? sums.data() + worker * a.bias_size : nullptr,
                          past_caches(a.count * (int64_t)sizeof(T)), {}};
        if (pattern.empty()) share.channel_by_channel(first, last);
        else share.pattern_by_pattern(first, last, pattern);
        finish_stores();
    });
    for (int64_t c = 0; a.bias_gradient && c < a.bias_size; ++c) {
        a.bias_gradient[c] = 0;
        for (int worker = 0; worker < workers; ++worker) a.bias_gradient[c] += sums[worker * a.bias_size + c];
    }
}

template <int ACT, class T> static Run<T> run_of_order(int order) {
    if (order == VALUE) return run_of_elements<ACT, VALUE, T>;
    if (order == GRADIENT) return run_of_elements<ACT, GRADIENT, T>;
    if constexpr (ACT > LRELU)  // The second derivative of the others is zero.
        if (order == CURVATURE) return run_of_elements<ACT, CURVATURE, T>;
    return nullptr;
}

template <class T> static Run<T> run_of(int act, int order) {
    switch (act) {
        case LINEAR: return run_of_order<LINEAR, T>(order);
        case RELU: return run_of_order<RELU, T>(order);
        case LRELU: return run_of_order<LRELU, T>(order);
        case TANH: return run_of_order<TANH, T>(order);
        case SIGMOID: return run_of_order<SIGMOID, T>(order);
        case ELU: return run_of_order<ELU, T>(order);
        case SELU: return run_of_order<SELU, T>(order);
        case SOFTPLUS: return run_of_order<SOFTPLUS, T>(order);
        case SWISH: return run_of_order<SWISH, T>(order);
    }
    return nullptr;
}
