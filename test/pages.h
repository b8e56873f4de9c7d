/* A paged cache for tests: pages in shuffled order, every slot NaN until the test fills it. */
#ifndef TEST_PAGES_H
#define TEST_PAGES_H

#include "test/kernels.h"

struct pages {
    struct kernels *k;   /* borrowed */
    struct kv_pool pool; /* device memory, owned by k */
    int max_seqs;
    float *key, *value; /* host copies, of the pool's layout */
    int32_t *table;     /* host copy */
    uint64_t *valid;    /* host copy, all clear; NULL if the pool has none */
};

/* Every seat gets max_pages pages.  The pool's sizes but n_pages are taken from `shape`. */
void pages_init(struct pages *p, struct kernels *k, struct kv_pool shape, int max_seqs,
                bool has_valid);

/* Where a slot's row lies in key and value. */
size_t pages_at(const struct pages *p, int layer, int seat, int kv_head, int slot);
/* Fills a slot of the host copies, all kv heads, with numbers that depend on `token` only. */
void pages_fill(struct pages *p, int layer, int seat, int slot, int token);
bool pages_is_valid(const struct pages *p, int seat, int slot);
void pages_set_valid(struct pages *p, int seat, int slot);

void pages_upload(struct pages *p);   /* host copies to the device */
void pages_download(struct pages *p); /* and back */

/* One row of struct rows. */
struct page_row {
    int seat, slot, prefix;
    int32_t pos[3];
    uint64_t mask;
};

/* n rows in arrays of max; behind n stands what must not be read. */
struct rows pages_rows(struct kernels *k, const struct page_row *rows, int n, int max);

/* out[head_dim] = softmax(q K^T / sqrt(head_dim)) V in double, of one query head over what the row
 * sees in the host copies. */
void pages_attend(const struct pages *p, int layer, const struct page_row *row, int kv_head,
                  const float *q, double *out);

#endif
