// filtered_lrelu on the CPU in one pass: bias, upsampling, leaky ReLU, downsampling, without the upsampled map in memory.
//
// A plane (one channel of one image) is computed row by row. Rows of the upsampled map live in a ring that is as long as
// the downsampling filter and stays in the cache: each is made once, from the rows of the input that its filter meets,
// and is read by all rows of the output that meet it. Memory traffic is that of reading x and writing y; with a mask, a
// byte per upsampled pixel is written as well.
//
// Vector instructions process the pixels of a row. For that, rows are stored by phase: pixel L m + p of the upsampled map
// is element m of phase p, with L the least common multiple of the factors. Then the pixels that a tap meets are
// contiguous whatever the factors are, for the input (L / up phases) and the output (L / down phases) too.

#pragma once

#include <string.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu_resample.h"
#include "cpu_threads.h"
#include "cpu_vectors.h"
#include "elementwise.h"

enum LreluMode { ACTIVATE, ACTIVATE_AND_WRITE_MASK, APPLY_MASK };
const int CLAMPED = 0, NEGATIVE = 1, POSITIVE = 2;  // codes in a mask: the derivative is 0, gain * slope or gain

// Along one axis: pixel p of the upsampled map reads input i through tap i * up + pad - p of the first filter, and output
// o reads pixel o * down + k - offset through tap k of the second one. There are `mid` pixels; others are zero.
struct LreluAxis {
    int64_t up, down, pad, offset, in, out, mid;

    int64_t first_input(int64_t p) const { return ceil_div(p - pad, up); }
    int64_t last_input(int64_t p, int64_t taps) const { return floor_div(p - pad + taps - 1, up); }
};

// A correlation kernel: [taps], for both axes, or [taps, taps].
template <class T> struct LreluFilter {
    int64_t taps;
    bool separable;
    std::vector<T> values;
    T along_x_only;  // factor of a separable filter along x; along y it is 1

    const T* row(int64_t y) const { return values.data() + y * taps; }  // unless separable
};

template <class T> struct FilteredLrelu {
    const T *x, *bias;  // bias: or null
    T* y;
    uint8_t* mask;      // [planes, y.mid, mask_row]
    int64_t planes, channels;
    LreluAxis along_x, along_y;
    LreluFilter<T> up, down;
    LreluMode mode;
    T gain, slope, clamp;

    int64_t period() const { return std::lcm(along_x.up, along_x.down); }
    int64_t mask_phase() const { return ceil_div(along_x.mid, period()); }  // bytes
    int64_t mask_row() const { return period() * mask_phase(); }            // bytes
};

// ---------------------------------------------------------------------------------------------------------------------
// Vectors of either type

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
    static const int WIDTH = LANES;
    typedef float Values __attribute__((vector_size(4 * LANES)));
    typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    typedef uint8_t UnalignedBytes __attribute__((vector_size(LANES), aligned(1), may_alias));
};
template <> struct VectorOf<double> {
    static const int WIDTH = LANES / 2;
    typedef double Values __attribute__((vector_size(4 * LANES)));
    typedef double Unaligned __attribute__((vector_size(4 * LANES), aligned(8), may_alias));
    typedef int64_t Integers __attribute__((vector_size(4 * LANES)));
    typedef uint8_t Bytes __attribute__((vector_size(LANES / 2)));
    typedef uint8_t UnalignedBytes __attribute__((vector_size(LANES / 2), aligned(1), may_alias));
};

template <class T> static ADA_INLINE typename VectorOf<T>::Values read(const T* p) {
    return *reinterpret_cast<const typename VectorOf<T>::Unaligned*>(p);
}
template <class T> static ADA_INLINE void write(T* p, typename VectorOf<T>::Values v) {
    *reinterpret_cast<typename VectorOf<T>::Unaligned*>(p) = v;
}

// sum + weight * v, always rounded once where the processor can: the compiler's choice differs from loop to loop, and then
// results would depend on the number of planes.
static ADA_INLINE VectorOf<float>::Values multiply_add(VectorOf<float>::Values v, float weight, VectorOf<float>::Values sum) {
#if defined(__AVX512F__)
    return (VectorOf<float>::Values)_mm512_fmadd_ps((__m512)v, _mm512_set1_ps(weight), (__m512)sum);
#elif defined(__FMA__)
    return (VectorOf<float>::Values)_mm256_fmadd_ps((__m256)v, _mm256_set1_ps(weight), (__m256)sum);
#else
    return sum + weight * v;
#endif
}
static ADA_INLINE VectorOf<double>::Values multiply_add(VectorOf<double>::Values v, double weight, VectorOf<double>::Values sum) {
#if defined(__AVX512F__)
    return (VectorOf<double>::Values)_mm512_fmadd_pd((__m512d)v, _mm512_set1_pd(weight), (__m512d)sum);
#elif defined(__FMA__)
    return (VectorOf<double>::Values)_mm256_fmadd_pd((__m256d)v, _mm256_set1_pd(weight), (__m256d)sum);
#else
    return sum + weight * v;
#endif
}

// A number of pixels that is a multiple of the vectors.
template <class T> static int64_t whole_vectors(int64_t count) { return ceil_div(count, VectorOf<T>::WIDTH) * VectorOf<T>::WIDTH; }

// What a sum of `count` rows with weights is made of.
template <class T> struct Terms {
    std::vector<const T*> rows;
    std::vector<T> weights;

    void clear() { rows.clear(), weights.clear(); }
    void add(const T* row, T weight) { rows.push_back(row), weights.push_back(weight); }
};

template <int VECTORS, class T, class Finish>
static ADA_INLINE void sum_block(T* out, const Terms<T>& terms, int64_t at, const Finish& finish) {
    typedef typename VectorOf<T>::Values Values;
    const int width = VectorOf<T>::WIDTH;
    const int64_t count = (int64_t)terms.rows.size();
    const T* const* rows = terms.rows.data();
    const T* weights = terms.weights.data();
    Values sums[VECTORS] = {};
    for (int64_t k = 0; k < count; ++k) {
        const T* row = rows[k] + at;
        const T weight = weights[k];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[v] = multiply_add(read(row + v * width), weight, sums[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) write(out + at + v * width, finish(sums[v], at + v * width));
}

// out[i] = finish(sum over k of weights[k] * rows[k][i], i); `length` is a multiple of the vectors.
template <class T, class Finish>
static void sum_terms(T* out, const Terms<T>& terms, int64_t length, const Finish& finish) {
    const int64_t width = VectorOf<T>::WIDTH;
    int64_t at = 0;
    for (; at + 4 * width <= length; at += 4 * width) sum_block<4>(out, terms, at, finish);
    for (; at + 2 * width <= length; at += 2 * width) sum_block<2>(out, terms, at, finish);
    for (; at < length; at += width) sum_block<1>(out, terms, at, finish);
}

template <class T> static void sum_terms(T* out, const Terms<T>& terms, int64_t length) {
    sum_terms(out, terms, length, [](typename VectorOf<T>::Values sum, int64_t) { return sum; });
}

// ---------------------------------------------------------------------------------------------------------------------
// The leaky ReLU and its derivative

template <class T> struct LreluFactors {
    const T gain, slope, clamp;
    const bool has_clamp;

    explicit LreluFactors(const FilteredLrelu<T>& a) : gain(a.gain), slope(a.slope), clamp(a.clamp), has_clamp(a.clamp < T(INFINITY)) {}
};

template <class T, class Values = typename VectorOf<T>::Values, class Integers = typename VectorOf<T>::Integers>
static ADA_INLINE Values activate_vector(Values v, const LreluFactors<T>& f, Integers& code) {
    const Values zero = {}, limit = zero + f.clamp;
    const Integers none = {}, positive = v > zero;
    v = (positive ? v : v * f.slope) * f.gain;
    code = none + NEGATIVE - positive;  // true is -1
    if (!f.has_clamp) return v;
    const Integers inside = (v < limit) & (v > -limit);
    code = inside ? code : none + CLAMPED;
    v = v > limit ? limit : v;
    return v < -limit ? -limit : v;
}

template <class T> static ADA_INLINE void write_codes(uint8_t* to, typename VectorOf<T>::Integers codes) {
    *reinterpret_cast<typename VectorOf<T>::UnalignedBytes*>(to) = __builtin_convertvector(codes, typename VectorOf<T>::Bytes);
}

template <class T, class Values = typename VectorOf<T>::Values, class Integers = typename VectorOf<T>::Integers>
static ADA_INLINE Values derivative_of(const uint8_t* from, const LreluFactors<T>& f) {
    const typename VectorOf<T>::Bytes bytes = *reinterpret_cast<const typename VectorOf<T>::UnalignedBytes*>(from);
    const Integers code = __builtin_convertvector(bytes, Integers), none = {};
    const Values zero = {}, steep = zero + f.gain, flat = zero + f.gain * f.slope;
    return code == none + POSITIVE ? steep : code == none + NEGATIVE ? flat : zero;
}

// ---------------------------------------------------------------------------------------------------------------------
// The planes of one thread

const int64_t GROUP_PIXELS = 256;  // of a phase; short rows of several planes are computed side by side, as one

template <class T> class LreluWorker {
    struct Reading { int64_t phase, shift, tap; };

    const FilteredLrelu<T>& a;
    const int64_t period, in_phases, out_phases;
    std::vector<std::vector<Reading>> up_readings, down_readings;  // for each phase of the result
    int64_t base = 0;                     // pixel base * in_phases of the input is the first element of phase 0
    int64_t slot = 0;                     // elements of a phase from plane to plane
    int64_t group = 0;                    // planes side by side
    int64_t width = 0;                    // elements of a phase that are computed: whole vectors
    int64_t pitch = 0, in_pitch = 0;      // elements from phase to phase of the upsampled map and of the input
    int64_t in_ring = 0, ring = 0;        // rows in the rings
    int64_t made_inputs = 0, made_rows = 0;  // rows made so far; older ones are overwritten
    int64_t first_plane = 0, planes = 0;  // the present group
    std::vector<T> input, inputs, rows, combined, outputs;
    std::vector<uint8_t> codes;
    Terms<T> terms;

    static int64_t remainder(int64_t value, int64_t divisor) { return value - floor_div(value, divisor) * divisor; }

    int64_t input_row_size() const { return a.up.separable ? period * pitch : in_phases * in_pitch; }
    T* input_row(int64_t i) { return inputs.data() + i % in_ring * input_row_size(); }
    T* row(int64_t t) { return rows.data() + t % ring * period * pitch; }

   public:
    LreluWorker(const FilteredLrelu<T>& a, int64_t most_planes)
        : a(a), period(a.period()), in_phases(period / a.along_x.up), out_phases(period / a.along_x.down) {
        const LreluAxis& x = a.along_x;
        base = floor_div(x.first_input(-x.offset), in_phases);
        int64_t in_span = 0, span = 0;
        up_readings.resize(period), down_readings.resize(out_phases);
        for (int64_t p = 0; p < period; ++p) {
            for (int64_t i = x.first_input(p - x.offset); i <= x.last_input(p - x.offset, a.up.taps); ++i) {
                const int64_t shift = floor_div(i, in_phases) - base;
                up_readings[p].push_back({remainder(i, in_phases), shift, i * x.up + x.pad - (p - x.offset)});
                in_span = std::max(in_span, shift);
            }
        }
        for (int64_t b = 0; b < out_phases; ++b) {
            for (int64_t k = 0; k < a.down.taps; ++k) {
                const int64_t t = b * x.down + k;
                down_readings[b].push_back({t % period, t / period, k});
                span = std::max(span, t / period);
            }
        }
        slot = ceil_div(x.out, out_phases) + span + in_span;
        group = std::min(most_planes, std::max<int64_t>(1, GROUP_PIXELS / slot));
        width = whole_vectors<T>(group * slot);
        pitch = whole_vectors<T>(width + span), in_pitch = width + in_span;
        in_ring = ceil_div(a.up.taps, a.along_y.up) + 1, ring = a.down.taps;
        // What lies outside the image is never written, and remains zero.
        input.resize(in_phases * in_pitch), inputs.resize(in_ring * input_row_size());
        rows.resize(ring * period * pitch), combined.resize(period * pitch), outputs.resize(out_phases * width);
        codes.resize(period * pitch);
    }

    // Compute the planes [first, last).
    void run(int64_t first, int64_t last) {
        for (first_plane = first; first_plane < last; first_plane += group) {
            planes = std::min(group, last - first_plane);
            made_inputs = made_rows = 0;
            for (int64_t o = 0; o < a.along_y.out; ++o) {
                const int64_t begin = o * a.along_y.down, end = begin + a.down.taps;
                for (made_rows = std::max(made_rows, begin); made_rows < end; ++made_rows) make_row(made_rows);
                make_output(o, begin);
            }
        }
    }

   private:
    // Row i of the input with the bias, by phase; for a separable filter, upsampled along x.
    void make_input(int64_t i) {
        T* target = a.up.separable ? input.data() : input_row(i);
        for (int64_t phase = 0; phase < in_phases; ++phase) {
            // Element m of the phase is pixel m * in_phases + origin.
            const int64_t origin = base * in_phases + phase;
            const int64_t start = std::max<int64_t>(0, ceil_div(-origin, in_phases));
            const int64_t end = std::min(slot, ceil_div(a.along_x.in - origin, in_phases));
            for (int64_t k = 0; k < planes; ++k) {
                const int64_t plane = first_plane + k;
                const T* source = a.x + (plane * a.along_y.in + i) * a.along_x.in;
                const T bias = a.bias ? a.bias[plane % a.channels] : T(0);
                T* elements = target + phase * in_pitch + k * slot;
                if (in_phases == 1) {
                    for (int64_t m = start; m < end; ++m) elements[m] = source[m + origin] + bias;
                } else {
                    for (int64_t m = start; m < end; ++m) elements[m] = source[m * in_phases + origin] + bias;
                }
            }
        }
        if (!a.up.separable) return;
        for (int64_t p = 0; p < period; ++p) {
            terms.clear();
            for (const Reading& r : up_readings[p])
                terms.add(target + r.phase * in_pitch + r.shift, a.up.along_x_only * a.up.values[r.tap]);
            sum_terms(input_row(i) + p * pitch, terms, width);
        }
    }

    // Row t of the upsampled map after the leaky ReLU; t - offset is its number.
    void make_row(int64_t t) {
        const int64_t p = t - a.along_y.offset;
        if (p < 0 || p >= a.along_y.mid) {
            std::fill(row(t), row(t) + period * pitch, T(0));
            return;
        }
        const int64_t first = std::max<int64_t>(0, a.along_y.first_input(p));
        const int64_t end = std::min(a.along_y.in, a.along_y.last_input(p, a.up.taps) + 1);
        for (made_inputs = std::max(made_inputs, first); made_inputs < end; ++made_inputs) make_input(made_inputs);
        if (a.mode == APPLY_MASK) read_mask(p);
        if (a.up.separable) {
            terms.clear();
            for (int64_t i = first; i < end; ++i) terms.add(input_row(i), a.up.values[i * a.along_y.up + a.along_y.pad - p]);
            sum_and_activate(row(t), codes.data(), period * pitch);
        } else {
            for (int64_t phase = 0; phase < period; ++phase) {
                terms.clear();
                for (int64_t i = first; i < end; ++i) {
                    const T* weights = a.up.row(i * a.along_y.up + a.along_y.pad - p);
                    for (const Reading& r : up_readings[phase])
                        terms.add(input_row(i) + r.phase * in_pitch + r.shift, weights[r.tap]);
                }
                sum_and_activate(row(t) + phase * pitch, codes.data() + phase * pitch, width);
            }
        }
        if (a.mode == ACTIVATE_AND_WRITE_MASK) write_mask(p);
    }

    void sum_and_activate(T* out, uint8_t* code, int64_t length) {
        typedef typename VectorOf<T>::Values Values;
        const LreluFactors<T> factors(a);
        typename VectorOf<T>::Integers ignored;
        if (a.mode == ACTIVATE) {
            sum_terms(out, terms, length, [&](Values sum, int64_t) { return activate_vector(sum, factors, ignored); });
        } else if (a.mode == ACTIVATE_AND_WRITE_MASK) {
            sum_terms(out, terms, length, [&](Values sum, int64_t at) {
                typename VectorOf<T>::Integers codes_here;
                const Values value = activate_vector(sum, factors, codes_here);
                write_codes<T>(code + at, codes_here);
                return value;
            });
        } else {
            sum_terms(out, terms, length, [&](Values sum, int64_t at) { return sum * derivative_of<T>(code + at, factors); });
        }
    }

    uint8_t* mask_row(int64_t plane, int64_t p) { return a.mask + (plane * a.along_y.mid + p) * a.mask_row(); }

    // In the mask, too, rows are stored by phase, but counted without the offset.
    void read_mask(int64_t p) {
        const int64_t length = a.mask_phase();
        for (int64_t q = 0; q < period; ++q) {
            const int64_t pixel = q - a.along_x.offset, shift = floor_div(pixel, period);
            const int64_t start = std::min(slot, std::max<int64_t>(0, -shift));
            const int64_t end = std::max(start, std::min(slot, length - shift));
            for (int64_t k = 0; k < planes; ++k) {
                uint8_t* to = codes.data() + q * pitch + k * slot;
                memset(to, CLAMPED, start);
                memcpy(to + start, mask_row(first_plane + k, p) + remainder(pixel, period) * length + start + shift, end - start);
                memset(to + end, CLAMPED, slot - end);
            }
        }
    }

    void write_mask(int64_t p) {
        const int64_t length = a.mask_phase();
        for (int64_t q = 0; q < period; ++q)
            for (int64_t k = 0; k < planes; ++k)
                memcpy(mask_row(first_plane + k, p) + q * length, codes.data() + q * pitch + k * slot, std::min(length, slot));
    }

    // Row o of the output, from the rows of the upsampled map from `begin` on.
    void make_output(int64_t o, int64_t begin) {
        if (a.down.separable) {
            terms.clear();
            for (int64_t k = 0; k < a.down.taps; ++k) terms.add(row(begin + k), a.down.values[k]);
            sum_terms(combined.data(), terms, period * pitch);
        }
        for (int64_t b = 0; b < out_phases; ++b) {
            terms.clear();
            if (a.down.separable) {
                for (const Reading& r : down_readings[b])
                    terms.add(combined.data() + r.phase * pitch + r.shift, a.down.along_x_only * a.down.values[r.tap]);
            } else {
                for (int64_t k = 0; k < a.down.taps; ++k)
                    for (const Reading& r : down_readings[b])
                        terms.add(row(begin + k) + r.phase * pitch + r.shift, a.down.row(k)[r.tap]);
            }
            sum_terms(outputs.data() + b * width, terms, width);
        }
        for (int64_t k = 0; k < planes; ++k) {
            T* out = a.y + ((first_plane + k) * a.along_y.out + o) * a.along_x.out;
            const T* made = outputs.data() + k * slot;
            if (out_phases == 1) memcpy(out, made, a.along_x.out * sizeof(T));
            else
                for (int64_t b = 0; b < out_phases; ++b, made += width)
                    for (int64_t m = 0; m * out_phases + b < a.along_x.out; ++m) out[m * out_phases + b] = made[m];
        }
    }
};

template <class T> static void filtered_lrelu(const FilteredLrelu<T>& a, int threads) {
    const int64_t pixels = a.planes * a.along_x.out * a.along_y.out * a.along_x.down * a.along_y.down;
    const int workers = (int)std::min<int64_t>(a.planes, threads_for(pixels, threads));
    const int64_t shares = workers == 1 ? 1 : std::min<int64_t>(a.planes, 4 * workers);
    in_parallel(shares, workers, [&](int64_t share) {
        const int64_t first = a.planes * share / shares, last = a.planes * (share + 1) / shares;
        LreluWorker<T>(a, last - first).run(first, last);
    });
}
