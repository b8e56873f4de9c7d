/* apply: what the host changed since the last round (ops.h). */
#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"

static void mark_in_prompt(const struct round_state *st, int32_t seat, int32_t token)
{
    REQUIRE(seat >= 0 && seat < st->max_seqs && token >= 0 && token < st->vocab);
    size_t n_words = ((size_t)st->vocab + 31) / 32;
    st->in_prompt[(size_t)seat * n_words + (size_t)token / 32] |= 1u << (token % 32);
}

static void join(const struct round_state *st, const struct join *j)
{
    REQUIRE(j->seat >= 0 && j->seat < st->max_seqs);
    REQUIRE(st->seats[j->seat].state == SEAT_FREE);
    st->seats[j->seat] = (struct seat){
        .state = SEAT_PREFILL, .root = -1, .rope_delta = j->rope_delta, .sampling = j->sampling};

    size_t vocab = (size_t)st->vocab, n_words = (vocab + 31) / 32, seat = (size_t)j->seat;
    memset(st->counts + seat * vocab, 0, vocab * sizeof(*st->counts));
    memset(st->in_prompt + seat * n_words, 0, n_words * sizeof(*st->in_prompt));
    memset(st->pool + seat * (size_t)st->width, 0, (size_t)st->width * sizeof(*st->pool));
}

static void set_page(const struct apply_args *a, const struct page_entry *e)
{
    const struct kv_pool *pool = e->is_draft ? &a->draft : &a->target;
    REQUIRE(pool->table && e->seat >= 0 && e->seat < a->state.max_seqs);
    REQUIRE(e->index >= 0 && e->index < pool->max_pages);
    REQUIRE(e->page >= -1 && e->page < pool->n_pages);
    pool->table[(size_t)e->seat * (size_t)pool->max_pages + (size_t)e->index] = e->page;
    if (e->is_draft && e->page >= 0) pool->valid[e->page] = 0;
}

static void apply_run(const struct apply_args *a)
{
    const struct round_state *st = &a->state;
    const struct round_input *in = &st->inputs[(uint32_t)*st->round % ROUND_RING];
    for (int i = 0; i < in->n_leaves; i++) {
        REQUIRE(in->leaves[i] >= 0 && in->leaves[i] < st->max_seqs);
        st->seats[in->leaves[i]].state = SEAT_FREE;
    }
    for (int i = 0; i < in->n_joins; i++) join(st, &in->joins[i]);
    for (int i = 0; i < in->n_pages; i++) set_page(a, &in->pages[i]);
    for (int i = 0; i < in->n_chunks; i++) {
        const struct chunk *c = &in->chunks[i];
        REQUIRE(c->first_row >= 0 && c->n_rows > 0 &&
                c->first_row <= in->n_prompt_rows - c->n_rows);
        for (int r = 0; r < c->n_rows; r++)
            mark_in_prompt(st, c->seat, in->prompt_rows[c->first_row + r].token);
    }
}
CPU_OPERATION(apply, apply_args)
