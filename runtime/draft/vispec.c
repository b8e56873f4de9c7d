/* One round of proposing, all seats at once (methods: the ViSpec and EAGLE-2 papers):
 *
 *   extend     rows since the last round -> layer -> the last row of each drafting seat is its head
 *   level 0    head -> lm_head -> its k best tokens are the root's children and the first beam
 *   level i    beam rows -> layer, in scratch slots -> lm_head -> k children each -> the k best of
 *              all children are the next beam; the last level's are leaves only
 *
 * The layer has no norm before its attention and none behind it. */
#include "runtime/draft/vispec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/draft/adaptor.h"
#include "runtime/mem.h"

struct vispec {
    struct draft draft; /* first, so that a draft of this kind is a vispec */
    struct device *dev;
    const struct ops *ops;   /* of dev */
    const struct lm *target; /* borrowed */
    struct draft_limits limits;

    const void *embeddings; /* [vocab][hidden]: own_embeddings, or borrowed from the target */
    enum dtype embeddings_type;
    void *own_embeddings;
    struct packed *fc, *img_fc;   /* [hidden][2 hidden]; img_fc NULL: EAGLE-2 */
    float *fc_bias, *img_fc_bias; /* [hidden] or NULL */
    struct decoder_layer layer;
    struct rope rope;
    struct adaptor *adaptor; /* NULL: EAGLE-2 */

    /* max_rows = max(max_extend, max_seqs k) */
    struct lm_scratch scratch; /* x is the layer's output */
    void *a, *b;               /* act [max_rows][2 hidden] inputs of img_fc and fc */
    void *heads;               /* act [max_seqs][hidden] outputs that start the trees */
    float *logits;             /* [max_seqs k][vocab] */
    int32_t *ids;              /* [max_seqs k][k] */
    float *logprobs;           /* [max_seqs k][k] */
    struct draft_rows beam;    /* [max_seqs k] */
};

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
    if (weights_packed(out, w, &weight, 1, 2 * hidden, err) != 0) return -1;
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
        decoder_layer_load(&v->layer, &layer, false, cfg, err) != 0 ||
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

static void take_buffers(struct vispec *v)
{
    const struct draft_limits *l = &v->limits;
    const struct lm_config *cfg = &v->draft.cfg;
    int beam_rows = l->max_seqs * l->k;
    int max_rows = l->max_extend > beam_rows ? l->max_extend : beam_rows;
    size_t row = (size_t)cfg->hidden * dtype_size(v->ops->act), n = (size_t)beam_rows;
    size_t ints = n * sizeof(int32_t);
    lm_scratch_init(&v->scratch, v->dev, cfg, max_rows);
    v->a = device_alloc(v->dev, (size_t)max_rows * 2 * row, "draft's inputs");
    v->b = device_alloc(v->dev, (size_t)max_rows * 2 * row, "draft's inputs");
    v->heads = device_alloc(v->dev, (size_t)l->max_seqs * row, "draft's heads");
    v->logits = device_alloc(v->dev, n * (size_t)cfg->vocab * sizeof(float), "draft's logits");
    v->ids = device_alloc(v->dev, ints * (size_t)l->k, "draft's candidates");
    v->logprobs = device_alloc(v->dev, ints * (size_t)l->k, "draft's candidates");
    struct draft_rows *beam = &v->beam;
    beam->rows.n = device_alloc(v->dev, sizeof(int32_t), "beam rows");
    beam->rows.max = beam_rows;
    beam->rows.seat = device_alloc(v->dev, ints, "beam rows");
    beam->rows.id = device_alloc(v->dev, ints, "beam rows");
    beam->rows.pos = device_alloc(v->dev, 3 * ints, "beam rows");
    beam->rows.slot = device_alloc(v->dev, ints, "beam rows");
    beam->rows.prefix = device_alloc(v->dev, ints, "beam rows");
    beam->rows.mask = device_alloc(v->dev, n * sizeof(uint64_t), "beam rows");
    beam->kind = device_alloc(v->dev, ints, "beam rows");
    beam->h_row = device_alloc(v->dev, ints, "beam rows");
    beam->g_row = device_alloc(v->dev, ints, "beam rows");
    v->rope = (struct rope){
        .table = rope_table_new(v->dev, cfg->rope_theta, cfg->head_dim, 1, l->n_positions),
        .n_pos = l->n_positions,
        .section = {cfg->head_dim / 2, 0, 0},
    };
}

static void vispec_close(struct draft *d)
{
    struct vispec *v = (struct vispec *)d;
    struct draft_rows *beam = &v->beam;
    void *const memory[] = {
        v->own_embeddings, v->fc_bias,      v->img_fc_bias, v->a,           v->b,
        v->heads,          v->logits,       v->ids,         v->logprobs,    (void *)v->rope.table,
        beam->rows.n,      beam->rows.seat, beam->rows.id,  beam->rows.pos, beam->rows.slot,
        beam->rows.prefix, beam->rows.mask, beam->kind,     beam->h_row,    beam->g_row,
    };
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) device_free(v->dev, memory[i]);
    v->ops->packed_free(v->dev, v->fc);
    v->ops->packed_free(v->dev, v->img_fc);
    decoder_layer_done(&v->layer, v->dev);
    adaptor_close(v->adaptor);
    lm_scratch_done(&v->scratch, v->dev);
    free(v);
}

/* ---- proposing ------------------------------------------------------------------------------ */

static void vispec_encode_image(struct draft *d, struct stream *s, const float *features, int n,
                                float *vectors)
{
    adaptor_run(((struct vispec *)d)->adaptor, s, features, n, vectors);
}

static void queue_input(const struct vispec *v, struct stream *s, const struct draft_round *r,
                        const struct draft_rows *in, const void *hidden)
{
    const struct draft_input_args input = {.state = r->state,
                                           .in = *in,
                                           .hidden = hidden,
                                           .embeddings = v->embeddings,
                                           .embeddings_type = v->embeddings_type,
                                           .a = v->a,
                                           .b = v->b,
                                           .has_img_fc = v->img_fc != NULL};
    v->ops->draft_input(s, &input);
}

/* From inputs in a and b to the layer's output in scratch.x. */
static void queue_layer(const struct vispec *v, struct stream *s, const struct draft_round *r,
                        const struct draft_rows *in, bool is_scratch)
{
    int hidden = v->draft.cfg.hidden;
    const struct gemm_args img_fc = {.w = v->img_fc,
                                     .bias = v->img_fc_bias,
                                     .x = v->a,
                                     .y = (char *)v->b + (size_t)hidden * dtype_size(v->ops->act),
                                     .n = in->rows.n,
                                     .max = in->rows.max,
                                     .ldx = 2 * hidden,
                                     .ldy = 2 * hidden};
    const struct gemm_args fc = {.w = v->fc,
                                 .bias = v->fc_bias,
                                 .x = v->b,
                                 .y = v->scratch.x,
                                 .n = in->rows.n,
                                 .max = in->rows.max,
                                 .ldx = 2 * hidden,
                                 .ldy = hidden};
    const struct draft_direct_args direct = {.state = r->state, .in = *in, .x = v->scratch.x};
    const struct layer_args layer = {.layer = &v->layer,
                                     .cfg = &v->draft.cfg,
                                     .scratch = &v->scratch,
                                     .ops = v->ops,
                                     .n = in->rows.n,
                                     .max = in->rows.max};
    const struct draft_attention_args attention = {.qkv = v->scratch.qkv,
                                                   .out = v->scratch.mixed,
                                                   .rope = v->rope,
                                                   .rows = in->rows,
                                                   .pool = r->kv,
                                                   .is_scratch = is_scratch};
    if (v->img_fc) v->ops->gemm(s, &img_fc);
    v->ops->gemm(s, &fc);
    if (!is_scratch) v->ops->draft_direct(s, &direct);
    decoder_layer_project(&layer, s, v->scratch.x);
    v->ops->draft_attention(s, &attention);
    decoder_layer_finish(&layer, s);
}

/* Rows of hidden states to candidates of the tree's next level. */
static void queue_level(struct vispec *v, struct stream *s, const struct draft_round *r, int level,
                        const void *hidden, const int32_t *n, int max)
{
    const struct topk_args topk = {.logits = v->logits,
                                   .ids = v->ids,
                                   .logprobs = v->logprobs,
                                   .n = n,
                                   .max = max,
                                   .vocab = v->draft.cfg.vocab,
                                   .k = r->beam.k};
    const struct expand_args expand = {.state = r->state,
                                       .beam = r->beam,
                                       .next = v->beam,
                                       .ids = v->ids,
                                       .logprobs = v->logprobs,
                                       .level = level};
    lm_logits(v->target, s, hidden, n, max, v->logits);
    v->ops->topk(s, &topk);
    v->ops->expand(s, &expand);
}

static void vispec_propose(struct draft *d, struct stream *s, const struct draft_round *r)
{
    struct vispec *v = (struct vispec *)d;
    int max_seqs = r->state.max_seqs;
    assert(r->extend.rows.max <= v->scratch.max_rows);
    assert(max_seqs <= v->limits.max_seqs && r->beam.k <= v->limits.k);

    const struct carry_args carry = {.state = r->state, .tree = r->tree, .hidden = r->hidden};
    queue_input(v, s, r, &r->extend, r->hidden);
    v->ops->carry(s, &carry);
    queue_layer(v, s, r, &r->extend, false);

    const struct gather_rows_args heads = {.in = v->scratch.x,
                                           .out = v->heads,
                                           .row = r->beam.head_row,
                                           .n = r->beam.n_heads,
                                           .max = max_seqs,
                                           .width = d->cfg.hidden};
    v->ops->gather_rows(s, &heads);
    queue_level(v, s, r, 0, v->heads, r->beam.n_heads, max_seqs);
    for (int level = 1; level <= r->beam.depth; level++) {
        queue_input(v, s, r, &v->beam, level == 1 ? v->heads : v->scratch.x);
        queue_layer(v, s, r, &v->beam, true);
        queue_level(v, s, r, level, v->scratch.x, v->beam.rows.n, v->beam.rows.max);
    }
}

/* ---- opening -------------------------------------------------------------------------------- */

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
    take_buffers(v);
    *out = &v->draft;
    return 0;
}
