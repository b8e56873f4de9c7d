#include "runtime/model/config.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "runtime/model/fields.h"

/* Limits so wide that no published model meets them, and so narrow that no product of two sizes
 * overflows an int. */
enum {
    MAX_INTERMEDIATE = MAX_N_OUT / 2, /* gate and up are one matrix */
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_POSITIONS = 1 << 24,
    MAX_IMAGE_SIZE = 4096,
    MAX_QWEN_LAYERS = 64, /* bits of full_layers */
    MAX_MERGE = 16,
};

/* The operations' rule for heads, whose number stands at `key`. */
static void check_head_dim(struct fields *r, const char *key, const json_t *value, int head_dim)
{
    if (head_dim % HEAD_STEP == 0 && head_dim <= MAX_HEAD_DIM) return;
    char wanted[80];
    snprintf(wanted, sizeof(wanted), "and heads of %d are not of a multiple of %d up to %d",
             head_dim, HEAD_STEP, MAX_HEAD_DIM);
    fields_fail(r, key, value, wanted);
}

/* ---- the language model --------------------------------------------------------------------- */

/* What transformers takes where a key is absent. */
static const struct lm_config llama_defaults = {.hidden = 4096,
                                                .intermediate = 11008,
                                                .n_layers = 32,
                                                .n_heads = 32,
                                                .vocab = 32000,
                                                .max_positions = 2048,
                                                .rms_eps = 1e-6F,
                                                .rope_theta = 1e4};
static const struct lm_config qwen2_defaults = {.hidden = 4096,
                                                .intermediate = 22016,
                                                .n_layers = 32,
                                                .n_heads = 32,
                                                .n_kv_heads = 32,
                                                .vocab = 151936,
                                                .max_positions = 32768,
                                                .rms_eps = 1e-6F,
                                                .rope_theta = 1e4,
                                                .qkv_bias = true};
static const struct lm_config qwen2_5_vl_defaults = {.hidden = 8192,
                                                     .intermediate = 29568,
                                                     .n_layers = 80,
                                                     .n_heads = 64,
                                                     .n_kv_heads = 8,
                                                     .vocab = 152064,
                                                     .max_positions = 32768,
                                                     .rms_eps = 1e-5F,
                                                     .rope_theta = 1e6,
                                                     .qkv_bias = true};

enum rope_kind { ROPE_1D, ROPE_1D_OF_MROPE, ROPE_MROPE };

/* The axes of M-RoPE: pairs of each; by default those of all published models. */
static void read_sections(struct fields *r, const json_t *scaling, const json_t *parameters,
                          struct lm_config *out)
{
    const json_t *sections = fields_get(parameters, "mrope_section");
    if (!sections) sections = fields_get(scaling, "mrope_section");
    int section[3] = {16, 24, 24}, n = 0;
    bool is_good = !sections || json_array_size(sections) == 3;
    for (size_t i = 0; i < 3; i++) {
        json_int_t pairs = sections ? json_integer_value(json_array_get(sections, i)) : section[i];
        is_good = is_good && pairs > 0 && pairs <= MAX_HEAD_DIM;
        section[i] = is_good ? (int)pairs : 0;
        n += section[i];
    }
    if (!is_good || n != out->head_dim / 2)
        fields_fail(r, "mrope_section", sections, "not three numbers that add up to head_dim / 2");
    memcpy(out->rope_section, section, sizeof(section));
}

/* Unscaled rotary positions only.  The settings stand in rope_scaling (transformers 4) or, theta
 * included, in rope_parameters (5). */
static void read_rope(struct fields *r, const json_t *text, enum rope_kind kind, double theta,
                      struct lm_config *out)
{
    static const char *const kinds[] = {"default", "mrope"};
    const json_t *parameters = fields_object(r, text, "rope_parameters");
    const json_t *scaling = fields_object(r, text, "rope_scaling");
    int n_kinds = kind == ROPE_1D ? 1 : 2;
    theta = fields_number(r, text, "rope_theta", theta, 1, 1e12);
    out->rope_theta = fields_number(r, parameters, "rope_theta", theta, 1, 1e12);
    fields_name(r, parameters, "rope_type", 0, kinds, n_kinds);
    fields_name(r, scaling, "rope_type", 0, kinds, n_kinds);
    fields_name(r, scaling, "type", 0, kinds, n_kinds);
    fields_number(r, text, "partial_rotary_factor", 1, 1, 1);
    fields_number(r, parameters, "partial_rotary_factor", 1, 1, 1);
    out->rope_section[0] = out->head_dim / 2;
    out->rope_section[1] = out->rope_section[2] = 0;
    if (kind == ROPE_MROPE) read_sections(r, scaling, parameters, out);
}

/* The keys of a Llama decoder. */
static void read_decoder(struct fields *r, const json_t *text, const struct lm_config *defaults,
                         struct lm_config *out)
{
    static const char *const silu[] = {"silu"};
    const struct lm_config *d = defaults;
    *out = (struct lm_config){
        .hidden = fields_int(r, text, "hidden_size", d->hidden, 1, MAX_WIDTH),
        .intermediate =
            fields_int(r, text, "intermediate_size", d->intermediate, 1, MAX_INTERMEDIATE),
        .n_layers = fields_int(r, text, "num_hidden_layers", d->n_layers, 1, MAX_LAYERS),
        .n_heads = fields_int(r, text, "num_attention_heads", d->n_heads, 1, MAX_HEADS),
        .vocab = fields_int(r, text, "vocab_size", d->vocab, 1, MAX_VOCAB),
        .max_positions =
            fields_int(r, text, "max_position_embeddings", d->max_positions, 1, MAX_POSITIONS),
        .rms_eps = (float)fields_number(r, text, "rms_norm_eps", (double)d->rms_eps, 0, 1),
        .qkv_bias = d->qkv_bias,
    };
    out->n_kv_heads = fields_int(r, text, "num_key_value_heads",
                                 d->n_kv_heads ? d->n_kv_heads : out->n_heads, 1, MAX_HEADS);
    if (out->n_heads % out->n_kv_heads != 0)
        fields_fail(r, "num_key_value_heads", fields_get(text, "num_key_value_heads"),
                    "not a divisor of num_attention_heads");
    if (!fields_get(text, "head_dim") && out->hidden % out->n_heads != 0)
        fields_fail(r, "num_attention_heads", fields_get(text, "num_attention_heads"),
                    "not a divisor of hidden_size, and there is no head_dim");
    if (out->n_heads / out->n_kv_heads > MAX_HEAD_GROUP) {
        char wanted[80];
        snprintf(wanted, sizeof(wanted), "more than %d for each of num_key_value_heads",
                 MAX_HEAD_GROUP);
        fields_fail(r, "num_attention_heads", fields_get(text, "num_attention_heads"), wanted);
    }
    int head_dim = out->hidden / out->n_heads;
    out->head_dim = fields_int(r, text, "head_dim", head_dim, 1, MAX_WIDTH);
    const char *key = fields_get(text, "head_dim") ? "head_dim" : "num_attention_heads";
    check_head_dim(r, key, fields_get(text, key), out->head_dim);
    fields_name(r, text, "hidden_act", 0, silu, 1);
}

static void refuse_true(struct fields *r, const json_t *object, const char *key)
{
    if (fields_bool(r, object, key, false))
        fields_fail(r, key, fields_get(object, key), "not false");
}

static void read_lm(struct fields *r, const json_t *text, const struct lm_config *defaults,
                    enum rope_kind rope, bool ties, struct lm_config *out)
{
    read_decoder(r, text, defaults, out);
    read_rope(r, text, rope, defaults->rope_theta, out);
    out->tie_embeddings = fields_bool(r, text, "tie_word_embeddings", ties);
    /* Llama's attention_bias and mlp_bias would put biases on o_proj and the MLP too. */
    refuse_true(r, text, "attention_bias");
    refuse_true(r, text, "mlp_bias");
    refuse_true(r, text, "use_sliding_window");
}

/* ---- the vision tower ----------------------------------------------------------------------- */

static void read_tower(struct fields *r, const json_t *vision, struct vision_config *out)
{
    static const char *const kinds[] = {"clip_vision_model"};
    static const char *const acts[] = {"gelu", "quick_gelu"};
    /* Without a vision_config LLaVA takes CLIP-L/14 at 336 pixels; what a vision_config leaves out
     * is CLIP-B/32's. */
    bool is_large = vision == NULL;
    fields_name(r, vision, "model_type", 0, kinds, 1);
    *out = (struct vision_config){
        .hidden = fields_int(r, vision, "hidden_size", is_large ? 1024 : 768, 1, MAX_WIDTH),
        .intermediate =
            fields_int(r, vision, "intermediate_size", is_large ? 4096 : 3072, 1, MAX_INTERMEDIATE),
        .n_layers = fields_int(r, vision, "num_hidden_layers", is_large ? 24 : 12, 1, MAX_LAYERS),
        .n_heads = fields_int(r, vision, "num_attention_heads", is_large ? 16 : 12, 1, MAX_HEADS),
        .image_size = fields_int(r, vision, "image_size", is_large ? 336 : 224, 1, MAX_IMAGE_SIZE),
        .patch = fields_int(r, vision, "patch_size", is_large ? 14 : 32, 1, MAX_IMAGE_SIZE),
        .layer_norm_eps = (float)fields_number(r, vision, "layer_norm_eps", 1e-5, 0, 1),
        .activation =
            fields_name(r, vision, "hidden_act", 1, acts, 2) == 0 ? ACT_GELU : ACT_QUICK_GELU,
    };
    fields_int(r, vision, "num_channels", 3, 3, 3);
    if (out->hidden % out->n_heads != 0)
        fields_fail(r, "vision_config.num_attention_heads",
                    fields_get(vision, "num_attention_heads"), "not a divisor of hidden_size");
    else
        check_head_dim(r, "vision_config.num_attention_heads",
                       fields_get(vision, "num_attention_heads"), out->hidden / out->n_heads);
    if (out->image_size % out->patch != 0)
        fields_fail(r, "vision_config.patch_size", fields_get(vision, "patch_size"),
                    "not a divisor of image_size");
}

static void read_vision(struct fields *r, const json_t *root, struct vision_config *out)
{
    static const char *const strategies[] = {"default", "full"};
    static const char *const acts[] = {"gelu", "quick_gelu"};
    read_tower(r, fields_object(r, root, "vision_config"), out);

    /* hidden_states[k] is what k layers give; a negative index counts from the end. */
    const json_t *layer = fields_get(root, "vision_feature_layer");
    if (json_is_array(layer) && json_array_size(layer) == 1) layer = json_array_get(layer, 0);
    int n = out->n_layers;
    json_int_t index = layer ? json_integer_value(layer) : -2;
    if ((layer && !json_is_integer(layer)) || index < -n - 1 || index > n) {
        fields_fail(r, "vision_feature_layer", layer, "not one layer of the tower");
        index = 0;
    }
    out->n_used_layers = (int)(index >= 0 ? index : n + 1 + index);

    out->drop_class = fields_name(r, root, "vision_feature_select_strategy", 0, strategies, 2) == 0;
    out->projector_activation =
        fields_name(r, root, "projector_hidden_act", 0, acts, 2) == 0 ? ACT_GELU : ACT_QUICK_GELU;
    out->projector_bias = fields_bool(r, root, "multimodal_projector_bias", true);
    int side = out->image_size / out->patch;
    out->n_tokens = side * side + (out->drop_class ? 0 : 1);
}

/* The layers of Qwen's tower that see the whole picture. */
static uint64_t read_full_layers(struct fields *r, const json_t *vision, int n_layers)
{
    const json_t *layers = fields_get(vision, "fullatt_block_indexes");
    uint64_t full = 1 << 7 | 1 << 15 | 1 << 23 | UINT64_C(1) << 31;
    if (layers) full = 0;
    if (layers && !json_is_array(layers))
        fields_fail(r, "fullatt_block_indexes", layers, "not a list of layers");
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *layer = json_array_get(layers, i);
        json_int_t index = json_integer_value(layer);
        if (json_is_integer(layer) && index >= 0 && index < n_layers)
            full |= UINT64_C(1) << index;
        else
            fields_fail(r, "fullatt_block_indexes", layers, "not layers of the tower");
    }
    return full;
}

static void read_qwen_vision(struct fields *r, const json_t *root, int lm_hidden,
                             struct vision_config *out)
{
    static const char *const silu[] = {"silu"};
    const json_t *vision = fields_object(r, root, "vision_config");
    *out = (struct vision_config){
        .kind = VISION_QWEN,
        .hidden = fields_int(r, vision, "hidden_size", 3584, 1, MAX_WIDTH),
        .intermediate = fields_int(r, vision, "intermediate_size", 3420, 1, MAX_INTERMEDIATE),
        .n_layers = fields_int(r, vision, "depth", 32, 1, MAX_QWEN_LAYERS),
        .n_heads = fields_int(r, vision, "num_heads", 16, 1, MAX_HEADS),
        .patch = fields_int(r, vision, "patch_size", 14, 1, MAX_IMAGE_SIZE),
        .merge = fields_int(r, vision, "spatial_merge_size", 2, 1, MAX_MERGE),
        .n_frames = fields_int(r, vision, "temporal_patch_size", 2, 1, MAX_MERGE),
    };
    int token = out->patch * out->merge;
    int window = fields_int(r, vision, "window_size", 112, token, MAX_IMAGE_SIZE);
    out->window = window / token;
    out->full_layers = read_full_layers(r, vision, out->n_layers);
    fields_name(r, vision, "hidden_act", 0, silu, 1);
    fields_int(r, vision, "in_chans", 3, 3, 3);
    fields_int(r, vision, "in_channels", 3, 3, 3);
    fields_int(r, vision, "out_hidden_size", lm_hidden, lm_hidden, lm_hidden);
    if (out->hidden % out->n_heads != 0)
        fields_fail(r, "vision_config.num_heads", fields_get(vision, "num_heads"),
                    "not a divisor of hidden_size");
    else
        check_head_dim(r, "vision_config.num_heads", fields_get(vision, "num_heads"),
                       out->hidden / out->n_heads);
}

/* ---- families ------------------------------------------------------------------------------- */

static void read_llava(struct fields *r, const json_t *root, struct model_config *out)
{
    static const char *const text_kinds[] = {"llama"};
    const json_t *text = fields_object(r, root, "text_config");
    fields_name(r, text, "model_type", 0, text_kinds, 1);
    read_lm(r, text, &llama_defaults, ROPE_1D, fields_bool(r, root, "tie_word_embeddings", false),
            &out->lm);
    out->has_vision = true;
    read_vision(r, root, &out->vision);
    out->vision.kind = out->family == FAMILY_LLAVA_NEXT ? VISION_ANYRES : VISION_CLIP;
    if (out->vision.kind == VISION_ANYRES && !out->vision.drop_class)
        fields_fail(r, "vision_feature_select_strategy",
                    fields_get(root, "vision_feature_select_strategy"), "not default");
    int id = fields_int(r, root, "image_token_id", 32000, 0, MAX_VOCAB);
    out->image_token = fields_int(r, root, "image_token_index", id, 0, MAX_VOCAB);
}

/* The text's keys stand in text_config, in older files beside the others. */
static void read_qwen(struct fields *r, const json_t *root, struct model_config *out)
{
    const json_t *text = fields_object(r, root, "text_config");
    read_lm(r, text ? text : root, &qwen2_5_vl_defaults, ROPE_MROPE,
            fields_bool(r, root, "tie_word_embeddings", false), &out->lm);
    out->has_vision = true;
    read_qwen_vision(r, root, out->lm.hidden, &out->vision);
    out->image_token = fields_int(r, root, "image_token_id", 151655, 0, MAX_VOCAB);
}

/* transformers 5 says dtype for torch_dtype; older files of models with pictures say it of the text
 * only. */
static enum dtype read_act(const json_t *root)
{
    static const char *const keys[] = {"torch_dtype", "dtype"};
    const json_t *objects[] = {root, fields_get(root, "text_config")};
    for (int i = 0; i < 4; i++) {
        const char *name = json_string_value(fields_get(objects[i / 2], keys[i % 2]));
        if (name) return strcmp(name, "float16") == 0 ? DTYPE_F16 : DTYPE_BF16;
    }
    return DTYPE_BF16;
}

static void read_model(struct fields *r, const json_t *root, struct model_config *out)
{
    static const char *const families[] = {[FAMILY_LLAVA] = "llava",
                                           [FAMILY_LLAVA_NEXT] = "llava_next",
                                           [FAMILY_QWEN2_5_VL] = "qwen2_5_vl",
                                           [FAMILY_LLAMA] = "llama",
                                           [FAMILY_QWEN2] = "qwen2"};
    memset(out, 0, sizeof(*out));
    out->image_token = -1;
    out->act = read_act(root);
    const json_t *type = fields_get(root, "model_type");
    if (!type)
        fields_fail(r, "model_type", json_object_get(root, "model_type"), "not an architecture");
    out->family = (enum model_family)fields_name(r, root, "model_type", FAMILY_LLAMA, families, 5);
    switch (out->family) {
    case FAMILY_LLAVA:
    case FAMILY_LLAVA_NEXT:
        read_llava(r, root, out);
        break;
    case FAMILY_QWEN2_5_VL:
        read_qwen(r, root, out);
        break;
    case FAMILY_LLAMA:
        read_lm(r, root, &llama_defaults, ROPE_1D, false, &out->lm);
        break;
    case FAMILY_QWEN2:
        read_lm(r, root, &qwen2_defaults, ROPE_1D, false, &out->lm);
        break;
    }
    const char *key =
        fields_get(root, "image_token_index") ? "image_token_index" : "image_token_id";
    if (out->image_token >= out->lm.vocab)
        fields_fail(r, key, fields_get(root, key), "not below vocab_size");
}

static void add_eos(struct fields *r, const json_t *value, struct generation_config *out)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id > MAX_VOCAB)
        fields_fail(r, "eos_token_id", value, "not a token id");
    else if (out->n_eos_ids == MAX_EOS_IDS)
        fields_fail(r, "eos_token_id", value, "one more than the 8 that can be kept");
    else
        out->eos_ids[out->n_eos_ids++] = (int)id;
}

/* One id or a list of them. */
static void read_eos(struct fields *r, const json_t *object, struct generation_config *out)
{
    const json_t *value = fields_get(object, "eos_token_id");
    if (!value || out->n_eos_ids > 0) return;
    if (!json_is_array(value)) {
        add_eos(r, value, out);
        return;
    }
    for (size_t i = 0; i < json_array_size(value); i++) add_eos(r, json_array_get(value, i), out);
}

static void read_generation(struct fields *r, const json_t *root, struct generation_config *out)
{
    *out = (struct generation_config){
        .temperature = (float)fields_number(r, root, "temperature", 1, 0, 100),
        .top_p = (float)fields_number(r, root, "top_p", 1, 0, 1),
        .min_p = (float)fields_number(r, root, "min_p", 0, 0, 1),
        .top_k = fields_int(r, root, "top_k", 0, -1, MAX_VOCAB),
        .repetition_penalty = (float)fields_number(r, root, "repetition_penalty", 1, 1e-3, 1e3),
    };
    if (!fields_bool(r, root, "do_sample", true)) out->temperature = 0;
    if (out->top_k < 0) out->top_k = 0;
    read_eos(r, root, out);
}

static void check_equal(struct fields *r, const char *key, int draft, int target)
{
    if (r->has_failed || draft == target) return;
    r->has_failed = true;
    error_set(r->err, ERROR_BAD_REQUEST, "%s: %s is %d, but the model's is %d", r->path, key, draft,
              target);
}

static void read_draft(struct fields *r, const json_t *root, const struct lm_config *target,
                       struct draft_config *out)
{
    static const char *const rows[] = {"adaptor", "all", "none"};
    memset(out, 0, sizeof(*out));
    read_decoder(r, root, &llama_defaults, &out->layer);
    read_rope(r, root, ROPE_1D_OF_MROPE, llama_defaults.rope_theta, &out->layer);
    out->layer.n_layers = fields_int(r, root, "num_hidden_layers", 1, 1, 1);
    bool bias = fields_bool(r, root, "attention_bias", false);
    out->layer.qkv_bias = fields_bool(r, root, "qkv_bias", bias);
    out->has_image_rows = fields_get(root, "image_rows") != NULL;
    out->image_rows = (enum image_rows)fields_name(r, root, "image_rows", 0, rows, 3);
    if (out->layer.n_kv_heads != out->layer.n_heads)
        fields_fail(r, "num_key_value_heads", fields_get(root, "num_key_value_heads"),
                    "not num_attention_heads");

    if (out->layer.n_heads * out->layer.head_dim != out->layer.hidden)
        fields_fail(r, "head_dim", fields_get(root, "head_dim"),
                    "and num_attention_heads times that is not hidden_size");
    check_equal(r, "hidden_size", out->layer.hidden, target->hidden);
    check_equal(r, "vocab_size", out->layer.vocab, target->vocab);
}

/* ---- files ---------------------------------------------------------------------------------- */

int config_parse(const char *text, size_t len, const char *path, struct model_config *out,
                 struct error *err)
{
    json_t *root = NULL;
    if (fields_parse(text, len, path, &root, err) != 0) return -1;
    struct fields r = {.path = path, .err = err};
    struct model_config cfg;
    read_model(&r, root, &cfg);
    json_decref(root);
    if (r.has_failed) return -1;
    *out = cfg;
    return 0;
}

int config_load(const char *dir, struct model_config *out, struct error *err)
{
    char *path = xprintf("%s/config.json", dir);
    json_t *root = NULL;
    struct fields r = {.path = path, .err = err};
    struct model_config cfg;
    int result = fields_load(path, false, &root, err);
    if (result == 0) {
        read_model(&r, root, &cfg);
        result = r.has_failed ? -1 : 0;
    }
    if (result == 0) *out = cfg;
    json_decref(root);
    free(path);
    return result;
}

int config_load_generation(const char *dir, struct generation_config *out, struct error *err)
{
    char *path = xprintf("%s/generation_config.json", dir);
    char *model_path = xprintf("%s/config.json", dir);
    json_t *root = NULL, *model = NULL;
    struct fields r = {.path = path, .err = err};
    struct generation_config cfg;
    int result = fields_load(path, true, &root, err);
    if (result == 0) result = fields_load(model_path, false, &model, err);
    if (result == 0) {
        read_generation(&r, root, &cfg);
        r.path = model_path;
        read_eos(&r, model, &cfg);
        read_eos(&r, fields_object(&r, model, "text_config"), &cfg);
        if (cfg.n_eos_ids == 0) cfg.eos_ids[cfg.n_eos_ids++] = 2; /* LlamaConfig's default */
        result = r.has_failed ? -1 : 0;
    }
    if (result == 0) *out = cfg;
    json_decref(root);
    json_decref(model);
    free(path);
    free(model_path);
    return result;
}

int config_load_draft(const char *dir, const struct lm_config *target, struct draft_config *out,
                      struct error *err)
{
    char *path = xprintf("%s/config.json", dir);
    json_t *root = NULL;
    struct fields r = {.path = path, .err = err};
    struct draft_config cfg;
    int result = fields_load(path, false, &root, err);
    if (result == 0) {
        read_draft(&r, root, target, &cfg);
        result = r.has_failed ? -1 : 0;
    }
    if (result == 0) *out = cfg;
    json_decref(root);
    free(path);
    return result;
}
