#include "runtime/image/decode.h"

#include <stdint.h>
#include <stdio.h> /* jpeglib.h needs it */
#include <stdlib.h>

#include <jansson.h>
#include <jpeglib.h>

#include "runtime/mem.h"
#include "test/golden.h"
#include "test/image_file.h"
#include "test/test.h"

#define IMAGES "golden/hf/images/"

static void check_bytes_refused(const char *bytes, size_t len, const char *code, const char *part)
{
    struct image_file f = image_file_of(bytes, len);
    image_file_check_refused(&f, &image_limits_default, code, part);
    free(f.bytes);
}

/* ---- making files ---- */

struct jpeg_kind {
    int width, height, n_components;
    bool is_progressive, is_arithmetic;
};

static struct image_file make_jpeg(struct jpeg_kind kind)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned char *bytes = NULL;
    unsigned long len = 0;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &bytes, &len);
    jpeg.image_width = (JDIMENSION)kind.width;
    jpeg.image_height = (JDIMENSION)kind.height;
    jpeg.input_components = kind.n_components;
    jpeg.in_color_space = kind.n_components == 1   ? JCS_GRAYSCALE
                          : kind.n_components == 3 ? JCS_RGB
                          : kind.n_components == 4 ? JCS_CMYK
                                                   : JCS_UNKNOWN;
    jpeg_set_defaults(&jpeg);
    if (kind.is_progressive) jpeg_simple_progression(&jpeg);
    jpeg.arith_code = kind.is_arithmetic;
    jpeg_start_compress(&jpeg, TRUE);
    uint8_t *row = xcalloc((size_t)kind.width, (size_t)kind.n_components);
    for (int y = 0; y < kind.height; y++) {
        for (int i = 0; i < kind.width * kind.n_components; i++) row[i] = (uint8_t)(i * 3 + y * 5);
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    struct image_file f = image_file_of(bytes, len);
    free(bytes);
    free(row);
    return f;
}

static void append_number(struct buffer *b, uint32_t n)
{
    uint8_t bytes[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    buffer_append(b, bytes, 4);
}

static void append_chunk(struct buffer *b, const char *name, const void *data, size_t len)
{
    append_number(b, (uint32_t)len);
    size_t start = b->len;
    buffer_append(b, name, 4);
    buffer_append(b, data, len);
    uint32_t crc = 0xffffffff;
    for (size_t i = start; i < b->len; i++) {
        crc ^= (uint8_t)b->data[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    append_number(b, ~crc);
}

static void append_header(struct buffer *b, uint32_t width, uint32_t height)
{
    uint8_t ihdr[13] = {0};
    for (int i = 0; i < 4; i++) {
        ihdr[i] = (uint8_t)(width >> (24 - 8 * i));
        ihdr[4 + i] = (uint8_t)(height >> (24 - 8 * i));
    }
    ihdr[8] = 8; /* bits, grey */
    buffer_append(b, "\x89PNG\r\n\x1a\n", 8);
    append_chunk(b, "IHDR", ihdr, sizeof(ihdr));
}

/* Grey, every pixel its x + y; the zlib stream is one stored block.  `optional` is put in as a
 * chunk before the pixels or behind them. */
static struct image_file make_png(uint32_t width, uint32_t height, const char *optional,
                                  const void *data, size_t data_len, bool is_behind)
{
    struct buffer b = {0}, z = {0};
    append_header(&b, width, height);
    if (optional && !is_behind) append_chunk(&b, optional, data, data_len);
    uint32_t n = (width + 1) * height, adler_a = 1, adler_b = 0;
    CHECK(n < 65536);
    uint8_t start[] = {0x78, 1, 1, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)~n, (uint8_t)(~n >> 8)};
    buffer_append(&z, start, sizeof(start));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t x = i % (width + 1);
        uint8_t value = (uint8_t)(x == 0 ? 0 : x - 1 + i / (width + 1)); /* 0: the row's filter */
        buffer_append(&z, &value, 1);
        adler_a = (adler_a + value) % 65521;
        adler_b = (adler_b + adler_a) % 65521;
    }
    append_number(&z, adler_b << 16 | adler_a);
    append_chunk(&b, "IDAT", z.data, z.len);
    if (optional && is_behind) append_chunk(&b, optional, data, data_len);
    append_chunk(&b, "IEND", "", 0);
    struct image_file f = image_file_of(b.data, b.len);
    buffer_done(&b);
    buffer_done(&z);
    return f;
}

static struct image_file make_plain_png(uint32_t width, uint32_t height)
{
    return make_png(width, height, NULL, NULL, 0, false);
}

/* ---- the golden pictures ---- */

/* Where the reference's default is not ours; see preprocess_test.c. */
static bool is_our_behaviour(const char *key)
{
    static const char *const others[] = {"09_rgba", "11_palette4_trns", "12_gray16", "21_graya"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (strcmp(key, others[i]) == 0) return false;
    return true;
}

static void check_picture(const char *key, const struct picture *p, const json_t *info,
                          const struct golden *golden)
{
    int width, height;
    CHECK(json_unpack((json_t *)info, "{s:[i,i,*]}", "shape_hwc", &height, &width) == 0);
    CHECK_INT(p->width, ==, width);
    CHECK_INT(p->height, ==, height);
    size_t n = (size_t)width * (size_t)height * 3, n_samples;
    char name[100];
    snprintf(name, sizeof(name), "%s.val", key);
    const uint8_t *want = golden_u8(golden, name, &n_samples);
    CHECK_INT(n_samples, ==, golden_n_samples(n));
    for (size_t k = 0; k < n_samples; k++)
        if (p->rgb[golden_sample_index(n, k)] != want[k])
            test_fail(__FILE__, __LINE__, "%s: sample %zu is %d, not %d", key, k,
                      p->rgb[golden_sample_index(n, k)], want[k]);
    for (size_t c = 0; c < 3; c++) {
        double sum = 0;
        for (size_t i = c; i < n; i += 3) sum += p->rgb[i];
        double mean = json_number_value(json_array_get(json_object_get(info, "mean"), c));
        if (!(fabs(sum * 3 / (double)n - mean) < 1e-7)) /* printed to 7 digits */
            test_fail(__FILE__, __LINE__, "%s: channel %zu has mean %.7f, not %.7f", key, c,
                      sum * 3 / (double)n, mean);
    }
}

TEST(every_golden_picture_is_decoded_to_the_reference_s_bytes)
{
    struct golden *golden = golden_open(test_path("golden/hf/preprocess/decoded.safetensors"));
    json_t *cases = json_load_file(test_path("golden/hf/preprocess/preprocess.json"), 0, NULL);
    size_t i, n_checked = 0;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        const char *key = json_string_value(json_object_get(one, "key"));
        if (!is_our_behaviour(key)) continue;
        char name[100];
        snprintf(name, sizeof(name), IMAGES "%s", json_string_value(json_object_get(one, "file")));
        struct image_file f = image_file_read(name);
        if (strstr(key, "_noexif")) /* then hide it */
            ((uint8_t *)memmem(f.bytes, f.len, "Exif", 4))[0] = 'e';
        struct picture p = image_file_decode(&f);
        check_picture(key, &p, json_object_get(one, "decoded"), golden);
        picture_done(&p);
        free(f.bytes);
        n_checked++;
    }
    CHECK_INT(n_checked, ==, 23);
    json_decref(cases);
    golden_close(golden);
}

TEST(four_components_are_inverted_with_and_without_adobe_s_marker)
{
    struct image_file f = image_file_read(IMAGES "04_cmyk.jpg");
    struct picture with = image_file_decode(&f);
    uint8_t *marker = memmem(f.bytes, f.len, "Adobe", 5);
    CHECK(marker != NULL);
    marker[0] = 'a';
    struct picture without = image_file_decode(&f);
    CHECK(memcmp(with.rgb, without.rgb, (size_t)with.width * (size_t)with.height * 3) == 0);
    picture_done(&with);
    picture_done(&without);
    free(f.bytes);
}

/* ---- what is accepted ---- */

TEST(every_size_from_1_to_64_is_decoded)
{
    for (int width = 1; width <= 64; width++)
        for (int height = 1; height <= 64; height += width % 7 + 1) {
            struct image_file f = make_plain_png((uint32_t)width, (uint32_t)height);
            struct picture p = image_file_decode(&f);
            CHECK_INT(p.width, ==, width);
            CHECK_INT(p.height, ==, height);
            int last = width * height - 1;
            CHECK_INT(p.rgb[(size_t)last * 3 + 2], ==, (width - 1) + (height - 1));
            picture_done(&p);
            free(f.bytes);
            f = make_jpeg((struct jpeg_kind){width, height, 1 + 2 * (height % 2), width % 2, 0});
            p = image_file_decode(&f);
            CHECK_INT(p.width, ==, width);
            CHECK_INT(p.height, ==, height);
            picture_done(&p);
            free(f.bytes);
        }
}

TEST(bytes_behind_the_end_of_the_image_are_ignored)
{
    struct image_file files[] = {make_jpeg((struct jpeg_kind){9, 9, 3, 0, 0}),
                                 make_plain_png(9, 9)};
    for (int i = 0; i < 2; i++) {
        files[i].bytes = xrealloc(files[i].bytes, files[i].len + 10);
        memset(files[i].bytes + files[i].len, 'x', 10);
        files[i].len += 10;
        struct picture p = image_file_decode(&files[i]);
        picture_done(&p);
        free(files[i].bytes);
    }
}

TEST(the_orientation_in_a_png_is_applied_wherever_it_stands)
{
    static const uint8_t tiff[] = {'M', 'M',  0, 42, 0, 0, 0, 8, 0, 1, /* */
                                   1,   0x12, 0, 3,  0, 0, 0, 1, 0, 6, 0, 0};
    for (int is_behind = 0; is_behind < 2; is_behind++) {
        struct image_file f = make_png(5, 3, "eXIf", tiff, sizeof(tiff), is_behind);
        struct picture p = image_file_decode(&f);
        CHECK_INT(p.width, ==, 3);
        CHECK_INT(p.height, ==, 5);
        CHECK_INT(p.rgb[0], ==, 2); /* was the lower left */
        picture_done(&p);
        free(f.bytes);
    }
}

TEST(text_and_profiles_in_a_png_are_skipped_unread)
{
    /* As compressed data these are garbage, which nobody may notice. */
    static const char *const names[] = {"iCCP", "zTXt", "iTXt", "tEXt", "sPLT", "gAMA", "abCd"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct image_file f = make_png(5, 3, names[i], "name\0\0garbage", 13, false);
        struct picture p = image_file_decode(&f);
        picture_done(&p);
        free(f.bytes);
    }
}

/* ---- what is refused ---- */

TEST(what_is_of_another_format_is_refused_by_name_and_the_supported_ones_are_said)
{
#define CHECK_UNSUPPORTED(bytes, part)                                                             \
    check_bytes_refused(bytes, sizeof(bytes) - 1, "unsupported_image_media_type", part)
    CHECK_UNSUPPORTED("BM\x3a\0\0\0\0\0\0\0\x36\0", "BMP images are not supported");
    CHECK_UNSUPPORTED("MM\0*\0\0\0\x8", "TIFF images are not supported");
    CHECK_UNSUPPORTED("\0\0\0\x20"
                      "ftypheic",
                      "HEIF images are not supported");
    CHECK_UNSUPPORTED("<svg></svg>", "no known image format");
    CHECK_UNSUPPORTED("\xff", "supported image formats: JPEG, PNG, WebP, GIF");
    CHECK_UNSUPPORTED("RIFF\x1a\0\0\0WAVE", "supported image formats: JPEG, PNG, WebP, GIF");
    check_bytes_refused("", 0, "empty_image_file", "no bytes");
}

TEST(a_file_above_the_limit_is_refused_by_its_size)
{
    struct image_file f = make_plain_png(9, 9);
    struct image_limits limits = image_limits_default;
    limits.max_file_len = f.len;
    struct picture p;
    struct error err;
    CHECK_INT(decode_image(f.bytes, f.len, &limits, &p, &err), ==, 0);
    picture_done(&p);
    limits.max_file_len = 100;
    image_file_check_refused(&f, &limits, "image_file_too_large", "the limit is 100");
    free(f.bytes);
}

static void check_png_size(uint32_t width, uint32_t height, const char *code, const char *part)
{
    struct buffer b = {0};
    append_header(&b, width, height);
    struct image_file f = image_file_of(b.data, b.len);
    image_file_check_refused(&f, &image_limits_default, code, part);
    free(f.bytes);
    buffer_done(&b);
}

/* A JPEG whose header claims another size. */
static void check_jpeg_size(unsigned width, unsigned height, const char *code, const char *part)
{
    struct image_file f = make_jpeg((struct jpeg_kind){16, 16, 3, false, false});
    uint8_t *sof = memmem(f.bytes, f.len, "\xff\xc0\0\x11\x08", 5);
    CHECK(sof != NULL);
    uint8_t size[] = {(uint8_t)(height >> 8), (uint8_t)height, (uint8_t)(width >> 8),
                      (uint8_t)width};
    memcpy(sof + 5, size, 4);
    image_file_check_refused(&f, &image_limits_default, code, part);
    free(f.bytes);
}

TEST(sizes_that_a_header_claims_are_checked_before_anything_is_decoded)
{
    check_png_size(0, 5, "image_too_small", "0x5 pixels");
    check_png_size(16385, 16000, "image_too_large",
                   "16385x16000 pixels, a side may have at most 16384");
    check_png_size(0xffffffff, 0xffffffff, "image_too_large", "4294967295x4294967295");
    check_png_size(201, 1, "image_too_small", "at least 1/200");
    check_png_size(8192, 4097, "image_too_large", "the limit is 33554432");
    check_png_size(8192, 4096, "image_parse_error", "truncated");
    check_jpeg_size(0, 5, "image_too_small", "0x5 pixels");
    check_jpeg_size(5, 0, "image_too_small", "5x0 pixels");
    check_jpeg_size(65535, 65535, "image_too_large", "65535x65535");
    check_jpeg_size(16384, 16384, "image_too_large", "the limit is 33554432");
    check_jpeg_size(1, 201, "image_too_small", "at least 1/200");
    check_jpeg_size(8192, 4096, "image_parse_error", "damaged");
}

static void check_every_prefix_refused(struct image_file f)
{
    image_file_check_prefixes(&f, f.bytes[0] == 0x89 ? 8 : 3, f.len);
    free(f.bytes);
}

TEST(every_truncation_of_a_jpeg_is_refused)
{
    check_every_prefix_refused(make_jpeg((struct jpeg_kind){40, 30, 3, false, false}));
    check_every_prefix_refused(make_jpeg((struct jpeg_kind){40, 30, 3, true, false}));
    check_every_prefix_refused(make_jpeg((struct jpeg_kind){40, 30, 1, false, false}));
    check_every_prefix_refused(make_jpeg((struct jpeg_kind){40, 30, 4, false, false}));
}

TEST(a_jpeg_that_ends_in_a_comment_behind_the_pixels_is_refused)
{
    struct image_file f = make_jpeg((struct jpeg_kind){40, 30, 3, false, false});
    f.bytes = xrealloc(f.bytes, f.len + 6);
    memcpy(f.bytes + f.len - 2, "\xff\xfe\0\x04hi\xff\xd9", 8);
    f.len += 6;
    check_every_prefix_refused(f);
}

TEST(every_truncation_of_a_png_is_refused)
{
    check_every_prefix_refused(make_plain_png(17, 9));
    check_every_prefix_refused(image_file_read(IMAGES "17_3x200.png"));
    check_every_prefix_refused(image_file_read(IMAGES "20_bilevel.png"));
}

/* The end marker behind half of the pixels: libjpeg alone would invent the rest. */
TEST(a_jpeg_that_is_cut_and_closed_is_refused)
{
    struct image_file f = make_jpeg((struct jpeg_kind){400, 300, 3, false, false});
    f.len = f.len / 2;
    memcpy(f.bytes + f.len - 2, "\xff\xd9", 2);
    image_file_check_refused(&f, &image_limits_default, "image_parse_error",
                             "the JPEG file is damaged near byte");
    free(f.bytes);
}

TEST(a_file_with_any_byte_changed_is_decoded_or_refused)
{
    struct image_file files[] = {make_jpeg((struct jpeg_kind){33, 17, 3, false, false}),
                                 make_jpeg((struct jpeg_kind){33, 17, 4, true, false}),
                                 make_plain_png(17, 9), image_file_read(IMAGES "20_bilevel.png")};
    for (int k = 0; k < 4; k++) {
        image_file_check_changes(&files[k]);
        free(files[k].bytes);
    }
}

TEST(a_png_chunk_with_a_wrong_checksum_is_refused)
{
    struct image_file f = make_png(5, 3, "tEXt", "a\0b", 3, false);
    f.bytes[33 + 8] ^= 1; /* the text, behind the magic (8), IHDR (25), and the chunk's own 8 */
    image_file_check_refused(&f, &image_limits_default, "image_parse_error",
                             "the PNG file is damaged near byte");
    free(f.bytes);
}

/* A progressive file in which the scan of the last bit of every block's mean stands n times; so it
 * has 5 + n scans. */
static struct image_file make_scan_bomb(int width, int height, int n)
{
    struct image_file f = make_jpeg((struct jpeg_kind){width, height, 1, true, false});
    uint8_t *scan = memmem(f.bytes, f.len, "\xff\xda\0\x08\x01\x01\0\0\0\x10", 10);
    CHECK(scan != NULL);
    uint8_t *end = scan + 2;
    while (end[0] != 0xff || end[1] == 0) end++;
    struct buffer b = {0};
    buffer_append(&b, f.bytes, (size_t)(scan - f.bytes));
    for (int i = 0; i < n; i++) buffer_append(&b, scan, (size_t)(end - scan));
    buffer_append(&b, end, f.len - (size_t)(end - f.bytes));
    free(f.bytes);
    f = image_file_of(b.data, b.len);
    buffer_done(&b);
    return f;
}

TEST(a_jpeg_of_too_many_scans_is_refused)
{
    struct image_file f = make_scan_bomb(16, 16, 59);
    struct picture p = image_file_decode(&f);
    picture_done(&p);
    free(f.bytes);
    f = make_scan_bomb(16, 16, 60);
    image_file_check_refused(&f, &image_limits_default, "image_too_large", "has 65 scans or more");
    free(f.bytes);
    f = make_scan_bomb(64, 64, 30);
    struct image_limits limits = image_limits_default;
    limits.max_scan_pixels = 20 * 64 * 64;
    image_file_check_refused(&f, &limits, "image_too_large", "has 21 scans or more");
    free(f.bytes);
}

TEST(arithmetic_coding_odd_components_and_12_bits_are_refused)
{
    struct image_file f = make_jpeg((struct jpeg_kind){16, 16, 3, false, true});
    image_file_check_refused(&f, &image_limits_default, "image_parse_error", "arithmetic coding");
    free(f.bytes);
    f = make_jpeg((struct jpeg_kind){16, 16, 2, false, false});
    image_file_check_refused(&f, &image_limits_default, "image_parse_error", "2 components");
    free(f.bytes);
    f = make_jpeg((struct jpeg_kind){16, 16, 3, false, false});
    uint8_t *sof = memmem(f.bytes, f.len, "\xff\xc0\0\x11\x08", 5);
    CHECK(sof != NULL);
    sof[4] = 12;
    image_file_check_refused(&f, &image_limits_default, "image_parse_error", "samples of 12 bits");
    free(f.bytes);
}
