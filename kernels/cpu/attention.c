/* Attention over pages, for rows of any sequences.
 *
 * A row sees a set of slots in each page of its sequence: one word a page, the slots below prefix
 * (valid ones, in the draft's pool) and the bits of its mask shifted to where prefix ends.  Their
 * places are collected densely, in slot order, and handed on in tiles. */
#include "kernels/cpu/attention.h"

#include "kernels/cpu/attend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"

_Static_assert((int)ATTEND_TILE == (int)PAGE_LEN, "next_tile takes a full page as a tile");

/* The slots that a row sees, page by page. */
struct visible {
    const struct kv_pool *pool;
    const int32_t *table; /* of the row's seat */
    int64_t prefix;
    uint64_t mask;
    int next_page; /* index in table */
    uint64_t bits; /* slots of page next_page - 1 still to come */
    size_t base;   /* place of its slot 0 */
};

static struct visible visible_slots(const struct attention_args *a, int r)
{
    return (struct visible){
        .pool = &a->pool,
        .table = a->pool.table + (size_t)a->rows.seat[r] * a->pool.max_pages,
        .prefix = a->rows.prefix[r],
        .mask = a->rows.mask[r],
    };
}

/* Loads the next page; false behind the last. */
static bool next_page(struct visible *v)
{
    const int64_t rest = v->prefix - (int64_t)v->next_page * PAGE_LEN; /* where prefix ends */
    const uint64_t below = rest >= PAGE_LEN ? ~0ull : rest > 0 ? (1ull << rest) - 1 : 0;
    uint64_t masked = 0;
    if (rest <= -PAGE_LEN) return false;
    if (rest >= 0 && rest < PAGE_LEN) masked = v->mask << rest;
    if (rest < 0) masked = v->mask >> -rest;
    v->bits = 0;
    if ((below | masked) != 0) {
        REQUIRE(v->next_page < v->pool->max_pages);
        int page = v->table[v->next_page];
        REQUIRE(page < v->pool->n_pages);
        /* A page of pure image has no draft page. */
        REQUIRE(page >= 0 || (v->pool->valid != NULL && masked == 0));
        if (page >= 0)
            v->bits = (v->pool->valid != NULL ? below & v->pool->valid[page] : below) | masked;
        v->base = page >= 0 ? page * kv_page_stride(v->pool) : 0;
    }
    v->next_page++;
    return true;
}

/* Fills the next tile and returns its length; less than ATTEND_TILE at the end only. */
static int next_tile(struct visible *v, size_t *offset)
{
    const size_t head_dim = (size_t)v->pool->head_dim;
    int n = 0;
    while (n < ATTEND_TILE) {
        if (v->bits == 0) {
            if (!next_page(v)) break;
            continue;
        }
        if (v->bits == ~0ull && n == 0) { /* the usual case: a full page is a tile */
            for (; n < PAGE_LEN; n++) offset[n] = v->base + n * head_dim;
            v->bits = 0;
            break;
        }
        int slot = __builtin_ctzll(v->bits);
        v->bits &= v->bits - 1;
        offset[n++] = v->base + slot * head_dim;
    }
    return n;
}

/* All query heads of one kv head of a row, whose q is given. */
static void attend_row(const struct attention_args *a, const float *q, int r, int kv_head)
{
    const int head_dim = a->pool.head_dim, group = a->n_heads / a->pool.n_kv_heads;
    const size_t head = a->layer * kv_layer_stride(&a->pool) + kv_head * kv_head_stride(&a->pool);
    const float *k = (const float *)a->pool.k + head, *v = (const float *)a->pool.v + head;
    for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
        struct attend state;
        struct visible slots = visible_slots(a, r);
        size_t offset[ATTEND_TILE];
        int n;
        attend_begin(&state, q + h * head_dim, head_dim);
        do {
            n = next_tile(&slots, offset);
            attend_tile(&state, k, v, offset, n);
        } while (n == ATTEND_TILE);
        attend_end(&state, (float *)a->out + ((size_t)r * a->n_heads + h) * head_dim);
    }
}

void attention_rows(const struct attention_args *a, int n, size_t ldq)
{
    const int n_kv = a->pool.n_kv_heads;
    size_t work = 0;
    for (int r = 0; r < n; r++)
        work += 2 * (size_t)(a->rows.prefix[r] + 1) * a->n_heads * a->pool.head_dim;
        /* Head by head, so that the rows of a sequence find its keys in the cache; rows differ in
         * length. */
#pragma omp parallel for schedule(dynamic) if (work > PARALLEL_WORK)
    for (int task = 0; task < n * n_kv; task++)
        attend_row(a, (const float *)a->q + task % n * ldq, task % n, task / n);
}

static void attention_run(const struct attention_args *a)
{
    rope_require_shapes(&a->pool, a->layer, a->n_heads);
    attention_rows(a, cpu_n_rows(a->rows.n, a->rows.max), (size_t)a->n_heads * a->pool.head_dim);
}

CPU_OPERATION(attention, attention_args)

int cpu_max_rows(int n_heads, int n_kv_heads)
{
    (void)n_heads;
    (void)n_kv_heads;
    return MAX_GEMM_ROWS;
}

/* Rows are shared out as threads come for them. */
void cpu_plan(struct stream *s, const struct plan_args *args)
{
    (void)s;
    (void)args;
}
