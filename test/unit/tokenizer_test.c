#include "runtime/text/tokenizer.h"

#include <pthread.h>
#include <time.h>

#include "runtime/text/bpe.h"
#include "runtime/text/utf8.h"
#include "test/test.h"
#include "test/text_golden.h"

/* ---- the reference's answers, with the small vocabularies ---- */

static const char *const model_folders[] = {"llava15-tiny", "llavanext-tiny", "llama-tiny",
                                            "qwen2-tiny", "qwen25vl-tiny"};
static const char *const case_names[] = {"c1_text",      "c2_system_multiturn",  "c3_one_image",
                                         "c3_unicode",   "c4_two_images",        "c4_code",
                                         "c5_long",      "c5_image_second_turn", "c6_spaces",
                                         "c6_two_sizes", "c7_unicode",           "c8_video_frames"};

TEST(prompts_of_the_golden_models_give_the_reference_ids)
{
    int n_cases = 0;
    for (size_t m = 0; m < sizeof(model_folders) / sizeof(*model_folders); m++) {
        char path[200];
        snprintf(path, sizeof(path), "golden/hf/models/%s/tokenizer.json", model_folders[m]);
        struct tokenizer *t = golden_tokenizer(path);
        for (size_t c = 0; c < sizeof(case_names) / sizeof(*case_names); c++) {
            snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.json", model_folders[m],
                     case_names[c]);
            if (access(test_path(path), R_OK) != 0) continue;
            json_t *json = golden_json(path);
            const char *prompt = json_string_value(json_object_get(json, "prompt"));
            struct token_list ids = {0};
            size_t n_prefix;
            const int32_t *prefix = tokenizer_prefix(t, &n_prefix);
            if (strncmp(prompt, "<s>", 3) != 0) token_list_append(&ids, prefix, n_prefix);
            tokenizer_encode(t, prompt, strlen(prompt), SPECIALS_PARSED, &ids);
            CHECK_STR_FREE_BOTH(ids_text(ids.ids, ids.n),
                                json_ids_text(json_object_get(json, "input_ids_unexpanded")));
            token_list_done(&ids);
            json_decref(json);
            n_cases++;
        }
        tokenizer_close(t);
    }
    CHECK_INT(n_cases, ==, 34);
}

static void check_strings(const char *cases_path, const char *tokenizer_path)
{
    struct tokenizer *t = golden_tokenizer(tokenizer_path);
    json_t *cases = golden_json(cases_path);
    CHECK_INT(json_array_size(cases), >, 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *entry = json_array_get(cases, i);
        const char *text = json_string_value(json_object_get(entry, "text"));
        struct token_list ids = {0};
        size_t n_prefix;
        const int32_t *prefix = tokenizer_prefix(t, &n_prefix);
        token_list_append(&ids, prefix, n_prefix);
        tokenizer_encode(t, text, strlen(text), SPECIALS_PARSED, &ids);
        CHECK_STR_FREE_BOTH(ids_text(ids.ids, ids.n),
                            json_ids_text(json_object_get(entry, "ids_with_special")));
        token_list_done(&ids);
    }
    json_decref(cases);
    tokenizer_close(t);
}

TEST(strings_of_the_second_reference_give_its_ids_with_byte_fallback)
{
    check_strings("golden/vispec/cases_llava/tokenizer.json",
                  "golden/vispec/llava-next-tiny/tokenizer.json");
}

TEST(strings_of_the_second_reference_give_its_ids_at_byte_level)
{
    check_strings("golden/vispec/cases_qwen/tokenizer.json",
                  "golden/vispec/qwen2_5_vl-tiny/tokenizer.json");
}

TEST(the_post_processor_says_what_stands_in_front)
{
    struct tokenizer *llava = golden_tokenizer("golden/hf/models/llava15-tiny/tokenizer.json");
    struct tokenizer *qwen = golden_tokenizer("golden/hf/models/qwen2-tiny/tokenizer.json");
    size_t n;
    const int32_t *prefix = tokenizer_prefix(llava, &n);
    CHECK_INT(n, ==, 1);
    CHECK_INT(prefix[0], ==, 1);
    tokenizer_prefix(qwen, &n);
    CHECK_INT(n, ==, 0);
    CHECK_INT(tokenizer_n_ids(llava), ==, 608);
    CHECK_INT(tokenizer_find_token(llava, "<image>"), ==, 606);
    CHECK_INT(tokenizer_find_token(llava, "</s>"), ==, 2);
    CHECK_INT(tokenizer_find_token(llava, "<|im_end|>"), ==, -1);
    CHECK_INT(tokenizer_find_token(qwen, "<|im_end|>"), ==, 602);
    CHECK_INT(tokenizer_find_token(qwen, "!"), ==, 0);
    tokenizer_close(llava);
    tokenizer_close(qwen);
}

/* ---- the reference's answers, with the published vocabularies ---- */

static void check_real_strings(const struct tokenizer *t, const char *name, const char *ids_key)
{
    json_t *golden = golden_json("golden/hf/tokenizer/tokenizer.json");
    const json_t *strings = json_object_get(golden, "strings");
    CHECK_INT(json_array_size(strings), ==, 150);
    for (size_t i = 0; i < json_array_size(strings); i++) {
        const json_t *entry = json_array_get(strings, i);
        const char *text = json_string_value(json_object_get(entry, "text"));
        const json_t *want = json_object_get(entry, name);
        const json_t *ids = json_object_get(want, "ids");
        const json_t *other = json_object_get(want, ids_key);
        bool is_user = strcmp(ids_key, "ids_user") == 0;
        CHECK_STR_FREE_BOTH(encoded(t, text, is_user ? SPECIALS_AS_TEXT : SPECIALS_PARSED),
                            json_ids_text(json_is_array(other) ? other : ids));
    }
    json_decref(golden);
}

static void check_vectors(const struct tokenizer *t, const char *path)
{
    json_t *cases = golden_json(path);
    CHECK_INT(json_array_size(cases), ==, 46);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *entry = json_array_get(cases, i);
        CHECK_STR_FREE_BOTH(
            encoded(t, json_string_value(json_object_get(entry, "text")), SPECIALS_PARSED),
            json_ids_text(json_object_get(entry, "ids")));
    }
    json_decref(cases);
}

TEST(llama2_gives_the_reference_ids)
{
    struct tokenizer *t = real_tokenizer("llama2", "llama2");
    check_real_strings(t, "llama2", "ids");
    check_real_strings(t, "llama2", "ids_user");
    check_vectors(t, "golden/vectors/vectors_llama-spm.json");
    CHECK_STR_FREE(encoded(t, "<image>\n", SPECIALS_PARSED), "32000 29871 13");
    tokenizer_close(t);
}

TEST(llama2_with_metaspace_gives_the_reference_ids)
{
    struct tokenizer *t = real_tokenizer("llama2", "llama2_metaspace_first");
    check_real_strings(t, "llama2", "ids_metaspace_first");
    CHECK_STR_FREE(encoded(t, "<image>\n", SPECIALS_PARSED), "32000 13");
    tokenizer_close(t);
}

TEST(qwen_gives_the_reference_ids)
{
    struct tokenizer *t = real_tokenizer("qwen", "qwen2.5");
    check_real_strings(t, "qwen2.5", "ids");
    check_real_strings(t, "qwen2.5", "ids_user");
    check_vectors(t, "golden/vectors/vectors_qwen2.json");
    tokenizer_close(t);
}

TEST(prompts_published_with_their_ids_give_them)
{
    static const char *const tokenizers[][2] = {
        {"llama2", "llama2"}, {"llama2", "llama2_metaspace_first"}, {"qwen", "qwen2.5"}};
    json_t *cases = golden_json("golden/vectors/vectors_prompts.json");
    CHECK_INT(json_array_size(cases), ==, 3);
    for (size_t i = 0; i < 3; i++) {
        struct tokenizer *t = real_tokenizer(tokenizers[i][0], tokenizers[i][1]);
        const json_t *entry = json_array_get(cases, i);
        char text[300];
        snprintf(text, sizeof(text), "%s", json_string_value(json_object_get(entry, "text")));
        char *video = strstr(text, "<video>"); /* the second has <image>'s id under this name */
        if (video) memcpy(video, "<image>", 7);
        struct token_list ids = {0};
        size_t n_prefix;
        const int32_t *prefix = tokenizer_prefix(t, &n_prefix);
        token_list_append(&ids, prefix, n_prefix);
        tokenizer_encode(t, text, strlen(text), SPECIALS_PARSED, &ids);
        CHECK_STR_FREE_BOTH(ids_text(ids.ids, ids.n), json_ids_text(json_object_get(entry, "ids")));
        token_list_done(&ids);
        tokenizer_close(t);
    }
    json_decref(cases);
}

/* ---- merging, against the definition ---- */

#define N_LETTERS 4

/* A random byte-level vocabulary over a, b, c, d: letters, then one entry a merge. */
static json_t *random_vocabulary(unsigned *seed, int n_merges, bool as_arrays)
{
    json_t *vocab = json_object(), *merges = json_array();
    char entries[128][64];
    int n = N_LETTERS;
    for (int i = 0; i < N_LETTERS; i++) snprintf(entries[i], 64, "%c", 'a' + i);
    for (int tries = 0; n < N_LETTERS + n_merges && tries < 1000; tries++) {
        const char *a = entries[rand_r(seed) % (unsigned)n],
                   *b = entries[rand_r(seed) % (unsigned)n];
        char joined[64];
        if (snprintf(joined, sizeof(joined), "%s%s", a, b) > 20) continue;
        bool is_new = true;
        for (int i = 0; i < n; i++) is_new = is_new && strcmp(entries[i], joined) != 0;
        json_array_append_new(merges,
                              as_arrays ? json_pack("[ss]", a, b) : json_sprintf("%s %s", a, b));
        if (is_new) snprintf(entries[n++], 64, "%s", joined);
    }
    for (int i = 0; i < n; i++) json_object_set_new(vocab, entries[i], json_integer(i));
    return json_pack("{s:{s:s}, s:{s:s, s:b}, s:{s:s, s:o, s:o}}", "decoder", "type", "ByteLevel",
                     "pre_tokenizer", "type", "ByteLevel", "use_regex", 0, "model", "type", "BPE",
                     "vocab", vocab, "merges", merges);
}

/* Merging as it is defined: the first merge of the list that fits, at its leftmost place.
 * Freed by the caller. */
static char *merged_by_definition(const json_t *root, const char *text)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *vocab = json_object_get(model, "vocab"),
                 *merges = json_object_get(model, "merges");
    char parts[256][64];
    int n = (int)strlen(text);
    for (int i = 0; i < n; i++) snprintf(parts[i], 64, "%c", text[i]);
    for (;;) {
        int best = -1, best_rank = -1;
        for (int i = 0; i + 1 < n; i++) {
            char pair[130];
            snprintf(pair, sizeof(pair), "%s %s", parts[i], parts[i + 1]);
            int rank = -1; /* the last of equal entries counts */
            for (int m = 0; m < (int)json_array_size(merges); m++)
                if (strcmp(json_string_value(json_array_get(merges, (size_t)m)), pair) == 0)
                    rank = m;
            if (rank >= 0 && (best < 0 || rank < best_rank)) {
                best = i;
                best_rank = rank;
            }
        }
        if (best < 0) break;
        size_t end = strlen(parts[best]);
        memcpy(parts[best] + end, parts[best + 1], strlen(parts[best + 1]) + 1);
        memmove(parts[best + 1], parts[best + 2], sizeof(parts[0]) * (size_t)(n - best - 2));
        n--;
    }
    struct token_list ids = {0};
    for (int i = 0; i < n; i++)
        token_list_push(&ids, (int32_t)json_integer_value(json_object_get(vocab, parts[i])));
    char *result = ids_text(ids.ids, ids.n);
    token_list_done(&ids);
    return result;
}

TEST(merging_by_heap_equals_merging_by_definition)
{
    for (unsigned round = 0; round < 60; round++) {
        unsigned seed = 100 + round;
        json_t *root = random_vocabulary(&seed, 5 + (int)(round % 40), false);
        struct tokenizer *t = tokenizer_of(root);
        for (int k = 0; k < 40; k++) {
            char text[121];
            int len = 1 + (int)(rand_r(&seed) % 120);
            int n_letters = 1 + (int)(rand_r(&seed) % N_LETTERS); /* runs of one letter, too */
            for (int i = 0; i < len; i++)
                text[i] = (char)('a' + rand_r(&seed) % (unsigned)n_letters);
            text[len] = '\0';
            CHECK_STR_FREE_BOTH(encoded(t, text, SPECIALS_PARSED),
                                merged_by_definition(root, text));
        }
        tokenizer_close(t);
        json_decref(root);
    }
}

TEST(merges_written_as_arrays_and_as_strings_are_the_same)
{
    unsigned seed = 7, same_seed = 7;
    json_t *strings = random_vocabulary(&seed, 30, false);
    json_t *arrays = random_vocabulary(&same_seed, 30, true);
    struct tokenizer *a = tokenizer_of(strings), *b = tokenizer_of(arrays);
    const char *text = "abcdabcdaabbccddabababab";
    char *ids = encoded(a, text, SPECIALS_PARSED);
    CHECK(strlen(ids) > 0);
    CHECK_STR_FREE_BOTH(ids, encoded(b, text, SPECIALS_PARSED));
    tokenizer_close(a);
    tokenizer_close(b);
    json_decref(strings);
    json_decref(arrays);
}

/* ---- small tokenizers written for one question each ---- */

/* Byte fallback absent, unk 0, entries a..c and their merges; fields replaces or adds root fields.
 */
static struct tokenizer *small_tokenizer(const char *fields)
{
    json_t *root = json_loads(
        "{\"decoder\": {\"type\": \"Sequence\", \"decoders\": []}, \"model\": {\"type\": \"BPE\","
        " \"unk_token\": \"?\", \"vocab\": {\"?\": 0, \"a\": 1, \"b\": 2, \"c\": 3, \"ab\": 4,"
        " \"abc\": 5, \" \": 6, \"_\": 7, \"_a\": 8, \"bc\": 9}, \"merges\": [\"a b\", \"ab c\","
        " \"_ a\"]}}",
        0, NULL);
    json_error_t why;
    json_t *more = json_loads(fields, 0, &why);
    if (!root || !more) test_fail(__FILE__, __LINE__, "%s", why.text);
    const char *key;
    json_t *value;
    json_object_foreach(more, key, value)
    {
        if (strcmp(key, "model") == 0)
            json_object_update(json_object_get(root, key), value);
        else
            json_object_set(root, key, value);
    }
    struct tokenizer *t = tokenizer_of(root);
    json_decref(more);
    json_decref(root);
    return t;
}

TEST(unknown_characters_become_unk_and_neighbours_fuse_where_the_file_says_so)
{
    struct tokenizer *t = small_tokenizer("{}");
    CHECK_STR_FREE(encoded(t, "axyzab", SPECIALS_PARSED), "1 0 0 0 4");
    tokenizer_close(t);
    t = small_tokenizer("{\"model\": {\"fuse_unk\": true}}");
    CHECK_STR_FREE(encoded(t, "axyzabx", SPECIALS_PARSED), "1 0 4 0");
    tokenizer_close(t);
    t = small_tokenizer("{\"model\": {\"unk_token\": null}}");
    CHECK_STR_FREE(encoded(t, "axyzab", SPECIALS_PARSED), "1 4");
    tokenizer_close(t);
}

TEST(a_whole_word_is_taken_from_the_vocabulary_only_where_merges_are_ignored)
{
    struct tokenizer *t = small_tokenizer("{}");
    CHECK_STR_FREE(encoded(t, "bc", SPECIALS_PARSED), "2 3"); /* no merge leads to the entry */
    CHECK_STR_FREE(encoded(t, "abc", SPECIALS_PARSED), "5");
    tokenizer_close(t);
    t = small_tokenizer("{\"model\": {\"ignore_merges\": true}}");
    CHECK_STR_FREE(encoded(t, "bc", SPECIALS_PARSED), "9");
    CHECK_STR_FREE(encoded(t, "bca", SPECIALS_PARSED), "2 3 1");
    tokenizer_close(t);
}

TEST(added_tokens_strip_and_stand_alone_as_their_flags_say)
{
    struct tokenizer *t = small_tokenizer(
        "{\"added_tokens\": ["
        "{\"id\": 20, \"content\": \"<l>\", \"lstrip\": true, \"special\": true},"
        "{\"id\": 21, \"content\": \"<r>\", \"rstrip\": true, \"special\": true},"
        "{\"id\": 22, \"content\": \"cab\", \"single_word\": true, \"special\": false},"
        "{\"id\": 23, \"content\": \"<l>a\", \"special\": false}]}");
    CHECK_STR_FREE(encoded(t, "a  <l>  b", SPECIALS_PARSED), "1 20 6 6 2");
    CHECK_STR_FREE(encoded(t, "a  <r> \t\xE2\x80\x83 b", SPECIALS_PARSED), "1 6 6 21 2");
    CHECK_STR_FREE(encoded(t, "<r>  <l>", SPECIALS_PARSED), "21 20"); /* taken once, by the first */
    CHECK_STR_FREE(encoded(t, "<l>ab", SPECIALS_PARSED), "23 2");     /* the longest counts */
    CHECK_STR_FREE(encoded(t, "cab acab cab", SPECIALS_PARSED), "22 6 1 3 4 6 22");
    CHECK_STR_FREE(encoded(t, "cab_", SPECIALS_PARSED), "3 4 7");
    CHECK_STR_FREE(encoded(t,
                           "\xC3\xA9"
                           "cab",
                           SPECIALS_PARSED),
                   "0 3 4");
    CHECK_STR_FREE(encoded(t, "cab <l>", SPECIALS_AS_TEXT), "22 6 0 0 0");
    CHECK_INT(tokenizer_n_ids(t), ==, 24);
    tokenizer_close(t);
}

TEST(normalized_added_tokens_are_found_behind_the_normalizer)
{
    struct tokenizer *t = small_tokenizer(
        "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"},"
        " \"content\": \"_\"}, \"added_tokens\": ["
        "{\"id\": 20, \"content\": \"b c\", \"normalized\": true, \"special\": false},"
        "{\"id\": 21, \"content\": \"c c\", \"normalized\": false, \"special\": false}]}");
    CHECK_STR_FREE(encoded(t, "ab c", SPECIALS_PARSED), "1 20");
    CHECK_STR_FREE(encoded(t, "ab_c", SPECIALS_PARSED), "1 20");
    CHECK_STR_FREE(encoded(t, "c c", SPECIALS_PARSED), "21");
    CHECK_STR_FREE(encoded(t, "c_c a", SPECIALS_PARSED), "3 7 3 8");
    tokenizer_close(t);
}

TEST(metaspace_marks_and_cuts_as_its_scheme_says)
{
    static const struct {
        const char *scheme, *start, *rest;
    } cases[] = {
        {"always", "8 8 2", "8 8 2"}, {"first", "8 8 2", "1 8 2"}, {"never", "1 8 2", "1 8 2"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char fields[300];
        snprintf(fields, sizeof(fields),
                 "{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\","
                 " \"prepend_scheme\": \"%s\", \"split\": true},"
                 " \"model\": {\"merges\": [\"_ a\", \"a _\"],"
                 " \"vocab\": {\"?\": 0, \"a\": 1, \"b\": 2, \"_\": 7, \"_a\": 8, \"a_\": 9}}}",
                 cases[i].scheme);
        struct tokenizer *t = small_tokenizer(fields);
        CHECK_STR_FREE(encoded(t, "a ab", SPECIALS_PARSED), cases[i].start);
        struct token_list ids = {0};
        tokenizer_encode_rest(t, "a ab", 4, SPECIALS_PARSED, &ids);
        CHECK_STR_FREE(ids_text(ids.ids, ids.n), cases[i].rest);
        token_list_done(&ids);
        CHECK_STR_FREE(encoded(t, " a", SPECIALS_PARSED), "8"); /* there is a mark already */
        tokenizer_close(t);
    }
}

/* ---- hostile input ---- */

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
