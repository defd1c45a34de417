// filtered_lrelu: bias, upsampling, leaky ReLU with gain and clamp, downsampling; separable filters only.
//
// A block computes one tile of the output of one plane. Everything at the higher sampling rate stays in shared memory.
// Memory traffic, with s the size of an element: s bytes per input pixel, s bytes per output pixel and, for training, a
// quarter of a byte per upsampled pixel (2 bits: positive, within the clamp), which is 1 byte per output pixel if both
// factors are 2. With 12 taps and both factors 2, an output pixel takes about 90 multiplications, so arithmetic is as
// expensive as memory: windows in registers reduce the load on shared memory (see resample.cuh).
//
// The activation is piecewise linear, so every derivative is again an upsampling, a factor per pixel that is read from
// the mask, and a downsampling: MODE 2.
//
// Constants: SCALAR; FILTER, the type of the taps; INDEX; THREADS; UP_BY, TAPS_UP, PHASE_X and PHASE_Y of the upsampling;
// DOWN_BY and TAPS_DOWN; TILE_X and TILE_Y, the outputs of a block; RUN_UP and RUN_DOWN, the outputs that a thread
// computes at a time; MODE: 0, activation; 1, activation that also writes the mask; 2, factors from the mask. With
// MODE 1, TILE_X * DOWN_BY is a multiple of 16, the number of pixels in a word of the mask.

#include "elementwise.h"
#include "resample.cuh"

constexpr int PIXELS_PER_WORD = 16;

struct FilteredLrelu {
    SCALAR* y;
    const SCALAR *x, *bias;
    const FILTER *filter_up, *filter_down;
    unsigned* mask;                                          // [N * C, mask_h, mask_words]
    Strides y_strides, x_strides;
    Tiles tiles;
    long long mask_w, mask_h, mask_words, mask_x, mask_y;    // size; position of the first pixel that the first output reads
    double gain_up, gain_down, gain, slope, clamp;           // gain_up and gain_down: per axis
    long long flip;
};

using UpX = Axis<UP_BY, 1, TAPS_UP, PHASE_X>;
using UpY = Axis<UP_BY, 1, TAPS_UP, PHASE_Y>;
using Down = Axis<1, DOWN_BY, TAPS_DOWN, 0>;

constexpr int MID_W = round_up(Down::inputs(TILE_X), RUN_UP), MID_H = round_up(Down::inputs(TILE_Y), RUN_UP);
constexpr int IN_W = UpX::inputs(MID_W), IN_H = UpY::inputs(MID_H);
constexpr int PITCH_IN = IN_W | 1, PITCH_MID = MID_W | 1, PITCH_OUT = TILE_X | 1;  // odd; see resample.cuh

// Two buffers alternate: EVEN holds the input and the upsampled tile, ODD the result of the first pass of a resampling.
constexpr int EVEN_SIZE = largest(IN_H * PITCH_IN, MID_H * PITCH_MID);
constexpr int ODD_SIZE = largest(IN_H * PITCH_MID, MID_H * PITCH_OUT);

DEVICE Wide activation(Wide value, const FilteredLrelu& f) {
    const Wide slope = static_cast<Wide>(f.slope), gain = static_cast<Wide>(f.gain), clamp = static_cast<Wide>(f.clamp);
    return clamp_to(gain * (value < 0 ? value * slope : value), clamp);
}

// The derivative of the activation at the pixel (x, y) of the mask; zero outside the mask.
DEVICE Wide factor(const FilteredLrelu& f, const unsigned* mask, int y, int x) {
    if (y < 0 || y >= f.mask_h || x < 0 || x >= f.mask_w) return 0;
    const unsigned word = mask[static_cast<INDEX>(y) * static_cast<INDEX>(f.mask_words) + x / PIXELS_PER_WORD];
    const unsigned bits = word >> (x % PIXELS_PER_WORD * 2);
    const Wide rate = bits & 1 ? static_cast<Wide>(f.gain) : static_cast<Wide>(f.gain * f.slope);
    return bits & 2 ? rate : Wide(0);
}

// Upsampled tiles overlap. Each word is written by only one block: the block whose outputs start there.
DEVICE void write_mask(const FilteredLrelu& f, unsigned* mask, const Wide* middle, const Tile& tile) {
    constexpr int WORDS = ceil_div(MID_W, PIXELS_PER_WORD);
    const int rows = tile.y + 1 == f.tiles.tiles_y ? MID_H : TILE_Y * DOWN_BY;
    const int words = tile.x + 1 == f.tiles.tiles_x ? WORDS : TILE_X * DOWN_BY / PIXELS_PER_WORD;
    const int row0 = tile.y * TILE_Y * DOWN_BY, word0 = tile.x * (TILE_X * DOWN_BY / PIXELS_PER_WORD);
    const Wide clamp = static_cast<Wide>(f.clamp);
    const bool unlimited = !(f.clamp < 1e300);
    for (int item = threadIdx.x; item < MID_H * WORDS; item += THREADS) {
        const int row = item % MID_H, word = item / MID_H;
        if (row >= rows || word >= words || row0 + row >= f.mask_h || word0 + word >= f.mask_words) continue;
        unsigned bits = 0;
#pragma unroll
        for (int i = 0; i < PIXELS_PER_WORD; ++i) {
            const int col = word * PIXELS_PER_WORD + i;
            if (col >= MID_W) break;
            const Wide value = middle[row * PITCH_MID + col];
            bits |= (value > 0 ? 1u : 0u) << (2 * i) | (unlimited || fabs(value) < clamp ? 2u : 0u) << (2 * i);
        }
        mask[static_cast<INDEX>(row0 + row) * static_cast<INDEX>(f.mask_words) + word0 + word] = bits;
    }
}

alignas(16) DYNAMIC_SHARED unsigned char dynamic_shared[DYNAMIC_SIZE];

extern "C" __global__ void __launch_bounds__(THREADS) filtered_lrelu(const FilteredLrelu f) {
    Wide* even = reinterpret_cast<Wide*>(dynamic_shared);
    Wide* odd = even + EVEN_SIZE;
    __shared__ Wide taps_up[TAPS_UP], taps_down[TAPS_DOWN];
    const Tiles& s = f.tiles;
    const Tile tile = this_tile(s);
    read_taps<TAPS_UP>(taps_up, f.filter_up, f.gain_up, f.flip);
    read_taps<TAPS_DOWN>(taps_down, f.filter_down, f.gain_down, f.flip);
    const Wide bias = f.bias ? widen(f.bias[tile.group % s.channels]) : Wide(0);
    read_tile<IN_H, IN_W, PITCH_IN>(even, plane_of(f.x, f.x_strides, tile.group, s.channels), f.x_strides,
                                    static_cast<int>(s.origin_y) + UpY::advance(TILE_Y * DOWN_BY) * tile.y,
                                    static_cast<int>(s.origin_x) + UpX::advance(TILE_X * DOWN_BY) * tile.x,
                                    static_cast<int>(s.in_h), static_cast<int>(s.in_w), bias);
    __syncthreads();
    pass_along_x<UpX, RUN_UP, IN_H, MID_W, PITCH_IN, PITCH_MID>(odd, even, taps_up);
    __syncthreads();

    unsigned* mask = f.mask + tile.group * f.mask_h * f.mask_words;
    const int mask_row0 = tile.y * TILE_Y * DOWN_BY + static_cast<int>(f.mask_y);
    const int mask_col0 = tile.x * TILE_X * DOWN_BY + static_cast<int>(f.mask_x);
    pass_along_y<UpY, RUN_UP, MID_H, MID_W, PITCH_MID>(odd, taps_up, [&](int row, int col, Wide value) {
        even[row * PITCH_MID + col] =
            MODE == 2 ? value * factor(f, mask, mask_row0 + row, mask_col0 + col) : activation(value, f);
    });
    __syncthreads();

    if (MODE == 1) write_mask(f, mask, even, tile);
    pass_along_x<Down, RUN_DOWN, MID_H, TILE_X, PITCH_MID, PITCH_OUT>(odd, even, taps_down);
    __syncthreads();

    SCALAR* target = plane_of(f.y, f.y_strides, tile.group, s.channels);
    pass_along_y<Down, RUN_DOWN, TILE_Y, TILE_X, PITCH_OUT>(odd, taps_down, [&](int row, int col, Wide value) {
        store_output(target, f.y_strides, s, tile, row, col, value);
    });
}
