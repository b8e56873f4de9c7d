#include "runtime/engine/scheduler.h"

#include "runtime/engine/pagepool.h"
#include "runtime/mem.h"

#include <assert.h>
#include <stdlib.h>

enum place_state { PLACE_FREE, PLACE_JOINING, PLACE_RUNNING, PLACE_ENDING, PLACE_LEAVING };

/* A seat as the host sees it. */
struct place {
    enum place_state state;
    struct job *job; /* JOINING and RUNNING */
    int n_sent;      /* prompt rows sent so far */
    int n_pages;
    int32_t *pages;               /* [max_pages] target page of each index */
    int32_t *draft_pages;         /* [max_pages] -1: no draft page */
    int image_row, n_image_rows;  /* span of the vector pool's image rows */
    int image_output[MAX_IMAGES]; /* image row of each picture's features; its vectors follow */
    uint64_t leave_round;         /* LEAVING: the round that carried the leave */
};

struct scheduler {
    struct scheduler_config cfg;
    struct pagepool pages, draft_pages;
    struct place *places; /* [max_seqs] */
    struct engine_stats stats;
};

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

static int min_of(int a, int b)
{
    return a < b ? a : b;
}

int scheduler_slots(const struct round_limits *limits, int n_tokens)
{
    return n_tokens + max_of(limits->n_nodes, 1 + limits->depth * limits->k) + 1;
}

struct scheduler *scheduler_new(const struct scheduler_config *cfg)
{
    struct scheduler *s = xcalloc(1, sizeof(*s));
    s->cfg = *cfg;
    pagepool_init(&s->pages, cfg->limits.n_pages);
    pagepool_init(&s->draft_pages, cfg->draft->cfg.n_layers > 0 ? cfg->limits.n_pages : 0);
    size_t max_pages = (size_t)cfg->limits.max_pages;
    s->places = xcalloc((size_t)cfg->limits.max_seqs, sizeof(*s->places));
    for (int i = 0; i < cfg->limits.max_seqs; i++) {
        s->places[i].pages = xcalloc(max_pages, sizeof(int32_t));
        s->places[i].draft_pages = xcalloc(max_pages, sizeof(int32_t));
    }
    return s;
}

void scheduler_free(struct scheduler *s)
{
    if (!s) return;
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) {
        free(s->places[i].pages);
        free(s->places[i].draft_pages);
    }
    free(s->places);
    pagepool_done(&s->pages);
    pagepool_done(&s->draft_pages);
    free(s);
}

/* ---- how the draft takes a prompt
 * ---------------------------------------------------------------- */

/* The picture that token pos belongs to, or the last one before it; -1 if there is none. */
static int image_at(const struct prompt *prompt, int pos)
{
    int i = prompt->n_images - 1;
    while (i >= 0 && prompt->images[i].first > pos) i--;
    return i;
}

static bool is_image_token(const struct prompt *prompt, int image, int pos)
{
    return image >= 0 && pos < prompt->images[image].first + prompt->images[image].n;
}

/* Which of the vectors behind an image's features the draft's row at its token i of n takes, or -1
 * for no row.  The n_outputs - 1 compressed tokens stand at the image's last positions (methods.md
 * 1.3; kernels/sequence.h). */
static int vector_at(const struct draft *draft, int i, int n)
{
    if (draft->image_rows == IMAGE_ROWS_ALL) return i;
    int j = i - (n - (draft->n_image_outputs - 1));
    return draft->image_rows == IMAGE_ROWS_ADAPTOR && j >= 0 ? j : -1;
}

static bool has_draft_row(const struct scheduler *s, const struct prompt *prompt, int pos)
{
    int image = image_at(prompt, pos);
    if (pos == 0) return false;
    if (!is_image_token(prompt, image, pos)) return true;
    const struct prompt_image *im = &prompt->images[image];
    return vector_at(s->cfg.draft, pos - im->first, im->n) >= 0;
}

/* Pool row of the global vector in force behind picture `image`. */
static int32_t global_row(const struct scheduler *s, const struct place *p, int image)
{
    const struct draft *draft = s->cfg.draft;
    if (image < 0 || draft->n_image_outputs == 0) return round_zero_row(s->cfg.round);
    int n = p->job->gen.prompt->images[image].n;
    int row = p->image_output[image] + n + draft_n_image_vectors(draft, n) - 1;
    return round_image_row(s->cfg.round, row);
}

static struct prompt_row prompt_row_at(const struct scheduler *s, const struct place *p, int pos)
{
    const struct prompt *prompt = p->job->gen.prompt;
    const struct draft *draft = s->cfg.draft;
    int image = image_at(prompt, pos);
    bool is_image = is_image_token(prompt, image, pos);
    struct prompt_row row = {.id = prompt->tokens.ids[pos],
                             .token = prompt->tokens.ids[pos],
                             .draft_kind = pos > 0 ? DRAFT_ROW_FUSED : DRAFT_ROW_NONE,
                             .g_row = global_row(s, p, is_image ? image - 1 : image)};
    row.draft_id = row.id;
    prompt_rope_position(prompt, pos, image, is_image, row.pos);
    if (!is_image) return row;
    int i = pos - prompt->images[image].first, n = prompt->images[image].n;
    int vector = vector_at(draft, i, n), first = p->image_output[image];
    row.id = ~round_image_row(s->cfg.round, first + i);
    if (vector < 0 || pos == 0)
        row.draft_kind = DRAFT_ROW_NONE;
    else if (draft->image_rows == IMAGE_ROWS_ADAPTOR)
        row.draft_kind = DRAFT_ROW_DIRECT;
    if (vector >= 0) row.draft_id = ~round_image_row(s->cfg.round, first + n + vector);
    return row;
}

/* ---- admission
 * -------------------------------------------------------------------------------------- */

/* First of n free image rows in a row, or -1. */
static int find_image_rows(const struct scheduler *s, int n)
{
    int first = 0;
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) {
        const struct place *p = &s->places[i];
        if (p->state == PLACE_FREE || p->n_image_rows == 0) continue;
        if (first + n <= p->image_row || p->image_row + p->n_image_rows <= first) continue;
        first = p->image_row + p->n_image_rows;
        i = -1; /* an earlier place may lie behind it */
    }
    return first + n <= s->cfg.limits.n_image_rows ? first : -1;
}

static int count_image_rows(const struct scheduler *s, const struct prompt *prompt)
{
    int n = 0;
    for (int i = 0; i < prompt->n_images; i++)
        n += prompt->images[i].n + draft_n_image_vectors(s->cfg.draft, prompt->images[i].n);
    return n;
}

static void take_pages(struct scheduler *s, struct place *p)
{
    const struct prompt *prompt = p->job->gen.prompt;
    bool use_draft = p->job->gen.sampling.use_draft;
    int n_prompt = (int)prompt->tokens.n;
    for (int i = 0; i < p->n_pages; i++) {
        bool has_row = (i + 1) * PAGE_LEN > n_prompt;
        for (int pos = i * PAGE_LEN; !has_row && pos < (i + 1) * PAGE_LEN; pos++)
            has_row = has_draft_row(s, prompt, pos);
        p->pages[i] = pagepool_take(&s->pages);
        p->draft_pages[i] = use_draft && has_row ? pagepool_take(&s->draft_pages) : -1;
    }
}

/* Queues tower and adaptor for all pictures of the prompt; their vectors are there when a round
 * launched later reads them. */
static void encode_images(struct scheduler *s, struct place *p)
{
    struct prompt *prompt = p->job->gen.prompt;
    struct draft *draft = s->cfg.draft;
    struct round *r = s->cfg.round;
    int row = p->image_row;
    device_range_begin(s->cfg.model->dev, "pictures");
    for (int i = 0; i < prompt->n_images; i++) {
        const struct prompt_image *im = &prompt->images[i];
        float *features = round_vectors(r, round_image_row(r, row));
        p->image_output[i] = row;
        if (im->input.pixels)
            vision_encode(s->cfg.model->vision, round_stream(r), &im->input, features);
        else
            stream_copy_in(round_stream(r), features, im->features,
                           (size_t)im->n * (size_t)s->cfg.model->cfg.lm.hidden * sizeof(float));
        row += im->n;
        int n_vectors = draft_n_image_vectors(draft, im->n);
        if (n_vectors == 0) continue;
        float *vectors = round_vectors(r, round_image_row(r, row));
        draft->kind->encode_image(draft, round_stream(r), features, im->n, vectors);
        row += n_vectors;
    }
    device_range_end(s->cfg.model->dev);
}

/* Whether one more sequence may speculate.  Where rows cost time, a tree beside many sequences
 * costs more than it gains (docs/performance.md); the answer is the same either way. */
static bool may_draft(const struct scheduler *s)
{
    int n = 0;
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) n += s->places[i].job != NULL;
    return s->cfg.draft->cfg.n_layers > 0 && n < s->cfg.draft_max_seqs;
}

bool scheduler_admit(struct scheduler *s, struct job *job)
{
    struct place *p = s->places;
    struct place *end = p + s->cfg.limits.max_seqs;
    while (p < end && p->state != PLACE_FREE) p++;
    const struct prompt *prompt = job->gen.prompt;
    struct sampling *sampling = &job->gen.sampling;
    int n_slots = scheduler_slots(&s->cfg.limits, (int)prompt->tokens.n + sampling->max_tokens);
    int n_pages = (n_slots + PAGE_LEN - 1) / PAGE_LEN;
    int n_image_rows = count_image_rows(s, prompt);
    int image_row = find_image_rows(s, n_image_rows);
    /* There are as many draft pages as target pages, and no sequence takes more of them. */
    if (p == end || n_pages > s->pages.n_free || image_row < 0) return false;
    assert(n_pages <= s->cfg.limits.max_pages);

    if (!may_draft(s)) sampling->use_draft = 0;
    p->state = PLACE_JOINING;
    p->job = job;
    p->n_sent = 0;
    p->n_pages = n_pages;
    p->image_row = image_row;
    p->n_image_rows = n_image_rows;
    job->seated_ms = now_ms();
    take_pages(s, p);
    encode_images(s, p);
    s->stats.prompt_tokens += prompt->tokens.n;
    return true;
}

/* ---- ends
 * --------------------------------------------------------------------------------------------- */

static void end_place(struct scheduler *s, struct place *p, enum gen_finish finish,
                      const char *failure)
{
    s->stats.n_finished[finish]++;
    p->state = PLACE_ENDING;
    struct job *job = p->job;
    p->job = NULL;
    job_end(job, finish, failure);
}

void scheduler_cancel(struct scheduler *s, uint64_t id, enum gen_finish finish)
{
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) {
        struct place *p = &s->places[i];
        if (p->job && p->job->id == id) end_place(s, p, finish, NULL);
    }
}

void scheduler_cancel_all(struct scheduler *s, enum gen_finish finish)
{
    for (int i = 0; i < s->cfg.limits.max_seqs; i++)
        if (s->places[i].job) end_place(s, &s->places[i], finish, NULL);
}

static void release_place(struct scheduler *s, struct place *p)
{
    for (int i = 0; i < p->n_pages; i++) {
        pagepool_give(&s->pages, p->pages[i]);
        if (p->draft_pages[i] >= 0) pagepool_give(&s->draft_pages, p->draft_pages[i]);
    }
    p->state = PLACE_FREE;
    p->n_pages = p->n_image_rows = 0;
}

/* ---- a round's input
 * -------------------------------------------------------------------------------- */

static void send_join(const struct scheduler *s, struct round_input *in, int seat)
{
    struct place *p = &s->places[seat];
    const struct prompt *prompt = p->job->gen.prompt;
    int n_images = prompt->n_images;
    in->joins[in->n_joins++] =
        (struct join){.seat = seat,
                      .rope_delta = n_images > 0 ? prompt->images[n_images - 1].rope_delta : 0,
                      .sampling = p->job->gen.sampling};
    for (int i = 0; i < p->n_pages; i++) {
        in->pages[in->n_pages++] =
            (struct page_entry){.seat = seat, .index = i, .page = p->pages[i]};
        if (p->job->gen.sampling.use_draft)
            in->pages[in->n_pages++] = (struct page_entry){
                .seat = seat, .index = i, .page = p->draft_pages[i], .is_draft = 1};
    }
    p->state = PLACE_RUNNING;
}

static bool is_prefilling(const struct place *p)
{
    return p->state == PLACE_RUNNING && p->n_sent < (int)p->job->gen.prompt->tokens.n;
}

/* Sends up to n rows of the seat's prompt. */
static void send_chunk(const struct scheduler *s, struct round_input *in, int seat, int n)
{
    struct place *p = &s->places[seat];
    const struct prompt *prompt = p->job->gen.prompt;
    int n_prompt = (int)prompt->tokens.n;
    struct chunk *chunk = &in->chunks[in->n_chunks++];
    *chunk = (struct chunk){.seat = seat,
                            .first_row = in->n_prompt_rows,
                            .n_rows = n,
                            .first_slot = p->n_sent,
                            .is_last = p->n_sent + n == n_prompt,
                            .final_g = global_row(s, p, prompt->n_images - 1)};
    for (int i = 0; i < n; i++)
        in->prompt_rows[in->n_prompt_rows++] = prompt_row_at(s, p, p->n_sent + i);
    p->n_sent += n;
}

/* Prompt rows of the next round, oldest request first: n_rows[seat]. */
static void share_rows(const struct scheduler *s, int budget, int *n_rows)
{
    int n_seats = s->cfg.limits.max_seqs;
    for (int i = 0; i < n_seats; i++) n_rows[i] = 0;
    while (budget > 0) {
        int oldest = -1;
        for (int i = 0; i < n_seats; i++) {
            const struct place *p = &s->places[i];
            if (!is_prefilling(p) || n_rows[i] > 0) continue;
            if (oldest < 0 || p->job->id < s->places[oldest].job->id) oldest = i;
        }
        if (oldest < 0) return;
        const struct place *p = &s->places[oldest];
        int left = (int)p->job->gen.prompt->tokens.n - p->n_sent;
        n_rows[oldest] = min_of(min_of(left, s->cfg.prefill_chunk), budget);
        budget -= n_rows[oldest];
    }
}

static void launch(struct scheduler *s)
{
    const struct round_limits *limits = &s->cfg.limits;
    struct round_input *in = round_input(s->cfg.round);
    int n_trees = 0, n_tree_rows = 0;
    for (int i = 0; i < limits->max_seqs; i++) {
        struct place *p = &s->places[i];
        if (p->state == PLACE_ENDING) {
            in->leaves[in->n_leaves++] = i;
            p->state = PLACE_LEAVING;
            p->leave_round = round_n_launched(s->cfg.round);
        }
        if (p->state == PLACE_JOINING) send_join(s, in, i);
        if (p->state == PLACE_RUNNING && !is_prefilling(p)) {
            n_trees++;
            n_tree_rows += p->job->gen.sampling.use_draft ? limits->n_nodes : 1;
        }
    }
    int n_rows[limits->max_seqs];
    int n_prompt_rows = max_of(limits->max_rows - n_tree_rows, MIN_PROMPT_ROWS);
    share_rows(s, min_of(n_prompt_rows, limits->max_rows - n_trees), n_rows);
    for (int i = 0; i < limits->max_seqs; i++)
        if (n_rows[i] > 0) send_chunk(s, in, i, n_rows[i]);
    /* What is too much, select cuts from the trees. */
    round_launch(s->cfg.round, min_of(n_tree_rows + in->n_prompt_rows, limits->max_rows));
}

/* ---- a round's output
 * ------------------------------------------------------------------------------- */

static enum gen_finish finish_of(enum finish finish)
{
    return finish == FINISH_STOP ? GEN_STOP : finish == FINISH_LENGTH ? GEN_LENGTH : GEN_FAILED;
}

static void count_round(struct scheduler *s, struct job *job, const struct seat_output *out,
                        int n_used)
{
    if (job->counts.predicted_n > 0) { /* the prefill's own pass is no round */
        job->counts.rounds++;
        job->counts.draft_n += out->n_drafted;
        job->counts.draft_n_accepted += n_used - 1;
        s->stats.rounds++;
        s->stats.drafts += out->n_drafted > 0;
        s->stats.draft_tokens += (uint64_t)out->n_drafted;
        s->stats.accepted_tokens += (uint64_t)(n_used - 1);
        for (int i = 0; i < n_used - 1; i++) s->stats.accepted_per_pos[i]++;
    }
    job->counts.predicted_n += n_used;
    s->stats.generation_tokens += (uint64_t)n_used;
}

static void deliver(struct scheduler *s, struct place *p, const struct seat_output *out,
                    const struct token_logprobs *logprobs)
{
    struct job *job = p->job;
    struct gen_token tokens[MAX_NODES];
    bool is_stopped = false;
    int n = 0;
    while (n < out->n_tokens && !is_stopped && !job->is_prefill_only) {
        bool is_end = out->finish == FINISH_STOP && n == out->n_tokens - 1;
        tokens[n] = (struct gen_token){.id = out->tokens[n]};
        if (job->gen.sampling.n_logprobs >= 0) {
            tokens[n].logprob = logprobs[n].logprob;
            tokens[n].n_top = job->gen.sampling.n_logprobs;
            tokens[n].top = &logprobs[n];
        }
        is_stopped = !is_end && output_push(&job->output, tokens[n].id);
        n++;
    }
    if (job->first_token_ms == 0) job->first_token_ms = now_ms();
    job->last_token_ms = now_ms();
    if (n > 0) count_round(s, job, out, n);

    struct gen_event event = {.tokens = tokens, .n_tokens = n};
    event.text = output_take(&job->output, &event.text_len);
    if (n > 0) job->gen.on_event(job->gen.user, &event);
    if (is_stopped)
        end_place(s, p, GEN_STOP, NULL);
    else if (out->finish == FINISH_NAN)
        end_place(s, p, GEN_FAILED, "a logit is not a number");
    else if (out->finish != FINISH_NONE)
        end_place(s, p, finish_of((enum finish)out->finish), NULL);
}

static void finish_round(struct scheduler *s)
{
    const struct round_output *out = round_finish(s->cfg.round);
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) {
        struct place *p = &s->places[i];
        const struct seat_output *seat = &out->seats[i];
        if (p->state == PLACE_RUNNING && (seat->n_tokens > 0 || seat->finish != FINISH_NONE))
            deliver(s, p, seat, &out->logprobs[(size_t)i * MAX_NODES]);
        if (p->state == PLACE_LEAVING && p->leave_round < round_n_finished(s->cfg.round))
            release_place(s, p);
    }
}

bool scheduler_step(struct scheduler *s)
{
    bool has_work = false;
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) {
        enum place_state state = s->places[i].state;
        has_work |= state != PLACE_FREE && state != PLACE_LEAVING;
    }
    uint64_t in_flight = round_n_launched(s->cfg.round) - round_n_finished(s->cfg.round);
    bool launches = has_work && in_flight < (uint64_t)s->cfg.max_in_flight;
    if (!launches && in_flight == 0) return false;
    device_range_begin(s->cfg.model->dev, launches ? "launch a round" : "finish a round");
    if (launches)
        launch(s);
    else
        finish_round(s);
    device_range_end(s->cfg.model->dev);
    return true;
}

void scheduler_get_stats(const struct scheduler *s, struct engine_stats *out)
{
    struct round_times times;
    round_get_times(s->cfg.round, &times);
    *out = s->stats;
    out->draft_s = times.draft_s;
    out->verify_s = times.verify_s;
    out->rest_s = times.rest_s;
    for (int i = 0; i < s->cfg.limits.max_seqs; i++) out->n_running += s->places[i].job != NULL;
    out->kv_pages = s->pages.n_pages;
    out->kv_pages_used = s->pages.n_pages - s->pages.n_free;
}
