/* The operations of a round that take its time, on a GPU, by the shapes of published models.
 *
 *   bench/gpu/ops [device [model [op]]]
 *
 * op is rows, attention, gemm or head; behind each `gemm` row stands the library's product alone,
 * `cublaslt`.  Calls take turns over more memory than the L2 holds, and data is random: a GPU runs
 * faster on zeros.  scripts/gpu-check divides bytes and operations by what the same GPU reached in
 * the same run. */
#include "bench/gpu/bench.h"

enum {
    ROTATED_BYTES = 400 << 20, /* several times the L2 */
    MAX_COPIES = 64,           /* for the tiny shape; b->random has room for as many beginnings */
    MAX_ROWS = 512,
};

/* ---- products ----------------------------------------------------------------------------------
 */

/* Weights of one shape, as many as are rotated. */
struct copies {
    struct packed **w;
    int n;
};

static struct copies pack_copies(struct bench *b, int n_out, int n_in, int pair)
{
    const size_t n = ROTATED_BYTES / ((size_t)n_out * (size_t)n_in * 2) + 1;
    struct copies c = {.n = n < MAX_COPIES ? (int)n : MAX_COPIES};
    c.w = malloc((size_t)c.n * sizeof(struct packed *));
    for (int i = 0; i < c.n; i++)
        c.w[i] = b->ops->pack(b->dev, b->random + i * 64, b->ops->act, n_out, n_in, pair);
    return c;
}

static void free_copies(struct bench *b, struct copies *c)
{
    for (int i = 0; i < c->n; i++) b->ops->packed_free(b->dev, c->w[i]);
    free(c->w);
}

/* What becomes of the sums. */
enum epilogue { STORED, ADDED, GATED, ROTATED };

struct gemm_case {
    enum epilogue epilogue;
    struct copies weights;
    const void *x;
    void *y;
    int n_rows, n_out, n_in;
    void **plain;        /* as many matrices for the library */
    struct qkv_args qkv; /* all but w, x, q, where ROTATED */
};

static void call_gemm(struct bench *b, const void *arg, int i)
{
    const struct gemm_case *c = arg;
    const struct packed *w = c->weights.w[i % c->weights.n];
    const struct gemm_args gemm = {.w = w,
                                   .x = c->x,
                                   .y = c->y,
                                   .max = c->n_rows,
                                   .ldx = c->n_in,
                                   .ldy = c->n_out,
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

/* The same product by the library, as a yardstick; its results have 16 bits. */
static void call_library(struct bench *b, const void *arg, int i)
{
    const struct gemm_case *c = arg;
    const struct matmul_args args = {.w = c->plain[i % c->weights.n],
                                     .x = c->x,
                                     .y = c->y,
                                     .n = c->n_rows,
                                     .n_out = c->n_out,
                                     .n_in = c->n_in,
                                     .ldx = c->n_in,
                                     .ldy = c->n_out,
                                     .add = c->epilogue == ADDED};
    b->ops->matmul(b->stream, &args);
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
    static const double y_bytes[] = {2, 4, 1, 2}; /* of an output */
    const int pair[] = {0, 0, n_out / 2, m->head_dim / 2};
    const size_t w_bytes = (size_t)n_out * (size_t)n_in * 2;
    struct gemm_case c = {.epilogue = epilogue,
                          .weights = pack_copies(b, n_out, n_in, pair[epilogue]),
                          .n_out = n_out,
                          .n_in = n_in};
    c.plain = malloc((size_t)c.weights.n * sizeof(void *));
    for (int i = 0; i < c.weights.n; i++) c.plain[i] = bench_random(b, w_bytes);
    void *x = bench_random(b, (size_t)MAX_ROWS * (size_t)n_in * 2);
    void *y = device_alloc(b->dev, (size_t)MAX_ROWS * (size_t)n_out * 2, "results");
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        c.x = x;
        c.y = y;
        c.n_rows = rows[i];
        if (epilogue == ROTATED) c.qkv = qkv_case(b, m, c.n_rows);
        char name[128];
        const double n = rows[i], flops = 2 * n * n_out * n_in;
        const double bytes = (double)w_bytes + 2 * n * n_in + y_bytes[epilogue] * n * n_out;
        snprintf(name, sizeof(name), "gemm,%s,%s,%d,%d,%d", m->name, product, rows[i], n_out, n_in);
        bench_case(b, name, call_gemm, &c, bytes, flops);
        snprintf(name, sizeof(name), "cublaslt,%s,%s,%d,%d,%d", m->name, product, rows[i], n_out,
                 n_in);
        bench_case(b, name, call_library, &c, bytes, flops);
        if (epilogue == ROTATED) free_qkv_case(b, &c.qkv);
    }
    for (int i = 0; i < c.weights.n; i++) device_free(b->dev, c.plain[i]);
    free(c.plain);
    free_copies(b, &c.weights);
    device_free(b->dev, x);
    device_free(b->dev, y);
}

static void bench_gemms(struct bench *b, const struct shape *m)
{
    const int mixed = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    bench_gemm(b, m, "qkv", mixed + 2 * kv, m->hidden, ROTATED);
    bench_gemm(b, m, "o", m->hidden, mixed, ADDED);
    bench_gemm(b, m, "gate_up", 2 * m->intermediate, m->hidden, GATED);
    bench_gemm(b, m, "down", m->hidden, m->intermediate, ADDED);
    bench_gemm(b, m, "lm_head", m->vocab, m->hidden, STORED);
}

/* ---- lm_head -----------------------------------------------------------------------------------
 */

struct head_case {
    struct topk_args topk;
    struct head_args head;
    struct copies weights;
};

static void call_topk(struct bench *b, const void *arg, int i)
{
    const struct head_case *c = arg;
    struct topk_args args = c->topk;
    args.w = c->weights.w[i % c->weights.n];
    b->ops->topk(b->stream, &args);
}

static void call_head(struct bench *b, const void *arg, int i)
{
    const struct head_case *c = arg;
    struct head_args args = c->head;
    args.w = c->weights.w[i % c->weights.n];
    b->ops->head(b->stream, &args);
}

static void bench_head(struct bench *b, const struct shape *m)
{
    static const int rows[] = {1, 8, 30, 60, 128};
    struct head_case c = {.weights = pack_copies(b, m->vocab, m->hidden, 0)};
    void *x = bench_random(b, 128 * (size_t)m->hidden * 2);
    void *ids = device_alloc(b->dev, 128 * 8 * 4, "results");
    void *logprobs = device_alloc(b->dev, 128 * 8 * 4, "results");
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const double n = rows[i], hidden = m->hidden, vocab = m->vocab;
        c.topk = (struct topk_args){.x = x,
                                    .ids = ids,
                                    .logprobs = logprobs,
                                    .max = rows[i],
                                    .ldx = m->hidden,
                                    .vocab = m->vocab,
                                    .k = 8};
        char name[128];
        snprintf(name, sizeof(name), "topk,%s,lm_head,%d,%d,%d", m->name, rows[i], m->vocab,
                 m->hidden);
        bench_case(b, name, call_topk, &c, 2 * hidden * (vocab + n), 2 * n * hidden * vocab);
        for (int temperature = 0; temperature <= 1; temperature++) {
            c.head = bench_head_args(b, m, x, rows[i], temperature);
            snprintf(name, sizeof(name), "head,%s,temperature %d,%d,%d,%d", m->name, temperature,
                     rows[i], m->vocab, m->hidden);
            bench_case(b, name, call_head, &c, 2 * hidden * (vocab + n), 2 * n * hidden * vocab);
            bench_free_head_args(b, &c.head);
        }
    }
    free_copies(b, &c.weights);
    device_free(b->dev, x);
    device_free(b->dev, ids);
    device_free(b->dev, logprobs);
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

static void call_norm(struct bench *b, const void *arg, int i)
{
    (void)i;
    b->ops->rmsnorm(b->stream, arg);
}

static void bench_rows(struct bench *b, const struct shape *m, int n)
{
    const size_t rows = (size_t)n;
    void *in = bench_random(b, rows * 2 * (size_t)m->hidden);
    void *out = device_alloc(b->dev, rows * 2 * (size_t)m->hidden, "results");
    float *w = bench_random(b, 4 * (size_t)m->hidden);
    const struct norm_args norm = {
        .x = in, .w = w, .out = out, .max = n, .width = m->hidden, .eps = 1e-6F};
    char name[128];
    snprintf(name, sizeof(name), "rmsnorm,%s,,%d,0,0", m->name, n);
    bench_case(b, name, call_norm, &norm, 4.0 * n * m->hidden, 0);
    device_free(b->dev, in);
    device_free(b->dev, out);
    device_free(b->dev, w);
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
        if (bench_wants_op(&b, "head")) bench_head(&b, m);
    }
    bench_close(&b);
    return 0;
}
