/* draft_input, draft_direct, carry: what goes into the draft's rows, and what a prompt's chunk
 * leaves behind for the next one (ops.h). */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

static void draft_input_row(const struct draft_input_args *a, int r)
{
    const struct draft_rows *in = &a->in;
    size_t width = (size_t)a->state.width, bytes = width * sizeof(float);
    float *img_fc_in = a->has_img_fc ? (float *)a->a + 2 * width * (size_t)r : NULL;
    float *fc_in = (float *)a->b + 2 * width * (size_t)r;
    if (in->kind[r] == DRAFT_ROW_DIRECT) {
        if (img_fc_in) memset(img_fc_in, 0, 2 * bytes);
        memset(fc_in, 0, 2 * bytes);
        return;
    }

    int32_t id = in->rows.id[r], h_row = in->h_row[r];
    const float *h = h_row >= 0 ? (const float *)a->hidden + width * (size_t)h_row
                                : (const float *)a->state.carried_h + width * (size_t)~h_row;
    REQUIRE(id < a->state.vocab && h_row >= ~(a->state.max_seqs - 1));
    if (id < 0)
        memcpy(fc_in, a->state.pool + width * (size_t)~id, bytes);
    else
        widen(fc_in,
              (const char *)a->embeddings + width * (size_t)id * dtype_size(a->embeddings_type),
              a->embeddings_type, a->state.width);
    memcpy(img_fc_in ? img_fc_in : fc_in + width, h, bytes);
    if (!img_fc_in) return;
    REQUIRE(in->g_row[r] >= 0);
    memcpy(img_fc_in + width, a->state.pool + width * (size_t)in->g_row[r], bytes);
}

static void draft_input_run(const struct draft_input_args *a)
{
    int n = cpu_n_rows(a->in.rows.n, a->in.rows.max);
#pragma omp parallel for if ((long)n * a->state.width > PARALLEL_WORK)
    for (int r = 0; r < n; r++) draft_input_row(a, r);
}
CPU_OPERATION(draft_input, draft_input_args)

static void draft_direct_run(const struct draft_direct_args *a)
{
    int n = cpu_n_rows(a->in.rows.n, a->in.rows.max);
    size_t width = (size_t)a->state.width;
    for (int r = 0; r < n; r++) {
        if (a->in.kind[r] != DRAFT_ROW_DIRECT) continue;
        REQUIRE(a->in.rows.id[r] < 0);
        memcpy((float *)a->x + width * (size_t)r, a->state.pool + width * (size_t)~a->in.rows.id[r],
               width * sizeof(float));
    }
}
CPU_OPERATION(draft_direct, draft_direct_args)

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
