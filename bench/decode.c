/* Plain against speculative decoding, side by side in one run.
 *
 *   decode MODEL PICTURES [DEPTH TOP_K NODES]...
 *
 * For each tree the engine is opened once; then answers of both kinds alternate: the same pictures,
 * the same long question, greedy and at temperature 1, one user and eight at a time.  One CSV row
 * per case: tree, users, temperature, plain tokens/s, speculative tokens/s, their ratio (median,
 * lowest and highest of the repetitions), tokens per round, and the device's time in draft, verify
 * and rest (percent). */
#include "bench/spread.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/prompt.h"
#include "runtime/mem.h"

#include <dirent.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PICTURES = 16, REPETITIONS = 5, MAX_TOKENS = 160 };

static const char QUESTION[] = "Describe the picture in detail.";

struct bench {
    struct engine *engine;
    char *urls[MAX_PICTURES];
    int n_pictures;
    pthread_mutex_t lock;
    pthread_cond_t done;
    int n_running;
    struct gen_timings sum; /* of the batch that runs */
};

/* What one batch took. */
struct sample {
    double seconds;
    int n_tokens, n_rounds;
};

static void on_event(void *user, const struct gen_event *event)
{
    struct bench *b = user;
    if (!event->is_last) return;
    pthread_mutex_lock(&b->lock);
    b->sum.predicted_n += event->timings.predicted_n;
    b->sum.rounds += event->timings.rounds;
    b->sum.predicted_ms += event->timings.predicted_ms;
    b->n_running--;
    pthread_cond_signal(&b->done);
    pthread_mutex_unlock(&b->lock);
}

static void die(const struct error *err)
{
    fprintf(stderr, "decode: %s\n", err->text);
    exit(1);
}

static void submit(struct bench *b, int picture, float temperature, bool use_draft)
{
    const struct chat_part parts[] = {
        {.kind = CHAT_IMAGE}, {.kind = CHAT_TEXT, .text = QUESTION, .len = strlen(QUESTION)}};
    const struct chat_message message = {.role = CHAT_USER, .parts = parts, .n_parts = 2};
    const char *url = b->urls[picture];
    struct error err;
    uint64_t id;
    struct generation gen = {.on_event = on_event, .user = b, .skip_special_tokens = true};
    gen.sampling = (struct sampling){.seed = (uint64_t)picture + 1,
                                     .temperature = temperature,
                                     .top_p = 1,
                                     .repetition_penalty = 1,
                                     .max_tokens = MAX_TOKENS,
                                     .n_logprobs = -1,
                                     .use_draft = use_draft};
    if (prompt_build(&gen.prompt, b->engine, &message, 1, &url, 1, &err) != 0) die(&err);
    if (engine_submit(b->engine, &gen, &id, &err) != 0) die(&err);
}

/* All pictures, n_users at a time.  The time is decoding only: prompts are read before it starts to
 * count for one user; with more users prefills are part of it, for both kinds alike. */
static struct sample run_batch(struct bench *b, int n_users, float temperature, bool use_draft)
{
    b->sum = (struct gen_timings){0};
    double begin = now_us();
    for (int next = 0; next < b->n_pictures; next++) {
        pthread_mutex_lock(&b->lock);
        while (b->n_running >= n_users) pthread_cond_wait(&b->done, &b->lock);
        b->n_running++;
        pthread_mutex_unlock(&b->lock);
        submit(b, next, temperature, use_draft);
    }
    pthread_mutex_lock(&b->lock);
    while (b->n_running > 0) pthread_cond_wait(&b->done, &b->lock);
    pthread_mutex_unlock(&b->lock);
    double seconds = n_users == 1 ? 1e-3 * b->sum.predicted_ms : 1e-6 * (now_us() - begin);
    return (struct sample){seconds, b->sum.predicted_n, b->sum.rounds};
}

static void run_case(struct bench *b, int n_users, float temperature)
{
    const struct engine_info *info = engine_info(b->engine);
    double plain[REPETITIONS], fast[REPETITIONS], ratio[REPETITIONS];
    struct engine_stats before, after;
    double draft_s = 0, verify_s = 0, rest_s = 0, per_round = 0;
    for (int i = 0; i < REPETITIONS; i++) {
        struct sample p = run_batch(b, n_users, temperature, false);
        engine_get_stats(b->engine, &before);
        struct sample f = run_batch(b, n_users, temperature, true);
        engine_get_stats(b->engine, &after);
        plain[i] = p.n_tokens / p.seconds;
        fast[i] = f.n_tokens / f.seconds;
        ratio[i] = fast[i] / plain[i];
        draft_s += after.draft_s - before.draft_s;
        verify_s += after.verify_s - before.verify_s;
        rest_s += after.rest_s - before.rest_s;
        /* The first token of each answer comes from the prefill, not from a round. */
        per_round = (double)(f.n_tokens - b->n_pictures) / f.n_rounds;
    }
    double all_s = draft_s + verify_s + rest_s;
    const struct spread ratios = spread_of(ratio, REPETITIONS);
    printf("%d/%d/%d,%d,%g,%.0f,%.0f,%.2f,%.2f,%.2f,%.2f,%.0f,%.0f,%.0f\n", info->draft_depth,
           info->draft_top_k, info->draft_nodes, n_users, (double)temperature,
           spread_of(plain, REPETITIONS).median, spread_of(fast, REPETITIONS).median, ratios.median,
           ratios.least, ratios.most, per_round, 100 * draft_s / all_s, 100 * verify_s / all_s,
           100 * rest_s / all_s);
    fflush(stdout);
}

static char *read_url(const char *dir, const char *name)
{
    char *path = xprintf("%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) exit(1);
    size_t len = (size_t)ftell(f);
    rewind(f);
    unsigned char *bytes = xcalloc(len, 1);
    if (fread(bytes, 1, len, f) != len) exit(1);
    fclose(f);
    size_t size = sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);
    char *text = xcalloc(size, 1);
    sodium_bin2base64(text, size, bytes, len, sodium_base64_VARIANT_ORIGINAL);
    char *url = xprintf("data:image/png;base64,%s", text);
    free(text);
    free(bytes);
    free(path);
    return url;
}

static void read_pictures(struct bench *b, const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort);
    if (n < 0) {
        fprintf(stderr, "decode: cannot read the folder %s\n", dir);
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(names[i]->d_name, '.');
        if (b->n_pictures < MAX_PICTURES && dot && strcmp(dot, ".png") == 0)
            b->urls[b->n_pictures++] = read_url(dir, names[i]->d_name);
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc % 3 != 0) {
        fprintf(stderr, "usage: decode MODEL PICTURES [DEPTH TOP_K NODES]...\n");
        return 64;
    }
    struct bench b = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    read_pictures(&b, argv[2]);
    printf(
        "tree,users,temperature,plain_tok_s,spec_tok_s,ratio,ratio_min,ratio_max,tokens_per_round,"
        "draft_pct,verify_pct,rest_pct\n");
    for (int i = 3; i == 3 || i < argc; i += 3) {
        struct engine_options options = {.model_dir = argv[1]};
        if (i < argc) {
            options.draft_depth = atoi(argv[i]);
            options.draft_top_k = atoi(argv[i + 1]);
            options.draft_nodes = atoi(argv[i + 2]);
        }
        struct error err;
        if (engine_open(&b.engine, &options, &err) != 0) die(&err);
        run_batch(&b, 1, 0, true); /* warms up */
        for (int users = 1; users <= 8; users += 7) {
            run_case(&b, users, 0);
            run_case(&b, users, 1);
        }
        engine_close(b.engine);
    }
    for (int i = 0; i < b.n_pictures; i++) free(b.urls[i]);
    return 0;
}
