/* expand, select: the draft's candidates, and the trees and rows of the verify pass (ops.h).
 *
 * Candidates of head i are numbered 0 .. C-1.  The first k are the root's children; expansion e
 * adds k * k more, and candidate k + e k k + b k + j is child j of beam row b, which fed candidate
 * beam.node[i][e][b]:
 *
 *      0 .. k-1 | k .. k+kk-1 | k+kk .. k+2kk-1 | ...
 *      children   expansion 0   expansion 1          a parent's number is below its children's
 *
 * A child's score is its parent's plus a log-probability, so never higher, and where both are equal
 * the parent's number is lower: whoever takes candidates in the order (score, number) never takes a
 * child without its parent. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/scan.h"

static size_t n_candidates(const struct beam *b)
{
    return (size_t)b->k + (size_t)b->depth * b->k * b->k;
}

static void require_shape(const struct beam *b)
{
    REQUIRE(b->k >= 1 && b->k <= MAX_TOP_K && b->depth >= 0 && b->depth * b->k <= MAX_NODES);
}

/* Candidates' number and beam mask of the rows that a level's children descend from. */
static void store_candidates(const struct expand_args *a, int head, int first)
{
    const struct beam *b = &a->beam;
    int k = b->k, n_parents = a->level == 0 ? 1 : k;
    size_t base = (size_t)head * n_candidates(b);
    const int32_t *fed =
        a->level == 0 ? NULL : b->node + ((size_t)head * b->depth + (a->level - 1)) * k;
    for (int j = 0; j < n_parents * k; j++) {
        size_t from = (size_t)head * n_parents * k + j;
        float parent = fed ? b->score[base + fed[j / k]] : 0;
        float score = parent + a->logprobs[from];
        b->token[base + first + j] = a->ids[from];
        b->score[base + first + j] = isnan(score) ? -INFINITY : score;
    }
}

/* The k best of the new candidates become rows of `next`. */
static void next_beam(const struct expand_args *a, int head, int first)
{
    const struct beam *b = &a->beam;
    const struct draft_rows *next = &a->next;
    int k = b->k, level = a->level, seat = b->seat[head];
    int len = a->state.seats[seat].len;
    size_t base = (size_t)head * n_candidates(b);
    struct scored best[MAX_TOP_K];
    uint64_t mask[MAX_TOP_K];
    scan_best(b->score + base + first, level == 0 ? k : k * k, k, best);
    for (int rank = 0; rank < k; rank++) {
        int parent = best[rank].id / k; /* rank in the previous beam */
        int candidate = first + best[rank].id, r = head * k + rank;
        mask[rank] = 1ull << (level * k + rank);
        if (level > 0) mask[rank] |= b->mask[(size_t)head * k + parent];
        b->node[((size_t)head * b->depth + level) * k + rank] = candidate;

        next->rows.seat[r] = seat;
        next->rows.id[r] = b->token[base + candidate];
        next->rows.slot[r] = len + 1 + level * k + rank;
        next->rows.prefix[r] = len + 1;
        next->rows.mask[r] = mask[rank];
        for (int axis = 0; axis < 3; axis++) next->rows.pos[3 * r + axis] = len + level;
        next->kind[r] = DRAFT_ROW_FUSED;
        next->h_row[r] = level == 0 ? head : head * k + parent;
        next->g_row[r] = seat;
    }
    for (int rank = 0; rank < k; rank++) b->mask[(size_t)head * k + rank] = mask[rank];
}

static void expand_run(const struct expand_args *a)
{
    const struct beam *b = &a->beam;
    require_shape(b);
    REQUIRE(a->level >= 0 && a->level <= b->depth);
    int n_heads = cpu_n_rows(b->n_heads, a->state.max_seqs);
    bool is_last = a->level == b->depth;
    REQUIRE(is_last || n_heads * b->k <= a->next.rows.max);
    int first = a->level == 0 ? 0 : b->k + (a->level - 1) * b->k * b->k;
    for (int head = 0; head < n_heads; head++) {
        store_candidates(a, head, first);
        if (!is_last) next_beam(a, head, first);
    }
    if (!is_last) *a->next.rows.n = n_heads * b->k;
}
CPU_OPERATION(expand, expand_args)

static const float *head_scores(const struct beam *b, int head)
{
    return b->score + (size_t)head * n_candidates(b);
}

/* Until the rows are made, tree.path of a drafting seat holds its best candidates in rank, n_path
 * of them, and n_nodes how many of those are kept; accept writes path and n_path anew. */
static int rank_candidates(const struct select_args *a, int n_heads)
{
    const struct beam *b = &a->beam;
    int n_ranked = 0;
    for (int head = 0; head < n_heads; head++) {
        int seat = b->seat[head];
        if (a->state.seats[seat].state != SEAT_DECODE) continue;
        struct scored best[MAX_NODES];
        int n = scan_best(head_scores(b, head), (int)n_candidates(b), a->n_nodes - 1, best);
        for (int j = 0; j < n; j++) a->tree.path[(size_t)seat * MAX_NODES + j] = best[j].id;
        a->tree.n_path[seat] = n;
        a->tree.n_nodes[seat] = n;
        n_ranked += n;
    }
    return n_ranked;
}

/* Keeps the best `budget` candidates of all seats: ties go to the lower number, then the lower
 * seat. Each seat's list is in rank, so the best of what is left is the best of the lists' heads.
 */
static void share_budget(const struct select_args *a, int n_heads, int budget)
{
    const struct beam *b = &a->beam;
    const struct tree *t = &a->tree;
    for (int head = 0; head < n_heads; head++)
        if (a->state.seats[b->seat[head]].state == SEAT_DECODE) t->n_nodes[b->seat[head]] = 0;
    for (; budget > 0; budget--) {
        struct scored best = {0};
        int best_seat = -1;
        for (int head = 0; head < n_heads; head++) {
            int seat = b->seat[head];
            if (a->state.seats[seat].state != SEAT_DECODE) continue;
            if (t->n_nodes[seat] == t->n_path[seat]) continue;
            int id = t->path[(size_t)seat * MAX_NODES + t->n_nodes[seat]];
            struct scored next = {head_scores(b, head)[id], id};
            if (best_seat >= 0 && !scored_before(next, best)) continue;
            best = next;
            best_seat = seat;
        }
        t->n_nodes[best_seat]++;
    }
}

/* Turns the kept candidates of a seat, if it has a head (>= 0), into its tree. */
static void build_tree(const struct select_args *a, int seat, int head)
{
    const struct beam *b = &a->beam;
    const struct tree *t = &a->tree;
    size_t base = (size_t)seat * MAX_NODES;
    int32_t kept[MAX_NODES]; /* candidate of node j + 1, increasing */
    int n = 0, k = b->k;
    for (int j = 0; head >= 0 && j < t->n_nodes[seat]; j++) {
        int candidate = t->path[base + j], place = n++;
        for (; place > 0 && kept[place - 1] > candidate; place--) kept[place] = kept[place - 1];
        kept[place] = candidate;
    }
    t->token[base] = a->state.seats[seat].root;
    t->parent[base] = -1;
    t->depth[base] = 0;
    t->mask[base] = 1;
    for (int j = 0; j < n; j++) {
        int node = j + 1, parent = 0;
        if (kept[j] >= k) {
            int beam_row = (kept[j] - k) / k; /* of all expansions */
            int fed = b->node[(size_t)head * b->depth * k + beam_row];
            while (parent < j && kept[parent] != fed) parent++;
            REQUIRE(parent < j);
            parent++;
        }
        t->token[base + node] = b->token[(size_t)head * n_candidates(b) + kept[j]];
        t->parent[base + node] = parent;
        t->depth[base + node] = t->depth[base + parent] + 1;
        t->mask[base + node] = t->mask[base + parent] | 1ull << node;
    }
    t->n_nodes[seat] = n + 1;
    t->old_len[seat] = a->state.seats[seat].len;
}

static void push_out(const struct out_rows *out, int row, int seat, int node)
{
    int i = (*out->n)++;
    REQUIRE(i < out->max);
    out->row[i] = row;
    out->seat[i] = seat;
    out->node[i] = node;
}

static void push_tree_rows(const struct select_args *a, int seat)
{
    const struct rows *rows = &a->rows;
    const struct tree *t = &a->tree;
    size_t base = (size_t)seat * MAX_NODES;
    int len = t->old_len[seat], delta = a->state.seats[seat].rope_delta;
    t->first_row[seat] = *rows->n;
    for (int node = 0; node < t->n_nodes[seat]; node++) {
        int r = (*rows->n)++;
        REQUIRE(r < rows->max);
        rows->seat[r] = seat;
        rows->id[r] = t->token[base + node];
        for (int axis = 0; axis < 3; axis++)
            rows->pos[3 * r + axis] = len + t->depth[base + node] + delta;
        rows->slot[r] = len + node;
        rows->prefix[r] = len;
        rows->mask[r] = t->mask[base + node];
        push_out(&a->out, r, seat, node);
    }
}

static void push_chunk_rows(const struct select_args *a, const struct chunk *c,
                            const struct prompt_row *prompt)
{
    const struct rows *rows = &a->rows;
    size_t base = (size_t)c->seat * MAX_NODES;
    REQUIRE(a->state.seats[c->seat].state == SEAT_PREFILL);
    a->tree.first_row[c->seat] = *rows->n;
    a->tree.old_len[c->seat] = c->first_slot + c->n_rows - 1;
    a->tree.depth[base] = 0;
    a->tree.mask[base] = 1;
    for (int i = 0; i < c->n_rows; i++) {
        int r = (*rows->n)++;
        REQUIRE(r < rows->max);
        rows->seat[r] = c->seat;
        rows->id[r] = prompt[i].id;
        for (int axis = 0; axis < 3; axis++) rows->pos[3 * r + axis] = prompt[i].pos[axis];
        rows->slot[r] = c->first_slot + i;
        rows->prefix[r] = c->first_slot + i + 1;
        rows->mask[r] = 0;
    }
    if (c->is_last) push_out(&a->out, *rows->n - 1, c->seat, 0);
}

static void select_run(const struct select_args *a)
{
    const struct round_state *st = &a->state;
    const struct round_input *in = &st->inputs[(uint32_t)*st->round % ROUND_RING];
    int n_heads = a->beam.n_heads ? cpu_n_rows(a->beam.n_heads, st->max_seqs) : 0;
    REQUIRE(a->n_nodes >= 1 && a->n_nodes <= MAX_NODES);
    if (n_heads > 0) require_shape(&a->beam);

    int n_fixed = 0; /* rows that must be there: roots and prompts */
    for (int seat = 0; seat < st->max_seqs; seat++) {
        a->tree.n_nodes[seat] = 0;
        n_fixed += st->seats[seat].state == SEAT_DECODE;
    }
    for (int i = 0; i < in->n_chunks; i++) n_fixed += in->chunks[i].n_rows;
    REQUIRE(n_fixed <= a->rows.max);
    int n_ranked = rank_candidates(a, n_heads);
    if (n_fixed + n_ranked > a->rows.max) share_budget(a, n_heads, a->rows.max - n_fixed);

    *a->rows.n = 0;
    *a->out.n = 0;
    int head = 0, i_chunk = 0;
    for (int seat = 0; seat < st->max_seqs; seat++) {
        bool is_head = head < n_heads && a->beam.seat[head] == seat;
        bool is_chunk = i_chunk < in->n_chunks && in->chunks[i_chunk].seat == seat;
        if (st->seats[seat].state == SEAT_DECODE) {
            build_tree(a, seat, is_head ? head : -1);
            push_tree_rows(a, seat);
        }
        if (is_chunk) {
            const struct chunk *c = &in->chunks[i_chunk++];
            push_chunk_rows(a, c, in->prompt_rows + c->first_row);
        }
        head += is_head;
    }
    REQUIRE(head == n_heads && i_chunk == in->n_chunks);
}
CPU_OPERATION(select, select_args)
