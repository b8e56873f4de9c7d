/* What clients get to read: JSON strings, errors, replies and event streams. */
#include "server/json_out.h"
#include "server/router.h"
#include "server/stream.h"

#include "test/test.h"

#include <jansson.h>
#include <math.h>

static void check_string(const char *text, size_t len, const char *want)
{
    struct buffer b = {0};
    json_out_string(&b, text, len);
    CHECK_STR(b.data, want);
    json_t *parsed = json_loads(b.data, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    CHECK(parsed);
    json_decref(parsed);
    buffer_done(&b);
}

TEST(strings_are_valid_json_whatever_bytes_they_are_made_of)
{
    check_string("", 0, "\"\"");
    check_string("a\"\\\n\t\r\x01\x7f", 8, "\"a\\\"\\\\\\n\\t\\r\\u0001\\u007f\"");
    check_string("\0x", 2, "\"\\u0000x\"");
    check_string("\xc3\xa4\xf0\x9f\x98\x80", 6, "\"\xc3\xa4\xf0\x9f\x98\x80\"");
    check_string("\xc3", 1, "\"\\ufffd\"");
    check_string("a\xff"
                 "b",
                 3, "\"a\\ufffdb\"");
    check_string("\xed\xa0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\""); /* a surrogate */
    check_string("\xc0\xaf", 2, "\"\\ufffd\\ufffd\"");            /* overlong */
    check_string("\xf4\x90\x80\x80", 4, "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
    check_string("\xf0\x9f\x98", 3, "\"\\ufffd\\ufffd\\ufffd\""); /* cut off */
}

TEST(characters_at_which_clients_split_lines_are_escaped)
{
    check_string("a\xc2\x85\xe2\x80\xa8\xe2\x80\xa9z", 10, "\"a\\u0085\\u2028\\u2029z\"");
}

TEST(numbers_that_json_has_no_word_for_become_very_unlikely)
{
    struct buffer b = {0};
    json_out_real(&b, -INFINITY);
    buffer_append(&b, " ", 1);
    json_out_real(&b, (double)NAN);
    buffer_append(&b, " ", 1);
    json_out_real(&b, -0.0);
    CHECK_STR(b.data, "-9999.0 -9999.0 0");
    buffer_done(&b);
}

TEST(an_error_has_openai_s_four_keys)
{
    struct api_error err;
    struct buffer b = {0};
    api_error_set(&err, "invalid_value", "messages[0]", "bad \"thing\"");
    CHECK_INT(err.status, ==, 400);
    api_error_body(&b, &err);
    CHECK_STR(b.data,
              "{\"error\":{\"message\":\"bad \\\"thing\\\"\",\"type\":\"invalid_request_error\","
              "\"param\":\"messages[0]\",\"code\":\"invalid_value\"}}");
    b.len = 0;
    api_error_set(&err, "shutting_down", NULL, "bye");
    CHECK_INT(err.status, ==, 503);
    api_error_body(&b, &err);
    CHECK(strstr(b.data, "\"param\":null"));
    buffer_done(&b);
}

TEST(failures_of_the_runtime_get_their_statuses)
{
    struct api_error err;
    struct error cause = {.kind = ERROR_BUSY, .text = "64 wait"};
    api_error_from(&err, &cause, "messages");
    CHECK_INT(err.status, ==, 503);
    CHECK_STR(err.code, "server_overloaded");
    CHECK(strstr(err.headers, "Retry-After: 1\n"));

    cause = (struct error){.kind = ERROR_TOO_LONG, .text = "900 tokens, 512 fit"};
    api_error_from(&err, &cause, "messages");
    CHECK_INT(err.status, ==, 400);
    CHECK_STR(err.code, "context_length_exceeded");
    CHECK(strstr(err.text, "maximum context length"));

    cause = (struct error){.kind = ERROR_BAD_REQUEST, .code = "invalid_base64_image", .text = "x"};
    api_error_from(&err, &cause, "messages");
    CHECK_INT(err.status, ==, 400);
    CHECK_STR(err.code, "invalid_base64_image");

    cause = (struct error){.kind = ERROR_INTERNAL, .text = "/secret/path: broken"};
    api_error_from(&err, &cause, "messages");
    CHECK_INT(err.status, ==, 500);
    CHECK(!strstr(err.text, "secret"));
}

/* ---- answers
 * ------------------------------------------------------------------------------------- */

static void say(struct buffer *answer, const char *text, int n_tokens, int first_id)
{
    struct gen_token tokens[8];
    for (int i = 0; i < n_tokens; i++) tokens[i] = (struct gen_token){.id = first_id + i};
    struct gen_event event = {
        .text = text, .text_len = strlen(text), .tokens = tokens, .n_tokens = n_tokens};
    answer_append(answer, &event);
}

TEST(an_answer_keeps_events_in_order_with_their_tokens)
{
    struct buffer answer = {0};
    struct token_logprobs top = {.ids = {7, 8}, .logprobs = {-0.5f, -1.5f}};
    struct gen_token token = {.id = 7, .logprob = -0.5f, .n_top = 2, .top = &top};
    struct gen_event event = {.text = "hey", .text_len = 3, .tokens = &token, .n_tokens = 1};
    say(&answer, "", 2, 1);
    answer_append(&answer, &event);

    struct answer_part part;
    struct answer_token read;
    size_t pos = 0;
    CHECK(answer_next(&answer, &pos, &part));
    CHECK_INT(part.text_len, ==, 0);
    CHECK_INT(part.n_tokens, ==, 2);
    answer_token(&part, &read);
    answer_token(&part, &read);
    CHECK_INT(read.id, ==, 2);
    CHECK_INT(read.n_top, ==, 0);
    CHECK(answer_next(&answer, &pos, &part));
    CHECK(memcmp(part.text, "hey", 3) == 0);
    answer_token(&part, &read);
    CHECK_INT(read.n_top, ==, 2);
    CHECK_INT(read.top_ids[1], ==, 8);
    CHECK(read.top_logprobs[1] == -1.5f);
    CHECK(!answer_next(&answer, &pos, &part));
    buffer_done(&answer);
}

static const struct reply_end STOPPED = {GEN_STOP,
                                         {.prompt_n = 3,
                                          .predicted_n = 4,
                                          .rounds = 2,
                                          .draft_n = 9,
                                          .draft_n_accepted = 1,
                                          .prompt_ms = 2,
                                          .predicted_ms = 6}};

static struct reply sample(bool return_token_ids, bool include_usage)
{
    static int32_t prompt_ids[3] = {5, 6, 7};
    return (struct reply){.version = "1",
                          .id = "chatcmpl-1",
                          .created = 12,
                          .model = (char *)"m\"",
                          .n_prompt = 3,
                          .prompt_ids = return_token_ids ? prompt_ids : NULL,
                          .return_token_ids = return_token_ids,
                          .include_usage = include_usage};
}

TEST(a_completion_has_every_required_key)
{
    struct buffer answer = {0}, b = {0};
    say(&answer, "one ", 2, 10);
    say(&answer, "two", 2, 12);
    struct reply r = sample(true, false);
    reply_completion(&b, &r, &answer, &STOPPED);
    json_t *root = json_loads(b.data, JSON_REJECT_DUPLICATES, NULL), *choice, *message;
    CHECK(root);
    CHECK_STR(json_string_value(json_object_get(root, "object")), "chat.completion");
    CHECK_STR(json_string_value(json_object_get(root, "model")), "m\"");
    CHECK_INT(json_integer_value(json_object_get(root, "created")), ==, 12);
    choice = json_array_get(json_object_get(root, "choices"), 0);
    message = json_object_get(choice, "message");
    CHECK_STR(json_string_value(json_object_get(message, "content")), "one two");
    CHECK(json_is_null(json_object_get(message, "refusal")));
    CHECK(json_is_null(json_object_get(choice, "logprobs")));
    CHECK_STR(json_string_value(json_object_get(choice, "finish_reason")), "stop");
    CHECK_INT(json_array_size(json_object_get(choice, "token_ids")), ==, 4);
    CHECK_INT(json_array_size(json_object_get(root, "prompt_token_ids")), ==, 3);
    const json_t *usage = json_object_get(root, "usage"),
                 *timings = json_object_get(root, "timings");
    CHECK_INT(json_integer_value(json_object_get(usage, "total_tokens")), ==, 7);
    CHECK_INT(json_integer_value(json_object_get(timings, "rounds")), ==, 2);
    CHECK(json_number_value(json_object_get(timings, "predicted_per_second")) == 500);
    json_decref(root);
    buffer_done(&answer);
    buffer_done(&b);
}

TEST(a_stream_is_role_text_finish_usage_done)
{
    struct buffer answer = {0}, b = {0};
    say(&answer, "one", 1, 10);
    say(&answer, "", 1, 11); /* held back: no chunk */
    say(&answer, " two", 2, 12);
    struct reply r = sample(false, true);
    struct answer_part part;
    size_t pos = 0;
    stream_begin(&b, &r);
    while (answer_next(&answer, &pos, &part)) stream_part(&b, &r, &part);
    stream_end(&b, &r, &STOPPED);

    static const char *const KINDS[] = {"\"role\":\"assistant\"", "\"content\":\"one\"",
                                        "\"content\":\" two\"", "\"finish_reason\":\"stop\"",
                                        "\"choices\":[]"};
    char *at = b.data;
    for (int i = 0; i < 5; i++) {
        char *end = strstr(at, "\n\n");
        CHECK(end);
        CHECK(strncmp(at, "data: {", 7) == 0);
        *end = '\0';
        CHECK(strstr(at, KINDS[i]));
        CHECK(strstr(at, i < 4 ? "\"usage\":null" : "\"usage\":{"));
        CHECK(!strchr(at, '\n'));
        json_t *root = json_loads(at + 6, JSON_REJECT_DUPLICATES, NULL);
        CHECK(root);
        json_decref(root);
        at = end + 2;
    }
    CHECK_STR(at, "data: [DONE]\n\n");
    buffer_done(&answer);
    buffer_done(&b);
}

TEST(with_token_ids_every_token_is_in_a_chunk)
{
    struct buffer answer = {0}, b = {0};
    say(&answer, "", 2, 11);
    struct reply r = sample(true, false);
    struct answer_part part;
    size_t pos = 0;
    stream_begin(&b, &r);
    CHECK(strstr(b.data, "\"prompt_token_ids\":[5,6,7]"));
    CHECK(answer_next(&answer, &pos, &part));
    stream_part(&b, &r, &part);
    CHECK(strstr(b.data, "\"token_ids\":[11,12]"));
    buffer_done(&answer);
    buffer_done(&b);
}

TEST(a_stream_that_breaks_ends_with_an_error_event)
{
    struct buffer b = {0};
    struct reply r = sample(false, true);
    struct reply_end failed = {.finish = GEN_FAILED};
    stream_end(&b, &r, &failed);
    CHECK(strncmp(b.data, "data: {\"error\":{", 16) == 0);
    CHECK(strstr(b.data, "\"code\":\"internal_error\""));
    CHECK(strstr(b.data, "\n\ndata: [DONE]\n\n"));
    buffer_done(&b);
}

/* ---- routes
 * --------------------------------------------------------------------------------------- */

TEST(targets_that_two_parsers_could_read_differently_are_not_plain)
{
    static const char *const PLAIN[] = {"/", "/v1/models?a=b&c=%20x", "/v1/models/a%2Fb", "/../x"};
    static const char *const ODD[] = {"",          "*",     "http://a/b", "/a b",     "/a%00b",
                                      "/a%0d%0ab", "/a%7f", "/a%",        "/a%4",     "/a%zz",
                                      "/a\x01",    "/a\\b", "/a#b",       "v1/models"};
    for (size_t i = 0; i < sizeof(PLAIN) / sizeof(PLAIN[0]); i++)
        CHECK(router_target_is_plain(PLAIN[i]));
    for (size_t i = 0; i < sizeof(ODD) / sizeof(ODD[0]); i++)
        CHECK(!router_target_is_plain(ODD[i]));
}

TEST(routes_match_exactly)
{
    struct api_error err;
    const char *allow = NULL;
    CHECK(router_find("POST", "/v1/chat/completions", &allow, &err));
    CHECK(router_find("GET", "/v1/models/a/b", &allow, &err));
    CHECK(!router_find("GET", "/v1/models/", &allow, &err));
    CHECK_INT(err.status, ==, 404);
    CHECK(!router_find("GET", "/V1/models", &allow, &err));
    CHECK_INT(err.status, ==, 404);
    CHECK(!router_find("POST", "/v1/responses", &allow, &err));
    CHECK_STR(err.code, "unknown_url");
    CHECK(!router_find("GET", "/v1/chat/completions", &allow, &err));
    CHECK_INT(err.status, ==, 405);
    CHECK_STR(allow, "POST");
    CHECK(!router_find("ET", "/v1/models", &allow, &err));
    CHECK_INT(err.status, ==, 405);
}
