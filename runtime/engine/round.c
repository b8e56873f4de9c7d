#include "runtime/engine/round.h"

#include "runtime/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    SMALLEST_CLASS = 64, /* verify rows of the smallest graph; classes double from here */
    MAX_CLASSES = 12,
};

/* One size class: the same operations with another capacity of the verify pass. */
struct size_class {
    int max_rows;
    struct graph *graph;
};

struct round {
    struct device *dev;
    const struct ops *ops;
    const struct lm *lm; /* borrowed */
    struct draft *draft; /* borrowed */
    struct round_limits limits;
    struct stream *stream;
    struct size_class classes[MAX_CLASSES];
    int n_classes;

    /* Shared memory, ROUND_RING elements each. */
    struct round_input *inputs;
    struct round_output *outputs;
    void *input_arrays[ROUND_RING], *output_arrays[ROUND_RING];

    struct round_state state;
    struct kv_pool target, draft_pool;
    struct tree tree;
    struct rows rows;
    struct out_rows out;
    struct beam beam;
    struct draft_rows extend;
    struct lm_scratch scratch;
    void *hidden; /* act [max_rows][hidden] of the verify pass; read by the next round's extend */
    void *out_hidden;           /* act [out.max][hidden] */
    float *logits, *scores;     /* [out.max][vocab] */
    int32_t *pick;              /* [out.max] */
    struct token_logprobs *top; /* [out.max] */

    void **owned; /* device memory to free */
    int n_owned;

    struct event *done[ROUNDS_IN_FLIGHT];
    uint64_t n_launched, n_finished;
    struct round_times times;
};

static void *take(struct round *r, size_t bytes, const char *what)
{
    void *p = device_alloc(r->dev, bytes ? bytes : 1, what);
    r->owned = xrealloc(r->owned, (size_t)(r->n_owned + 1) * sizeof(*r->owned));
    r->owned[r->n_owned++] = p;
    return p;
}

static void *take_zeroed(struct round *r, size_t bytes, const char *what)
{
    void *p = take(r, bytes, what);
    stream_fill(r->stream, p, 0, bytes);
    return p;
}

static int32_t *take_ints(struct round *r, size_t n, const char *what)
{
    return take(r, n * sizeof(int32_t), what);
}

static void take_rows(struct round *r, struct rows *rows, int max)
{
    size_t n = (size_t)max;
    rows->n = take_zeroed(r, sizeof(int32_t), "row count");
    rows->max = max;
    rows->seat = take_ints(r, n, "rows");
    rows->id = take_ints(r, n, "rows");
    rows->pos = take_ints(r, 3 * n, "rows");
    rows->slot = take_ints(r, n, "rows");
    rows->prefix = take_ints(r, n, "rows");
    rows->mask = take(r, n * sizeof(uint64_t), "rows");
}

static void take_tree(struct round *r)
{
    size_t n_seats = (size_t)r->limits.max_seqs, n = n_seats * MAX_NODES;
    r->tree.n_nodes = take_zeroed(r, n_seats * sizeof(int32_t), "trees");
    r->tree.first_row = take_ints(r, n_seats, "trees");
    r->tree.token = take_ints(r, n, "trees");
    r->tree.parent = take_ints(r, n, "trees");
    r->tree.depth = take_ints(r, n, "trees");
    r->tree.mask = take(r, n * sizeof(uint64_t), "trees");
    r->tree.path = take_ints(r, n, "trees");
    r->tree.n_path = take_zeroed(r, n_seats * sizeof(int32_t), "trees");
    r->tree.old_len = take_ints(r, n_seats, "trees");
}

static void take_beam(struct round *r)
{
    size_t n_seats = (size_t)r->limits.max_seqs;
    int k = r->limits.k, depth = r->limits.depth;
    size_t n_candidates = (size_t)k + (size_t)depth * (size_t)k * (size_t)k;
    r->beam = (struct beam){.k = k, .depth = depth};
    r->beam.n_heads = take_zeroed(r, sizeof(int32_t), "beams");
    r->beam.seat = take_ints(r, n_seats, "beams");
    r->beam.head_row = take_ints(r, n_seats, "beams");
    r->beam.token = take_ints(r, n_seats * n_candidates, "beams");
    r->beam.score = take(r, n_seats * n_candidates * sizeof(float), "beams");
    r->beam.node = take_ints(r, n_seats * (size_t)(depth * k), "beams");
    r->beam.mask = take(r, n_seats * (size_t)k * sizeof(uint64_t), "beams");
}

static void take_kv(struct round *r, struct kv_pool *kv, const struct lm_config *cfg, bool is_draft)
{
    size_t n_tables = (size_t)r->limits.max_seqs * (size_t)r->limits.max_pages;
    kv->n_layers = cfg->n_layers;
    kv->n_pages = r->limits.n_pages;
    kv->n_kv_heads = cfg->n_kv_heads;
    kv->head_dim = cfg->head_dim;
    kv->max_pages = r->limits.max_pages;
    size_t bytes = (size_t)kv->n_layers * (size_t)kv->n_pages * (size_t)kv->n_kv_heads * PAGE_LEN *
                   (size_t)kv->head_dim * dtype_size(r->ops->act);
    const char *what = is_draft ? "the draft's KV cache" : "the target's KV cache";
    kv->k = take(r, bytes, what);
    kv->v = take(r, bytes, what);
    kv->table = take_ints(r, n_tables, "page tables");
    if (is_draft) kv->valid = take_zeroed(r, (size_t)kv->n_pages * sizeof(uint64_t), "masks");
}

static void take_state(struct round *r)
{
    size_t n_seats = (size_t)r->limits.max_seqs, width = (size_t)r->lm->cfg.hidden;
    size_t vocab = (size_t)r->lm->cfg.vocab;
    size_t n_vectors = n_seats + 1 + (size_t)r->limits.n_image_rows;
    struct round_state *st = &r->state;
    st->max_seqs = r->limits.max_seqs;
    st->vocab = r->lm->cfg.vocab;
    st->width = r->lm->cfg.hidden;
    st->round = take_zeroed(r, sizeof(int32_t), "round counter");
    st->inputs = r->inputs;
    st->outputs = r->outputs;
    st->seats = take_zeroed(r, n_seats * sizeof(struct seat), "seats");
    st->counts = take_zeroed(r, n_seats * vocab * sizeof(uint16_t), "token counts");
    st->in_prompt = take_zeroed(r, n_seats * ((vocab + 31) / 32) * sizeof(uint32_t), "prompt ids");
    st->pool = take(r, n_vectors * width * sizeof(float), "image vectors");
    stream_fill(r->stream, st->pool, 0, (n_seats + 1) * width * sizeof(float));
    st->carried_h = take(r, n_seats * width * dtype_size(r->ops->act), "hidden states");
}

static void take_rings(struct round *r)
{
    size_t n_seats = (size_t)r->limits.max_seqs, n_rows = (size_t)r->limits.max_rows;
    size_t n_pages = 2 * n_seats * (size_t)r->limits.max_pages;
    r->inputs = device_alloc_shared(r->dev, ROUND_RING * sizeof(*r->inputs), "round inputs");
    r->outputs = device_alloc_shared(r->dev, ROUND_RING * sizeof(*r->outputs), "round outputs");
    for (int i = 0; i < ROUND_RING; i++) {
        struct round_input *in = &r->inputs[i];
        size_t bytes = n_rows * sizeof(*in->prompt_rows) + n_pages * sizeof(*in->pages) +
                       n_seats * (sizeof(*in->joins) + sizeof(*in->chunks) + sizeof(*in->leaves));
        /* Widest alignment first: joins hold 64-bit seeds. */
        r->input_arrays[i] = device_alloc_shared(r->dev, bytes, "round inputs");
        in->joins = r->input_arrays[i];
        in->prompt_rows = (struct prompt_row *)(in->joins + n_seats);
        in->pages = (struct page_entry *)(in->prompt_rows + n_rows);
        in->chunks = (struct chunk *)(in->pages + n_pages);
        in->leaves = (int32_t *)(in->chunks + n_seats);

        struct round_output *out = &r->outputs[i];
        bytes = n_seats * (sizeof(*out->seats) + MAX_NODES * sizeof(*out->logprobs));
        r->output_arrays[i] = device_alloc_shared(r->dev, bytes, "round outputs");
        out->seats = r->output_arrays[i];
        out->logprobs = (struct token_logprobs *)(out->seats + n_seats);
    }
}

static void take_pass(struct round *r)
{
    const struct lm_config *cfg = &r->lm->cfg;
    size_t act = dtype_size(r->ops->act), hidden = (size_t)cfg->hidden;
    int max_rows = r->limits.max_rows;
    int max_out = r->limits.max_seqs * r->limits.n_nodes;
    if (max_out > max_rows) max_out = max_rows;
    size_t n_logits = (size_t)max_out * (size_t)cfg->vocab;
    take_rows(r, &r->rows, max_rows);
    r->out.n = take_zeroed(r, sizeof(int32_t), "logit rows");
    r->out.max = max_out;
    r->out.row = take_ints(r, (size_t)max_out, "logit rows");
    r->out.seat = take_ints(r, (size_t)max_out, "logit rows");
    r->out.node = take_ints(r, (size_t)max_out, "logit rows");
    lm_scratch_init(&r->scratch, r->dev, cfg, false, max_rows);
    r->hidden = take(r, (size_t)max_rows * hidden * act, "hidden states");
    r->out_hidden = take(r, (size_t)max_out * hidden * act, "hidden states");
    r->logits = take(r, n_logits * sizeof(float), "logits");
    r->scores = take(r, n_logits * sizeof(float), "logits");
    r->pick = take_ints(r, (size_t)max_out, "picks");
    r->top = take(r, (size_t)max_out * sizeof(*r->top), "log-probabilities");

    int max_extend = max_rows + r->limits.max_seqs;
    take_rows(r, &r->extend.rows, max_extend);
    r->extend.kind = take_ints(r, (size_t)max_extend, "draft rows");
    r->extend.h_row = take_ints(r, (size_t)max_extend, "draft rows");
    r->extend.g_row = take_ints(r, (size_t)max_extend, "draft rows");
}

static void queue_stamp(struct round *r, int index)
{
    const struct stamp_args stamp = {r->state, index, index == N_STAMPS - 1};
    r->ops->stamp(r->stream, &stamp);
}

static void queue_draft(struct round *r)
{
    const struct apply_args apply = {r->state, r->target, r->draft_pool};
    device_range_begin(r->dev, "apply");
    r->ops->apply(r->stream, &apply);
    device_range_end(r->dev);
    const struct draft_round draft = {.state = r->state,
                                      .beam = r->beam,
                                      .extend = r->extend,
                                      .hidden = r->hidden,
                                      .tree = r->tree,
                                      .kv = r->draft_pool};
    r->draft->kind->propose(r->draft, r->stream, &draft);
}

static void queue_verify(struct round *r, const struct rows *rows)
{
    const struct select_args select = {r->state, r->beam, r->tree,
                                       *rows,    r->out,  r->limits.n_nodes};
    device_range_begin(r->dev, "select");
    r->ops->select(r->stream, &select);
    device_range_end(r->dev);
    device_range_begin(r->dev, "verify");
    lm_forward(r->lm, r->stream, &r->scratch, rows, r->state.pool, &r->target, r->hidden);
    const struct gather_rows_args gather = {r->hidden, r->out_hidden, r->out.row,
                                            r->out.n,  r->out.max,    r->state.width};
    r->ops->gather_rows(r->stream, &gather);
    const struct head_args head = {.state = r->state,
                                   .out = r->out,
                                   .tree = r->tree,
                                   .w = r->lm->head,
                                   .x = r->out_hidden,
                                   .logits = r->logits,
                                   .ldx = r->state.width};
    r->ops->head(r->stream, &head);
    device_range_end(r->dev);
}

static void queue_accept(struct round *r, const struct rows *rows)
{
    const struct logprobs_args logprobs = {r->state, r->out, r->logits, r->top};
    device_range_begin(r->dev, "sample");
    r->ops->logprobs(r->stream, &logprobs);
    const struct filter_args filter = {r->state, r->out, r->tree, r->logits, r->scores};
    r->ops->filter(r->stream, &filter);
    const struct pick_args pick = {r->state, r->out, r->tree, r->logits, r->scores, r->pick};
    r->ops->pick(r->stream, &pick);
    device_range_end(r->dev);
    const struct accept_args accept = {.state = r->state,
                                       .tree = r->tree,
                                       .rows = *rows,
                                       .out = r->out,
                                       .pick = r->pick,
                                       .top = r->top,
                                       .logits = r->logits,
                                       .next = r->extend,
                                       .beam = r->beam};
    device_range_begin(r->dev, "accept");
    r->ops->accept(r->stream, &accept);
    device_range_end(r->dev);
    const struct compact_args compact = {r->tree, r->target, r->state.max_seqs};
    device_range_begin(r->dev, "compact");
    r->ops->compact(r->stream, &compact);
    device_range_end(r->dev);
}

static void record_class(struct round *r, struct size_class *c)
{
    struct rows rows = r->rows;
    rows.max = c->max_rows;
    graph_begin(r->stream);
    queue_stamp(r, 0);
    queue_draft(r);
    queue_stamp(r, 1);
    queue_verify(r, &rows);
    queue_stamp(r, 2);
    queue_accept(r, &rows);
    queue_stamp(r, 3);
    c->graph = graph_end(r->stream);
}

struct round *round_open(struct device *dev, const struct lm *lm, struct draft *draft,
                         const struct round_limits *limits)
{
    struct round *r = xcalloc(1, sizeof(*r));
    r->dev = dev;
    r->ops = device_ops(dev);
    r->lm = lm;
    r->draft = draft;
    r->limits = *limits;
    r->stream = stream_open(dev);
    for (int i = 0; i < ROUNDS_IN_FLIGHT; i++) r->done[i] = event_open(dev);
    take_rings(r);
    take_state(r);
    take_kv(r, &r->target, &lm->cfg, false);
    if (draft->cfg.n_layers > 0) take_kv(r, &r->draft_pool, &draft->cfg, true);
    take_tree(r);
    take_beam(r);
    take_pass(r);
    for (int rows = SMALLEST_CLASS;; rows *= 2) {
        struct size_class *c = &r->classes[r->n_classes++];
        assert(r->n_classes <= MAX_CLASSES);
        c->max_rows = rows < limits->max_rows ? rows : limits->max_rows;
        record_class(r, c);
        if (c->max_rows == limits->max_rows) break;
    }
    return r;
}

void round_close(struct round *r)
{
    if (!r) return;
    stream_close(r->stream);
    for (int i = 0; i < r->n_classes; i++) graph_free(r->classes[i].graph);
    for (int i = 0; i < ROUNDS_IN_FLIGHT; i++) event_close(r->done[i]);
    lm_scratch_done(&r->scratch, r->dev);
    for (int i = 0; i < r->n_owned; i++) device_free(r->dev, r->owned[i]);
    for (int i = 0; i < ROUND_RING; i++) {
        device_free_shared(r->dev, r->input_arrays[i]);
        device_free_shared(r->dev, r->output_arrays[i]);
    }
    device_free_shared(r->dev, r->inputs);
    device_free_shared(r->dev, r->outputs);
    free(r->owned);
    free(r);
}

struct stream *round_stream(struct round *r)
{
    return r->stream;
}

int32_t round_image_row(const struct round *r, int image_row)
{
    assert(image_row >= 0 && image_row < r->limits.n_image_rows);
    return r->limits.max_seqs + 1 + image_row;
}

int32_t round_zero_row(const struct round *r)
{
    return r->limits.max_seqs;
}

float *round_vectors(struct round *r, int32_t pool_row)
{
    return r->state.pool + (size_t)pool_row * (size_t)r->state.width;
}

struct round_input *round_input(struct round *r)
{
    struct round_input *in = &r->inputs[r->n_launched % ROUND_RING];
    in->n_leaves = in->n_joins = in->n_pages = in->n_chunks = in->n_prompt_rows = 0;
    return in;
}

void round_launch(struct round *r, int n_rows)
{
    assert(r->n_launched - r->n_finished < ROUNDS_IN_FLIGHT);
    assert(n_rows <= r->limits.max_rows);
    const struct size_class *c = r->classes;
    while (c->max_rows < n_rows) c++;
    graph_launch(r->stream, c->graph);
    event_record(r->done[r->n_launched % ROUNDS_IN_FLIGHT], r->stream);
    r->n_launched++;
}

const struct round_output *round_finish(struct round *r)
{
    assert(r->n_finished < r->n_launched);
    uint64_t i = r->n_finished++;
    device_range_begin(r->dev, "wait");
    event_wait(r->done[i % ROUNDS_IN_FLIGHT]);
    device_range_end(r->dev);
    const struct round_output *out = &r->outputs[i % ROUND_RING];
    r->times.draft_s += 1e-9 * (double)(out->stamps[1] - out->stamps[0]);
    r->times.verify_s += 1e-9 * (double)(out->stamps[2] - out->stamps[1]);
    r->times.rest_s += 1e-9 * (double)(out->stamps[3] - out->stamps[2]);
    return out;
}

uint64_t round_n_launched(const struct round *r)
{
    return r->n_launched;
}

uint64_t round_n_finished(const struct round *r)
{
    return r->n_finished;
}

int round_n_ops(const struct round *r)
{
    return graph_n_ops(r->classes[0].graph);
}

void round_get_times(const struct round *r, struct round_times *out)
{
    *out = r->times;
}

struct round_view round_view(const struct round *r)
{
    return (struct round_view){.tree = r->tree,
                               .rows = r->rows,
                               .beam = r->beam,
                               .extend = r->extend,
                               .target = r->target,
                               .draft = r->draft_pool,
                               .seats = r->state.seats,
                               .hidden = r->hidden};
}
