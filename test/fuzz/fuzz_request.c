/* Bodies of POST /v1/chat/completions. */
#include "server/openai.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static const struct engine_info INFO = {
        .max_model_len = 2048,
        .vocab = 1000,
        .has_vision = true,
        .defaults = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    static const char *const NAMES[] = {"m"};
    static const struct openai_limits LIMITS = {&INFO, NAMES, 1};
    struct chat_request r;
    struct api_error err;
    if (openai_parse(&r, (const char *)bytes, len, &LIMITS, &err) == 0) {
        /* What the engine trusts. */
        const struct sampling *s = &r.generation.sampling;
        if (!(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1)) abort();
        if (s->n_stop_ids < 0 || s->n_stop_ids > MAX_STOP_IDS || s->n_logprobs > MAX_LOGPROBS)
            abort();
        if (r.messages.n < 1 || r.messages.n > MAX_MESSAGES) abort();
        openai_done(&r);
    } else if (err.status < 400 || !err.text[0]) {
        abort();
    }
    return 0;
}
