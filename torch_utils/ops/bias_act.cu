// bias_act: bias, activation, gain and clamp, y = clamp(gain * act(x + b)), with its first and second derivative.
//
// Elementwise, so memory bound. Memory traffic in bytes, with s the size of an element (the bias stays in the cache):
//   ORDER 0: read x, write y                       2 s per element
//   ORDER 1: read dy and the reference, write dx   3 s
//   ORDER 2: read dy, d_dx and the reference, write d_x   4 s
// The reference is y, which determines act(x + b) = y / gain, or, with FROM_INPUT, x: for activations that cannot be
// inverted (swish). Each thread processes UNROLL vectors of VECTOR elements and issues all loads before it uses the first
// value.
//
// Constants: SCALAR, INDEX, THREADS, UNROLL, VECTOR, ACTIVATION (see elementwise.h), ORDER, FROM_INPUT, CLAMPED, and
// BIAS: 0, no bias; 1, any layout; 2, one bias for all elements of a vector; 3, consecutive biases.

#include "elementwise.h"
#include "device.cuh"

using Numbers = Vector<SCALAR, VECTOR>;

// All tensors are dense and have the same strides. The element at offset i has the bias i / bias_stride % bias_size.
struct BiasAct {
    SCALAR* out;
    const SCALAR *in, *reference, *direction, *bias;  // x or dy; y or x; d_dx; b
    long long count, bias_stride, bias_size;
    double alpha, gain, clamp;
};

DEVICE Wide one(Wide in, Wide reference, Wide direction, Wide bias, Wide alpha, Wide gain, Wide undo_gain, Wide clamp,
                Wide limit) {
    if constexpr (ORDER == 0) {
        const Wide value = gain * activate<ACTIVATION>(in + bias, alpha);
        return CLAMPED ? clamp_to(value, clamp) : value;
    } else {
        const Wide z = reference + bias;  // used with FROM_INPUT only
        const Wide u = FROM_INPUT ? activate<ACTIVATION>(z, alpha) : reference * undo_gain;
        const Wide y = FROM_INPUT ? gain * u : reference;
        const Wide rate = ORDER == 1 ? slope_of<ACTIVATION>(z, u, alpha) : curvature_of<ACTIVATION>(z, u, alpha) * direction;
        const bool inside = !CLAMPED || fabs(y) < limit;
        return inside ? in * gain * rate : Wide(0);
    }
}

// Returns the biases of the elements of a vector, one after the other.
struct BiasReader {
    const SCALAR* bias;
    INDEX stride, size, channel, step;

    DEVICE BiasReader(const BiasAct& a, INDEX first)
        : bias(a.bias), stride(static_cast<INDEX>(a.bias_stride)), size(static_cast<INDEX>(a.bias_size)), channel(0), step(0) {
        if (BIAS == 0) return;
        const INDEX run = first / stride;
        channel = run % size;
        step = first - run * stride;
    }

    DEVICE Wide next() {
        if (BIAS == 0) return 0;
        const Wide value = widen(bias[channel]);
        if (BIAS == 3) ++channel;
        if (BIAS == 1 && ++step == stride) {
            step = 0;
            if (++channel == size) channel = 0;
        }
        return value;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) bias_act(const BiasAct a) {
    const Wide alpha = static_cast<Wide>(a.alpha), gain = static_cast<Wide>(a.gain), clamp = static_cast<Wide>(a.clamp);
    const Wide undo_gain = Wide(1) / gain;
    const Wide limit = FROM_INPUT ? clamp : widen(narrow<SCALAR>(clamp));  // a clamped y as it was stored
    const INDEX count = static_cast<INDEX>(a.count);
    const INDEX start = (static_cast<INDEX>(blockIdx.x) * THREADS * UNROLL + threadIdx.x) * VECTOR;

    Numbers in[UNROLL], reference[UNROLL], direction[UNROLL];
#pragma unroll
    for (int k = 0; k < UNROLL; ++k) {
        const INDEX first = start + static_cast<INDEX>(k) * THREADS * VECTOR;
        if (first >= count) break;
        if (first + VECTOR <= count) {
            in[k] = *reinterpret_cast<const Numbers*>(a.in + first);
            if (ORDER >= 1) reference[k] = *reinterpret_cast<const Numbers*>(a.reference + first);
            if (ORDER == 2) direction[k] = *reinterpret_cast<const Numbers*>(a.direction + first);
            continue;
        }
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) {  // the last, incomplete vector
            if (first + e >= count) break;
            in[k].at[e] = a.in[first + e];
            if (ORDER >= 1) reference[k].at[e] = a.reference[first + e];
            if (ORDER == 2) direction[k].at[e] = a.direction[first + e];
        }
    }

#pragma unroll
    for (int k = 0; k < UNROLL; ++k) {
        const INDEX first = start + static_cast<INDEX>(k) * THREADS * VECTOR;
        if (first >= count) break;
        BiasReader bias(a, first);
        Numbers out;
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) {
            const Wide b = bias.next();
            const Wide r = ORDER >= 1 ? widen(reference[k].at[e]) : Wide(0);
            const Wide d = ORDER == 2 ? widen(direction[k].at[e]) : Wide(0);
            out.at[e] = narrow<SCALAR>(one(widen(in[k].at[e]), r, d, b, alpha, gain, undo_gain, clamp,
                                           limit));
        }
        if (first + VECTOR <= count) {
            *reinterpret_cast<Numbers*>(a.out + first) = out;
            continue;
        }
#pragma unroll
        for (int e = 0; e < VECTOR; ++e)
            if (first + e < count) a.out[first + e] = out.at[e];
    }
}
