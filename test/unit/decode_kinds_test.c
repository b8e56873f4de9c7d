/* The kinds of pictures in golden/images, WebP and GIF first of all; decode_test.c has what all
 * formats share, and JPEG and PNG. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "test/golden.h"
#include "test/image_file.h"
#include "test/test.h"

#define IMAGES "golden/images/"

static void check_same(const char *name, const struct picture *p, const struct golden *golden)
{
    int64_t shape[8];
    size_t n;
    CHECK_INT(golden_shape(golden, name, shape), ==, 3);
    const uint8_t *want = golden_u8(golden, name, &n);
    if (p->width != shape[1] || p->height != shape[0])
        test_fail(__FILE__, __LINE__, "%s: %dx%d, not %dx%d", name, p->width, p->height,
                  (int)shape[1], (int)shape[0]);
    for (size_t i = 0; i < n; i++)
        if (p->rgb[i] != want[i])
            test_fail(__FILE__, __LINE__, "%s: channel %zu of pixel (%zu, %zu) is %d, not %d", name,
                      i % 3, i / 3 % (size_t)p->width, i / 3 / (size_t)p->width, p->rgb[i],
                      want[i]);
}

TEST(pictures_of_every_kind_are_decoded_to_pillow_s_bytes)
{
    struct golden *golden = golden_open(test_path(IMAGES "decoded.safetensors"));
    DIR *folder = opendir(test_path(IMAGES));
    CHECK(folder != NULL);
    int n_checked = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        if (!golden_has(golden, entry->d_name)) continue;
        char path[300];
        snprintf(path, sizeof(path), IMAGES "%s", entry->d_name);
        struct image_file f = image_file_read(path);
        struct picture p = image_file_decode(&f);
        check_same(entry->d_name, &p, golden);
        picture_done(&p);
        free(f.bytes);
        n_checked++;
    }
    CHECK_INT(n_checked, ==, 33);
    closedir(folder);
    golden_close(golden);
}

/* ---- what is accepted ---- */

TEST(bytes_behind_a_webp_or_the_first_frame_of_a_gif_are_not_read)
{
    static const char *const names[] = {"animated.webp", "lossy.webp", "plain.gif"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[100];
        snprintf(path, sizeof(path), IMAGES "%s", names[i]);
        struct image_file f = image_file_read(path);
        f.bytes = realloc(f.bytes, f.len + 10);
        CHECK(f.bytes != NULL);
        bool is_gif = f.bytes[0] == 'G';
        memset(f.bytes + f.len - is_gif, 'x', 10); /* over the trailer */
        f.len += 9;
        struct picture p = image_file_decode(&f);
        picture_done(&p);
        free(f.bytes);
    }
}

TEST(a_gif_without_a_canvas_has_the_size_of_its_frame)
{
    struct image_file f = image_file_read(IMAGES "plain.gif");
    memset(f.bytes + 6, 0, 4);
    struct picture p = image_file_decode(&f);
    CHECK_INT(p.width, ==, 41);
    CHECK_INT(p.height, ==, 30);
    picture_done(&p);
    free(f.bytes);
}

/* ---- what is refused ---- */

static void check_bytes_refused(const char *bytes, size_t len, const char *code, const char *part)
{
    struct image_file f = image_file_of(bytes, len);
    image_file_check_refused(&f, &image_limits_default, code, part);
    free(f.bytes);
}

TEST(sizes_that_a_webp_or_gif_claims_are_checked_before_anything_is_decoded)
{
#define CHECK_CLAIM(bytes, part)                                                                   \
    check_bytes_refused(bytes, sizeof(bytes) - 1, "image_too_large", part)
    CHECK_CLAIM("RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xfe\0\0", "16777216x255");
    CHECK_CLAIM("RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0", "16384x16384");
    CHECK_CLAIM("RIFF\xff\0\0\0WEBPVP8L\xe0\0\0\0\x2f\xff\xff\xff\x0f\0\0", "16384x16384");
    CHECK_CLAIM("GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2", "65535x65535");
    CHECK_CLAIM("GIF87a\1\0\1\0\0\0\0,\xff\xff\xff\xff\xff\xff\xff\xff\0\2", "131070x131070");
}

static size_t magic_len_of(const struct image_file *f)
{
    return f->bytes[0] == 'G' ? 6 : 12;
}

TEST(every_truncation_of_a_webp_is_refused)
{
    static const char *const names[] = {IMAGES "lossless.webp",       IMAGES "lossy.webp",
                                        IMAGES "lossless_alpha.webp", IMAGES "lossy_alpha.webp",
                                        IMAGES "animated.webp",       IMAGES "exif6.webp"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct image_file f = image_file_read(names[i]);
        image_file_check_prefixes(&f, magic_len_of(&f), f.len);
        free(f.bytes);
    }
}

TEST(every_gif_that_ends_before_its_first_frame_does_is_refused)
{
    static const char *const names[] = {IMAGES "plain.gif", IMAGES "interlaced.gif",
                                        IMAGES "transparent.gif", IMAGES "part_of_canvas.gif"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct image_file f = image_file_read(names[i]);
        image_file_check_prefixes(&f, magic_len_of(&f), f.len - 1); /* the last byte: the trailer */
        free(f.bytes);
    }
}

TEST(a_webp_that_is_cut_and_says_so_is_refused)
{
    /* Lengths that fit the shorter file: only the decoder can notice. */
    static const char *const names[] = {IMAGES "lossless.webp", IMAGES "lossy.webp"};
    for (int i = 0; i < 2; i++) {
        struct image_file f = image_file_read(names[i]);
        f.len = f.len / 4 * 2;
        f.bytes[4] = (uint8_t)(f.len - 8);
        f.bytes[5] = (uint8_t)((f.len - 8) >> 8);
        f.bytes[16] = (uint8_t)(f.len - 20);
        f.bytes[17] = (uint8_t)((f.len - 20) >> 8);
        image_file_check_refused(&f, &image_limits_default, "image_parse_error",
                                 "the WebP file is damaged near byte");
        free(f.bytes);
    }
}

TEST(a_gif_without_a_picture_or_with_colours_that_it_does_not_define_is_refused)
{
#define CHECK_DAMAGED(bytes, part)                                                                 \
    check_bytes_refused(bytes, sizeof(bytes) - 1, "image_parse_error", part)
    CHECK_DAMAGED("GIF89a\1\0\1\0\0\0\0;", "the GIF file is damaged near byte 14");
    CHECK_DAMAGED("GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0;", "damaged near");
    /* One pixel of colour 1 in a table of two, then of colour 2. */
    struct image_file f = image_file_of("GIF89a\1\0\1\0\x80\0\0\1\2\3\4\5\6"
                                        ",\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0;",
                                        35);
    struct picture p = image_file_decode(&f);
    CHECK_INT(p.rgb[1], ==, 5);
    picture_done(&p);
    f.bytes[31] = 0x54;
    image_file_check_refused(&f, &image_limits_default, "image_parse_error", "damaged near byte");
    free(f.bytes);
}

TEST(a_webp_or_gif_with_any_byte_changed_is_decoded_or_refused)
{
    static const char *const names[] = {IMAGES "lossless.webp",       IMAGES "lossy_alpha.webp",
                                        IMAGES "animated_alpha.webp", IMAGES "exif6.webp",
                                        IMAGES "interlaced.gif",      IMAGES "part_of_canvas.gif"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct image_file f = image_file_read(names[i]);
        image_file_check_changes(&f);
        free(f.bytes);
    }
}
