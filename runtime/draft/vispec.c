/* A ViSpec or EAGLE-2 folder to device memory. */
#include "runtime/draft/vispec.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/draft/adaptor.h"
#include "runtime/draft/vispec_impl.h"
#include "runtime/mem.h"

/* ---- loading -------------------------------------------------------------------------------- */

enum { COMPARE_ROWS = 1024 };

/* Does the tensor hold the target's own embeddings?  Trained drafts carry a frozen copy, often in
 * a wider type. */
static bool is_target_embedding(const struct vispec *v, const struct tensor *t)
{
    const struct lm *lm = v->target;
    size_t width = (size_t)lm->cfg.hidden, vocab = (size_t)lm->cfg.vocab;
    size_t theirs_size = dtype_size(lm->embeddings_type), ours_size = dtype_size(t->dtype);
    char *theirs = xcalloc(COMPARE_ROWS * width, theirs_size);
    float *x = xcalloc(COMPARE_ROWS * width, sizeof(float));
    float *y = xcalloc(COMPARE_ROWS * width, sizeof(float));
    struct stream *s = stream_open(v->dev);
    bool is_equal = true;
    for (size_t row = 0; is_equal && row < vocab; row += COMPARE_ROWS) {
        size_t n = (vocab - row < COMPARE_ROWS ? vocab - row : COMPARE_ROWS) * width;
        stream_copy_out(s, theirs, (const char *)lm->embeddings + row * width * theirs_size,
                        n * theirs_size);
        stream_wait(s);
        weights_convert(x, DTYPE_F32, theirs, lm->embeddings_type, n);
        weights_convert(y, DTYPE_F32, (const char *)t->data + row * width * ours_size, t->dtype, n);
        is_equal = memcmp(x, y, n * sizeof(float)) == 0;
    }
    stream_close(s);
    free(theirs);
    free(x);
    free(y);
    return is_equal;
}

static int load_embeddings(struct vispec *v, const struct weights *w, struct error *err)
{
    const int64_t shape[2] = {v->draft.cfg.vocab, v->draft.cfg.hidden};
    v->embeddings = v->target->embeddings;
    v->embeddings_type = v->target->embeddings_type;
    if (!weights_has(w, "embed_tokens.weight")) return 0;
    const struct tensor *t;
    if (safetensors_get(w->st, "embed_tokens.weight", shape, 2, &t, err) != 0) return -1;
    if (is_target_embedding(v, t)) return 0;
    if (weights_raw(&v->own_embeddings, &v->embeddings_type, w, "embed_tokens.weight", shape, 2,
                    err) != 0)
        return -1;
    v->embeddings = v->own_embeddings;
    return 0;
}

/* A matrix [hidden][2 hidden] and, where the file has one, its bias. */
static int load_linear(struct packed **out, float **bias, const struct weights *w, int hidden,
                       struct error *err)
{
    const struct weights_part weight = {"weight", hidden}, vector = {"bias", hidden};
    if (weights_packed(out, w, &weight, 1, 2 * hidden, 0, err) != 0) return -1;
    return weights_has(w, "bias") ? weights_vector(bias, w, &vector, 1, err) : 0;
}

static int load_tensors(struct vispec *v, const struct safetensors *st, struct error *err)
{
    struct lm_config *cfg = &v->draft.cfg;
    const struct weights all = {v->dev, st, ""}, fc = {v->dev, st, "fc."};
    const struct weights img_fc = {v->dev, st, "img_fc."}, layer = {v->dev, st, "layers.0."};
    /* A folder that has one half of ViSpec is a broken ViSpec, not EAGLE-2. */
    bool has_adaptor = adaptor_is_there(&all);
    bool is_vispec = has_adaptor || weights_has(&img_fc, "weight");
    cfg->qkv_bias = cfg->qkv_bias || weights_has(&layer, "self_attn.q_proj.bias");
    if (load_linear(&v->fc, &v->fc_bias, &fc, cfg->hidden, err) != 0 ||
        (is_vispec && load_linear(&v->img_fc, &v->img_fc_bias, &img_fc, cfg->hidden, err) != 0) ||
        decoder_layer_load(&v->layer, &layer, true, cfg, err) != 0 ||
        load_embeddings(v, &all, err) != 0)
        return -1;
    /* A target without images needs no adaptor, and its draft's stays unread. */
    bool needs_adaptor = is_vispec && v->limits.max_image_tokens > 0;
    if (needs_adaptor && adaptor_open(&v->adaptor, &all, cfg->hidden, cfg->n_heads,
                                      v->limits.max_image_tokens, err) != 0)
        return -1;
    const char *const ignored[] = {".inv_freq", needs_adaptor ? NULL : "imadpt.", NULL};
    return safetensors_check_used(st, ignored, err);
}

static int load(struct vispec *v, const char *dir, struct error *err)
{
    struct draft_config cfg;
    struct safetensors *st;
    if (config_load_draft(dir, &v->target->cfg, &cfg, err) != 0) return -1;
    v->draft.cfg = cfg.layer;
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

static void vispec_encode_image(struct draft *d, struct stream *s, const float *features, int n,
                                float *vectors)
{
    adaptor_run(((struct vispec *)d)->adaptor, s, features, n, vectors);
}

static void vispec_close(struct draft *d)
{
    struct vispec *v = (struct vispec *)d;
    device_free(v->dev, v->own_embeddings);
    device_free(v->dev, v->fc_bias);
    device_free(v->dev, v->img_fc_bias);
    device_free(v->dev, (void *)v->rope.table);
    v->ops->packed_free(v->dev, v->fc);
    v->ops->packed_free(v->dev, v->img_fc);
    decoder_layer_done(&v->layer, v->dev);
    adaptor_close(v->adaptor);
    vispec_free_buffers(v);
    free(v);
}

static const struct draft_kind vispec_kind = {.name = "vispec",
                                              .encode_image = vispec_encode_image,
                                              .propose = vispec_propose,
                                              .close = vispec_close};
static const struct draft_kind eagle2_kind = {
    .name = "eagle2", .propose = vispec_propose, .close = vispec_close};

int vispec_open(struct draft **out, struct device *dev, const char *dir, const struct lm *target,
                const struct draft_limits *limits, struct error *err)
{
    struct vispec *v = xcalloc(1, sizeof(*v));
    v->dev = dev;
    v->ops = device_ops(dev);
    v->target = target;
    v->limits = *limits;
    if (load(v, dir, err) != 0) {
        vispec_close(&v->draft);
        return -1;
    }
    v->draft.kind = v->img_fc ? &vispec_kind : &eagle2_kind;
    v->rope = (struct rope){
        .table = rope_table_new(dev, v->draft.cfg.rope_theta, v->draft.cfg.head_dim, 1,
                                limits->n_positions),
        .n_pos = limits->n_positions,
        .section = {v->draft.cfg.head_dim / 2, 0, 0},
    };
    vispec_take_buffers(v);
    *out = &v->draft;
    return 0;
}
