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

/* A tile of queries: n_rows rows of one sequence from row0 on, `group` query heads of each beside
 * each other; query i is head i % group of row row0 + i / group.  In shared memory. */
struct page_tile {
    uint64_t mask[ATTEND_ROWS]; /* of each row; no bits behind the last */
    int32_t prefix[ATTEND_ROWS];
    const int32_t *table; /* of the sequence */
    size_t head;          /* elements from a page to the kv head */
    int row0, n_rows, group;
    int min_prefix, n_pages; /* slots that all rows see; pages that any row sees */
};

/* The first warp; a barrier follows. */
__device__ __forceinline__ void set_page_tile(struct page_tile *tile, const struct rows *rows,
                                              const struct kv_pool *pool, int layer, int kv_head,
                                              int row0, int n_rows, int group)
{
    const int lane = threadIdx.x % 32;
    int prefix = rows->prefix[row0], end = 0;
    for (int r = lane; r < ATTEND_ROWS; r += 32) {
        tile->prefix[r] = r < n_rows ? rows->prefix[row0 + r] : 0;
        tile->mask[r] = r < n_rows ? rows->mask[row0 + r] : 0;
        if (r >= n_rows) continue;
        prefix = min(prefix, rows->prefix[row0 + r]);
        end = max(end, row_end(rows, row0 + r));
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        prefix = min(prefix, __shfl_xor_sync(~0u, prefix, distance));
        end = max(end, __shfl_xor_sync(~0u, end, distance));
    }
    if (lane > 0) return;
    tile->table = pool->table + (size_t)rows->seat[row0] * pool->max_pages;
    tile->head = page_offset(pool, layer, 0, kv_head);
    tile->row0 = row0;
    tile->n_rows = n_rows;
    tile->group = group;
    tile->min_prefix = prefix;
    tile->n_pages = (end + PAGE_LEN - 1) / PAGE_LEN;
    DEVICE_REQUIRE(tile->n_pages <= pool->max_pages);
}

/* The keys of attend_tiles. */
template <class T> struct page_keys {
    const struct page_tile *queries; /* in shared memory */
    const struct kv_pool *pool;
    size_t stride;

    __device__ __forceinline__ uint64_t valid(int page_index) const
    {
        if (pool->valid == NULL) return ~0ull;
        const int page = queries->table[page_index];
        return page < 0 ? 0 : pool->valid[page];
    }
    __device__ __forceinline__ uint64_t seen_by(int page_index, int r) const
    {
        const int prefix = queries->prefix[r];
        return (bits_between(0, prefix - page_index * PAGE_LEN) & valid(page_index)) |
               mask_in_page(queries->mask[r], prefix, page_index);
    }
    __device__ __forceinline__ uint64_t seen(int page_index, int row) const
    {
        const int n_queries = queries->n_rows * queries->group;
        return seen_by(page_index, attend_seeing_row(row, n_queries) / queries->group);
    }
    /* All lanes of the warp. */
    __device__ __forceinline__ uint64_t all(int page_index) const
    {
        if ((page_index + 1) * PAGE_LEN <= queries->min_prefix) return valid(page_index);
        uint64_t any = 0;
        for (int r = threadIdx.x % 32; r < queries->n_rows; r += 32) any |= seen_by(page_index, r);
        return warp_or(any);
    }
    __device__ __forceinline__ int next(int page_index) const
    {
        if (pool->valid == NULL) return page_index;
        while (page_index < queries->n_pages && queries->table[page_index] < 0) page_index++;
        return page_index; /* pages of pure image are skipped */
    }
    __device__ __forceinline__ void place(int page_index, const T **k, const T **v) const
    {
        const int page = queries->table[page_index];
        DEVICE_REQUIRE(page >= 0 && page < pool->n_pages);
        const size_t at = queries->head + page_offset(pool, 0, page, 0);
        *k = (const T *)pool->k + at;
        *v = (const T *)pool->v + at;
    }
};

/* Begins to copy a tile's queries. */
template <class T, int D>
__device__ __forceinline__ void load_queries(T *q, const struct page_tile *tile, const T *qkv,
                                             size_t width, int kv_head, int head_dim)
{
    for (int i = threadIdx.x; i < ATTEND_ROWS * (D / 8); i += ATTEND_THREADS) {
        const int query = i / (D / 8), c = i % (D / 8), r = query / tile->group;
        const bool is_read = r < tile->n_rows && c * 8 < head_dim;
        const int head = kv_head * tile->group + query % tile->group;
        const T *from = qkv + (tile->row0 + r) * width + (size_t)head * head_dim + c * 8;
        copy_async(attend_chunk<T, D>(q, query, c), is_read ? from : qkv, is_read ? 16 : 0);
    }
}

#endif
