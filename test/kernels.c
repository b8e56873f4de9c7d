#include "test/kernels.h"

#include "test/test.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef TEST_DEVICE
#define TEST_DEVICE "cpu"
#endif

struct device *kernels_device(int n_threads)
{
    struct device *dev = device_open(TEST_DEVICE, n_threads);
    CHECK(dev != NULL);
    return dev;
}

void kernels_open(struct kernels *k)
{
    *k = (struct kernels){.dev = device_open(TEST_DEVICE, 0)};
    CHECK(k->dev != NULL);
    k->stream = stream_open(k->dev);
    k->ops = device_ops(k->dev);
}

void kernels_close(struct kernels *k)
{
    stream_close(k->stream);
    for (int i = 0; i < k->n_blocks; i++) {
        if (k->blocks[i].is_shared)
            device_free_shared(k->dev, k->blocks[i].p);
        else
            device_free(k->dev, k->blocks[i].p);
    }
    device_close(k->dev);
}

static void *keep(struct kernels *k, void *p, bool is_shared)
{
    CHECK_INT(k->n_blocks, <, KERNELS_MAX_BLOCKS);
    k->blocks[k->n_blocks].p = p;
    k->blocks[k->n_blocks++].is_shared = is_shared;
    return p;
}

void *kernels_empty(struct kernels *k, size_t bytes)
{
    return keep(k, device_alloc(k->dev, bytes, "a test's array"), false);
}

void *kernels_host(struct kernels *k, size_t bytes)
{
    return keep(k, device_alloc_shared(k->dev, bytes, "a test's host array"), true);
}

void kernels_write(struct kernels *k, void *device, const void *host, size_t bytes)
{
    stream_copy_in(k->stream, device, host, bytes);
    stream_wait(k->stream);
}

void *kernels_upload(struct kernels *k, const void *host, size_t bytes)
{
    void *p = kernels_empty(k, bytes);
    kernels_write(k, p, host, bytes);
    return p;
}

void *kernels_download(struct kernels *k, const void *device, size_t bytes)
{
    void *host = kernels_host(k, bytes);
    stream_copy_out(k->stream, host, device, bytes);
    stream_wait(k->stream);
    return host;
}

/* xorshift32 */
static uint32_t next_random(unsigned *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

int kernels_random_int(unsigned *state, int n)
{
    return (int)(next_random(state) % (unsigned)n);
}

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* By arithmetic on the value, so that it shares nothing with the code under test. */
static uint16_t to_f16(float x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs((double)x);
    int exponent;
    frexp(a, &exponent); /* a = m 2^exponent, m in [0.5, 1) */
    if (a == 0) return sign;
    if (exponent < -13) exponent = -13; /* subnormals */
    double units = nearbyint(ldexp(a, 11 - exponent));
    uint16_t biased = (uint16_t)(exponent + 13); /* the implicit bit adds one */
    CHECK(units + biased * 1024.0 < 0x7c00);
    return sign | (uint16_t)(units + biased * 1024.0);
}

static float from_f16(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double a = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return (float)(h & 0x8000 ? -a : a);
}

static void to_dtype(void *out, size_t i, float x, enum dtype t)
{
    if (t == DTYPE_F32) ((float *)out)[i] = x;
    if (t == DTYPE_F16) ((uint16_t *)out)[i] = to_f16(x);
    if (t == DTYPE_BF16) ((uint16_t *)out)[i] = to_bf16(x);
}

void *kernels_to_dtype(struct kernels *k, const float *x, size_t n, enum dtype t)
{
    void *out = kernels_host(k, n * dtype_size(t));
    for (size_t i = 0; i < n; i++) to_dtype(out, i, x[i], t);
    return out;
}

float kernels_from_dtype(const void *x, size_t i, enum dtype t)
{
    if (t == DTYPE_F32) return ((const float *)x)[i];
    if (t == DTYPE_F16) return from_f16(((const uint16_t *)x)[i]);
    uint32_t bits = (uint32_t)((const uint16_t *)x)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

float kernels_round_act(const struct kernels *k, float x)
{
    float rounded = 0;
    to_dtype(&rounded, 0, x, k->ops->act);
    return kernels_from_dtype(&rounded, 0, k->ops->act);
}

float *kernels_random(struct kernels *k, size_t n, float scale, unsigned seed)
{
    float *x = kernels_host(k, n * sizeof(*x));
    unsigned state = seed * 2654435761u + 12345;
    for (size_t i = 0; i < n; i++) {
        float value = ((float)(next_random(&state) >> 8) + 0.5f) * 0x1p-23f - 1;
        x[i] = kernels_round_act(k, scale * value);
    }
    return x;
}

/* ---- activations -----------------------------------------------------------------------------
 */

double kernels_rounding(const struct kernels *k)
{
    return k->ops->act == DTYPE_F16 ? 0x1p-11 : k->ops->act == DTYPE_BF16 ? 0x1p-8 : 0;
}

int kernels_max_head_dim(void)
{
    return strcmp(TEST_DEVICE, "cpu") == 0 ? 256 : 128;
}

void *kernels_at_act(const struct kernels *k, void *device, size_t i)
{
    return (char *)device + i * dtype_size(k->ops->act);
}

void *kernels_empty_act(struct kernels *k, size_t n)
{
    return kernels_empty(k, n * dtype_size(k->ops->act));
}

void kernels_write_act(struct kernels *k, void *device, const float *x, size_t n)
{
    const size_t size = dtype_size(k->ops->act);
    char *bytes = malloc(n * size + 1);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            memset(bytes + i * size, 0xff, size);
        else
            to_dtype(bytes, i, x[i], k->ops->act);
    }
    kernels_write(k, device, bytes, n * size);
    free(bytes);
}

void *kernels_upload_act(struct kernels *k, const float *x, size_t n)
{
    void *p = kernels_empty_act(k, n);
    kernels_write_act(k, p, x, n);
    return p;
}

float *kernels_download_act(struct kernels *k, const void *device, size_t n)
{
    if (k->ops->act == DTYPE_F32) return kernels_download(k, device, n * sizeof(float));
    const uint16_t *bits = kernels_download(k, device, n * sizeof(*bits));
    float *x = kernels_host(k, n * sizeof(*x));
    for (size_t i = 0; i < n; i++) {
        if (bits[i] == 0xffff)
            memset(&x[i], 0xff, sizeof(x[i]));
        else
            x[i] = kernels_from_dtype(bits, i, k->ops->act);
    }
    return x;
}

void kernels_check_untouched(const char *file, int line, const void *host, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const unsigned char *)host)[i] != 0xff)
            test_fail(file, line, "byte %zu of %zu was written", i, bytes);
}

void kernels_check_same_bits(const char *file, int line, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits_a, bits_b;
        memcpy(&bits_a, &a[i], sizeof(bits_a));
        memcpy(&bits_b, &b[i], sizeof(bits_b));
        if (bits_a != bits_b)
            test_fail(file, line, "element %zu of %zu: %.9g and %.9g", i, n, (double)a[i],
                      (double)b[i]);
    }
}
