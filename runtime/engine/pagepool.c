#include "runtime/engine/pagepool.h"

#include "runtime/mem.h"

#include <assert.h>
#include <stdlib.h>

void pagepool_init(struct pagepool *pool, int n_pages)
{
    pool->free_pages = xcalloc((size_t)n_pages, sizeof(*pool->free_pages));
    pool->n_pages = pool->n_free = n_pages;
    for (int i = 0; i < n_pages; i++) pool->free_pages[i] = n_pages - 1 - i;
}

void pagepool_done(struct pagepool *pool)
{
    free(pool->free_pages);
    *pool = (struct pagepool){0};
}

int32_t pagepool_take(struct pagepool *pool)
{
    assert(pool->n_free > 0);
    return pool->free_pages[--pool->n_free];
}

void pagepool_give(struct pagepool *pool, int32_t page)
{
    assert(pool->n_free < pool->n_pages && page >= 0 && page < pool->n_pages);
    pool->free_pages[pool->n_free++] = page;
}
