/* A hash table from byte strings to ids; the keys are copied into one block.  Filled by one thread,
 * then read by any number. */
#ifndef RUNTIME_TEXT_STRMAP_H
#define RUNTIME_TEXT_STRMAP_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/mem.h"

struct strmap_slot {
    uint32_t hash;
    int32_t id; /* -1: the slot is free */
    size_t start;
    size_t len;
};

/* Zero-initialized is empty. */
struct strmap {
    struct strmap_slot *slots; /* [n_slots], a power of two, at most half full */
    size_t n_slots, n;
    struct buffer keys;
};

void strmap_put(struct strmap *map, const char *key, size_t len,
                int32_t id);                                               /* id >= 0; replaces */
int32_t strmap_get(const struct strmap *map, const char *key, size_t len); /* -1: not there */
void strmap_done(struct strmap *map);

#endif
