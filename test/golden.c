#include "test/golden.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/test.h"

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

/* A file is: uint64 n (little endian), n bytes of JSON, data.  The JSON maps a name to {"dtype",
 * "shape", "data_offsets": [begin, end]}, where offsets count from the first byte of data. */
struct golden {
    char *path;
    json_t *header;
    uint8_t *data; /* from malloc, so an aligned offset is an aligned pointer */
    size_t data_len;
};

static void *must(void *p)
{
    if (!p) FAIL("out of memory");
    return p;
}

uint8_t *golden_bytes(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) FAIL("%s: %s", path, strerror(errno));
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = must(malloc(*len + 1));
    if (fread(bytes, 1, *len, f) != *len) FAIL("%s: ends early", path);
    fclose(f);
    return bytes;
}

struct golden *golden_open(const char *path)
{
    size_t file_len;
    uint8_t *file = golden_bytes(path, &file_len);
    uint64_t header_len = 0;
    if (file_len >= 8) memcpy(&header_len, file, sizeof(header_len));
    if (file_len < 8 || header_len > file_len - 8)
        FAIL("%s: a header of %llu bytes in a file of %zu", path, (unsigned long long)header_len,
             file_len);

    struct golden *g = must(calloc(1, sizeof(*g)));
    g->path = must(strdup(path));
    json_error_t error;
    g->header = json_loadb((char *)file + 8, header_len, JSON_REJECT_DUPLICATES, &error);
    if (!g->header) FAIL("%s: header: %s", path, error.text);
    g->data_len = file_len - 8 - header_len;
    g->data = must(malloc(g->data_len + 1));
    memcpy(g->data, file + 8 + header_len, g->data_len);
    free(file);
    return g;
}

void golden_close(struct golden *g)
{
    if (!g) return;
    json_decref(g->header);
    free(g->data);
    free(g->path);
    free(g);
}

bool golden_has(const struct golden *g, const char *name)
{
    return json_object_get(g->header, name) != NULL;
}

static const json_t *find(const struct golden *g, const char *name)
{
    const json_t *tensor = json_object_get(g->header, name);
    if (!tensor) FAIL("%s: has no tensor \"%s\"", g->path, name);
    return tensor;
}

int golden_shape(const struct golden *g, const char *name, int64_t shape[8])
{
    const json_t *dims = json_object_get(find(g, name), "shape");
    size_t n_dims = json_array_size(dims);
    if (!json_is_array(dims) || n_dims > 8) FAIL("%s: %s: bad shape", g->path, name);
    for (size_t i = 0; i < n_dims; i++) shape[i] = json_integer_value(json_array_get(dims, i));
    return (int)n_dims;
}

static const void *elements(const struct golden *g, const char *name, const char *dtype,
                            const char *or_dtype, size_t size, size_t *n_out)
{
    const json_t *tensor = find(g, name);
    const char *has = json_string_value(json_object_get(tensor, "dtype"));
    if (!has || (strcmp(has, dtype) != 0 && strcmp(has, or_dtype) != 0))
        FAIL("%s: %s is %s, not %s", g->path, name, has ? has : "untyped", dtype);

    int64_t shape[8];
    int n_dims = golden_shape(g, name, shape);
    size_t n = 1;
    for (int i = 0; i < n_dims; i++) n *= (size_t)shape[i];
    const json_t *offsets = json_object_get(tensor, "data_offsets");
    json_int_t begin = json_integer_value(json_array_get(offsets, 0));
    json_int_t end = json_integer_value(json_array_get(offsets, 1));
    if (json_array_size(offsets) != 2 || begin < 0 || end < begin || (size_t)end > g->data_len ||
        (size_t)(end - begin) != n * size || (size_t)begin % size != 0)
        FAIL("%s: %s: bytes %lld to %lld for %zu elements", g->path, name, (long long)begin,
             (long long)end, n);
    if (n_out) *n_out = n;
    return g->data + begin;
}

const float *golden_f32(const struct golden *g, const char *name, size_t *n)
{
    return elements(g, name, "F32", "F32", sizeof(float), n);
}

const int32_t *golden_i32(const struct golden *g, const char *name, size_t *n)
{
    return elements(g, name, "I32", "I32", sizeof(int32_t), n);
}

const uint8_t *golden_u8(const struct golden *g, const char *name, size_t *n)
{
    return elements(g, name, "U8", "U8", sizeof(uint8_t), n);
}

const uint16_t *golden_bits16(const struct golden *g, const char *name, size_t *n)
{
    return elements(g, name, "F16", "BF16", sizeof(uint16_t), n);
}

size_t golden_n_samples(size_t n)
{
    return n < 4096 ? n : 4096;
}

size_t golden_sample_index(size_t n, size_t k)
{
    if (n <= 4096) return k;
    return k * n / 4096 + k * 7919 % (n / 4096);
}
