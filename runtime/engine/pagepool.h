/* The free pages of one pool (kernels/sequence.h: struct kv_pool), target's or draft's.
 *
 * Only bookkeeping: the memory belongs to the round.  A page that is given back may be taken at
 * once, so its owner gives it back only after the last round that was launched with it has
 * finished.  Engine thread only. */
#ifndef RUNTIME_ENGINE_PAGEPOOL_H
#define RUNTIME_ENGINE_PAGEPOOL_H

#include <stdint.h>

struct pagepool {
    int32_t *free_pages; /* a stack; the lowest page on top at first */
    int n_free, n_pages;
};

void pagepool_init(struct pagepool *pool, int n_pages);
void pagepool_done(struct pagepool *pool);

/* Takes a page; there must be one (the caller has looked at n_free). */
int32_t pagepool_take(struct pagepool *pool);
void pagepool_give(struct pagepool *pool, int32_t page);

#endif
