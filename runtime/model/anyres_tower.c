#include "runtime/model/anyres_tower.h"

#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/model/clip_tower.h"
#include "runtime/model/weights.h"

struct anyres_tower {
    struct vision_config cfg;
    int lm_hidden;
    struct device *dev; /* borrowed */
    struct clip_tower *clip;
    void *features; /* act [1 + n_tiles n_tokens of a pass][lm_hidden], the newline first */
    int32_t *index; /* [n_tokens] */
};

/* ---- the order of tokens -------------------------------------------------------------------- */

/* The part of the tiles' features that holds the picture. */
struct extent {
    int left, top, right, bottom;
};

/* The reference divides floating-point numbers and rounds to 7 digits, which gives these whole
 * numbers. */
static struct extent unpadded(int side, const struct image_layout *layout)
{
    int64_t width = layout->width, height = layout->height;
    int64_t cols = (int64_t)layout->tile_cols * side, rows = (int64_t)layout->tile_rows * side;
    bool is_wide = width * rows > cols * height;
    int left = is_wide ? 0 : (int)((cols - width * rows / height) / 2);
    int top = is_wide ? (int)((rows - height * cols / width) / 2) : 0;
    return (struct extent){left, top, (int)cols - left, (int)rows - top};
}

static int tokens_a_side(const struct vision_config *cfg)
{
    return cfg->image_size / cfg->patch;
}

int anyres_n_tokens(const struct vision_config *cfg, const struct image_layout *layout)
{
    struct extent e = unpadded(tokens_a_side(cfg), layout);
    return cfg->n_tokens + (e.bottom - e.top) * (e.right - e.left + 1);
}

int32_t *anyres_index_new(const struct vision_config *cfg, const struct image_layout *layout)
{
    int side = tokens_a_side(cfg);
    struct extent e = unpadded(side, layout);
    int32_t *index = xcalloc((size_t)anyres_n_tokens(cfg, layout), sizeof(*index)), *next = index;
    for (int i = 0; i < cfg->n_tokens; i++) *next++ = 1 + i;
    for (int y = e.top; y < e.bottom; y++) {
        for (int x = e.left; x < e.right; x++) {
            int pass = 1 + y / side * layout->tile_cols + x / side;
            *next++ = 1 + pass * cfg->n_tokens + y % side * side + x % side;
        }
        *next++ = 0;
    }
    return index;
}

/* ---- the tower ------------------------------------------------------------------------------ */

/* The newline in place, as the first row of features. */
static int load_newline(struct anyres_tower *v, const struct safetensors *st, size_t n_rows,
                        struct error *err)
{
    static const char *const prefixes[] = {"", "model."};
    const int64_t shape[1] = {v->lm_hidden};
    const struct tensor *t;
    struct weights w = {v->dev, st, prefixes[0]};
    char name[WEIGHTS_NAME_SIZE];
    if (!weights_has(&w, "image_newline")) w.prefix = prefixes[1];
    if (!weights_has(&w, "image_newline")) w.prefix = prefixes[0];
    if (safetensors_get(st, weights_name(name, w.prefix, "image_newline"), shape, 1, &t, err) != 0)
        return -1;

    enum dtype act = device_ops(v->dev)->act;
    size_t row = (size_t)v->lm_hidden * dtype_size(act);
    void *newline = xcalloc(1, row);
    weights_convert(newline, act, t->data, t->dtype, t->n);
    v->features = device_alloc(v->dev, n_rows * row, "features of tiles");
    struct stream *s = stream_open(v->dev);
    stream_copy_in(s, v->features, newline, row);
    stream_close(s);
    free(newline);
    return 0;
}

int anyres_tower_open(struct anyres_tower **out, struct device *dev, const struct safetensors *st,
                      const struct vision_config *cfg, int n_tiles, int n_tokens, int lm_hidden,
                      struct error *err)
{
    struct anyres_tower *v = xcalloc(1, sizeof(*v));
    v->cfg = *cfg;
    v->lm_hidden = lm_hidden;
    v->dev = dev;
    size_t n_rows = 1 + (size_t)n_tiles * (size_t)cfg->n_tokens;
    if (clip_tower_open(&v->clip, dev, st, cfg, lm_hidden, err) != 0 ||
        load_newline(v, st, n_rows, err) != 0) {
        anyres_tower_close(v);
        return -1;
    }
    v->index = device_alloc(dev, (size_t)n_tokens * sizeof(int32_t), "order of features");
    *out = v;
    return 0;
}

void anyres_tower_close(struct anyres_tower *v)
{
    if (!v) return;
    clip_tower_close(v->clip);
    device_free(v->dev, v->features);
    device_free(v->dev, v->index);
    free(v);
}

void anyres_tower_encode(struct anyres_tower *v, struct stream *s,
                         const struct image_layout *layout, const float *pixels,
                         const int32_t *index, void *rows)
{
    const struct ops *ops = device_ops(v->dev);
    size_t tile_values = layout->n_values / (size_t)layout->n_tiles;
    size_t row = (size_t)v->lm_hidden * dtype_size(ops->act);
    int n = anyres_n_tokens(&v->cfg, layout);
    for (size_t i = 0; i < (size_t)layout->n_tiles; i++) {
        char *features = (char *)v->features + (1 + i * (size_t)v->cfg.n_tokens) * row;
        clip_tower_encode(v->clip, s, pixels + i * tile_values, features);
    }
    stream_copy_in(s, v->index, index, (size_t)n * sizeof(*index));
    const struct gather_rows_args gather = {
        .in = v->features, .out = rows, .row = v->index, .max = n, .width = v->lm_hidden};
    ops->gather_rows(s, &gather);
}
