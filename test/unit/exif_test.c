#include "runtime/image/exif.h"

#include <stdint.h>
#include <stdlib.h>

#include "runtime/image/picture.h"
#include "test/test.h"

/* A directory of two entries, the second of which is the orientation. */
static const uint8_t little[] = {'I',  'I', 42, 0, 8, 0, 0, 0, 2,   0,                    /* */
                                 0x0f, 1,   2,  0, 1, 0, 0, 0, 'x', 0, 0, 0,              /* */
                                 0x12, 1,   3,  0, 1, 0, 0, 0, 6,   0, 0, 0, 0, 0, 0, 0}; /* */
static const uint8_t big[] = {'M', 'M',  0, 42, 0, 0, 0, 8, 0,   2,                       /* */
                              1,   0x0f, 0, 2,  0, 0, 0, 1, 'x', 0, 0, 0,                 /* */
                              1,   0x12, 0, 3,  0, 0, 0, 1, 0,   6, 0, 0, 0, 0, 0, 0};    /* */
#define ORIENTATION_ENTRY 22
#define LAST_NEEDED       (ORIENTATION_ENTRY + 12)

/* In memory of exactly that size, so that a sanitizer sees a read behind it. */
static int orientation_of(const uint8_t *tiff, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    CHECK(copy != NULL);
    memcpy(copy, tiff, len);
    int orientation = exif_orientation(copy, len);
    free(copy);
    return orientation;
}

static int with_byte(size_t at, uint8_t value)
{
    uint8_t copy[sizeof(little)];
    memcpy(copy, little, sizeof(copy));
    copy[at] = value;
    return orientation_of(copy, sizeof(copy));
}

TEST(the_orientation_is_read_in_both_byte_orders)
{
    CHECK_INT(orientation_of(little, sizeof(little)), ==, 6);
    CHECK_INT(orientation_of(big, sizeof(big)), ==, 6);
    for (uint8_t value = 1; value <= 8; value++)
        CHECK_INT(with_byte(ORIENTATION_ENTRY + 8, value), ==, value);
}

TEST(anything_odd_means_as_it_is)
{
    CHECK_INT(with_byte(0, 'M'), ==, 1);                   /* byte order "MI" */
    CHECK_INT(with_byte(2, 43), ==, 1);                    /* not TIFF */
    CHECK_INT(with_byte(4, 0), ==, 1);                     /* directory inside the header */
    CHECK_INT(with_byte(4, 200), ==, 1);                   /* directory behind the end */
    CHECK_INT(with_byte(7, 0xff), ==, 1);                  /* far behind */
    CHECK_INT(with_byte(8, 1), ==, 1);                     /* only the first entry counts */
    CHECK_INT(with_byte(8, 200), ==, 6);                   /* more entries than there are bytes */
    CHECK_INT(with_byte(ORIENTATION_ENTRY + 2, 4), ==, 1); /* not a SHORT */
    CHECK_INT(with_byte(ORIENTATION_ENTRY + 4, 2), ==, 1); /* two of them */
    CHECK_INT(with_byte(ORIENTATION_ENTRY + 7, 1), ==, 1); /* 2^24 + 1 of them */
    CHECK_INT(with_byte(ORIENTATION_ENTRY + 8, 0), ==, 1); /* no orientation */
    CHECK_INT(with_byte(ORIENTATION_ENTRY + 8, 9), ==, 1); /* no orientation */
    CHECK_INT(with_byte(ORIENTATION_ENTRY + 9, 1), ==, 1); /* 262 */
}

TEST(every_truncation_means_as_it_is)
{
    for (size_t len = 0; len < LAST_NEEDED; len++) {
        CHECK_INT(orientation_of(little, len), ==, 1);
        CHECK_INT(orientation_of(big, len), ==, 1);
    }
    CHECK_INT(orientation_of(little, LAST_NEEDED), ==, 6);
}

/* Stored pictures of 3 x 2 whose pixels, seen upright, read ABCDEF. */
static void check_upright(int orientation, int width, int height, const char *stored)
{
    struct picture p;
    picture_init(&p, width, height);
    for (int i = 0; i < 18; i++) p.rgb[i] = (uint8_t)(stored[i / 3] + 40 * (i % 3));
    picture_orient(&p, orientation);
    char seen[7] = {0};
    for (int i = 0; i < 6; i++) {
        seen[i] = (char)p.rgb[i * 3];
        CHECK_INT(p.rgb[i * 3 + 1], ==, seen[i] + 40);
        CHECK_INT(p.rgb[i * 3 + 2], ==, seen[i] + 80);
    }
    CHECK_INT(p.width, ==, 3);
    CHECK_INT(p.height, ==, 2);
    CHECK_STR(seen, "ABCDEF");
    picture_done(&p);
}

TEST(a_picture_stored_in_any_orientation_is_seen_upright)
{
    check_upright(1, 3, 2,
                  "ABC"
                  "DEF");
    check_upright(2, 3, 2,
                  "CBA"
                  "FED");
    check_upright(3, 3, 2,
                  "FED"
                  "CBA");
    check_upright(4, 3, 2,
                  "DEF"
                  "ABC");
    check_upright(5, 2, 3,
                  "AD"
                  "BE"
                  "CF");
    check_upright(6, 2, 3,
                  "CF"
                  "BE"
                  "AD");
    check_upright(7, 2, 3,
                  "FC"
                  "EB"
                  "DA");
    check_upright(8, 2, 3,
                  "DA"
                  "EB"
                  "FC");
}

/* x, y and a checksum of both, for pictures larger than a tile. */
static void mark(uint8_t *pixel, int x, int y)
{
    pixel[0] = (uint8_t)x;
    pixel[1] = (uint8_t)y;
    pixel[2] = (uint8_t)(x / 256 + 16 * (y / 256));
}

TEST(turning_there_and_back_gives_the_same_large_picture)
{
    static const int back[] = {0, 1, 2, 3, 4, 5, 8, 7, 6};
    for (int orientation = 1; orientation <= 8; orientation++) {
        struct picture p;
        picture_init(&p, 331, 70);
        for (int i = 0; i < 331 * 70; i++) mark(p.rgb + (size_t)i * 3, i % 331, i / 331);
        picture_orient(&p, orientation);
        CHECK_INT(p.width, ==, orientation >= 5 ? 70 : 331);
        picture_orient(&p, back[orientation]);
        CHECK_INT(p.width, ==, 331);
        for (int i = 0; i < 331 * 70; i++) {
            uint8_t want[3];
            mark(want, i % 331, i / 331);
            CHECK(memcmp(p.rgb + (size_t)i * 3, want, 3) == 0);
        }
        picture_done(&p);
    }
}
