#include "runtime/image/exif.h"

#include <stdbool.h>
#include <string.h>

#define AS_IT_IS        1
#define ENTRY_LEN       12
#define TAG_ORIENTATION 0x0112
#define TYPE_SHORT      3

/* TIFF: byte order "II" or "MM", 42, offset of the first directory.  A directory: the number of its
 * entries (16 bit), then entries of 12 bytes: tag, type (16 bit each), count, value (32 bit each; a
 * single 16-bit value stands in the first two bytes). */
struct reader {
    const uint8_t *bytes;
    size_t len;
    bool is_big_endian;
};

/* The n <= 4 bytes at `at` as a number; bytes behind the end read as zero. */
static uint32_t number_at(const struct reader *r, size_t at, int n)
{
    uint32_t value = 0;
    for (int i = 0; i < n; i++) {
        size_t k = at + (size_t)(r->is_big_endian ? i : n - 1 - i);
        value = value << 8 | (k < r->len ? r->bytes[k] : 0);
    }
    return value;
}

int exif_orientation(const uint8_t *tiff, size_t len)
{
    if (len < 8) return AS_IT_IS;
    bool is_big_endian = memcmp(tiff, "MM", 2) == 0;
    if (!is_big_endian && memcmp(tiff, "II", 2) != 0) return AS_IT_IS;
    struct reader r = {tiff, len, is_big_endian};
    if (number_at(&r, 2, 2) != 42) return AS_IT_IS;

    size_t directory = number_at(&r, 4, 4);
    if (directory < 8 || directory > len - 2) return AS_IT_IS;
    size_t n_entries = number_at(&r, directory, 2);
    size_t n_present = (len - directory - 2) / ENTRY_LEN;
    if (n_entries > n_present) n_entries = n_present;
    for (size_t i = 0; i < n_entries; i++) {
        size_t entry = directory + 2 + i * ENTRY_LEN;
        if (number_at(&r, entry, 2) != TAG_ORIENTATION) continue;
        bool is_one_short =
            number_at(&r, entry + 2, 2) == TYPE_SHORT && number_at(&r, entry + 4, 4) == 1;
        uint32_t value = number_at(&r, entry + 8, 2);
        return is_one_short && value >= 1 && value <= 8 ? (int)value : AS_IT_IS;
    }
    return AS_IT_IS;
}
