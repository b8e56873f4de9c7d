/* accept, compact: the end of a round (ops.h).
 *
 * accept goes through the seats in order, and with them through `out`, which lists the same seats
 * in the same order; so the rows of the next extend pass come out in order of seat and slot. */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"

/* What a walk found. */
struct walk {
    int n_tokens, finish;
};

static bool is_stop_id(const struct sampling *s, int32_t id)
{
    for (int j = 0; j < s->n_stop_ids; j++)
        if (s->stop_ids[j] == id) return true;
    return false;
}

static void count_token(const struct round_state *st, int seat, int32_t id)
{
    uint16_t *count = &st->counts[(size_t)seat * (size_t)st->vocab + (size_t)id];
    if (*count < UINT16_MAX) ++*count;
}

static void put_logprobs(const struct accept_args *a, const struct round_output *output, int seat,
                         int i_token, int i_out)
{
    if (a->state.seats[seat].sampling.n_logprobs < 0) return;
    int32_t token = output->seats[seat].tokens[i_token];
    struct token_logprobs *to = &output->logprobs[(size_t)seat * MAX_NODES + (size_t)i_token];
    *to = a->top[i_out];
    to->logprob =
        a->logits[(size_t)i_out * (size_t)a->state.vocab + (size_t)token] - a->top[i_out].logprob;
}

/* Takes the pick of out row i_out as the answer's next token; returns how the answer goes on. */
static enum finish take_pick(const struct accept_args *a, const struct round_output *output,
                             int seat, int i_out)
{
    struct seat *s = &a->state.seats[seat];
    struct seat_output *to = &output->seats[seat];
    int32_t token = a->pick[i_out];
    if (token < 0) return FINISH_NAN;
    REQUIRE(token < a->state.vocab);
    int i_token = to->n_tokens++;
    to->tokens[i_token] = token;
    put_logprobs(a, output, seat, i_token, i_out);
    count_token(&a->state, seat, token);
    s->n_generated++;
    s->root = token;
    if (is_stop_id(&s->sampling, token)) return FINISH_STOP;
    return s->n_generated >= s->sampling.max_tokens ? FINISH_LENGTH : FINISH_NONE;
}

static int child_with_token(const struct tree *t, int seat, int node, int32_t token)
{
    size_t base = (size_t)seat * MAX_NODES;
    for (int child = node + 1; child < t->n_nodes[seat]; child++)
        if (t->parent[base + child] == node && t->token[base + child] == token) return child;
    return -1;
}

static int push_next(const struct accept_args *a, int seat, int32_t id, int slot)
{
    const struct rows *rows = &a->next.rows;
    int r = (*rows->n)++;
    REQUIRE(r < rows->max);
    rows->seat[r] = seat;
    rows->id[r] = id;
    for (int axis = 0; axis < 3; axis++) rows->pos[3 * r + axis] = slot - 1;
    rows->slot[r] = slot;
    rows->prefix[r] = slot + 1;
    rows->mask[r] = 0;
    return r;
}

static void push_fused(const struct accept_args *a, int seat, int32_t id, int slot, int h_row,
                       int g_row)
{
    int r = push_next(a, seat, id, slot);
    a->next.kind[r] = DRAFT_ROW_FUSED;
    a->next.h_row[r] = h_row;
    a->next.g_row[r] = g_row;
}

/* The last row pushed is the root's, from which the next tree grows. */
static void push_head(const struct accept_args *a, int seat)
{
    int head = (*a->beam.n_heads)++;
    REQUIRE(head < a->state.max_seqs);
    a->beam.seat[head] = seat;
    a->beam.head_row[head] = *a->next.rows.n - 1;
}

static bool has_draft(const struct accept_args *a, int seat)
{
    return a->beam.n_heads && a->state.seats[seat].sampling.use_draft;
}

/* A seat that decodes: walks its tree, whose out rows start at first_out. */
static void accept_tree(const struct accept_args *a, const struct round_output *output, int seat,
                        int first_out)
{
    const struct tree *t = &a->tree;
    struct seat *s = &a->state.seats[seat];
    struct seat_output *to = &output->seats[seat];
    int32_t *path = t->path + (size_t)seat * MAX_NODES;
    int n_path = 0, node = 0;
    while (node >= 0) {
        path[n_path++] = node;
        to->finish = take_pick(a, output, seat, first_out + node);
        node = to->finish == FINISH_NONE ? child_with_token(t, seat, node, s->root) : -1;
    }
    t->n_path[seat] = n_path;
    to->n_drafted = t->n_nodes[seat] - 1;
    s->len = t->old_len[seat] + n_path;
    if (to->finish != FINISH_NONE) s->state = SEAT_FINISHED;
    if (to->finish != FINISH_NONE || !has_draft(a, seat)) return;
    for (int j = 0; j < n_path; j++)
        push_fused(a, seat, to->tokens[j], t->old_len[seat] + 1 + j, t->first_row[seat] + path[j],
                   seat);
    push_head(a, seat);
}

/* Rows of a chunk whose draft rows are wanted; made even if the answer has ended with its first
 * token, since the prompt's pages serve others too. */
static void push_chunk(const struct accept_args *a, const struct chunk *c,
                       const struct prompt_row *prompt)
{
    for (int i = 0; i < c->n_rows; i++) {
        int slot = c->first_slot + i;
        if (prompt[i].draft_kind == DRAFT_ROW_NONE || slot == 0) continue;
        int r = push_next(a, c->seat, prompt[i].draft_id, slot);
        a->next.kind[r] = prompt[i].draft_kind;
        a->next.h_row[r] = i == 0 ? ~c->seat : a->tree.first_row[c->seat] + i - 1;
        a->next.g_row[r] = prompt[i].g_row;
    }
}

/* A seat whose prompt is read; out row i_out belongs to its last row if the chunk is the last. */
static void accept_chunk(const struct accept_args *a, const struct round_output *output,
                         const struct chunk *c, const struct prompt_row *prompt, int i_out)
{
    struct seat *s = &a->state.seats[c->seat];
    s->len = c->first_slot + c->n_rows;
    if (has_draft(a, c->seat)) push_chunk(a, c, prompt);
    if (!c->is_last) return;
    int finish = take_pick(a, output, c->seat, i_out);
    output->seats[c->seat].finish = finish;
    s->state = finish == FINISH_NONE ? SEAT_DECODE : SEAT_FINISHED;
    if (finish != FINISH_NONE || !has_draft(a, c->seat)) return;
    push_fused(a, c->seat, s->root, s->len, a->tree.first_row[c->seat] + c->n_rows - 1, c->final_g);
    push_head(a, c->seat);
}

static void accept_run(const struct accept_args *a)
{
    const struct round_state *st = &a->state;
    uint32_t slot = (uint32_t)*st->round % ROUND_RING;
    const struct round_input *in = &st->inputs[slot];
    const struct round_output *output = &st->outputs[slot];
    int n_out = cpu_n_rows(a->out.n, a->out.max), i_out = 0, i_chunk = 0;
    if (a->beam.n_heads) *a->beam.n_heads = *a->next.rows.n = 0;
    for (int seat = 0; seat < st->max_seqs; seat++) {
        struct seat_output *to = &output->seats[seat];
        to->n_tokens = to->n_drafted = 0;
        to->finish = FINISH_NONE;
        a->tree.n_path[seat] = 0;
        int n_nodes = a->tree.n_nodes[seat];
        if (n_nodes > 0) {
            REQUIRE(i_out + n_nodes <= n_out && a->out.seat[i_out] == seat);
            accept_tree(a, output, seat, i_out);
            i_out += n_nodes;
        } else if (i_chunk < in->n_chunks && in->chunks[i_chunk].seat == seat) {
            const struct chunk *c = &in->chunks[i_chunk++];
            REQUIRE(!c->is_last || (i_out < n_out && a->out.seat[i_out] == seat));
            accept_chunk(a, output, c, in->prompt_rows + c->first_row, i_out);
            i_out += c->is_last != 0;
        }
    }
    REQUIRE(i_out == n_out && i_chunk == in->n_chunks);
    *st->round = (int32_t)((uint32_t)*st->round + 1);
}
CPU_OPERATION(accept, accept_args)

/* Offset of slot's first element in its page's layer 0, head 0. */
static size_t slot_offset(const struct kv_pool *p, int seat, int slot)
{
    int index = slot / PAGE_LEN;
    REQUIRE(index < p->max_pages);
    int page = p->table[(size_t)seat * (size_t)p->max_pages + (size_t)index];
    REQUIRE(page >= 0 && page < p->n_pages);
    return ((size_t)page * (size_t)p->n_kv_heads * PAGE_LEN + (size_t)(slot % PAGE_LEN)) *
           (size_t)p->head_dim;
}

static void move_slot(const struct kv_pool *p, int seat, int from_slot, int to_slot)
{
    size_t head_size = (size_t)PAGE_LEN * (size_t)p->head_dim;
    size_t layer_size = (size_t)p->n_pages * (size_t)p->n_kv_heads * head_size;
    size_t from = slot_offset(p, seat, from_slot), to = slot_offset(p, seat, to_slot);
    size_t bytes = (size_t)p->head_dim * sizeof(float);
    float *k = p->k, *v = p->v;
    for (int layer = 0; layer < p->n_layers; layer++) {
        for (int head = 0; head < p->n_kv_heads; head++) {
            size_t offset = (size_t)layer * layer_size + (size_t)head * head_size;
            memcpy(k + offset + to, k + offset + from, bytes);
            memcpy(v + offset + to, v + offset + from, bytes);
        }
    }
}

static void compact_run(const struct compact_args *a)
{
    for (int seat = 0; seat < a->max_seqs; seat++) {
        const int32_t *path = a->tree.path + (size_t)seat * MAX_NODES;
        int old_len = a->tree.old_len[seat];
        for (int j = 0; j < a->tree.n_path[seat]; j++)
            if (path[j] != j) move_slot(&a->pool, seat, old_len + path[j], old_len + j);
    }
}
CPU_OPERATION(compact, compact_args)
