/* x W^T on packed weights, row-invariant, and the operations that take its sums as they are: gemm,
 * swiglu.
 *
 *   W   panels of PANEL outputs, [ceil(n_out / PANEL)][n_in][PANEL] in the checkpoint's type,
 *       zero-padded; of pairs, WIDE first outputs and then their second ones
 *
 * Every sum is one chain acc = fma(x[k], w[k], acc), k = 0 .. n_in - 1, starting at 0.  No
 * loop below changes that order, only how many chains run side by side; so the bits of a row do not
 * depend on the rows beside it.
 *
 *   n <= MAX_GROUP rows   bound by memory: rows x 1..4 panels in registers, weights widened as they
 *                         come
 *   more rows             bound by arithmetic: K_BLOCK x PANEL weights are widened once into L1,
 *                         groups of rows run over them, and their chains wait in `acc` between
 *                         blocks */
#include "kernels/cpu/gemm.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/queue.h"
#include "kernels/device.h"

enum {
    /* Rows in registers, with two vectors of chains each, beside two of weights and one of x: of 16
     * registers, or of AVX-512's 32. */
    MAX_GROUP = WIDE == 16 ? 12 : 6,
    MAX_PANELS = 4,             /* of one row: 8 chains hide the latency of fma */
    K_BLOCK = 256 * 16 / PANEL, /* 16 KiB of widened weights: half of a 32 KiB L1 */
    PARALLEL_PACK = 1 << 24,    /* elements of a weight that several threads pack */
    ROW_TILE = 96, /* rows that pass over a panel in one task; a multiple of MAX_GROUP */
};

/* The output in column j of a panel; n_out or more if there is none. */
static int packed_output(const struct packed *p, int panel, int j)
{
    if (p->pair == 0) return panel * PANEL + j;
    const int i = panel * WIDE + j % WIDE;
    return i < p->n_out / 2 ? i / p->pair * 2 * p->pair + i % p->pair + j / WIDE * p->pair
                            : p->n_out;
}

/* Writes one panel: [k][j] = w[output][k], zeros where there is no output.  size is a constant
 * where this is inlined. */
static inline __attribute__((always_inline)) void pack_panel(const struct packed *p, int panel,
                                                             const char *w, const size_t size)
{
    char *columns = p->panels + (size_t)panel * p->panel_bytes;
    for (int j = 0; j < PANEL; j++) {
        const int output = packed_output(p, panel, j);
        for (int k = 0; k < p->n_in; k++) {
            char *to = columns + ((size_t)k * PANEL + (size_t)j) * size;
            if (output < p->n_out)
                memcpy(to, w + ((size_t)output * p->n_in + k) * size, size);
            else
                memset(to, 0, size);
        }
    }
}

struct packed *cpu_pack(struct device *dev, const void *w, enum dtype t, int n_out, int n_in,
                        int pair)
{
    REQUIRE(n_out > 0 && n_out <= MAX_N_OUT && n_in > 0 && (pair == 0 || n_out % (2 * pair) == 0));
    size_t size = dtype_size(t);
    struct packed *p = device_alloc(dev, sizeof(*p), "a weight's description");
    *p = (struct packed){.n_out = n_out, .n_in = n_in, .pair = pair, .type = t};
    p->n_panels = (n_out + PANEL - 1) / PANEL;
    p->panel_bytes = (size_t)n_in * PANEL * size;
    p->panels = device_alloc(dev, (size_t)p->n_panels * p->panel_bytes, "weights");
#pragma omp parallel for if ((size_t)n_out * n_in > PARALLEL_PACK) num_threads(cpu_n_threads(dev))
    for (int i = 0; i < p->n_panels; i++) {
        if (size == 2)
            pack_panel(p, i, w, 2);
        else
            pack_panel(p, i, w, 4);
    }
    return p;
}

void cpu_packed_free(struct device *dev, struct packed *w)
{
    if (w == NULL) return;
    device_free(dev, w->panels);
    device_free(dev, w);
}

/* ---- chains ---------------------------------------------------------------------------------- */

struct chains_args {
    const float *x; /* [n_rows][ldx] */
    size_t ldx;
    const char *w; /* [n_k][PANEL] of the function's type, the next panel panel_bytes behind */
    size_t panel_bytes;
    int n_k;
    float *acc; /* [n_rows][n_panels * PANEL] */
};

/* Runs the chains of n_rows rows and n_panels panels over n_k steps, from and back to acc.  The
 * first three are constants where this is inlined. */
static inline __attribute__((always_inline)) void
run_chains(const int n_rows, const int n_panels, const enum dtype type, const struct chains_args *c)
{
    enum { N_VEC = PANEL / WIDE };
    const size_t size = type == DTYPE_F32 ? 4 : 2, ldx = c->ldx, panel_bytes = c->panel_bytes;
    const float *x = c->x;
    const char *w = c->w;
    wide a[MAX_GROUP][MAX_PANELS * N_VEC];
#pragma GCC unroll 12
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int j = 0; j < n_panels * N_VEC; j++)
            a[r][j] = wide_load(c->acc + (r * n_panels * N_VEC + j) * WIDE);
    for (int k = 0; k < c->n_k; k++) {
        wide weights[MAX_PANELS * N_VEC];
#pragma GCC unroll 8
        for (int j = 0; j < n_panels * N_VEC; j++) {
            const char *p = w + (size_t)(j / N_VEC) * panel_bytes;
            weights[j] = wide_load_as(p + ((size_t)k * PANEL + (j % N_VEC) * WIDE) * size, type);
        }
#pragma GCC unroll 12
        for (int r = 0; r < n_rows; r++) {
            wide value = wide_set(x[(size_t)r * ldx + k]);
#pragma GCC unroll 8
            for (int j = 0; j < n_panels * N_VEC; j++)
                a[r][j] = wide_fma(value, weights[j], a[r][j]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int j = 0; j < n_panels * N_VEC; j++)
            wide_store(c->acc + (r * n_panels * N_VEC + j) * WIDE, a[r][j]);
}

typedef void chains_fn(const struct chains_args *c);

/* DO(rows, panels, their log2, type) for every group that fits into registers. */
#ifdef __AVX512F__
#define WIDE_GROUPS(DO, type)                                                                      \
    DO(4, 2, 1, type)                                                                              \
    DO(5, 2, 1, type)                                                                              \
    DO(6, 2, 1, type)                                                                              \
    DO(7, 1, 0, type)                                                                              \
    DO(8, 1, 0, type)                                                                              \
    DO(9, 1, 0, type)                                                                              \
    DO(10, 1, 0, type)                                                                             \
    DO(11, 1, 0, type)                                                                             \
    DO(12, 1, 0, type)
#else
#define WIDE_GROUPS(DO, type)
#endif
#define GROUPS(DO, type)                                                                           \
    DO(1, 1, 0, type)                                                                              \
    DO(1, 2, 1, type)                                                                              \
    DO(1, 4, 2, type)                                                                              \
    DO(2, 1, 0, type)                                                                              \
    DO(2, 2, 1, type)                                                                              \
    DO(3, 1, 0, type)                                                                              \
    DO(3, 2, 1, type)                                                                              \
    DO(4, 1, 0, type)                                                                              \
    DO(5, 1, 0, type)                                                                              \
    DO(6, 1, 0, type)                                                                              \
    WIDE_GROUPS(DO, type)

#define FUNCTION(rows, panels, log2, type)                                                         \
    static void chains_##rows##_##panels##_##type(const struct chains_args *c)                     \
    {                                                                                              \
        run_chains(rows, panels, DTYPE_##type, c);                                                 \
    }
GROUPS(FUNCTION, F32)
GROUPS(FUNCTION, F16)
GROUPS(FUNCTION, BF16)

#define ENTRY(rows, panels, log2, type)                                                            \
    [DTYPE_##type][(rows)-1][log2] = chains_##rows##_##panels##_##type,
/* [type][rows - 1][log2 of panels]; NULL where the group would not fit */
static chains_fn *const chains[3][MAX_GROUP][3] = {GROUPS(ENTRY, F32) GROUPS(ENTRY, F16)
                                                       GROUPS(ENTRY, BF16)};

/* ---- rows x panels -----------------------------------------------------------------------------
 */

static void run_few_rows(const struct gemm_product *p, struct share panels)
{
    const struct packed *w = p->w;
    const int n = p->n;
    chains_fn *const *fits = chains[w->type][n - 1];
    for (int panel = panels.first; panel < panels.end;) {
        int log2 = 2;
        while (log2 > 0 && (!fits[log2] || panel + (1 << log2) > panels.end)) log2--;
        int n_panels = 1 << log2;
        float acc[MAX_GROUP * MAX_PANELS * PANEL];
        memset(acc, 0, (size_t)(n * n_panels * PANEL) * sizeof(*acc));
        fits[log2](&(struct chains_args){
            .x = p->x,
            .ldx = (size_t)p->ldx,
            .w = w->panels + panel * w->panel_bytes,
            .panel_bytes = w->panel_bytes,
            .n_k = w->n_in,
            .acc = acc,
        });
        for (int j = 0; j < n_panels; j++)
            p->finish(p->args,
                      &(struct gemm_sums){panel + j, 0, n, n_panels * PANEL, acc + j * PANEL});
        panel += n_panels;
    }
}

/* A tile of more than MAX_GROUP rows over one panel. */
static void run_tile(const struct gemm_product *p, int first_row, int n_rows, int panel)
{
    const struct packed *w = p->w;
    const char *weights = w->panels + panel * w->panel_bytes;
    const size_t size = dtype_size(w->type);
    const float *x = p->x + (size_t)first_row * p->ldx;
    const int n_groups = (n_rows + MAX_GROUP - 1) / MAX_GROUP;
    float block[K_BLOCK * PANEL], acc[ROW_TILE * PANEL];
    memset(acc, 0, (size_t)n_rows * PANEL * sizeof(*acc));
    for (int k = 0; k < w->n_in; k += K_BLOCK) {
        int n_k = w->n_in - k < K_BLOCK ? w->n_in - k : K_BLOCK;
        const char *at = weights + (size_t)k * PANEL * size;
        if (w->type != DTYPE_F32) {
            widen(block, at, w->type, n_k * PANEL);
            at = (const char *)block;
        }
        for (int g = 0; g < n_groups; g++) {
            int r = g * n_rows / n_groups, end = (g + 1) * n_rows / n_groups;
            chains[DTYPE_F32][end - r - 1][0](&(struct chains_args){
                .x = x + (size_t)r * p->ldx + k,
                .ldx = (size_t)p->ldx,
                .w = at,
                .n_k = n_k,
                .acc = acc + (size_t)r * PANEL,
            });
        }
    }
    p->finish(p->args, &(struct gemm_sums){panel, first_row, n_rows, PANEL, acc});
}

static void run_many_rows(const struct gemm_product *p, int n_tiles, struct share tasks)
{
    int n_panels = p->w->n_panels;
    for (int task = tasks.first; task < tasks.end; task++) {
        int64_t tile = task / n_panels;
        int first = (int)(p->n * tile / n_tiles), end = (int)(p->n * (tile + 1) / n_tiles);
        run_tile(p, first, end - first, task % n_panels);
    }
}

void gemm_multiply(const struct gemm_product *p)
{
    const struct packed *w = p->w;
    REQUIRE(p->ldx >= w->n_in && p->n <= MAX_GEMM_ROWS);
    if (p->n == 0) return;
    const int n_tiles = (p->n + ROW_TILE - 1) / ROW_TILE;
#pragma omp parallel if ((size_t)p->n * w->n_out * w->n_in > PARALLEL_FMAS)
    {
        if (p->n <= MAX_GROUP)
            run_few_rows(p, thread_share(w->n_panels));
        else
            run_many_rows(p, n_tiles, thread_share(n_tiles * w->n_panels));
    }
}

/* ---- what becomes of the sums ------------------------------------------------------------------
 */

static void finish_gemm(const void *args, const struct gemm_sums *s)
{
    const struct gemm_args *a = args;
    for (int j = 0; j < PANEL; j += VEC) {
        const int col = s->panel * PANEL + j, rest = a->w->n_out - col, n = rest < VEC ? rest : VEC;
        if (n <= 0) return;
        const vec bias = a->bias != NULL ? vec_load_n(a->bias + col, n) : vec_set(0);
        for (int r = 0; r < s->n_rows; r++) {
            float *y = (float *)a->y + (size_t)(s->row0 + r) * a->ldy + col;
            vec value = vec_load(s->sum + r * s->ld + j) + bias;
            if (a->add) value += vec_load_n(y, n);
            vec_store_n(y, value, n);
        }
    }
}

void cpu_gemm_now(const struct gemm_args *a)
{
    REQUIRE(a->w->pair == 0 && a->ldy >= a->w->n_out);
    gemm_multiply(
        &(struct gemm_product){a->w, a->x, cpu_n_rows(a->n, a->max), a->ldx, finish_gemm, a});
}

static void gemm_run(const struct gemm_args *a)
{
    cpu_gemm_now(a);
}

static void finish_swiglu(const void *args, const struct gemm_sums *s)
{
    const struct swiglu_args *a = args;
    for (int j = 0; j < WIDE; j += VEC) {
        const int col = s->panel * WIDE + j, rest = a->w->pair - col, n = rest < VEC ? rest : VEC;
        if (n <= 0) return;
        for (int r = 0; r < s->n_rows; r++) {
            const float *sum = s->sum + r * s->ld + j;
            const vec gate = vec_load(sum), up = vec_load(sum + WIDE);
            vec_store_n((float *)a->y + (size_t)(s->row0 + r) * a->ldy + col,
                        gate * vec_sigmoid(gate) * up, n);
        }
    }
}

static void swiglu_run(const struct swiglu_args *a)
{
    REQUIRE(a->w->pair == a->w->n_out / 2 && a->ldy >= a->w->pair);
    gemm_multiply(
        &(struct gemm_product){a->w, a->x, cpu_n_rows(a->n, a->max), a->ldx, finish_swiglu, a});
}

CPU_OPERATION(gemm, gemm_args)
CPU_OPERATION(swiglu, swiglu_args)
