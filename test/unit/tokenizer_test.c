#include "runtime/text/tokenizer.h"

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
