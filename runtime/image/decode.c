#include "runtime/image/decode.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/image/decoders.h"

#define MIB ((size_t)1024 * 1024)

const struct image_limits image_limits_default = {
    .max_file_len = 20 * MIB,
    .min_side = 1,
    .max_side = 16384,
    .max_aspect = 200,
    .max_pixels = 32 * 1024 * 1024, /* 33.5 million */
    .max_scans = 64,
    .max_scan_pixels = 1000 * 1000 * 1000,
};

/* Formats are told apart by their first bytes, '?' being any byte.  One without a decoder is known
 * only to be refused by its name. */
static const struct format {
    const char *name, *magic;
    size_t magic_len;
    int (*decode)(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                  struct picture *out, struct error *err);
} formats[] = {
    {"JPEG", "\xff\xd8\xff", 3, decode_jpeg},
    {"PNG", "\x89PNG\r\n\x1a\n", 8, decode_png},
    {"WebP", "RIFF????WEBP", 12, decode_webp},
    {"GIF", "GIF8?a", 6, decode_gif},
    {"BMP", "BM????\0\0\0\0", 10, NULL},
    {"TIFF", "II*\0", 4, NULL},
    {"TIFF", "MM\0*", 4, NULL},
    {"HEIF", "????ftyp", 8, NULL}, /* also AVIF */
};
#define N_FORMATS (sizeof(formats) / sizeof(formats[0]))

static const struct format *format_of(const uint8_t *bytes, size_t len)
{
    for (const struct format *f = formats; f < formats + N_FORMATS; f++) {
        size_t n_equal = 0;
        while (n_equal < f->magic_len && n_equal < len &&
               (f->magic[n_equal] == '?' || (uint8_t)f->magic[n_equal] == bytes[n_equal]))
            n_equal++;
        if (n_equal == f->magic_len) return f;
    }
    return NULL;
}

static int unsupported(const struct format *format, struct error *err)
{
    char supported[80] = "";
    size_t len = 0;
    for (const struct format *f = formats; f < formats + N_FORMATS; f++)
        if (f->decode)
            len += (size_t)snprintf(supported + len, sizeof(supported) - len, "%s%s",
                                    len ? ", " : "", f->name);
    return error_set_code(err, ERROR_BAD_REQUEST, "unsupported_image_media_type",
                          "%s%s; supported image formats: %s",
                          format ? format->name : "the bytes are of no known image format",
                          format ? " images are not supported" : "", supported);
}

int decode_image(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                 struct picture *out, struct error *err)
{
    if (len == 0)
        return error_set_code(err, ERROR_BAD_REQUEST, "empty_image_file", "the image has no bytes");
    if (len > limits->max_file_len)
        return error_set_code(err, ERROR_BAD_REQUEST, "image_file_too_large",
                              "the image file has %zu bytes, the limit is %zu", len,
                              limits->max_file_len);
    const struct format *format = format_of(bytes, len);
    if (!format || !format->decode) return unsupported(format, err);
    return format->decode(bytes, len, limits, out, err);
}

void decode_composite(uint8_t *rgb, const uint8_t *rgba, size_t n)
{
    for (size_t i = 0; i < n; i++, rgba += 4, rgb += 3) {
        int a = rgba[3];
        for (int c = 0; c < 3; c++) {
            int t = rgba[c] * a + 255 * (255 - a) + 128;
            rgb[c] = (uint8_t)(((t >> 8) + t) >> 8);
        }
    }
}

int decode_check_size(int64_t width, int64_t height, const struct image_limits *limits,
                      struct error *err)
{
    int64_t shorter = width < height ? width : height;
    int64_t longer = width < height ? height : width;
    if (shorter < limits->min_side)
        return error_set_code(err, ERROR_BAD_REQUEST, "image_too_small",
                              "the image is %" PRId64 "x%" PRId64 " pixels, a side must have at "
                              "least %d",
                              width, height, limits->min_side);
    if (longer > limits->max_side)
        return error_set_code(err, ERROR_BAD_REQUEST, "image_too_large",
                              "the image is %" PRId64 "x%" PRId64 " pixels, a side may have at "
                              "most %d",
                              width, height, limits->max_side);
    if (longer > shorter * limits->max_aspect)
        return error_set_code(err, ERROR_BAD_REQUEST, "image_too_small",
                              "the image is %" PRId64 "x%" PRId64 " pixels, its shorter side must "
                              "have at least 1/%d of the longer",
                              width, height, limits->max_aspect);
    if (width * height > limits->max_pixels)
        return error_set_code(err, ERROR_BAD_REQUEST, "image_too_large",
                              "the image is %" PRId64 "x%" PRId64 " pixels, %" PRId64 " in all; "
                              "the limit is %" PRId64,
                              width, height, width * height, limits->max_pixels);
    return 0;
}

int decode_ends_early(const char *format_name, size_t len, struct error *err)
{
    return error_set_code(err, ERROR_BAD_REQUEST, "image_parse_error",
                          "the %s file is truncated: it ends after %zu bytes", format_name, len);
}

int decode_damaged(const char *format_name, size_t at, size_t len, struct error *err)
{
    return error_set_code(err, ERROR_BAD_REQUEST, "image_parse_error",
                          "the %s file is damaged near byte %zu of %zu", format_name, at, len);
}
