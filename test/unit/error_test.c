#include "runtime/error.h"
#include "runtime/mem.h"
#include "test/test.h"

TEST(an_error_carries_its_kind_code_and_values)
{
    struct error err = {0};
    int result = error_set_code(&err, ERROR_BAD_REQUEST, "invalid_value", "n is %d of %d", 3, 2);
    CHECK_INT(result, ==, -1);
    CHECK_INT(err.kind, ==, ERROR_BAD_REQUEST);
    CHECK_STR(err.code, "invalid_value");
    CHECK_STR(err.text, "n is 3 of 2");
}

TEST(a_long_error_text_is_cut_and_stays_terminated)
{
    struct error err;
    error_set(&err, ERROR_INTERNAL, "%0600d", 7);
    CHECK_INT(strlen(err.text), ==, sizeof(err.text) - 1);
}

TEST(a_buffer_keeps_every_byte_and_its_terminator_while_it_grows)
{
    struct buffer b = {0};
    for (int i = 0; i < 1000; i++) buffer_printf(&b, "%03d", i);
    CHECK_INT(b.len, ==, 3000);
    CHECK_INT(b.data[3000], ==, 0);
    CHECK(memcmp(b.data + 2997, "999", 3) == 0);
    buffer_done(&b);
    CHECK(b.data == NULL);
}
