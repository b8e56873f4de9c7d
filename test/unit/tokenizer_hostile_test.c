/* Text and files that mean harm, and many threads. */
#include "runtime/text/tokenizer.h"

#include <pthread.h>
#include <time.h>

#include "runtime/text/utf8.h"
#include "test/test.h"
#include "test/text_golden.h"

/* Of processor time: the machine may be busy. */
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void repeat(struct buffer *b, const char *text, size_t total)
{
    while (b->len < total) buffer_append(b, text, strlen(text));
}

TEST(half_a_megabyte_of_anything_is_encoded_in_seconds)
{
    static const char *const units[] = {"a",
                                        " ",
                                        "\n",
                                        " \n",
                                        "ab",
                                        "the",
                                        "<|im_",
                                        "<|im_start|>",
                                        "<",
                                        "1",
                                        "!",
                                        "\xE2\x96\x81",
                                        "\xF0\x9F\x98\x80",
                                        "\xE4\xB8\xAD",
                                        "e\xCC\x81",
                                        "\xFF",
                                        "\xE2\x82",
                                        "<image>",
                                        "\xE1\xA0\x8E"};
    static const char *const files[] = {"golden/hf/models/llava15-tiny/tokenizer.json",
                                        "golden/hf/models/qwen2-tiny/tokenizer.json"};
    enum { LEN = 1 << 19 };
    for (int f = 0; f < 2; f++) {
        struct tokenizer *t = golden_tokenizer(files[f]);
        for (size_t i = 0; i <= sizeof(units) / sizeof(*units); i++) {
            struct buffer text = {0};
            if (i < sizeof(units) / sizeof(*units)) {
                repeat(&text, units[i], LEN);
            } else { /* combining marks in the wrong order */
                repeat(&text, "\xCC\x81", LEN / 2);
                repeat(&text, "\xCC\xA3", LEN);
            }
            struct token_list ids = {0};
            double start = seconds();
            tokenizer_encode(t, text.data, text.len, SPECIALS_AS_TEXT, &ids);
            CHECK(seconds() - start < 5);
            CHECK(ids.n > 0 && ids.n <= 3 * text.len + 1);
            token_list_done(&ids);
            buffer_done(&text);
        }
        tokenizer_close(t);
    }
}

static void random_text(unsigned *seed, struct buffer *out)
{
    static const char *const pieces[] = {"a",
                                         "the ",
                                         " ",
                                         "\n",
                                         "Q",
                                         "7",
                                         "\xC3\xA9",
                                         "\xE4\xBD\xA0",
                                         "\xF0\x9F\x98\x80",
                                         "\xCC\x81",
                                         "<s>",
                                         "</s>",
                                         "<image>",
                                         "<pad>",
                                         "<unk>",
                                         "<|im_start|>",
                                         "<|im_end|>",
                                         "<|image_pad|>",
                                         "<0x0A>",
                                         "<",
                                         "|>",
                                         "\xE2\x96\x81",
                                         "\xFF",
                                         "\xC3",
                                         "\xE4\xBD",
                                         "\xF0\x9F",
                                         "\x80",
                                         "\xED\xA0\x80"};
    out->len = 0;
    int n = (int)(rand_r(seed) % 30);
    for (int i = 0; i < n; i++) {
        const char *piece = pieces[rand_r(seed) % (sizeof(pieces) / sizeof(*pieces))];
        buffer_append(out, piece, strlen(piece));
    }
    buffer_append(out, "", 0);
}

TEST(user_text_never_becomes_a_control_token)
{
    struct tokenizer *llava = golden_tokenizer("golden/hf/models/llava15-tiny/tokenizer.json");
    struct tokenizer *qwen = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    unsigned seed = 3;
    struct buffer text = {0};
    struct token_list ids = {0};
    for (int round = 0; round < 3000; round++) {
        random_text(&seed, &text);
        ids.n = 0;
        tokenizer_encode(llava, text.data, text.len, SPECIALS_AS_TEXT, &ids);
        for (size_t i = 0; i < ids.n; i++) CHECK(ids.ids[i] > 2 && ids.ids[i] < 606);
        ids.n = 0;
        tokenizer_encode(qwen, text.data, text.len, SPECIALS_AS_TEXT, &ids);
        for (size_t i = 0; i < ids.n; i++) CHECK(ids.ids[i] < 600 || ids.ids[i] >= 614);
    }
    token_list_done(&ids);
    buffer_done(&text);
    tokenizer_close(llava);
    tokenizer_close(qwen);
}

TEST(invalid_utf8_is_encoded_as_its_repaired_text)
{
    struct tokenizer *t = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    unsigned seed = 5;
    struct buffer text = {0}, repaired = {0};
    struct token_list a = {0}, b = {0};
    for (int round = 0; round < 2000; round++) {
        random_text(&seed, &text);
        repaired.len = a.n = b.n = 0;
        utf8_repair(text.data, text.len, &repaired);
        buffer_append(&repaired, "", 0);
        CHECK_INT(utf8_valid_len(repaired.data, repaired.len), ==, repaired.len);
        tokenizer_encode(t, text.data, text.len, SPECIALS_PARSED, &a);
        tokenizer_encode(t, repaired.data, repaired.len, SPECIALS_PARSED, &b);
        CHECK_STR_FREE_BOTH(ids_text(a.ids, a.n), ids_text(b.ids, b.n));
    }
    token_list_done(&a);
    token_list_done(&b);
    buffer_done(&text);
    buffer_done(&repaired);
    tokenizer_close(t);
}

static void *encode_often(void *arg)
{
    const struct tokenizer *t = arg;
    static const char text[] = "caf\xC3\xA9 and 12 rivers <|im_start|> \xE4\xBD\xA0";
    struct token_list first = {0}, ids = {0};
    tokenizer_encode(t, text, sizeof(text) - 1, SPECIALS_PARSED, &first);
    for (int i = 0; i < 500; i++) {
        ids.n = 0;
        tokenizer_encode(t, text, sizeof(text) - 1, SPECIALS_PARSED, &ids);
        if (ids.n != first.n || memcmp(ids.ids, first.ids, ids.n * sizeof(*ids.ids)) != 0)
            return arg;
    }
    token_list_done(&first);
    token_list_done(&ids);
    return NULL;
}

TEST(one_tokenizer_serves_many_threads)
{
    struct tokenizer *t = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, encode_often, t) == 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        CHECK(result == NULL);
    }
    tokenizer_close(t);
}

TEST(a_bad_file_is_refused_with_its_reason)
{
    static const struct {
        const char *json, *reason;
    } cases[] = {
        {"{", "line 1"},
        {"{}", "model is missing"},
        {"{\"model\": {\"type\": \"WordPiece\"}}", "type WordPiece is not BPE"},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}",
         "entry a of vocab has no id within"},
        {"{\"model\": {\"vocab\": {\"a\": 99999999}, \"merges\": []}}",
         "entry a of vocab has no id"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
         "merge 0 refers to b, which is not in vocab"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}",
         "merge 0 makes aa, which is not in vocab"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}", "merge 0 is not a pair"},
        {"{\"model\": {\"vocab\": {\"a\": 0}}}", "merges is missing"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1}}", "dropout"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}", "decoder: type null"},
        {"{\"model\": {\"vocab\": {}, \"merges\": [], \"unk_token\": \"u\"}}",
         "unk_token u is not"},
        {"{\"model\": {}, \"normalizer\": {\"type\": \"NFKC\"}}", "normalizer: type NFKC"},
        {"{\"model\": {}, \"pre_tokenizer\": {\"type\": \"Digits\"}}",
         "pre_tokenizer: type Digits"},
        {"{\"model\": {}, \"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\","
         " \"pattern\": {\"Regex\": \"(\"}}}",
         "pre_tokenizer: pattern (: missing closing parenthesis"},
        {"{\"model\": {}, \"added_tokens\": [{\"id\": 5}]}",
         "added_tokens: an entry without content"},
        {"{\"model\": {\"vocab\": {}, \"merges\": []}, \"decoder\": {\"type\": \"ByteLevel\"},"
         " \"post_processor\": {\"type\": \"BertProcessing\"}}",
         "post_processor: type BertProcessing"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct tokenizer *t = NULL;
        struct error err;
        CHECK_INT(tokenizer_open_memory(&t, cases[i].json, strlen(cases[i].json), &err), ==, -1);
        CHECK(t == NULL);
        if (!strstr(err.text, cases[i].reason))
            test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, cases[i].reason);
    }
    struct tokenizer *t = NULL;
    struct error err;
    CHECK_INT(tokenizer_open(&t, "/nowhere/tokenizer.json", &err), ==, -1);
    CHECK(strstr(err.text, "/nowhere/tokenizer.json: ") == err.text);
    tokenizer_close(NULL);
}
