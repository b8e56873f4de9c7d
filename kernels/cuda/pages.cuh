/* Keys and values in pages: what rows of one sequence see of them, and the runs of rows that belong
 * to one sequence.  A key tile is a page. */
#ifndef KERNELS_CUDA_PAGES_CUH
#define KERNELS_CUDA_PAGES_CUH

#include "kernels/cuda/attend.cuh"

static_assert(ATTEND_KEYS == PAGE_LEN, "a tile is a page, and a word of 64 bits");

/* Elements from layer 0, head 0 of page 0 to a head of a page. */
__device__ __forceinline__ size_t page_offset(const struct kv_pool *pool, int layer, int page,
                                              int kv_head)
{
    return (((size_t)layer * pool->n_pages + page) * pool->n_kv_heads + kv_head) * PAGE_LEN *
           pool->head_dim;
}

/* Page of a sequence's slot, which must be there. */
__device__ __forceinline__ int page_of_slot(const struct kv_pool *pool, int seat, int slot)
{
    DEVICE_REQUIRE(slot >= 0 && slot / PAGE_LEN < pool->max_pages);
    const int page = pool->table[(size_t)seat * pool->max_pages + slot / PAGE_LEN];
    DEVICE_REQUIRE(page >= 0 && page < pool->n_pages);
    return page;
}

/* Elements from head 0 of page 0 of a layer to a sequence's slot, which must be there. */
__device__ __forceinline__ size_t slot_offset(const struct kv_pool *pool, int seat, int slot)
{
    return page_offset(pool, 0, page_of_slot(pool, seat, slot), 0) +
           (size_t)(slot % PAGE_LEN) * pool->head_dim;
}

/* Bits of mask, whose bit 0 stands for slot prefix, as they fall into a page. */
__device__ __forceinline__ uint64_t mask_in_page(uint64_t mask, int prefix, int tile)
{
    const int shift = prefix - tile * PAGE_LEN;
    if (shift >= 64 || shift <= -64) return 0;
    return shift >= 0 ? mask << shift : mask >> -shift;
}

/* One past the last slot that a row sees. */
__device__ __forceinline__ int slots_end(int prefix, uint64_t mask)
{
    const int high = (int)(mask >> 32), low = (int)mask;
    return prefix + (high != 0 ? 64 - __clz(high) : 32 - __clz(low));
}
__device__ __forceinline__ int row_end(const struct rows *rows, int r)
{
    return slots_end(rows->prefix[r], rows->mask[r]);
}

/* A piece of work on a tile of queries: n_rows rows of one sequence from row0 on, and n_pages pages
 * from first_page on. */
struct page_unit {
    int32_t row0, n_rows, seat;
    int32_t first_page, n_pages;
    int32_t min_prefix; /* slots that all rows see */
    int32_t partial;    /* slot of row0's sums, -1 if these are all pages that the rows see */
};

/* What the threads of a block know of a unit and one kv head, in shared memory; with the `group`
 * query heads of each row beside each other, query i is head i % group of row row0 + i / group. */
struct page_tile {
    uint64_t mask[ATTEND_ROWS]; /* of each row; no bits behind the last */
    int32_t prefix[ATTEND_ROWS];
    int32_t page[PAGE_LEN]; /* the unit's first pages */
    const int32_t *table;   /* of the sequence */
    size_t head;            /* elements from a page to the kv head */
    struct page_unit unit;
    int kv_head, group;
};

/* All threads; a barrier follows. */
__device__ __forceinline__ void set_page_tile(struct page_tile *tile, const struct page_unit *unit,
                                              const struct rows *rows, const struct kv_pool *pool,
                                              int layer, int kv_head, int group)
{
    static_assert(ATTEND_ROWS + PAGE_LEN == ATTEND_THREADS, "half of the threads for each");
    const int32_t *table = pool->table + (size_t)unit->seat * pool->max_pages;
    const int i = threadIdx.x % ATTEND_ROWS;
    if (threadIdx.x < ATTEND_ROWS) {
        const bool is_row = i < unit->n_rows;
        tile->prefix[i] = is_row ? rows->prefix[unit->row0 + i] : 0;
        tile->mask[i] = is_row ? rows->mask[unit->row0 + i] : 0;
    } else {
        tile->page[i] = i < unit->n_pages ? table[unit->first_page + i] : -1;
    }
    if (threadIdx.x > 0) return;
    tile->table = table;
    tile->head = page_offset(pool, layer, 0, kv_head);
    tile->unit = *unit;
    tile->kv_head = kv_head;
    tile->group = group;
    DEVICE_REQUIRE(unit->first_page + unit->n_pages <= pool->max_pages);
}

/* The keys of attend_tiles. */
template <class T> struct page_keys {
    const struct page_tile *queries; /* in shared memory */
    const struct kv_pool *pool;
    int stride;

    __device__ __forceinline__ int page(int page_index) const
    {
        const int i = page_index - queries->unit.first_page;
        return i < PAGE_LEN ? queries->page[i] : queries->table[page_index];
    }
    __device__ __forceinline__ uint64_t seen_by(int page_index, int r) const
    {
        const int prefix = queries->prefix[r];
        return bits_between(0, prefix - page_index * PAGE_LEN) |
               mask_in_page(queries->mask[r], prefix, page_index);
    }
    __device__ __forceinline__ uint64_t seen(int page_index, int row) const
    {
        const int n_queries = queries->unit.n_rows * queries->group;
        return seen_by(page_index, attend_seeing_row(row, n_queries) / queries->group);
    }
    /* All lanes of the warp. */
    __device__ __forceinline__ uint64_t all(int page_index) const
    {
        if ((page_index + 1) * PAGE_LEN <= queries->unit.min_prefix) return ~0ull;
        uint64_t any = 0;
        for (int r = threadIdx.x % 32; r < queries->unit.n_rows; r += 32)
            any |= seen_by(page_index, r);
        return warp_or(any);
    }
    __device__ __forceinline__ int next(int page_index) const
    {
        return page_index;
    }
    __device__ __forceinline__ size_t place(int page_index) const
    {
        const int page = this->page(page_index);
        DEVICE_REQUIRE(page >= 0 && page < pool->n_pages);
        return queries->head + page_offset(pool, 0, page, 0);
    }
    __device__ __forceinline__ const T *key(int page_index) const
    {
        return (const T *)pool->k + place(page_index);
    }
    __device__ __forceinline__ const T *value(int page_index) const
    {
        return (const T *)pool->v + place(page_index);
    }
};

/* Begins to copy a tile's queries. */
template <class T, int D>
__device__ __forceinline__ void load_queries(T *to, const struct page_tile *tile, const T *q,
                                             int n_heads, int head_dim)
{
#pragma unroll 1 /* as attend_load */
    for (int i = threadIdx.x; i < ATTEND_ROWS * (D / 8); i += ATTEND_THREADS) {
        const int query = i / (D / 8), c = i % (D / 8), r = query / tile->group;
        const bool is_read = r < tile->unit.n_rows && c * 8 < head_dim;
        const int head = tile->kv_head * tile->group + query % tile->group;
        const size_t place = (size_t)(tile->unit.row0 + r) * n_heads + head;
        copy_async(attend_chunk<T, D>(to, query, c), is_read ? q + place * head_dim + c * 8 : q,
                   is_read ? 16 : 0);
    }
}

#endif
