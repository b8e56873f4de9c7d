#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "runtime/text/bpe_impl.h"
#include "runtime/text/bytelevel.h"
#include "runtime/text/utf8.h"

/* Tables that only the loading needs. */
struct loader {
    struct bpe *bpe;
    const json_t *json;
    struct strmap ids; /* every entry, as written in the file */
    bool *is_special;  /* [n_max_ids] */
    int n_max_ids;
    struct buffer text; /* scratch */
};

static int read_options(struct loader *l, struct error *err)
{
    struct bpe *bpe = l->bpe;
    const char *type = json_string_value(json_object_get(l->json, "type"));
    if (type && strcmp(type, "BPE") != 0)
        return error_set(err, ERROR_BAD_REQUEST, "model: type %.64s is not BPE", type);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(l->json, affixes[i]);
        if (json_string_length(affix) > 0)
            return error_set(err, ERROR_BAD_REQUEST, "model: %s is %.64s, not empty", affixes[i],
                             json_string_value(affix));
    }
    if (json_number_value(json_object_get(l->json, "dropout")) != 0.0)
        return error_set(err, ERROR_BAD_REQUEST, "model: dropout makes token ids random");
    bpe->fuses_unk = json_is_true(json_object_get(l->json, "fuse_unk"));
    bpe->has_byte_fallback = json_is_true(json_object_get(l->json, "byte_fallback"));
    bpe->ignores_merges = json_is_true(json_object_get(l->json, "ignore_merges"));
    return 0;
}

static int read_vocabulary(struct loader *l, struct error *err)
{
    json_t *vocab = json_object_get(l->json, "vocab");
    if (!json_is_object(vocab))
        return error_set(err, ERROR_BAD_REQUEST, "model: vocab is missing or not an object");
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= l->n_max_ids)
            return error_set(err, ERROR_BAD_REQUEST,
                             "model: entry %.64s of vocab has no id within 0..%d", key,
                             l->n_max_ids - 1);
        size_t len = strlen(key);
        strmap_put(&l->ids, key, len, (int32_t)id);
        if (id >= l->bpe->n_ids) l->bpe->n_ids = (int32_t)id + 1;
        if (l->is_special[id]) continue;
        l->text.len = 0;
        if (!l->bpe->is_byte_level)
            strmap_put(&l->bpe->pieces, key, len, (int32_t)id);
        else if (bytelevel_decode(key, len, &l->text))
            strmap_put(&l->bpe->pieces, l->text.data, l->text.len, (int32_t)id);
    }
    return 0;
}

static int fill_small_tables(struct loader *l, struct error *err)
{
    struct bpe *bpe = l->bpe;
    for (int c = 0; c < 128; c++) {
        char text = (char)c;
        bpe->ascii_ids[c] = strmap_get(&bpe->pieces, &text, 1);
    }
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = {(char)byte};
        size_t len = 1;
        if (!bpe->is_byte_level) len = (size_t)snprintf(text, sizeof(text), "<0x%02X>", byte);
        bpe->byte_ids[byte] = strmap_get(&bpe->pieces, text, len);
    }
    const json_t *unk = json_object_get(l->json, "unk_token");
    bpe->unk_id = -1;
    if (!json_is_string(unk)) return 0;
    bpe->unk_id = strmap_get(&l->ids, json_string_value(unk), json_string_length(unk));
    if (bpe->unk_id < 0)
        return error_set(err, ERROR_BAD_REQUEST, "model: unk_token %.64s is not in vocab",
                         json_string_value(unk));
    return 0;
}

/* The two parts of a merge, written "a b" or ["a", "b"]. */
static bool read_merge(const json_t *json, const char *parts[2], size_t lengths[2])
{
    if (json_is_array(json) && json_array_size(json) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *part = json_array_get(json, i);
            parts[i] = json_string_value(part);
            lengths[i] = json_string_length(part);
        }
        return parts[0] && parts[1];
    }
    const char *text = json_string_value(json);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) return false;
    parts[0] = text;
    lengths[0] = (size_t)(space - text);
    parts[1] = space + 1;
    lengths[1] = strlen(space + 1);
    return true;
}

static int add_merge(struct loader *l, uint32_t rank, const json_t *json, struct error *err)
{
    struct bpe *bpe = l->bpe;
    const char *parts[2];
    size_t lengths[2];
    if (!read_merge(json, parts, lengths))
        return error_set(err, ERROR_BAD_REQUEST, "model: merge %u is not a pair of strings", rank);
    l->text.len = 0;
    int32_t ids[2];
    for (int i = 0; i < 2; i++) {
        ids[i] = strmap_get(&l->ids, parts[i], lengths[i]);
        buffer_append(&l->text, parts[i], lengths[i]);
        if (ids[i] < 0)
            return error_set(err, ERROR_BAD_REQUEST,
                             "model: merge %u refers to %.64s, which is not in vocab", rank,
                             parts[i]);
    }
    int32_t merged = strmap_get(&l->ids, l->text.data, l->text.len);
    if (merged < 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "model: merge %u makes %.64s, which is not in vocab", rank, l->text.data);
    bpe->merged[rank] = merged;
    if (l->is_special[merged]) return 0;
    struct pair_slot *slot = bpe_pair_slot(bpe, ids[0], ids[1]);
    slot->pair = (uint64_t)(uint32_t)ids[0] << 32 | (uint32_t)ids[1];
    slot->rank = rank; /* of a pair that comes twice, the later place counts */
    return 0;
}

static int read_merges(struct loader *l, struct error *err)
{
    struct bpe *bpe = l->bpe;
    const json_t *merges = json_object_get(l->json, "merges");
    size_t n = json_array_size(merges);
    if (!json_is_array(merges) || n >= INT32_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "model: merges is missing or not a list");
    bpe->n_merges = (uint32_t)n;
    bpe->merged = xcalloc(n, sizeof(*bpe->merged));
    bpe->n_pair_slots = 16;
    while (bpe->n_pair_slots < 2 * n) bpe->n_pair_slots *= 2;
    bpe->pairs = xcalloc(bpe->n_pair_slots, sizeof(*bpe->pairs));
    for (size_t i = 0; i < bpe->n_pair_slots; i++) bpe->pairs[i].rank = NO_MERGE;
    for (size_t i = 0; i < n; i++)
        if (add_merge(l, (uint32_t)i, json_array_get(merges, i), err) != 0) return -1;
    return 0;
}

/* Most words of ordinary text are one token.  Knowing which entries their own merges lead to saves
 * the merging, without a cache that threads would have to share. */
static void find_whole_entries(struct bpe *bpe)
{
    enum { LONGEST = 256 }; /* bounds the work; longer entries are merged each time */
    struct bpe_work work = {0};
    struct token_list ids = {0};
    bpe->is_whole = xcalloc((size_t)bpe->n_ids, sizeof(*bpe->is_whole));
    for (size_t i = 0; i < bpe->pieces.n_slots; i++) {
        const struct strmap_slot *slot = &bpe->pieces.slots[i];
        if (slot->id < 0 || slot->len == 0 || slot->len > LONGEST) continue;
        ids.n = 0;
        bpe_encode(bpe, bpe->pieces.keys.data + slot->start, slot->len, &work, &ids);
        bpe->is_whole[slot->id] = ids.n == 1 && ids.ids[0] == slot->id;
    }
    token_list_done(&ids);
    bpe_work_done(&work);
}

int bpe_open(struct bpe **out, const struct json_t *json, const struct added_tokens *added,
             bool is_byte_level, int n_max_ids, struct error *err)
{
    struct bpe *bpe = xcalloc(1, sizeof(*bpe));
    struct loader l = {.bpe = bpe, .json = json, .n_max_ids = n_max_ids};
    int result = -1;
    size_t n_added;
    const struct added_token *tokens = added_tokens_all(added, &n_added);
    l.is_special = xcalloc((size_t)n_max_ids, sizeof(*l.is_special));
    for (size_t i = 0; i < n_added; i++)
        if (tokens[i].is_special) l.is_special[tokens[i].id] = true;
    bpe->is_byte_level = is_byte_level;
    if (read_options(&l, err) != 0 || read_vocabulary(&l, err) != 0 ||
        fill_small_tables(&l, err) != 0 || read_merges(&l, err) != 0)
        goto done;
    find_whole_entries(bpe);
    *out = bpe;
    result = 0;

done:
    if (result != 0) bpe_close(bpe);
    strmap_done(&l.ids);
    buffer_done(&l.text);
    free(l.is_special);
    return result;
}

void bpe_close(struct bpe *bpe)
{
    if (!bpe) return;
    strmap_done(&bpe->pieces);
    free(bpe->pairs);
    free(bpe->merged);
    free(bpe->is_whole);
    free(bpe);
}
