// What every kernel here needs: storage types and their arithmetic types, vectors of them, tensors with strides.
//
// Kernels are compiled at run time for one set of constants each (see cuda_kernels.py), given as macros: SCALAR, the
// type in memory; INDEX, 32 or 64 bits for offsets within a tensor; THREADS, those of a block; and what each .cu file
// lists at its top. NVRTC comes without the headers of CUDA, so half precision is converted here.
//
// Nothing but this file knows a GPU: the tests compile the kernels with a plain C++ compiler as well, and run them.

#pragma once

#ifdef __CUDACC_RTC__
#define DEVICE __device__ __forceinline__
#define DYNAMIC_SHARED extern __shared__  // of a size that is set when the kernel is started
#define DYNAMIC_SIZE
#endif

struct half_t { unsigned short bits; };
struct bfloat_t { unsigned short bits; };

// ---------------------------------------------------------------------------------------------------------------
// Conversions. Arithmetic is in float32 for everything but float64.

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
    if (magnitude >= 0x477ff000u) return {static_cast<unsigned short>(sign | 0x7c00u)};  // rounds to 2^16 or more
    if (magnitude < 0x38800000u) {  // Below 2^-14 the numbers are multiples of 2^-24; the addition rounds to them.
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

// ---------------------------------------------------------------------------------------------------------------
// Memory.

// N numbers that one instruction loads or stores, where N * sizeof(T) is 4, 8 or 16 and the address a multiple of it.
template <class T, int N> struct alignas(sizeof(T) * N) Vector { T at[N]; };

// Strides of a tensor [N, C, H, W], in elements.
struct Strides { long long n, c, h, w; };

// Begin of one of the N * C planes.
template <class T> DEVICE T* plane_of(T* base, const Strides& strides, unsigned plane, long long channels) {
    const unsigned image = plane / static_cast<unsigned>(channels);
    return base + image * strides.n + (plane - image * static_cast<unsigned>(channels)) * strides.c;
}

// Copy a vector to shared memory, or zeros where it is not `inside`. The copy runs on by itself until `wait_for_copies`,
// so that a thread has many of them under way without a register for any.
template <class V> DEVICE void copy_to_shared(V* target, const V* source, bool inside) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(V) >= 4) {
        const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(target));
        const int bytes = inside ? static_cast<int>(sizeof(V)) : 0;  // The rest is filled with zeros.
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
