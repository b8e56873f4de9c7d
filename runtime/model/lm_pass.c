/* The forward pass of lm.h: from device memory to device memory, nothing is read from a file. */
#include "runtime/model/lm.h"

#include <assert.h>
#include <string.h>

void decoder_layer_finish(const struct layer_args *a, struct stream *s)
{
    int hidden = a->cfg->hidden, wide = a->cfg->intermediate;
    int mixed_width = a->cfg->n_heads * a->cfg->head_dim;
    const struct lm_scratch *t = a->scratch;
    const struct gemm_args o = {.w = a->layer->o,
                                .x = t->mixed,
                                .y = t->x,
                                .n = a->n,
                                .max = a->max,
                                .ldx = mixed_width,
                                .ldy = hidden,
                                .add = true};
    const struct norm_args norm = {.x = t->x,
                                   .w = a->layer->post_norm,
                                   .out = t->normed,
                                   .n = a->n,
                                   .max = a->max,
                                   .width = hidden,
                                   .eps = a->cfg->rms_eps};
    const struct swiglu_args gate_up = {.w = a->layer->gate_up,
                                        .x = t->normed,
                                        .y = t->product,
                                        .n = a->n,
                                        .max = a->max,
                                        .ldx = hidden,
                                        .ldy = wide};
    const struct gemm_args down = {.w = a->layer->down,
                                   .x = t->product,
                                   .y = t->x,
                                   .n = a->n,
                                   .max = a->max,
                                   .ldx = wide,
                                   .ldy = hidden,
                                   .add = true};
    a->ops->gemm(s, &o);
    a->ops->rmsnorm(s, &norm);
    a->ops->swiglu(s, &gate_up);
    a->ops->gemm(s, &down);
}

void lm_scratch_init(struct lm_scratch *scratch, struct device *dev, const struct lm_config *cfg,
                     bool is_draft, int max_rows)
{
    size_t row = (size_t)max_rows * dtype_size(device_ops(dev)->act);
    size_t hidden = (size_t)cfg->hidden, wide = (size_t)cfg->intermediate;
    size_t mixed = (size_t)cfg->n_heads * (size_t)cfg->head_dim;
    scratch->max_rows = max_rows;
    scratch->x = device_alloc(dev, row * hidden, "residual stream");
    scratch->normed = device_alloc(dev, row * hidden, "normed rows");
    scratch->q = device_alloc(dev, row * mixed * (is_draft ? 3 : 1), "q rows");
    scratch->mixed = device_alloc(dev, row * mixed, "attention rows");
    scratch->product = device_alloc(dev, row * wide, "MLP rows");
}

void lm_scratch_done(struct lm_scratch *scratch, struct device *dev)
{
    device_free(dev, scratch->x);
    device_free(dev, scratch->normed);
    device_free(dev, scratch->q);
    device_free(dev, scratch->mixed);
    device_free(dev, scratch->product);
    memset(scratch, 0, sizeof(*scratch));
}

static void norm_rows(const struct lm *lm, struct stream *s, const struct rows *rows, const void *x,
                      const float *w, void *out)
{
    const struct norm_args norm = {.x = x,
                                   .w = w,
                                   .out = out,
                                   .n = rows->n,
                                   .max = rows->max,
                                   .width = lm->cfg.hidden,
                                   .eps = lm->cfg.rms_eps};
    device_ops(lm->dev)->rmsnorm(s, &norm);
}

void lm_forward(const struct lm *lm, struct stream *s, const struct lm_scratch *scratch,
                const struct rows *rows, const float *pool, const struct kv_pool *kv, void *hidden)
{
    assert(rows->max <= scratch->max_rows);
    const struct ops *ops = device_ops(lm->dev);
    const struct embed_args embed = {.table = lm->embeddings,
                                     .table_type = lm->embeddings_type,
                                     .pool = pool,
                                     .id = rows->id,
                                     .n = rows->n,
                                     .out = scratch->x,
                                     .max = rows->max,
                                     .width = lm->cfg.hidden,
                                     .ld = lm->cfg.hidden};
    const struct plan_args plan = {
        .rows = *rows, .n_heads = lm->cfg.n_heads, .n_kv_heads = lm->cfg.n_kv_heads};
    ops->embed(s, &embed);
    ops->plan(s, &plan);
    for (int i = 0; i < lm->cfg.n_layers; i++) {
        const struct decoder_layer *layer = &lm->layers[i];
        const struct layer_args args = {.layer = layer,
                                        .cfg = &lm->cfg,
                                        .scratch = scratch,
                                        .ops = ops,
                                        .n = rows->n,
                                        .max = rows->max};
        const struct qkv_args qkv = {.w = layer->qkv,
                                     .bias = layer->qkv_bias,
                                     .x = scratch->normed,
                                     .q = scratch->q,
                                     .rope = lm->rope,
                                     .rows = *rows,
                                     .pool = *kv,
                                     .layer = i,
                                     .n_heads = lm->cfg.n_heads};
        const struct attention_args attention = {.q = scratch->q,
                                                 .out = scratch->mixed,
                                                 .rows = *rows,
                                                 .pool = *kv,
                                                 .layer = i,
                                                 .n_heads = lm->cfg.n_heads};
        norm_rows(lm, s, rows, scratch->x, layer->input_norm, scratch->normed);
        ops->qkv(s, &qkv);
        ops->attention(s, &attention);
        decoder_layer_finish(&args, s);
    }
    norm_rows(lm, s, rows, scratch->x, lm->final_norm, hidden);
}
