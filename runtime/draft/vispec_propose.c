/* One round of proposing, all seats at once (methods: the ViSpec and EAGLE-2 papers):
 *
 *   extend     rows since the last round -> layer -> the last row of each drafting seat is its head
 *   level 0    head -> lm_head -> its k best tokens are the root's children and the first beam
 *   level i    beam rows -> layer, in scratch slots -> lm_head -> k children each -> the k best of
 *              all children are the next beam; the last level's are leaves only
 *
 * The layer has no norm before its attention and none behind it. */
#include "runtime/draft/vispec_impl.h"

#include <assert.h>

/* ---- buffers -------------------------------------------------------------------------------- */

void vispec_take_buffers(struct vispec *v)
{
    const struct draft_limits *l = &v->limits;
    const struct lm_config *cfg = &v->draft.cfg;
    int beam_rows = l->max_seqs * l->k;
    int max_rows = l->max_extend > beam_rows ? l->max_extend : beam_rows;
    size_t row = (size_t)cfg->hidden * dtype_size(v->ops->act), n = (size_t)beam_rows;
    size_t ints = n * sizeof(int32_t);
    lm_scratch_init(&v->scratch, v->dev, cfg, true, max_rows);
    v->beam_x = device_alloc(v->dev, n * row, "draft's outputs");
    v->h = device_alloc(v->dev, (size_t)max_rows * row, "draft's inputs");
    v->heads = device_alloc(v->dev, (size_t)l->max_seqs * row, "draft's heads");
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
}

void vispec_free_buffers(struct vispec *v)
{
    struct draft_rows *beam = &v->beam;
    void *const memory[] = {
        v->beam_x,         v->h,
        v->heads,          v->ids,
        v->logprobs,       beam->rows.n,
        beam->rows.seat,   beam->rows.id,
        beam->rows.pos,    beam->rows.slot,
        beam->rows.prefix, beam->rows.mask,
        beam->kind,        beam->h_row,
        beam->g_row,
    };
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) device_free(v->dev, memory[i]);
    lm_scratch_done(&v->scratch, v->dev);
}

/* ---- proposing ------------------------------------------------------------------------------ */

/* The rows' terms of embedding and g to x, their hidden states to v->h. */
static void queue_input(const struct vispec *v, struct stream *s, const struct draft_round *r,
                        const struct draft_rows *in, const void *hidden, void *x)
{
    const struct draft_input_args input = {
        .state = r->state, .in = *in, .hidden = hidden, .table = v->table, .x = x, .h = v->h};
    v->ops->draft_input(s, &input);
}

/* From what queue_input left to the layer's output in x. */
static void queue_layer(const struct vispec *v, struct stream *s, const struct draft_round *r,
                        const struct draft_rows *in, void *x, bool is_scratch)
{
    int hidden = v->draft.cfg.hidden, mixed = v->draft.cfg.n_heads * v->draft.cfg.head_dim;
    struct lm_scratch scratch = v->scratch;
    scratch.x = x;
    const struct gemm_args h_term = {.w = v->h_weights,
                                     .x = v->h,
                                     .y = x,
                                     .n = in->rows.n,
                                     .max = in->rows.max,
                                     .ldx = hidden,
                                     .ldy = hidden,
                                     .add = true};
    const struct layer_args layer = {.layer = &v->layer,
                                     .cfg = &v->draft.cfg,
                                     .scratch = &scratch,
                                     .ops = v->ops,
                                     .n = in->rows.n,
                                     .max = in->rows.max};
    const struct gemm_args qkv = {.w = v->layer.qkv,
                                  .bias = v->layer.qkv_bias,
                                  .x = x,
                                  .y = v->scratch.q,
                                  .n = in->rows.n,
                                  .max = in->rows.max,
                                  .ldx = hidden,
                                  .ldy = 3 * mixed};
    const struct draft_attention_args attention = {.qkv = v->scratch.q,
                                                   .out = v->scratch.mixed,
                                                   .rope = v->rope,
                                                   .rows = in->rows,
                                                   .pool = r->kv,
                                                   .is_scratch = is_scratch};
    v->ops->gemm(s, &h_term);
    v->ops->gemm(s, &qkv);
    v->ops->draft_attention(s, &attention);
    decoder_layer_finish(&layer, s);
}

/* Rows of hidden states to candidates of the tree's next level. */
static void queue_level(struct vispec *v, struct stream *s, const struct draft_round *r, int level,
                        const void *hidden, const int32_t *n, int max)
{
    const struct topk_args topk = {.w = v->head,
                                   .x = hidden,
                                   .ids_of = v->ids_of,
                                   .ids = v->ids,
                                   .logprobs = v->logprobs,
                                   .n = n,
                                   .max = max,
                                   .ldx = v->draft.cfg.hidden,
                                   .vocab = v->n_vocab,
                                   .k = r->beam.k};
    const struct expand_args expand = {.state = r->state,
                                       .beam = r->beam,
                                       .next = v->beam,
                                       .ids = v->ids,
                                       .logprobs = v->logprobs,
                                       .level = level};
    v->ops->topk(s, &topk);
    v->ops->expand(s, &expand);
}

/* The rows since the last round; the outputs that start trees go to v->heads. */
static void queue_extend(const struct vispec *v, struct stream *s, const struct draft_round *r)
{
    const struct carry_args carry = {.state = r->state, .tree = r->tree, .hidden = r->hidden};
    const struct gather_rows_args heads = {.in = v->scratch.x,
                                           .out = v->heads,
                                           .row = r->beam.head_row,
                                           .n = r->beam.n_heads,
                                           .max = v->limits.max_seqs,
                                           .width = v->draft.cfg.hidden};
    queue_input(v, s, r, &r->extend, r->hidden, v->scratch.x);
    v->ops->carry(s, &carry);
    queue_layer(v, s, r, &r->extend, v->scratch.x, false);
    v->ops->gather_rows(s, &heads);
}

void vispec_propose(struct draft *d, struct stream *s, const struct draft_round *r)
{
    struct vispec *v = (struct vispec *)d;
    int max_seqs = v->limits.max_seqs;
    assert(r->extend.rows.max <= v->scratch.max_rows);
    assert(r->beam.k <= v->limits.k);

    device_range_begin(v->dev, "draft's extend");
    queue_extend(v, s, r);
    device_range_end(v->dev);
    device_range_begin(v->dev, "draft's first level");
    queue_level(v, s, r, 0, v->heads, r->beam.n_heads, max_seqs);
    device_range_end(v->dev);
    const void *before = v->heads;
    for (int level = 1; level <= r->beam.depth; level++) {
        void *x = level % 2 == 1 ? v->beam_x : v->scratch.x;
        device_range_begin(v->dev, "draft's next level");
        queue_input(v, s, r, &v->beam, before, x);
        queue_layer(v, s, r, &v->beam, x, true);
        queue_level(v, s, r, level, x, v->beam.rows.n, v->beam.rows.max);
        device_range_end(v->dev);
        before = x;
    }
}
