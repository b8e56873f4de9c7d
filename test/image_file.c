#include "test/image_file.h"

#include <stdlib.h>

#include "test/golden.h"
#include "test/test.h"

struct image_file image_file_of(const void *bytes, size_t len)
{
    struct image_file f = {malloc(len ? len : 1), len};
    CHECK(f.bytes != NULL);
    memcpy(f.bytes, bytes, len);
    return f;
}

struct image_file image_file_read(const char *relative)
{
    size_t len;
    uint8_t *bytes = golden_bytes(test_path(relative), &len);
    struct image_file f = image_file_of(bytes, len);
    free(bytes);
    return f;
}

struct picture image_file_decode(const struct image_file *f)
{
    struct picture p;
    struct error err = {0};
    if (decode_image(f->bytes, f->len, &image_limits_default, &p, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s: %s", err.code, err.text);
    return p;
}

void image_file_check_refused(const struct image_file *f, const struct image_limits *limits,
                              const char *code, const char *part)
{
    struct picture p = {.width = 7};
    struct error err = {0};
    if (decode_image(f->bytes, f->len, limits, &p, &err) == 0)
        test_fail(__FILE__, __LINE__, "not refused: %dx%d", p.width, p.height);
    if (strcmp(err.code, code) != 0 || !strstr(err.text, part))
        test_fail(__FILE__, __LINE__, "%s: %s; not %s: ...%s...", err.code, err.text, code, part);
    CHECK_INT(err.kind, ==, ERROR_BAD_REQUEST);
    CHECK_INT(p.width, ==, 7);
    CHECK(p.rgb == NULL);
}

void image_file_check_prefixes(const struct image_file *f, size_t magic_len, size_t end)
{
    struct picture whole = image_file_decode(f);
    picture_done(&whole);
    for (size_t len = 1; len < end; len++) {
        struct image_file prefix = image_file_of(f->bytes, len);
        struct picture p;
        struct error err = {0};
        if (decode_image(prefix.bytes, len, &image_limits_default, &p, &err) == 0)
            test_fail(__FILE__, __LINE__, "%zu of %zu bytes were enough", len, f->len);
        CHECK_STR(err.code, len < magic_len ? "unsupported_image_media_type" : "image_parse_error");
        free(prefix.bytes);
    }
}

void image_file_check_changes(struct image_file *f)
{
    struct image_limits limits = image_limits_default;
    limits.max_pixels = 1000 * 1000;
    for (size_t i = 0; i < f->len * 4; i++) {
        uint8_t *byte = &f->bytes[i / 4], was = *byte;
        *byte ^= (uint8_t)(1 << (i % 4 * 2)) | (i % 3 == 0 ? 0x80 : 0);
        struct picture p;
        struct error err = {0};
        if (decode_image(f->bytes, f->len, &limits, &p, &err) == 0)
            picture_done(&p);
        else
            CHECK_INT(err.kind, ==, ERROR_BAD_REQUEST);
        *byte = was;
    }
}
