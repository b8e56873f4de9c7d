#include "runtime/image/data_url.h"

#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/mem.h"
#include "test/test.h"

#define LIMIT ((size_t)1 << 20)

/* In memory of exactly that size, so that a sanitizer sees a read behind it. */
static int decode(const char *url, size_t len, size_t limit, uint8_t **bytes, size_t *bytes_len,
                  struct error *err)
{
    char *copy = malloc(len ? len : 1);
    CHECK(copy != NULL);
    memcpy(copy, url, len);
    int result = data_url_decode(copy, len, limit, bytes, bytes_len, err);
    free(copy);
    return result;
}

static void check_bytes(const char *url, const void *want, size_t want_len)
{
    uint8_t *bytes;
    size_t len;
    struct error err = {0};
    if (decode(url, strlen(url), LIMIT, &bytes, &len, &err) != 0)
        test_fail(__FILE__, __LINE__, "%.60s: %s", url, err.text);
    CHECK_INT(len, ==, want_len);
    CHECK(memcmp(bytes, want, len) == 0);
    free(bytes);
}

static void check_refused(const char *url, const char *code, const char *part)
{
    uint8_t *bytes = NULL;
    size_t len = 7;
    struct error err = {0};
    if (decode(url, strlen(url), LIMIT, &bytes, &len, &err) == 0)
        test_fail(__FILE__, __LINE__, "not refused: %.60s", url);
    if (strcmp(err.code, code) != 0 || !strstr(err.text, part))
        test_fail(__FILE__, __LINE__, "%.60s: %s: %s", url, err.code, err.text);
    CHECK(bytes == NULL && len == 7);
    CHECK_INT(err.kind, ==, ERROR_BAD_REQUEST);
}

TEST(the_label_and_its_parameters_are_ignored)
{
    static const char *const headers[] = {
        "data:image/png;base64,",
        "data:;base64,",
        "data:image/jpg;charset=utf-8;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:a/b;x=\"1\";base64,",
        "data:application/octet-stream;base64,",
        "data:text/html;base64,",
    };
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        char url[200];
        snprintf(url, sizeof(url), "%saGk=", headers[i]);
        check_bytes(url, "hi", 2);
    }
}

TEST(bytes_of_every_length_come_back_padded_and_unpadded)
{
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof(bytes); i++) bytes[i] = (uint8_t)(i * i * 7 + i * 13 + i / 3);
    for (size_t len = 1; len <= sizeof(bytes); len++) {
        static const int variants[] = {sodium_base64_VARIANT_ORIGINAL,
                                       sodium_base64_VARIANT_ORIGINAL_NO_PADDING};
        for (int v = 0; v < 2; v++) {
            char url[500] = "data:image/png;base64,";
            size_t at = strlen(url);
            sodium_bin2base64(url + at, sizeof(url) - at, bytes, len, variants[v]);
            check_bytes(url, bytes, len);
        }
    }
}

/* What libsodium's strict decoder says of a text, in either variant.  Version 1.0.18 takes bytes
 * above 127 for digits. */
static bool is_good_base64(const char *text, size_t len, uint8_t *bytes, size_t *bytes_len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] > 127) return false;
    return sodium_base642bin(bytes, 100, text, len, NULL, bytes_len, NULL,
                             sodium_base64_VARIANT_ORIGINAL) == 0 ||
           sodium_base642bin(bytes, 100, text, len, NULL, bytes_len, NULL,
                             sodium_base64_VARIANT_ORIGINAL_NO_PADDING) == 0;
}

TEST(every_ascii_text_is_accepted_or_refused_as_by_libsodium)
{
    static const char alphabet[] = "ABCghixyz0189+/==-_ \n\t!A\x80\xff";
    static const char header[] = "data:;base64,";
    int n_good = 0;
    srand(1);
    for (int i = 0; i < 300000; i++) {
        char url[40] = "data:;base64,";
        size_t at = sizeof(header) - 1, len = 1 + (size_t)rand() % 9;
        /* Mostly good digits, else hardly any text would be good. */
        for (size_t k = 0; k < len; k++)
            url[at + k] = alphabet[(size_t)rand() % (rand() % 3 ? 13 : sizeof(alphabet))];
        uint8_t want[100], *bytes;
        size_t want_len, bytes_len;
        struct error err = {0};
        bool is_good = is_good_base64(url + at, len, want, &want_len) && want_len > 0;
        bool is_taken = decode(url, at + len, LIMIT, &bytes, &bytes_len, &err) == 0;
        if (is_taken != is_good) test_fail(__FILE__, __LINE__, "%s: %s", url, err.text);
        if (!is_taken) continue;
        CHECK_INT(bytes_len, ==, want_len);
        CHECK(memcmp(bytes, want, want_len) == 0);
        free(bytes);
        n_good++;
    }
    CHECK_INT(n_good, >, 10000);
}

TEST(bad_base64_is_refused_and_the_place_is_said)
{
    const char *code = "invalid_base64_image";
    check_refused("data:image/png;base64,aGkh!Gkh", code, "character 5 of");
    check_refused("data:image/png;base64,aGkhaGk\n", code, "character 8 of");
    check_refused("data:image/png;base64,aGkh aGk", code, "character 5 of");
    check_refused("data:image/png;base64,aGkha", code, "5 digits and 0 '='");
    check_refused("data:image/png;base64,aGk==", code, "3 digits and 2 '='");
    check_refused("data:image/png;base64,a===", code, "character 2 of");
    check_refused("data:image/png;base64,aGl=", code, "character 3 of"); /* a bit left over */
    check_refused("data:image/png;base64,aG=k", code, "character 3 of");
    check_refused("data:image/png;base64,_-_-", code, "character 1 of");
}

TEST(remote_urls_are_refused_with_advice)
{
    const char *code = "invalid_image_url";
    check_refused("http://example.com/a.png", code, "http: URLs; send a data: URL");
    check_refused("HTTPS://example.com/a.png", code, "https: URLs; send a data: URL");
    check_refused("file:///etc/passwd", code, "file: URLs; send a data: URL");
    check_refused("ftp://example.com/a.png", code, "ftp: URLs; send a data: URL");
    check_refused("", code, "send a data: URL");
    check_refused("/tmp/a.png", code, "send a data: URL");
    check_refused("aGk=", code, "send a data: URL");
    check_refused(" data:image/png;base64,aGk=", code, "send a data: URL");
}

TEST(data_urls_of_another_form_are_refused)
{
    const char *code = "invalid_image_url";
    check_refused("data:", code, "data:image/png;base64,");
    check_refused("data:,hello", code, "data:image/png;base64,");
    check_refused("data:image/png,%89PNG", code, "data:image/png;base64,");
    check_refused("data:base64,aGk=", code, "data:image/png;base64,");
    check_refused("data:image/png;base64", code, "data:image/png;base64,");
    check_refused("data:image/png;base64;x=y,aGk=", code, "data:image/png;base64,");
    check_refused("data:image/png; base64,aGk=", code, "data:image/png;base64,");
    check_refused("data:image/png\n;base64,aGk=", code, "data:image/png;base64,");
    char url[600];
    snprintf(url, sizeof(url), "data:%0300d;base64,aGk=", 0);
    check_refused(url, code, "data:image/png;base64,");
}

TEST(a_url_without_bytes_is_refused)
{
    check_refused("data:image/png;base64,", "empty_image_file", "no bytes");
    check_refused("data:image/png;base64,==", "invalid_base64_image", "0 digits and 2 '='");
}

TEST(the_size_is_checked_before_the_text_is_looked_at)
{
    const char *url = "data:image/png;base64,!!!!!!!!";
    uint8_t *bytes;
    size_t len;
    struct error err = {0};
    CHECK_INT(decode(url, strlen(url), 5, &bytes, &len, &err), ==, -1);
    CHECK_STR(err.code, "image_file_too_large");
    CHECK_STR(err.text, "the image file has 6 bytes, the limit is 5");
    CHECK_INT(decode(url, strlen(url), 6, &bytes, &len, &err), ==, -1);
    CHECK_STR(err.code, "invalid_base64_image");
}

TEST(twenty_megabytes_are_decoded_in_half_a_second)
{
    static const char header[] = "data:image/png;base64,";
    size_t n = (size_t)20 << 20, text_len = n / 3 * 4;
    char *url = xcalloc(sizeof(header) + text_len, 1);
    memcpy(url, header, sizeof(header));
    memset(url + sizeof(header) - 1, 'Q', text_len);
    struct timespec start, end;
    uint8_t *bytes;
    size_t len;
    struct error err;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    CHECK_INT(data_url_decode(url, sizeof(header) - 1 + text_len, n, &bytes, &len, &err), ==, 0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    double s = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    printf("# %.1f ms\n", s * 1e3);
    CHECK_INT(len, ==, n / 3 * 3);
    CHECK(s < 0.5);
    free(bytes);
    free(url);
}
