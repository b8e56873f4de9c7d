#include "runtime/image/data_url.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/mem.h"

#define SCHEME         "data:"
#define ENCODING       ";base64"
#define MAX_HEADER_LEN 256 /* up to the comma; a mime type and its parameters are short */

/* 64 + the value of each digit, 0 for what is none.  Images are no secret, so a table is allowed
 * here; libsodium's constant-time decoder needs 0.2 s for 20 MB, and in 1.0.18 takes bytes above
 * 127 for digits. */
#define DIGIT 64
static const uint8_t digits[256] = {
    ['A'] = 64,  ['B'] = 65,  ['C'] = 66,  ['D'] = 67,  ['E'] = 68,  ['F'] = 69,  ['G'] = 70,
    ['H'] = 71,  ['I'] = 72,  ['J'] = 73,  ['K'] = 74,  ['L'] = 75,  ['M'] = 76,  ['N'] = 77,
    ['O'] = 78,  ['P'] = 79,  ['Q'] = 80,  ['R'] = 81,  ['S'] = 82,  ['T'] = 83,  ['U'] = 84,
    ['V'] = 85,  ['W'] = 86,  ['X'] = 87,  ['Y'] = 88,  ['Z'] = 89,  ['a'] = 90,  ['b'] = 91,
    ['c'] = 92,  ['d'] = 93,  ['e'] = 94,  ['f'] = 95,  ['g'] = 96,  ['h'] = 97,  ['i'] = 98,
    ['j'] = 99,  ['k'] = 100, ['l'] = 101, ['m'] = 102, ['n'] = 103, ['o'] = 104, ['p'] = 105,
    ['q'] = 106, ['r'] = 107, ['s'] = 108, ['t'] = 109, ['u'] = 110, ['v'] = 111, ['w'] = 112,
    ['x'] = 113, ['y'] = 114, ['z'] = 115, ['0'] = 116, ['1'] = 117, ['2'] = 118, ['3'] = 119,
    ['4'] = 120, ['5'] = 121, ['6'] = 122, ['7'] = 123, ['8'] = 124, ['9'] = 125, ['+'] = 126,
    ['/'] = 127,
};

static bool starts_with(const char *text, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);
    return len >= n && strncasecmp(text, prefix, n) == 0;
}

/* Finds where the base64 text begins. */
static int skip_header(const char *url, size_t len, size_t *at, struct error *err)
{
    static const char *const remote[] = {"http:", "https:", "file:", "ftp:"};
    for (size_t i = 0; i < sizeof(remote) / sizeof(remote[0]); i++)
        if (starts_with(url, len, remote[i]))
            return error_set_code(err, ERROR_BAD_REQUEST, "invalid_image_url",
                                  "images are not fetched from %s URLs; send a data: URL",
                                  remote[i]);
    if (!starts_with(url, len, SCHEME))
        return error_set_code(err, ERROR_BAD_REQUEST, "invalid_image_url",
                              "the image URL is no data: URL; send a data: URL");

    size_t n = sizeof(SCHEME) - 1;
    while (n < len && n < MAX_HEADER_LEN && url[n] > ' ' && url[n] <= '~' && url[n] != ',') n++;
    size_t encoding = n - (sizeof(ENCODING) - 1);
    if (n == len || url[n] != ',' || n < sizeof(SCHEME) - 1 + sizeof(ENCODING) - 1 ||
        !starts_with(url + encoding, n - encoding, ENCODING))
        return error_set_code(err, ERROR_BAD_REQUEST, "invalid_image_url",
                              "the data: URL does not begin like \"data:image/png;base64,\"");
    *at = n + 1;
    return 0;
}

/* Decodes n_digits digits; a last group of two or three must have no bits left over.  Returns the
 * index of the first wrong digit, or n_digits. */
static size_t decode_digits(uint8_t *to, const uint8_t *text, size_t n_digits)
{
    size_t i = 0;
    for (; i + 4 <= n_digits; i += 4, to += 3) {
        uint32_t a = digits[text[i]], b = digits[text[i + 1]];
        uint32_t c = digits[text[i + 2]], d = digits[text[i + 3]];
        if (!(a & b & c & d & DIGIT)) break;
        uint32_t group = (a - DIGIT) << 18 | (b - DIGIT) << 12 | (c - DIGIT) << 6 | (d - DIGIT);
        to[0] = (uint8_t)(group >> 16);
        to[1] = (uint8_t)(group >> 8);
        to[2] = (uint8_t)group;
    }
    size_t n_left = n_digits - i;
    if (n_left == 2 || n_left == 3) {
        uint32_t a = digits[text[i]], b = digits[text[i + 1]];
        uint32_t c = n_left == 3 ? digits[text[i + 2]] : DIGIT;
        if (a & b & c & DIGIT) {
            uint32_t group = (a - DIGIT) << 12 | (b - DIGIT) << 6 | (c - DIGIT);
            if (group & (n_left == 3 ? 0x3 : 0x3ff)) return n_digits - 1;
            to[0] = (uint8_t)(group >> 10);
            if (n_left == 3) to[1] = (uint8_t)(group >> 2);
            return n_digits;
        }
    }
    while (i < n_digits && digits[text[i]]) i++;
    return i;
}

int data_url_decode(const char *url, size_t url_len, size_t max_len, uint8_t **bytes,
                    size_t *bytes_len, struct error *err)
{
    size_t at = 0;
    if (skip_header(url, url_len, &at, err) != 0) return -1;
    size_t text_len = url_len - at, n_digits = text_len;
    while (n_digits > 0 && text_len - n_digits < 2 && url[at + n_digits - 1] == '=') n_digits--;
    size_t len = n_digits / 4 * 3 + n_digits % 4 * 6 / 8;
    if (n_digits % 4 == 1 || (n_digits != text_len && text_len % 4 != 0))
        return error_set_code(
            err, ERROR_BAD_REQUEST, "invalid_base64_image",
            "the base64 text has %zu digits and %zu '=', which is no whole number "
            "of bytes",
            n_digits, text_len - n_digits);
    if (len == 0)
        return error_set_code(err, ERROR_BAD_REQUEST, "empty_image_file",
                              "the data: URL holds no bytes");
    if (len > max_len)
        return error_set_code(err, ERROR_BAD_REQUEST, "image_file_too_large",
                              "the image file has %zu bytes, the limit is %zu", len, max_len);

    uint8_t *decoded = xrealloc(NULL, len);
    size_t n_right = decode_digits(decoded, (const uint8_t *)url + at, n_digits);
    if (n_right != n_digits) {
        free(decoded);
        return error_set_code(err, ERROR_BAD_REQUEST, "invalid_base64_image",
                              "character %zu of the base64 text is wrong", n_right + 1);
    }
    *bytes = decoded;
    *bytes_len = len;
    return 0;
}
