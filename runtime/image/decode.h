/* From the bytes of an image file to an upright RGB picture.
 *
 * The format is told by the file's first bytes, never by a label.  JPEG: baseline and progressive;
 * one, three or four components of 8 bits.  PNG: everything; 16-bit samples keep their high byte.
 * WebP: lossy and lossless.  Of an animation (WebP, GIF) the first frame is taken.  Transparency is
 * composited on white.  Colour profiles and gamma are ignored, the EXIF orientation is applied.  A
 * truncated or damaged file is refused, since the answer would be about pixels that nobody sent.
 *
 * Worker threads; reentrant.  Errors are the client's, carry OpenAI's code for a bad image, and
 * contain sizes and limits but no text of a decoding library. */
#ifndef RUNTIME_IMAGE_DECODE_H
#define RUNTIME_IMAGE_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/error.h"
#include "runtime/image/picture.h"

/* What a client may make us hold and compute.  The header's sizes are checked before any memory is
 * taken for pixels. */
struct image_limits {
    size_t max_file_len;
    int min_side, max_side;
    int max_aspect; /* longer : shorter side */
    int64_t max_pixels;
    int max_scans;           /* of a JPEG; a scan of a few bytes costs a pass over all pixels */
    int64_t max_scan_pixels; /* scans * pixels */
};

extern const struct image_limits image_limits_default;

/* On success the caller owns out's pixels. */
int decode_image(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                 struct picture *out, struct error *err);

#endif
