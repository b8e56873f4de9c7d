#include "server/metrics.h"

#include <pthread.h>
#include <stdlib.h>

enum { MAX_BUCKETS = 16, N_STATUSES = 600 };

static const struct {
    const char *name, *help;
    double bounds[MAX_BUCKETS]; /* upper, in seconds; ends with 0 */
} HISTOGRAMS[N_METRICS] = {
    [METRIC_FIRST_TOKEN] = {"vllm:time_to_first_token_seconds",
                            "Time from request to first token.",
                            {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1,
                             2.5, 10, 60}},
    [METRIC_INTER_TOKEN] = {"vllm:inter_token_latency_seconds",
                            "Time per token after the first.",
                            {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                             0.5, 1, 5}},
    [METRIC_QUEUE] = {"vllm:request_queue_time_seconds",
                      "Time from request to a seat in the batch.",
                      {0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 30, 60, 120}},
    [METRIC_END_TO_END] = {"vllm:e2e_request_latency_seconds",
                           "Time from request to last token.",
                           {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 30, 60, 120}},
};

struct histogram {
    uint64_t counts[MAX_BUCKETS + 1]; /* of each bucket alone */
    double sum;
};

struct metrics {
    pthread_mutex_t lock;
    struct histogram histograms[N_METRICS]; /* under lock */
    uint64_t responses[N_STATUSES];         /* under lock */
};

struct metrics *metrics_new(void)
{
    struct metrics *m = xcalloc(1, sizeof(*m));
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m) return;
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void metrics_observe(struct metrics *m, enum metric which, double seconds, int n_times)
{
    int i = 0;
    while (i < MAX_BUCKETS && HISTOGRAMS[which].bounds[i] > 0 &&
           seconds > HISTOGRAMS[which].bounds[i])
        i++;
    if (i < MAX_BUCKETS && HISTOGRAMS[which].bounds[i] <= 0) i = MAX_BUCKETS; /* above all bounds */
    pthread_mutex_lock(&m->lock);
    m->histograms[which].counts[i] += (uint64_t)n_times;
    m->histograms[which].sum += seconds * n_times;
    pthread_mutex_unlock(&m->lock);
}

void metrics_response(struct metrics *m, int status)
{
    if (status < 0 || status >= N_STATUSES) return;
    pthread_mutex_lock(&m->lock);
    m->responses[status]++;
    pthread_mutex_unlock(&m->lock);
}

static void head(struct buffer *b, const char *name, const char *type, const char *help)
{
    buffer_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct buffer *b, const char *labels, const char *name, const char *type,
                   const char *help, double value)
{
    head(b, name, type, help);
    buffer_printf(b, "%s{%s} %.15g\n", name, labels, value);
}

static void write_histogram(struct buffer *b, const char *labels, enum metric which,
                            const struct histogram *h)
{
    const char *name = HISTOGRAMS[which].name;
    head(b, name, "histogram", HISTOGRAMS[which].help);
    uint64_t n = 0;
    for (int i = 0; i < MAX_BUCKETS && HISTOGRAMS[which].bounds[i] > 0; i++) {
        n += h->counts[i];
        buffer_printf(b, "%s_bucket{%s,le=\"%g\"} %llu\n", name, labels,
                      HISTOGRAMS[which].bounds[i], (unsigned long long)n);
    }
    n += h->counts[MAX_BUCKETS];
    buffer_printf(b, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, (unsigned long long)n);
    buffer_printf(b, "%s_sum{%s} %.9g\n", name, labels, h->sum);
    buffer_printf(b, "%s_count{%s} %llu\n", name, labels, (unsigned long long)n);
}

static void write_engine(struct buffer *b, const char *labels, struct engine *e)
{
    static const char *const REASONS[] = {[GEN_STOP] = "stop",
                                          [GEN_LENGTH] = "length",
                                          [GEN_CANCELLED] = "abort",
                                          [GEN_FAILED] = "error"};
    struct engine_stats s;
    engine_get_stats(e, &s);
    single(b, labels, "vllm:num_requests_running", "gauge", "Answers being made.", s.n_running);
    single(b, labels, "vllm:num_requests_waiting", "gauge", "Requests waiting for a seat.",
           s.n_waiting);
    single(b, labels, "vllm:kv_cache_usage_perc", "gauge", "Used part of the KV cache, 1 is all.",
           s.kv_pages > 0 ? (double)s.kv_pages_used / s.kv_pages : 0);
    single(b, labels, "vllm:prompt_tokens_total", "counter", "Prompt tokens processed.",
           (double)s.prompt_tokens);
    single(b, labels, "vllm:generation_tokens_total", "counter", "Tokens generated.",
           (double)s.generation_tokens);
    head(b, "vllm:request_success_total", "counter", "Finished requests, by reason.");
    for (int i = 0; i < 4; i++)
        buffer_printf(b, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", labels,
                      REASONS[i], (unsigned long long)s.n_finished[i]);
    single(b, labels, "vllm:spec_decode_num_drafts_total", "counter", "Trees drafted.",
           (double)s.drafts);
    single(b, labels, "vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.",
           (double)s.draft_tokens);
    single(b, labels, "vllm:spec_decode_num_accepted_tokens_total", "counter",
           "Drafted tokens accepted.", (double)s.accepted_tokens);
    head(b, "vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter",
         "Drafted tokens accepted, by depth in the tree.");
    for (int i = 0; i < engine_info(e)->draft_depth && i < MAX_NODES; i++)
        buffer_printf(
            b, "vllm:spec_decode_num_accepted_tokens_per_pos_total{%s,position=\"%d\"} %llu\n",
            labels, i, (unsigned long long)s.accepted_per_pos[i]);
    single(b, labels, "vispecd:rounds_total", "counter", "Verify passes of all answers.",
           (double)s.rounds);
}

void metrics_write(struct metrics *m, struct buffer *b, struct engine *e, const char *model)
{
    struct buffer labels = {0};
    buffer_printf(&labels, "model_name=\"");
    for (const char *c = model; *c; c++) {
        if (*c == '"' || *c == '\\') buffer_append(&labels, "\\", 1);
        buffer_append(&labels, c, 1);
    }
    buffer_printf(&labels, "\"");
    write_engine(b, labels.data, e);

    struct histogram histograms[N_METRICS];
    uint64_t responses[N_STATUSES];
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < N_METRICS; i++) histograms[i] = m->histograms[i];
    for (int i = 0; i < N_STATUSES; i++) responses[i] = m->responses[i];
    pthread_mutex_unlock(&m->lock);
    for (int i = 0; i < N_METRICS; i++) write_histogram(b, labels.data, i, &histograms[i]);
    head(b, "vispecd:http_responses_total", "counter",
         "HTTP responses, by status; 499: the client left.");
    for (int i = 0; i < N_STATUSES; i++)
        if (responses[i] > 0)
            buffer_printf(b, "vispecd:http_responses_total{%s,code=\"%d\"} %llu\n", labels.data, i,
                          (unsigned long long)responses[i]);
    buffer_done(&labels);
}
