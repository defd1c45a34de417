// finish: what follows the convolution of a layer, y = clamp(gain * act(scale * x + noise + bias)).
//
// Elementwise over images [N, C, H, W], with a scale of each image and channel (the demodulation coefficients), a bias of
// each channel, and noise of each pixel, which all images share or not. Memory bound: read x, write y; the rest is small
// and stays in the cache. Each thread processes UNROLL vectors of VECTOR elements, which are in one plane or, channels last,
// in one pixel, and issues all loads before it uses the first value.
//
// Constants: SCALAR, INDEX, THREADS, UNROLL, VECTOR, ACTIVATION (see elementwise.h), CLAMPED, CHANNELS_LAST, NOISE
// (whether there is any).

#include "elementwise.h"
#include "device.cuh"

using Numbers = Vector<SCALAR, VECTOR>;

struct Finish {
    SCALAR* y;
    const SCALAR* x;     // with the strides of y
    const Wide* scale;   // [N, C]
    const Wide* noise;   // [N or 1, H, W]
    const SCALAR* bias;  // [C]
    long long count, channels, pixels, noise_step;  // noise_step: pixels from the noise of an image to that of the next
    double alpha, gain, clamp;
};

extern "C" __global__ void __launch_bounds__(THREADS) finish(const Finish a) {
    const Wide alpha = static_cast<Wide>(a.alpha), gain = static_cast<Wide>(a.gain), clamp = static_cast<Wide>(a.clamp);
    const INDEX count = static_cast<INDEX>(a.count), channels = static_cast<INDEX>(a.channels);
    const INDEX pixels = static_cast<INDEX>(a.pixels), noise_step = static_cast<INDEX>(a.noise_step);
    const INDEX run = CHANNELS_LAST ? channels : pixels, runs = CHANNELS_LAST ? pixels : channels;  // of an image
    const INDEX start = (static_cast<INDEX>(blockIdx.x) * THREADS * UNROLL + threadIdx.x) * VECTOR;

    Numbers in[UNROLL];
#pragma unroll
    for (int k = 0; k < UNROLL; ++k) {
        const INDEX first = start + static_cast<INDEX>(k) * THREADS * VECTOR;
        if (first >= count) break;
        in[k] = *reinterpret_cast<const Numbers*>(a.x + first);
    }

#pragma unroll
    for (int k = 0; k < UNROLL; ++k) {
        const INDEX first = start + static_cast<INDEX>(k) * THREADS * VECTOR;
        if (first >= count) break;
        const INDEX row = first / run, step = first - row * run;
        const INDEX image = row / runs, place = row - image * runs;
        const INDEX channel = CHANNELS_LAST ? step : place, pixel = CHANNELS_LAST ? place : step;
        const Wide* scale = a.scale + (image * channels + channel);
        const SCALAR* bias = a.bias + channel;
        const Wide* noise = NOISE ? a.noise + (image * noise_step + pixel) : nullptr;
        Numbers out;
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) {
            const int c = CHANNELS_LAST ? e : 0, p = CHANNELS_LAST ? 0 : e;
            Wide z = widen(in[k].at[e]) * scale[c] + widen(bias[c]);
            if (NOISE) z += noise[p];
            const Wide value = gain * activate<ACTIVATION>(z, alpha);
            out.at[e] = narrow<SCALAR>(CLAMPED ? clamp_to(value, clamp) : value);
        }
        *reinterpret_cast<Numbers*>(a.y + first) = out;
    }
}
