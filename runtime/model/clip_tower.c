#include "runtime/model/clip_tower.h"

#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/model/weights.h"

struct clip_layer {
    void *qkv, *out, *fc1, *fc2; /* act, plain */
    float *qkv_bias, *out_bias, *fc1_bias, *fc2_bias;
    float *norm1, *norm1_bias, *norm2, *norm2_bias;
};

struct clip_tower {
    struct vision_config cfg;
    int lm_hidden, n_patches, n_rows; /* n_rows: patches and the class token */
    struct device *dev;               /* borrowed */

    void *patch_embedding; /* act [hidden][3 patch patch] */
    float *cls;            /* [hidden] */
    float *positions;      /* [n_rows][hidden] */
    float *pre_norm, *pre_norm_bias;
    struct clip_layer *layers; /* [n_used_layers] */
    void *linear_1, *linear_2; /* act [lm_hidden][hidden], [lm_hidden][lm_hidden] */
    float *linear_1_bias, *linear_2_bias;

    float *pixels;   /* [3][image_size][image_size] */
    void *patches;   /* act [n_patches][3 patch patch] */
    void *embedded;  /* act [n_patches][hidden] */
    void *x;         /* act [n_rows][hidden] residual stream */
    void *normed;    /* act [n_rows][hidden] */
    void *qkv;       /* act [n_rows][3 hidden] */
    void *mixed;     /* act [n_rows][hidden] */
    void *wide;      /* act [n_rows][intermediate] */
    void *projected; /* act [n_rows][lm_hidden] between the projector's layers */
    int32_t *first;  /* [2] the one segment of attention: 0, n_rows */
};

/* ---- loading -------------------------------------------------------------------------------- */

/* Published names of the same tensors. */
static const char *const tower_prefixes[] = {"vision_tower.vision_model.", "vision_tower.",
                                             "model.vision_tower.vision_model.",
                                             "model.vision_tower."};
static const char *const projector_prefixes[] = {"multi_modal_projector.",
                                                 "model.multi_modal_projector."};

/* The prefix under which `name` stands; if there is none, the first, whose missing tensor is then
 * reported. */
static struct weights find_prefix(struct device *dev, const struct safetensors *st,
                                  const char *const *prefixes, int n, const char *name)
{
    struct weights w = {dev, st, NULL};
    for (int i = 0; i < n; i++) {
        w.prefix = prefixes[i];
        if (weights_has(&w, name)) return w;
    }
    w.prefix = prefixes[0];
    return w;
}

static int load_norm(float **weight, float **bias, const struct weights *w, const char *name,
                     int width, struct error *err)
{
    char names[2][WEIGHTS_NAME_SIZE];
    const struct weights_part scale = {weights_name(names[0], name, ".weight"), width};
    const struct weights_part shift = {weights_name(names[1], name, ".bias"), width};
    if (weights_vector(weight, w, &scale, 1, err) != 0) return -1;
    return weights_vector(bias, w, &shift, 1, err);
}

/* A matrix [n_out][n_in] and its bias, which is optional in the projector only (bias NULL: none).
 */
static int load_linear(void **weight, float **bias, const struct weights *w, const char *name,
                       int n_out, int n_in, struct error *err)
{
    char names[2][WEIGHTS_NAME_SIZE];
    const struct weights_part matrix = {weights_name(names[0], name, ".weight"), n_out};
    const struct weights_part vector = {weights_name(names[1], name, ".bias"), n_out};
    if (weights_plain(weight, w, &matrix, 1, n_in, err) != 0) return -1;
    return bias ? weights_vector(bias, w, &vector, 1, err) : 0;
}

static int load_layer(struct clip_layer *layer, const struct weights *w,
                      const struct vision_config *cfg, struct error *err)
{
    int hidden = cfg->hidden, wide = cfg->intermediate;
    const struct weights_part qkv[] = {{"self_attn.q_proj.weight", hidden},
                                       {"self_attn.k_proj.weight", hidden},
                                       {"self_attn.v_proj.weight", hidden}};
    const struct weights_part bias[] = {{"self_attn.q_proj.bias", hidden},
                                        {"self_attn.k_proj.bias", hidden},
                                        {"self_attn.v_proj.bias", hidden}};
    if (weights_plain(&layer->qkv, w, qkv, 3, hidden, err) != 0 ||
        weights_vector(&layer->qkv_bias, w, bias, 3, err) != 0 ||
        load_linear(&layer->out, &layer->out_bias, w, "self_attn.out_proj", hidden, hidden, err) ||
        load_linear(&layer->fc1, &layer->fc1_bias, w, "mlp.fc1", wide, hidden, err) != 0 ||
        load_linear(&layer->fc2, &layer->fc2_bias, w, "mlp.fc2", hidden, wide, err) != 0 ||
        load_norm(&layer->norm1, &layer->norm1_bias, w, "layer_norm1", hidden, err) != 0 ||
        load_norm(&layer->norm2, &layer->norm2_bias, w, "layer_norm2", hidden, err) != 0)
        return -1;
    return 0;
}

static int load_tower(struct clip_tower *v, const struct weights *w, struct error *err)
{
    int hidden = v->cfg.hidden, patch = v->cfg.patch;
    const int64_t conv[4] = {hidden, 3, patch, patch}, positions[2] = {v->n_rows, hidden};
    const struct weights_part cls = {"embeddings.class_embedding", hidden};
    if (weights_plain_tensor(&v->patch_embedding, w, "embeddings.patch_embedding.weight", conv, 4,
                             err) != 0 ||
        weights_float_tensor(&v->positions, w, "embeddings.position_embedding.weight", positions, 2,
                             err) != 0 ||
        weights_vector(&v->cls, w, &cls, 1, err) != 0 ||
        load_norm(&v->pre_norm, &v->pre_norm_bias, w, "pre_layrnorm", hidden, err) != 0)
        return -1;
    for (int i = 0; i < v->cfg.n_used_layers; i++) {
        char *prefix = xprintf("%sencoder.layers.%d.", w->prefix, i);
        const struct weights layer = {w->dev, w->st, prefix};
        int result = load_layer(&v->layers[i], &layer, &v->cfg, err);
        free(prefix);
        if (result != 0) return -1;
    }
    return 0;
}

static int load(struct clip_tower *v, const struct safetensors *st, struct error *err)
{
    const struct weights tower =
        find_prefix(v->dev, st, tower_prefixes, 4, "embeddings.class_embedding");
    const struct weights projector =
        find_prefix(v->dev, st, projector_prefixes, 2, "linear_1.weight");
    bool has_bias = v->cfg.projector_bias;
    if (load_tower(v, &tower, err) != 0 ||
        load_linear(&v->linear_1, has_bias ? &v->linear_1_bias : NULL, &projector, "linear_1",
                    v->lm_hidden, v->cfg.hidden, err) != 0 ||
        load_linear(&v->linear_2, has_bias ? &v->linear_2_bias : NULL, &projector, "linear_2",
                    v->lm_hidden, v->lm_hidden, err) != 0)
        return -1;
    return 0;
}

static void take_buffers(struct clip_tower *v)
{
    size_t act = dtype_size(device_ops(v->dev)->act), hidden = (size_t)v->cfg.hidden;
    size_t side = (size_t)v->cfg.image_size, patch = (size_t)v->cfg.patch;
    size_t rows = (size_t)v->n_rows * act, patches = (size_t)v->n_patches * act;
    const char *what = "vision tower's rows";
    v->pixels = device_alloc(v->dev, 3 * side * side * sizeof(float), "pixels");
    v->patches = device_alloc(v->dev, patches * 3 * patch * patch, what);
    v->embedded = device_alloc(v->dev, patches * hidden, what);
    v->x = device_alloc(v->dev, rows * hidden, what);
    v->normed = device_alloc(v->dev, rows * hidden, what);
    v->qkv = device_alloc(v->dev, rows * 3 * hidden, what);
    v->mixed = device_alloc(v->dev, rows * hidden, what);
    v->wide = device_alloc(v->dev, rows * (size_t)v->cfg.intermediate, what);
    v->projected = device_alloc(v->dev, rows * (size_t)v->lm_hidden, what);
    const int32_t first[2] = {0, v->n_rows};
    v->first = weights_upload(v->dev, first, sizeof(first), what);
}

int clip_tower_open(struct clip_tower **out, struct device *dev, const struct safetensors *st,
                    const struct vision_config *cfg, int lm_hidden, struct error *err)
{
    struct clip_tower *v = xcalloc(1, sizeof(*v));
    int side = cfg->image_size / cfg->patch;
    v->cfg = *cfg;
    v->lm_hidden = lm_hidden;
    v->n_patches = side * side;
    v->n_rows = v->n_patches + 1;
    v->dev = dev;
    v->layers = xcalloc((size_t)cfg->n_used_layers, sizeof(*v->layers));
    if (load(v, st, err) != 0) {
        clip_tower_close(v);
        return -1;
    }
    take_buffers(v);
    *out = v;
    return 0;
}

void clip_tower_close(struct clip_tower *v)
{
    if (!v) return;
    for (int i = 0; i < v->cfg.n_used_layers; i++) {
        struct clip_layer *l = &v->layers[i];
        void *const memory[] = {l->qkv,      l->out,        l->fc1,      l->fc2,
                                l->qkv_bias, l->out_bias,   l->fc1_bias, l->fc2_bias,
                                l->norm1,    l->norm1_bias, l->norm2,    l->norm2_bias};
        for (size_t j = 0; j < sizeof(memory) / sizeof(memory[0]); j++)
            device_free(v->dev, memory[j]);
    }
    void *const memory[] = {v->patch_embedding,
                            v->cls,
                            v->positions,
                            v->pre_norm,
                            v->pre_norm_bias,
                            v->linear_1,
                            v->linear_2,
                            v->linear_1_bias,
                            v->linear_2_bias,
                            v->pixels,
                            v->patches,
                            v->embedded,
                            v->x,
                            v->normed,
                            v->qkv,
                            v->mixed,
                            v->wide,
                            v->projected,
                            v->first};
    for (size_t j = 0; j < sizeof(memory) / sizeof(memory[0]); j++) device_free(v->dev, memory[j]);
    free(v->layers);
    free(v);
}

/* ---- the tower ------------------------------------------------------------------------------ */

static void norm(const struct clip_tower *v, struct stream *s, const float *w, const float *bias,
                 void *out)
{
    const struct norm_args args = {.x = v->x,
                                   .w = w,
                                   .bias = bias,
                                   .out = out,
                                   .max = v->n_rows,
                                   .width = v->cfg.hidden,
                                   .eps = v->cfg.layer_norm_eps};
    device_ops(v->dev)->layernorm(s, &args);
}

/* y = act(x w^T + bias) (+ y), rows without gaps. */
struct linear {
    const void *w;
    const float *bias;
    int n, n_in, n_out;
    enum activation activation;
    bool add;
};

static void apply(const struct clip_tower *v, struct stream *s, const struct linear *l,
                  const void *x, void *y)
{
    const struct matmul_args args = {.w = l->w,
                                     .x = x,
                                     .bias = l->bias,
                                     .y = y,
                                     .n = l->n,
                                     .n_out = l->n_out,
                                     .n_in = l->n_in,
                                     .ldx = l->n_in,
                                     .ldy = l->n_out,
                                     .activation = l->activation,
                                     .add = l->add};
    device_ops(v->dev)->matmul(s, &args);
}

static void run_layer(const struct clip_tower *v, struct stream *s, const struct clip_layer *layer)
{
    int n = v->n_rows, hidden = v->cfg.hidden, wide = v->cfg.intermediate;
    const struct linear qkv = {layer->qkv, layer->qkv_bias, n, hidden, 3 * hidden, ACT_NONE, false};
    const struct linear out = {layer->out, layer->out_bias, n, hidden, hidden, ACT_NONE, true};
    const struct linear fc1 = {layer->fc1, layer->fc1_bias,   n,    hidden,
                               wide,       v->cfg.activation, false};
    const struct linear fc2 = {layer->fc2, layer->fc2_bias, n, wide, hidden, ACT_NONE, true};
    const struct vision_attention_args attention = {.qkv = v->qkv,
                                                    .out = v->mixed,
                                                    .first = v->first,
                                                    .n = n,
                                                    .n_segments = 1,
                                                    .n_heads = v->cfg.n_heads,
                                                    .head_dim = hidden / v->cfg.n_heads};
    norm(v, s, layer->norm1, layer->norm1_bias, v->normed);
    apply(v, s, &qkv, v->normed, v->qkv);
    device_ops(v->dev)->vision_attention(s, &attention);
    apply(v, s, &out, v->mixed, v->x);
    norm(v, s, layer->norm2, layer->norm2_bias, v->normed);
    apply(v, s, &fc1, v->normed, v->wide);
    apply(v, s, &fc2, v->wide, v->x);
}

/* Pixels in device memory to the input of the first layer. */
static void embed_patches(const struct clip_tower *v, struct stream *s)
{
    const struct ops *ops = device_ops(v->dev);
    int hidden = v->cfg.hidden, patch = v->cfg.patch;
    const struct patches_args patches = {.pixels = v->pixels,
                                         .out = v->patches,
                                         .height = v->cfg.image_size,
                                         .width = v->cfg.image_size,
                                         .patch = patch};
    const struct linear embedding = {
        v->patch_embedding, NULL, v->n_patches, 3 * patch * patch, hidden, ACT_NONE, false};
    const struct add_positions_args positions = {.patches = v->embedded,
                                                 .cls = v->cls,
                                                 .pos = v->positions,
                                                 .out = v->x,
                                                 .n = v->n_patches,
                                                 .width = hidden};
    ops->patches(s, &patches);
    apply(v, s, &embedding, v->patches, v->embedded);
    ops->add_positions(s, &positions);
    norm(v, s, v->pre_norm, v->pre_norm_bias, v->x);
}

void clip_tower_encode(struct clip_tower *v, struct stream *s, const float *pixels, void *rows)
{
    int hidden = v->cfg.hidden, n = v->cfg.n_tokens;
    size_t side = (size_t)v->cfg.image_size;
    stream_copy_in(s, v->pixels, pixels, 3 * side * side * sizeof(float));
    embed_patches(v, s);
    for (int i = 0; i < v->cfg.n_used_layers; i++) run_layer(v, s, &v->layers[i]);

    size_t skipped = v->cfg.drop_class ? (size_t)hidden * dtype_size(device_ops(v->dev)->act) : 0;
    const struct linear linear_1 = {
        v->linear_1, v->linear_1_bias, n, hidden, v->lm_hidden, v->cfg.projector_activation, false};
    const struct linear linear_2 = {v->linear_2,  v->linear_2_bias, n,    v->lm_hidden,
                                    v->lm_hidden, ACT_NONE,         false};
    apply(v, s, &linear_1, (const char *)v->x + skipped, v->projected);
    apply(v, s, &linear_2, v->projected, rows);
}
