// What follows the convolution in a layer of a generator, applied to its results while they are in registers or in the L1
// cache: y = clamp(gain * leaky_relu(scale * z + bias + noise)). Channels are last.

#pragma once

#include <stdint.h>

#include "cpu_vectors.h"

// Mirrored by `_Finish` in cpu_kernels.py.
struct Finish {
    const float *scale, *noise, *bias;  // [n, channels]; [n, h, w] or null; [channels]
    int64_t channels, noise_step;       // elements from the noise of an image to that of the next; 0: all have the same
    float slope, gain, clamp;           // clamp: infinity if there is no limit

    const float* scale_of(int64_t image) const { return scale + image * channels; }

    // The noise of a pixel, counted from the start of its image.
    float noise_at(int64_t image, int64_t pixel) const { return noise ? noise[image * noise_step + pixel] : 0.0f; }

    ADA_INLINE Vec operator()(Vec z, Vec factor, Vec offset) const {
        const Vec zero = {}, highest = zero + clamp, lowest = zero - clamp;
        z = z * factor + offset;
        z = (z > zero ? z : z * slope) * gain;
        z = z > highest ? highest : z;
        return z < lowest ? lowest : z;
    }
};
