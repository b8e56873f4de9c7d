/* Whole rounds on a GPU, plain against speculative, as the engine runs them: random weights of
 * published shapes, trees of 3/8/30, and picks that accept a prescribed share of a draft.
 *
 *   bench/gpu/round [device [model [rounds]]]      rounds: of a case, at most
 *
 * One CSV row a case: sequences, context, nodes of a tree (1: plain), percent of the tree's nodes
 * with children whose pick is the first child; microseconds from one round's end to the next's
 * (median, tenth and ninetieth percentile), of them on the device for draft, verify and rest
 * (medians; what is missing to the whole is the device waiting for the host); of these in select,
 * accept and compact, with the two clocks around them; bytes of weights that drafting reads at
 * least; tokens of a round and a sequence; tokens/s of all; and these over plain decoding's.
 *
 * Prompts are random tokens and go through the rounds' own chunks; contexts then grow by what is
 * accepted.  ops->pick runs, and the kernel that replaces its picks (prescribe.cu) is counted in
 * `rest`. */
#include "runtime/engine/round.h"
#include "bench/gpu/prescribe.h"
#include "bench/gpu/weights.h"
#include "bench/spread.h"
#include "kernels/device_type.h"

#include <assert.h>

enum {
    MAX_SEQS = 16,
    MAX_ROWS = 512,
    DEPTH = 3,
    TOP_K = 8,
    NODES = 30,
    CTX = 1000,
    WARM_ROUNDS = 5,
    MAX_ROUNDS = 100,
    N_SLOTS = CTX + (WARM_ROUNDS + MAX_ROUNDS) * (DEPTH + 2) + NODES + 1,
    N_PAGES = (N_SLOTS + PAGE_LEN - 1) / PAGE_LEN, /* of a sequence */
};

/* Clocks of a round beside its own. */
enum { BEFORE_SELECT, BEHIND_SELECT, BEFORE_ACCEPT, BEHIND_COMPACT };
static_assert((int)BEHIND_COMPACT < (int)N_STAMPS, "they go to arrays like a round's own");

/* The device's type and operations, but for pick, and with clocks around select, accept and
 * compact; streams opened on it lead back here. */
struct prescribed {
    struct device_type type; /* first: a stream's type is a struct prescribed */
    struct ops ops;
    const struct ops *own;
    float *rate;                 /* [1] in device memory */
    struct round_output *clocks; /* [ROUND_RING] shared; stamps alone */
    struct round_state state;    /* of the round that is recorded, but its outputs are clocks */
};

struct bed {
    struct bench b;
    struct prescribed prescribed;
    const struct shape *shape;
    struct lm lm;
    struct vispec draft;
    struct round *round;
};

struct load {
    int n_seqs, n_rounds;
};

/* Microseconds of each round, and what all of them took and gave. */
struct samples {
    double whole[MAX_ROUNDS], draft[MAX_ROUNDS], verify[MAX_ROUNDS], rest[MAX_ROUNDS],
        bookkeeping[MAX_ROUNDS];
    double total_us, n_tokens;
};

static void pick_prescribed(struct stream *s, const struct pick_args *a)
{
    const struct prescribed *p = (const struct prescribed *)s->type;
    p->own->pick(s, a);
    bench_prescribe(s, a, p->rate);
}

static void stamp(struct prescribed *p, struct stream *s, int index)
{
    const struct stamp_args args = {p->state, index, index == BEHIND_COMPACT};
    p->own->stamp(s, &args);
}

static void select_stamped(struct stream *s, const struct select_args *a)
{
    struct prescribed *p = (struct prescribed *)s->type;
    p->state = a->state;
    p->state.outputs = p->clocks;
    stamp(p, s, BEFORE_SELECT);
    p->own->select(s, a);
    stamp(p, s, BEHIND_SELECT);
}

static void accept_stamped(struct stream *s, const struct accept_args *a)
{
    struct prescribed *p = (struct prescribed *)s->type;
    stamp(p, s, BEFORE_ACCEPT);
    p->own->accept(s, a);
}

static void compact_stamped(struct stream *s, const struct compact_args *a)
{
    struct prescribed *p = (struct prescribed *)s->type;
    p->own->compact(s, a);
    stamp(p, s, BEHIND_COMPACT);
}

static void prescribe_device(struct prescribed *p, struct device *dev)
{
    *p = (struct prescribed){.type = *dev->type, .ops = *dev->type->ops, .own = dev->type->ops};
    p->rate = device_alloc(dev, sizeof(*p->rate), "share of accepted nodes");
    p->clocks = device_alloc_shared(dev, ROUND_RING * sizeof(*p->clocks), "clocks");
    p->ops.pick = pick_prescribed;
    p->ops.select = select_stamped;
    p->ops.accept = accept_stamped;
    p->ops.compact = compact_stamped;
    p->type.ops = &p->ops;
    dev->type = &p->type;
}

static void open_round(struct bed *bed)
{
    const struct round_limits limits = {.max_seqs = MAX_SEQS,
                                        .max_rows = MAX_ROWS,
                                        .n_pages = MAX_SEQS * N_PAGES,
                                        .max_pages = N_PAGES,
                                        .depth = DEPTH,
                                        .k = TOP_K,
                                        .n_nodes = NODES};
    const struct draft_limits draft = {.max_seqs = MAX_SEQS,
                                       .max_extend = MAX_ROWS + MAX_SEQS,
                                       .k = TOP_K,
                                       .n_positions = N_PAGES * PAGE_LEN};
    bench_fill_lm(&bed->b, &bed->lm, bed->shape, N_PAGES * PAGE_LEN);
    bench_fill_draft(&bed->b, &bed->draft, &bed->lm, &draft);
    bed->round = round_open(bed->b.dev, &bed->lm, &bed->draft.draft, &limits);
}

static void close_round(struct bed *bed)
{
    round_close(bed->round);
    bench_free_draft(&bed->b, &bed->draft);
    bench_free_lm(&bed->b, &bed->lm);
}

static void add_join(struct round_input *in, int seat, bool use_draft)
{
    in->joins[in->n_joins++] = (struct join){.seat = seat,
                                             .sampling = {.top_p = 1,
                                                          .repetition_penalty = 1,
                                                          .max_tokens = INT32_MAX / 2,
                                                          .n_logprobs = -1,
                                                          .use_draft = use_draft}};
    for (int i = 0; i < N_PAGES; i++)
        for (int is_draft = 0; is_draft <= use_draft; is_draft++)
            in->pages[in->n_pages++] = (struct page_entry){
                .seat = seat, .index = i, .page = seat * N_PAGES + i, .is_draft = is_draft};
}

static void add_chunk(const struct bed *bed, struct round_input *in, int seat, int first, int n)
{
    const int32_t zero = round_zero_row(bed->round);
    in->chunks[in->n_chunks++] = (struct chunk){.seat = seat,
                                                .first_row = in->n_prompt_rows,
                                                .n_rows = n,
                                                .first_slot = first,
                                                .is_last = first + n == CTX,
                                                .final_g = zero};
    for (int pos = first; pos < first + n; pos++) {
        const int32_t id = (seat * CTX + pos) * 7919 % bed->shape->vocab;
        in->prompt_rows[in->n_prompt_rows++] =
            (struct prompt_row){.id = id,
                                .token = id,
                                .pos = {pos, pos, pos},
                                .draft_kind = pos > 0 ? DRAFT_ROW_FUSED : DRAFT_ROW_NONE,
                                .draft_id = id,
                                .g_row = zero};
    }
}

static void run_round(struct bed *bed, int n_rows)
{
    round_launch(bed->round, n_rows);
    round_finish(bed->round);
}

/* All prompts but their last rows, which share a round, so that answers begin together. */
static void seat_all(struct bed *bed, int n_seqs, bool use_draft)
{
    struct round_input *in;
    for (int seat = 0; seat < n_seqs; seat++) {
        for (int first = 0, n; first < CTX - 1; first += n) {
            n = CTX - 1 - first < MAX_ROWS ? CTX - 1 - first : MAX_ROWS;
            in = round_input(bed->round);
            if (first == 0) add_join(in, seat, use_draft);
            add_chunk(bed, in, seat, first, n);
            run_round(bed, n);
        }
    }
    in = round_input(bed->round);
    for (int seat = 0; seat < n_seqs; seat++) add_chunk(bed, in, seat, CTX - 1, 1);
    run_round(bed, n_seqs);
}

static void free_seats(struct bed *bed, int n_seqs)
{
    struct round_input *in = round_input(bed->round);
    for (int seat = 0; seat < n_seqs; seat++) in->leaves[in->n_leaves++] = seat;
    run_round(bed, 0);
}

static double us_between(const struct round_output *out, int from, int to)
{
    return 1e-3 * (double)(out->stamps[to] - out->stamps[from]);
}

/* Of the round that has just finished. */
static void take_sample(const struct bed *bed, struct samples *to, int i,
                        const struct round_output *out, int n_seqs, double us)
{
    const struct round_output *clocks =
        &bed->prescribed.clocks[(round_n_finished(bed->round) - 1) % ROUND_RING];
    to->whole[i] = us;
    to->draft[i] = us_between(out, 0, 1);
    to->verify[i] = us_between(out, 1, 2);
    to->rest[i] = us_between(out, 2, 3);
    to->bookkeeping[i] = us_between(clocks, BEFORE_SELECT, BEHIND_SELECT) +
                         us_between(clocks, BEFORE_ACCEPT, BEHIND_COMPACT);
    to->total_us += us;
    for (int seat = 0; seat < n_seqs; seat++) to->n_tokens += out->seats[seat].n_tokens;
}

/* The host is as far ahead as the engine is. */
static void run_rounds(struct bed *bed, const struct load *load, int n_nodes, struct samples *to)
{
    const uint64_t begin = round_n_finished(bed->round),
                   end = begin + WARM_ROUNDS + (uint64_t)load->n_rounds;
    double last_us = 0;
    for (int i = -WARM_ROUNDS; i < load->n_rounds; i++) {
        while (round_n_launched(bed->round) < end &&
               round_n_launched(bed->round) - round_n_finished(bed->round) < ROUNDS_IN_FLIGHT) {
            round_input(bed->round);
            round_launch(bed->round, load->n_seqs * n_nodes);
        }
        const struct round_output *out = round_finish(bed->round);
        const double us = now_us();
        if (i >= 0) take_sample(bed, to, i, out, load->n_seqs, us - last_us);
        last_us = us;
    }
}

/* Prints a case; returns its tokens/s. */
static double bench_rounds(struct bed *bed, const struct load *load, int n_nodes, float rate,
                           double plain_rate)
{
    struct samples s = {.n_tokens = 0};
    device_write(bed->b.dev, bed->prescribed.rate, &rate, sizeof(rate));
    seat_all(bed, load->n_seqs, n_nodes > 1);
    run_rounds(bed, load, n_nodes, &s);
    free_seats(bed, load->n_seqs);
    const int n = load->n_rounds;
    const struct spread whole = spread_of(s.whole, n);
    const double tokens_a_s = 1e6 * s.n_tokens / s.total_us;
    printf("round,%s,%d sequences,%d,%d,%.0f,%.1f,%.1f,%.1f,%.1f,%.1f,%.1f,%.1f,%.0f,%.2f,%.1f,"
           "%.2f\n",
           bed->shape->name, load->n_seqs, CTX, n_nodes, 100 * (double)rate, whole.median,
           whole.p10, whole.p90, spread_of(s.draft, n).median, spread_of(s.verify, n).median,
           spread_of(s.rest, n).median, spread_of(s.bookkeeping, n).median,
           n_nodes > 1 ? (DEPTH + 1) * bench_draft_bytes(bed->shape) : 0,
           s.n_tokens / (n * load->n_seqs), tokens_a_s,
           plain_rate > 0 ? tokens_a_s / plain_rate : 1);
    fflush(stdout);
    return tokens_a_s;
}

int main(int argc, char **argv)
{
    /* Fewer rounds where each has more sequences. */
    static const struct load loads[] = {{1, MAX_ROUNDS}, {4, 60}, {MAX_SEQS, 30}};
    static const float rates[] = {0.5F, 0.7F, 0.9F};
    const int max_rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : MAX_ROUNDS;
    struct bed bed;
    bench_open(&bed.b, argc, argv);
    prescribe_device(&bed.prescribed, bed.b.dev);
    printf("op,model,part,a,b,c,us,us_p10,us_p90,draft_us,verify_us,rest_us,bookkeeping_us,"
           "draft_bytes,tokens,tokens_a_s,speculative_over_plain\n");
    for (int i = 0; i < N_SHAPES; i++) {
        bed.shape = &bench_shapes[i];
        if (!bench_wants(&bed.b, bed.shape)) continue;
        open_round(&bed);
        for (size_t l = 0; l < sizeof(loads) / sizeof(*loads); l++) {
            struct load load = loads[l];
            if (load.n_rounds > max_rounds) load.n_rounds = max_rounds;
            const double plain = bench_rounds(&bed, &load, 1, 0, 0);
            for (size_t r = 0; r < sizeof(rates) / sizeof(*rates); r++)
                bench_rounds(&bed, &load, NODES, rates[r], plain);
        }
        close_round(&bed);
    }
    device_free(bed.b.dev, bed.prescribed.rate);
    device_free_shared(bed.b.dev, bed.prescribed.clocks);
    bench_close(&bed.b);
    return 0;
}
