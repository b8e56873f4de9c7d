#include "runtime/text/bpe.h"

#include <assert.h>
#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/text/bpe_impl.h"
#include "runtime/text/utf8.h"

/* Symbols are linked in text order.  rank is that of the merge with the next symbol, NO_MERGE if
 * there is none or the symbol was merged away.  A heap entry, rank << 32 | position, that no longer
 * agrees with its symbol's rank is stale and dropped when it comes up. */
struct bpe_symbol {
    int32_t id;
    int32_t prev, next; /* position or -1 */
    uint32_t rank;
};

void bpe_work_done(struct bpe_work *work)
{
    free(work->symbols);
    free(work->heap);
    *work = (struct bpe_work){0};
}

/* A word of n bytes has at most n symbols, and pushes at most 1 + 2 candidates a symbol. */
static void reserve(struct bpe_work *work, size_t n)
{
    if (n > work->symbols_capacity) {
        work->symbols_capacity = 2 * n;
        work->symbols = xrealloc(work->symbols, work->symbols_capacity * sizeof(*work->symbols));
        work->heap_capacity = 3 * work->symbols_capacity;
        work->heap = xrealloc(work->heap, work->heap_capacity * sizeof(*work->heap));
    }
}

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t entry = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= entry) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = entry;
}

static void push(struct bpe_work *work, uint64_t entry)
{
    assert(work->n_heap < work->heap_capacity);
    size_t i = work->n_heap++;
    while (i > 0 && work->heap[(i - 1) / 2] > entry) {
        work->heap[i] = work->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    work->heap[i] = entry;
}

static uint64_t pop(struct bpe_work *work)
{
    uint64_t least = work->heap[0];
    work->heap[0] = work->heap[--work->n_heap];
    if (work->n_heap > 0) sift_down(work->heap, work->n_heap, 0);
    return least;
}

/* Sets the rank of the symbol at position i from its pair; true if there is a merge. */
static bool update_rank(const struct bpe *bpe, struct bpe_symbol *symbols, int32_t i)
{
    struct bpe_symbol *s = &symbols[i];
    s->rank = s->next < 0 ? NO_MERGE : bpe_pair_slot(bpe, s->id, symbols[s->next].id)->rank;
    return s->rank != NO_MERGE;
}

static uint64_t candidate(const struct bpe_symbol *symbols, int32_t i)
{
    return (uint64_t)symbols[i].rank << 32 | (uint32_t)i;
}

static void merge_all(const struct bpe *bpe, struct bpe_work *work, size_t n)
{
    struct bpe_symbol *symbols = work->symbols;
    work->n_heap = 0;
    for (size_t i = 0; i < n; i++)
        if (update_rank(bpe, symbols, (int32_t)i))
            work->heap[work->n_heap++] = candidate(symbols, (int32_t)i);
    for (size_t i = work->n_heap / 2; i-- > 0;) sift_down(work->heap, work->n_heap, i);
    while (work->n_heap > 0) {
        uint64_t entry = pop(work);
        int32_t at = (int32_t)(uint32_t)entry;
        struct bpe_symbol *s = &symbols[at];
        if (s->rank != (uint32_t)(entry >> 32)) continue;
        s->id = bpe->merged[s->rank];
        struct bpe_symbol *gone = &symbols[s->next];
        gone->rank = NO_MERGE;
        s->next = gone->next;
        if (s->next >= 0) symbols[s->next].prev = at;
        if (update_rank(bpe, symbols, at)) push(work, candidate(symbols, at));
        if (s->prev >= 0 && update_rank(bpe, symbols, s->prev))
            push(work, candidate(symbols, s->prev));
    }
}

static size_t add_symbol(struct bpe_work *work, size_t n, int32_t id)
{
    work->symbols[n] = (struct bpe_symbol){id, (int32_t)n - 1, (int32_t)n + 1, NO_MERGE};
    return n + 1;
}

/* One symbol a byte; returns how many. */
static size_t start_from_bytes(const struct bpe *bpe, const char *word, size_t len,
                               struct bpe_work *work)
{
    size_t n = 0;
    bool after_unk = false;
    for (size_t i = 0; i < len; i++) {
        int32_t id = bpe->byte_ids[(unsigned char)word[i]];
        bool is_unk = id < 0;
        if (is_unk && !(after_unk && bpe->fuses_unk)) id = bpe->unk_id;
        if (id >= 0) n = add_symbol(work, n, id);
        after_unk = is_unk;
    }
    return n;
}

static bool has_byte_ids(const struct bpe *bpe, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bpe->byte_ids[(unsigned char)bytes[i]] < 0) return false;
    return bpe->has_byte_fallback;
}

/* One symbol a character, or its bytes' symbols if the vocabulary lacks it; returns how many. */
static size_t start_from_characters(const struct bpe *bpe, const char *word, size_t len,
                                    struct bpe_work *work)
{
    size_t n = 0;
    bool after_unk = false;
    for (size_t i = 0, width = 1; i < len; i += width) {
        unsigned char lead = (unsigned char)word[i];
        width = 1;
        if (lead >= 0x80) utf8_decode(word + i, &width);
        int32_t id = lead < 0x80 ? bpe->ascii_ids[lead] : strmap_get(&bpe->pieces, word + i, width);
        bool is_unk = false;
        if (id >= 0) {
            n = add_symbol(work, n, id);
        } else if (has_byte_ids(bpe, word + i, width)) {
            for (size_t k = 0; k < width; k++)
                n = add_symbol(work, n, bpe->byte_ids[(unsigned char)word[i + k]]);
        } else {
            is_unk = true;
            if (bpe->unk_id >= 0 && !(after_unk && bpe->fuses_unk))
                n = add_symbol(work, n, bpe->unk_id);
        }
        after_unk = is_unk;
    }
    return n;
}

void bpe_encode(const struct bpe *bpe, const char *word, size_t len, struct bpe_work *work,
                struct token_list *out)
{
    assert(len < INT32_MAX);
    int32_t whole = strmap_get(&bpe->pieces, word, len);
    if (whole >= 0 && (bpe->ignores_merges || bpe->is_whole[whole])) {
        token_list_push(out, whole);
        return;
    }
    reserve(work, len);
    size_t n = bpe->is_byte_level ? start_from_bytes(bpe, word, len, work)
                                  : start_from_characters(bpe, word, len, work);
    if (n == 0) return;
    work->symbols[n - 1].next = -1;
    merge_all(bpe, work, n);
    for (int32_t i = 0; i >= 0; i = work->symbols[i].next)
        token_list_push(out, work->symbols[i].id);
}

int32_t bpe_find(const struct bpe *bpe, const char *text, size_t len)
{
    return strmap_get(&bpe->pieces, text, len);
}
