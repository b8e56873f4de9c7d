#include "bench/gpu/bench.h"

#include "bench/spread.h"

enum { SAMPLES = 15, SAMPLE_US = 2000 };

const struct shape bench_shapes[N_SHAPES] = {
    {"llava-7b", 4096, 32, 32, 128, 11008, 32064, 32},
    {"llava-13b", 5120, 40, 40, 128, 13824, 32064, 40},
    {"qwen-3b", 2048, 16, 2, 128, 11008, 151936, 36},
    {"qwen-7b", 3584, 28, 4, 128, 18944, 152064, 28},
    {"tiny", 64, 2, 1, 32, 128, 512, 2},
};

/* Numbers of about N(0, 1/4) by their bits: sign and mantissa at random, exponents -4 to -1. */
static void fill_random(struct bench *b, size_t n)
{
    uint64_t state = 88172645463325252u;
    const int mantissa = b->ops->act == DTYPE_F16 ? 10 : 7, bias = mantissa == 10 ? 15 : 127;
    b->random = device_alloc_shared(b->dev, n * sizeof(*b->random), "random numbers");
    b->n_random = n;
    for (size_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        const uint16_t exponent = (uint16_t)(bias - 4 + (int)(state >> 20 & 3));
        b->random[i] = (uint16_t)((state >> 40 & 0x8000) | (unsigned)(exponent << mantissa) |
                                  (state & ((1u << mantissa) - 1)));
    }
}

void *bench_random(struct bench *b, size_t bytes)
{
    char *p = device_alloc(b->dev, bytes, "a bench's array");
    for (size_t at = 0; at < bytes; at += b->n_random * sizeof(*b->random)) {
        size_t rest = bytes - at, all = b->n_random * sizeof(*b->random);
        stream_copy_in(b->stream, p + at, b->random, rest < all ? rest : all);
    }
    stream_wait(b->stream);
    return p;
}

void *bench_upload(struct bench *b, const void *host, size_t bytes)
{
    void *p = device_alloc(b->dev, bytes, "a bench's array");
    stream_copy_in(b->stream, p, host, bytes);
    stream_wait(b->stream);
    return p;
}

static double time_graph(struct bench *b, const struct graph *g)
{
    stream_wait(b->stream);
    const double start = now_us();
    graph_launch(b->stream, g);
    stream_wait(b->stream);
    return now_us() - start;
}

static struct graph *record(struct bench *b, bench_call *call, const void *arg, int n_calls)
{
    graph_begin(b->stream);
    for (int i = 0; i < n_calls; i++) call(b, arg, i);
    return graph_end(b->stream);
}

void bench_case(struct bench *b, const char *name, bench_call *call, const void *arg, double bytes,
                double flops)
{
    struct graph *g = record(b, call, arg, 8);
    time_graph(b, g);
    const double us_of_8 = time_graph(b, g);
    graph_free(g);
    int n_calls = (int)(SAMPLE_US / us_of_8 * 8) + 8;
    if (n_calls > 2000) n_calls = 2000;
    g = record(b, call, arg, n_calls);
    time_graph(b, g);
    double us[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) us[i] = time_graph(b, g) / n_calls;
    graph_free(g);
    const struct spread spread = spread_of(us, SAMPLES);
    printf("%s,%.2f,%.2f,%.2f,%.0f,%.0f\n", name, spread.median, spread.p10, spread.p90, bytes,
           flops);
    fflush(stdout);
}

void bench_header(void)
{
    printf("op,model,part,a,b,c,us,us_p10,us_p90,bytes,flops\n");
}

void bench_open(struct bench *b, int argc, char **argv)
{
    const char *device = argc > 1 ? argv[1] : "cuda-bf16";
    *b = (struct bench){.dev = device_open(device, 0),
                        .model = argc > 2 ? argv[2] : NULL,
                        .op = argc > 3 ? argv[3] : NULL};
    if (b->dev == NULL) {
        fprintf(stderr, "there is no device %s here\n", device);
        exit(1);
    }
    b->stream = stream_open(b->dev);
    b->ops = device_ops(b->dev);
    size_t largest = 0;
    for (int i = 0; i < N_SHAPES; i++) {
        if (!bench_wants(b, &bench_shapes[i])) continue;
        size_t n = (size_t)bench_shapes[i].vocab * (size_t)bench_shapes[i].hidden;
        if (n > largest) largest = n;
    }
    fill_random(b, largest + 4096);
}

bool bench_wants(const struct bench *b, const struct shape *m)
{
    return b->model == NULL ? m < bench_shapes + N_PUBLISHED : strcmp(b->model, m->name) == 0;
}

bool bench_wants_op(const struct bench *b, const char *op)
{
    return b->op == NULL || strcmp(b->op, op) == 0;
}

void bench_close(struct bench *b)
{
    device_free_shared(b->dev, b->random);
    stream_close(b->stream);
    device_close(b->dev);
}

struct rows bench_tree_rows(struct bench *b, int n_seqs, int n_nodes, int ctx)
{
    const int n = n_seqs * n_nodes;
    const size_t ints = (size_t)n * sizeof(int32_t);
    int32_t *seat = malloc(ints), *pos = malloc(3 * ints), *slot = malloc(ints),
            *prefix = malloc(ints);
    uint64_t *mask = malloc((size_t)n * sizeof(*mask));
    for (int r = 0; r < n; r++) {
        const int j = r % n_nodes;
        seat[r] = r / n_nodes;
        slot[r] = ctx + j;
        prefix[r] = ctx;
        mask[r] = 1;
        for (int k = j; k > 0; k = (k - 1) / 3) mask[r] |= 1ull << k;
        for (int axis = 0; axis < 3; axis++) pos[3 * r + axis] = ctx + 3;
    }
    const int32_t count = n;
    struct rows rows = {.n = bench_upload(b, &count, sizeof(count)),
                        .max = n,
                        .seat = bench_upload(b, seat, ints),
                        .pos = bench_upload(b, pos, 3 * ints),
                        .slot = bench_upload(b, slot, ints),
                        .prefix = bench_upload(b, prefix, ints),
                        .mask = bench_upload(b, mask, (size_t)n * sizeof(*mask))};
    free(seat);
    free(pos);
    free(slot);
    free(prefix);
    free(mask);
    return rows;
}

void bench_free_rows(struct bench *b, struct rows *rows)
{
    device_free(b->dev, rows->n);
    device_free(b->dev, rows->seat);
    device_free(b->dev, rows->pos);
    device_free(b->dev, rows->slot);
    device_free(b->dev, rows->prefix);
    device_free(b->dev, rows->mask);
}

struct head_args bench_head_args(struct bench *b, const struct shape *m, const void *x, int n,
                                 float temperature)
{
    const struct seat seat = {
        .sampling = {
            .temperature = temperature, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}};
    const int32_t count = n;
    int32_t *zeros = calloc((size_t)(n > MAX_NODES ? n : MAX_NODES), sizeof(int32_t));
    const size_t ints = (size_t)n * sizeof(int32_t);
    const struct head_args args = {
        .state = {.seats = bench_upload(b, &seat, sizeof(seat)), .max_seqs = 1, .vocab = m->vocab},
        .out = {.n = bench_upload(b, &count, sizeof(count)),
                .max = n,
                .seat = bench_upload(b, zeros, ints),
                .node = bench_upload(b, zeros, ints)},
        .tree = {.depth = bench_upload(b, zeros, MAX_NODES * sizeof(int32_t)),
                 .old_len = bench_upload(b, zeros, sizeof(int32_t))},
        .x = x,
        .ldx = m->hidden};
    free(zeros);
    return args;
}

void bench_free_head_args(struct bench *b, struct head_args *a)
{
    device_free(b->dev, a->state.seats);
    device_free(b->dev, a->out.n);
    device_free(b->dev, a->out.seat);
    device_free(b->dev, a->out.node);
    device_free(b->dev, a->tree.depth);
    device_free(b->dev, a->tree.old_len);
}

struct kv_pool bench_pages(struct bench *b, const struct shape *m, int n_layers, int n_kv_heads,
                           int n_pages)
{
    struct kv_pool pool = {.n_layers = n_layers,
                           .n_pages = n_pages,
                           .n_kv_heads = n_kv_heads,
                           .head_dim = m->head_dim};
    const size_t bytes = (size_t)n_layers * (size_t)n_pages * (size_t)n_kv_heads * PAGE_LEN *
                         (size_t)m->head_dim * 2;
    pool.k = bench_random(b, bytes);
    pool.v = bench_random(b, bytes);
    pool.table = device_alloc(b->dev, (size_t)n_pages * sizeof(int32_t), "page table");
    return pool;
}

void bench_place(struct bench *b, struct kv_pool *pool, int n_seqs, int n_slots)
{
    pool->max_pages = bench_n_pages(1, n_slots);
    const int n = bench_n_pages(n_seqs, n_slots);
    int32_t *table = malloc((size_t)n * sizeof(*table));
    for (int i = 0; i < n; i++) table[i] = (int32_t)((long)i * 7919 % n);
    stream_copy_in(b->stream, pool->table, table, (size_t)n * sizeof(*table));
    stream_wait(b->stream);
    free(table);
}

int bench_n_pages(int n_seqs, int n_slots)
{
    return n_seqs * ((n_slots + PAGE_LEN - 1) / PAGE_LEN);
}

void bench_free_pages(struct bench *b, struct kv_pool *pool)
{
    device_free(b->dev, pool->k);
    device_free(b->dev, pool->v);
    device_free(b->dev, pool->table);
}
