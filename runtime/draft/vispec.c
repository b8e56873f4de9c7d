/* A ViSpec or EAGLE-2 folder to device memory. */
#include "runtime/draft/vispec.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/draft/adaptor.h"
#include "runtime/draft/vispec_impl.h"
#include "runtime/mem.h"

/* ---- loading -------------------------------------------------------------------------------- */

static int load_tensors(struct vispec *v, const struct safetensors *st, struct error *err)
{
    struct lm_config *cfg = &v->draft.cfg;
    const struct weights all = {v->dev, st, ""}, layer = {v->dev, st, "layers.0."};
    /* A folder that has one half of ViSpec is a broken ViSpec, not EAGLE-2. */
    bool has_adaptor = adaptor_is_there(&all);
    bool is_vispec = has_adaptor || weights_has(&all, "img_fc.weight");
    cfg->qkv_bias = cfg->qkv_bias || weights_has(&layer, "self_attn.q_proj.bias");
    if (vispec_fold(v, &all, is_vispec, err) != 0 ||
        decoder_layer_load(&v->layer, &layer, true, cfg, err) != 0)
        return -1;
    /* A target without images needs no adaptor, and its draft's stays unread. */
    bool needs_adaptor = is_vispec && v->limits.max_image_tokens > 0;
    if (needs_adaptor && adaptor_open(&v->adaptor, &all, cfg->hidden, cfg->n_heads,
                                      v->limits.max_image_tokens, err) != 0)
        return -1;
    const char *const ignored[] = {".inv_freq", needs_adaptor ? NULL : "imadpt.", NULL};
    return safetensors_check_used(st, ignored, err);
}

static void take_head(struct vispec *v)
{
    const struct draft_limits *l = &v->limits;
    v->head = v->target->head;
    v->n_vocab = v->draft.cfg.vocab;
    if (!l->vocab) return;
    v->head = v->own_head = lm_pack_head_rows(v->target, l->vocab, l->n_vocab);
    v->n_vocab = l->n_vocab;
    v->ids_of = weights_upload(v->dev, l->vocab, (size_t)l->n_vocab * sizeof(*l->vocab),
                               "draft's vocabulary");
}

static int load(struct vispec *v, const char *dir, struct error *err)
{
    struct draft_config cfg;
    struct safetensors *st;
    if (config_load_draft(dir, &v->target->cfg, &cfg, err) != 0) return -1;
    v->draft.cfg = cfg.layer;
    take_head(v);
    vispec_take_buffers(v);
    if (safetensors_open(&st, dir, err) != 0) return -1;
    int result = load_tensors(v, st, err);
    safetensors_close(st);
    if (result != 0) return -1;

    if (v->adaptor) v->draft.n_image_outputs = adaptor_n_outputs(v->adaptor);
    v->draft.image_rows = v->adaptor ? IMAGE_ROWS_ADAPTOR : IMAGE_ROWS_ALL;
    if (!cfg.has_image_rows) return 0;
    if (cfg.image_rows == IMAGE_ROWS_ADAPTOR && !v->adaptor && v->limits.max_image_tokens > 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s/config.json: image_rows is \"adaptor\", but there is no tensor "
                         "imadpt.q",
                         dir);
    v->draft.image_rows = cfg.image_rows;
    return 0;
}

/* ---- interface ------------------------------------------------------------------------------ */

/* Everything that pictures give the draft goes into the pool folded. */
static void vispec_encode_image(struct draft *d, struct stream *s, const float *features, int n,
                                float *vectors)
{
    const struct vispec *v = (const struct vispec *)d;
    size_t hidden = (size_t)d->cfg.hidden;
    struct product product = {.w = v->e_weights,
                              .bias = v->e_bias,
                              .x = features,
                              .x_type = DTYPE_F32,
                              .y = vectors,
                              .n = n,
                              .ldy = d->cfg.hidden,
                              .y_is_float = true};
    if (d->image_rows == IMAGE_ROWS_ALL) {
        vispec_multiply(v, s, &product);
        vectors += (size_t)n * hidden;
    }
    if (!v->adaptor) return;
    adaptor_run(v->adaptor, s, features, n, vectors);
    product.w = v->g_weights;
    product.bias = NULL;
    product.x = product.y = vectors + (size_t)(d->n_image_outputs - 1) * hidden;
    product.n = 1;
    vispec_multiply(v, s, &product);
}

static void vispec_close(struct draft *d)
{
    struct vispec *v = (struct vispec *)d;
    device_free(v->dev, (void *)v->rope.table);
    device_free(v->dev, v->ids_of);
    v->ops->packed_free(v->dev, v->own_head);
    vispec_free_folded(v);
    decoder_layer_done(&v->layer, v->dev);
    adaptor_close(v->adaptor);
    vispec_free_buffers(v);
    free(v);
}

static const struct draft_kind vispec_kind = {.name = "vispec",
                                              .encode_image = vispec_encode_image,
                                              .propose = vispec_propose,
                                              .close = vispec_close};
static const struct draft_kind eagle2_kind = {.name = "eagle2",
                                              .encode_image = vispec_encode_image,
                                              .propose = vispec_propose,
                                              .close = vispec_close};

/* What the operations take in a step of the draft. */
static int check_limits(const struct draft_limits *l, int vocab, struct error *err)
{
    int n_vocab = l->n_vocab > 0 ? l->n_vocab : vocab, n_rows = l->max_seqs * l->k;
    if (n_rows > MAX_GEMM_ROWS)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--draft-max-seqs %d times --draft-top-k %d is %d, more than the %d rows "
                         "that a step of the draft takes",
                         l->max_seqs, l->k, n_rows, MAX_GEMM_ROWS);
    if (l->k > n_vocab)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--draft-top-k %d is more than the %d tokens that the draft proposes",
                         l->k, n_vocab);
    int64_t n_bests = (int64_t)n_rows * l->k * ((n_vocab + TOPK_TILE - 1) / TOPK_TILE);
    if (n_bests > MAX_TOPK_BESTS)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--draft-max-seqs %d and --draft-top-k %d are too many for a draft of %d "
                         "tokens; see --draft-vocab",
                         l->max_seqs, l->k, n_vocab);
    return 0;
}

int vispec_open(struct draft **out, struct device *dev, const char *dir, const struct lm *target,
                const struct draft_limits *limits, struct error *err)
{
    if (check_limits(limits, target->cfg.vocab, err) != 0) return -1;
    struct vispec *v = xcalloc(1, sizeof(*v));
    v->dev = dev;
    v->ops = device_ops(dev);
    v->target = target;
    v->limits = *limits;
    if (load(v, dir, err) != 0) {
        vispec_close(&v->draft);
        return -1;
    }
    v->draft.kind = v->g_weights ? &vispec_kind : &eagle2_kind;
    v->rope = (struct rope){
        .table = rope_table_new(dev, v->draft.cfg.rope_theta, v->draft.cfg.head_dim, 1,
                                limits->n_positions),
        .n_pos = limits->n_positions,
        .section = {v->draft.cfg.head_dim / 2, 0, 0},
    };
    *out = &v->draft;
    return 0;
}
