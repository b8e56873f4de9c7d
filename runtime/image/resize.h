/* Bicubic resampling of 8-bit RGB, equal to Pillow's (up to version 12) in every bit.
 *
 *   a = -0.5; antialiased: when shrinking by s, the filter is s times as wide
 *   weights are rounded to 22 fractional bits; each of two passes, first along the rows, then along
 *   the columns, rounds to 8 bits
 *
 * Any size to any size.  Worker threads; reentrant; computes in the caller's thread alone. */
#ifndef RUNTIME_IMAGE_RESIZE_H
#define RUNTIME_IMAGE_RESIZE_H

#include "runtime/image/picture.h"

struct resize_window {
    int x, y, width, height; /* inside the resized picture */
};

/* *out becomes the window of what `in`, resized to width x height, would be; nothing outside the
 * window is computed.  The caller owns out's pixels. */
void resize_bicubic(const struct picture *in, int width, int height,
                    const struct resize_window *window, struct picture *out);

#endif
