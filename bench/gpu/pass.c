/* The whole verify pass on a GPU: embeddings, all layers, final norm and lm_head for the rows of
 * trees, with random weights of published shapes.
 *
 *   bench/gpu/pass [device [model]]
 *
 * One CSV row a case, as bench/gpu/bench.h says.  Bytes: all weights once, and the keys and values
 * of all sequences. */
#include "bench/gpu/weights.h"

enum { MAX_CTX = 4096, MAX_ROWS = 512 };

struct pass {
    struct lm lm;
    struct lm_scratch scratch;
    struct rows rows;
    struct kv_pool kv;
    void *hidden;
    struct head_args head;
};

static void call_pass(struct bench *b, const void *arg, int i)
{
    (void)i;
    const struct pass *p = arg;
    lm_forward(&p->lm, b->stream, &p->scratch, &p->rows, NULL, &p->kv, p->hidden);
    b->ops->head(b->stream, &p->head);
}

static void bench_pass(struct bench *b, struct pass *p, const struct shape *m, int n_seqs, int ctx,
                       int n_nodes)
{
    p->rows = bench_tree_rows(b, n_seqs, n_nodes, ctx);
    p->rows.id = device_alloc(b->dev, (size_t)p->rows.max * sizeof(int32_t), "ids");
    stream_fill(b->stream, p->rows.id, 0, (size_t)p->rows.max * sizeof(int32_t));
    bench_place(b, &p->kv, n_seqs, ctx + n_nodes);
    p->head = bench_head_args(b, m, p->hidden, p->rows.max, 0);
    p->head.w = p->lm.head;
    const double n = p->rows.max, mixed = (double)m->n_heads * m->head_dim,
                 kv = (double)m->n_kv_heads * m->head_dim,
                 layer = (mixed * 2 + kv * 2) * m->hidden + 3.0 * m->hidden * m->intermediate,
                 weights = layer * m->n_layers + (double)m->vocab * m->hidden,
                 slots = (double)n_seqs * (ctx + n_nodes),
                 bytes = 2 * weights + 4 * slots * kv * m->n_layers,
                 flops = 2 * n * weights + 4 * n * (ctx + n_nodes) * mixed * m->n_layers;
    char name[128];
    snprintf(name, sizeof(name), "pass,%s,%d sequences,%d,%d,0", m->name, n_seqs, ctx, n_nodes);
    bench_case(b, name, call_pass, p, bytes, flops);
    device_free(b->dev, p->rows.id);
    bench_free_rows(b, &p->rows);
    bench_free_head_args(b, &p->head);
}

int main(int argc, char **argv)
{
    static const struct {
        int n_seqs, ctx, n_nodes;
    } loads[] = {
        {1, 1024, 1}, {1, 1024, 8},  {1, 1024, 30}, {1, 1024, 60}, {1, 4096, 60},
        {4, 1024, 1}, {4, 1024, 30}, {16, 1024, 1}, {16, 1024, 8}, {16, 1024, 30},
    };
    struct bench b;
    bench_open(&b, argc, argv);
    bench_header();
    for (int i = 0; i < N_SHAPES; i++) {
        const struct shape *m = &bench_shapes[i];
        struct pass p;
        if (!bench_wants(&b, m)) continue;
        bench_fill_lm(&b, &p.lm, m, MAX_CTX + MAX_NODES);
        lm_scratch_init(&p.scratch, b.dev, &p.lm.cfg, false, MAX_ROWS);
        p.hidden = device_alloc(b.dev, (size_t)MAX_ROWS * (size_t)m->hidden * 2, "hidden states");
        p.kv = bench_pages(&b, m, m->n_layers, m->n_kv_heads, bench_n_pages(16, 1024 + MAX_NODES));
        for (size_t l = 0; l < sizeof(loads) / sizeof(*loads); l++)
            bench_pass(&b, &p, m, loads[l].n_seqs, loads[l].ctx, loads[l].n_nodes);
        device_free(b.dev, p.hidden);
        lm_scratch_done(&p.scratch, b.dev);
        bench_free_pages(&b, &p.kv);
        bench_free_lm(&b, &p.lm);
    }
    bench_close(&b);
    return 0;
}
