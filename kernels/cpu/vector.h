/* Eight floats at a time, in GCC's vector extensions: one source for every machine.  Only what the
 * extensions cannot say (fused multiply-add, half precision) has a second, slower form for machines
 * without the instruction; both give the same bits.
 *
 * The compiler contracts nothing (-ffp-contract=off comes with -std=c17), so an expression rounds
 * as it is written wherever it is inlined. */
#ifndef KERNELS_CPU_VECTOR_H
#define KERNELS_CPU_VECTOR_H

#include "kernels/ops.h"

#include <math.h>
#include <string.h>
#if defined(__FMA__) || defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

enum { VEC = 8 };

typedef float vec __attribute__((vector_size(32)));
typedef int32_t veci __attribute__((vector_size(32)));
typedef uint32_t vecu __attribute__((vector_size(32)));
typedef uint16_t vech __attribute__((vector_size(16)));

/* Below these an operation stays on one thread: so many elements moved or normalised, or so many
 * multiply-adds, take about 100 us.  A parallel region costs 1-2 us where the workers are spinning,
 * but 18 to 50 us were measured where others take turns on the same cores, and then a small model
 * was slower on two cores than on one. */
enum { PARALLEL_WORK = 1 << 19, PARALLEL_FMAS = 1 << 22 };

static inline vec vec_load(const float *p)
{
    vec x;
    memcpy(&x, p, sizeof(x));
    return x;
}

static inline void vec_store(float *p, vec x)
{
    memcpy(p, &x, sizeof(x));
}

/* The first n <= VEC elements, zeros behind them. */
static inline vec vec_load_n(const float *p, int n)
{
    if (n == VEC) return vec_load(p);
    vec x = {0};
    memcpy(&x, p, (size_t)n * sizeof(*p));
    return x;
}

static inline void vec_store_n(float *p, vec x, int n)
{
    if (n == VEC)
        vec_store(p, x);
    else
        memcpy(p, &x, (size_t)n * sizeof(*p));
}

static inline vec vec_set(float x)
{
    return (vec){x, x, x, x, x, x, x, x};
}

/* a * b + c, rounded once. */
static inline vec vec_fma(vec a, vec b, vec c)
{
#ifdef __FMA__
    return _mm256_fmadd_ps(a, b, c);
#else
    for (int i = 0; i < VEC; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

/* Lanes of a where the mask is -1, of b where it is 0. */
static inline vec vec_select(veci mask, vec a, vec b)
{
    return (vec)(((veci)a & mask) | ((veci)b & ~mask));
}

static inline vec vec_max(vec a, vec b)
{
    return vec_select(a > b, a, b);
}

/* out[i] = sum of x[i], always by the same tree: ((0 + 2) + (1 + 3)) + ((4 + 6) + (5 + 7)). */
static inline vec vec_sum8(const vec x[VEC])
{
    vec pair[4], quad[2];
    for (int i = 0; i < 4; i++) {
        vec a = x[2 * i], b = x[2 * i + 1];
        pair[i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
                  __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 2; i++) {
        vec a = pair[2 * i], b = pair[2 * i + 1];
        quad[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
                  __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    return __builtin_shufflevector(quad[0], quad[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(quad[0], quad[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

static inline float vec_sum(vec x)
{
    return ((x[0] + x[2]) + (x[1] + x[3])) + ((x[4] + x[6]) + (x[5] + x[7]));
}

static inline float vec_largest(vec x)
{
    float largest = x[0];
    for (int i = 1; i < VEC; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* e^x within 1.1 units of the last place (test/unit/vector_test.c); subnormal results too, NaN
 * stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial is Cephes' expf. */
static inline vec vec_exp(vec x)
{
    x = vec_select(x > vec_set(89), vec_set(89), x);
    x = vec_select(x < vec_set(-104), vec_set(-104), x);
    const vec round = vec_set(0x1.8p23f); /* adding it leaves no fraction bits */
    vec n = vec_fma(x, vec_set(0x1.715476p0f), round) - round;
    vec r = vec_fma(n, vec_set(-0x1.62e4p-1f), x);
    r = vec_fma(n, vec_set(-0x1.7f7d1cp-20f), r);
    vec p = vec_set(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set(5.0000001201e-1f));
    p = vec_fma(p, r * r, r) + vec_set(1);
    /* 2^n in two factors, since n may lie outside the exponents of normal numbers. */
    veci exponent = __builtin_convertvector(n, veci), half = exponent >> 1;
    vec a = (vec)((half + 127) << 23), b = (vec)((exponent - half + 127) << 23);
    return p * a * b;
}

static inline vec vec_sigmoid(vec x)
{
    return vec_set(1) / (vec_set(1) + vec_exp(-x));
}

static inline vec vec_activate(vec x, enum activation activation)
{
    if (activation == ACT_QUICK_GELU) return x * vec_sigmoid(vec_set(1.702f) * x);
    if (activation == ACT_GELU)
        for (int i = 0; i < VEC; i++) x[i] = 0.5f * x[i] * (1 + erff(x[i] * 0x1.6a09e6p-1f));
    return x;
}

/* Zero-extends, in one instruction; GCC 12 makes four of __builtin_convertvector. */
static inline vecu vec_from_u16(vech bits)
{
#ifdef __AVX2__
    return (vecu)_mm256_cvtepu16_epi32((__m128i)bits);
#else
    return __builtin_convertvector(bits, vecu);
#endif
}

static inline vec vec_from_bf16(vech bits)
{
    return (vec)(vec_from_u16(bits) << 16);
}

static inline vec vec_from_f16(vech bits)
{
#ifdef __F16C__
    return _mm256_cvtph_ps((__m128i)bits);
#else
    vecu wide = vec_from_u16(bits);
    vecu magnitude = (wide & 0x7fff) << 13;
    vec value = (vec)magnitude * vec_set(0x1p112f);         /* exact, subnormals too */
    vecu is_special = (vecu)(magnitude >= (0x7c00u << 13)); /* infinity, NaN */
    vecu special = magnitude | 0x7f800000u;
    return (vec)(((vecu)value & ~is_special) | (special & is_special) | (wide & 0x8000) << 16);
#endif
}

/* Eight values of type t, widened. */
static inline vec vec_load_as(const void *p, enum dtype t)
{
    vech bits;
    if (t == DTYPE_F32) return vec_load(p);
    memcpy(&bits, p, sizeof(bits));
    return t == DTYPE_F16 ? vec_from_f16(bits) : vec_from_bf16(bits);
}

/* ---- the machine's widest vectors, for gemm; elsewhere short heads and rows would not fill them
 *      -------------------------------------------------------------------------------------- */

#ifdef __AVX512F__
enum { WIDE = 16 };
typedef float wide __attribute__((vector_size(64)));

static inline wide wide_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void wide_store(float *p, wide x)
{
    _mm512_storeu_ps(p, x);
}

static inline wide wide_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline wide wide_fma(wide a, wide b, wide c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline wide wide_load_as(const void *p, enum dtype t)
{
    if (t == DTYPE_F32) return wide_load(p);
    __m256i bits = _mm256_loadu_si256(p);
    if (t == DTYPE_F16) return _mm512_cvtph_ps(bits);
    return (wide)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
#else
enum { WIDE = VEC };
typedef vec wide;
#define wide_load    vec_load
#define wide_store   vec_store
#define wide_set     vec_set
#define wide_fma     vec_fma
#define wide_load_as vec_load_as
#endif

/* out[i] = in[i] for n values of type t. */
static inline void widen(float *out, const void *in, enum dtype t, int n)
{
    const char *p = in;
    size_t size = t == DTYPE_F32 ? 4 : 2;
    int i = 0;
    for (; i + VEC <= n; i += VEC) vec_store(out + i, vec_load_as(p + (size_t)i * size, t));
    if (i == n) return;
    float tail[VEC] = {0};
    memcpy(tail, p + (size_t)i * size, (size_t)(n - i) * size);
    vec_store(tail, vec_load_as(tail, t));
    memcpy(out + i, tail, (size_t)(n - i) * sizeof(float));
}

#endif
