/* The tokens that a draft may propose: the default, and files of ids. */
#include "runtime/engine/draft_vocab.h"
#include "test/folder.h"
#include "test/test.h"

#include <stdio.h>
#include <string.h>

enum { SMALL = 640, LARGE = 152064, K = 8 };

static int choose(struct token_list *out, const char *option, int vocab, struct error *err)
{
    struct tokenizer *tokenizer;
    const struct generation_config generation = {.n_eos_ids = 3, .eos_ids = {7, 150000, LARGE + 1}};
    CHECK_INT(
        tokenizer_open(&tokenizer, test_path("golden/vispec/llava-next-tiny/tokenizer.json"), err),
        ==, 0);
    const struct draft_vocab v = {option, vocab, tokenizer, &generation, K};
    int result = draft_vocab_choose(out, &v, err);
    tokenizer_close(tokenizer);
    return result;
}

TEST(all_tokens_are_the_default_of_a_small_vocabulary_and_the_word_s_of_a_large_one)
{
    struct token_list list;
    struct error err;
    CHECK_INT(choose(&list, NULL, SMALL, &err), ==, 0);
    CHECK(list.n == 0 && !list.ids);
    CHECK_INT(choose(&list, NULL, DRAFT_VOCAB_FULL, &err), ==, 0);
    CHECK_INT(list.n, ==, 0);
    CHECK_INT(choose(&list, "all", LARGE, &err), ==, 0);
    CHECK_INT(list.n, ==, 0);
}

TEST(the_default_of_a_large_vocabulary_is_its_first_tokens_the_added_and_the_end_tokens)
{
    static const char json[] =
        "{\"added_tokens\":[{\"id\":140001,\"content\":\"<tool>\",\"special\":false,"
        "\"normalized\":false},{\"id\":140000,\"content\":\"<end>\",\"special\":true,"
        "\"normalized\":false}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}";
    struct tokenizer *tokenizer;
    struct token_list list;
    struct error err;
    const struct generation_config generation = {.n_eos_ids = 3, .eos_ids = {7, 150000, LARGE + 1}};
    if (tokenizer_open_memory(&tokenizer, json, strlen(json), &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    const struct draft_vocab v = {NULL, LARGE, tokenizer, &generation, K};
    CHECK_INT(draft_vocab_choose(&list, &v, &err), ==, 0);
    CHECK_INT(list.n, ==, DRAFT_VOCAB_FIRST + 3);
    for (int i = 0; i < DRAFT_VOCAB_FIRST; i++) CHECK_INT(list.ids[i], ==, i);
    CHECK_INT(list.ids[DRAFT_VOCAB_FIRST], ==, 140000);
    CHECK_INT(list.ids[DRAFT_VOCAB_FIRST + 1], ==, 140001);
    CHECK_INT(list.ids[DRAFT_VOCAB_FIRST + 2], ==, 150000);
    token_list_done(&list);
    tokenizer_close(tokenizer);
}

TEST(a_file_s_tokens_come_in_increasing_order_whatever_theirs_is)
{
    static const int32_t want[] = {0, 3, 4, 10, 17, 21, 500, 639};
    struct folder f = folder_new();
    struct token_list list;
    struct error err;
    folder_write_text(&f, "ids", "17\n3\n639\n0\n500\n0004\n10\n21");
    if (choose(&list, f.files[0], SMALL, &err) != 0) test_fail(__FILE__, __LINE__, "%s", err.text);
    CHECK_INT(list.n, ==, 8);
    for (int i = 0; i < 8; i++) CHECK_INT(list.ids[i], ==, want[i]);
    token_list_done(&list);
    folder_remove(&f);
}

/* The whole line behind the file's name. */
static void check_refused(const char *bytes, size_t len, const char *want)
{
    struct folder f = folder_new();
    struct token_list list;
    struct error err;
    folder_write(&f, "ids", bytes, len);
    CHECK_INT(choose(&list, f.files[0], SMALL, &err), ==, -1);
    CHECK(err.kind == ERROR_BAD_REQUEST && list.n == 0);
    CHECK(strncmp(err.text, f.files[0], strlen(f.files[0])) == 0);
    CHECK_STR(err.text + strlen(f.files[0]), want);
    folder_remove(&f);
}

#define CHECK_REFUSED(text, want) check_refused(text, sizeof(text) - 1, want)

TEST(a_bad_file_is_refused_with_its_name_line_and_value)
{
    CHECK_REFUSED("", ": 0 token ids, but --draft-top-k is 8");
    CHECK_REFUSED("1\n2\n3\n", ": 3 token ids, but --draft-top-k is 8");
    CHECK_REFUSED("1\nzwei\n", ": line 2: 'zwei' is not a token id");
    CHECK_REFUSED("1\n\n2\n", ": line 2: '' is not a token id");
    CHECK_REFUSED("1 2\n", ": line 1: '1 2' is not a token id");
    CHECK_REFUSED("-1\n", ": line 1: '-1' is not a token id");
    CHECK_REFUSED("1.0\n", ": line 1: '1.0' is not a token id");
    CHECK_REFUSED("1\r\n", ": line 1: '1?' is not a token id");
    CHECK_REFUSED("\x1b[31m\xff\n", ": line 1: '?[31m?' is not a token id");
    CHECK_REFUSED("1\0\n2\n", ": line 1: '1' is not a token id");
    CHECK_REFUSED("1\n639\n640\n", ": line 3: 640 is not below the vocabulary's 640");
    CHECK_REFUSED("18446744073709551617\n",
                  ": line 1: 18446744073709551617 is not below the vocabulary's 640");
    CHECK_REFUSED("0000000000000000000000000000000000001\n",
                  ": line 1: '0000000000000000000000000000000' is not a token id");
    CHECK_REFUSED("5\n6\n05\n", ": line 3: 5 stands in line 1 already");
}

TEST(what_is_no_file_is_refused)
{
    struct token_list list;
    struct error err;
    CHECK_INT(choose(&list, "/nonexistent/ids", SMALL, &err), ==, -1);
    CHECK_STR(err.text, "/nonexistent/ids: No such file or directory");
    CHECK_INT(choose(&list, "/tmp", SMALL, &err), ==, -1);
    CHECK_STR(err.text, "/tmp: Is a directory");
}
