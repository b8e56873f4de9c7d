/* The operations of a round that take its time, on a GPU, by the shapes of published models.
 *
 *   bench/gpu/ops [device [model [op]]]
 *
 * op is rows, attention or gemm.  Calls take turns over more memory than the L2 holds, and data is
 * random: a GPU runs faster on zeros.  scripts/gpu-check divides bytes and operations by what the
 * same GPU reached in the same run. */
#include "bench/gpu/bench.h"

enum {
    ROTATED_BYTES = 400 << 20, /* several times the L2 */
    MAX_ROWS = 512,
};

/* ---- products ----------------------------------------------------------------------------------
 */

/* What becomes of the sums. */
enum epilogue { ADDED, STORED_AS_FLOAT, GATED, ROTATED };

struct gemm_case {
    enum epilogue epilogue;
    struct packed **w;
    int n_copies;
    const void *x;
    void *y;
    int n_rows, n_out, n_in;
    struct qkv_args qkv; /* all but w, x, q, where ROTATED */
};

static void call_gemm(struct bench *b, const void *arg, int i)
{
    const struct gemm_case *c = arg;
    const struct packed *w = c->w[i % c->n_copies];
    const struct gemm_args gemm = {.w = w,
                                   .x = c->x,
                                   .y = c->y,
                                   .max = c->n_rows,
                                   .ldx = c->n_in,
                                   .ldy = c->n_out,
                                   .y_is_float = c->epilogue == STORED_AS_FLOAT,
                                   .add = c->epilogue == ADDED};
    const struct swiglu_args swiglu = {
        .w = w, .x = c->x, .y = c->y, .max = c->n_rows, .ldx = c->n_in, .ldy = c->n_out / 2};
    struct qkv_args qkv = c->qkv;
    qkv.w = w;
    qkv.x = c->x;
    qkv.q = c->y;
    if (c->epilogue == GATED)
        b->ops->swiglu(b->stream, &swiglu);
    else if (c->epilogue == ROTATED)
        b->ops->qkv(b->stream, &qkv);
    else
        b->ops->gemm(b->stream, &gemm);
}

/* Rows of trees behind CTX slots, and their pages. */
static struct qkv_args qkv_case(struct bench *b, const struct shape *m, int n_rows)
{
    enum { CTX = 1024, NODES = 64 };
    const int n_seqs = (n_rows + NODES - 1) / NODES, n_nodes = n_rows / n_seqs;
    const size_t n_angles = (size_t)(CTX + NODES) * (size_t)m->head_dim;
    struct qkv_args args = {
        .rope = {.table = bench_random(b, n_angles * sizeof(float)),
                 .n_pos = CTX + NODES,
                 .section = {m->head_dim / 2}},
        .rows = bench_tree_rows(b, n_seqs, n_nodes, CTX),
        .pool = bench_pages(b, m, 1, m->n_kv_heads, bench_n_pages(n_seqs, CTX + n_nodes)),
        .n_heads = m->n_heads};
    bench_place(b, &args.pool, n_seqs, CTX + n_nodes);
    return args;
}

static void free_qkv_case(struct bench *b, struct qkv_args *args)
{
    bench_free_rows(b, &args->rows);
    bench_free_pages(b, &args->pool);
    device_free(b->dev, (void *)args->rope.table);
}

static void bench_gemm(struct bench *b, const struct shape *m, const char *product, int n_out,
                       int n_in, enum epilogue epilogue)
{
    static const int rows[] = {1, 8, 16, 30, 60, 64, 128, 256, 512};
    static const double y_bytes[] = {4, 4, 1, 2}; /* of an output */
    const int pairs[] = {0, 0, n_out / 2, m->head_dim / 2};
    const size_t w_bytes = (size_t)n_out * (size_t)n_in * 2;
    struct gemm_case c = {.epilogue = epilogue,
                          .n_copies = (int)(ROTATED_BYTES / w_bytes) + 1,
                          .n_out = n_out,
                          .n_in = n_in};
    c.w = malloc((size_t)c.n_copies * sizeof(struct packed *));
    for (int i = 0; i < c.n_copies; i++)
        c.w[i] =
            b->ops->pack(b->dev, b->random + i * 64, b->ops->act, n_out, n_in, pairs[epilogue]);
    void *x = bench_random(b, (size_t)MAX_ROWS * (size_t)n_in * 2);
    void *y = device_alloc(b->dev, (size_t)MAX_ROWS * (size_t)n_out * 4, "results");
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (epilogue == STORED_AS_FLOAT && rows[i] > 128) break; /* logits of prompts: not wanted */
        c.x = x;
        c.y = y;
        c.n_rows = rows[i];
        if (epilogue == ROTATED) c.qkv = qkv_case(b, m, c.n_rows);
        char name[128];
        snprintf(name, sizeof(name), "gemm,%s,%s,%d,%d,%d", m->name, product, rows[i], n_out, n_in);
        const double n = rows[i];
        bench_case(b, name, call_gemm, &c,
                   (double)w_bytes + 2 * n * n_in + y_bytes[epilogue] * n * n_out,
                   2 * n * n_out * n_in);
        if (epilogue == ROTATED) free_qkv_case(b, &c.qkv);
    }
    for (int i = 0; i < c.n_copies; i++) b->ops->packed_free(b->dev, c.w[i]);
    device_free(b->dev, x);
    device_free(b->dev, y);
    free(c.w);
}

static void bench_gemms(struct bench *b, const struct shape *m)
{
    const int mixed = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    bench_gemm(b, m, "qkv", mixed + 2 * kv, m->hidden, ROTATED);
    bench_gemm(b, m, "o", m->hidden, mixed, ADDED);
    bench_gemm(b, m, "gate_up", 2 * m->intermediate, m->hidden, GATED);
    bench_gemm(b, m, "down", m->hidden, m->intermediate, ADDED);
    bench_gemm(b, m, "lm_head", m->vocab, m->hidden, STORED_AS_FLOAT);
}

/* ---- attention ---------------------------------------------------------------------------------
 */

struct attention_case {
    struct attention_args args;
    struct draft_attention_args draft;
};

static void call_attention(struct bench *b, const void *arg, int i)
{
    struct attention_args args = ((const struct attention_case *)arg)->args;
    args.layer = i % args.pool.n_layers;
    b->ops->attention(b->stream, &args);
}

static void call_draft_attention(struct bench *b, const void *arg, int i)
{
    (void)i;
    b->ops->draft_attention(b->stream, &((const struct attention_case *)arg)->draft);
}

static void bench_attention(struct bench *b, const struct shape *m, int n_seqs, int ctx,
                            int n_nodes, bool is_draft)
{
    struct rows rows = bench_tree_rows(b, n_seqs, n_nodes, ctx);
    const int n_kv_heads = is_draft ? m->n_heads : m->n_kv_heads, n_slots = ctx + n_nodes;
    const size_t layer = (size_t)n_seqs * (size_t)(n_slots + PAGE_LEN) * (size_t)n_kv_heads *
                         (size_t)m->head_dim * 4; /* bytes, roughly */
    const int n_layers = is_draft ? 1 : (int)(ROTATED_BYTES / layer) + 1;
    struct kv_pool pool = bench_pages(b, m, n_layers, n_kv_heads, bench_n_pages(n_seqs, n_slots));
    bench_place(b, &pool, n_seqs, n_slots);
    if (is_draft) {
        pool.valid = device_alloc(b->dev, (size_t)pool.n_pages * sizeof(uint64_t), "masks");
        stream_fill(b->stream, pool.valid, 0xff, (size_t)pool.n_pages * sizeof(uint64_t));
    }
    const int mixed = m->n_heads * m->head_dim, width = is_draft ? 3 * mixed : mixed, n = rows.max;
    void *qkv = bench_random(b, (size_t)n * (size_t)width * 2);
    void *out = device_alloc(b->dev, (size_t)n * (size_t)mixed * 2, "results");
    const size_t n_angles = (size_t)(ctx + 8) * (size_t)m->head_dim;
    struct rope rope = {.table = bench_random(b, n_angles * sizeof(float)),
                        .n_pos = ctx + 8,
                        .section = {m->head_dim / 2}};
    const struct attention_case c = {
        .args = {.q = qkv, .out = out, .rows = rows, .pool = pool, .n_heads = m->n_heads},
        .draft = {
            .qkv = qkv, .out = out, .rope = rope, .rows = rows, .pool = pool, .is_scratch = true}};
    const double keys = ctx + n_nodes, seqs = n_seqs,
                 bytes =
                     seqs * keys * 4 * pool.n_kv_heads * m->head_dim + 2.0 * n * (mixed + width),
                 flops = 4.0 * n * keys * mixed;
    const struct plan_args plan = {rows, m->n_heads, pool.n_kv_heads};
    b->ops->plan(b->stream, &plan);
    char name[128];
    const char *op = is_draft ? "draft_attention" : "attention";
    snprintf(name, sizeof(name), "%s,%s,%d sequences,%d,%d,0", op, m->name, n_seqs, ctx, n_nodes);
    bench_case(b, name, is_draft ? call_draft_attention : call_attention, &c, bytes, flops);
    bench_free_rows(b, &rows);
    device_free(b->dev, pool.valid);
    bench_free_pages(b, &pool);
    device_free(b->dev, qkv);
    device_free(b->dev, out);
    device_free(b->dev, (void *)rope.table);
}

static void bench_attentions(struct bench *b, const struct shape *m)
{
    static const int nodes[] = {1, 8, 30, 60};
    static const struct {
        int n_seqs, ctx;
    } loads[] = {
        {1, 1024}, {1, 4096}, {1, 16384}, {4, 4096}, {16, 1024}, {64, 512},
    };
    for (size_t l = 0; l < sizeof(loads) / sizeof(*loads); l++)
        for (size_t t = 0; t < sizeof(nodes) / sizeof(*nodes); t++)
            if (loads[l].n_seqs * nodes[t] <= MAX_ROWS)
                bench_attention(b, m, loads[l].n_seqs, loads[l].ctx, nodes[t], false);
    bench_attention(b, m, 1, 300, 8, true);
    bench_attention(b, m, 16, 300, 8, true);
}

/* ---- operations on rows ------------------------------------------------------------------------
 */

struct row_case {
    struct norm_args norm;
    struct topk_args topk;
};

static void call_norm(struct bench *b, const void *arg, int i)
{
    (void)i;
    b->ops->rmsnorm(b->stream, &((const struct row_case *)arg)->norm);
}

static void call_topk(struct bench *b, const void *arg, int i)
{
    (void)i;
    b->ops->topk(b->stream, &((const struct row_case *)arg)->topk);
}

static void bench_rows(struct bench *b, const struct shape *m, int n)
{
    const size_t rows = (size_t)n;
    void *in = bench_random(b, rows * 2 * (size_t)m->hidden);
    void *out = device_alloc(b->dev, rows * 2 * (size_t)m->hidden, "results");
    float *logits = bench_random(b, rows * 4 * (size_t)m->vocab);
    struct row_case c = {
        .norm = {.x = in, .w = logits, .out = out, .max = n, .width = m->hidden, .eps = 1e-6F},
        .topk = {.logits = logits, .max = n, .vocab = m->vocab, .k = 8}};
    c.topk.ids = device_alloc(b->dev, rows * 32, "results");
    c.topk.logprobs = device_alloc(b->dev, rows * 32, "results");
    char name[128];
    snprintf(name, sizeof(name), "rmsnorm,%s,,%d,0,0", m->name, n);
    bench_case(b, name, call_norm, &c, 4.0 * n * m->hidden, 0);
    snprintf(name, sizeof(name), "topk,%s,,%d,0,0", m->name, n);
    bench_case(b, name, call_topk, &c, 4.0 * n * m->vocab, 0);
    device_free(b->dev, in);
    device_free(b->dev, out);
    device_free(b->dev, logits);
    device_free(b->dev, c.topk.ids);
    device_free(b->dev, c.topk.logprobs);
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_open(&b, argc, argv);
    bench_header();
    for (int i = 0; i < N_SHAPES; i++) {
        const struct shape *m = &bench_shapes[i];
        if (!bench_wants(&b, m)) continue;
        if (bench_wants_op(&b, "rows")) bench_rows(&b, m, 8);
        if (bench_wants_op(&b, "rows")) bench_rows(&b, m, 60);
        if (bench_wants_op(&b, "attention")) bench_attentions(&b, m);
        if (bench_wants_op(&b, "gemm")) bench_gemms(&b, m);
    }
    bench_close(&b);
    return 0;
}
