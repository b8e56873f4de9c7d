#include "server/reply.h"

#include "runtime/engine/prompt.h"
#include "server/json_out.h"

#include <stdlib.h>

void reply_done(struct reply *r)
{
    free(r->model);
    free(r->prompt_ids);
    *r = (struct reply){0};
}

int reply_failure(const struct reply_end *end, struct api_error *err)
{
    switch (end->finish) {
    case GEN_STOP:
    case GEN_LENGTH:
        return 0;
    case GEN_CANCELLED:
        return api_error_set(err, "shutting_down", NULL,
                             "the server is shutting down; the answer was cut off");
    case GEN_FAILED:
        break;
    }
    return api_error_set(err, "generation_failed", NULL, "the model failed on this request");
}

void reply_head(struct buffer *b, const struct reply *r, const char *object)
{
    buffer_printf(b, "\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", r->id, object,
                  (long long)r->created);
    json_out_text(b, r->model);
    buffer_printf(b, ",\"service_tier\":\"default\",\"system_fingerprint\":\"vispecd-%s\"",
                  r->version);
}

void reply_usage(struct buffer *b, const struct reply *r, const struct reply_end *end)
{
    /* The prediction counters are those of OpenAI's predicted outputs, which is another feature
     * than our draft: its numbers stand in timings. */
    buffer_printf(b,
                  ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
                  "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
                  r->n_prompt, end->timings.predicted_n, r->n_prompt + end->timings.predicted_n);
}

static double per_second(int n, double ms)
{
    return n > 0 && ms > 0 ? 1e3 * n / ms : 0;
}

void reply_timings(struct buffer *b, const struct reply_end *end)
{
    const struct gen_timings *t = &end->timings;
    /* The first token belongs to the prompt's time. */
    int n_later = t->predicted_n - 1;
    buffer_printf(
        b,
        ",\"timings\":{\"cache_n\":0,\"prompt_n\":%d,\"prompt_ms\":%.3f,"
        "\"prompt_per_second\":%.3f,\"predicted_n\":%d,\"predicted_ms\":%.3f,"
        "\"predicted_per_second\":%.3f,\"draft_n\":%d,\"draft_n_accepted\":%d,\"rounds\":%d,"
        "\"queue_ms\":%.3f}",
        t->prompt_n, t->prompt_ms, per_second(t->prompt_n, t->prompt_ms), t->predicted_n,
        t->predicted_ms, per_second(n_later, t->predicted_ms), t->draft_n, t->draft_n_accepted,
        t->rounds, t->queue_ms);
}

void reply_prompt_ids(struct buffer *b, const struct reply *r)
{
    if (!r->prompt_ids) return;
    buffer_printf(b, ",\"prompt_token_ids\":");
    json_out_ints(b, r->prompt_ids, (size_t)r->n_prompt);
}

void reply_finish_reason(struct buffer *b, const struct reply_end *end)
{
    const char *reason = !end ? "null" : end->finish == GEN_LENGTH ? "\"length\"" : "\"stop\"";
    buffer_printf(b, ",\"finish_reason\":%s", reason);
}

/* "token":...,"logprob":...,"bytes":[...] */
static void token_members(struct buffer *b, const struct reply *r, int id, float logprob)
{
    char bytes[64];
    int n = prompt_token_bytes(r->engine, id, bytes);
    buffer_printf(b, "\"token\":");
    json_out_string(b, bytes, (size_t)n);
    buffer_printf(b, ",\"logprob\":");
    json_out_real(b, logprob);
    buffer_printf(b, ",\"bytes\":[");
    for (int i = 0; i < n; i++) buffer_printf(b, i ? ",%d" : "%d", (unsigned char)bytes[i]);
    buffer_printf(b, "]");
}

void reply_tokens(const struct reply *r, struct answer_part part, struct buffer *logprobs,
                  struct buffer *ids)
{
    if (!r->logprobs && !r->return_token_ids) return;
    for (int i = 0; i < part.n_tokens; i++) {
        struct answer_token token;
        answer_token(&part, &token);
        if (r->return_token_ids) buffer_printf(ids, ids->len ? ",%d" : "%d", (int)token.id);
        if (!r->logprobs) continue;
        buffer_printf(logprobs, logprobs->len ? ",{" : "{");
        token_members(logprobs, r, token.id, token.logprob);
        buffer_printf(logprobs, ",\"top_logprobs\":[");
        for (int k = 0; k < token.n_top; k++) {
            buffer_printf(logprobs, k ? ",{" : "{");
            token_members(logprobs, r, token.top_ids[k], token.top_logprobs[k]);
            buffer_printf(logprobs, "}");
        }
        buffer_printf(logprobs, "]}");
    }
}

void reply_token_members(struct buffer *b, const struct reply *r, const struct buffer *logprobs,
                         const struct buffer *ids)
{
    if (r->logprobs)
        buffer_printf(b, ",\"logprobs\":{\"content\":[%s],\"refusal\":null}",
                      logprobs->len ? logprobs->data : "");
    else
        buffer_printf(b, ",\"logprobs\":null");
    if (r->return_token_ids) buffer_printf(b, ",\"token_ids\":[%s]", ids->len ? ids->data : "");
}

void reply_completion(struct buffer *b, const struct reply *r, const struct buffer *answer,
                      const struct reply_end *end)
{
    struct buffer text = {0}, logprobs = {0}, ids = {0};
    struct answer_part part;
    size_t pos = 0;
    while (answer_next(answer, &pos, &part)) {
        buffer_append(&text, part.text, part.text_len);
        reply_tokens(r, part, &logprobs, &ids);
    }
    buffer_printf(b, "{");
    reply_head(b, r, "chat.completion");
    buffer_printf(b, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    json_out_string(b, text.data ? text.data : "", text.len);
    buffer_printf(b, ",\"refusal\":null}");
    reply_token_members(b, r, &logprobs, &ids);
    reply_finish_reason(b, end);
    buffer_printf(b, "}]");
    reply_usage(b, r, end);
    reply_timings(b, end);
    reply_prompt_ids(b, r);
    buffer_printf(b, "}\n");
    buffer_done(&text);
    buffer_done(&logprobs);
    buffer_done(&ids);
}
