/* The orientation that a camera wrote into a file.  Any thread. */
#ifndef RUNTIME_IMAGE_EXIF_H
#define RUNTIME_IMAGE_EXIF_H

#include <stddef.h>
#include <stdint.h>

/* tiff: what follows "Exif\0\0" in a JPEG's APP1, or the content of a PNG's eXIf or a WebP's EXIF.
 * Returns 1 to 8; 1, "as it is", also for data that is damaged or odd in any way: a picture is
 * never lost to its metadata. */
int exif_orientation(const uint8_t *tiff, size_t len);

#endif
