// Non-temporal stores, which bypass the caches, for results that are larger than the caches.
//
// An ordinary store first reads the cache line that it overwrites, which doubles the memory traffic. Small results are
// better kept in a cache, where the next operator finds them.

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

const int64_t LARGER_THAN_CACHES = int64_t(1) << 25;  // bytes
const int64_t LINE = 64;                              // bytes

#if defined(__AVX__)

static inline void store_line(char* out, const char* in) {
#if defined(__AVX512F__)
    __m512i line;
    memcpy(&line, in, LINE);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out), line);
#else
    __m256i half[2];
    memcpy(half, in, LINE);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out), half[0]);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out) + 1, half[1]);
#endif
}

static inline bool past_caches(int64_t bytes) { return bytes >= LARGER_THAN_CACHES; }

template <class T> static void store_past_caches(T* target, const T* source, int64_t count) {
    char* out = reinterpret_cast<char*>(target);
    const char* in = reinterpret_cast<const char*>(source);
    int64_t bytes = count * (int64_t)sizeof(T);
    int64_t head = -reinterpret_cast<intptr_t>(out) & (LINE - 1);
    if (head > bytes) head = bytes;
    memcpy(out, in, head);
    out += head, in += head, bytes -= head;
    for (; bytes >= LINE; out += LINE, in += LINE, bytes -= LINE) store_line(out, in);
    memcpy(out, in, bytes);
}

// Make preceding non-temporal stores visible to other threads, in order.
static inline void finish_stores() { _mm_sfence(); }

#else

static inline bool past_caches(int64_t) { return false; }
template <class T> static void store_past_caches(T*, const T*, int64_t) {}
static inline void finish_stores() {}

#endif
