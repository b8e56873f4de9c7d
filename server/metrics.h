/* Numbers for GET /metrics in Prometheus' text format, with vLLM's names, so that dashboards,
 * autoscalers and gateways made for it work.  Counters of the engine are read when asked; what only
 * the server can see (latencies as clients feel them, HTTP statuses) is counted here.  Any thread.
 */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "runtime/engine/engine.h"
#include "runtime/mem.h"

struct metrics;

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m); /* accepts NULL */

enum metric {
    METRIC_FIRST_TOKEN, /* body complete to first token */
    METRIC_INTER_TOKEN, /* between two events of one answer, for each token of the later one */
    METRIC_QUEUE,       /* body complete to a seat */
    METRIC_END_TO_END,  /* body complete to last token */
    N_METRICS,
};

void metrics_observe(struct metrics *m, enum metric which, double seconds, int n_times);
void metrics_response(struct metrics *m, int status);

/* Everything, as the body of a reply. */
void metrics_write(struct metrics *m, struct buffer *b, struct engine *e, const char *model);

#endif
