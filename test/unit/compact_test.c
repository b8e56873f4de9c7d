#include "test/test.h"

#include "test/opbed.h"

static size_t at(const struct kv_pool *p, int layer, int page, int head, int slot)
{
    return ((((size_t)layer * (size_t)p->n_pages + (size_t)page) * (size_t)p->n_kv_heads +
             (size_t)head) *
                PAGE_LEN +
            (size_t)slot) *
           (size_t)p->head_dim;
}

TEST(compact_moves_the_path_over_page_borders_in_all_layers_and_nothing_else)
{
    enum { LAYERS = 2, PAGES = 5, HEADS = 3, DIM = 4, N = LAYERS * PAGES * HEADS * PAGE_LEN * DIM };
    static const int path[6] = {0, 2, 3, 5, 9, 10}, page_of[3] = {4, 0, 3}, old_len = 60;
    struct opbed r;
    opbed_open(&r, &(struct opbed_shape){
                       .max_seqs = 3, .vocab = 4, .width = 1, .max_rows = 4, .k = 1, .depth = 1});
    float *k = kernels_random(&r.k, N, 1, 1), *v = kernels_random(&r.k, N, 1, 2);
    struct kv_pool pool = {.k = kernels_upload_act(&r.k, k, N),
                           .v = kernels_upload_act(&r.k, v, N),
                           .table = opbed_array(&r, 9 * sizeof(int32_t)),
                           .n_layers = LAYERS,
                           .n_pages = PAGES,
                           .n_kv_heads = HEADS,
                           .head_dim = DIM,
                           .max_pages = 3};
    for (int i = 0; i < 3; i++) pool.table[3 + i] = page_of[i];
    float *want_k = kernels_host(&r.k, N * sizeof(float));
    float *want_v = kernels_host(&r.k, N * sizeof(float));
    memcpy(want_k, k, N * sizeof(float));
    memcpy(want_v, v, N * sizeof(float));
    memset(r.tree.n_path, 0, 3 * sizeof(int32_t));
    r.tree.n_path[1] = 6;
    r.tree.old_len[1] = old_len;
    for (int j = 0; j < 6; j++) {
        r.tree.path[MAX_NODES + j] = path[j];
        int from = old_len + path[j], to = old_len + j;
        for (int i = 0; i < LAYERS * HEADS * DIM; i++) {
            int layer = i / DIM / HEADS, head = i / DIM % HEADS, x = i % DIM;
            size_t a = at(&pool, layer, page_of[to / 64], head, to % 64) + (size_t)x;
            size_t b = at(&pool, layer, page_of[from / 64], head, from % 64) + (size_t)x;
            want_k[a] = k[b];
            want_v[a] = v[b];
        }
    }
    r.k.ops->compact(r.k.stream, &(struct compact_args){r.tree, pool, 3});
    CHECK_SAME_BITS(kernels_download_act(&r.k, pool.k, N), want_k, N);
    CHECK_SAME_BITS(kernels_download_act(&r.k, pool.v, N), want_v, N);
    opbed_close(&r);
}
