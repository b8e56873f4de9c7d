#include "runtime/model/config.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "runtime/model/fields.h"

/* Limits so wide that no published model meets them, and so narrow that no product of two sizes
 * overflows an int. */
enum {
    MAX_WIDTH = 1 << 17,
    MAX_INTERMEDIATE = 1 << 20,
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 512,
    MAX_VOCAB = 1 << 22,
    MAX_POSITIONS = 1 << 24,
    MAX_IMAGE_SIZE = 4096,
};

/* ---- the language model --------------------------------------------------------------------- */

/* Plain rotary positions only.  The settings stand in rope_scaling (transformers 4) or, theta
 * included, in rope_parameters (5). */
static void read_rope(struct fields *r, const json_t *text, bool may_be_mrope,
                      struct lm_config *out)
{
    static const char *const kinds[] = {"default", "mrope"};
    const json_t *parameters = fields_object(r, text, "rope_parameters");
    const json_t *scaling = fields_object(r, text, "rope_scaling");
    int n_kinds = may_be_mrope ? 2 : 1;
    double theta = fields_number(r, text, "rope_theta", 10000, 1, 1e12);
    out->rope_theta = fields_number(r, parameters, "rope_theta", theta, 1, 1e12);
    fields_name(r, parameters, "rope_type", 0, kinds, n_kinds);
    fields_name(r, scaling, "rope_type", 0, kinds, n_kinds);
    fields_name(r, scaling, "type", 0, kinds, n_kinds);
    fields_number(r, text, "partial_rotary_factor", 1, 1, 1);
    fields_number(r, parameters, "partial_rotary_factor", 1, 1, 1);
    out->rope_section[0] = out->head_dim / 2;
    out->rope_section[1] = out->rope_section[2] = 0;
}

/* The keys of a Llama decoder, with the defaults of transformers' LlamaConfig. */
static void read_decoder(struct fields *r, const json_t *text, struct lm_config *out)
{
    static const char *const silu[] = {"silu"};
    *out = (struct lm_config){
        .hidden = fields_int(r, text, "hidden_size", 4096, 1, MAX_WIDTH),
        .intermediate = fields_int(r, text, "intermediate_size", 11008, 1, MAX_INTERMEDIATE),
        .n_layers = fields_int(r, text, "num_hidden_layers", 32, 1, MAX_LAYERS),
        .n_heads = fields_int(r, text, "num_attention_heads", 32, 1, MAX_HEADS),
        .vocab = fields_int(r, text, "vocab_size", 32000, 1, MAX_VOCAB),
        .max_positions = fields_int(r, text, "max_position_embeddings", 2048, 1, MAX_POSITIONS),
        .rms_eps = (float)fields_number(r, text, "rms_norm_eps", 1e-6, 0, 1),
    };
    out->n_kv_heads = fields_int(r, text, "num_key_value_heads", out->n_heads, 1, MAX_HEADS);
    if (out->n_heads % out->n_kv_heads != 0)
        fields_fail(r, "num_key_value_heads", fields_get(text, "num_key_value_heads"),
                    "not a divisor of num_attention_heads");
    if (!fields_get(text, "head_dim") && out->hidden % out->n_heads != 0)
        fields_fail(r, "num_attention_heads", fields_get(text, "num_attention_heads"),
                    "not a divisor of hidden_size, and there is no head_dim");
    out->head_dim = fields_int(r, text, "head_dim", out->hidden / out->n_heads, 2, MAX_HEAD_DIM);
    if (out->head_dim % 2 != 0 || out->head_dim < 2 || out->head_dim > MAX_HEAD_DIM)
        fields_fail(r, "head_dim", json_object_get(text, "head_dim"), "not even, or out of range");
    fields_name(r, text, "hidden_act", 0, silu, 1);
}

static void read_lm(struct fields *r, const json_t *text, bool ties, struct lm_config *out)
{
    read_decoder(r, text, out);
    read_rope(r, text, false, out);
    out->tie_embeddings = fields_bool(r, text, "tie_word_embeddings", ties);
    /* Llama's attention_bias and mlp_bias would put biases on o_proj and the MLP too. */
    if (fields_bool(r, text, "attention_bias", false))
        fields_fail(r, "attention_bias", fields_get(text, "attention_bias"), "not false");
    if (fields_bool(r, text, "mlp_bias", false))
        fields_fail(r, "mlp_bias", fields_get(text, "mlp_bias"), "not false");
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

/* ---- families ------------------------------------------------------------------------------- */

static void read_llava(struct fields *r, const json_t *root, struct model_config *out)
{
    static const char *const text_kinds[] = {"llama"};
    const json_t *text = fields_object(r, root, "text_config");
    fields_name(r, text, "model_type", 0, text_kinds, 1);
    read_lm(r, text, fields_bool(r, root, "tie_word_embeddings", false), &out->lm);
    out->has_vision = true;
    read_vision(r, root, &out->vision);
    out->vision.kind = out->family == FAMILY_LLAVA_NEXT ? VISION_ANYRES : VISION_CLIP;
    if (out->vision.kind == VISION_ANYRES && !out->vision.drop_class)
        fields_fail(r, "vision_feature_select_strategy",
                    fields_get(root, "vision_feature_select_strategy"), "not default");
    int id = fields_int(r, root, "image_token_id", 32000, 0, MAX_VOCAB);
    out->image_token = fields_int(r, root, "image_token_index", id, 0, MAX_VOCAB);
    if (out->image_token >= out->lm.vocab)
        fields_fail(r, "image_token_index", json_object_get(root, "image_token_index"),
                    "not below vocab_size");
}

static void read_model(struct fields *r, const json_t *root, struct model_config *out)
{
    static const char *const families[] = {
        [FAMILY_LLAVA] = "llava", [FAMILY_LLAVA_NEXT] = "llava_next", [FAMILY_LLAMA] = "llama"};
    memset(out, 0, sizeof(*out));
    const json_t *type = fields_get(root, "model_type");
    if (!type)
        fields_fail(r, "model_type", json_object_get(root, "model_type"), "not an architecture");
    out->family = (enum model_family)fields_name(r, root, "model_type", FAMILY_LLAMA, families, 3);
    switch (out->family) {
    case FAMILY_LLAVA:
    case FAMILY_LLAVA_NEXT:
        read_llava(r, root, out);
        break;
    default:
        out->image_token = -1;
        read_lm(r, root, false, &out->lm);
    }
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
    read_decoder(r, root, &out->layer);
    read_rope(r, root, true, &out->layer);
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
