/* draft_input, carry: what goes into the draft's rows, and what a prompt's chunk
 * leaves behind for the next one (ops.h). */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

static void draft_input_row(const struct draft_input_args *a, int r)
{
    const struct draft_rows *in = &a->in;
    const struct round_state *st = &a->state;
    size_t width = (size_t)st->width, bytes = width * sizeof(float);
    int32_t id = in->rows.id[r], h_row = in->h_row[r], g_row = in->g_row[r];
    float *x = (float *)a->x + width * (size_t)r, *h = (float *)a->h + width * (size_t)r;
    REQUIRE(id < st->vocab);
    memcpy(x,
           id < 0 ? st->pool + width * (size_t)~id : (const float *)a->table + width * (size_t)id,
           bytes);
    if (in->kind[r] == DRAFT_ROW_DIRECT) {
        REQUIRE(id < 0);
        memset(h, 0, bytes);
        return;
    }

    REQUIRE(h_row >= ~(st->max_seqs - 1) && g_row >= 0);
    const float *g = st->pool + width * (size_t)g_row;
    for (size_t i = 0; i < width; i++) x[i] += g[i];
    memcpy(h,
           h_row >= 0 ? (const float *)a->hidden + width * (size_t)h_row
                      : (const float *)st->carried_h + width * (size_t)~h_row,
           bytes);
}

static void draft_input_run(const struct draft_input_args *a)
{
    int n = cpu_n_rows(a->in.rows.n, a->in.rows.max);
#pragma omp parallel for if ((long)n * a->state.width > PARALLEL_WORK)
    for (int r = 0; r < n; r++) draft_input_row(a, r);
}
CPU_OPERATION(draft_input, draft_input_args)

static void carry_run(const struct carry_args *a)
{
    const struct round_state *st = &a->state;
    uint32_t round = (uint32_t)*st->round;
    if (round == 0) return;
    const struct round_input *previous = &st->inputs[(round - 1) % ROUND_RING];
    size_t width = (size_t)st->width, bytes = width * sizeof(float);
    for (int i = 0; i < previous->n_chunks; i++) {
        const struct chunk *c = &previous->chunks[i];
        size_t seat = (size_t)c->seat, row = (size_t)(a->tree.first_row[seat] + c->n_rows - 1);
        memcpy((float *)st->carried_h + width * seat, (const float *)a->hidden + width * row,
               bytes);
        if (c->is_last && c->final_g != c->seat)
            memcpy(st->pool + width * seat, st->pool + width * (size_t)c->final_g, bytes);
    }
}
CPU_OPERATION(carry, carry_args)
