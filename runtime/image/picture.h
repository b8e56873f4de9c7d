/* A picture as 8-bit RGB, upright.  Any thread; a picture belongs to one thread at a time. */
#ifndef RUNTIME_IMAGE_PICTURE_H
#define RUNTIME_IMAGE_PICTURE_H

#include <stddef.h>
#include <stdint.h>

struct picture {
    int width, height;
    uint8_t *rgb; /* [height][width][3], owned */
};

/* Takes memory for the pixels and leaves them undefined.  The caller has checked the size. */
void picture_init(struct picture *p, int width, int height);
void picture_done(struct picture *p); /* leaves p empty */

/* Turns a picture as stored into the picture as seen; orientation is EXIF's, 1 (as it is) to 8. */
void picture_orient(struct picture *p, int orientation);

#endif
