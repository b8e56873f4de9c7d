#include "runtime/model/clip_tower.h"

#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/model/linear.h"

struct clip_layer {
    struct linear qkv, out, fc1, fc2;
    float *norm1, *norm1_bias, *norm2, *norm2_bias;
};

struct clip_tower {
    struct vision_config cfg;
    int lm_hidden, n_patches, n_rows; /* n_rows: patches and the class token */
    struct device *dev;               /* borrowed */

    struct linear patch_embedding; /* 3 patch patch to hidden */
    float *cls;                    /* [hidden] */
    float *positions;              /* [n_rows][hidden] */
    float *pre_norm, *pre_norm_bias;
    struct clip_layer *layers;        /* [n_used_layers] */
    struct linear linear_1, linear_2; /* of the projector */

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

static int load_layer(struct clip_layer *layer, const struct weights *w,
                      const struct vision_config *cfg, struct error *err)
{
    static const struct linear_names qkv = {
        3, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}};
    static const struct linear_names out = {1, {"self_attn.out_proj"}};
    static const struct linear_names fc1 = {1, {"mlp.fc1"}}, fc2 = {1, {"mlp.fc2"}};
    int hidden = cfg->hidden, wide = cfg->intermediate;
    if (linear_load(&layer->qkv, w, qkv, hidden, hidden, true, err) != 0 ||
        linear_load(&layer->out, w, out, hidden, hidden, true, err) != 0 ||
        linear_load(&layer->fc1, w, fc1, wide, hidden, true, err) != 0 ||
        linear_load(&layer->fc2, w, fc2, hidden, wide, true, err) != 0 ||
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
    v->patch_embedding.n_out = hidden;
    v->patch_embedding.n_in = 3 * patch * patch;
    if (weights_plain_tensor(&v->patch_embedding.w, w, "embeddings.patch_embedding.weight", conv, 4,
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
    static const struct linear_names linear_1 = {1, {"linear_1"}}, linear_2 = {1, {"linear_2"}};
    bool has_bias = v->cfg.projector_bias;
    int hidden = v->cfg.hidden, lm = v->lm_hidden;
    if (load_tower(v, &tower, err) != 0 ||
        linear_load(&v->linear_1, &projector, linear_1, lm, hidden, has_bias, err) != 0 ||
        linear_load(&v->linear_2, &projector, linear_2, lm, lm, has_bias, err) != 0)
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
        linear_done(&l->qkv, v->dev);
        linear_done(&l->out, v->dev);
        linear_done(&l->fc1, v->dev);
        linear_done(&l->fc2, v->dev);
        device_free(v->dev, l->norm1);
        device_free(v->dev, l->norm1_bias);
        device_free(v->dev, l->norm2);
        device_free(v->dev, l->norm2_bias);
    }
    linear_done(&v->patch_embedding, v->dev);
    linear_done(&v->linear_1, v->dev);
    linear_done(&v->linear_2, v->dev);
    void *const memory[] = {v->cls,     v->positions, v->pre_norm,  v->pre_norm_bias, v->pixels,
                            v->patches, v->embedded,  v->x,         v->normed,        v->qkv,
                            v->mixed,   v->wide,      v->projected, v->first};
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

static void run_layer(const struct clip_tower *v, struct stream *s, const struct clip_layer *layer)
{
    int n = v->n_rows, hidden = v->cfg.hidden;
    const struct vision_attention_args attention = {.qkv = v->qkv,
                                                    .out = v->mixed,
                                                    .first = v->first,
                                                    .n = n,
                                                    .n_segments = 1,
                                                    .n_heads = v->cfg.n_heads,
                                                    .head_dim = hidden / v->cfg.n_heads};
    norm(v, s, layer->norm1, layer->norm1_bias, v->normed);
    linear_apply(&layer->qkv, v->dev, s, v->normed, v->qkv, n, ACT_NONE);
    device_ops(v->dev)->vision_attention(s, &attention);
    linear_add(&layer->out, v->dev, s, v->mixed, v->x, n);
    norm(v, s, layer->norm2, layer->norm2_bias, v->normed);
    linear_apply(&layer->fc1, v->dev, s, v->normed, v->wide, n, v->cfg.activation);
    linear_add(&layer->fc2, v->dev, s, v->wide, v->x, n);
}

/* Pixels in device memory to the input of the first layer. */
static void embed_patches(const struct clip_tower *v, struct stream *s)
{
    const struct ops *ops = device_ops(v->dev);
    const struct patches_args patches = {.pixels = v->pixels,
                                         .out = v->patches,
                                         .height = v->cfg.image_size,
                                         .width = v->cfg.image_size,
                                         .patch = v->cfg.patch};
    const struct add_positions_args positions = {.patches = v->embedded,
                                                 .cls = v->cls,
                                                 .pos = v->positions,
                                                 .out = v->x,
                                                 .n = v->n_patches,
                                                 .width = v->cfg.hidden};
    ops->patches(s, &patches);
    linear_apply(&v->patch_embedding, v->dev, s, v->patches, v->embedded, v->n_patches, ACT_NONE);
    ops->add_positions(s, &positions);
    norm(v, s, v->pre_norm, v->pre_norm_bias, v->x);
}

void clip_tower_encode(struct clip_tower *v, struct stream *s, const float *pixels, void *rows)
{
    int n = v->cfg.n_tokens;
    size_t side = (size_t)v->cfg.image_size, act = dtype_size(device_ops(v->dev)->act);
    stream_copy_in(s, v->pixels, pixels, 3 * side * side * sizeof(float));
    embed_patches(v, s);
    for (int i = 0; i < v->cfg.n_used_layers; i++) run_layer(v, s, &v->layers[i]);

    const char *first = (const char *)v->x + (v->cfg.drop_class ? (size_t)v->cfg.hidden * act : 0);
    linear_apply(&v->linear_1, v->dev, s, first, v->projected, n, v->cfg.projector_activation);
    linear_apply(&v->linear_2, v->dev, s, v->projected, rows, n, ACT_NONE);
}
