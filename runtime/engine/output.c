#include "runtime/engine/output.h"

#include <string.h>

void output_init(struct output *out, const struct tokenizer *t, const struct generation *gen)
{
    *out = (struct output){.gen = gen};
    detokenizer_init(&out->detokenizer, t, gen->skip_special_tokens);
}

void output_done(struct output *out)
{
    buffer_done(&out->held);
    buffer_done(&out->ready);
}

/* Moves the first n held bytes to the text that is ready. */
static void give(struct output *out, size_t n)
{
    if (n == 0) return;
    buffer_append(&out->ready, out->held.data, n);
    memmove(out->held.data, out->held.data + n, out->held.len - n + 1);
    out->held.len -= n;
}

/* Where the first stop string begins in the held text, or its length. */
static size_t find_stop(const struct output *out)
{
    size_t first = out->held.len;
    for (int i = 0; i < out->gen->n_stop_strings && out->held.len > 0; i++) {
        const char *stop = out->gen->stop_strings[i];
        const char *at = memmem(out->held.data, out->held.len, stop, strlen(stop));
        if (at && (size_t)(at - out->held.data) < first) first = (size_t)(at - out->held.data);
    }
    return first;
}

/* Length of the longest tail of the held text with which a stop string may begin. */
static size_t stop_tail(const struct output *out)
{
    size_t longest = 0;
    for (int i = 0; i < out->gen->n_stop_strings; i++) {
        const char *stop = out->gen->stop_strings[i];
        size_t n = strlen(stop) - 1;
        if (n > out->held.len) n = out->held.len;
        while (n > longest && memcmp(out->held.data + out->held.len - n, stop, n) != 0) n--;
        if (n > longest) longest = n;
    }
    return longest;
}

/* Gives out what can be; true if the held text contains a stop string. */
static bool settle(struct output *out)
{
    size_t stop = find_stop(out);
    if (stop < out->held.len) {
        give(out, stop);
        out->held.len = 0;
        out->is_stopped = true;
        return true;
    }
    give(out, out->held.len - stop_tail(out));
    return false;
}

bool output_push(struct output *out, int token)
{
    detokenizer_push(&out->detokenizer, token, &out->held);
    return settle(out);
}

void output_finish(struct output *out)
{
    if (out->is_stopped) return; /* bytes behind a stop string are dropped */
    detokenizer_flush(&out->detokenizer, &out->held);
    if (!settle(out)) give(out, out->held.len);
}

const char *output_take(struct output *out, size_t *len)
{
    *len = out->ready.len;
    out->ready.len = 0;
    return *len ? out->ready.data : "";
}
