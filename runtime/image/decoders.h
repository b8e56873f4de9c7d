/* The decoders behind decode_image(), one a format, and what they share.  A decoder checks the size
 * in the file's header with decode_check_size() before it takes memory, and applies the
 * orientation. Worker threads; reentrant. */
#ifndef RUNTIME_IMAGE_DECODERS_H
#define RUNTIME_IMAGE_DECODERS_H

#include "runtime/image/decode.h"

int decode_jpeg(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                struct picture *out, struct error *err);
int decode_png(const uint8_t *bytes, size_t len, const struct image_limits *limits,
               struct picture *out, struct error *err);
int decode_webp(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                struct picture *out, struct error *err);
int decode_gif(const uint8_t *bytes, size_t len, const struct image_limits *limits,
               struct picture *out, struct error *err);

/* Composites n pixels on white; rgb may be rgba. */
void decode_composite(uint8_t *rgb, const uint8_t *rgba, size_t n);

int decode_check_size(int64_t width, int64_t height, const struct image_limits *limits,
                      struct error *err);

/* The errors of files that cannot be decoded; both return -1. */
int decode_ends_early(const char *format_name, size_t len, struct error *err);
int decode_damaged(const char *format_name, size_t at, size_t len, struct error *err);

#endif
