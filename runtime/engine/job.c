#include "runtime/engine/job.h"

#include <stdlib.h>
#include <time.h>

double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

void job_free(struct job *job)
{
    prompt_free(job->gen.prompt);
    output_done(&job->output);
    free(job);
}

void job_end(struct job *job, enum gen_finish finish, const char *failure)
{
    struct gen_event event = {.is_last = true, .finish = finish, .failure = failure};
    output_finish(&job->output);
    event.text = output_take(&job->output, &event.text_len);
    event.timings = job->counts;
    event.timings.prompt_n = (int)job->gen.prompt->tokens.n;
    double end = now_ms();
    double seated = job->seated_ms > 0 ? job->seated_ms : end;
    double first = job->first_token_ms > 0 ? job->first_token_ms : end;
    event.timings.queue_ms = seated - job->submitted_ms;
    event.timings.prompt_ms = first - seated;
    event.timings.predicted_ms = job->last_token_ms > first ? job->last_token_ms - first : 0;
    job->gen.on_event(job->gen.user, &event);
    job_free(job);
}
