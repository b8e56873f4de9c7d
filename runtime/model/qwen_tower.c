#include "runtime/model/qwen_tower.h"

#include <assert.h>
#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/model/linear.h"
#include "runtime/model/lm.h"

static const float norm_eps = 1e-6F; /* in no config */

struct qwen_layer {
    struct linear qkv, out, gate_up, down;
    float *norm1, *norm2;
};

struct qwen_tower {
    struct vision_config cfg;
    int lm_hidden, max_patches;
    struct device *dev; /* borrowed */

    struct linear patch_embedding;    /* 3 patch patch to hidden, the frames' weights added up */
    struct qwen_layer *layers;        /* [n_layers] */
    float *merger_norm;               /* [hidden] */
    struct linear linear_1, linear_2; /* of the merger; merge merge hidden values a token */
    struct rope rope;

    float *pixels;  /* [max_patches][3 patch patch] */
    int32_t *index; /* as struct order lays it out */
    void *patches;  /* act [max_patches][3 patch patch] */
    void *x;        /* act [max_patches][hidden] residual stream */
    void *normed;   /* act [max_patches][hidden] */
    void *qkv;      /* act [max_patches][3 hidden] */
    void *mixed;    /* act [max_patches][hidden] */
    void *gate_up;  /* act [max_patches][2 intermediate] */
    void *product;  /* act [max_patches][intermediate] */
    void *wide;     /* act [max_tokens][merge merge hidden] inside the merger */
    void *tokens;   /* act [max_tokens][lm_hidden] in window order */
};

/* ---- window order --------------------------------------------------------------------------- */

/* Where the parts of an index begin. */
struct order {
    int n_patches, n_tokens, n_windows;
    int32_t *patch;  /* [n_patches] ~ the patch of each row, so that embed reads it from a pool */
    int32_t *pos;    /* [n_patches][3] row and column of the patch, 0 */
    int32_t *token;  /* [n_tokens] row of each token */
    int32_t *window; /* [n_windows + 1] first patch row of each */
    int32_t *whole;  /* [2] the one segment of layers that see the whole picture */
};

static int n_windows_along(const struct vision_config *cfg, int n_patches)
{
    return (n_patches / cfg->merge + cfg->window - 1) / cfg->window;
}

static struct order order_of(const struct vision_config *cfg, const struct image_layout *layout,
                             int32_t *index)
{
    struct order o = {.n_patches = layout->grid_h * layout->grid_w,
                      .n_windows = n_windows_along(cfg, layout->grid_h) *
                                   n_windows_along(cfg, layout->grid_w)};
    o.n_tokens = o.n_patches / (cfg->merge * cfg->merge);
    o.patch = index;
    o.pos = o.patch + o.n_patches;
    o.token = o.pos + (size_t)3 * (size_t)o.n_patches;
    o.window = o.token + o.n_tokens;
    o.whole = o.window + o.n_windows + 1;
    return o;
}

/* Numbers of an index of n_patches patches at most. */
static size_t index_len(size_t n_patches)
{
    return 6 * n_patches + 3; /* no more tokens, nor windows, than patches */
}

int qwen_n_tokens(const struct vision_config *cfg, const struct image_layout *layout)
{
    return layout->grid_h * layout->grid_w / (cfg->merge * cfg->merge);
}

/* The patches of token (y, x) become the rows from `row` on. */
static void place_token(const struct vision_config *cfg, const struct order *o, int n_cols, int y,
                        int x, int row)
{
    int m = cfg->merge, token = y * n_cols + x;
    o->token[token] = row / (m * m);
    for (int i = 0; i < m * m; i++, row++) {
        o->patch[row] = ~(token * m * m + i);
        o->pos[3 * row] = y * m + i / m;
        o->pos[3 * row + 1] = x * m + i % m;
        o->pos[3 * row + 2] = 0;
    }
}

int32_t *qwen_index_new(const struct vision_config *cfg, const struct image_layout *layout)
{
    int n_rows = layout->grid_h / cfg->merge, n_cols = layout->grid_w / cfg->merge;
    int32_t *index = xcalloc(index_len((size_t)layout->grid_h * (size_t)layout->grid_w), 4);
    struct order o = order_of(cfg, layout, index);
    int32_t *window = o.window;
    int row = 0;
    for (int top = 0; top < n_rows; top += cfg->window)
        for (int left = 0; left < n_cols; left += cfg->window) {
            *window++ = row;
            for (int y = top; y < n_rows && y < top + cfg->window; y++)
                for (int x = left; x < n_cols && x < left + cfg->window; x++) {
                    place_token(cfg, &o, n_cols, y, x, row);
                    row += cfg->merge * cfg->merge;
                }
        }
    *window = o.whole[1] = row;
    return index;
}

/* ---- loading -------------------------------------------------------------------------------- */

static int load_layer(struct qwen_layer *layer, const struct weights *w,
                      const struct vision_config *cfg, struct error *err)
{
    static const struct linear_names qkv = {1, {"attn.qkv"}}, out = {1, {"attn.proj"}};
    static const struct linear_names gate_up = {2, {"mlp.gate_proj", "mlp.up_proj"}};
    static const struct linear_names down = {1, {"mlp.down_proj"}};
    int hidden = cfg->hidden, wide = cfg->intermediate;
    const struct weights_part norm1 = {"norm1.weight", hidden}, norm2 = {"norm2.weight", hidden};
    if (linear_load(&layer->qkv, w, qkv, 3 * hidden, hidden, true, err) != 0 ||
        linear_load(&layer->out, w, out, hidden, hidden, true, err) != 0 ||
        linear_load(&layer->gate_up, w, gate_up, wide, hidden, true, err) != 0 ||
        linear_load(&layer->down, w, down, hidden, wide, true, err) != 0 ||
        weights_vector(&layer->norm1, w, &norm1, 1, err) != 0 ||
        weights_vector(&layer->norm2, w, &norm2, 1, err) != 0)
        return -1;
    return 0;
}

/* The frames of a picture are equal, so their weights [hidden][3][n_frames][p][p] become one. */
static int load_patch_embedding(struct qwen_tower *v, const struct weights *w, struct error *err)
{
    int n_frames = v->cfg.n_frames, patch = v->cfg.patch;
    const int64_t shape[5] = {v->cfg.hidden, 3, n_frames, patch, patch};
    const struct tensor *t;
    char name[WEIGHTS_NAME_SIZE];
    weights_name(name, w->prefix, "patch_embed.proj.weight");
    if (safetensors_get(w->st, name, shape, 5, &t, err) != 0) return -1;
    enum dtype act = device_ops(w->dev)->act;
    size_t plane = (size_t)patch * (size_t)patch, n = t->n / (size_t)n_frames;
    float *frames = xcalloc(t->n, sizeof(float)), *sum = xcalloc(n, sizeof(float));
    void *converted = xcalloc(n, dtype_size(act));
    weights_convert(frames, DTYPE_F32, t->data, t->dtype, t->n);
    for (size_t i = 0; i < t->n; i++)
        sum[i / plane / (size_t)n_frames * plane + i % plane] += frames[i];
    weights_convert(converted, act, sum, DTYPE_F32, n);
    v->patch_embedding = (struct linear){.n_out = v->cfg.hidden, .n_in = 3 * patch * patch};
    v->patch_embedding.w = weights_upload(w->dev, converted, n * dtype_size(act), name);
    free(frames);
    free(sum);
    free(converted);
    return 0;
}

static int load(struct qwen_tower *v, const struct safetensors *st, struct error *err)
{
    const struct weights_part norm = {"merger.ln_q.weight", v->cfg.hidden};
    static const struct linear_names linear_1 = {1, {"merger.mlp.0"}};
    static const struct linear_names linear_2 = {1, {"merger.mlp.2"}};
    int wide = v->cfg.merge * v->cfg.merge * v->cfg.hidden;
    struct weights w = {v->dev, st, "model.visual."};
    if (!weights_has(&w, norm.name)) w.prefix = "visual.";
    if (load_patch_embedding(v, &w, err) != 0 ||
        weights_vector(&v->merger_norm, &w, &norm, 1, err) != 0 ||
        linear_load(&v->linear_1, &w, linear_1, wide, wide, true, err) != 0 ||
        linear_load(&v->linear_2, &w, linear_2, v->lm_hidden, wide, true, err) != 0)
        return -1;
    for (int i = 0; i < v->cfg.n_layers; i++) {
        char *prefix = xprintf("%sblocks.%d.", w.prefix, i);
        const struct weights layer = {w.dev, w.st, prefix};
        int result = load_layer(&v->layers[i], &layer, &v->cfg, err);
        free(prefix);
        if (result != 0) return -1;
    }
    return 0;
}

static void take_buffers(struct qwen_tower *v)
{
    const struct vision_config *cfg = &v->cfg;
    int head_dim = cfg->hidden / cfg->n_heads, merged = cfg->merge * cfg->merge;
    size_t act = dtype_size(device_ops(v->dev)->act), n = (size_t)v->max_patches;
    size_t hidden = (size_t)cfg->hidden, intermediate = (size_t)cfg->intermediate;
    size_t values = 3 * (size_t)cfg->patch * (size_t)cfg->patch, rows = n * act;
    const char *what = "vision tower's rows";
    v->pixels = device_alloc(v->dev, n * values * sizeof(float), "pixels");
    v->index = device_alloc(v->dev, index_len(n) * sizeof(int32_t), "window order");
    v->patches = device_alloc(v->dev, rows * values, what);
    v->x = device_alloc(v->dev, rows * hidden, what);
    v->normed = device_alloc(v->dev, rows * hidden, what);
    v->qkv = device_alloc(v->dev, rows * 3 * hidden, what);
    v->mixed = device_alloc(v->dev, rows * hidden, what);
    v->gate_up = device_alloc(v->dev, rows * 2 * intermediate, what);
    v->product = device_alloc(v->dev, rows * intermediate, what);
    v->wide = device_alloc(v->dev, rows * hidden, what);
    v->tokens = device_alloc(v->dev, rows / (size_t)merged * (size_t)v->lm_hidden, what);
    /* A picture may be one token high. */
    int n_pos = v->max_patches / cfg->merge;
    v->rope = (struct rope){.table = rope_table_new(v->dev, 10000, head_dim, 2, n_pos),
                            .n_pos = n_pos,
                            .section = {head_dim / 4, head_dim / 4, 0}};
}

int qwen_tower_open(struct qwen_tower **out, struct device *dev, const struct safetensors *st,
                    const struct vision_config *cfg, int max_tokens, int lm_hidden,
                    struct error *err)
{
    struct qwen_tower *v = xcalloc(1, sizeof(*v));
    v->cfg = *cfg;
    v->lm_hidden = lm_hidden;
    v->max_patches = max_tokens * cfg->merge * cfg->merge;
    v->dev = dev;
    v->layers = xcalloc((size_t)cfg->n_layers, sizeof(*v->layers));
    if (load(v, st, err) != 0) {
        qwen_tower_close(v);
        return -1;
    }
    take_buffers(v);
    *out = v;
    return 0;
}

void qwen_tower_close(struct qwen_tower *v)
{
    if (!v) return;
    for (int i = 0; i < v->cfg.n_layers; i++) {
        struct qwen_layer *l = &v->layers[i];
        linear_done(&l->qkv, v->dev);
        linear_done(&l->out, v->dev);
        linear_done(&l->gate_up, v->dev);
        linear_done(&l->down, v->dev);
        device_free(v->dev, l->norm1);
        device_free(v->dev, l->norm2);
    }
    linear_done(&v->patch_embedding, v->dev);
    linear_done(&v->linear_1, v->dev);
    linear_done(&v->linear_2, v->dev);
    void *const memory[] = {v->merger_norm, (void *)v->rope.table,
                            v->pixels,      v->index,
                            v->patches,     v->x,
                            v->normed,      v->qkv,
                            v->mixed,       v->gate_up,
                            v->product,     v->wide,
                            v->tokens};
    for (size_t j = 0; j < sizeof(memory) / sizeof(memory[0]); j++) device_free(v->dev, memory[j]);
    free(v->layers);
    free(v);
}

/* ---- the tower ------------------------------------------------------------------------------ */

static void norm(const struct qwen_tower *v, struct stream *s, const float *w, int n)
{
    const struct norm_args args = {
        .x = v->x, .w = w, .out = v->normed, .max = n, .width = v->cfg.hidden, .eps = norm_eps};
    device_ops(v->dev)->rmsnorm(s, &args);
}

static void attend(const struct qwen_tower *v, struct stream *s, const struct order *o,
                   bool sees_all)
{
    const struct ops *ops = device_ops(v->dev);
    int n_heads = v->cfg.n_heads, head_dim = v->cfg.hidden / n_heads;
    const struct vision_rope_args rope = {.qkv = v->qkv,
                                          .pos = o->pos,
                                          .rope = v->rope,
                                          .n = o->n_patches,
                                          .n_heads = n_heads,
                                          .head_dim = head_dim};
    const struct vision_attention_args attention = {.qkv = v->qkv,
                                                    .out = v->mixed,
                                                    .first = sees_all ? o->whole : o->window,
                                                    .n = o->n_patches,
                                                    .n_segments = sees_all ? 1 : o->n_windows,
                                                    .n_heads = n_heads,
                                                    .head_dim = head_dim};
    ops->vision_rope(s, &rope);
    ops->vision_attention(s, &attention);
}

static void run_layer(const struct qwen_tower *v, struct stream *s, const struct order *o, int i)
{
    const struct qwen_layer *l = &v->layers[i];
    int n = o->n_patches;
    const struct silu_mul_args product = {
        .in = v->gate_up, .out = v->product, .n = n, .width = v->cfg.intermediate};
    norm(v, s, l->norm1, n);
    linear_apply(&l->qkv, v->dev, s, v->normed, v->qkv, n, ACT_NONE);
    attend(v, s, o, v->cfg.full_layers >> i & 1);
    linear_add(&l->out, v->dev, s, v->mixed, v->x, n);
    norm(v, s, l->norm2, n);
    linear_apply(&l->gate_up, v->dev, s, v->normed, v->gate_up, n, ACT_NONE);
    device_ops(v->dev)->silu_mul(s, &product);
    linear_add(&l->down, v->dev, s, v->product, v->x, n);
}

/* Pixels in the picture's order to rows in window order. */
static void embed_patches(const struct qwen_tower *v, struct stream *s, const struct order *o)
{
    int values = 3 * v->cfg.patch * v->cfg.patch;
    const struct embed_args patches = {.pool = v->pixels,
                                       .id = o->patch,
                                       .out = v->patches,
                                       .max = o->n_patches,
                                       .width = values,
                                       .ld = values};
    device_ops(v->dev)->embed(s, &patches);
    linear_apply(&v->patch_embedding, v->dev, s, v->patches, v->x, o->n_patches, ACT_NONE);
}

/* Rows in window order to tokens in the picture's order. */
static void merge(const struct qwen_tower *v, struct stream *s, const struct order *o, void *rows)
{
    int n = o->n_tokens;
    const struct gather_rows_args gather = {
        .in = v->tokens, .out = rows, .row = o->token, .max = n, .width = v->lm_hidden};
    norm(v, s, v->merger_norm, o->n_patches);
    /* The patches of a token lie side by side: they are one row of the merger. */
    linear_apply(&v->linear_1, v->dev, s, v->normed, v->wide, n, ACT_GELU);
    linear_apply(&v->linear_2, v->dev, s, v->wide, v->tokens, n, ACT_NONE);
    device_ops(v->dev)->gather_rows(s, &gather);
}

void qwen_tower_encode(struct qwen_tower *v, struct stream *s, const struct image_layout *layout,
                       const float *pixels, const int32_t *index, void *rows)
{
    const struct order o = order_of(&v->cfg, layout, v->index);
    assert(o.n_patches <= v->max_patches);
    stream_copy_in(s, v->pixels, pixels, layout->n_values * sizeof(float));
    stream_copy_in(s, v->index, index, index_len((size_t)o.n_patches) * sizeof(int32_t));
    embed_patches(v, s, &o);
    for (int i = 0; i < v->cfg.n_layers; i++) run_layer(v, s, &o, i);
    merge(v, s, &o, rows);
}
