/* topk, logprobs: the best of log_softmax(row) = row - max - log(sum of e^(row - max)); topk makes
 * the row itself.
 *
 * Where the row has no log_softmax, because a logit is NaN or the largest is infinite, all of its
 * log-probabilities are -inf and the ids still are tokens: a draft that fails proposes badly and
 * breaks nothing. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/scan.h"

/* log(sum of e^x) in two parts, *max + the result, which is >= 0; NaN if there is none. */
static double log_normaliser(const float *x, int n, float *max)
{
    bool has_nan;
    *max = scan_max(x, n, &has_nan);
    if (has_nan || isinf(*max)) return NAN;
    return log(scan_exp_sum(x, n, *max));
}

static float log_probability(float logit, float max, double log_sum)
{
    double logprob = (double)(logit - max) - log_sum;
    return isnan(logprob) ? -INFINITY : (float)logprob;
}

static void topk_run(const struct topk_args *a)
{
    int n = cpu_n_rows(a->n, a->max);
    REQUIRE(a->k >= 1 && a->k <= MAX_TOP_K && a->k <= a->vocab);
    float *all_logits = cpu_scratch((size_t)n * (size_t)a->vocab * sizeof(float));
    cpu_gemm_now(&(struct gemm_args){
        .w = a->w, .x = a->x, .y = all_logits, .max = n, .ldx = a->ldx, .ldy = a->vocab});
#pragma omp parallel for schedule(dynamic) if (n > 1 && (long)n * a->vocab > SCAN_SERIAL_MAX)
    for (int r = 0; r < n; r++) {
        const float *logits = all_logits + (size_t)r * a->vocab;
        struct scored best[MAX_TOP_K];
        scan_best(logits, a->vocab, a->k, best);
        float max;
        double log_sum = log_normaliser(logits, a->vocab, &max);
        for (int j = 0; j < a->k; j++) {
            a->ids[(size_t)r * a->k + j] = a->ids_of ? a->ids_of[best[j].id] : best[j].id;
            a->logprobs[(size_t)r * a->k + j] = log_probability(best[j].score, max, log_sum);
        }
    }
}
CPU_OPERATION(topk, topk_args)

/* Entries behind the wanted ones, or behind the vocabulary, have id -1. */
static void logprobs_row(const float *logits, int vocab, int n_wanted, struct token_logprobs *top)
{
    struct scored best[MAX_LOGPROBS];
    int n_best = scan_best(logits, vocab, n_wanted, best);
    float max;
    double log_sum = log_normaliser(logits, vocab, &max);
    top->logprob = (float)(max + log_sum);
    for (int j = 0; j < MAX_LOGPROBS; j++) {
        top->ids[j] = j < n_best ? best[j].id : -1;
        top->logprobs[j] = j < n_best ? log_probability(best[j].score, max, log_sum) : -INFINITY;
    }
}

static void logprobs_run(const struct logprobs_args *a)
{
    int n = cpu_n_rows(a->out.n, a->out.max), vocab = a->state.vocab;
#pragma omp parallel for schedule(dynamic) if (n > 1 && (long)n * vocab > SCAN_SERIAL_MAX)
    for (int i = 0; i < n; i++) {
        int n_wanted = a->state.seats[a->out.seat[i]].sampling.n_logprobs;
        if (n_wanted < 0) continue;
        REQUIRE(n_wanted <= MAX_LOGPROBS);
        logprobs_row(a->logits + (size_t)i * vocab, vocab, n_wanted, &a->top[i]);
    }
}
CPU_OPERATION(logprobs, logprobs_args)
