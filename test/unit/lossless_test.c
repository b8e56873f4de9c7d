/* Speculation gives the tokens that decoding one at a time gives: the round's operations around a
 * target and a draft that are invented here.
 *
 * The target's cache is the real one: a row writes its token and position into its slot of the page
 * pool, and the logits of a row are a function of the tokens and positions that it sees there by
 * prefix, mask and page table.  So a wrong mask, slot or position and a page that compact spoils
 * all change the answer.  The hidden state of a row is a digest of the same context, so the draft's
 * input rows are checked too.  What must come out is computed by the plain rules of test/round.c.
 */
#include "test/test.h"

#include "test/opbed.h"

#include <math.h>
#include <stdlib.h>

enum {
    N_SEATS = 5,
    VOCAB = 97,
    PLACEHOLDER = 5,
    WIDTH = 3,
    K = 4,
    DEPTH = 3,
    MAX_ROWS = 48, /* five seats want 24 nodes each, so the budget is shared */
    MAX_PAGES = 4,
    MAX_PROMPT = 90,
    MAX_ANSWER = 60,
    MAX_LEN = MAX_PROMPT + MAX_ANSWER + 1,
};

struct request {
    struct sampling sampling;
    int32_t tokens[MAX_LEN]; /* prompt, then the answer as it came */
    int32_t prompt[MAX_LEN]; /* the prompt with PLACEHOLDER for image tokens */
    int n_prompt, n_tokens;
    int rope_delta, final_g;
    int nan_from;     /* logits of tokens from this position on hold a NaN */
    int cancel_after; /* leaves when its answer has that many tokens */
    int32_t want[MAX_ANSWER];
    int n_want, want_finish;
};

/* A seat as the host sees it. */
struct guest {
    struct request *request; /* NULL: the seat is free */
    int n_read;              /* prompt tokens sent */
    bool is_over;
    bool has_draft_row[MAX_LEN + MAX_NODES];
};

struct sim {
    struct opbed r;
    struct kv_pool pool;
    struct packed *head; /* the identity: logits are the rows themselves */
    struct guest guests[N_SEATS], before[N_SEATS]; /* before: at the end of the last round */
    float *hidden, *logits, *scores, *table, *x, *h, *draft_logits, *logprobs;
    float *target_logits; /* as they come to the head; what it writes is in logits */
    int32_t *ids, *n_topk, *pick;
    struct token_logprobs *top;
    unsigned seed;
    int n_nodes, n_accepted, n_drafted, n_rounds;
};

static int roll(struct sim *s, int n)
{
    return kernels_random_int(&s->seed, n);
}

/* ---- the invented models
 * -------------------------------------------------------------------------- */

static uint32_t mix(uint32_t h, uint32_t x)
{
    h = (h ^ x) * 0x9e3779b1u;
    h ^= h >> 15;
    h *= 0x85ebca77u;
    return h ^ h >> 13;
}

static int position_of(const struct request *q, int index)
{
    return index < q->n_prompt ? index : index + q->rope_delta;
}

/* Digest of a context: tokens and their rotary positions, in order. */
static uint32_t digest(uint32_t h, int32_t id, int position)
{
    return mix(mix(h, (uint32_t)id), (uint32_t)position);
}

static uint32_t digest_of_first(const struct request *q, int n)
{
    uint32_t h = 1;
    for (int i = 0; i < n; i++) h = digest(h, q->tokens[i], position_of(q, i));
    return h;
}

/* Three likely tokens above a floor; steps, so that ties happen. */
static void invent_logits(uint32_t h, float *logits)
{
    for (uint32_t id = 0; id < VOCAB; id++) logits[id] = 0.25f * (float)(mix(h, id) % 12) - 2;
    for (uint32_t i = 0; i < 3; i++) logits[mix(h, 1000 + i) % VOCAB] += 2 + 1.5f * (float)i;
}

static void target_logits(const struct request *q, uint32_t h, int position, float *logits)
{
    invent_logits(h, logits);
    if (q->nan_from >= 0 && position >= q->nan_from) logits[h % VOCAB] = NAN;
}

/* Mostly like the target, sometimes something else. */
static void draft_logits(uint32_t h, float *logits)
{
    invent_logits(mix(h, 77) % 4 == 0 ? mix(h, 78) : h, logits);
}

/* ---- requests
 * --------------------------------------------------------------------------------------- */

static float one_of(struct sim *s, int n, const float *values)
{
    return values[roll(s, n)];
}

static struct sampling random_sampling(struct sim *s)
{
    struct sampling x = opbed_greedy();
    x.seed = (uint64_t)roll(s, 1 << 30) << 33 | (uint64_t)roll(s, 1 << 30);
    x.choice = (uint32_t)roll(s, 3);
    x.max_tokens = 1 + roll(s, MAX_ANSWER);
    x.n_logprobs = roll(s, 6) - 1;
    x.use_draft = roll(s, 5) > 0;
    x.n_stop_ids = roll(s, 3);
    for (int i = 0; i < x.n_stop_ids; i++) x.stop_ids[i] = roll(s, VOCAB);
    x.min_tokens = roll(s, 2) * roll(s, 10);
    if (roll(s, 3) == 0) return x; /* greedy, nothing else */
    x.temperature = one_of(s, 4, (float[]){0, 0.5f, 1, 1.4f});
    x.top_k = (int)one_of(s, 4, (float[]){0, 0, 2, 20});
    x.top_p = one_of(s, 4, (float[]){1, 1, 0.9f, 0.5f});
    x.min_p = one_of(s, 3, (float[]){0, 0, 0.1f});
    x.repetition_penalty = one_of(s, 3, (float[]){1, 1.2f, 0.8f});
    x.frequency_penalty = one_of(s, 3, (float[]){0, 0.3f, -0.2f});
    x.presence_penalty = one_of(s, 3, (float[]){0, 0.5f, -0.1f});
    return x;
}

/* One token at a time, by the plain rules. */
static void decode_plainly(struct request *q)
{
    while (q->want_finish == FINISH_NONE) {
        float logits[VOCAB], scores[VOCAB];
        int n = q->n_prompt + q->n_want;
        struct naive_context c = {.sampling = &q->sampling,
                                  .prompt = q->prompt,
                                  .answer = q->want,
                                  .n_prompt = q->n_prompt,
                                  .n_answer = q->n_want,
                                  .position = n};
        memcpy(q->tokens + q->n_prompt, q->want, (size_t)q->n_want * sizeof(int32_t));
        target_logits(q, digest_of_first(q, n), n, logits);
        naive_filter(&c, logits, VOCAB, scores);
        int token = naive_pick(&c, logits, scores, VOCAB);
        q->want_finish = token < 0 ? FINISH_NAN : FINISH_NONE;
        if (token < 0) break;
        q->want[q->n_want++] = token;
        for (int i = 0; i < q->sampling.n_stop_ids; i++)
            if (q->sampling.stop_ids[i] == token) q->want_finish = FINISH_STOP;
        if (q->want_finish == FINISH_NONE && q->n_want == q->sampling.max_tokens)
            q->want_finish = FINISH_LENGTH;
    }
    q->n_tokens = q->n_prompt;
}

static void invent_request(struct sim *s, struct request *q, int index)
{
    *q = (struct request){.sampling = random_sampling(s), .nan_from = -1, .cancel_after = -1};
    q->n_prompt = 1 + roll(s, roll(s, 2) ? MAX_PROMPT : 9);
    for (int i = 0; i < q->n_prompt; i++) { /* some are pictures' rows */
        q->tokens[i] = roll(s, 8) == 0 ? ~(N_SEATS + 1 + roll(s, 60)) : roll(s, VOCAB);
        q->prompt[i] = q->tokens[i] < 0 ? PLACEHOLDER : q->tokens[i];
    }
    q->rope_delta = roll(s, 2) * -roll(s, 8);
    q->final_g = N_SEATS + 1 + index % 60;
    if (roll(s, 12) == 0) q->nan_from = q->n_prompt + roll(s, 30);
    if (roll(s, 10) == 0) q->cancel_after = roll(s, 20);
    decode_plainly(q);
}

/* ---- the host's side of a round
 * --------------------------------------------------------------------- */

static float *cache_at(const struct sim *s, float *of, int seat, int slot)
{
    int page = s->pool.table[seat * MAX_PAGES + slot / PAGE_LEN];
    CHECK(page >= 0);
    return of + ((size_t)page * PAGE_LEN + (size_t)(slot % PAGE_LEN));
}

/* Joins a request with pages in random order. */
static void join(struct sim *s, struct round_input *in, int seat, struct request *q)
{
    struct guest *g = &s->guests[seat];
    *g = (struct guest){.request = q};
    in->joins[in->n_joins++] =
        (struct join){.seat = seat, .rope_delta = q->rope_delta, .sampling = q->sampling};
    int shift = roll(s, MAX_PAGES);
    for (int i = 0; i < MAX_PAGES; i++) {
        int page = seat + N_SEATS * ((i + shift) % MAX_PAGES);
        in->pages[in->n_pages++] = (struct page_entry){.seat = seat, .index = i, .page = page};
    }
}

static void send_chunk(struct sim *s, struct round_input *in, int seat)
{
    struct guest *g = &s->guests[seat];
    const struct request *q = g->request;
    int left = q->n_prompt - g->n_read, n = 1 + roll(s, left < 8 ? left : 8);
    in->chunks[in->n_chunks++] = (struct chunk){.seat = seat,
                                                .first_row = in->n_prompt_rows,
                                                .n_rows = n,
                                                .first_slot = g->n_read,
                                                .is_last = n == left,
                                                .final_g = q->final_g};
    for (int i = 0; i < n; i++) {
        int at = g->n_read + i, id = q->tokens[at];
        in->prompt_rows[in->n_prompt_rows++] =
            (struct prompt_row){.id = id,
                                .token = q->prompt[at],
                                .pos = {at, at, at},
                                .draft_kind = id >= 0  ? DRAFT_ROW_FUSED
                                              : at % 2 ? DRAFT_ROW_DIRECT
                                                       : DRAFT_ROW_NONE,
                                .draft_id = id,
                                .g_row = N_SEATS};
        if (id < 0 && at % 2 == 0) g->has_draft_row[at] = true; /* needs none */
    }
    g->n_read += n;
}

static struct round_input *fill_input(struct sim *s, struct request *requests, int n_requests,
                                      int *n_joined)
{
    struct round_input *in = opbed_input(&s->r);
    for (int seat = 0; seat < N_SEATS; seat++) {
        struct guest *g = &s->guests[seat];
        if (!g->request && *n_joined < n_requests) join(s, in, seat, &requests[(*n_joined)++]);
        if (!g->request) continue;
        if (g->is_over) {
            in->leaves[in->n_leaves++] = seat;
            g->request = NULL;
        } else if (g->n_read < g->request->n_prompt && roll(s, 4) > 0) {
            send_chunk(s, in, seat);
        }
    }
    return in;
}

/* ---- the draft's side
 * ----------------------------------------------------------------------------------- */

/* The rows that accept made for this extend pass: each slot once, with the hidden state in front of
 * its token. */
static void check_draft_rows(struct sim *s)
{
    const struct draft_rows *next = &s->r.next;
    for (int i = 0; i < *next->rows.n; i++) {
        int seat = next->rows.seat[i], slot = next->rows.slot[i];
        const struct request *q = s->before[seat].request;
        CHECK(q && q->sampling.use_draft);
        CHECK_INT(slot, >, 0);
        CHECK_INT(slot, <, q->n_tokens);
        CHECK(!s->guests[seat].has_draft_row[slot]);
        s->guests[seat].has_draft_row[slot] = true;
        CHECK_INT(next->rows.id[i], ==, q->tokens[slot]);
        CHECK_INT(next->rows.prefix[i], ==, slot + 1);
        CHECK_INT(next->rows.mask[i], ==, 0);
        for (int axis = 0; axis < 3; axis++) CHECK_INT(next->rows.pos[3 * i + axis], ==, slot - 1);
        const float *h = s->h + WIDTH * i, *x = s->x + WIDTH * i;
        if (q->tokens[slot] < 0) {
            CHECK_INT(next->kind[i], ==, DRAFT_ROW_DIRECT);
            CHECK(h[0] == 0 && x[0] == s->r.state.pool[~q->tokens[slot] * WIDTH]);
            continue;
        }
        uint32_t digest = digest_of_first(q, slot);
        CHECK(h[0] == (float)(digest & 0xffff) && h[1] == (float)(digest >> 16));
        int g_row = slot < q->n_prompt ? N_SEATS : q->final_g;
        const float *g = s->r.state.pool + g_row * WIDTH;
        CHECK(x[0] == (float)q->tokens[slot] + g[0] && x[1] == g[1]);
    }
}

static void check_heads(struct sim *s)
{
    for (int i = 0; i < *s->r.beam.n_heads; i++) {
        int seat = s->r.beam.seat[i], row = s->r.beam.head_row[i];
        const struct request *q = s->before[seat].request;
        CHECK_INT(s->r.next.rows.seat[row], ==, seat);
        CHECK_INT(s->r.next.rows.slot[row], ==, q->n_tokens - 1);
        for (int slot = 1; slot < q->n_tokens; slot++) CHECK(s->guests[seat].has_draft_row[slot]);
    }
}

static void run_topk(struct sim *s, int n)
{
    *s->n_topk = n;
    s->r.k.ops->topk(s->r.k.stream, &(struct topk_args){.w = s->head,
                                                        .x = s->draft_logits,
                                                        .ids = s->ids,
                                                        .logprobs = s->logprobs,
                                                        .n = s->n_topk,
                                                        .max = N_SEATS * K,
                                                        .ldx = VOCAB,
                                                        .vocab = VOCAB,
                                                        .k = K});
}

static void grow_trees(struct sim *s, struct draft_rows beam_rows)
{
    struct opbed *r = &s->r;
    int n_heads = *r->beam.n_heads;
    int32_t scratch[N_SEATS][DEPTH * K];
    for (int level = 0; level <= DEPTH; level++) {
        for (int i = 0; level == 0 && i < n_heads; i++) {
            const struct request *q = s->before[r->beam.seat[i]].request;
            draft_logits(digest_of_first(q, q->n_tokens), s->draft_logits + i * VOCAB);
        }
        for (int i = 0; level > 0 && i < n_heads * K; i++) {
            int seat = beam_rows.rows.seat[i];
            const struct request *q = s->before[seat].request;
            scratch[seat][(level - 1) * K + i % K] = beam_rows.rows.id[i];
            uint32_t h = digest_of_first(q, q->n_tokens);
            int position = position_of(q, q->n_tokens);
            for (uint64_t left = beam_rows.rows.mask[i]; left; left &= left - 1)
                h = digest(h, scratch[seat][__builtin_ctzll(left)], position++);
            draft_logits(h, s->draft_logits + i * VOCAB);
        }
        run_topk(s, level == 0 ? n_heads : n_heads * K);
        r->k.ops->expand(r->k.stream, &(struct expand_args){r->state, r->beam, beam_rows, s->ids,
                                                            s->logprobs, level});
        opbed_wait(r);
    }
}

/* ---- the target's side
 * ---------------------------------------------------------------------------------- */

static void run_target(struct sim *s)
{
    const struct rows *rows = &s->r.rows;
    CHECK_INT(*rows->n, <=, MAX_ROWS);
    for (int i = 0; i < *rows->n; i++) {
        *cache_at(s, s->pool.k, rows->seat[i], rows->slot[i]) = (float)rows->id[i];
        *cache_at(s, s->pool.v, rows->seat[i], rows->slot[i]) = (float)rows->pos[3 * i];
    }
    int i_out = 0;
    for (int i = 0; i < *rows->n; i++) {
        int seat = rows->seat[i], n_seen = rows->prefix[i];
        uint32_t h = 1;
        for (int slot = 0; slot < rows->prefix[i]; slot++)
            h = digest(h, (int)*cache_at(s, s->pool.k, seat, slot),
                       (int)*cache_at(s, s->pool.v, seat, slot));
        for (uint64_t left = rows->mask[i]; left; left &= left - 1, n_seen++) {
            int slot = rows->prefix[i] + __builtin_ctzll(left);
            h = digest(h, (int)*cache_at(s, s->pool.k, seat, slot),
                       (int)*cache_at(s, s->pool.v, seat, slot));
        }
        s->hidden[i * WIDTH] = (float)(h & 0xffff);
        s->hidden[i * WIDTH + 1] = (float)(h >> 16);
        if (i_out == *s->r.out.n || s->r.out.row[i_out] != i) continue;
        target_logits(s->guests[seat].request, h, n_seen, s->target_logits + i_out++ * VOCAB);
    }
    CHECK_INT(i_out, ==, *s->r.out.n);
}

static void sample_and_accept(struct sim *s)
{
    struct opbed *r = &s->r;
    struct stream *st = r->k.stream;
    r->k.ops->head(st, &(struct head_args){r->state, r->out, r->tree, s->head, s->target_logits,
                                           s->logits, VOCAB});
    r->k.ops->logprobs(st, &(struct logprobs_args){r->state, r->out, s->logits, s->top});
    r->k.ops->filter(st, &(struct filter_args){r->state, r->out, r->tree, s->logits, s->scores});
    r->k.ops->pick(st,
                   &(struct pick_args){r->state, r->out, r->tree, s->logits, s->scores, s->pick});
    r->k.ops->accept(st, &(struct accept_args){r->state, r->tree, r->rows, r->out, s->pick, s->top,
                                               s->logits, r->next, r->beam});
    r->k.ops->compact(st, &(struct compact_args){r->tree, s->pool, N_SEATS});
    opbed_wait(r);
}

static void check_logprobs(const struct request *q, const struct token_logprobs *got, int32_t token,
                           int index)
{
    float logits[VOCAB];
    target_logits(q, digest_of_first(q, index), index, logits);
    double sum = 0;
    for (int id = 0; id < VOCAB; id++) sum += exp((double)logits[id]);
    float want = (float)((double)logits[token] - log(sum));
    CHECK_CLOSE(&got->logprob, &want, 1, 1e-5, 0);
    if (q->sampling.n_logprobs > 0) {
        float first = (float)((double)logits[got->ids[0]] - log(sum));
        CHECK_CLOSE(&got->logprobs[0], &first, 1, 1e-5, 0);
        for (int id = 0; id < VOCAB; id++) CHECK(logits[id] <= logits[got->ids[0]]);
    }
}

/* What the host does with a round's output: everything must be a piece of the plain answer. */
static void read_output(struct sim *s)
{
    const struct round_output *output = opbed_output(&s->r);
    for (int seat = 0; seat < N_SEATS; seat++) {
        struct guest *g = &s->guests[seat];
        const struct seat_output *o = &output->seats[seat];
        if (!g->request || g->n_read < g->request->n_prompt) CHECK_INT(o->n_tokens, ==, 0);
        if (!g->request) continue;
        struct request *q = g->request;
        for (int i = 0; i < o->n_tokens; i++) {
            int n_answer = q->n_tokens - q->n_prompt;
            CHECK_INT(n_answer, <, q->n_want);
            CHECK_INT(o->tokens[i], ==, q->want[n_answer]);
            if (q->sampling.n_logprobs >= 0)
                check_logprobs(q, &output->logprobs[seat * MAX_NODES + i], o->tokens[i],
                               q->n_tokens);
            q->tokens[q->n_tokens++] = o->tokens[i];
        }
        s->n_drafted += o->n_drafted;
        s->n_accepted += o->n_drafted > 0 ? o->n_tokens - 1 : 0;
        if (!q->sampling.use_draft) CHECK_INT(o->n_drafted, ==, 0);
        int n_answer = q->n_tokens - q->n_prompt;
        CHECK_INT(s->r.state.seats[seat].n_generated, ==, n_answer);
        g->is_over = o->finish != FINISH_NONE;
        if (g->is_over) {
            CHECK_INT(o->finish, ==, q->want_finish);
            CHECK_INT(n_answer, ==, q->n_want);
            CHECK_INT(s->r.state.seats[seat].state, ==, SEAT_FINISHED);
        } else if (n_answer == q->n_want) {
            CHECK_INT(q->want_finish, ==, FINISH_NAN); /* comes with the next pick */
        }
        if (q->cancel_after >= 0 && n_answer >= q->cancel_after) g->is_over = true;
    }
}

static void open_sim(struct sim *s, unsigned seed)
{
    *s = (struct sim){.seed = seed};
    struct opbed *r = &s->r;
    opbed_open(r, &(struct opbed_shape){.max_seqs = N_SEATS,
                                        .vocab = VOCAB,
                                        .width = WIDTH,
                                        .max_rows = MAX_ROWS,
                                        .k = K,
                                        .depth = DEPTH});
    for (int i = N_SEATS + 1; i < N_SEATS + 65; i++)
        for (int j = 0; j < WIDTH; j++) r->state.pool[i * WIDTH + j] = (float)(i + 100 * j);
    int n_pages = N_SEATS * MAX_PAGES;
    s->pool = (struct kv_pool){.k = opbed_array(r, (size_t)n_pages * PAGE_LEN * sizeof(float)),
                               .v = opbed_array(r, (size_t)n_pages * PAGE_LEN * sizeof(float)),
                               .table = opbed_array(r, (size_t)n_pages * sizeof(int32_t)),
                               .n_layers = 1,
                               .n_pages = n_pages,
                               .n_kv_heads = 1,
                               .head_dim = 1,
                               .max_pages = MAX_PAGES};
    static float identity[VOCAB * VOCAB];
    for (int i = 0; i < VOCAB; i++) identity[i * (VOCAB + 1)] = 1;
    s->head = r->k.ops->pack(r->k.dev, identity, DTYPE_F32, VOCAB, VOCAB, 0);
    size_t logits = (size_t)MAX_ROWS * VOCAB * sizeof(float), row = MAX_ROWS * sizeof(int32_t);
    s->hidden = opbed_array(r, row * WIDTH);
    s->logits = opbed_array(r, logits);
    s->scores = opbed_array(r, logits);
    s->target_logits = opbed_array(r, logits);
    s->draft_logits = opbed_array(r, logits);
    s->logprobs = opbed_array(r, row * K);
    s->ids = opbed_array(r, row * K);
    s->x = opbed_array(r, row * WIDTH);
    s->h = opbed_array(r, row * WIDTH);
    s->table = opbed_array(r, VOCAB * WIDTH * sizeof(float));
    memset(s->table, 0, VOCAB * WIDTH * sizeof(float));
    for (int i = 0; i < VOCAB; i++) s->table[i * WIDTH] = (float)i;
    s->n_topk = opbed_array(r, sizeof(int32_t));
    s->pick = opbed_array(r, row);
    s->top = opbed_array(r, MAX_ROWS * sizeof(struct token_logprobs));
}

static bool is_busy(const struct sim *s)
{
    for (int seat = 0; seat < N_SEATS; seat++)
        if (s->guests[seat].request) return true;
    return false;
}

static void run_requests(struct sim *s, struct request *requests, int n_requests)
{
    struct opbed *r = &s->r;
    struct draft_rows beam_rows = opbed_draft_rows(r, N_SEATS * K);
    int n_joined = 0;
    while (n_joined < n_requests || is_busy(s)) {
        memcpy(s->before, s->guests, sizeof(s->before));
        fill_input(s, requests, n_requests, &n_joined);
        r->k.ops->apply(r->k.stream, &(struct apply_args){.state = r->state, .target = s->pool});
        r->k.ops->draft_input(r->k.stream, &(struct draft_input_args){.state = r->state,
                                                                      .in = r->next,
                                                                      .hidden = s->hidden,
                                                                      .table = s->table,
                                                                      .x = s->x,
                                                                      .h = s->h});
        r->k.ops->carry(r->k.stream, &(struct carry_args){r->state, r->tree, s->hidden});
        opbed_wait(r);
        check_draft_rows(s);
        check_heads(s);
        grow_trees(s, beam_rows);
        r->k.ops->select(r->k.stream, &(struct select_args){r->state, r->beam, r->tree, r->rows,
                                                            r->out, s->n_nodes});
        opbed_wait(r);
        run_target(s);
        sample_and_accept(s);
        read_output(s);
        s->n_rounds++;
    }
}

static void check_lossless(int n_requests, int n_nodes, unsigned seed)
{
    static struct sim s;
    struct request *requests = calloc((size_t)n_requests, sizeof(*requests));
    CHECK(requests != NULL);
    open_sim(&s, seed);
    s.n_nodes = n_nodes;
    int n_tokens = 0, n_finished[FINISH_NAN + 1] = {0};
    for (int i = 0; i < n_requests; i++) {
        invent_request(&s, &requests[i], i);
        n_tokens += requests[i].n_want;
        n_finished[requests[i].want_finish]++;
    }
    run_requests(&s, requests, n_requests);
    for (int i = 0; i < n_requests; i++)
        if (requests[i].cancel_after < 0)
            CHECK_INT(requests[i].n_tokens - requests[i].n_prompt, ==, requests[i].n_want);
    /* The test means something only if drafts are accepted and refused, and answers end in all
     * ways. */
    CHECK_INT(s.n_rounds, <, n_tokens);
    for (int i = FINISH_STOP; i <= FINISH_NAN; i++) CHECK_INT(n_finished[i], >, 5);
    if (n_nodes > 1) {
        CHECK_INT(s.n_accepted, >, n_tokens / 4);
        CHECK_INT(s.n_drafted, >, 2 * s.n_accepted);
    }
    free(requests);
    s.r.k.ops->packed_free(s.r.k.dev, s.head);
    opbed_close(&s.r);
}

TEST(speculation_gives_the_tokens_of_decoding_one_at_a_time)
{
    check_lossless(400, 24, 1);
}

TEST(chains_and_small_trees_give_them_too)
{
    check_lossless(250, 5, 2);
}

TEST(the_largest_tree_gives_them_too)
{
    check_lossless(250, 53, 3);
}

TEST(a_round_without_nodes_behind_the_root_gives_them_too)
{
    check_lossless(250, 1, 4);
}
