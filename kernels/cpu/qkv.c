/* q, k and v of the language model's rows: q and k are rotated, and k and v go into the cache, as
 * soon as a panel's sums are there. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/rope.h"

/* Where a head of a row goes. */
static float *place_of(const struct qkv_args *a, int row, int head)
{
    const struct kv_pool *pool = &a->pool;
    const int n_heads = a->n_heads, n_kv = pool->n_kv_heads;
    if (head < n_heads) return (float *)a->q + ((size_t)row * n_heads + head) * pool->head_dim;
    float *pages = head < n_heads + n_kv ? pool->k : pool->v;
    return pages + kv_place(pool, &a->rows, row, a->layer, (head - n_heads) % n_kv);
}

/* Pairs i .. i + n - 1 of a head, of one axis of positions; heads are q's, k's, v's. */
struct pairs {
    int head, i, n, axis;
};

/* The pairs of a row, whose sums are sum[0 ..] and sum[WIDE ..]. */
static void finish_pairs(const struct qkv_args *a, const struct pairs *p, int row, const float *sum)
{
    const int half = a->pool.head_dim / 2, pos = a->rows.pos[3 * (size_t)row + p->axis];
    const bool is_rotated = p->head < a->n_heads + a->pool.n_kv_heads;
    const size_t output = (size_t)p->head * a->pool.head_dim + p->i;
    const float *table = a->rope.table + 2 * ((size_t)pos * half + p->i);
    float *to = place_of(a, row, p->head) + p->i;
    REQUIRE(pos >= 0 && pos < a->rope.n_pos);
    for (int j = 0; j < p->n; j += VEC) {
        const int n = p->n - j < VEC ? p->n - j : VEC;
        vec x = vec_load_n(sum + j, n), y = vec_load_n(sum + WIDE + j, n);
        if (a->bias != NULL) {
            x += vec_load_n(a->bias + output + j, n);
            y += vec_load_n(a->bias + output + half + j, n);
        }
        if (is_rotated) {
            const int n_first = 2 * n < VEC ? 2 * n : VEC;
            const vec first = vec_load_n(table + 2 * j, n_first),
                      second = vec_load_n(table + 2 * j + VEC, 2 * n - n_first);
            const vec cosine = __builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14);
            const vec sine = __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15);
            const vec low = x * cosine - y * sine;
            y = y * cosine + x * sine;
            x = low;
        }
        vec_store_n(to + j, x, n);
        vec_store_n(to + half + j, y, n);
    }
}

static void finish_qkv(const void *args, const struct gemm_sums *s)
{
    const struct qkv_args *a = args;
    const int half = a->pool.head_dim / 2, first = s->panel * WIDE;
    const int rest = a->w->n_out / 2 - first, end = rest < WIDE ? rest : WIDE;
    const int behind[3] = {a->rope.section[0], a->rope.section[0] + a->rope.section[1], half};
    struct pairs p;
    for (int j = 0; j < end; j += p.n) {
        p.head = (first + j) / half;
        p.i = (first + j) % half;
        p.axis = p.i < behind[0] ? 0 : p.i < behind[1] ? 1 : 2;
        p.n = behind[p.axis] - p.i < end - j ? behind[p.axis] - p.i : end - j;
        for (int r = 0; r < s->n_rows; r++)
            finish_pairs(a, &p, s->row0 + r, s->sum + r * s->ld + j);
    }
}

static void qkv_run(const struct qkv_args *a)
{
    const struct packed *w = a->w;
    rope_require_shapes(&a->pool, a->layer, a->n_heads);
    REQUIRE(a->rope.section[0] + a->rope.section[1] <= a->pool.head_dim / 2);
    REQUIRE(w->pair == a->pool.head_dim / 2);
    REQUIRE(w->n_out == (a->n_heads + 2 * a->pool.n_kv_heads) * a->pool.head_dim);
    const int n = cpu_n_rows(a->rows.n, a->rows.max);
    gemm_multiply(&(struct gemm_product){w, a->x, n, w->n_in, finish_qkv, a});
}

CPU_OPERATION(qkv, qkv_args)
