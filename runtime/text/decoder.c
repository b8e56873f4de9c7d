#include "runtime/text/decoder.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "runtime/text/bytelevel.h"

#define MAX_REPLACES 4
#define MAX_STRIP    8

struct entry {
    size_t start;
    uint32_t len;
    bool is_special, is_byte;
};

struct replace {
    const char *from, *to; /* borrowed from the JSON while the decoder is opened */
    size_t from_len, to_len;
};

struct decoder {
    struct entry *entries; /* [n_ids] */
    int n_ids;
    struct buffer bytes; /* of all tokens */
    bool is_byte_level, has_byte_fallback;
    int n_strip;
    char strip[8];
};

/* The decoder while it is being opened. */
struct loader {
    struct decoder *decoder;
    struct replace replaces[MAX_REPLACES];
    int n_replaces;
    struct buffer text, scratch;
};

static int add_replace(struct loader *l, const json_t *json, struct error *err)
{
    const json_t *from = json_object_get(json_object_get(json, "pattern"), "String");
    const json_t *to = json_object_get(json, "content");
    if (json_string_length(from) == 0 || !json_is_string(to) || l->n_replaces == MAX_REPLACES)
        return error_set(err, ERROR_BAD_REQUEST,
                         "decoder: Replace without strings, or more than %d of them", MAX_REPLACES);
    l->replaces[l->n_replaces++] =
        (struct replace){json_string_value(from), json_string_value(to), json_string_length(from),
                         json_string_length(to)};
    return 0;
}

static int add_strip(struct decoder *d, const json_t *json, struct error *err)
{
    const json_t *content = json_object_get(json, "content");
    json_int_t start = json_integer_value(json_object_get(json, "start"));
    json_int_t stop = json_integer_value(json_object_get(json, "stop"));
    size_t len = json_string_length(content);
    if (len == 0 || len >= sizeof(d->strip) || start < 0 || start > MAX_STRIP || stop != 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "decoder: Strip of %lld and %lld characters; known is 0..%d at the start",
                         (long long)start, (long long)stop, MAX_STRIP);
    memcpy(d->strip, json_string_value(content), len + 1);
    d->n_strip = (int)start;
    return 0;
}

static int add_step(struct loader *l, const json_t *json, struct error *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return error_set(err, ERROR_BAD_REQUEST, "decoder: a step has no type");
    if (strcmp(type, "Replace") == 0) return add_replace(l, json, err);
    if (strcmp(type, "Strip") == 0) return add_strip(l->decoder, json, err);
    if (strcmp(type, "Fuse") == 0) return 0; /* joins the tokens, as we always do */
    if (strcmp(type, "ByteFallback") == 0) {
        l->decoder->has_byte_fallback = true;
        return 0;
    }
    return error_set(err, ERROR_BAD_REQUEST,
                     "decoder: type %.64s in a Sequence is not one of Replace, ByteFallback, Fuse, "
                     "Strip",
                     type);
}

static int read_steps(struct loader *l, const json_t *json, struct error *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (type && strcmp(type, "ByteLevel") == 0) {
        l->decoder->is_byte_level = true;
        return 0;
    }
    if (!type || strcmp(type, "Sequence") != 0)
        return error_set(err, ERROR_BAD_REQUEST, "decoder: type %.64s is not ByteLevel or Sequence",
                         type ? type : "null");
    const json_t *list = json_object_get(json, "decoders");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (add_step(l, json_array_get(list, i), err) != 0) return -1;
    return 0;
}

static void replace_all(struct loader *l, const struct replace *r)
{
    struct buffer from = l->text;
    l->text = l->scratch;
    l->text.len = 0;
    l->scratch = from;
    const char *at = from.data, *end = from.data + from.len;
    while (at < end) {
        const char *hit = memmem(at, (size_t)(end - at), r->from, r->from_len);
        buffer_append(&l->text, at, (size_t)((hit ? hit : end) - at));
        if (!hit) break;
        buffer_append(&l->text, r->to, r->to_len);
        at = hit + r->from_len;
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "<0xXX>" stands for, or -1. */
static int fallback_byte(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* Gives the token its bytes; of two for one id the later counts. */
static void set_entry(struct loader *l, int32_t id, const char *text, size_t len, bool is_special)
{
    struct decoder *d = l->decoder;
    struct entry *entry = &d->entries[id];
    *entry = (struct entry){.start = d->bytes.len, .is_special = is_special};
    if (d->is_byte_level) {
        if (!bytelevel_decode(text, len, &d->bytes)) buffer_append(&d->bytes, text, len);
    } else {
        l->text.len = 0;
        buffer_append(&l->text, text, len);
        for (int i = 0; i < l->n_replaces && l->text.len > 0; i++) replace_all(l, &l->replaces[i]);
        int byte =
            d->has_byte_fallback && l->text.len ? fallback_byte(l->text.data, l->text.len) : -1;
        entry->is_byte = byte >= 0;
        char c = (char)byte;
        if (entry->is_byte)
            buffer_append(&d->bytes, &c, 1);
        else if (l->text.len > 0)
            buffer_append(&d->bytes, l->text.data, l->text.len);
    }
    entry->len = (uint32_t)(d->bytes.len - entry->start);
}

int decoder_open(struct decoder **out, const struct json_t *json, const struct json_t *vocab,
                 const struct added_tokens *added, int n_ids, struct error *err)
{
    struct decoder *d = xcalloc(1, sizeof(*d));
    struct loader l = {.decoder = d};
    d->entries = xcalloc((size_t)n_ids, sizeof(*d->entries));
    d->n_ids = n_ids;
    if (read_steps(&l, json, err) != 0) {
        decoder_close(d);
        return -1;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value)
        set_entry(&l, (int32_t)json_integer_value(value), key, strlen(key), false);
    size_t n_added;
    const struct added_token *tokens = added_tokens_all(added, &n_added);
    for (size_t i = 0; i < n_added; i++)
        set_entry(&l, tokens[i].id, tokens[i].content, tokens[i].len, tokens[i].is_special);
    buffer_done(&l.text);
    buffer_done(&l.scratch);
    *out = d;
    return 0;
}

void decoder_close(struct decoder *d)
{
    if (!d) return;
    free(d->entries);
    buffer_done(&d->bytes);
    free(d);
}

struct decoder_token decoder_token(const struct decoder *d, int32_t id)
{
    if (id < 0 || id >= d->n_ids || !d->bytes.data) return (struct decoder_token){.bytes = ""};
    const struct entry *entry = &d->entries[id];
    return (struct decoder_token){d->bytes.data + entry->start, entry->len, entry->is_special,
                                  entry->is_byte};
}

bool decoder_is_byte_level(const struct decoder *d)
{
    return d->is_byte_level;
}

int decoder_n_strip(const struct decoder *d, const char **strip)
{
    *strip = d->strip;
    return d->n_strip;
}
