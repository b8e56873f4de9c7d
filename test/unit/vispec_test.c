#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/draft/draft.h"
#include "runtime/mem.h"
#include "test/folder.h"
#include "test/golden.h"
#include "test/kernels.h"
#include "test/test.h"

enum {
    DEPTH = 3,
    K = 8,
    N_CANDIDATES = K + DEPTH * K * K,
    MAX_SEQS = 192, /* so that every row of a prompt can be a head */
    MAX_ROWS = 256,
    N_PAGES = 6,
    ZERO_ROW = MAX_SEQS, /* of the vector pool */
    COMPRESSED_ROW,
    G_ROW,
    FEATURE_ROW,
    N_VECTORS = FEATURE_ROW + 128,
};

/* float32 on both sides, sums in another order.  Scores are stored with six decimals. */
static const double tolerance = 3e-5;

static const char *const llava = "golden/vispec/llava-next-tiny";
static const char *const llava_draft = "golden/vispec/llava-next-tiny-vispec";

/* A target, a draft of it, and what a round would own. */
struct fixture {
    struct kernels k;
    struct safetensors *st;
    struct lm *lm;
    struct draft *draft;
    struct draft_round round;
    struct seat *seats;
    float *pool;    /* [N_VECTORS][hidden] */
    float *hidden;  /* [MAX_ROWS][hidden] */
    float *encoded; /* host copy of what the adaptor made: compressed token, g */
};

static struct lm_config llava_config(void)
{
    struct model_config cfg;
    struct error err;
    if (config_load(test_path(llava), &cfg, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg.lm;
}

/* The text model of the Qwen target, as its config.json says; the family is not read yet. */
static struct lm_config qwen_config(void)
{
    return (struct lm_config){.hidden = 128,
                              .intermediate = 256,
                              .n_layers = 4,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .head_dim = 32,
                              .vocab = 720,
                              .rms_eps = 1e-6F,
                              .rope_theta = 1e6,
                              .rope_section = {4, 6, 6},
                              .qkv_bias = true};
}

static int32_t *take_ints(struct kernels *k, size_t n)
{
    return kernels_empty(k, n * sizeof(int32_t));
}

static void make_round(struct fixture *f)
{
    struct kernels *k = &f->k;
    struct draft_round *r = &f->round;
    const struct lm_config *cfg = &f->draft->cfg;
    size_t hidden = (size_t)cfg->hidden * sizeof(float);
    const int32_t zero = 0, table[N_PAGES] = {4, 1, 5, 0, 3, 2};
    const uint64_t valid[N_PAGES] = {0};
    f->seats = kernels_host(k, MAX_SEQS * sizeof(*f->seats));
    f->pool = kernels_empty(k, N_VECTORS * hidden);
    f->hidden = kernels_empty(k, MAX_ROWS * hidden);
    f->encoded = kernels_host(k, 2 * hidden);
    r->state = (struct round_state){.round = kernels_upload(k, &zero, sizeof(zero)),
                                    .seats = f->seats,
                                    .pool = f->pool,
                                    .carried_h = kernels_empty(k, MAX_SEQS * hidden),
                                    .max_seqs = MAX_SEQS,
                                    .vocab = cfg->vocab,
                                    .width = cfg->hidden};
    r->beam = (struct beam){
        .k = K,
        .depth = DEPTH,
        .n_heads = take_ints(k, 1),
        .seat = take_ints(k, MAX_SEQS),
        .head_row = take_ints(k, MAX_SEQS),
        .token = take_ints(k, (size_t)MAX_SEQS * N_CANDIDATES),
        .score = kernels_empty(k, (size_t)MAX_SEQS * N_CANDIDATES * sizeof(float)),
        .node = take_ints(k, (size_t)MAX_SEQS * DEPTH * K),
        .mask = kernels_empty(k, (size_t)MAX_SEQS * K * sizeof(uint64_t)),
    };
    r->extend = (struct draft_rows){.rows = {.n = take_ints(k, 1),
                                             .max = MAX_ROWS,
                                             .seat = take_ints(k, MAX_ROWS),
                                             .id = take_ints(k, MAX_ROWS),
                                             .pos = take_ints(k, 3 * MAX_ROWS),
                                             .slot = take_ints(k, MAX_ROWS),
                                             .prefix = take_ints(k, MAX_ROWS),
                                             .mask = kernels_empty(k, MAX_ROWS * sizeof(uint64_t))},
                                    .kind = take_ints(k, MAX_ROWS),
                                    .h_row = take_ints(k, MAX_ROWS),
                                    .g_row = take_ints(k, MAX_ROWS)};
    r->hidden = f->hidden;
    size_t page = (size_t)cfg->n_kv_heads * PAGE_LEN * (size_t)cfg->head_dim * sizeof(float);
    r->kv = (struct kv_pool){.k = kernels_empty(k, N_PAGES * page),
                             .v = kernels_empty(k, N_PAGES * page),
                             .table = kernels_upload(k, table, sizeof(table)),
                             .valid = kernels_upload(k, valid, sizeof(valid)),
                             .n_layers = 1,
                             .n_pages = N_PAGES,
                             .n_kv_heads = cfg->n_kv_heads,
                             .head_dim = cfg->head_dim,
                             .max_pages = N_PAGES};
    float *zeros = kernels_host(k, hidden);
    kernels_write(k, f->pool + (size_t)ZERO_ROW * (size_t)cfg->hidden, zeros, hidden);
}

static const struct draft_limits limits = {.max_seqs = MAX_SEQS,
                                           .max_extend = MAX_ROWS,
                                           .k = K,
                                           .n_positions = N_PAGES * PAGE_LEN,
                                           .max_image_tokens = 128};

static void open_fixture(struct fixture *f, const char *target, const struct lm_config *cfg,
                         const char *draft_dir)
{
    struct error err;
    memset(f, 0, sizeof(*f));
    kernels_open(&f->k);
    if (safetensors_open(&f->st, test_path(target), &err) != 0 ||
        lm_open(&f->lm, f->k.dev, f->st, cfg, N_PAGES * PAGE_LEN, &err) != 0 ||
        draft_open(&f->draft, f->k.dev, draft_dir, f->lm, &limits, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    make_round(f);
}

static void close_fixture(struct fixture *f)
{
    draft_close(f->draft);
    lm_close(f->lm);
    safetensors_close(f->st);
    kernels_close(&f->k);
}

/* ---- golden cases -----------------------------------------------------------------------------
 */

struct vispec_case {
    json_t *json;
    struct golden *tensors;
    const int32_t *ids;
    const uint8_t *is_image;
    int n;
};

static struct vispec_case open_case(const char *name)
{
    char path[128];
    struct vispec_case c;
    size_t n;
    snprintf(path, sizeof(path), "golden/vispec/%s.json", name);
    c.json = json_load_file(test_path(path), 0, NULL);
    if (!c.json) test_fail(__FILE__, __LINE__, "%s cannot be read", path);
    snprintf(path, sizeof(path), "golden/vispec/%s.safetensors", name);
    c.tensors = golden_open(test_path(path));
    c.ids = golden_i32(c.tensors, "input_ids", &n);
    c.is_image = golden_u8(c.tensors, "image_mask", NULL);
    c.n = (int)n;
    CHECK_INT(c.n, <, MAX_ROWS);
    return c;
}

static void close_case(struct vispec_case *c)
{
    json_decref(c->json);
    golden_close(c->tensors);
}

static int get_int(const json_t *object, const char *key)
{
    return (int)json_integer_value(json_object_get(object, key));
}

static int item(const json_t *list, size_t i)
{
    return (int)json_integer_value(json_array_get(list, i));
}

/* ---- rounds -----------------------------------------------------------------------------------
 */

/* Rows of an extend, on the host. */
struct extend {
    int n;
    int32_t seat[MAX_ROWS], id[MAX_ROWS], pos[MAX_ROWS][3], slot[MAX_ROWS], prefix[MAX_ROWS];
    uint64_t mask[MAX_ROWS];
    int32_t kind[MAX_ROWS], h_row[MAX_ROWS], g_row[MAX_ROWS];
};

static void add_row(struct extend *e, int slot, int id, enum draft_row kind, int h_row, int g_row)
{
    int i = e->n++;
    CHECK_INT(i, <, MAX_ROWS);
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

/* A whole prompt with the first picked token behind it. */
static void prompt_rows(const struct vispec_case *c, enum image_rows image_rows, struct extend *e)
{
    int g_row = ZERO_ROW, n_features = 0;
    e->n = 0;
    if (c->is_image[0]) n_features++;
    for (int slot = 1; slot <= c->n; slot++) {
        bool is_image = slot < c->n && c->is_image[slot];
        bool is_last = is_image && (slot + 1 == c->n || !c->is_image[slot + 1]);
        int id = slot < c->n ? c->ids[slot] : get_int(c->json, "first_token");
        if (!is_image)
            add_row(e, slot, id, DRAFT_ROW_FUSED, slot - 1, g_row);
        else if (image_rows == IMAGE_ROWS_ALL)
            add_row(e, slot, ~(FEATURE_ROW + n_features++), DRAFT_ROW_FUSED, slot - 1, ZERO_ROW);
        else if (is_last)
            add_row(e, slot, ~COMPRESSED_ROW, DRAFT_ROW_DIRECT, slot - 1, g_row);
        if (is_last && image_rows == IMAGE_ROWS_ADAPTOR) g_row = G_ROW;
    }
}

/* What the verify pass of a golden round accepted. */
static void accepted_rows(const json_t *round, struct extend *e)
{
    const json_t *nodes = json_object_get(round, "accepted_nodes");
    const json_t *tokens = json_object_get(round, "accepted_tokens");
    int len = get_int(round, "context_tokens");
    size_t n = json_array_size(nodes);
    e->n = 0;
    for (size_t i = 0; i < n; i++)
        add_row(e, len + (int)i + 1, i + 1 < n ? item(tokens, i) : get_int(round, "bonus_token"),
                DRAFT_ROW_FUSED, item(nodes, i), 0);
}

/* Proposes; the trees start at the last row, or at every row of the extend. */
static void propose(struct fixture *f, const struct extend *e, const float *hidden, size_t n_hidden,
                    int len, bool all_are_heads)
{
    struct kernels *k = &f->k;
    struct draft_round *r = &f->round;
    size_t ints = (size_t)e->n * sizeof(int32_t);
    int32_t n = e->n, n_heads = all_are_heads ? e->n : 1;
    int32_t rows[MAX_ROWS], seats[MAX_ROWS] = {0};
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

/* Puts the picture's features, and what the adaptor makes of them, into the vector pool; without a
 * picture g is zero. */
static void encode(struct fixture *f, const struct vispec_case *c)
{
    struct kernels *k = &f->k;
    size_t width = (size_t)f->draft->cfg.hidden, n = 0;
    float *g = f->pool + (size_t)G_ROW * width;
    if (golden_has(c->tensors, "vision_features")) {
        const float *features = golden_f32(c->tensors, "vision_features", &n);
        float *on_device = f->pool + (size_t)FEATURE_ROW * width;
        kernels_write(k, on_device, features, n * sizeof(float));
        if (f->draft->kind->encode_image)
            f->draft->kind->encode_image(f->draft, k->stream, on_device, (int)(n / width),
                                         f->pool + (size_t)COMPRESSED_ROW * width);
        stream_copy_out(k->stream, f->encoded, f->pool + (size_t)COMPRESSED_ROW * width,
                        2 * width * sizeof(float));
    } else {
        stream_fill(k->stream, g, 0, width * sizeof(float));
    }
    float *last_g = kernels_host(k, width * sizeof(float));
    stream_copy_out(k->stream, last_g, g, width * sizeof(float));
    stream_copy_in(k->stream, f->pool, last_g, width * sizeof(float)); /* the seat's */
    stream_wait(k->stream);
}

/* ---- checks -----------------------------------------------------------------------------------
 */

static void check_adaptor(const struct fixture *f, const struct vispec_case *c)
{
    size_t width = (size_t)f->draft->cfg.hidden;
    CHECK_INT(f->draft->n_image_outputs, ==, 2);
    CHECK_CLOSE(f->encoded, golden_f32(c->tensors, "draft_compressed", NULL), width, tolerance, 0);
    CHECK_CLOSE(f->encoded + width, golden_f32(c->tensors, "draft_global", NULL), width, tolerance,
                0);
}

/* The 8 best log-probabilities of every row of the prompt are those of the golden layer outputs. */
static void check_all_rows(struct fixture *f, const struct vispec_case *c, const struct extend *e)
{
    struct kernels *k = &f->k;
    size_t n, width = (size_t)f->draft->cfg.hidden, vocab = (size_t)f->draft->cfg.vocab;
    const float *outputs = golden_f32(c->tensors, "draft_prefill_output", &n);
    size_t n_rows = n / width;
    CHECK_INT(n_rows, ==, e->n);
    float *rows = kernels_upload(k, outputs, n * sizeof(float));
    float *logits = kernels_empty(k, n_rows * vocab * sizeof(float));
    const struct topk_args topk = {.logits = logits,
                                   .ids = take_ints(k, n_rows * K),
                                   .logprobs = kernels_empty(k, n_rows * K * sizeof(float)),
                                   .max = (int32_t)n_rows,
                                   .vocab = (int32_t)vocab,
                                   .k = K};
    lm_logits(f->lm, k->stream, rows, NULL, (int)n_rows, logits);
    k->ops->topk(k->stream, &topk);
    const float *wanted = kernels_download(k, topk.logprobs, n_rows * K * sizeof(float));
    const float *scores = kernels_download(k, f->round.beam.score, n_rows * K * sizeof(float));
    CHECK_CLOSE(scores, wanted, n_rows * K, tolerance, 0);
}

/* The k children of one node in golden data: tokens and scores. */
static double check_children(const int32_t *tokens, const float *scores, const json_t *want_tokens,
                             const json_t *want_scores)
{
    double worst = 0;
    for (size_t j = 0; j < K; j++) {
        float wanted = (float)json_number_value(json_array_get(want_scores, j));
        CHECK_INT(tokens[j], ==, item(want_tokens, j));
        CHECK_CLOSE(scores + j, &wanted, 1, tolerance, 0);
        worst = fmax(worst, fabs((double)scores[j] - (double)wanted));
    }
    return worst;
}

/* All candidates, level by level, and the beams that were fed. */
static double check_candidates(struct fixture *f, const json_t *levels)
{
    struct kernels *k = &f->k;
    const struct beam *beam = &f->round.beam;
    const int32_t *tokens = kernels_download(k, beam->token, N_CANDIDATES * sizeof(int32_t));
    const float *scores = kernels_download(k, beam->score, N_CANDIDATES * sizeof(float));
    const int32_t *nodes = kernels_download(k, beam->node, DEPTH * K * sizeof(int32_t));
    const json_t *level = json_array_get(levels, 0);
    double worst = check_children(tokens, scores, json_object_get(level, "tokens"),
                                  json_object_get(level, "logp"));
    for (size_t row = 0; row < DEPTH * K; row++) {
        size_t b = row % K, first = K + row * K;
        level = json_array_get(levels, 1 + row / K);
        CHECK_INT(tokens[nodes[row]], ==, item(json_object_get(level, "beam_tokens"), b));
        const json_t *want_tokens = json_array_get(json_object_get(level, "child_tokens"), b);
        const json_t *want_scores = json_array_get(json_object_get(level, "child_cum_logp"), b);
        worst =
            fmax(worst, check_children(tokens + first, scores + first, want_tokens, want_scores));
    }
    return worst;
}

static void check_case(struct fixture *f, const char *name, bool has_all_rows)
{
    struct vispec_case c = open_case(name);
    static struct extend e;
    char tensor[64];
    size_t n, n_positions;
    f->round.beam.depth = DEPTH;
    stream_fill(f->k.stream, f->round.kv.valid, 0, N_PAGES * sizeof(uint64_t));
    encode(f, &c);
    if (golden_has(c.tensors, "vision_features")) check_adaptor(f, &c);

    prompt_rows(&c, IMAGE_ROWS_ADAPTOR, &e);
    const int32_t *positions = golden_i32(c.tensors, "draft_prefill_positions", &n_positions);
    CHECK_INT(n_positions, ==, e.n);
    for (int i = 0; i < e.n; i++) CHECK_INT(e.pos[i][0], ==, positions[i]);
    const float *hidden = golden_f32(c.tensors, "prefill_hidden", &n);
    if (has_all_rows) {
        f->round.beam.depth = 0;
        propose(f, &e, hidden, n, c.n, true);
        check_all_rows(f, &c, &e);
        f->round.beam.depth = DEPTH;
    }

    propose(f, &e, hidden, n, c.n, false);
    const json_t *rounds = json_object_get(c.json, "rounds");
    double worst = 0;
    for (size_t i = 0; i < 3 && i < json_array_size(rounds); i++) {
        const json_t *round = json_array_get(rounds, i), *tree = json_object_get(round, "tree");
        CHECK_INT(f->seats[0].len, ==, get_int(round, "context_tokens"));
        worst = fmax(worst, check_candidates(f, json_object_get(tree, "levels")));
        snprintf(tensor, sizeof(tensor), "round%zu_verify_hidden", i);
        if (!golden_has(c.tensors, tensor)) break;
        accepted_rows(round, &e);
        const float *verified = golden_f32(c.tensors, tensor, &n);
        propose(f, &e, verified, n, f->seats[0].len + e.n, false);
    }
    printf("# %s: scores differ by at most %.2g\n", name, worst);
    close_case(&c);
}

TEST(the_llava_draft_proposes_the_golden_trees)
{
    struct fixture f;
    struct lm_config cfg = llava_config();
    open_fixture(&f, llava, &cfg, test_path(llava_draft));
    CHECK_STR(f.draft->kind->name, "vispec");
    CHECK_INT(f.draft->image_rows, ==, IMAGE_ROWS_ADAPTOR);
    check_case(&f, "cases_llava/case_00", true);
    check_case(&f, "cases_llava/case_01", true);
    check_case(&f, "cases_llava/case_02", true);
    check_case(&f, "cases_llava/case_03", true);
    check_case(&f, "cases_llava/case_04", true);
    check_case(&f, "cases_llava/case_06", false);
    check_case(&f, "cases_llava/case_07", true);
    check_case(&f, "cases_llava/case_08", false);
    close_fixture(&f);
}

TEST(the_qwen_draft_with_its_biases_proposes_the_golden_trees)
{
    struct fixture f;
    struct lm_config cfg = qwen_config();
    open_fixture(&f, "golden/vispec/qwen2_5_vl-tiny", &cfg,
                 test_path("golden/vispec/qwen2_5_vl-tiny-vispec"));
    check_case(&f, "cases_qwen/case_01", true);
    check_case(&f, "cases_qwen/case_03", true);
    close_fixture(&f);
}

/* ---- folders made of the golden draft ---------------------------------------------------------
 */

enum change {
    NO_ADAPTOR = 1,        /* leave imadpt.* out */
    NO_IMG_FC = 2,         /* leave img_fc.* out */
    IDENTITY_IMG_FC = 4,   /* img_fc = [I | 0], no bias: what training starts from */
    NO_EMBEDDINGS = 8,     /* leave embed_tokens out */
    OTHER_EMBEDDINGS = 16, /* not the target's */
    NO_FC = 32,
};

static bool is_left_out(const char *name, unsigned changes)
{
    return ((changes & NO_ADAPTOR) && strncmp(name, "imadpt.", 7) == 0) ||
           ((changes & NO_IMG_FC) && strncmp(name, "img_fc.", 7) == 0) ||
           ((changes & NO_EMBEDDINGS) && strcmp(name, "embed_tokens.weight") == 0) ||
           ((changes & NO_FC) && strcmp(name, "fc.weight") == 0);
}

static void change_values(const char *name, unsigned changes, float *x, size_t n, size_t width)
{
    if ((changes & IDENTITY_IMG_FC) && strncmp(name, "img_fc.", 7) == 0) {
        memset(x, 0, n * sizeof(float));
        for (size_t i = 0; i * 2 * width < n && n > width; i++) x[i * 2 * width + i] = 1;
    }
    if ((changes & OTHER_EMBEDDINGS) && strcmp(name, "embed_tokens.weight") == 0)
        for (size_t i = 0; i < n; i++) x[i] *= 2;
}

/* A copy of the golden draft with changes. */
static struct folder changed_draft(unsigned changes)
{
    static const char *const names[] = {
        "embed_tokens.weight",
        "fc.bias",
        "fc.weight",
        "imadpt.k_proj.weight",
        "imadpt.o_proj.weight",
        "imadpt.q",
        "imadpt.v_proj.weight",
        "img_fc.bias",
        "img_fc.weight",
        "layers.0.mlp.down_proj.weight",
        "layers.0.mlp.gate_proj.weight",
        "layers.0.mlp.up_proj.weight",
        "layers.0.post_attention_layernorm.weight",
        "layers.0.self_attn.k_proj.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.v_proj.weight",
    };
    char path[192];
    snprintf(path, sizeof(path), "%s/model.safetensors", llava_draft);
    struct golden *g = golden_open(test_path(path));
    json_t *header = json_object();
    size_t n, len = 0, capacity = 4 << 20;
    char *data = malloc(capacity);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (is_left_out(names[i], changes)) continue;
        int64_t shape[8];
        int n_dims = golden_shape(g, names[i], shape);
        const float *x = golden_f32(g, names[i], &n);
        CHECK_INT(len + n * sizeof(float), <=, capacity);
        memcpy(data + len, x, n * sizeof(float));
        change_values(names[i], changes, (float *)(data + len), n, 128);
        json_t *sizes = json_array();
        for (int d = 0; d < n_dims; d++) json_array_append_new(sizes, json_integer(shape[d]));
        json_object_set_new(header, names[i],
                            json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F32", "shape", sizes,
                                      "data_offsets", (json_int_t)len,
                                      (json_int_t)len + (json_int_t)(4 * n)));
        len += n * sizeof(float);
    }
    golden_close(g);

    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t header_len = strlen(text);
    struct buffer file = {0};
    buffer_append(&file, &header_len, sizeof(header_len)); /* little-endian, as x86 is */
    buffer_append(&file, text, header_len);
    buffer_append(&file, data, len);
    struct folder f = folder_new();
    folder_write(&f, "model.safetensors", file.data, file.len);
    buffer_done(&file);
    free(text);
    free(data);
    json_decref(header);
    snprintf(path, sizeof(path), "%s/config.json", llava_draft);
    char *config = folder_read(test_path(path), &n);
    folder_write(&f, "config.json", config, n);
    free(config);
    return f;
}

/* The bits of the scores that a folder's draft gives the candidates behind a prompt. */
struct proposal {
    uint32_t scores[N_CANDIDATES];
};

static struct proposal proposed(const char *dir, const char *name, enum image_rows image_rows)
{
    struct fixture f;
    struct lm_config cfg = llava_config();
    static struct extend e;
    struct proposal p;
    size_t n;
    open_fixture(&f, llava, &cfg, dir);
    struct vispec_case c = open_case(name);
    encode(&f, &c);
    prompt_rows(&c, image_rows, &e);
    const float *hidden = golden_f32(c.tensors, "prefill_hidden", &n);
    propose(&f, &e, hidden, n, c.n, false);
    memcpy(p.scores, kernels_download(&f.k, f.round.beam.score, sizeof(p.scores)),
           sizeof(p.scores));
    close_case(&c);
    close_fixture(&f);
    return p;
}

static bool same_scores(struct proposal a, struct proposal b)
{
    return memcmp(a.scores, b.scores, sizeof(a.scores)) == 0;
}

TEST(eagle_2_is_vispec_with_an_img_fc_that_passes_hidden_states_on)
{
    struct folder eagle = changed_draft(NO_ADAPTOR | NO_IMG_FC);
    struct folder vispec = changed_draft(IDENTITY_IMG_FC);
    struct fixture f;
    struct lm_config cfg = llava_config();
    open_fixture(&f, llava, &cfg, eagle.path);
    CHECK_STR(f.draft->kind->name, "eagle2");
    CHECK_INT(f.draft->image_rows, ==, IMAGE_ROWS_ALL);
    CHECK_INT(f.draft->n_image_outputs, ==, 0);
    CHECK(f.draft->kind->encode_image == NULL);
    close_fixture(&f);
    CHECK(same_scores(proposed(eagle.path, "cases_llava/case_00", IMAGE_ROWS_ALL),
                      proposed(vispec.path, "cases_llava/case_00", IMAGE_ROWS_ADAPTOR)));
    CHECK(same_scores(proposed(eagle.path, "cases_llava/case_01", IMAGE_ROWS_ALL),
                      proposed(vispec.path, "cases_llava/case_01", IMAGE_ROWS_ALL)));
    folder_remove(&eagle);
    folder_remove(&vispec);
}

TEST(a_draft_uses_its_own_embeddings_only_where_they_differ)
{
    struct folder without = changed_draft(NO_EMBEDDINGS), other = changed_draft(OTHER_EMBEDDINGS);
    const char *name = "cases_llava/case_01";
    CHECK(same_scores(proposed(test_path(llava_draft), name, IMAGE_ROWS_ADAPTOR),
                      proposed(without.path, name, IMAGE_ROWS_ADAPTOR)));
    CHECK(!same_scores(proposed(without.path, name, IMAGE_ROWS_ADAPTOR),
                       proposed(other.path, name, IMAGE_ROWS_ADAPTOR)));
    folder_remove(&without);
    folder_remove(&other);
}

TEST(the_config_may_say_which_image_rows_a_draft_keeps)
{
    static const char *const texts[] = {"adaptor", "all", "none"};
    struct folder folder = changed_draft(0);
    struct lm_config cfg = llava_config();
    for (int i = 0; i < 3; i++) {
        char text[512];
        snprintf(text, sizeof(text),
                 "{\"hidden_size\": 128, \"intermediate_size\": 256, \"num_attention_heads\": 4,"
                 "\"vocab_size\": 640, \"rms_norm_eps\": 1e-05, \"image_rows\": \"%s\"}",
                 texts[i]);
        folder_write_text(&folder, "config.json", text);
        struct fixture f;
        open_fixture(&f, llava, &cfg, folder.path);
        CHECK_INT(f.draft->image_rows, ==, i);
        close_fixture(&f);
    }
    folder_remove(&folder);
}

TEST(no_draft_is_a_kind_that_needs_no_pages)
{
    struct lm_config cfg = llava_config();
    struct fixture f;
    open_fixture(&f, llava, &cfg, "none");
    CHECK_STR(f.draft->kind->name, "none");
    CHECK_INT(f.draft->cfg.n_layers, ==, 0);
    CHECK_INT(f.draft->n_image_outputs, ==, 0);
    CHECK_INT(f.draft->image_rows, ==, IMAGE_ROWS_NONE);
    f.draft->kind->propose(f.draft, f.k.stream, &f.round);
    close_fixture(&f);
}

/* ---- bad input --------------------------------------------------------------------------------
 */

static void check_refused(const char *dir, const char *wanted)
{
    struct kernels k;
    struct safetensors *st;
    struct lm *lm;
    struct draft *draft = NULL;
    struct lm_config cfg = llava_config();
    struct error err;
    kernels_open(&k);
    CHECK_INT(safetensors_open(&st, test_path(llava), &err), ==, 0);
    CHECK_INT(lm_open(&lm, k.dev, st, &cfg, 64, &err), ==, 0);
    CHECK_INT(draft_open(&draft, k.dev, dir, lm, &limits, &err), ==, -1);
    CHECK(draft == NULL && err.kind == ERROR_BAD_REQUEST && strchr(err.text, '\n') == NULL);
    if (!strstr(err.text, wanted) || !strstr(err.text, dir))
        test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", wanted, err.text);
    lm_close(lm);
    safetensors_close(st);
    kernels_close(&k);
}

TEST(a_draft_folder_that_does_not_fit_is_refused_with_one_line)
{
    check_refused(test_path("golden/vispec/qwen2_5_vl-tiny-vispec"),
                  "config.json: vocab_size is 720, but the model's is 640");
    check_refused(test_path("golden/nothing"), "config.json: No such file");

    struct folder f = changed_draft(NO_FC);
    check_refused(f.path, "model.safetensors: tensor fc.weight is missing");
    folder_remove(&f);
    f = changed_draft(NO_IMG_FC);
    check_refused(f.path, "model.safetensors: tensor img_fc.weight is missing");
    folder_remove(&f);
    f = changed_draft(NO_ADAPTOR);
    check_refused(f.path, "model.safetensors: tensor imadpt.q is missing");
    folder_remove(&f);

    f = changed_draft(0);
    const char *wide = "{\"hidden_size\": 128, \"intermediate_size\": 300,"
                       "\"num_attention_heads\": 4, \"vocab_size\": 640}";
    folder_write_text(&f, "config.json", wide);
    check_refused(f.path, "model.safetensors: tensor layers.0.mlp.gate_proj.weight has shape "
                          "[256, 128], not [300, 128]");
    const char *heads = "{\"hidden_size\": 128, \"intermediate_size\": 256,"
                        "\"num_attention_heads\": 8, \"vocab_size\": 640}";
    folder_write_text(&f, "config.json", heads);
    check_refused(f.path, "tensor imadpt.q has shape [2, 4, 32], not [2, 8, 16]");
    size_t len;
    char path[128];
    snprintf(path, sizeof(path), "%s/model.safetensors", f.path);
    char *bytes = folder_read(path, &len);
    folder_write(&f, "model.safetensors", bytes, len - 1000);
    check_refused(f.path, "is the file complete?");
    free(bytes);
    folder_remove(&f);
}
