#include "runtime/model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"

/* ---- number formats ------------------------------------------------------------------------- */

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent > 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f; /* subnormal or zero: exact */
    return from_bits(sign | to_bits(tiny));
}

static uint16_t float_to_f16(float f)
{
    uint32_t bits = to_bits(f), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (magnitude < 0x38800000) {                                  /* below 2^-14: subnormal */
        /* Adding 0.5 puts the wanted bits at the bottom of the sum, rounded by the addition. */
        uint32_t sum = to_bits(from_bits(magnitude) + 0.5f);
        return (uint16_t)(sign | (sum - to_bits(0.5f)));
    }
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

static float bf16_to_float(uint16_t b)
{
    return from_bits((uint32_t)b << 16);
}

static uint16_t float_to_bf16(float f)
{
    uint32_t bits = to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays one */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void weights_convert(void *out, enum dtype to, const void *in, enum dtype from, size_t n)
{
    if (to == from) {
        memcpy(out, in, n * dtype_size(to));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float f;
        uint16_t half;
        if (from == DTYPE_F32) {
            memcpy(&f, (const char *)in + 4 * i, sizeof(f));
        } else {
            memcpy(&half, (const char *)in + 2 * i, sizeof(half));
            f = from == DTYPE_F16 ? f16_to_float(half) : bf16_to_float(half);
        }
        if (to == DTYPE_F32) {
            ((float *)out)[i] = f;
        } else {
            ((uint16_t *)out)[i] = to == DTYPE_F16 ? float_to_f16(f) : float_to_bf16(f);
        }
    }
}

/* ---- tensors -------------------------------------------------------------------------------- */

const char *weights_name(char text[WEIGHTS_NAME_SIZE], const char *prefix, const char *name)
{
    snprintf(text, WEIGHTS_NAME_SIZE, "%s%s", prefix, name);
    return text;
}

bool weights_has(const struct weights *w, const char *name)
{
    char text[WEIGHTS_NAME_SIZE];
    return safetensors_find(w->st, weights_name(text, w->prefix, name)) != NULL;
}

void *weights_upload(struct device *dev, const void *host, size_t bytes, const char *what)
{
    void *p = device_alloc(dev, bytes, what);
    device_write(dev, p, host, bytes);
    return p;
}

/* The parts one below the other in host memory; n_in 0: vectors.  In the parts' own type if it is
 * one and `type` leaves the choice (asks for none), else in *type. */
static int gather(void **out, enum dtype *type, bool keeps_type, const struct weights *w,
                  const struct weights_part *parts, int n_parts, int n_in, struct error *err)
{
    const struct tensor *t[WEIGHTS_MAX_PARTS] = {NULL};
    size_t n = 0;
    bool is_one_type = true;
    for (int i = 0; i < n_parts; i++) {
        char text[WEIGHTS_NAME_SIZE];
        int64_t shape[2] = {parts[i].n_rows, n_in};
        if (safetensors_get(w->st, weights_name(text, w->prefix, parts[i].name), shape,
                            n_in ? 2 : 1, &t[i], err) != 0)
            return -1;
        n += t[i]->n;
        is_one_type = is_one_type && t[i]->dtype == t[0]->dtype;
    }
    if (keeps_type) *type = is_one_type ? t[0]->dtype : DTYPE_F32;
    char *bytes = xcalloc(n, dtype_size(*type)), *end = bytes;
    for (int i = 0; i < n_parts; i++) {
        weights_convert(end, *type, t[i]->data, t[i]->dtype, t[i]->n);
        end += t[i]->n * dtype_size(*type);
    }
    *out = bytes;
    return 0;
}

static int n_rows(const struct weights_part *parts, int n_parts)
{
    int n = 0;
    for (int i = 0; i < n_parts; i++) n += parts[i].n_rows;
    return n;
}

int weights_packed(struct packed **out, const struct weights *w, const struct weights_part *parts,
                   int n_parts, int n_in, int pair, struct error *err)
{
    const struct ops *ops = device_ops(w->dev);
    if (n_parts == 1) {
        char text[WEIGHTS_NAME_SIZE];
        int64_t shape[2] = {parts[0].n_rows, n_in};
        const struct tensor *t;
        weights_name(text, w->prefix, parts[0].name);
        if (safetensors_get(w->st, text, shape, 2, &t, err) != 0) return -1;
        if ((uintptr_t)t->data % dtype_size(t->dtype) == 0) { /* straight from the mapping */
            *out = ops->pack(w->dev, t->data, t->dtype, parts[0].n_rows, n_in, pair);
            return 0;
        }
    }
    void *merged;
    enum dtype type;
    if (gather(&merged, &type, true, w, parts, n_parts, n_in, err) != 0) return -1;
    *out = ops->pack(w->dev, merged, type, n_rows(parts, n_parts), n_in, pair);
    free(merged);
    return 0;
}

/* Merged parts of one type in device memory. */
static int upload_parts(void **out, enum dtype type, const struct weights *w,
                        const struct weights_part *parts, int n_parts, int n_in, struct error *err)
{
    void *merged;
    if (gather(&merged, &type, false, w, parts, n_parts, n_in, err) != 0) return -1;
    size_t n = (size_t)n_rows(parts, n_parts) * (size_t)(n_in ? n_in : 1);
    *out = weights_upload(w->dev, merged, n * dtype_size(type), parts[0].name);
    free(merged);
    return 0;
}

int weights_vector(float **out, const struct weights *w, const struct weights_part *parts,
                   int n_parts, struct error *err)
{
    void *p;
    if (upload_parts(&p, DTYPE_F32, w, parts, n_parts, 0, err) != 0) return -1;
    *out = p;
    return 0;
}

int weights_plain(void **out, const struct weights *w, const struct weights_part *parts,
                  int n_parts, int n_in, struct error *err)
{
    return upload_parts(out, device_ops(w->dev)->act, w, parts, n_parts, n_in, err);
}

int weights_raw(void **out, enum dtype *type, const struct weights *w, const char *name,
                const int64_t *shape, int n_dims, struct error *err)
{
    char text[WEIGHTS_NAME_SIZE];
    const struct tensor *t;
    weights_name(text, w->prefix, name);
    if (safetensors_get(w->st, text, shape, n_dims, &t, err) != 0) return -1;
    *out = weights_upload(w->dev, t->data, t->n * dtype_size(t->dtype), text);
    *type = t->dtype;
    return 0;
}

static int upload_tensor(void **out, enum dtype type, const struct weights *w, const char *name,
                         const int64_t *shape, int n_dims, struct error *err)
{
    char text[WEIGHTS_NAME_SIZE];
    const struct tensor *t;
    weights_name(text, w->prefix, name);
    if (safetensors_get(w->st, text, shape, n_dims, &t, err) != 0) return -1;
    void *host = xcalloc(t->n, dtype_size(type));
    weights_convert(host, type, t->data, t->dtype, t->n);
    *out = weights_upload(w->dev, host, t->n * dtype_size(type), text);
    free(host);
    return 0;
}

int weights_plain_tensor(void **out, const struct weights *w, const char *name,
                         const int64_t *shape, int n_dims, struct error *err)
{
    return upload_tensor(out, device_ops(w->dev)->act, w, name, shape, n_dims, err);
}

int weights_float_tensor(float **out, const struct weights *w, const char *name,
                         const int64_t *shape, int n_dims, struct error *err)
{
    void *p;
    if (upload_tensor(&p, DTYPE_F32, w, name, shape, n_dims, err) != 0) return -1;
    *out = p;
    return 0;
}
