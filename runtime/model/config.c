#include "runtime/model/config.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"

/* Limits so wide that no published model meets them, and so narrow that no product of two sizes
 * overflows an int. */
enum {
    MAX_FILE_LEN = 16 << 20,
    MAX_WIDTH = 1 << 17,
    MAX_INTERMEDIATE = 1 << 20,
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 512,
    MAX_VOCAB = 1 << 22,
    MAX_POSITIONS = 1 << 24,
    MAX_IMAGE_SIZE = 4096,
};

/* Reads values of one file.  The first failure fills err and stays; later reads return the
 * default, so a parser is a list of reads and one check at its end. */
struct reader {
    const char *path;
    struct error *err;
    bool has_failed;
};

/* ---- values --------------------------------------------------------------------------------- */

static void fail(struct reader *r, const char *key, const json_t *value, const char *wanted)
{
    if (r->has_failed) return;
    r->has_failed = true;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT);
    error_set(r->err, ERROR_BAD_REQUEST, "%s: %s is %.100s, %s", r->path, key,
              text ? text : "missing", wanted);
    free(text);
}

/* The value of key; NULL if it is missing or null. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* The object of key; NULL, which reads as empty, if there is none. */
static const json_t *get_object(struct reader *r, const json_t *object, const char *key)
{
    const json_t *value = get(object, key);
    if (value && !json_is_object(value)) fail(r, key, value, "not an object");
    return json_is_object(value) ? value : NULL;
}

static int get_int(struct reader *r, const json_t *object, const char *key, int otherwise, int min,
                   int max)
{
    const json_t *value = get(object, key);
    if (!value) return otherwise;
    json_int_t i = json_integer_value(value);
    if (json_is_integer(value) && i >= min && i <= max) return (int)i;
    char wanted[80];
    snprintf(wanted, sizeof(wanted), "not a whole number from %d to %d", min, max);
    fail(r, key, value, wanted);
    return otherwise;
}

static double get_number(struct reader *r, const json_t *object, const char *key, double otherwise,
                         double min, double max)
{
    const json_t *value = get(object, key);
    if (!value) return otherwise;
    double d = json_number_value(value);
    if (json_is_number(value) && d >= min && d <= max) return d;
    char wanted[80];
    snprintf(wanted, sizeof(wanted), "not a number from %g to %g", min, max);
    fail(r, key, value, wanted);
    return otherwise;
}

static bool get_bool(struct reader *r, const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = get(object, key);
    if (!value) return otherwise;
    if (!json_is_boolean(value)) fail(r, key, value, "not true or false");
    return json_is_true(value);
}

/* The index of the value among n names. */
static int get_name(struct reader *r, const json_t *object, const char *key, int otherwise,
                    const char *const *names, int n)
{
    const json_t *value = get(object, key);
    if (!value) return otherwise;
    const char *name = json_string_value(value);
    for (int i = 0; name && i < n; i++)
        if (strcmp(name, names[i]) == 0) return i;
    struct buffer wanted = {0};
    for (int i = 0; i < n; i++) buffer_printf(&wanted, "%s%s", i ? " or " : "not ", names[i]);
    fail(r, key, value, wanted.data);
    buffer_done(&wanted);
    return otherwise;
}

/* ---- the language model --------------------------------------------------------------------- */

/* Plain rotary positions only.  The settings stand in rope_scaling (transformers 4) or, theta
 * included, in rope_parameters (5). */
static void read_rope(struct reader *r, const json_t *text, bool may_be_mrope,
                      struct lm_config *out)
{
    static const char *const kinds[] = {"default", "mrope"};
    const json_t *parameters = get_object(r, text, "rope_parameters");
    const json_t *scaling = get_object(r, text, "rope_scaling");
    int n_kinds = may_be_mrope ? 2 : 1;
    double theta = get_number(r, text, "rope_theta", 10000, 1, 1e12);
    out->rope_theta = get_number(r, parameters, "rope_theta", theta, 1, 1e12);
    get_name(r, parameters, "rope_type", 0, kinds, n_kinds);
    get_name(r, scaling, "rope_type", 0, kinds, n_kinds);
    get_name(r, scaling, "type", 0, kinds, n_kinds);
    get_number(r, text, "partial_rotary_factor", 1, 1, 1);
    get_number(r, parameters, "partial_rotary_factor", 1, 1, 1);
    out->rope_section[0] = out->head_dim / 2;
    out->rope_section[1] = out->rope_section[2] = 0;
}

/* The keys of a Llama decoder, with the defaults of transformers' LlamaConfig. */
static void read_decoder(struct reader *r, const json_t *text, struct lm_config *out)
{
    static const char *const silu[] = {"silu"};
    *out = (struct lm_config){
        .hidden = get_int(r, text, "hidden_size", 4096, 1, MAX_WIDTH),
        .intermediate = get_int(r, text, "intermediate_size", 11008, 1, MAX_INTERMEDIATE),
        .n_layers = get_int(r, text, "num_hidden_layers", 32, 1, MAX_LAYERS),
        .n_heads = get_int(r, text, "num_attention_heads", 32, 1, MAX_HEADS),
        .vocab = get_int(r, text, "vocab_size", 32000, 1, MAX_VOCAB),
        .max_positions = get_int(r, text, "max_position_embeddings", 2048, 1, MAX_POSITIONS),
        .rms_eps = (float)get_number(r, text, "rms_norm_eps", 1e-6, 0, 1),
    };
    out->n_kv_heads = get_int(r, text, "num_key_value_heads", out->n_heads, 1, MAX_HEADS);
    if (out->n_heads % out->n_kv_heads != 0)
        fail(r, "num_key_value_heads", get(text, "num_key_value_heads"),
             "not a divisor of num_attention_heads");
    if (!get(text, "head_dim") && out->hidden % out->n_heads != 0)
        fail(r, "num_attention_heads", get(text, "num_attention_heads"),
             "not a divisor of hidden_size, and there is no head_dim");
    out->head_dim = get_int(r, text, "head_dim", out->hidden / out->n_heads, 2, MAX_HEAD_DIM);
    if (out->head_dim % 2 != 0 || out->head_dim < 2 || out->head_dim > MAX_HEAD_DIM)
        fail(r, "head_dim", json_object_get(text, "head_dim"), "not even, or out of range");
    get_name(r, text, "hidden_act", 0, silu, 1);
}

static void read_lm(struct reader *r, const json_t *text, bool ties, struct lm_config *out)
{
    read_decoder(r, text, out);
    read_rope(r, text, false, out);
    out->tie_embeddings = get_bool(r, text, "tie_word_embeddings", ties);
    /* Llama's attention_bias and mlp_bias would put biases on o_proj and the MLP too. */
    if (get_bool(r, text, "attention_bias", false))
        fail(r, "attention_bias", get(text, "attention_bias"), "not false");
    if (get_bool(r, text, "mlp_bias", false))
        fail(r, "mlp_bias", get(text, "mlp_bias"), "not false");
}

/* ---- the vision tower ----------------------------------------------------------------------- */

static void read_tower(struct reader *r, const json_t *vision, struct vision_config *out)
{
    static const char *const kinds[] = {"clip_vision_model"};
    static const char *const acts[] = {"gelu", "quick_gelu"};
    /* Without a vision_config LLaVA takes CLIP-L/14 at 336 pixels; what a vision_config leaves out
     * is CLIP-B/32's. */
    bool is_large = vision == NULL;
    get_name(r, vision, "model_type", 0, kinds, 1);
    *out = (struct vision_config){
        .hidden = get_int(r, vision, "hidden_size", is_large ? 1024 : 768, 1, MAX_WIDTH),
        .intermediate =
            get_int(r, vision, "intermediate_size", is_large ? 4096 : 3072, 1, MAX_INTERMEDIATE),
        .n_layers = get_int(r, vision, "num_hidden_layers", is_large ? 24 : 12, 1, MAX_LAYERS),
        .n_heads = get_int(r, vision, "num_attention_heads", is_large ? 16 : 12, 1, MAX_HEADS),
        .image_size = get_int(r, vision, "image_size", is_large ? 336 : 224, 1, MAX_IMAGE_SIZE),
        .patch = get_int(r, vision, "patch_size", is_large ? 14 : 32, 1, MAX_IMAGE_SIZE),
        .layer_norm_eps = (float)get_number(r, vision, "layer_norm_eps", 1e-5, 0, 1),
        .activation =
            get_name(r, vision, "hidden_act", 1, acts, 2) == 0 ? ACT_GELU : ACT_QUICK_GELU,
    };
    get_int(r, vision, "num_channels", 3, 3, 3);
    if (out->hidden % out->n_heads != 0)
        fail(r, "vision_config.num_attention_heads", get(vision, "num_attention_heads"),
             "not a divisor of hidden_size");
    if (out->image_size % out->patch != 0)
        fail(r, "vision_config.patch_size", get(vision, "patch_size"),
             "not a divisor of image_size");
}

static void read_vision(struct reader *r, const json_t *root, struct vision_config *out)
{
    static const char *const strategies[] = {"default", "full"};
    static const char *const acts[] = {"gelu", "quick_gelu"};
    read_tower(r, get_object(r, root, "vision_config"), out);

    /* hidden_states[k] is what k layers give; a negative index counts from the end. */
    const json_t *layer = get(root, "vision_feature_layer");
    if (json_is_array(layer) && json_array_size(layer) == 1) layer = json_array_get(layer, 0);
    int n = out->n_layers;
    json_int_t index = layer ? json_integer_value(layer) : -2;
    if ((layer && !json_is_integer(layer)) || index < -n - 1 || index > n) {
        fail(r, "vision_feature_layer", layer, "not one layer of the tower");
        index = 0;
    }
    out->n_used_layers = (int)(index >= 0 ? index : n + 1 + index);

    out->drop_class = get_name(r, root, "vision_feature_select_strategy", 0, strategies, 2) == 0;
    out->projector_activation =
        get_name(r, root, "projector_hidden_act", 0, acts, 2) == 0 ? ACT_GELU : ACT_QUICK_GELU;
    out->projector_bias = get_bool(r, root, "multimodal_projector_bias", true);
    int side = out->image_size / out->patch;
    out->n_tokens = side * side + (out->drop_class ? 0 : 1);
}

/* ---- families ------------------------------------------------------------------------------- */

static void read_llava(struct reader *r, const json_t *root, struct model_config *out)
{
    static const char *const text_kinds[] = {"llama"};
    const json_t *text = get_object(r, root, "text_config");
    get_name(r, text, "model_type", 0, text_kinds, 1);
    read_lm(r, text, get_bool(r, root, "tie_word_embeddings", false), &out->lm);
    out->has_vision = true;
    read_vision(r, root, &out->vision);
    out->vision.kind = out->family == FAMILY_LLAVA_NEXT ? VISION_ANYRES : VISION_CLIP;
    if (out->vision.kind == VISION_ANYRES && !out->vision.drop_class)
        fail(r, "vision_feature_select_strategy", get(root, "vision_feature_select_strategy"),
             "not default");
    int id = get_int(r, root, "image_token_id", 32000, 0, MAX_VOCAB);
    out->image_token = get_int(r, root, "image_token_index", id, 0, MAX_VOCAB);
    if (out->image_token >= out->lm.vocab)
        fail(r, "image_token_index", json_object_get(root, "image_token_index"),
             "not below vocab_size");
}

static void read_model(struct reader *r, const json_t *root, struct model_config *out)
{
    static const char *const families[] = {
        [FAMILY_LLAVA] = "llava", [FAMILY_LLAVA_NEXT] = "llava_next", [FAMILY_LLAMA] = "llama"};
    memset(out, 0, sizeof(*out));
    const json_t *type = get(root, "model_type");
    if (!type) fail(r, "model_type", json_object_get(root, "model_type"), "not an architecture");
    out->family = (enum model_family)get_name(r, root, "model_type", FAMILY_LLAMA, families, 3);
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

static void add_eos(struct reader *r, const json_t *value, struct generation_config *out)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id > MAX_VOCAB)
        fail(r, "eos_token_id", value, "not a token id");
    else if (out->n_eos_ids == MAX_EOS_IDS)
        fail(r, "eos_token_id", value, "one more than the 8 that can be kept");
    else
        out->eos_ids[out->n_eos_ids++] = (int)id;
}

/* One id or a list of them. */
static void read_eos(struct reader *r, const json_t *object, struct generation_config *out)
{
    const json_t *value = get(object, "eos_token_id");
    if (!value || out->n_eos_ids > 0) return;
    if (!json_is_array(value)) {
        add_eos(r, value, out);
        return;
    }
    for (size_t i = 0; i < json_array_size(value); i++) add_eos(r, json_array_get(value, i), out);
}

static void read_generation(struct reader *r, const json_t *root, struct generation_config *out)
{
    *out = (struct generation_config){
        .temperature = (float)get_number(r, root, "temperature", 1, 0, 100),
        .top_p = (float)get_number(r, root, "top_p", 1, 0, 1),
        .min_p = (float)get_number(r, root, "min_p", 0, 0, 1),
        .top_k = get_int(r, root, "top_k", 0, -1, MAX_VOCAB),
        .repetition_penalty = (float)get_number(r, root, "repetition_penalty", 1, 1e-3, 1e3),
    };
    if (!get_bool(r, root, "do_sample", true)) out->temperature = 0;
    if (out->top_k < 0) out->top_k = 0;
    read_eos(r, root, out);
}

static void check_equal(struct reader *r, const char *key, int draft, int target)
{
    if (r->has_failed || draft == target) return;
    r->has_failed = true;
    error_set(r->err, ERROR_BAD_REQUEST, "%s: %s is %d, but the model's is %d", r->path, key, draft,
              target);
}

static void read_draft(struct reader *r, const json_t *root, const struct lm_config *target,
                       struct draft_config *out)
{
    static const char *const rows[] = {"adaptor", "all", "none"};
    memset(out, 0, sizeof(*out));
    read_decoder(r, root, &out->layer);
    read_rope(r, root, true, &out->layer);
    out->layer.n_layers = get_int(r, root, "num_hidden_layers", 1, 1, 1);
    bool bias = get_bool(r, root, "attention_bias", false);
    out->layer.qkv_bias = get_bool(r, root, "qkv_bias", bias);
    out->has_image_rows = get(root, "image_rows") != NULL;
    out->image_rows = (enum image_rows)get_name(r, root, "image_rows", 0, rows, 3);
    if (out->layer.n_kv_heads != out->layer.n_heads)
        fail(r, "num_key_value_heads", get(root, "num_key_value_heads"), "not num_attention_heads");

    if (out->layer.n_heads * out->layer.head_dim != out->layer.hidden)
        fail(r, "head_dim", get(root, "head_dim"),
             "and num_attention_heads times that is not hidden_size");
    check_equal(r, "hidden_size", out->layer.hidden, target->hidden);
    check_equal(r, "vocab_size", out->layer.vocab, target->vocab);
}

/* ---- files ---------------------------------------------------------------------------------- */

static int parse(const char *text, size_t len, const char *path, json_t **out, struct error *err)
{
    json_error_t where;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return error_set(err, ERROR_BAD_REQUEST, "%s: line %d: %s", path, where.line, where.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, ERROR_BAD_REQUEST, "%s: is not a JSON object", path);
    }
    *out = root;
    return 0;
}

/* Reads a whole file.  A missing one gives NULL if it is optional. */
static int load(const char *path, bool is_optional, json_t **out, struct error *err)
{
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT && is_optional) {
        *out = NULL;
        return 0;
    }
    if (!f) return error_set(err, ERROR_BAD_REQUEST, "%s: %s", path, strerror(errno));
    struct buffer text = {0};
    char block[4096];
    size_t n;
    while (text.len <= MAX_FILE_LEN && (n = fread(block, 1, sizeof(block), f)) > 0)
        buffer_append(&text, block, n);
    bool has_failed = ferror(f) != 0;
    fclose(f);
    int result;
    if (has_failed)
        result = error_set(err, ERROR_BAD_REQUEST, "%s: cannot be read", path);
    else if (text.len > MAX_FILE_LEN)
        result =
            error_set(err, ERROR_BAD_REQUEST, "%s: is longer than %d bytes", path, MAX_FILE_LEN);
    else
        result = parse(text.data ? text.data : "", text.len, path, out, err);
    buffer_done(&text);
    return result;
}

int config_parse(const char *text, size_t len, const char *path, struct model_config *out,
                 struct error *err)
{
    json_t *root = NULL;
    if (parse(text, len, path, &root, err) != 0) return -1;
    struct reader r = {.path = path, .err = err};
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
    struct reader r = {.path = path, .err = err};
    struct model_config cfg;
    int result = load(path, false, &root, err);
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
    struct reader r = {.path = path, .err = err};
    struct generation_config cfg;
    int result = load(path, true, &root, err);
    if (result == 0) result = load(model_path, false, &model, err);
    if (result == 0) {
        read_generation(&r, root, &cfg);
        r.path = model_path;
        read_eos(&r, model, &cfg);
        read_eos(&r, get_object(&r, model, "text_config"), &cfg);
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
    struct reader r = {.path = path, .err = err};
    struct draft_config cfg;
    int result = load(path, false, &root, err);
    if (result == 0) {
        read_draft(&r, root, target, &cfg);
        result = r.has_failed ? -1 : 0;
    }
    if (result == 0) *out = cfg;
    json_decref(root);
    free(path);
    return result;
}
