#include "runtime/draft/adaptor.h"

#include <assert.h>
#include <stdlib.h>

#include "runtime/mem.h"

enum { MAX_QUERIES = 64 };

struct adaptor {
    struct device *dev; /* borrowed */
    int hidden, n_heads, n_query, max_tokens;
    float *query; /* [n_query][n_heads][head_dim] */
    struct packed *k, *v, *o;
    float *k_bias, *v_bias; /* NULL where the file has none */

    int32_t *ids;   /* [max_tokens] ~0, ~1, ...: the embed operation reads features as a pool */
    void *x;        /* act [max_tokens][hidden] */
    void *k_rows;   /* act [max_tokens][hidden] */
    void *v_rows;   /* act [max_tokens][hidden] */
    void *mixed;    /* act [n_query][hidden] */
    void *out_rows; /* act [n_query][hidden] */
};

bool adaptor_is_there(const struct weights *w)
{
    return weights_has(w, "imadpt.q") || weights_has(w, "imadpt.k_proj.weight");
}

/* The number of queries is the file's word; everything else follows from the draft's config. */
static int load_query(struct adaptor *a, const struct weights *w, struct error *err)
{
    char text[WEIGHTS_NAME_SIZE];
    const struct tensor *t = safetensors_find(w->st, weights_name(text, w->prefix, "imadpt.q"));
    int64_t shape[3] = {2, a->n_heads, a->hidden / a->n_heads};
    if (t && t->n_dims == 3 && t->shape[0] >= 1 && t->shape[0] <= MAX_QUERIES)
        shape[0] = t->shape[0];
    a->n_query = (int)shape[0];
    return weights_float_tensor(&a->query, w, "imadpt.q", shape, 3, err);
}

static int load(struct adaptor *a, const struct weights *w, struct error *err)
{
    const struct weights_part k = {"imadpt.k_proj.weight", a->hidden};
    const struct weights_part v = {"imadpt.v_proj.weight", a->hidden};
    const struct weights_part o = {"imadpt.o_proj.weight", a->hidden};
    const struct weights_part k_bias = {"imadpt.k_proj.bias", a->hidden};
    const struct weights_part v_bias = {"imadpt.v_proj.bias", a->hidden};
    if (load_query(a, w, err) != 0 || weights_packed(&a->k, w, &k, 1, a->hidden, 0, err) != 0 ||
        weights_packed(&a->v, w, &v, 1, a->hidden, 0, err) != 0 ||
        weights_packed(&a->o, w, &o, 1, a->hidden, 0, err) != 0 ||
        (weights_has(w, k_bias.name) && weights_vector(&a->k_bias, w, &k_bias, 1, err) != 0) ||
        (weights_has(w, v_bias.name) && weights_vector(&a->v_bias, w, &v_bias, 1, err) != 0))
        return -1;
    return 0;
}

static void take_buffers(struct adaptor *a)
{
    size_t row = (size_t)a->hidden * dtype_size(device_ops(a->dev)->act);
    size_t tokens = (size_t)a->max_tokens * row, queries = (size_t)a->n_query * row;
    a->x = device_alloc(a->dev, tokens, "adaptor's features");
    a->k_rows = device_alloc(a->dev, tokens, "adaptor's keys");
    a->v_rows = device_alloc(a->dev, tokens, "adaptor's values");
    a->mixed = device_alloc(a->dev, queries, "adaptor's rows");
    a->out_rows = device_alloc(a->dev, queries, "adaptor's rows");
    int32_t *ids = xcalloc((size_t)a->max_tokens, sizeof(*ids));
    for (int i = 0; i < a->max_tokens; i++) ids[i] = ~i;
    a->ids = weights_upload(a->dev, ids, (size_t)a->max_tokens * sizeof(*ids), "adaptor's ids");
    free(ids);
}

int adaptor_open(struct adaptor **out, const struct weights *w, int hidden, int n_heads,
                 int max_tokens, struct error *err)
{
    assert(max_tokens > 0);
    if (max_tokens > MAX_POOLED)
        return error_set(err, ERROR_BAD_REQUEST,
                         "pictures may have %d tokens, and the draft's adaptor takes %d at most; "
                         "see --max-pixels and --max-model-len",
                         max_tokens, MAX_POOLED);
    struct adaptor *a = xcalloc(1, sizeof(*a));
    a->dev = w->dev;
    a->hidden = hidden;
    a->n_heads = n_heads;
    a->max_tokens = max_tokens;
    if (load(a, w, err) != 0) {
        adaptor_close(a);
        return -1;
    }
    take_buffers(a);
    *out = a;
    return 0;
}

void adaptor_close(struct adaptor *a)
{
    if (!a) return;
    const struct ops *ops = device_ops(a->dev);
    ops->packed_free(a->dev, a->k);
    ops->packed_free(a->dev, a->v);
    ops->packed_free(a->dev, a->o);
    device_free(a->dev, a->query);
    device_free(a->dev, a->k_bias);
    device_free(a->dev, a->v_bias);
    device_free(a->dev, a->ids);
    device_free(a->dev, a->x);
    device_free(a->dev, a->k_rows);
    device_free(a->dev, a->v_rows);
    device_free(a->dev, a->mixed);
    device_free(a->dev, a->out_rows);
    free(a);
}

int adaptor_n_outputs(const struct adaptor *a)
{
    return a->n_query;
}

static void project(const struct adaptor *a, struct stream *s, const struct packed *w,
                    const float *bias, const void *x, void *y, int n)
{
    const struct ops *ops = device_ops(a->dev);
    const size_t row = (size_t)a->hidden * dtype_size(ops->act);
    for (int i = 0; i < n; i += MAX_GEMM_ROWS) {
        const struct gemm_args gemm = {.w = w,
                                       .bias = bias,
                                       .x = (const char *)x + (size_t)i * row,
                                       .y = (char *)y + (size_t)i * row,
                                       .max = n - i < MAX_GEMM_ROWS ? n - i : MAX_GEMM_ROWS,
                                       .ldx = a->hidden,
                                       .ldy = a->hidden};
        ops->gemm(s, &gemm);
    }
}

void adaptor_run(const struct adaptor *a, struct stream *s, const float *features, int n,
                 float *vectors)
{
    assert(n > 0 && n <= a->max_tokens);
    const struct ops *ops = device_ops(a->dev);
    const struct embed_args embed = {
        .pool = features, .id = a->ids, .out = a->x, .max = n, .width = a->hidden, .ld = a->hidden};
    const struct pool_attention_args attention = {.query = a->query,
                                                  .k = a->k_rows,
                                                  .v = a->v_rows,
                                                  .out = a->mixed,
                                                  .n = n,
                                                  .n_query = a->n_query,
                                                  .n_heads = a->n_heads,
                                                  .head_dim = a->hidden / a->n_heads};
    const struct to_float_args out = {
        .src = a->out_rows, .dst = vectors, .n = a->n_query, .width = a->hidden};
    ops->embed(s, &embed);
    project(a, s, a->k, a->k_bias, a->x, a->k_rows, n);
    project(a, s, a->v, a->v_bias, a->x, a->v_rows, n);
    ops->pool_attention(s, &attention);
    project(a, s, a->o, NULL, a->mixed, a->out_rows, a->n_query);
    ops->to_float(s, &out);
}
