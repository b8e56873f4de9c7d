#include "test/draftbed.h"

#include <stdio.h>
#include <string.h>

#include "test/test.h"

enum {
    MAX_SEQS = DRAFTBED_MAX_ROWS, /* every row of a prompt can be a head */
    /* Rows of the vector pool; those before are the seats' g. */
    ZERO_ROW = MAX_SEQS,
    VECTOR_ROW, /* what the draft makes of a picture */
    FEATURE_ROW = VECTOR_ROW + 128 + 2,
    N_VECTORS = FEATURE_ROW + 128,
};

struct lm_config draftbed_llava_config(void)
{
    struct model_config cfg;
    struct error err;
    if (config_load(test_path(DRAFTBED_TARGET), &cfg, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg.lm;
}

int32_t *draftbed_ints(struct kernels *k, size_t n)
{
    return kernels_empty(k, n * sizeof(int32_t));
}

static void make_round(struct draftbed *f)
{
    struct kernels *k = &f->k;
    struct draft_round *r = &f->round;
    const struct lm_config *cfg = &f->draft->cfg;
    size_t hidden = (size_t)cfg->hidden * sizeof(float);
    const int32_t zero = 0, table[DRAFTBED_N_PAGES] = {4, 1, 5, 0, 3, 2};
    const uint64_t valid[DRAFTBED_N_PAGES] = {0};
    f->seats = kernels_host(k, MAX_SEQS * sizeof(*f->seats));
    f->pool = kernels_empty(k, N_VECTORS * hidden);
    f->hidden = kernels_empty(k, DRAFTBED_MAX_ROWS * hidden);
    f->encoded = kernels_host(k, 2 * hidden);
    r->state = (struct round_state){.round = kernels_upload(k, &zero, sizeof(zero)),
                                    .seats = f->seats,
                                    .pool = f->pool,
                                    .carried_h = kernels_empty(k, MAX_SEQS * hidden),
                                    .max_seqs = MAX_SEQS,
                                    .vocab = cfg->vocab,
                                    .width = cfg->hidden};
    r->beam = (struct beam){
        .k = DRAFTBED_K,
        .depth = DRAFTBED_DEPTH,
        .n_heads = draftbed_ints(k, 1),
        .seat = draftbed_ints(k, MAX_SEQS),
        .head_row = draftbed_ints(k, MAX_SEQS),
        .token = draftbed_ints(k, (size_t)MAX_SEQS * DRAFTBED_N_CANDIDATES),
        .score = kernels_empty(k, (size_t)MAX_SEQS * DRAFTBED_N_CANDIDATES * sizeof(float)),
        .node = draftbed_ints(k, (size_t)MAX_SEQS * DRAFTBED_DEPTH * DRAFTBED_K),
        .mask = kernels_empty(k, (size_t)MAX_SEQS * DRAFTBED_K * sizeof(uint64_t)),
    };
    r->extend = (struct draft_rows){
        .rows = {.n = draftbed_ints(k, 1),
                 .max = DRAFTBED_MAX_ROWS,
                 .seat = draftbed_ints(k, DRAFTBED_MAX_ROWS),
                 .id = draftbed_ints(k, DRAFTBED_MAX_ROWS),
                 .pos = draftbed_ints(k, 3 * DRAFTBED_MAX_ROWS),
                 .slot = draftbed_ints(k, DRAFTBED_MAX_ROWS),
                 .prefix = draftbed_ints(k, DRAFTBED_MAX_ROWS),
                 .mask = kernels_empty(k, DRAFTBED_MAX_ROWS * sizeof(uint64_t))},
        .kind = draftbed_ints(k, DRAFTBED_MAX_ROWS),
        .h_row = draftbed_ints(k, DRAFTBED_MAX_ROWS),
        .g_row = draftbed_ints(k, DRAFTBED_MAX_ROWS)};
    r->hidden = f->hidden;
    size_t page = (size_t)cfg->n_kv_heads * PAGE_LEN * (size_t)cfg->head_dim * sizeof(float);
    r->kv = (struct kv_pool){.k = kernels_empty(k, DRAFTBED_N_PAGES * page),
                             .v = kernels_empty(k, DRAFTBED_N_PAGES * page),
                             .table = kernels_upload(k, table, sizeof(table)),
                             .valid = kernels_upload(k, valid, sizeof(valid)),
                             .n_layers = 1,
                             .n_pages = DRAFTBED_N_PAGES,
                             .n_kv_heads = cfg->n_kv_heads,
                             .head_dim = cfg->head_dim,
                             .max_pages = DRAFTBED_N_PAGES};
    float *zeros = kernels_host(k, hidden);
    kernels_write(k, f->pool + (size_t)ZERO_ROW * (size_t)cfg->hidden, zeros, hidden);
}

const struct draft_limits draftbed_limits = {.max_seqs = MAX_SEQS,
                                             .max_extend = DRAFTBED_MAX_ROWS,
                                             .k = DRAFTBED_K,
                                             .n_positions = DRAFTBED_N_PAGES * PAGE_LEN,
                                             .max_image_tokens = 128};

void draftbed_open(struct draftbed *f, const char *target, const struct lm_config *cfg,
                   const char *draft_dir)
{
    struct error err;
    memset(f, 0, sizeof(*f));
    kernels_open(&f->k);
    if (safetensors_open(&f->st, test_path(target), &err) != 0 ||
        lm_open(&f->lm, f->k.dev, f->st, cfg, DRAFTBED_N_PAGES * PAGE_LEN, &err) != 0 ||
        draft_open(&f->draft, f->k.dev, draft_dir, f->lm, &draftbed_limits, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    make_round(f);
}

void draftbed_close(struct draftbed *f)
{
    draft_close(f->draft);
    lm_close(f->lm);
    safetensors_close(f->st);
    kernels_close(&f->k);
}

/* ---- golden cases -----------------------------------------------------------------------------
 */

struct draftbed_case draftbed_case_open(const char *name)
{
    char path[128];
    struct draftbed_case c;
    size_t n;
    snprintf(path, sizeof(path), "golden/vispec/%s.json", name);
    c.json = json_load_file(test_path(path), 0, NULL);
    if (!c.json) test_fail(__FILE__, __LINE__, "%s cannot be read", path);
    snprintf(path, sizeof(path), "golden/vispec/%s.safetensors", name);
    c.tensors = golden_open(test_path(path));
    c.ids = golden_i32(c.tensors, "input_ids", &n);
    c.is_image = golden_u8(c.tensors, "image_mask", NULL);
    c.n = (int)n;
    CHECK_INT(c.n, <, DRAFTBED_MAX_ROWS);
    return c;
}

void draftbed_case_close(struct draftbed_case *c)
{
    json_decref(c->json);
    golden_close(c->tensors);
}

int draftbed_int(const json_t *object, const char *key)
{
    return (int)json_integer_value(json_object_get(object, key));
}

/* ---- rounds -----------------------------------------------------------------------------------
 */

void draftbed_row(struct draftbed_rows *e, int slot, int id, enum draft_row kind, int h_row,
                  int g_row)
{
    int i = e->n++;
    CHECK_INT(i, <, DRAFTBED_MAX_ROWS);
    e->seat[i] = 0;
    e->id[i] = id;
    for (int axis = 0; axis < 3; axis++) e->pos[i][axis] = slot - 1;
    e->slot[i] = slot;
    e->prefix[i] = slot + 1;
    e->mask[i] = 0;
    e->kind[i] = kind;
    e->h_row[i] = h_row;
    e->g_row[i] = g_row;
}

void draftbed_prompt(const struct draftbed *f, const struct draftbed_case *c,
                     struct draftbed_rows *e)
{
    enum image_rows image_rows = f->draft->image_rows;
    int g_row = ZERO_ROW, n_features = 0;
    e->n = 0;
    if (c->is_image[0]) n_features++;
    for (int slot = 1; slot <= c->n; slot++) {
        bool is_image = slot < c->n && c->is_image[slot];
        bool is_last = is_image && (slot + 1 == c->n || !c->is_image[slot + 1]);
        int id = slot < c->n ? c->ids[slot] : draftbed_int(c->json, "first_token");
        if (!is_image)
            draftbed_row(e, slot, id, DRAFT_ROW_FUSED, slot - 1, g_row);
        else if (image_rows == IMAGE_ROWS_ALL)
            draftbed_row(e, slot, ~(VECTOR_ROW + n_features++), DRAFT_ROW_FUSED, slot - 1,
                         ZERO_ROW);
        else if (is_last)
            draftbed_row(e, slot, ~VECTOR_ROW, DRAFT_ROW_DIRECT, slot - 1, g_row);
        if (is_last && image_rows == IMAGE_ROWS_ADAPTOR) g_row = VECTOR_ROW + 1;
    }
}

void draftbed_propose(struct draftbed *f, const struct draftbed_rows *e, const float *hidden,
                      size_t n_hidden, int len, bool all_are_heads)
{
    struct kernels *k = &f->k;
    struct draft_round *r = &f->round;
    size_t ints = (size_t)e->n * sizeof(int32_t);
    int32_t n = e->n, n_heads = all_are_heads ? e->n : 1;
    int32_t rows[DRAFTBED_MAX_ROWS], seats[DRAFTBED_MAX_ROWS] = {0};
    CHECK_INT(n_heads, <=, MAX_SEQS);
    for (int i = 0; i < n_heads; i++) rows[i] = all_are_heads ? i : e->n - 1;
    kernels_write(k, f->hidden, hidden, n_hidden * sizeof(float));
    kernels_write(k, r->extend.rows.n, &n, sizeof(n));
    kernels_write(k, r->extend.rows.seat, e->seat, ints);
    kernels_write(k, r->extend.rows.id, e->id, ints);
    kernels_write(k, r->extend.rows.pos, e->pos, 3 * ints);
    kernels_write(k, r->extend.rows.slot, e->slot, ints);
    kernels_write(k, r->extend.rows.prefix, e->prefix, ints);
    kernels_write(k, r->extend.rows.mask, e->mask, 2 * ints);
    kernels_write(k, r->extend.kind, e->kind, ints);
    kernels_write(k, r->extend.h_row, e->h_row, ints);
    kernels_write(k, r->extend.g_row, e->g_row, ints);
    kernels_write(k, r->beam.n_heads, &n_heads, sizeof(n_heads));
    kernels_write(k, r->beam.head_row, rows, (size_t)n_heads * sizeof(int32_t));
    kernels_write(k, r->beam.seat, seats, (size_t)n_heads * sizeof(int32_t));
    f->seats[0].len = len;
    f->draft->kind->propose(f->draft, k->stream, r);
    stream_wait(k->stream);
}

void draftbed_encode(struct draftbed *f, const struct draftbed_case *c)
{
    struct kernels *k = &f->k;
    size_t width = (size_t)f->draft->cfg.hidden, row = width * sizeof(float), n = 0;
    float *vectors = f->pool + (size_t)VECTOR_ROW * width, *g = kernels_host(k, row);
    if (golden_has(c->tensors, "vision_features")) {
        const float *features = golden_f32(c->tensors, "vision_features", &n);
        float *on_device = f->pool + (size_t)FEATURE_ROW * width;
        int n_features = (int)(n / width);
        int n_vectors = draft_n_image_vectors(f->draft, n_features);
        kernels_write(k, on_device, features, n * sizeof(float));
        f->draft->kind->encode_image(f->draft, k->stream, on_device, n_features, vectors);
        stream_copy_out(k->stream, f->encoded, vectors, 2 * row);
        if (f->draft->n_image_outputs > 0)
            stream_copy_out(k->stream, g, vectors + (size_t)(n_vectors - 1) * width, row);
    }
    stream_copy_in(k->stream, f->pool, g, row); /* the seat's */
    stream_wait(k->stream);
}
