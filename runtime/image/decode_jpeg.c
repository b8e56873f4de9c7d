/* JPEG with libjpeg-turbo, set as Pillow sets it: accurate integer IDCT, triangle upsampling.
 *
 * libjpeg reports an error through error_exit(), which must not return: it jumps back to run(). All
 * state lives in struct decoder, outside the function that calls setjmp(), so nothing is lost in
 * the jump and decode_jpeg() can always free it. */
#include <stdio.h> /* before jpeglib.h, which needs it and does not include it */

#include <jerror.h>
#include <jpeglib.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image/decoders.h"
#include "runtime/image/exif.h"
#include "runtime/mem.h"

/* Coefficients of a progressive file: 4 components of 2 bytes a pixel, and as much for the padding
 * of small pictures and everything else. */
#define MEMORY_PER_PIXEL 16
#define MEMORY_AT_LEAST  (64L * 1024 * 1024)

#define EXIF_HEADER     "Exif\0"
#define EXIF_HEADER_LEN 6

struct decoder {
    const uint8_t *bytes;
    size_t len;
    const struct image_limits *limits;
    struct error *err;
    struct picture picture;
    uint8_t *cmyk; /* one row, for a picture of four components */
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf on_error;
};

static struct decoder *decoder_of(j_common_ptr jpeg)
{
    return jpeg->client_data;
}

/* Ends the decoding; the error is already set. */
static _Noreturn void give_up(struct decoder *d)
{
    longjmp(d->on_error, 1);
}

static _Noreturn void give_up_damaged(struct decoder *d)
{
    decode_damaged("JPEG", d->len - d->source.bytes_in_buffer, d->len, d->err);
    give_up(d);
}

static void on_error_exit(j_common_ptr common)
{
    struct decoder *d = decoder_of(common);
    switch (common->err->msg_code) {
    case JERR_EMPTY_IMAGE:
    case JERR_IMAGE_TOO_BIG:
        if (decode_check_size(d->jpeg.image_width, d->jpeg.image_height, d->limits, d->err) != 0)
            give_up(d);
        break;
    case JERR_BAD_PRECISION:
        error_set_code(d->err, ERROR_BAD_REQUEST, "image_parse_error",
                       "the JPEG image has samples of %d bits, supported are 8",
                       d->jpeg.data_precision);
        give_up(d);
    case JERR_NO_BACKING_STORE:
    case JERR_OUT_OF_MEMORY:
        error_set_code(d->err, ERROR_BAD_REQUEST, "image_too_large",
                       "the JPEG image of %ux%u pixels needs more than %ld bytes of memory",
                       d->jpeg.image_width, d->jpeg.image_height, d->jpeg.mem->max_memory_to_use);
        give_up(d);
    default:
        break;
    }
    give_up_damaged(d);
}

/* libjpeg goes on after damage and invents the pixels.  Warnings about anything else are ignored.
 */
static void on_message(j_common_ptr common, int level)
{
    if (level >= 0) return;
    switch (common->err->msg_code) {
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
        give_up_damaged(decoder_of(common));
    default:
        break;
    }
}

static void on_output(j_common_ptr common)
{
    (void)common;
}

static void source_open(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

/* The whole file is in the buffer, so whoever wants more has passed its end. */
static boolean source_fill(j_decompress_ptr jpeg)
{
    struct decoder *d = decoder_of((j_common_ptr)jpeg);
    decode_ends_early("JPEG", d->len, d->err);
    give_up(d);
}

static void source_skip(j_decompress_ptr jpeg, long n)
{
    if (n <= 0) return;
    if ((size_t)n > jpeg->src->bytes_in_buffer) source_fill(jpeg);
    jpeg->src->next_input_byte += n;
    jpeg->src->bytes_in_buffer -= (size_t)n;
}

/* Called once a row of blocks in every scan. */
static void on_progress(j_common_ptr common)
{
    struct decoder *d = decoder_of(common);
    int64_t n_scans = d->jpeg.input_scan_number;
    int64_t n_pixels = (int64_t)d->jpeg.image_width * d->jpeg.image_height;
    if (n_scans <= d->limits->max_scans && n_scans * n_pixels <= d->limits->max_scan_pixels) return;
    error_set_code(
        d->err, ERROR_BAD_REQUEST, "image_too_large",
        "the JPEG image of %ux%u pixels has %d scans or more; the limits are %d scans and "
        "%lld pixels in all scans",
        d->jpeg.image_width, d->jpeg.image_height, (int)n_scans, d->limits->max_scans,
        (long long)d->limits->max_scan_pixels);
    give_up(d);
}

static void start(struct decoder *d)
{
    d->jpeg.err = jpeg_std_error(&d->errors);
    d->errors.error_exit = on_error_exit;
    d->errors.emit_message = on_message;
    d->errors.output_message = on_output;
    d->jpeg.client_data = d;
    jpeg_create_decompress(&d->jpeg);

    d->source = (struct jpeg_source_mgr){
        .next_input_byte = d->bytes,
        .bytes_in_buffer = d->len,
        .init_source = source_open,
        .fill_input_buffer = source_fill,
        .skip_input_data = source_skip,
        .resync_to_restart = jpeg_resync_to_restart,
        .term_source = source_open,
    };
    d->jpeg.src = &d->source;
    d->progress.progress_monitor = on_progress;
    d->jpeg.progress = &d->progress;
    long memory = (long)d->limits->max_pixels * MEMORY_PER_PIXEL;
    d->jpeg.mem->max_memory_to_use = memory > MEMORY_AT_LEAST ? memory : MEMORY_AT_LEAST;
    jpeg_save_markers(&d->jpeg, JPEG_APP0 + 1, 0xffff);
}

static void read_header(struct decoder *d)
{
    jpeg_read_header(&d->jpeg, TRUE);
    if (decode_check_size(d->jpeg.image_width, d->jpeg.image_height, d->limits, d->err) != 0)
        give_up(d);
    if (d->jpeg.arith_code) {
        error_set_code(d->err, ERROR_BAD_REQUEST, "image_parse_error",
                       "JPEG images with arithmetic coding are not supported");
        give_up(d);
    }
    int n = d->jpeg.num_components;
    if (n != 1 && n != 3 && n != 4) {
        error_set_code(d->err, ERROR_BAD_REQUEST, "image_parse_error",
                       "the JPEG image has %d components, supported are 1, 3 and 4", n);
        give_up(d);
    }
    d->jpeg.out_color_space = n == 4 ? JCS_CMYK : JCS_RGB;
    d->jpeg.dct_method = JDCT_ISLOW;
    d->jpeg.do_fancy_upsampling = TRUE;
}

/* a * b / 255, rounded. */
static int mul255(int a, int b)
{
    int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/* Files of four components hold inverted ink, 255 being none: Adobe does so, and everybody assumes
 * it of the others, as Pillow does. */
static void rgb_from_inverted_cmyk(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++, rgb += 3, cmyk += 4) {
        int light = cmyk[3];
        for (int c = 0; c < 3; c++) {
            int v = light - mul255(255 - cmyk[c], light);
            rgb[c] = (uint8_t)(v < 0 ? 0 : v);
        }
    }
}

static void read_pixels(struct decoder *d)
{
    jpeg_start_decompress(&d->jpeg);
    int width = (int)d->jpeg.output_width;
    picture_init(&d->picture, width, (int)d->jpeg.output_height);
    bool is_cmyk = d->jpeg.out_color_space == JCS_CMYK;
    if (is_cmyk) d->cmyk = xcalloc((size_t)width, 4);
    while (d->jpeg.output_scanline < d->jpeg.output_height) {
        uint8_t *rgb = d->picture.rgb + (size_t)d->jpeg.output_scanline * (size_t)width * 3;
        JSAMPROW row = is_cmyk ? d->cmyk : rgb;
        jpeg_read_scanlines(&d->jpeg, &row, 1);
        if (is_cmyk) rgb_from_inverted_cmyk(rgb, d->cmyk, width);
    }
}

static int stored_orientation(const struct jpeg_decompress_struct *jpeg)
{
    for (const struct jpeg_marker_struct *m = jpeg->marker_list; m; m = m->next)
        if (m->data_length >= EXIF_HEADER_LEN && memcmp(m->data, EXIF_HEADER, EXIF_HEADER_LEN) == 0)
            return exif_orientation(m->data + EXIF_HEADER_LEN, m->data_length - EXIF_HEADER_LEN);
    return 1;
}

static int run(struct decoder *d)
{
    if (setjmp(d->on_error) != 0) return -1;
    start(d);
    read_header(d);
    read_pixels(d);
    int orientation = stored_orientation(&d->jpeg);
    jpeg_finish_decompress(&d->jpeg); /* insists on the end marker, and frees the others */
    picture_orient(&d->picture, orientation);
    return 0;
}

int decode_jpeg(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                struct picture *out, struct error *err)
{
    struct decoder d = {.bytes = bytes, .len = len, .limits = limits, .err = err};
    int result = run(&d);
    jpeg_destroy_decompress(&d.jpeg);
    free(d.cmyk);
    if (result == 0)
        *out = d.picture;
    else
        picture_done(&d.picture);
    return result;
}
