#include "runtime/image/resize.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/mem.h"
#include "test/test.h"

/* The rules, written down as plainly as they can be: one value of one pass.  `at` steps through the
 * n values of a line. */
static uint8_t resample(const uint8_t *line, int n, int step, int out_len, int x)
{
    double scale = (double)n / out_len, fs = scale > 1 ? scale : 1, support = 2 * fs;
    double center = (x + 0.5) * scale, sum = 0;
    int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
    if (lo < 0) lo = 0;
    if (hi > n) hi = n;
    double *w = xcalloc((size_t)(hi - lo), sizeof(*w));
    for (int j = 0; j < hi - lo; j++) {
        double t = fabs((j + lo - center + 0.5) * (1 / fs));
        w[j] = t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? (((t - 5) * t + 8) * t - 4) * -0.5 : 0;
        sum += w[j];
    }
    int64_t value = 1 << 21;
    for (int j = 0; j < hi - lo; j++)
        value += (int64_t)round(w[j] / sum * (1 << 22)) * line[(size_t)(lo + j) * (size_t)step];
    free(w);
    value >>= 22;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static struct picture resize_plainly(const struct picture *in, int width, int height)
{
    struct picture middle, out;
    picture_init(&middle, width, in->height);
    picture_init(&out, width, height);
    for (int y = 0; y < in->height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                middle.rgb[(y * width + x) * 3 + c] = resample(
                    in->rgb + (size_t)y * (size_t)in->width * 3 + c, in->width, 3, width, x);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width * 3; x++)
            out.rgb[y * width * 3 + x] = resample(middle.rgb + x, in->height, width * 3, height, y);
    picture_done(&middle);
    return out;
}

/* Noise, whole areas of which are black or white, so that rounding and clipping both matter. */
static struct picture noise(int width, int height, unsigned seed)
{
    struct picture p;
    picture_init(&p, width, height);
    srand(seed);
    for (size_t i = 0; i < (size_t)width * (size_t)height * 3; i++) {
        int r = rand();
        p.rgb[i] = (uint8_t)(r & 0x300 ? r : r & 0x400 ? 255 : 0);
    }
    return p;
}

static struct picture resize_all(const struct picture *in, int width, int height)
{
    struct picture out;
    resize_bicubic(in, width, height, &(struct resize_window){0, 0, width, height}, &out);
    return out;
}

static void check_same(const struct picture *got, const struct picture *want)
{
    CHECK_INT(got->width, ==, want->width);
    CHECK_INT(got->height, ==, want->height);
    for (int i = 0; i < got->width * got->height * 3; i++)
        if (got->rgb[i] != want->rgb[i])
            test_fail(__FILE__, __LINE__, "%dx%d: value %d is %d, not %d", got->width, got->height,
                      i, got->rgb[i], want->rgb[i]);
}

static void check_against_the_rules(int in_width, int in_height, int width, int height)
{
    struct picture in = noise(in_width, in_height, (unsigned)(in_width * 1000 + in_height));
    struct picture got = resize_all(&in, width, height);
    struct picture want = resize_plainly(&in, width, height);
    check_same(&got, &want);
    picture_done(&in);
    picture_done(&got);
    picture_done(&want);
}

TEST(every_size_from_1_to_40_becomes_what_the_rules_say)
{
    for (int n = 1; n <= 40; n++) {
        check_against_the_rules(n, 41 - n, 17, 23);
        check_against_the_rules(n, n, 41 - n, 13);
        check_against_the_rules(19, n, n, 48);
    }
}

TEST(large_and_long_pictures_become_what_the_rules_say)
{
    check_against_the_rules(640, 480, 99, 101);
    check_against_the_rules(1000, 5, 7, 80);
    check_against_the_rules(5, 1000, 80, 7);
    check_against_the_rules(33, 47, 500, 333);
}

TEST(a_pass_that_keeps_the_size_changes_nothing)
{
    struct picture in = noise(50, 37, 1);
    struct picture same = resize_all(&in, 50, 37);
    check_same(&same, &in);
    check_against_the_rules(50, 37, 50, 20);
    check_against_the_rules(50, 37, 20, 37);
    picture_done(&in);
    picture_done(&same);
}

TEST(a_window_is_the_part_of_the_whole)
{
    struct picture in = noise(123, 77, 2);
    static const int sizes[][2] = {{60, 40}, {300, 200}, {123, 30}, {50, 77}, {123, 77}};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        int width = sizes[s][0], height = sizes[s][1];
        struct picture whole = resize_all(&in, width, height);
        for (int i = 0; i < 30; i++) {
            struct resize_window w = {.x = rand() % width, .y = rand() % height};
            w.width = 1 + rand() % (width - w.x);
            w.height = 1 + rand() % (height - w.y);
            struct picture part;
            resize_bicubic(&in, width, height, &w, &part);
            for (int y = 0; y < w.height; y++)
                CHECK(memcmp(part.rgb + (size_t)(y * w.width) * 3,
                             whole.rgb + (size_t)((w.y + y) * width + w.x) * 3,
                             (size_t)w.width * 3) == 0);
            picture_done(&part);
        }
        picture_done(&whole);
    }
    picture_done(&in);
}

TEST(a_picture_of_one_pixel_becomes_an_area_of_its_colour)
{
    struct picture in = noise(1, 1, 3);
    struct picture out = resize_all(&in, 336, 336);
    for (int i = 0; i < 336 * 336 * 3; i++) CHECK_INT(out.rgb[i], ==, in.rgb[i % 3]);
    picture_done(&in);
    picture_done(&out);
}

TEST(a_flat_picture_stays_flat_at_every_size)
{
    for (int value = 0; value < 256; value += 51) {
        struct picture in;
        picture_init(&in, 57, 31);
        memset(in.rgb, value, 57 * 31 * 3);
        for (int n = 1; n <= 64; n++) {
            struct picture out = resize_all(&in, n, 65 - n);
            for (int i = 0; i < n * (65 - n) * 3; i++) CHECK_INT(out.rgb[i], ==, value);
            picture_done(&out);
        }
        picture_done(&in);
    }
}

TEST(the_longest_lines_shrink_to_one_pixel_and_grow_from_one)
{
    struct picture in = noise(16384, 82, 4);
    struct picture one = resize_all(&in, 1, 1);
    struct picture line = resize_all(&one, 16384, 82);
    for (int i = 0; i < 16384 * 82 * 3; i++) CHECK_INT(line.rgb[i], ==, one.rgb[i % 3]);
    picture_done(&in);
    picture_done(&one);
    picture_done(&line);
}
