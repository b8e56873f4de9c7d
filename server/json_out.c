#include "server/json_out.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Length of the well-formed UTF-8 character at text, 0 if there is none.  Overlong forms,
 * surrogates and what lies above U+10FFFF are not well-formed. */
static size_t utf8_len(const unsigned char *text, size_t len)
{
    unsigned char c = text[0];
    if (c < 0x80) return 1;
    size_t n = c >= 0xc2 && c <= 0xdf   ? 2
               : c >= 0xe0 && c <= 0xef ? 3
               : c >= 0xf0 && c <= 0xf4 ? 4
                                        : 0;
    if (n == 0 || n > len) return 0;
    unsigned char low = 0x80, high = 0xbf;
    if (c == 0xe0) low = 0xa0;
    if (c == 0xed) high = 0x9f;
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f;
    if (text[1] < low || text[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    return n;
}

/* The escape of a character that may not stand in a reply as it is, else NULL. */
static const char *escape(const unsigned char *c, size_t n, char out[8])
{
    static const char HEX[] = "0123456789abcdef";
    if (n == 1) {
        switch (c[0]) {
        case '"':
            return "\\\"";
        case '\\':
            return "\\\\";
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
        case '\t':
            return "\\t";
        default:
            break;
        }
        if (c[0] >= 0x20 && c[0] != 0x7f) return NULL;
        memcpy(out, "\\u00", 4);
        out[4] = HEX[c[0] >> 4];
        out[5] = HEX[c[0] & 15];
        out[6] = '\0';
        return out;
    }
    if (n == 2 && memcmp(c, "\xc2\x85", 2) == 0) return "\\u0085";
    if (n == 3 && memcmp(c, "\xe2\x80\xa8", 3) == 0) return "\\u2028";
    if (n == 3 && memcmp(c, "\xe2\x80\xa9", 3) == 0) return "\\u2029";
    return NULL;
}

void json_out_string(struct buffer *b, const char *text, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)text;
    buffer_append(b, "\"", 1);
    size_t start = 0, i = 0;
    while (i < len) {
        char space[8];
        size_t n = utf8_len(bytes + i, len - i);
        const char *escaped = n == 0 ? "\\ufffd" : escape(bytes + i, n, space);
        if (escaped) {
            buffer_append(b, text + start, i - start);
            buffer_append(b, escaped, strlen(escaped));
            start = i + (n == 0 ? 1 : n);
        }
        i += n == 0 ? 1 : n;
    }
    buffer_append(b, text + start, len - start);
    buffer_append(b, "\"", 1);
}

void json_out_text(struct buffer *b, const char *text)
{
    json_out_string(b, text, strlen(text));
}

void json_out_real(struct buffer *b, double value)
{
    if (!isfinite(value))
        buffer_append(b, "-9999.0", 7);
    else
        buffer_printf(b, "%.9g", value + 0.0); /* no -0 */
}

void json_out_ints(struct buffer *b, const int32_t *values, size_t n)
{
    buffer_append(b, "[", 1);
    for (size_t i = 0; i < n; i++) buffer_printf(b, i ? ",%d" : "%d", (int)values[i]);
    buffer_append(b, "]", 1);
}
