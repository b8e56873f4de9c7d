#include "runtime/model/vision.h"

#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/model/anyres_tower.h"
#include "runtime/model/clip_tower.h"
#include "runtime/model/qwen_tower.h"

struct vision {
    struct vision_config cfg;
    int lm_hidden;
    struct device *dev;          /* borrowed */
    struct clip_tower *clip;     /* CLIP */
    struct anyres_tower *anyres; /* ANYRES */
    struct qwen_tower *qwen;     /* QWEN */
    void *rows;                  /* act [limits.n_tokens][lm_hidden] */
};

int vision_n_tokens(const struct vision_config *cfg, const struct image_layout *layout)
{
    if (cfg->kind == VISION_QWEN) return qwen_n_tokens(cfg, layout);
    return cfg->kind == VISION_ANYRES ? anyres_n_tokens(cfg, layout) : cfg->n_tokens;
}

int vision_n_columns(const struct vision_config *cfg, const struct image_layout *layout)
{
    return cfg->kind == VISION_QWEN ? layout->grid_w / cfg->merge : 0;
}

int32_t *vision_index_new(const struct vision_config *cfg, const struct image_layout *layout)
{
    if (cfg->kind == VISION_QWEN) return qwen_index_new(cfg, layout);
    return cfg->kind == VISION_ANYRES ? anyres_index_new(cfg, layout) : NULL;
}

static int open_tower(struct vision *v, const struct safetensors *st,
                      const struct vision_limits *limits, struct error *err)
{
    switch (v->cfg.kind) {
    case VISION_CLIP:
        break;
    case VISION_ANYRES:
        return anyres_tower_open(&v->anyres, v->dev, st, &v->cfg, limits->n_tiles, limits->n_tokens,
                                 v->lm_hidden, err);
    case VISION_QWEN:
        return qwen_tower_open(&v->qwen, v->dev, st, &v->cfg, limits->n_tokens, v->lm_hidden, err);
    }
    return clip_tower_open(&v->clip, v->dev, st, &v->cfg, v->lm_hidden, err);
}

int vision_open(struct vision **out, struct device *dev, const struct safetensors *st,
                const struct vision_config *cfg, const struct vision_limits *limits, int lm_hidden,
                struct error *err)
{
    struct vision *v = xcalloc(1, sizeof(*v));
    v->cfg = *cfg;
    v->lm_hidden = lm_hidden;
    v->dev = dev;
    if (open_tower(v, st, limits, err) != 0) {
        vision_close(v);
        return -1;
    }
    size_t row = (size_t)lm_hidden * dtype_size(device_ops(dev)->act);
    v->rows = device_alloc(dev, (size_t)limits->n_tokens * row, "image features");
    *out = v;
    return 0;
}

void vision_close(struct vision *v)
{
    if (!v) return;
    clip_tower_close(v->clip);
    anyres_tower_close(v->anyres);
    qwen_tower_close(v->qwen);
    device_free(v->dev, v->rows);
    free(v);
}

void vision_encode(struct vision *v, struct stream *s, const struct vision_input *in,
                   float *features)
{
    if (v->anyres)
        anyres_tower_encode(v->anyres, s, &in->layout, in->pixels, in->index, v->rows);
    else if (v->qwen)
        qwen_tower_encode(v->qwen, s, &in->layout, in->pixels, in->index, v->rows);
    else
        clip_tower_encode(v->clip, s, in->pixels, v->rows);
    const struct to_float_args to_float = {.src = v->rows,
                                           .dst = features,
                                           .n = vision_n_tokens(&v->cfg, &in->layout),
                                           .width = v->lm_hidden};
    device_ops(v->dev)->to_float(s, &to_float);
}
