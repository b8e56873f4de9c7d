/* What bpe.c, the algorithm, and bpe_load.c, which fills the tables, share.  Nobody else includes
 * it. */
#ifndef RUNTIME_TEXT_BPE_IMPL_H
#define RUNTIME_TEXT_BPE_IMPL_H

#include "runtime/text/bpe.h"
#include "runtime/text/strmap.h"

#define NO_MERGE UINT32_MAX

/* A slot of the table of pairs: open addressing, a power of two, at most half full. */
struct pair_slot {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* place in the list of merges; NO_MERGE: the slot is free */
    int32_t merged;
};

struct bpe {
    struct strmap pieces; /* text to id, without the special tokens */
    struct pair_slot *pairs;
    size_t n_pair_slots;
    uint32_t n_merges;
    int32_t *merged;        /* [n_merges], id that each merge makes */
    bool *is_whole;         /* [n_ids], the entry's text, as a word, gives just this id */
    int32_t n_ids;          /* largest id + 1 */
    int32_t ascii_ids[128]; /* single characters, or bytes; -1: none */
    int32_t byte_ids[256];  /* byte-level: the byte's symbol; else byte fallback's; -1: none */
    int32_t unk_id;         /* -1: what is not in the vocabulary vanishes */
    bool fuses_unk;         /* neighbouring unknown characters give one unk_id */
    bool is_byte_level;
    bool has_byte_fallback;
    bool ignores_merges; /* a word that is in the vocabulary is not built from merges */
};

/* The slot of a pair, or the free one where it belongs. */
static inline struct pair_slot *bpe_pair_slot(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = bpe->n_pair_slots - 1;
    size_t i = (size_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & mask;
    for (;; i = (i + 1) & mask) {
        struct pair_slot *slot = &bpe->pairs[i];
        if (slot->rank == NO_MERGE || slot->pair == pair) return slot;
    }
}

#endif
