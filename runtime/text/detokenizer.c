#include "runtime/text/detokenizer.h"

#include <string.h>

#include "runtime/text/decoder.h"
#include "runtime/text/utf8.h"

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skips_special)
{
    const char *strip;
    *d = (struct detokenizer){.decoder = tokenizer_decoder(t), .skips_special = skips_special};
    d->n_strip = decoder_n_strip(d->decoder, &strip);
}

/* Gives valid text, without what is stripped at the start of the output. */
static void give(struct detokenizer *d, const char *text, size_t len, struct buffer *out)
{
    const char *strip;
    if (d->n_strip > 0) decoder_n_strip(d->decoder, &strip);
    while (d->n_strip > 0 && len > 0) {
        size_t strip_len = strlen(strip);
        if (len < strip_len || memcmp(text, strip, strip_len) != 0) {
            d->n_strip = 0;
            break;
        }
        text += strip_len;
        len -= strip_len;
        d->n_strip--;
    }
    if (len > 0) buffer_append(out, text, len);
}

static void give_replacements(struct detokenizer *d, int n, struct buffer *out)
{
    for (int i = 0; i < n; i++) give(d, UTF8_REPLACEMENT, UTF8_REPLACEMENT_LEN, out);
}

/* Takes one byte of a byte-level token. */
static void push_stream_byte(struct detokenizer *d, char byte, struct buffer *out)
{
    d->held[d->n_held++] = byte;
    enum utf8_status status = utf8_status(d->held, (size_t)d->n_held);
    if (status == UTF8_INVALID &&
        d->n_held > 1) { /* what was held is a bad part; the byte is not */
        give_replacements(d, 1, out);
        d->held[0] = byte;
        d->n_held = 1;
        status = utf8_status(d->held, 1);
    }
    if (status == UTF8_PARTIAL) return;
    if (status == UTF8_COMPLETE)
        give(d, d->held, (size_t)d->n_held, out);
    else
        give_replacements(d, 1, out);
    d->n_held = 0;
}

/* Takes one byte of a run of byte-fallback tokens. */
static void push_run_byte(struct detokenizer *d, char byte, struct buffer *out)
{
    d->held[d->n_held++] = byte;
    enum utf8_status status =
        d->run_is_bad ? UTF8_INVALID : utf8_status(d->held, (size_t)d->n_held);
    if (status == UTF8_PARTIAL) return;
    if (status == UTF8_COMPLETE) {
        give(d, d->held, (size_t)d->n_held, out);
    } else {
        give_replacements(d, d->n_held, out);
        d->run_is_bad = true;
    }
    d->n_held = 0;
}

/* A run of byte-fallback tokens ends, or the output does. */
void detokenizer_flush(struct detokenizer *d, struct buffer *out)
{
    if (d->n_held > 0) give_replacements(d, decoder_is_byte_level(d->decoder) ? 1 : d->n_held, out);
    d->n_held = 0;
    d->run_is_bad = false;
}

void detokenizer_push(struct detokenizer *d, int32_t id, struct buffer *out)
{
    struct decoder_token token = decoder_token(d->decoder, id);
    if (token.len == 0 || (token.is_special && d->skips_special)) return;
    if (token.is_byte) {
        push_run_byte(d, token.bytes[0], out);
    } else if (decoder_is_byte_level(d->decoder)) {
        for (size_t i = 0; i < token.len; i++) push_stream_byte(d, token.bytes[i], out);
    } else {
        detokenizer_flush(d, out);
        give(d, token.bytes, token.len, out);
    }
}

/* Whether the run of byte tokens that begins at ids[0] is valid UTF-8 as a whole; *n_run gets the
 * number of ids that it reaches over. */
static bool run_is_valid(const struct detokenizer *d, const int32_t *ids, size_t n, size_t *n_run)
{
    char bytes[4];
    size_t n_bytes = 0, i = 0;
    bool is_valid = true;
    for (; i < n; i++) {
        struct decoder_token token = decoder_token(d->decoder, ids[i]);
        if (token.len == 0 || (token.is_special && d->skips_special)) continue;
        if (!token.is_byte) break;
        if (!is_valid) continue;
        bytes[n_bytes++] = token.bytes[0];
        enum utf8_status status = utf8_status(bytes, n_bytes);
        if (status == UTF8_INVALID) is_valid = false;
        if (status == UTF8_COMPLETE) n_bytes = 0;
    }
    *n_run = i;
    return is_valid && n_bytes == 0;
}

void detokenize(const struct tokenizer *t, const int32_t *ids, size_t n, bool skips_special,
                struct buffer *out)
{
    struct detokenizer d;
    detokenizer_init(&d, t, skips_special);
    size_t run_end = 0;
    for (size_t i = 0; i < n; i++) {
        if (i >= run_end && decoder_token(d.decoder, ids[i]).is_byte) {
            size_t n_run;
            d.run_is_bad = !run_is_valid(&d, ids + i, n - i, &n_run);
            run_end = i + n_run;
        }
        detokenizer_push(&d, ids[i], out);
    }
    detokenizer_flush(&d, out);
}

const char *detokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    struct decoder_token token = decoder_token(tokenizer_decoder(t), id);
    *len = token.len;
    return token.bytes;
}
