#include "runtime/engine/engine.h"

#include "runtime/engine/draft_vocab.h"
#include "runtime/engine/internal.h"
#include "runtime/engine/scheduler.h"
#include "runtime/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    DEFAULT_SEQS = 8,
    DEFAULT_QUEUE = 64,
    DEFAULT_ROWS = 512,
    DEFAULT_CACHE = 64 << 10, /* slots */
};

/* Which trees a device grows where nobody says: on a CPU a row costs time and an answer that
 * speculates in company gains nothing (bench/decode, docs/performance.md); elsewhere the authors'
 * trees, for as many sequences as give the rows that reading the weights pays for
 * (methods: ViSpec; docs/performance.md). */
struct tree_defaults {
    int depth, top_k, n_nodes, max_seqs;
};
static const struct tree_defaults cpu_trees = {2, 1, 4, 1}, gpu_trees = {3, 8, 30, 6};

static const struct tree_defaults *default_trees(const struct device *dev)
{
    return strcmp(device_name(dev), "cpu") == 0 ? &cpu_trees : &gpu_trees;
}

struct engine {
    struct device *dev;
    struct model *model;
    struct draft *draft;
    struct round *round;
    struct scheduler *scheduler;
    struct engine_info info;
    char *model_name;
    int max_queue;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* Under lock: */
    struct job *first_waiting, *last_waiting;
    int n_waiting;
    uint64_t next_id;
    uint64_t *cancelled; /* ids that the engine's thread has not looked at yet */
    int n_cancelled;
    bool is_closing, is_refusing;
    struct engine_stats stats;
    uint64_t n_cancelled_waiting;
};

/* ---- the engine's thread
 * -------------------------------------------------------------------------- */

static struct job *pop_waiting_locked(struct engine *e)
{
    struct job *job = e->first_waiting;
    e->first_waiting = job->next;
    if (!e->first_waiting) e->last_waiting = NULL;
    e->n_waiting--;
    return job;
}

/* Takes job `id` out of the queue; NULL if it does not wait. */
static struct job *remove_waiting_locked(struct engine *e, uint64_t id)
{
    struct job **link = &e->first_waiting, *last = NULL;
    while (*link && (*link)->id != id) {
        last = *link;
        link = &(*link)->next;
    }
    struct job *job = *link;
    if (!job) return NULL;
    *link = job->next;
    if (e->last_waiting == job) e->last_waiting = last;
    e->n_waiting--;
    return job;
}

/* Cancels what clients asked for.  Events are sent without the lock. */
static void do_cancels(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    while (e->n_cancelled > 0) {
        uint64_t id = e->cancelled[--e->n_cancelled];
        struct job *job = remove_waiting_locked(e, id);
        e->n_cancelled_waiting += job != NULL;
        pthread_mutex_unlock(&e->lock);
        if (job)
            job_end(job, GEN_CANCELLED, NULL);
        else
            scheduler_cancel(e->scheduler, id, GEN_CANCELLED);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
}

/* Seats waiting jobs, first come first served, while they fit. */
static void do_admissions(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    while (e->first_waiting) {
        struct job *job = pop_waiting_locked(e);
        pthread_mutex_unlock(&e->lock);
        bool is_seated = scheduler_admit(e->scheduler, job);
        pthread_mutex_lock(&e->lock);
        if (is_seated) continue;
        job->next = e->first_waiting;
        e->first_waiting = job;
        if (!e->last_waiting) e->last_waiting = job;
        e->n_waiting++;
        break;
    }
    pthread_mutex_unlock(&e->lock);
}

static void publish_stats(struct engine *e)
{
    struct engine_stats stats;
    scheduler_get_stats(e->scheduler, &stats);
    pthread_mutex_lock(&e->lock);
    stats.n_finished[GEN_CANCELLED] += e->n_cancelled_waiting;
    e->stats = stats;
    pthread_mutex_unlock(&e->lock);
}

/* Waits until there may be something to do; false when the engine closes. */
static bool wait_for_work(struct engine *e, bool is_idle)
{
    pthread_mutex_lock(&e->lock);
    while (is_idle && !e->is_closing && !e->first_waiting && e->n_cancelled == 0)
        pthread_cond_wait(&e->wake, &e->lock);
    bool goes_on = !e->is_closing;
    pthread_mutex_unlock(&e->lock);
    return goes_on;
}

static void *engine_main(void *arg)
{
    struct engine *e = arg;
    bool is_idle = false;
    while (wait_for_work(e, is_idle)) {
        do_cancels(e);
        do_admissions(e);
        is_idle = !scheduler_step(e->scheduler);
        publish_stats(e);
    }
    /* Nobody adds to the queue any more: closing refuses new jobs. */
    while (e->first_waiting) job_end(pop_waiting_locked(e), GEN_CANCELLED, NULL);
    scheduler_cancel_all(e->scheduler, GEN_CANCELLED);
    while (scheduler_step(e->scheduler)) continue;
    return NULL;
}

/* ---- opening
 * ---------------------------------------------------------------------------------------- */

static int or_default(int value, int otherwise)
{
    return value > 0 ? value : otherwise;
}

/* Slots of both caches that a quarter of the device's memory holds; the rest is for weights and
 * others. */
static int64_t slots_in_memory(const struct device *dev, const struct lm_config *lm)
{
    size_t act = dtype_size(device_ops(dev)->act);
    size_t target = 2 * act * (size_t)lm->n_layers * (size_t)(lm->n_kv_heads * lm->head_dim);
    size_t draft = 2 * act * (size_t)(lm->n_heads * lm->head_dim); /* one layer, MHA */
    return (int64_t)(device_memory_size(dev) / 4 / (target + draft));
}

/* Sequences that speculate at once. */
static int max_drafting(const struct engine_options *opt, const struct device *dev,
                        const struct round_limits *limits)
{
    int n = or_default(opt->draft_max_seqs, default_trees(dev)->max_seqs);
    return n < limits->max_seqs ? n : limits->max_seqs;
}

/* Rows of a step: by default what all trees need and a little, up to what the device takes; beyond
 * that trees are cut. */
static int choose_rows(const struct engine_options *opt, const struct device *dev,
                       const struct lm_config *lm, struct round_limits *limits, struct error *err)
{
    /* The draft's next rows may be one more for each sequence. */
    int most = device_ops(dev)->max_rows(lm->n_heads, lm->n_kv_heads) - limits->max_seqs;
    int least = limits->max_seqs + 1;
    int trees = max_drafting(opt, dev, limits) * (limits->n_nodes - 1);
    int wanted = limits->max_seqs + trees + MIN_PROMPT_ROWS;
    if (most < least)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--max-num-seqs %d is more than the %d that this device takes",
                         limits->max_seqs, (most + limits->max_seqs - 1) / 2);
    if (wanted < DEFAULT_ROWS) wanted = DEFAULT_ROWS;
    limits->max_rows = or_default(opt->max_num_batched_tokens, wanted < most ? wanted : most);
    if (limits->max_rows < least || limits->max_rows > most)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--max-num-batched-tokens %d must be from %d to %d: a row for each of %d "
                         "sequences and one prompt token, and what this device takes",
                         limits->max_rows, least, most, limits->max_seqs);
    return 0;
}

/* The sizes that options, model and memory leave. */
static int choose_sizes(const struct engine_options *opt, const struct device *dev,
                        const struct model_config *model, struct engine_info *info,
                        struct round_limits *limits, struct error *err)
{
    const struct tree_defaults *trees = default_trees(dev);
    limits->depth = or_default(opt->draft_depth, trees->depth);
    limits->k = or_default(opt->draft_top_k, trees->top_k);
    limits->n_nodes = or_default(opt->draft_nodes, trees->n_nodes);
    if (limits->depth * limits->k > MAX_NODES)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--draft-depth %d times --draft-top-k %d is %d, more than %d",
                         limits->depth, limits->k, limits->depth * limits->k, MAX_NODES);
    if (limits->n_nodes > MAX_NODES || limits->k > MAX_TOP_K)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--draft-nodes %d and --draft-top-k %d can be %d and %d at most",
                         limits->n_nodes, limits->k, MAX_NODES, MAX_TOP_K);

    limits->max_seqs = or_default(opt->max_num_seqs, DEFAULT_SEQS);
    int slack = scheduler_slots(limits, 0), longest = MAX_SEQ_PAGES * PAGE_LEN - slack;
    if (longest > model->lm.max_positions) longest = model->lm.max_positions;
    info->max_model_len = or_default(opt->max_model_len, longest);
    if (info->max_model_len > longest)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--max-model-len %d is more than the model's or the device's %d",
                         info->max_model_len, longest);
    int64_t wanted = (int64_t)limits->max_seqs * (info->max_model_len + slack);
    int64_t slots = or_default(opt->kv_cache_tokens, DEFAULT_CACHE);
    if (opt->kv_cache_tokens <= 0) {
        int64_t held = slots_in_memory(dev, &model->lm);
        if (slots > wanted) slots = wanted;
        if (slots > held) slots = held;
    }
    if (slots < info->max_model_len + slack) {
        if (opt->max_model_len > 0 || slots <= slack + 1)
            return error_set(err, ERROR_BAD_REQUEST,
                             "--kv-cache-tokens %lld does not hold one sequence of %d tokens and "
                             "its tree, %d slots",
                             (long long)slots, info->max_model_len, info->max_model_len + slack);
        info->max_model_len = (int)slots - slack;
    }
    limits->n_pages = (int)((slots + PAGE_LEN - 1) / PAGE_LEN);
    limits->max_pages = (info->max_model_len + slack + PAGE_LEN - 1) / PAGE_LEN;
    if (limits->n_pages < limits->max_pages) limits->n_pages = limits->max_pages;

    return choose_rows(opt, dev, &model->lm, limits, err);
}

/* The draft that options name: a folder, "none", or NULL for model/draft if it is there. */
static char *choose_draft(const struct engine_options *opt)
{
    if (opt->draft_dir) return xstrdup(opt->draft_dir);
    char *dir = xprintf("%s/draft", opt->model_dir);
    struct stat st;
    if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)) return dir;
    free(dir);
    return xstrdup("none");
}

static int open_draft(struct engine *e, const struct engine_options *opt,
                      const struct round_limits *limits, struct error *err)
{
    const struct draft_vocab choice = {.option = opt->draft_vocab,
                                       .vocab = e->model->cfg.lm.vocab,
                                       .tokenizer = e->model->tokenizer,
                                       .generation = &e->model->generation,
                                       .k = limits->k};
    struct token_list vocab;
    if (draft_vocab_choose(&vocab, &choice, err) != 0) return -1;
    const struct draft_limits draft_limits = {.max_seqs = max_drafting(opt, e->dev, limits),
                                              .max_extend = limits->max_rows + limits->max_seqs,
                                              .k = limits->k,
                                              .n_positions = limits->max_pages * PAGE_LEN,
                                              .max_image_tokens = e->model->max_image_tokens,
                                              .vocab = vocab.ids,
                                              .n_vocab = (int)vocab.n};
    char *dir = choose_draft(opt);
    int result = draft_open(&e->draft, e->dev, dir, e->model->lm, &draft_limits, err);
    free(dir);
    token_list_done(&vocab);
    return result;
}

static char *last_part(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    return xstrndup(path + begin, end - begin);
}

static void fill_info(struct engine *e, const struct engine_options *opt,
                      const struct round_limits *limits)
{
    struct engine_info *info = &e->info;
    const struct model_config *cfg = &e->model->cfg;
    e->model_name = last_part(opt->model_dir);
    info->model_name = e->model_name;
    info->device_name = device_name(e->dev);
    info->draft_name = e->draft->kind->name;
    info->max_num_seqs = limits->max_seqs;
    info->vocab = cfg->lm.vocab;
    info->kv_cache_tokens = limits->n_pages * PAGE_LEN;
    info->has_vision = cfg->has_vision;
    info->draft_depth = limits->depth;
    info->draft_top_k = limits->k;
    info->draft_nodes = limits->n_nodes;
    info->defaults = e->model->generation;
}

/* The first device here that --device and --dtype allow; without --dtype a GPU computes in the
 * checkpoint's type. */
static int open_device(struct engine *e, const struct engine_options *opt,
                       const struct model_config *cfg, struct error *err)
{
    static const struct {
        const char *name, *kind, *dtype;
        enum dtype act;
    } devices[] = {{"cuda-bf16", "cuda", "bfloat16", DTYPE_BF16},
                   {"cuda-f16", "cuda", "float16", DTYPE_F16},
                   {"cpu", "cpu", "float32", DTYPE_F32}};
    const char *kind = opt->device ? opt->device : "auto";
    const char *dtype = opt->dtype ? opt->dtype : "auto";
    const enum dtype act = cfg->act == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
    for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
        if (strcmp(kind, "auto") != 0 && strcmp(kind, devices[i].kind) != 0) continue;
        if (strcmp(dtype, "auto") != 0 && strcmp(dtype, devices[i].dtype) != 0) continue;
        if (strcmp(dtype, "auto") == 0 && devices[i].act != DTYPE_F32 && devices[i].act != act)
            continue;
        e->dev = device_open(devices[i].name, opt->n_threads);
        if (e->dev) return 0;
    }
    return error_set(
        err, ERROR_BAD_REQUEST,
        "--device %s --dtype %s: not in this build or machine (cpu computes in float32, "
        "cuda in bfloat16 or float16)",
        kind, dtype);
}

int engine_open(struct engine **out, const struct engine_options *opt, struct error *err)
{
    struct engine *e = xcalloc(1, sizeof(*e));
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    struct round_limits limits = {0};
    struct model_config cfg;
    if (config_load(opt->model_dir, &cfg, err) != 0) goto failed;
    if (open_device(e, opt, &cfg, err) != 0) goto failed;
    if (choose_sizes(opt, e->dev, &cfg, &e->info, &limits, err) != 0) goto failed;
    const struct model_options model = {.dir = opt->model_dir,
                                        .chat_template = opt->chat_template,
                                        .n_positions = limits.max_pages * PAGE_LEN,
                                        .min_pixels = opt->min_pixels,
                                        .max_pixels = opt->max_pixels};
    if (model_open(&e->model, e->dev, &cfg, &model, err) != 0) goto failed;
    if (open_draft(e, opt, &limits, err) != 0) goto failed;
    /* Room for the pictures of any prompt that has pages, and what the draft keeps of them. */
    if (cfg.has_vision) {
        int n = limits.n_pages * PAGE_LEN;
        limits.n_image_rows =
            n + draft_n_image_vectors(e->draft, n) + (MAX_IMAGES - 1) * e->draft->n_image_outputs;
    }
    e->round = round_open(e->dev, e->model->lm, e->draft, &limits);
    const struct scheduler_config scheduler = {.model = e->model,
                                               .draft = e->draft,
                                               .round = e->round,
                                               .limits = limits,
                                               .draft_max_seqs = max_drafting(opt, e->dev, &limits),
                                               .prefill_chunk =
                                                   or_default(opt->prefill_chunk, limits.max_rows),
                                               .max_in_flight = ROUNDS_IN_FLIGHT};
    e->scheduler = scheduler_new(&scheduler);
    e->max_queue = or_default(opt->max_queue, DEFAULT_QUEUE);
    fill_info(e, opt, &limits);
    publish_stats(e);
    if (pthread_create(&e->thread, NULL, engine_main, e) != 0) {
        error_set(err, ERROR_INTERNAL, "engine: cannot start a thread");
        goto failed;
    }
    e->has_thread = true;
    *out = e;
    return 0;

failed:
    engine_close(e);
    return -1;
}

void engine_close(struct engine *e)
{
    if (!e) return;
    if (e->has_thread) {
        pthread_mutex_lock(&e->lock);
        e->is_closing = e->is_refusing = true;
        pthread_cond_signal(&e->wake);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->thread, NULL);
    }
    scheduler_free(e->scheduler);
    round_close(e->round);
    draft_close(e->draft);
    model_close(e->model);
    device_close(e->dev);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    free(e->cancelled);
    free(e->model_name);
    free(e);
}

/* ---- what other threads call
 * ------------------------------------------------------------------------ */

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

const struct model *engine_model(const struct engine *e)
{
    return e->model;
}

/* A job whose sampling is complete: limits clamped, end tokens added. */
static struct job *job_new(const struct engine *e, const struct generation *gen)
{
    struct job *job = xcalloc(1, sizeof(*job));
    job->gen = *gen;
    struct sampling *s = &job->gen.sampling;
    const struct generation_config *defaults = &e->model->generation;
    for (int i = 0; i < defaults->n_eos_ids && !gen->ignore_eos; i++)
        if (s->n_stop_ids < MAX_STOP_IDS) s->stop_ids[s->n_stop_ids++] = defaults->eos_ids[i];
    int room = e->info.max_model_len - (int)gen->prompt->tokens.n;
    job->is_prefill_only = s->max_tokens == 0;
    if (s->max_tokens > room) s->max_tokens = room;
    if (s->max_tokens < 1) s->max_tokens = 1;
    output_init(&job->output, e->model->tokenizer, &job->gen);
    job->submitted_ms = now_ms();
    return job;
}

int engine_submit(struct engine *e, const struct generation *gen, uint64_t *id, struct error *err)
{
    struct job *job = job_new(e, gen);
    pthread_mutex_lock(&e->lock);
    bool is_refused = e->is_refusing || e->n_waiting >= e->max_queue;
    if (is_refused) {
        error_set(err, ERROR_BUSY, e->is_refusing ? "shutting down" : "%d requests are waiting",
                  e->n_waiting);
    } else {
        *id = job->id = ++e->next_id;
        if (e->last_waiting)
            e->last_waiting->next = job;
        else
            e->first_waiting = job;
        e->last_waiting = job;
        e->n_waiting++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (!is_refused) return 0;
    job_free(job);
    return -1;
}

void engine_cancel(struct engine *e, uint64_t id)
{
    pthread_mutex_lock(&e->lock);
    e->cancelled = xrealloc(e->cancelled, (size_t)(e->n_cancelled + 1) * sizeof(*e->cancelled));
    e->cancelled[e->n_cancelled++] = id;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

void engine_refuse_new(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->is_refusing = true;
    pthread_mutex_unlock(&e->lock);
}

void engine_get_stats(struct engine *e, struct engine_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->n_waiting = e->n_waiting;
    pthread_mutex_unlock(&e->lock);
}
