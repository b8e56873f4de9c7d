#include "runtime/image/picture.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"

/* Pixels a side of the squares in which a picture is turned: a square of either picture stays in
 * the first-level cache, so that neither reading nor writing waits for memory on every pixel. */
#define TILE 32

void picture_init(struct picture *p, int width, int height)
{
    assert(width > 0 && height > 0);
    *p = (struct picture){.width = width, .height = height};
    p->rgb = xrealloc(NULL, (size_t)width * (size_t)height * 3);
}

void picture_done(struct picture *p)
{
    free(p->rgb);
    *p = (struct picture){0};
}

/* Where the seen pixel (x, y) is stored: pixel start + x * right + y * down. */
struct walk {
    ptrdiff_t start, right, down;
};

static struct walk walk_of(int width, int height, int orientation)
{
    ptrdiff_t w = width, h = height;
    ptrdiff_t last_column = w - 1, last_row = (h - 1) * w, last = w * h - 1;
    switch (orientation) {
    case 2: /* mirrored */
        return (struct walk){last_column, -1, w};
    case 3: /* upside down */
        return (struct walk){last, -1, -w};
    case 4: /* upside down and mirrored */
        return (struct walk){last_row, 1, -w};
    case 5: /* mirrored along the diagonal from the upper left */
        return (struct walk){0, w, 1};
    case 6: /* to be turned clockwise */
        return (struct walk){last_row, -w, 1};
    case 7: /* mirrored along the other diagonal */
        return (struct walk){last, -w, -1};
    case 8: /* to be turned counterclockwise */
        return (struct walk){last_column, w, -1};
    default:
        return (struct walk){0, 1, w};
    }
}

static void copy_tile(struct picture *to, const uint8_t *stored, struct walk walk, int x0, int y0)
{
    int x1 = x0 + TILE < to->width ? x0 + TILE : to->width;
    int y1 = y0 + TILE < to->height ? y0 + TILE : to->height;
    for (int y = y0; y < y1; y++) {
        uint8_t *pixel = to->rgb + ((size_t)y * (size_t)to->width + (size_t)x0) * 3;
        ptrdiff_t at = walk.start + x0 * walk.right + y * walk.down;
        for (int x = x0; x < x1; x++, pixel += 3, at += walk.right)
            memcpy(pixel, stored + at * 3, 3);
    }
}

void picture_orient(struct picture *p, int orientation)
{
    if (orientation <= 1 || orientation > 8) return;
    struct walk walk = walk_of(p->width, p->height, orientation);
    int is_turned = orientation >= 5;
    struct picture seen;
    picture_init(&seen, is_turned ? p->height : p->width, is_turned ? p->width : p->height);
    for (int y = 0; y < seen.height; y += TILE)
        for (int x = 0; x < seen.width; x += TILE) copy_tile(&seen, p->rgb, walk, x, y);
    picture_done(p);
    *p = seen;
}
