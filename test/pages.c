#include "test/pages.h"

#include "test/test.h"

#include <math.h>
#include <string.h>

static size_t pool_floats(const struct kv_pool *p)
{
    return (size_t)p->n_layers * p->n_pages * p->n_kv_heads * PAGE_LEN * p->head_dim;
}

void pages_init(struct pages *p, struct kernels *k, struct kv_pool shape, int max_seqs,
                bool has_valid)
{
    *p = (struct pages){.k = k, .pool = shape, .max_seqs = max_seqs};
    const int n_entries = max_seqs * shape.max_pages;
    p->pool.n_pages = n_entries + 3;
    const size_t bytes = pool_floats(&p->pool) * sizeof(float);
    p->key = memset(kernels_host(k, bytes), 0xff, bytes);
    p->value = memset(kernels_host(k, bytes), 0xff, bytes);
    p->table = kernels_host(k, (size_t)n_entries * sizeof(*p->table));
    unsigned state = 99;
    for (int i = 0; i < n_entries; i++) { /* Fisher and Yates, from the inside out */
        int j = kernels_random_int(&state, i + 1);
        p->table[i] = p->table[j];
        p->table[j] = i + 2;
    }
    p->pool.k = kernels_empty_act(k, pool_floats(&p->pool));
    p->pool.v = kernels_empty_act(k, pool_floats(&p->pool));
    p->pool.table = kernels_empty(k, (size_t)n_entries * sizeof(*p->table));
    if (has_valid) {
        p->valid = kernels_host(k, (size_t)p->pool.n_pages * sizeof(*p->valid));
        p->pool.valid = kernels_empty(k, (size_t)p->pool.n_pages * sizeof(*p->valid));
    }
}

static int page_of(const struct pages *p, int seat, int slot)
{
    return p->table[seat * p->pool.max_pages + slot / PAGE_LEN];
}

size_t pages_at(const struct pages *p, int layer, int seat, int kv_head, int slot)
{
    size_t page = (size_t)layer * p->pool.n_pages + page_of(p, seat, slot);
    return ((page * p->pool.n_kv_heads + kv_head) * PAGE_LEN + slot % PAGE_LEN) * p->pool.head_dim;
}

/* A number of (-1, 1) for each pair; by MurmurHash3's last steps, so that no pattern is in them. */
static float hashed(uint32_t a, uint32_t b)
{
    uint32_t h = a * 0x85ebca6bu + b + 1;
    for (int step = 0; step < 2; step++) {
        h = (h ^ h >> 16) * 0x85ebca6bu;
        h = (h ^ h >> 13) * 0xc2b2ae35u;
    }
    return ((float)(h >> 8) + 0.5F) * 0x1p-23F - 1;
}

void pages_fill(struct pages *p, int layer, int seat, int slot, int token)
{
    for (int h = 0; h < p->pool.n_kv_heads; h++)
        for (int i = 0; i < p->pool.head_dim; i++) {
            size_t at = pages_at(p, layer, seat, h, slot) + i;
            const uint32_t place = (uint32_t)(2 * (h * 300 + i));
            p->key[at] = kernels_round_act(p->k, 2 * hashed((uint32_t)token, place));
            p->value[at] = kernels_round_act(p->k, hashed((uint32_t)token, place + 1));
        }
}

bool pages_is_valid(const struct pages *p, int seat, int slot)
{
    if (p->valid == NULL) return true;
    int page = page_of(p, seat, slot);
    return page >= 0 && (p->valid[page] >> (slot % PAGE_LEN) & 1) != 0;
}

void pages_set_valid(struct pages *p, int seat, int slot)
{
    p->valid[page_of(p, seat, slot)] |= 1ull << (slot % PAGE_LEN);
}

void pages_upload(struct pages *p)
{
    kernels_write_act(p->k, p->pool.k, p->key, pool_floats(&p->pool));
    kernels_write_act(p->k, p->pool.v, p->value, pool_floats(&p->pool));
    kernels_write(p->k, p->pool.table, p->table,
                  (size_t)p->max_seqs * p->pool.max_pages * sizeof(*p->table));
    if (p->valid != NULL)
        kernels_write(p->k, p->pool.valid, p->valid, (size_t)p->pool.n_pages * sizeof(*p->valid));
}

void pages_download(struct pages *p)
{
    p->key = kernels_download_act(p->k, p->pool.k, pool_floats(&p->pool));
    p->value = kernels_download_act(p->k, p->pool.v, pool_floats(&p->pool));
    if (p->valid != NULL)
        p->valid =
            kernels_download(p->k, p->pool.valid, (size_t)p->pool.n_pages * sizeof(*p->valid));
}

struct rows pages_rows(struct kernels *k, const struct page_row *rows, int n, int max)
{
    struct rows host = {
        .n = kernels_upload(k, &(int32_t){n}, sizeof(int32_t)),
        .max = max,
        .seat = kernels_empty(k, (size_t)max * sizeof(int32_t)),
        .id = kernels_empty(k, (size_t)max * sizeof(int32_t)),
        .pos = kernels_empty(k, (size_t)max * 3 * sizeof(int32_t)),
        .slot = kernels_empty(k, (size_t)max * sizeof(int32_t)),
        .prefix = kernels_empty(k, (size_t)max * sizeof(int32_t)),
        .mask = kernels_empty(k, (size_t)max * sizeof(uint64_t)),
    };
    for (int r = 0; r < n; r++) {
        kernels_write(k, host.seat + r, &rows[r].seat, sizeof(int32_t));
        kernels_write(k, host.pos + 3 * (size_t)r, rows[r].pos, sizeof(rows[r].pos));
        kernels_write(k, host.slot + r, &rows[r].slot, sizeof(int32_t));
        kernels_write(k, host.prefix + r, &rows[r].prefix, sizeof(int32_t));
        kernels_write(k, host.mask + r, &rows[r].mask, sizeof(uint64_t));
    }
    return host;
}

static bool sees(const struct pages *p, const struct page_row *row, int slot)
{
    if (slot < row->prefix) return pages_is_valid(p, row->seat, slot);
    return slot - row->prefix < 64 && (row->mask >> (slot - row->prefix) & 1) != 0;
}

void pages_attend(const struct pages *p, int layer, const struct page_row *row, int kv_head,
                  const float *q, double *out)
{
    const int head_dim = p->pool.head_dim, n_slots = p->pool.max_pages * PAGE_LEN;
    double sum = 0;
    memset(out, 0, (size_t)head_dim * sizeof(*out));
    for (int slot = 0; slot < n_slots; slot++) {
        if (!sees(p, row, slot)) continue;
        size_t at = pages_at(p, layer, row->seat, kv_head, slot);
        double score = 0;
        for (int i = 0; i < head_dim; i++) score += (double)q[i] * (double)p->key[at + i];
        double weight = exp(score / sqrt(head_dim)); /* tests keep scores small */
        sum += weight;
        for (int i = 0; i < head_dim; i++) out[i] += weight * (double)p->value[at + i];
    }
    for (int i = 0; i < head_dim; i++) out[i] /= sum > 0 ? sum : 1;
}
