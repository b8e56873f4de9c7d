#include "runtime/text/bytelevel.h"

#include <stdint.h>

#include "runtime/text/utf8.h"

#define FIRST_STAND_IN 0x100
#define N_STAND_INS    68

static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

/* The byte that a character stands for, or -1. */
static int byte_of(uint32_t character)
{
    if (character < 0x100) return stands_for_itself(character) ? (int)character : -1;
    uint32_t nth = character - FIRST_STAND_IN; /* the nth byte that does not stand for itself */
    if (nth >= N_STAND_INS) return -1;
    if (nth <= 0x20) return (int)nth;
    return nth < N_STAND_INS - 1 ? (int)(0x7F + nth - 0x21) : 0xAD;
}

bool bytelevel_decode(const char *text, size_t len, struct buffer *out)
{
    size_t start = out->len;
    for (size_t i = 0, n; i < len; i += n) {
        int byte = byte_of(utf8_decode(text + i, &n));
        if (byte < 0) {
            out->len = start;
            if (out->data) out->data[start] = '\0';
            return false;
        }
        char c = (char)byte;
        buffer_append(out, &c, 1);
    }
    return true;
}
