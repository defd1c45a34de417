// Shared by all CUDA kernels: storage types and the types used for arithmetic, vectors, and tensors with strides.
//
// Each kernel is compiled at run time for one set of constants (see cuda_plans.py), which are passed as macros: SCALAR,
// the type in memory; INDEX, a 32- or 64-bit type for offsets within a tensor; THREADS, the threads of a block; and the
// constants listed at the top of each .cu file. NVRTC does not include the CUDA headers, so conversions from and to
// half precision are implemented here.
//
// Only this file depends on the GPU: the tests also compile the kernels with a C++ compiler and run them on a CPU.

#pragma once

#ifdef __CUDACC_RTC__
#define DEVICE __device__ __forceinline__
#define DYNAMIC_SHARED extern __shared__  // The size is set at launch.
#define DYNAMIC_SIZE
#endif

struct half_t { unsigned short bits; };
struct bfloat_t { unsigned short bits; };

// ---------------------------------------------------------------------------------------------------------------------
// Conversions
//
// Arithmetic is in float64 for float64 and in float32 for all other types.

#ifdef __CUDA_ARCH__

__device__ __forceinline__ float widen(half_t value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ __forceinline__ half_t to_half(float value) {
    half_t result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

__device__ __forceinline__ unsigned bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float float_of(unsigned bits) { return __uint_as_float(bits); }

#else

inline unsigned bits_of(float value) { unsigned bits; __builtin_memcpy(&bits, &value, 4); return bits; }
inline float float_of(unsigned bits) { float value; __builtin_memcpy(&value, &bits, 4); return value; }

inline float widen(half_t value) {
    const unsigned sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31, mantissa = value.bits & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
    const float magnitude = exponent ? float_of((exponent + 112) << 23 | mantissa << 13) : mantissa * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

inline half_t to_half(float value) {
    const unsigned bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<unsigned short>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<unsigned short>(sign | 0x7c00u)};  // Rounds to 2^16 or more.
    if (magnitude < 0x38800000u) {  // Subnormal: the addition rounds to a multiple of 2^-24.
        const unsigned rounded = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
        return {static_cast<unsigned short>(sign | rounded)};
    }
    const unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1) - (112u << 23);
    return {static_cast<unsigned short>(sign | rounded >> 13)};
}

#endif

DEVICE float widen(bfloat_t value) { return float_of(static_cast<unsigned>(value.bits) << 16); }

DEVICE bfloat_t to_bfloat(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    bfloat_t result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    const unsigned bits = bits_of(value);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return {static_cast<unsigned short>(is_nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
#endif
}

DEVICE float widen(float value) { return value; }
DEVICE double widen(double value) { return value; }

template <class T> struct Number { using Wide = float; };
template <> struct Number<double> { using Wide = double; };

template <class T> DEVICE T narrow(typename Number<T>::Wide value) { return value; }
template <> DEVICE half_t narrow<half_t>(float value) { return to_half(value); }
template <> DEVICE bfloat_t narrow<bfloat_t>(float value) { return to_bfloat(value); }

using Wide = Number<SCALAR>::Wide;

// ---------------------------------------------------------------------------------------------------------------------
// Memory

// N numbers, loaded or stored by one instruction if N * sizeof(T) is 4, 8 or 16 and the address is a multiple of that.
template <class T, int N> struct alignas(sizeof(T) * N) Vector { T at[N]; };

// Strides of a tensor [N, C, H, W], in elements.
struct Strides { long long n, c, h, w; };

// Return the offset of the pixel (y, x) within a plane.
DEVICE INDEX pixel_offset(const Strides& strides, int y, int x) {
    return static_cast<INDEX>(y) * static_cast<INDEX>(strides.h) + static_cast<INDEX>(x) * static_cast<INDEX>(strides.w);
}

// Return the start of one of the N * C planes.
template <class T> DEVICE T* plane_of(T* base, const Strides& strides, unsigned plane, long long channels) {
    const unsigned image = plane / static_cast<unsigned>(channels);
    return base + image * strides.n + (plane - image * static_cast<unsigned>(channels)) * strides.c;
}

// Copy a vector to shared memory, or zeros if it is not `inside` the image. The copy is asynchronous (complete after
// `wait_for_copies`), so a thread can have many copies in flight without using registers for them.
template <class V> DEVICE void copy_to_shared(V* target, const V* source, bool inside) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(V) >= 4) {
        const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(target));
        const int bytes = inside ? static_cast<int>(sizeof(V)) : 0;  // The hardware fills the rest with zeros.
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :: "r"(address), "l"(source), "n"(sizeof(V)), "r"(bytes) : "memory");
        return;
    }
#endif
    V value = {};
    if (inside) value = *source;
    *target = value;
}

DEVICE void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
