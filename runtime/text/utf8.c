#include "runtime/text/utf8.h"

#include <string.h>

static size_t length_from_lead(unsigned char lead)
{
    if (lead < 0x80) return 1;
    if (lead < 0xC2) return 0; /* a continuation byte, or an overlong form */
    if (lead < 0xE0) return 2;
    if (lead < 0xF0) return 3;
    return lead < 0xF5 ? 4 : 0;
}

enum utf8_status utf8_status(const char *bytes, size_t n)
{
    const unsigned char *b = (const unsigned char *)bytes;
    size_t length = length_from_lead(b[0]);
    if (length == 0 || n > length) return UTF8_INVALID;
    for (size_t i = 1; i < n; i++) {
        unsigned char low = 0x80, high = 0xBF;
        if (i == 1 && b[0] == 0xE0) low = 0xA0;  /* overlong */
        if (i == 1 && b[0] == 0xED) high = 0x9F; /* surrogates */
        if (i == 1 && b[0] == 0xF0) low = 0x90;  /* overlong */
        if (i == 1 && b[0] == 0xF4) high = 0x8F; /* above U+10FFFF */
        if (b[i] < low || b[i] > high) return UTF8_INVALID;
    }
    return n == length ? UTF8_COMPLETE : UTF8_PARTIAL;
}

size_t utf8_valid_len(const char *text, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint64_t eight = 0;
        if (len - i >= sizeof(eight)) {
            memcpy(&eight, text + i, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) {
                i += sizeof(eight);
                continue;
            }
        }
        size_t n = length_from_lead((unsigned char)text[i]);
        if (n == 0 || n > len - i || utf8_status(text + i, n) != UTF8_COMPLETE) return i;
        i += n;
    }
    return len;
}

uint32_t utf8_decode(const char *text, size_t *n)
{
    const unsigned char *b = (const unsigned char *)text;
    *n = length_from_lead(b[0]);
    switch (*n) {
    case 2:
        return (b[0] & 0x1Fu) << 6 | (b[1] & 0x3Fu);
    case 3:
        return (b[0] & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu);
    case 4:
        return (b[0] & 0x07u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu);
    default:
        *n = 1;
        return b[0];
    }
}

size_t utf8_encode(uint32_t character, char out[4])
{
    if (character < 0x80) {
        out[0] = (char)character;
        return 1;
    }
    size_t n = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (character & 0x3F));
        character >>= 6;
    }
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (char)(lead[n] | character);
    return n;
}

void utf8_repair(const char *text, size_t len, struct buffer *out)
{
    while (len > 0) {
        size_t good = utf8_valid_len(text, len);
        buffer_append(out, text, good);
        if (good == len) return;
        size_t bad = 1;
        while (good + bad < len && utf8_status(text + good, bad + 1) == UTF8_PARTIAL) bad++;
        buffer_append(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_LEN);
        text += good + bad;
        len -= good + bad;
    }
}

bool utf8_is_white_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}
