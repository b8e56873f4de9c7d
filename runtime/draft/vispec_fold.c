/* The matrices in front of the draft's layer, folded (vispec_impl.h). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/draft/vispec_impl.h"
#include "runtime/mem.h"

void vispec_multiply(const struct vispec *v, struct stream *s, const struct product *p)
{
    size_t hidden = (size_t)v->draft.cfg.hidden, x_row = hidden * dtype_size(p->x_type);
    size_t y_row = (size_t)p->ldy * dtype_size(p->y_is_float ? DTYPE_F32 : v->ops->act);
    for (int first = 0; first < p->n; first += v->scratch.max_rows) {
        int n = p->n - first < v->scratch.max_rows ? p->n - first : v->scratch.max_rows;
        const struct embed_args narrow = {.table = (const char *)p->x + (size_t)first * x_row,
                                          .table_type = p->x_type,
                                          .id = v->row_ids,
                                          .out = v->h,
                                          .max = n,
                                          .width = (int32_t)hidden,
                                          .ld = (int32_t)hidden};
        const struct gemm_args gemm = {.w = p->w,
                                       .bias = p->bias,
                                       .x = v->h,
                                       .y = (char *)p->y + (size_t)first * y_row,
                                       .max = n,
                                       .ldx = (int32_t)hidden,
                                       .ldy = p->ldy,
                                       .y_is_float = p->y_is_float};
        v->ops->embed(s, &narrow);
        v->ops->gemm(s, &gemm);
    }
}

/* ---- host memory ------------------------------------------------------------------------------
 */

/* Columns first .. first + n - 1 of a matrix [n_rows][ld] with elements of `size` bytes, which may
 * be unaligned.  The caller frees. */
static void *columns(const void *matrix, size_t size, int n_rows, int ld, int first, int n)
{
    size_t row = (size_t)n * size;
    char *out = xcalloc((size_t)n_rows, row);
    for (size_t i = 0; i < (size_t)n_rows; i++)
        memcpy(out + i * row, (const char *)matrix + (i * (size_t)ld + (size_t)first) * size, row);
    return out;
}

static struct packed *pack_columns(const struct vispec *v, const void *matrix, enum dtype t, int ld,
                                   int first)
{
    int hidden = v->draft.cfg.hidden;
    void *square = columns(matrix, dtype_size(t), hidden, ld, first, hidden);
    struct packed *w = v->ops->pack(v->dev, square, t, hidden, hidden, 0);
    free(square);
    return w;
}

/* [Ih | Ig | b1] with rows for columns: [2 hidden + 1][hidden].  The caller frees. */
static float *transposed(const struct tensor *img_fc, const struct tensor *bias)
{
    size_t n = (size_t)img_fc->shape[0], n_in = (size_t)img_fc->shape[1];
    float *row = xcalloc(n_in, sizeof(float)), *out = xcalloc((n_in + 1) * n, sizeof(float));
    for (size_t i = 0; i < n; i++) {
        const char *from = (const char *)img_fc->data + i * n_in * dtype_size(img_fc->dtype);
        weights_convert(row, DTYPE_F32, from, img_fc->dtype, n_in);
        for (size_t j = 0; j < n_in; j++) out[j * n + i] = row[j];
    }
    if (bias) weights_convert(out + n_in * n, DTYPE_F32, bias->data, bias->dtype, n);
    free(row);
    return out;
}

/* ---- folding --------------------------------------------------------------------------------- */

/* A linear map of the file, [hidden][2 hidden], and its bias or NULL. */
struct map {
    const struct tensor *weight, *bias;
};

static int find_map(struct map *out, const struct weights *w, const char *name, int hidden,
                    struct error *err)
{
    char text[2][WEIGHTS_NAME_SIZE];
    const int64_t shape[2] = {hidden, 2 * (int64_t)hidden};
    weights_name(text[0], name, ".weight");
    weights_name(text[1], name, ".bias");
    out->bias = NULL;
    if (safetensors_get(w->st, text[0], shape, 2, &out->weight, err) != 0) return -1;
    return weights_has(w, text[1]) ? safetensors_get(w->st, text[1], shape, 1, &out->bias, err) : 0;
}

/* M, G, and Fh b1 added to c: Fh times the columns of img_fc and its bias, summed in float. */
static void fold_img_fc(struct vispec *v, struct stream *s, const struct map *fc,
                        const struct map *img_fc, float *c)
{
    int hidden = v->draft.cfg.hidden, n_out = 2 * hidden + 1;
    size_t n = (size_t)hidden * (size_t)n_out, size = dtype_size(fc->weight->dtype);
    float *by_columns = transposed(img_fc->weight, img_fc->bias);
    void *fh = columns(fc->weight->data, size, hidden, 2 * hidden, hidden, hidden);
    void *x = weights_upload(v->dev, fh, (size_t)hidden * (size_t)hidden * size, "fc's weights");
    struct packed *w = v->ops->pack(v->dev, by_columns, DTYPE_F32, n_out, hidden, 0);
    float *y = device_alloc(v->dev, n * sizeof(float), "folded weights");
    const struct product product = {.w = w,
                                    .x = x,
                                    .x_type = fc->weight->dtype,
                                    .y = y,
                                    .n = hidden,
                                    .ldy = n_out,
                                    .y_is_float = true};
    float *folded = xcalloc(n, sizeof(float));
    vispec_multiply(v, s, &product);
    stream_copy_out(s, folded, y, n * sizeof(float));
    stream_wait(s);
    v->h_weights = pack_columns(v, folded, DTYPE_F32, n_out, 0);
    v->g_weights = pack_columns(v, folded, DTYPE_F32, n_out, hidden);
    for (int i = 0; i < hidden; i++) c[i] += folded[(i + 1) * (ptrdiff_t)n_out - 1];
    v->ops->packed_free(v->dev, w);
    device_free(v->dev, x);
    device_free(v->dev, y);
    free(folded);
    free(fh);
    free(by_columns);
}

/* The folder's own embeddings are in memory only while this runs. */
static int fold_embeddings(struct vispec *v, struct stream *s, const struct weights *w,
                           struct error *err)
{
    const struct lm_config *cfg = &v->draft.cfg;
    const int64_t shape[2] = {cfg->vocab, cfg->hidden};
    size_t row = (size_t)cfg->hidden * dtype_size(v->ops->act);
    void *own = NULL;
    struct product product = {.w = v->e_weights,
                              .bias = v->e_bias,
                              .x = v->target->embeddings,
                              .x_type = v->target->embeddings_type,
                              .n = cfg->vocab,
                              .ldy = cfg->hidden};
    if (weights_has(w, "embed_tokens.weight")) {
        if (weights_raw(&own, &product.x_type, w, "embed_tokens.weight", shape, 2, err) != 0)
            return -1;
        product.x = own;
    }
    product.y = v->table = device_alloc(v->dev, (size_t)cfg->vocab * row, "draft's tokens");
    vispec_multiply(v, s, &product);
    stream_wait(s);
    device_free(v->dev, own);
    return 0;
}

int vispec_fold(struct vispec *v, const struct weights *w, bool is_vispec, struct error *err)
{
    int hidden = v->draft.cfg.hidden;
    struct map fc, img_fc;
    if (find_map(&fc, w, "fc", hidden, err) != 0 ||
        (is_vispec && find_map(&img_fc, w, "img_fc", hidden, err) != 0))
        return -1;
    size_t n_ids = (size_t)v->scratch.max_rows;
    int32_t *ids = xcalloc(n_ids, sizeof(*ids));
    for (size_t i = 0; i < n_ids; i++) ids[i] = (int32_t)i;
    v->row_ids = weights_upload(v->dev, ids, n_ids * sizeof(*ids), "row ids");
    free(ids);

    const struct tensor *f = fc.weight;
    struct stream *s = stream_open(v->dev);
    float *c = xcalloc((size_t)hidden, sizeof(float));
    if (fc.bias) weights_convert(c, DTYPE_F32, fc.bias->data, fc.bias->dtype, fc.bias->n);
    v->e_weights = pack_columns(v, f->data, f->dtype, 2 * hidden, 0);
    if (is_vispec)
        fold_img_fc(v, s, &fc, &img_fc, c);
    else
        v->h_weights = pack_columns(v, f->data, f->dtype, 2 * hidden, hidden);
    v->e_bias = weights_upload(v->dev, c, (size_t)hidden * sizeof(float), "draft's bias");
    free(c);
    int result = fold_embeddings(v, s, w, err);
    stream_close(s);
    return result;
}

void vispec_free_folded(struct vispec *v)
{
    device_free(v->dev, v->table);
    device_free(v->dev, v->e_bias);
    device_free(v->dev, v->row_ids);
    v->ops->packed_free(v->dev, v->h_weights);
    v->ops->packed_free(v->dev, v->g_weights);
    v->ops->packed_free(v->dev, v->e_weights);
}
