#include "runtime/model/safetensors.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "runtime/model/weights.h"
#include "test/folder.h"
#include "test/test.h"

/* A file of the header text and n bytes of data, all of them 1; freed by the caller. */
static uint8_t *make_file(const char *header, size_t n_data, size_t *len)
{
    struct buffer file = {0};
    uint64_t header_len = strlen(header);
    for (int i = 0; i < 8; i++) {
        uint8_t byte = (uint8_t)(header_len >> (8 * i));
        buffer_append(&file, &byte, 1);
    }
    buffer_append(&file, header, header_len);
    for (size_t i = 0; i < n_data; i++) buffer_append(&file, "\1", 1);
    *len = file.len;
    return (uint8_t *)file.data;
}

/* The header is refused and the line contains all of the texts (NULL ends them). */
static void check_refused(const char *header, size_t n_data, const char *const *texts)
{
    size_t len;
    uint8_t *bytes = make_file(header, n_data, &len);
    struct safetensors *st = NULL;
    struct error err;
    CHECK_INT(safetensors_parse(&st, bytes, len, "x/model.safetensors", &err), ==, -1);
    CHECK(st == NULL && err.kind == ERROR_BAD_REQUEST);
    CHECK(strchr(err.text, '\n') == NULL);
    for (; *texts; texts++)
        if (!strstr(err.text, *texts))
            test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", *texts, err.text);
    free(bytes);
}

#define REFUSED(header, n_data, ...)                                                               \
    check_refused(header, n_data, (const char *const[]){"x/model.safetensors", __VA_ARGS__, NULL})

TEST(tensors_are_found_with_their_shape_and_data)
{
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[8,14]},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}  ";
    size_t len;
    uint8_t *bytes = make_file(header, 14, &len);
    struct safetensors *st;
    struct error err;
    CHECK_INT(safetensors_parse(&st, bytes, len, "f", &err), ==, 0);
    const struct tensor *a = safetensors_find(st, "a"), *b = safetensors_find(st, "b");
    CHECK(a && a->dtype == DTYPE_F32 && a->n_dims == 2 && a->shape[0] == 2 && a->shape[1] == 1);
    CHECK(b && b->dtype == DTYPE_BF16 && b->n_dims == 1 && b->shape[0] == 3 && b->n == 3);
    CHECK(a->data == bytes + len - 14 && b->data == bytes + len - 6);
    CHECK(safetensors_find(st, "__metadata__") == NULL && safetensors_find(st, "c") == NULL);

    const int64_t shape[2] = {1, 2};
    const struct tensor *t;
    CHECK_INT(safetensors_get(st, "a", shape, 2, &t, &err), ==, -1);
    CHECK_STR(err.text, "f: tensor a has shape [2, 1], not [1, 2]");
    CHECK_INT(safetensors_get(st, "b", shape, 2, &t, &err), ==, -1);
    CHECK_STR(err.text, "f: tensor b has shape [3], not [1, 2]");
    CHECK_INT(safetensors_get(st, "c", shape, 2, &t, &err), ==, -1);
    CHECK_STR(err.text, "f: tensor c is missing");
    safetensors_close(st);
    free(bytes);
}

TEST(a_tensor_of_integers_is_refused_only_when_it_is_asked_for)
{
    const char *header = "{\"ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}";
    size_t len;
    uint8_t *bytes = make_file(header, 8, &len);
    struct safetensors *st;
    struct error err;
    CHECK_INT(safetensors_parse(&st, bytes, len, "f", &err), ==, 0);
    CHECK(safetensors_find(st, "ids") == NULL);
    const struct tensor *t;
    CHECK_INT(safetensors_get(st, "ids", (const int64_t[]){1}, 1, &t, &err), ==, -1);
    CHECK_STR(err.text, "f: tensor ids has dtype I64, not F32, F16 or BF16");
    safetensors_close(st);
    free(bytes);
}

TEST(every_broken_header_is_refused_with_a_line_that_names_the_tensor)
{
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 12, "tensor a",
            "[0, 16]", "12 bytes");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]}}", 12, "tensor a",
            "[8, 4]");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 12, "tensor a");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "tensor a",
            "8 bytes", "3 elements");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "tensor a");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],"
            "\"data_offsets\":[0,4]}}",
            4, "tensor a", "too large");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
            "tensor a", "more than 8");
    REFUSED("{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a", "F4");
    REFUSED("{\"a\":7}", 4, "tensor a");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
            12, "a at [0, 8)", "b at [4, 12)", "overlap");
    REFUSED("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
            8, "duplicate");
    REFUSED("[1]", 0, "not a JSON object");
    REFUSED("{\"a\":", 0, "not a JSON object");
    REFUSED("{}", 0, "no tensors");
}

TEST(a_header_longer_than_the_file_is_refused)
{
    size_t len;
    uint8_t *bytes = make_file("{}", 0, &len);
    struct safetensors *st;
    struct error err;
    for (size_t cut = 0; cut < len; cut++)
        CHECK_INT(safetensors_parse(&st, bytes, cut, "f", &err), ==, -1);
    memset(bytes, 0xff, 8);
    CHECK_INT(safetensors_parse(&st, bytes, len, "f", &err), ==, -1);
    CHECK(strstr(err.text, "a header of 18446744073709551615 bytes in a file of 10") != NULL);
    free(bytes);
}

TEST(a_checkpoint_cut_anywhere_is_refused)
{
    size_t len;
    char *bytes = folder_read(test_path("golden/hf/models/llama-tiny-f16/model.safetensors"), &len);
    struct safetensors *st;
    struct error err;
    const size_t cuts[] = {0, 4, 8, 9, 1000, 2152, 2153, len / 2, len - 2, len - 1};
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++)
        CHECK_INT(safetensors_parse(&st, bytes, cuts[i], "f", &err), ==, -1);
    CHECK(strstr(err.text, "f: tensor ") && strstr(err.text, "is the file complete?"));
    CHECK_INT(safetensors_parse(&st, bytes, len, "f", &err), ==, 0);
    safetensors_close(st);
    free(bytes);
}

TEST(shards_are_opened_by_their_index)
{
    struct safetensors *st;
    struct error err;
    CHECK_INT(safetensors_open(&st, test_path("golden/hf/models/llava15-sharded-midnames"), &err),
              ==, 0);
    CHECK(safetensors_find(st, "lm_head.weight") != NULL);
    CHECK(safetensors_find(st, "model.language_model.norm.weight") != NULL);
    safetensors_close(st);
}

static const char *const shard =
    "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";

static void write_shard(struct folder *f, const char *file, const char *tensor)
{
    char header[256];
    snprintf(header, sizeof(header), shard, tensor);
    size_t len;
    uint8_t *bytes = make_file(header, 4, &len);
    folder_write(f, file, bytes, len);
    free(bytes);
}

TEST(a_folder_of_shards_that_does_not_fit_its_index_is_refused)
{
    struct folder f = folder_new();
    struct safetensors *st;
    struct error err;
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    CHECK(strstr(err.text, "neither model.safetensors nor") != NULL);
    folder_write_text(&f, "pytorch_model.bin", "x");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    CHECK(strstr(err.text, "pytorch_model*.bin") && strstr(err.text, "scripts/to-safetensors"));

    const char *index = "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}";
    folder_write_text(&f, "model.safetensors.index.json", index);
    write_shard(&f, "1.safetensors", "a");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    CHECK(strstr(err.text, "/2.safetensors: No such file") != NULL);
    write_shard(&f, "2.safetensors", "c");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    CHECK(strstr(err.text, "tensor b is missing from its file 2.safetensors") != NULL);
    write_shard(&f, "2.safetensors", "a");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    CHECK(strstr(err.text, "tensor a is also in") != NULL);
    write_shard(&f, "2.safetensors", "b");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, 0);
    CHECK(safetensors_find(st, "a") && safetensors_find(st, "b"));
    safetensors_close(st);

    folder_write_text(&f, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../x\"}}");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    folder_write_text(&f, "model.safetensors.index.json", "{\"weight_map\":7}");
    CHECK_INT(safetensors_open(&st, f.path, &err), ==, -1);
    CHECK(strstr(err.text, "weight_map") != NULL);
    folder_remove(&f);
}

/* ---- conversions ------------------------------------------------------------------------------
 */

/* Every 16-bit value that is a number, there and back. */
static void check_round_trip(enum dtype type)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t in = (uint16_t)bits, out = 0;
        float f;
        weights_convert(&f, DTYPE_F32, &in, type, 1);
        weights_convert(&out, type, &f, DTYPE_F32, 1);
        if (f != f) continue;
        CHECK_INT(out, ==, in);
    }
}

TEST(sixteen_bit_numbers_survive_widening)
{
    check_round_trip(DTYPE_F16);
    check_round_trip(DTYPE_BF16);
    const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00};
    const float wanted[] = {1, -2, 0x1p-24F, 65504, INFINITY};
    float got[5];
    weights_convert(got, DTYPE_F32, halves, DTYPE_F16, 5);
    CHECK_CLOSE(got, wanted, 5, 0, 0);
}

TEST(narrowing_rounds_to_nearest_even)
{
    const float in[] = {1 + 0x1p-11F, 1 + 3 * 0x1p-11F, 65519, 65520, 0x1p-25F, 0x1.8p-25F, -1e30F};
    const uint16_t f16[] = {0x3c00, 0x3c02, 0x7bff, 0x7c00, 0x0000, 0x0001, 0xfc00};
    uint16_t out[7];
    weights_convert(out, DTYPE_F16, in, DTYPE_F32, 7);
    for (int i = 0; i < 7; i++) CHECK_INT(out[i], ==, f16[i]);
    const float to_bf16[] = {1 + 0x1p-8F, 1 + 3 * 0x1p-8F, 3.4e38F};
    const uint16_t bf16[] = {0x3f80, 0x3f82, 0x7f80};
    weights_convert(out, DTYPE_BF16, to_bf16, DTYPE_F32, 3);
    for (int i = 0; i < 3; i++) CHECK_INT(out[i], ==, bf16[i]);
    float nan = NAN, back;
    weights_convert(out, DTYPE_F16, &nan, DTYPE_F32, 1);
    weights_convert(&back, DTYPE_F32, out, DTYPE_F16, 1);
    CHECK(back != back);
}
