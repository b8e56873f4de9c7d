#include "test/test.h"

#include "test/kernels.h"
#include "test/shapes.h"

/* out = softmax(q k_i / sqrt(head_dim)) v over rows first .. end - 1, `stride` elements apart. */
static void reference(const float *q, const float *k, const float *v, size_t stride, int first,
                      int end, int head_dim, float *out)
{
    double sum = 0, o[MAX_HEAD_DIM] = {0};
    for (int row = first; row < end; row++) {
        double score = 0;
        for (int i = 0; i < head_dim; i++)
            score += (double)q[i] * (double)k[(size_t)row * stride + i];
        double weight = exp(score / sqrt(head_dim));
        sum += weight;
        for (int i = 0; i < head_dim; i++) o[i] += weight * (double)v[(size_t)row * stride + i];
    }
    for (int i = 0; i < head_dim; i++) out[i] = (float)(o[i] / sum);
}

static void check_segments(const int32_t *first, int n_segments, int n_heads, int head_dim)
{
    struct kernels k;
    kernels_open(&k);
    const int n = first[n_segments];
    const size_t width = (size_t)n_heads * head_dim;
    float *qkv = kernels_random(&k, n * 3 * width, 2, 1);
    void *out = kernels_empty_act(&k, (n + 1) * width);
    k.ops->vision_attention(
        k.stream, &(struct vision_attention_args){
                      .qkv = kernels_upload_act(&k, qkv, n * 3 * width),
                      .out = out,
                      .first = kernels_upload(&k, first, (size_t)(n_segments + 1) * sizeof(*first)),
                      .n = n,
                      .n_segments = n_segments,
                      .n_heads = n_heads,
                      .head_dim = head_dim,
                  });
    float *got = kernels_download_act(&k, out, (n + 1) * width);
    for (int s = 0; s < n_segments; s++)
        for (int i = first[s] * n_heads; i < first[s + 1] * n_heads; i++) {
            float want[MAX_HEAD_DIM];
            size_t head = (size_t)(i % n_heads) * head_dim;
            const float *row = qkv + i / n_heads * 3 * width + head;
            reference(row, qkv + width + head, qkv + 2 * width + head, 3 * width, first[s],
                      first[s + 1], head_dim, want);
            /* Values are below 2. */
            CHECK_CLOSE_ACT(&k, got + (size_t)i * head_dim, want, (size_t)head_dim, 8e-6, 0, 4);
        }
    CHECK_UNTOUCHED(got + n * width, width * sizeof(float));
    kernels_close(&k);
}

TEST(vision_attention_stays_inside_segments)
{
    const int32_t windows[] = {0, 1, 65, 129, 130, 258, 258, 300};
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++)
        check_segments(windows, 7, 2, shape_head_dims[i]);
}

TEST(one_segment_is_full_attention)
{
    for (int i = 0; i < N_SHAPES(shape_contexts); i++)
        check_segments((int32_t[]){0, shape_contexts[i]}, 1, 3, 24);
}

TEST(pool_attention_takes_all_rows_for_every_query)
{
    const int lengths[] = {1, 63, 64, 65, 577};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < N_SHAPES(shape_head_dims); j++) {
            struct kernels k;
            kernels_open(&k);
            enum { N_QUERY = 2, N_HEADS = 3 };
            const int n = lengths[i], head_dim = shape_head_dims[j];
            const size_t width = (size_t)N_HEADS * head_dim;
            float *query = kernels_random(&k, N_QUERY * width, 2, 1);
            float *key = kernels_random(&k, n * width, 2, 2);
            float *value = kernels_random(&k, n * width, 1, 3);
            void *out = kernels_empty_act(&k, (N_QUERY + 1) * width);
            k.ops->pool_attention(
                k.stream, &(struct pool_attention_args){
                              .query = kernels_upload(&k, query, N_QUERY * width * sizeof(float)),
                              .k = kernels_upload_act(&k, key, n * width),
                              .v = kernels_upload_act(&k, value, n * width),
                              .out = out,
                              .n = n,
                              .n_query = N_QUERY,
                              .n_heads = N_HEADS,
                              .head_dim = head_dim,
                          });
            float *got = kernels_download_act(&k, out, (N_QUERY + 1) * width);
            for (int q = 0; q < N_QUERY * N_HEADS; q++) {
                float want[MAX_HEAD_DIM];
                size_t head = (size_t)(q % N_HEADS) * head_dim, at = (size_t)q * head_dim;
                reference(query + at, key + head, value + head, width, 0, n, head_dim, want);
                CHECK_CLOSE_ACT(&k, got + at, want, (size_t)head_dim, 8e-6, 0, 1.01);
            }
            CHECK_UNTOUCHED(got + N_QUERY * width, width * sizeof(float));
            kernels_close(&k);
        }
}
