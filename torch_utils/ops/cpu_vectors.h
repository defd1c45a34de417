// Vectors of floats, as long as the processor supports.

#pragma once

#include <stdint.h>

#if defined(__AVX__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
const int LANES = 16;
#elif defined(__AVX__)
const int LANES = 8;
#else
const int LANES = 4;
#endif

#define ADA_INLINE inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float UnalignedVec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static ADA_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
static ADA_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

// Store past the caches (see cpu_memory.h). The address must be aligned.
static ADA_INLINE void stream(float* p, Vec v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, reinterpret_cast<__m512&>(v));
#elif defined(__AVX__)
    _mm256_stream_ps(p, reinterpret_cast<__m256&>(v));
#else
    store(p, v);
#endif
}

static inline bool is_aligned(const void* p) { return reinterpret_cast<intptr_t>(p) % (4 * LANES) == 0; }
