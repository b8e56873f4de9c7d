#include "runtime/text/strmap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, with a final mix because the table's index is the low bits. */
static uint32_t hash_of(const char *key, size_t len)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)key[i]) * 0x100000001B3u;
    return (uint32_t)(h ^ h >> 32);
}

/* The key's slot, or the free one where it belongs. */
static struct strmap_slot *find_slot(const struct strmap *map, const char *key, size_t len,
                                     uint32_t hash)
{
    size_t mask = map->n_slots - 1;
    size_t i = hash & mask;
    for (;; i = (i + 1) & mask) {
        struct strmap_slot *slot = &map->slots[i];
        if (slot->id < 0) return slot;
        if (slot->hash == hash && slot->len == len &&
            memcmp(map->keys.data + slot->start, key, len) == 0)
            return slot;
    }
}

static void grow(struct strmap *map)
{
    struct strmap old = *map;
    map->n_slots = old.n_slots ? 2 * old.n_slots : 256;
    map->slots = xcalloc(map->n_slots, sizeof(*map->slots));
    for (size_t i = 0; i < map->n_slots; i++) map->slots[i].id = -1;
    for (size_t i = 0; i < old.n_slots; i++) {
        struct strmap_slot *slot = &old.slots[i];
        if (slot->id < 0) continue;
        *find_slot(map, map->keys.data + slot->start, slot->len, slot->hash) = *slot;
    }
    free(old.slots);
}

void strmap_put(struct strmap *map, const char *key, size_t len, int32_t id)
{
    assert(id >= 0);
    if (2 * (map->n + 1) > map->n_slots) grow(map);
    uint32_t hash = hash_of(key, len);
    struct strmap_slot *slot = find_slot(map, key, len, hash);
    if (slot->id < 0) {
        *slot = (struct strmap_slot){.hash = hash, .start = map->keys.len, .len = len};
        buffer_append(&map->keys, key, len);
        map->n++;
    }
    slot->id = id;
}

int32_t strmap_get(const struct strmap *map, const char *key, size_t len)
{
    if (map->n == 0) return -1;
    return find_slot(map, key, len, hash_of(key, len))->id;
}

void strmap_done(struct strmap *map)
{
    free(map->slots);
    buffer_done(&map->keys);
    *map = (struct strmap){0};
}
