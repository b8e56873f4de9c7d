/* PNG with libpng.  As in decode_jpeg.c, an error jumps back to run(), and all state lives in
 * struct decoder. */
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image/decoders.h"
#include "runtime/image/exif.h"
#include "runtime/mem.h"

/* A file begins: magic (8 bytes), length of IHDR (4), "IHDR", width (4), height (4). */
#define MAGIC_LEN       8
#define IHDR_NAME       12
#define SIZE_AT         16
#define SIZE_END        24
#define CHUNK_FRAME_LEN 12 /* what is not data */

struct decoder {
    const uint8_t *bytes;
    size_t len, pos;
    const struct image_limits *limits;
    struct error *err;
    bool has_error; /* err is set */
    struct picture picture;
    png_struct *png;
    png_info *info;
    jmp_buf on_error;
};

static void on_error(png_struct *png, const char *message)
{
    (void)message;
    struct decoder *d = png_get_error_ptr(png);
    if (!d->has_error) decode_damaged("PNG", d->pos, d->len, d->err);
    longjmp(d->on_error, 1);
}

static void on_warning(png_struct *png, const char *message)
{
    (void)png;
    (void)message;
}

static void on_read(png_struct *png, uint8_t *to, size_t len)
{
    struct decoder *d = png_get_io_ptr(png);
    if (len > d->len - d->pos) {
        decode_ends_early("PNG", d->len, d->err);
        d->has_error = true;
        png_error(png, "");
    }
    memcpy(to, d->bytes + d->pos, len);
    d->pos += len;
}

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Before libpng sees the file, so that a size gets its own message. */
static int check_header(const struct decoder *d)
{
    if (d->len < SIZE_END) return decode_ends_early("PNG", d->len, d->err);
    if (memcmp(d->bytes + IHDR_NAME, "IHDR", 4) != 0)
        return decode_damaged("PNG", IHDR_NAME, d->len, d->err);
    return decode_check_size(big_endian(d->bytes + SIZE_AT), big_endian(d->bytes + SIZE_AT + 4),
                             d->limits, d->err);
}

static void start(struct decoder *d)
{
    d->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, d, on_error, on_warning);
    d->info = d->png ? png_create_info_struct(d->png) : NULL;
    if (!d->info) abort(); /* out of memory; see runtime/mem.h */
    png_set_read_fn(d->png, d, on_read);
    png_set_user_limits(d->png, (uint32_t)d->limits->max_side, (uint32_t)d->limits->max_side);
    png_set_chunk_malloc_max(d->png, d->limits->max_file_len);
    png_set_crc_action(d->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    /* Optional chunks but tRNS are skipped unread.  Among them eXIf, for which libpng 1.6.39 takes
     * as much memory as the chunk claims to have. */
    png_set_keep_unknown_chunks(d->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_keep_unknown_chunks(d->png, PNG_HANDLE_CHUNK_NEVER, (const uint8_t *)"eXIf", 1);
}

static void read_pixels(struct decoder *d)
{
    png_read_info(d->png, d->info);
    png_set_expand(d->png); /* palette to RGB, 1, 2 and 4 bits to 8, tRNS to alpha */
    png_set_strip_16(d->png);
    png_set_gray_to_rgb(d->png);
    int n_passes = png_set_interlace_handling(d->png);
    png_read_update_info(d->png, d->info);

    size_t width = png_get_image_width(d->png, d->info);
    size_t height = png_get_image_height(d->png, d->info);
    size_t n_channels = png_get_channels(d->png, d->info);
    size_t row_len = png_get_rowbytes(d->png, d->info);
    if (row_len != width * n_channels || n_channels < 3 || n_channels > 4)
        png_error(d->png, "unexpected row");
    d->picture = (struct picture){.width = (int)width, .height = (int)height};
    d->picture.rgb = xrealloc(NULL, height * row_len);
    for (int pass = 0; pass < n_passes; pass++)
        for (size_t y = 0; y < height; y++)
            png_read_row(d->png, d->picture.rgb + y * row_len, NULL);
    png_read_end(d->png, d->info);

    if (n_channels == 4) {
        decode_composite(d->picture.rgb, d->picture.rgb, width * height);
        d->picture.rgb = xrealloc(d->picture.rgb, width * height * 3);
    }
}

/* Finds the eXIf chunk.  A chunk: length (4 bytes), name (4), data, checksum (4). */
static int stored_orientation(const uint8_t *bytes, size_t len)
{
    for (size_t at = MAGIC_LEN; len - at >= CHUNK_FRAME_LEN;) {
        size_t data_len = big_endian(bytes + at);
        if (data_len > len - at - CHUNK_FRAME_LEN) break;
        if (memcmp(bytes + at + 4, "eXIf", 4) == 0)
            return exif_orientation(bytes + at + 8, data_len);
        at += data_len + CHUNK_FRAME_LEN;
    }
    return 1;
}

static int run(struct decoder *d)
{
    if (setjmp(d->on_error) != 0) return -1;
    start(d);
    read_pixels(d);
    picture_orient(&d->picture, stored_orientation(d->bytes, d->len));
    return 0;
}

int decode_png(const uint8_t *bytes, size_t len, const struct image_limits *limits,
               struct picture *out, struct error *err)
{
    struct decoder d = {.bytes = bytes, .len = len, .limits = limits, .err = err};
    if (check_header(&d) != 0) return -1;
    int result = run(&d);
    png_destroy_read_struct(&d.png, &d.info, NULL);
    if (result == 0)
        *out = d.picture;
    else
        picture_done(&d.picture);
    return result;
}
