#include "runtime/text/detokenizer.h"

#include "runtime/text/utf8.h"
#include "test/test.h"
#include "test/text_golden.h"

/* detokenize() as a string that the caller frees. */
static char *decoded(const struct tokenizer *t, const struct token_list *ids, bool skips_special)
{
    struct buffer out = {0};
    detokenize(t, ids->ids, ids->n, skips_special, &out);
    buffer_append(&out, "", 0);
    return out.data;
}

/* What is sent token by token, and at the end; freed by the caller. */
static char *streamed(const struct tokenizer *t, const struct token_list *ids, bool skips_special)
{
    struct detokenizer d;
    struct buffer out = {0};
    detokenizer_init(&d, t, skips_special);
    for (size_t i = 0; i < ids->n; i++) {
        detokenizer_push(&d, ids->ids[i], &out);
        CHECK_INT(utf8_valid_len(out.data, out.len), ==, out.len);
    }
    detokenizer_flush(&d, &out);
    buffer_append(&out, "", 0);
    return out.data;
}

static void check_deltas(const struct tokenizer *t, const struct token_list *ids,
                         const json_t *deltas)
{
    struct detokenizer d;
    detokenizer_init(&d, t, false);
    CHECK_INT(json_array_size(deltas), ==, ids->n);
    for (size_t i = 0; i < ids->n; i++) {
        struct buffer out = {0};
        detokenizer_push(&d, ids->ids[i], &out);
        if (i + 1 == ids->n) detokenizer_flush(&d, &out);
        buffer_append(&out, "", 0);
        CHECK_STR(out.data, json_string_value(json_array_get(deltas, i)));
        buffer_done(&out);
    }
}

static void check_real(const char *vocab, const char *name)
{
    struct tokenizer *t = real_tokenizer(vocab, name);
    json_t *golden = golden_json("golden/hf/tokenizer/tokenizer.json");
    const json_t *strings = json_object_get(golden, "strings");
    for (size_t i = 0; i < json_array_size(strings); i++) {
        const json_t *want = json_object_get(json_array_get(strings, i), name);
        const json_t *skipped = json_object_get(want, "decode_skip_special");
        struct token_list ids = json_ids(json_object_get(want, "ids"));
        const char *text = json_string_value(json_object_get(want, "decode"));
        CHECK_STR_FREE(decoded(t, &ids, false), text);
        CHECK_STR_FREE(streamed(t, &ids, false), text);
        if (json_is_string(skipped)) text = json_string_value(skipped);
        CHECK_STR_FREE(decoded(t, &ids, true), text);
        check_deltas(t, &ids, json_object_get(want, "deltas"));
        token_list_done(&ids);
    }
    const json_t *random = json_object_get(golden, "random_id_decodes");
    CHECK_INT(json_array_size(random), ==, 30);
    for (size_t i = 0; i < json_array_size(random); i++) {
        const json_t *want = json_object_get(json_array_get(random, i), name);
        struct token_list ids = json_ids(json_object_get(want, "ids"));
        CHECK_STR_FREE(decoded(t, &ids, false), json_string_value(json_object_get(want, "decode")));
        token_list_done(&ids);
    }
    json_decref(golden);
    tokenizer_close(t);
}

TEST(llama2_ids_give_the_reference_text_and_deltas)
{
    check_real("llama2", "llama2");
}

TEST(qwen_ids_give_the_reference_text_and_deltas)
{
    check_real("qwen", "qwen2.5");
}

static void check_strings(const char *cases_path, const char *tokenizer_path)
{
    struct tokenizer *t = golden_tokenizer(tokenizer_path);
    json_t *cases = golden_json(cases_path);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *entry = json_array_get(cases, i);
        struct token_list ids = json_ids(json_object_get(entry, "ids"));
        CHECK_STR_FREE(decoded(t, &ids, false),
                       json_string_value(json_object_get(entry, "decoded")));
        CHECK_STR_FREE(streamed(t, &ids, true),
                       json_string_value(json_object_get(entry, "decoded_skip_special")));
        token_list_done(&ids);
    }
    json_decref(cases);
    tokenizer_close(t);
}

TEST(ids_of_the_second_reference_give_its_text)
{
    check_strings("golden/vispec/cases_llava/tokenizer.json",
                  "golden/vispec/llava-next-tiny/tokenizer.json");
    check_strings("golden/vispec/cases_qwen/tokenizer.json",
                  "golden/vispec/qwen2_5_vl-tiny/tokenizer.json");
}

TEST(answers_of_the_golden_models_give_the_reference_text)
{
    static const char *const cases[] = {"llava15-tiny/c1_text",  "llava15-tiny/c7_unicode",
                                        "llama-tiny/c3_unicode", "qwen2-tiny/c3_unicode",
                                        "qwen25vl-tiny/c1_text", "llavanext-tiny/c4_two_images"};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char path[200];
        snprintf(path, sizeof(path), "golden/hf/goldens/%s.json", cases[i]);
        json_t *json = golden_json(path);
        snprintf(path, sizeof(path), "golden/hf/models/%.*s/tokenizer.json",
                 (int)strcspn(cases[i], "/"), cases[i]);
        struct tokenizer *t = golden_tokenizer(path);
        struct token_list ids = json_ids(json_object_get(json, "greedy_ids"));
        CHECK_INT(ids.n, ==, 48);
        CHECK_STR_FREE(decoded(t, &ids, false),
                       json_string_value(json_object_get(json, "text_ignore_eos_with_special")));
        CHECK_STR_FREE(decoded(t, &ids, true),
                       json_string_value(json_object_get(json, "text_ignore_eos")));
        token_list_done(&ids);
        tokenizer_close(t);
        json_decref(json);
    }
}

/* ---- byte fallback ---- */

static struct tokenizer *llava(void)
{
    return golden_tokenizer("golden/hf/models/llava15-tiny/tokenizer.json");
}

/* The ids of the byte tokens <0xXX>, which begin at 3. */
static struct token_list byte_tokens(const char *bytes)
{
    struct token_list ids = {0};
    for (const char *b = bytes; *b; b++) token_list_push(&ids, 3 + (unsigned char)*b);
    return ids;
}

TEST(a_run_of_bytes_that_is_invalid_as_a_whole_gives_one_replacement_a_byte)
{
    struct tokenizer *t = llava();
    struct token_list ids = byte_tokens("a\xE4\xBD\xA0\xFF"
                                        "b");
    CHECK_STR_FREE(decoded(t, &ids, false), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
    /* Sent token by token, what was whole before the bad byte has gone. */
    CHECK_STR_FREE(streamed(t, &ids, false), "a\xE4\xBD\xA0\uFFFD\uFFFD");
    token_list_done(&ids);
    ids = byte_tokens("\xF0\x9F\x98");
    CHECK_STR_FREE(decoded(t, &ids, false), "\uFFFD\uFFFD\uFFFD");
    CHECK_STR_FREE(streamed(t, &ids, false), "\uFFFD\uFFFD\uFFFD");
    token_list_done(&ids);
    tokenizer_close(t);
}

TEST(a_bad_run_ends_with_the_next_ordinary_token)
{
    struct tokenizer *t = llava();
    struct token_list ids = byte_tokens("\xE4\xBD");
    token_list_push(&ids, tokenizer_find_token(t, "a"));
    struct token_list good = byte_tokens("\xE4\xBD\xA0");
    token_list_append(&ids, good.ids, good.n);
    CHECK_STR_FREE(decoded(t, &ids, false), "\uFFFD\uFFFD"
                                            "a\xE4\xBD\xA0");
    CHECK_STR_FREE(streamed(t, &ids, false), "\uFFFD\uFFFD"
                                             "a\xE4\xBD\xA0");
    token_list_done(&good);
    token_list_done(&ids);
    tokenizer_close(t);
}

TEST(one_leading_space_of_the_whole_output_is_removed)
{
    struct tokenizer *t = llava();
    struct token_list ids = {0};
    int mark = tokenizer_find_token(t, "\xE2\x96\x81"), a = tokenizer_find_token(t, "a");
    CHECK(mark > 0 && a > 0);
    token_list_repeat(&ids, mark, 2);
    token_list_push(&ids, a);
    token_list_push(&ids, mark);
    CHECK_STR_FREE(decoded(t, &ids, false), " a ");
    ids.n = 0;
    token_list_push(&ids, a);
    token_list_push(&ids, mark);
    CHECK_STR_FREE(streamed(t, &ids, false), "a ");
    token_list_done(&ids);
    tokenizer_close(t);
}

/* ---- byte level ---- */

TEST(each_bad_part_gives_one_replacement_at_byte_level)
{
    struct tokenizer *t = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"\xE4\xBD", "\uFFFD"},
        {"\xE4\xBD"
         "a",
         "\uFFFD"
         "a"},
        {"\xE4\xE4\xBD\xA0", "\uFFFD\xE4\xBD\xA0"},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\uFFFD\xF0\x9F\x98\x80"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xC0\x80"
         "b",
         "\uFFFD\uFFFD"
         "b"},
        {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct token_list ids = {0};
        for (const char *b = cases[i].bytes; *b; b++) {
            char one[2] = {*b, '\0'};
            token_list_push(&ids, tokenizer_find_token(t, one));
        }
        CHECK_STR_FREE(decoded(t, &ids, false), cases[i].text);
        CHECK_STR_FREE(streamed(t, &ids, false), cases[i].text);
        token_list_done(&ids);
    }
    tokenizer_close(t);
}

TEST(random_bytes_become_what_repairing_them_gives)
{
    struct tokenizer *t = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    static const unsigned char bytes[] = {'a',  0x80, 0xBF, 0xC3, 0xE0, 0xA0, 0xED, 0x9F,
                                          0xF0, 0x90, 0xF4, 0x8F, 0xFF, 0xE4, 0xBD};
    unsigned seed = 11;
    for (int round = 0; round < 5000; round++) {
        struct buffer raw = {0}, want = {0};
        struct token_list ids = {0};
        int n = (int)(rand_r(&seed) % 12);
        for (int i = 0; i < n; i++) {
            char one[2] = {(char)bytes[rand_r(&seed) % sizeof(bytes)], '\0'};
            buffer_append(&raw, one, 1);
            token_list_push(&ids, tokenizer_find_token(t, one));
        }
        buffer_append(&raw, "", 0);
        utf8_repair(raw.data, raw.len, &want);
        buffer_append(&want, "", 0);
        CHECK_STR_FREE(streamed(t, &ids, false), want.data);
        CHECK_STR_FREE(decoded(t, &ids, false), want.data);
        buffer_done(&raw);
        buffer_done(&want);
        token_list_done(&ids);
    }
    tokenizer_close(t);
}

/* ---- both ---- */

TEST(control_tokens_are_skipped_or_written_out)
{
    struct tokenizer *t = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    struct token_list ids = {0};
    static const char *const tokens[] = {"a", "<|im_end|>", "<tool_call>", "b"};
    for (int i = 0; i < 4; i++) token_list_push(&ids, tokenizer_find_token(t, tokens[i]));
    CHECK_STR_FREE(decoded(t, &ids, false), "a<|im_end|><tool_call>b");
    CHECK_STR_FREE(streamed(t, &ids, true), "a<tool_call>b");
    token_list_done(&ids);
    tokenizer_close(t);
}

TEST(ids_that_no_token_has_give_no_text)
{
    struct tokenizer *t = llava();
    struct token_list ids = {0};
    static const int32_t strange[] = {-1, 608, 639, INT32_MAX, INT32_MIN};
    token_list_append(&ids, strange, 5);
    CHECK_STR_FREE(decoded(t, &ids, false), "");
    CHECK_STR_FREE(streamed(t, &ids, false), "");
    token_list_done(&ids);
    size_t len = 1;
    detokenizer_token_bytes(t, 608, &len);
    CHECK_INT(len, ==, 0);
    tokenizer_close(t);
}

TEST(logprobs_get_the_token_as_it_is)
{
    struct tokenizer *t = llava();
    size_t len;
    const char *bytes = detokenizer_token_bytes(t, 3 + 0xE4, &len);
    CHECK_INT(len, ==, 1);
    CHECK_INT((unsigned char)bytes[0], ==, 0xE4);
    bytes = detokenizer_token_bytes(t, tokenizer_find_token(t, "\xE2\x96\x81t"), &len);
    CHECK_INT(len, ==, 2);
    CHECK(memcmp(bytes, " t", 2) == 0);
    bytes = detokenizer_token_bytes(t, tokenizer_find_token(t, "</s>"), &len);
    CHECK(len == 4 && memcmp(bytes, "</s>", 4) == 0);
    tokenizer_close(t);
}
