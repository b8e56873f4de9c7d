/* What merging, unknown characters, added tokens and metaspaces do to a text, with vocabularies
 * made for one question each. */
#include "runtime/text/tokenizer.h"

#include "test/test.h"
#include "test/text_golden.h"

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
