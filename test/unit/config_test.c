#include "runtime/model/config.h"

#include <stdio.h>
#include <string.h>

#include "test/folder.h"
#include "test/test.h"

static struct model_config load(const char *folder)
{
    struct model_config cfg;
    struct error err;
    if (config_load(test_path(folder), &cfg, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg;
}

static struct model_config parse(const char *text)
{
    struct model_config cfg;
    struct error err;
    if (config_parse(text, strlen(text), "config.json", &cfg, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg;
}

TEST(a_published_llava_config_gets_the_defaults_it_leaves_out)
{
    struct model_config cfg = load("golden/hf/models/llava15-tiny");
    CHECK_INT(cfg.family, ==, FAMILY_LLAVA);
    CHECK_INT(cfg.image_token, ==, 606);
    CHECK_INT(cfg.lm.hidden, ==, 128);
    CHECK_INT(cfg.lm.n_kv_heads, ==, 2);
    CHECK_INT(cfg.lm.head_dim, ==, 32);
    CHECK_INT(cfg.lm.rope_section[0], ==, 16);
    CHECK(cfg.lm.rope_theta == 10000 && cfg.lm.rms_eps == 1e-5F);
    CHECK(!cfg.lm.tie_embeddings && !cfg.lm.qkv_bias);
    CHECK(cfg.has_vision);
    CHECK_INT(cfg.vision.activation, ==, ACT_QUICK_GELU);
    CHECK_INT(cfg.vision.projector_activation, ==, ACT_GELU);
    CHECK(cfg.vision.layer_norm_eps == 1e-5F && cfg.vision.projector_bias);
    CHECK_INT(cfg.vision.n_layers, ==, 3);
    CHECK_INT(cfg.vision.n_used_layers, ==, 2);
    CHECK_INT(cfg.vision.n_tokens, ==, 16);
    CHECK(cfg.vision.drop_class);
}

TEST(the_new_style_of_config_says_the_same)
{
    struct model_config old = load("golden/hf/models/llava15-tiny");
    struct model_config new = load("golden/hf/models/llava15-tiny-v5names");
    CHECK_INT(old.lm.n_kv_heads, ==, new.lm.n_kv_heads);
    CHECK_INT(old.lm.head_dim, ==, new.lm.head_dim);
    CHECK_INT(old.lm.intermediate, ==, new.lm.intermediate);
    CHECK_INT(old.lm.vocab, ==, new.lm.vocab);
    CHECK(old.lm.rope_theta == new.lm.rope_theta &&old.lm.rms_eps == new.lm.rms_eps);
    CHECK_INT(old.vision.n_used_layers, ==, new.vision.n_used_layers);
    CHECK_INT(old.vision.activation, ==, new.vision.activation);
    CHECK_INT(old.vision.n_tokens, ==, new.vision.n_tokens);
    CHECK_INT(old.image_token, ==, new.image_token);
}

TEST(activations_of_16_bits_are_of_the_checkpoint_s_type_and_bf16_where_it_has_none)
{
    CHECK_INT(load("golden/hf/models/llama-tiny").act, ==, DTYPE_BF16);
    CHECK_INT(load("golden/hf/models/llama-tiny-f16").act, ==, DTYPE_F16);
    CHECK_INT(load("golden/hf/models/qwen2-tiny-f32").act, ==, DTYPE_BF16);
    CHECK_INT(parse("{\"model_type\": \"llama\"}").act, ==, DTYPE_BF16);
    CHECK_INT(parse("{\"model_type\": \"llama\", \"dtype\": \"float16\"}").act, ==, DTYPE_F16);
    const char *nested = "{\"model_type\": \"llava\", \"image_token_index\": 7,"
                         " \"text_config\": {\"torch_dtype\": \"float16\"}}";
    CHECK_INT(parse(nested).act, ==, DTYPE_F16);
}

TEST(the_config_of_llava_1_5_7b_gives_its_sizes)
{
    struct model_config cfg =
        parse("{\"model_type\": \"llava\", \"image_token_index\": 32000,"
              "\"text_config\": {\"model_type\": \"llama\", \"max_position_embeddings\": 4096,"
              "\"rms_norm_eps\": 1e-05, \"vocab_size\": 32064, \"torch_dtype\": \"float16\"},"
              "\"vision_config\": {\"model_type\": \"clip_vision_model\", \"hidden_size\": 1024,"
              "\"intermediate_size\": 4096, \"num_hidden_layers\": 24, \"patch_size\": 14,"
              "\"num_attention_heads\": 16, \"image_size\": 336, \"projection_dim\": 768},"
              "\"vision_feature_layer\": -2, \"vision_feature_select_strategy\": \"default\"}");
    CHECK_INT(cfg.lm.hidden, ==, 4096);
    CHECK_INT(cfg.lm.intermediate, ==, 11008);
    CHECK_INT(cfg.lm.n_layers, ==, 32);
    CHECK_INT(cfg.lm.n_heads, ==, 32);
    CHECK_INT(cfg.lm.n_kv_heads, ==, 32);
    CHECK_INT(cfg.lm.head_dim, ==, 128);
    CHECK_INT(cfg.lm.max_positions, ==, 4096);
    CHECK_INT(cfg.vision.n_used_layers, ==, 23);
    CHECK_INT(cfg.vision.n_tokens, ==, 576);
    CHECK_INT(parse("{\"model_type\": \"llava\", \"image_token_index\": 31999}").vision.n_tokens,
              ==, 576);
}

TEST(other_families_are_read)
{
    struct model_config next = load("golden/vispec/llava-next-tiny");
    CHECK_INT(next.family, ==, FAMILY_LLAVA_NEXT);
    CHECK_INT(next.lm.n_layers, ==, 4);
    CHECK_INT(next.vision.kind, ==, VISION_ANYRES);
    CHECK_INT(load("golden/hf/models/llava15-tiny").vision.kind, ==, VISION_CLIP);
    struct model_config llama = load("golden/hf/models/llama-tiny");
    CHECK_INT(llama.family, ==, FAMILY_LLAMA);
    CHECK_INT(llama.lm.head_dim, ==, 128);
    CHECK_INT(llama.lm.n_heads, ==, 2);
    CHECK_INT(llama.image_token, ==, -1);
    CHECK(!llama.has_vision);
}

static void check_refused(const char *text, const char *wanted)
{
    struct model_config cfg;
    struct error err;
    CHECK_INT(config_parse(text, strlen(text), "m/config.json", &cfg, &err), ==, -1);
    CHECK(strchr(err.text, '\n') == NULL && strstr(err.text, "m/config.json: ") == err.text);
    if (!strstr(err.text, wanted))
        test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", wanted, err.text);
}

/* What all revisions of Qwen2.5-VL-3B's file say. */
#define QWEN_TEXT                                                                                  \
    "\"hidden_size\": 2048, \"intermediate_size\": 11008, \"num_hidden_layers\": 36,"              \
    "\"num_attention_heads\": 16, \"num_key_value_heads\": 2, \"vocab_size\": 151936,"             \
    "\"max_position_embeddings\": 128000, \"rms_norm_eps\": 1e-06, \"sliding_window\": 32768,"     \
    "\"use_sliding_window\": false, \"tie_word_embeddings\": true,"
#define QWEN_IDS "\"model_type\": \"qwen2_5_vl\", \"image_token_id\": 151655,"

static void check_qwen(const struct model_config *cfg)
{
    const struct vision_config *v = &cfg->vision;
    CHECK_INT(cfg->family, ==, FAMILY_QWEN2_5_VL);
    CHECK_INT(cfg->image_token, ==, 151655);
    CHECK_INT(cfg->lm.hidden, ==, 2048);
    CHECK_INT(cfg->lm.n_kv_heads, ==, 2);
    CHECK_INT(cfg->lm.head_dim, ==, 128);
    CHECK_INT(cfg->lm.max_positions, ==, 128000);
    CHECK(cfg->lm.qkv_bias && cfg->lm.tie_embeddings);
    CHECK(cfg->lm.rope_theta == 1e6 && cfg->lm.rms_eps == 1e-6F);
    CHECK_INT(cfg->lm.rope_section[0], ==, 16);
    CHECK_INT(cfg->lm.rope_section[1], ==, 24);
    CHECK_INT(cfg->lm.rope_section[2], ==, 24);
    CHECK(cfg->has_vision && v->kind == VISION_QWEN);
    CHECK_INT(v->hidden, ==, 1280);
    CHECK_INT(v->intermediate, ==, 3420);
    CHECK_INT(v->n_layers, ==, 32);
    CHECK_INT(v->n_heads, ==, 16);
    CHECK_INT(v->patch, ==, 14);
    CHECK_INT(v->merge, ==, 2);
    CHECK_INT(v->n_frames, ==, 2);
    CHECK_INT(v->window, ==, 4);
    CHECK(v->full_layers == (1U << 7 | 1U << 15 | 1U << 23 | 1U << 31));
}

TEST(every_revision_of_qwen_s_config_says_the_same)
{
    struct model_config published =
        parse("{" QWEN_IDS QWEN_TEXT "\"rope_theta\": 1000000.0, \"hidden_act\": \"silu\","
              "\"vision_config\": {\"depth\": 32, \"hidden_act\": \"silu\", \"hidden_size\": 1280,"
              "\"intermediate_size\": 3420, \"num_heads\": 16, \"in_chans\": 3, "
              "\"out_hidden_size\": 2048,"
              "\"patch_size\": 14, \"spatial_merge_size\": 2, \"spatial_patch_size\": 14,"
              "\"window_size\": 112, \"fullatt_block_indexes\": [7, 15, 23, 31],"
              "\"tokens_per_second\": 2, \"temporal_patch_size\": 2},"
              "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [16, 24, 24]}}");
    check_qwen(&published);
    struct model_config saved_again =
        parse("{" QWEN_IDS QWEN_TEXT "\"rope_theta\": 1000000.0,"
              "\"vision_config\": {\"hidden_size\": 1280, \"in_chans\": 3, \"model_type\": "
              "\"qwen2_5_vl\","
              "\"out_hidden_size\": 2048, \"spatial_patch_size\": 14, \"tokens_per_second\": 2},"
              "\"rope_scaling\": {\"type\": \"default\", \"rope_type\": \"default\","
              "\"mrope_section\": [16, 24, 24]}}");
    check_qwen(&saved_again);
    struct model_config nested =
        parse("{" QWEN_IDS "\"text_config\": {" QWEN_TEXT "\"model_type\": \"qwen2_5_vl_text\","
              "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1000000.0,"
              "\"mrope_section\": [16, 24, 24]}},"
              "\"vision_config\": {\"hidden_size\": 1280, \"in_channels\": 3, \"out_hidden_size\": "
              "2048}}");
    check_qwen(&nested);
    struct model_config without_sections =
        parse("{" QWEN_IDS QWEN_TEXT "\"vision_config\": {\"hidden_size\": 1280}}");
    check_qwen(&without_sections);
}

TEST(what_we_do_not_compute_of_qwen_is_refused)
{
    static const struct {
        const char *keys, *wanted;
    } cases[] = {
        {"\"use_sliding_window\": true", "use_sliding_window is true, not false"},
        {"\"rope_scaling\": {\"type\": \"yarn\"}", "type is \"yarn\", not default or mrope"},
        {"\"rope_scaling\": {\"mrope_section\": [16, 24, 25]}", "mrope_section is [16,24,25]"},
        {"\"rope_scaling\": {\"mrope_section\": [16, 48]}", "mrope_section is [16,48]"},
        {"\"image_token_id\": 152064, \"vision_config\": {\"hidden_size\": 1280}",
         "image_token_id is 152064, not below vocab_size"},
        {"\"vision_config\": {\"depth\": 65}", "depth is 65"},
        {"\"vision_config\": {\"fullatt_block_indexes\": [32]}", "fullatt_block_indexes is [32]"},
        {"\"vision_config\": {\"out_hidden_size\": 64}", "out_hidden_size is 64"},
        {"\"vision_config\": {\"hidden_size\": 60, \"num_heads\": 5}",
         "num_heads is 5, and heads of 12 are not of a multiple of 8 up to 128"},
        {"\"vision_config\": {\"num_heads\": 11}", "num_heads is 11, not a divisor of hidden_size"},
        {"\"vision_config\": {\"window_size\": 27}", "window_size is 27"},
        {"\"vision_config\": {\"hidden_act\": \"gelu\"}", "hidden_act is \"gelu\""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[300];
        snprintf(text, sizeof(text), "{\"model_type\": \"qwen2_5_vl\", %s}", cases[i].keys);
        check_refused(text, cases[i].wanted);
    }
}

TEST(a_plain_qwen2_has_biases_and_one_axis)
{
    struct model_config cfg = load("golden/hf/models/qwen2-tiny-f32");
    CHECK_INT(cfg.family, ==, FAMILY_QWEN2);
    CHECK(cfg.lm.qkv_bias && !cfg.lm.tie_embeddings && !cfg.has_vision);
    CHECK_INT(cfg.lm.rope_section[0], ==, cfg.lm.head_dim / 2);
    CHECK_INT(cfg.image_token, ==, -1);
}

TEST(feature_layers_count_from_either_end)
{
    char text[256];
    const struct {
        const char *layer;
        int used;
    } cases[] = {{"-1", 24}, {"-2", 23}, {"[-2]", 23}, {"0", 0}, {"24", 24}, {"-25", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(text, sizeof(text),
                 "{\"model_type\": \"llava\", \"image_token_index\": 5,"
                 "\"vision_feature_select_strategy\": \"full\", \"vision_feature_layer\": %s}",
                 cases[i].layer);
        struct model_config cfg = parse(text);
        CHECK_INT(cfg.vision.n_used_layers, ==, cases[i].used);
        CHECK_INT(cfg.vision.n_tokens, ==, 577);
    }
}

TEST(what_we_do_not_compute_is_refused_with_key_and_value)
{
    check_refused(
        "{\"model_type\": \"mamba\"}",
        "model_type is \"mamba\", not llava or llava_next or qwen2_5_vl or llama or qwen2");
    check_refused("{}", "model_type is missing");
    check_refused("[]", "not a JSON object");
    check_refused("{\"model_type\":\n", "line ");
    check_refused("{\"model_type\": \"llama\", \"hidden_act\": \"gelu\"}",
                  "hidden_act is \"gelu\"");
    check_refused("{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"linear\"}}",
                  "type is \"linear\"");
    check_refused("{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_type\": \"llama3\"}}",
                  "rope_type is \"llama3\"");
    check_refused("{\"model_type\": \"llama\", \"attention_bias\": true}", "attention_bias");
    check_refused("{\"model_type\": \"llama\", \"num_hidden_layers\": 0}",
                  "num_hidden_layers is 0");
    check_refused("{\"model_type\": \"llama\", \"hidden_size\": \"x\"}", "hidden_size is \"x\"");
    check_refused("{\"model_type\": \"llama\", \"hidden_size\": 4097}", "num_attention_heads");
    check_refused("{\"model_type\": \"llama\", \"num_key_value_heads\": 5}",
                  "num_key_value_heads is 5");
    check_refused("{\"model_type\": \"llama\", \"head_dim\": 33}", "head_dim is 33");
    check_refused("{\"model_type\": \"llama\", \"head_dim\": 136}",
                  "head_dim is 136, and heads of 136 are not of a multiple of 8 up to 128");
    check_refused("{\"model_type\": \"llama\", \"hidden_size\": 4128}", "heads of 129 are not");
    check_refused("{\"model_type\": \"llama\", \"hidden_size\": 16640}", "hidden_size is 16640");
    check_refused("{\"model_type\": \"llama\", \"vocab_size\": 1048577}", "vocab_size is 1048577");
    check_refused("{\"model_type\": \"llama\", \"intermediate_size\": 524289}",
                  "intermediate_size is 524289");
    check_refused("{\"model_type\": \"llama\", \"num_attention_heads\": 65,"
                  "\"num_key_value_heads\": 1, \"head_dim\": 8}",
                  "num_attention_heads is 65, more than 64 for each");
    check_refused("{\"model_type\": \"llava\", \"vision_config\": {\"hidden_size\": 1032,"
                  "\"num_attention_heads\": 6}}",
                  "num_attention_heads is 6, and heads of 172 are not");
    check_refused("{\"model_type\": \"llava\", \"vision_config\": {\"hidden_size\": 48,"
                  "\"num_attention_heads\": 4}}",
                  "num_attention_heads is 4, and heads of 12 are not");
    check_refused("{\"model_type\": \"llama\", \"vocab_size\": 5, \"vocab_size\": 6}", "duplicate");
    check_refused("{\"model_type\": \"llava\", \"text_config\": {\"model_type\": \"mistral\"}}",
                  "model_type is \"mistral\", not llama");
    check_refused("{\"model_type\": \"llava\", \"image_token_index\": 32000}", "image_token_index");
    check_refused("{\"model_type\": \"llava\", \"vision_feature_layer\": [-2, -3]}",
                  "vision_feature_layer is [-2,-3]");
    check_refused("{\"model_type\": \"llava_next\", \"image_token_index\": 5,"
                  "\"vision_feature_select_strategy\": \"full\"}",
                  "vision_feature_select_strategy is \"full\", not default");
    check_refused("{\"model_type\": \"llava\", \"vision_config\": {\"model_type\": \"siglip\"}}",
                  "model_type is \"siglip\"");
}

TEST(a_folder_without_config_is_refused)
{
    struct model_config cfg;
    struct error err;
    CHECK_INT(config_load(test_path("golden/nothing"), &cfg, &err), ==, -1);
    CHECK(strstr(err.text, "golden/nothing/config.json: No such file") != NULL);
}

/* ---- generation_config.json ---------------------------------------------------------------------
 */

static struct generation_config generation(const char *text, const char *model)
{
    struct folder f = folder_new();
    struct generation_config cfg;
    struct error err;
    if (text) folder_write_text(&f, "generation_config.json", text);
    folder_write_text(&f, "config.json", model);
    int result = config_load_generation(f.path, &cfg, &err);
    folder_remove(&f);
    if (result != 0) test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg;
}

TEST(a_missing_generation_config_gives_openai_s_defaults)
{
    struct generation_config cfg = generation(NULL, "{\"eos_token_id\": 7}");
    CHECK(cfg.temperature == 1 && cfg.top_p == 1 && cfg.min_p == 0);
    CHECK(cfg.repetition_penalty == 1 && cfg.top_k == 0);
    CHECK_INT(cfg.n_eos_ids, ==, 1);
    CHECK_INT(cfg.eos_ids[0], ==, 7);
    CHECK_INT(generation(NULL, "{}").eos_ids[0], ==, 2);
    CHECK_INT(generation("{}", "{\"text_config\": {\"eos_token_id\": 9}}").eos_ids[0], ==, 9);
}

TEST(a_generation_config_is_read)
{
    struct generation_config cfg =
        generation("{\"do_sample\": true, \"temperature\": 0.5, \"top_p\": 0.25, \"top_k\": 3,"
                   "\"min_p\": null, \"repetition_penalty\": 1.5, \"eos_token_id\": [5, 6]}",
                   "{\"eos_token_id\": 7}");
    CHECK(cfg.temperature == 0.5F && cfg.top_p == 0.25F && cfg.min_p == 0);
    CHECK(cfg.repetition_penalty == 1.5F && cfg.top_k == 3);
    CHECK_INT(cfg.n_eos_ids, ==, 2);
    CHECK_INT(cfg.eos_ids[1], ==, 6);
    cfg = generation("{\"do_sample\": false, \"temperature\": 0.5}", "{}");
    CHECK(cfg.temperature == 0);
}

TEST(a_generation_config_out_of_range_is_refused)
{
    static const char *const texts[] = {
        "{\"temperature\": -1}", "{\"top_p\": 1.5}", "{\"eos_token_id\": \"x\"}",
        "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}", "{\"top_k\": 1.5}"};
    struct folder f = folder_new();
    folder_write_text(&f, "config.json", "{}");
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct generation_config cfg;
        struct error err;
        folder_write_text(&f, "generation_config.json", texts[i]);
        CHECK_INT(config_load_generation(f.path, &cfg, &err), ==, -1);
        CHECK(strstr(err.text, "/generation_config.json: ") != NULL);
    }
    folder_remove(&f);
}

/* ---- drafts -----------------------------------------------------------------------------------
 */

TEST(published_draft_configs_are_read)
{
    struct lm_config target = load("golden/vispec/llava-next-tiny").lm;
    struct draft_config cfg;
    struct error err;
    CHECK_INT(
        config_load_draft(test_path("golden/vispec/llava-next-tiny-vispec"), &target, &cfg, &err),
        ==, 0);
    CHECK(cfg.layer.rope_theta == 10000 && !cfg.layer.qkv_bias && !cfg.has_image_rows);
    CHECK_INT(cfg.layer.n_layers, ==, 1);
    CHECK_INT(cfg.layer.head_dim, ==, 32);
    target.vocab = 720;
    CHECK_INT(
        config_load_draft(test_path("golden/vispec/qwen2_5_vl-tiny-vispec"), &target, &cfg, &err),
        ==, 0);
    CHECK(cfg.layer.rope_theta == 1e6 && cfg.layer.qkv_bias && cfg.layer.rms_eps == 1e-6F);
}

TEST(the_draft_of_another_model_is_refused_with_both_values)
{
    struct lm_config target = load("golden/vispec/llava-next-tiny").lm;
    struct draft_config cfg;
    struct error err;
    CHECK_INT(
        config_load_draft(test_path("golden/vispec/qwen2_5_vl-tiny-vispec"), &target, &cfg, &err),
        ==, -1);
    CHECK(strstr(err.text, "qwen2_5_vl-tiny-vispec/config.json: vocab_size is 720, but the model's "
                           "is 640") != NULL);
    target.hidden = 64;
    CHECK_INT(
        config_load_draft(test_path("golden/vispec/llava-next-tiny-vispec"), &target, &cfg, &err),
        ==, -1);
    CHECK(strstr(err.text, "hidden_size is 128, but the model's is 64") != NULL);
}

TEST(a_draft_that_is_not_one_layer_of_full_heads_is_refused)
{
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"{\"num_hidden_layers\": 2}", "num_hidden_layers is 2"},
        {"{\"num_key_value_heads\": 8}", "num_key_value_heads is 8, not num_attention_heads"},
        {"{\"head_dim\": 64}", "head_dim is 64"},
        {"{\"image_rows\": \"some\"}", "image_rows is \"some\", not adaptor or all or none"},
    };
    struct lm_config target = {.hidden = 4096, .vocab = 32000};
    struct folder f = folder_new();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct draft_config cfg;
        struct error err;
        folder_write_text(&f, "config.json", cases[i].text);
        CHECK_INT(config_load_draft(f.path, &target, &cfg, &err), ==, -1);
        if (!strstr(err.text, cases[i].wanted))
            test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", cases[i].wanted, err.text);
    }
    folder_write_text(&f, "config.json", "{\"image_rows\": \"none\"}");
    struct draft_config cfg;
    struct error err;
    CHECK_INT(config_load_draft(f.path, &target, &cfg, &err), ==, 0);
    CHECK(cfg.has_image_rows && cfg.image_rows == IMAGE_ROWS_NONE);
    folder_remove(&f);
}
