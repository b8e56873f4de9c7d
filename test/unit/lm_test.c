#include "runtime/model/lm.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/folder.h"
#include "test/golden.h"
#include "test/test.h"

enum { MAX_ROWS = 320, N_PAGES = 8, MAX_VECTORS = 256, N_STEPS = 48 };

/* A language model with one sequence, whose pages lie in an unusual order. */
struct fixture {
    struct device *dev;
    struct stream *s;
    struct safetensors *st;
    struct lm *lm;
    struct lm_scratch scratch;
    struct rows rows;
    struct kv_pool kv;
    float *pool;   /* [MAX_VECTORS][hidden] */
    void *hidden;  /* [MAX_ROWS][hidden] */
    float *logits; /* [vocab] */
};

static struct lm_config config_of(const char *folder)
{
    struct model_config cfg;
    struct error err;
    if (config_load(test_path(folder), &cfg, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg.lm;
}

static struct fixture open_folder(const char *path, const struct lm_config *cfg)
{
    struct fixture f = {.dev = device_open("cpu", 2)};
    struct error err;
    f.s = stream_open(f.dev);
    if (safetensors_open(&f.st, path, &err) != 0 ||
        lm_open(&f.lm, f.dev, f.st, cfg, N_PAGES * PAGE_LEN, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    lm_scratch_init(&f.scratch, f.dev, cfg, false, MAX_ROWS);
    size_t ints = MAX_ROWS * sizeof(int32_t), floats = (size_t)cfg->hidden * sizeof(float);
    f.rows = (struct rows){.n = device_alloc(f.dev, sizeof(int32_t), "rows"),
                           .max = MAX_ROWS,
                           .seat = device_alloc(f.dev, ints, "rows"),
                           .id = device_alloc(f.dev, ints, "rows"),
                           .pos = device_alloc(f.dev, 3 * ints, "rows"),
                           .slot = device_alloc(f.dev, ints, "rows"),
                           .prefix = device_alloc(f.dev, ints, "rows"),
                           .mask = device_alloc(f.dev, 2 * ints, "rows")};
    size_t page = (size_t)cfg->n_kv_heads * PAGE_LEN * (size_t)cfg->head_dim * sizeof(float);
    const int32_t table[N_PAGES] = {5, 2, 7, 0, 3, 6, 1, 4};
    f.kv = (struct kv_pool){
        .k = device_alloc(f.dev, (size_t)cfg->n_layers * N_PAGES * page, "keys"),
        .v = device_alloc(f.dev, (size_t)cfg->n_layers * N_PAGES * page, "values"),
        .table = weights_upload(f.dev, table, sizeof(table), "page table"),
        .n_layers = cfg->n_layers,
        .n_pages = N_PAGES,
        .n_kv_heads = cfg->n_kv_heads,
        .head_dim = cfg->head_dim,
        .max_pages = N_PAGES,
    };
    f.pool = device_alloc(f.dev, MAX_VECTORS * floats, "vectors");
    f.hidden = device_alloc(f.dev, MAX_ROWS * floats, "hidden states");
    f.logits = device_alloc(f.dev, (size_t)cfg->vocab * sizeof(float), "logits");
    return f;
}

static struct fixture open_fixture(const char *folder, const struct lm_config *cfg)
{
    return open_folder(test_path(folder), cfg);
}

static void close_fixture(struct fixture *f)
{
    stream_close(f->s);
    void *const memory[] = {f->rows.n,      f->rows.seat, f->rows.id, f->rows.pos, f->rows.slot,
                            f->rows.prefix, f->rows.mask, f->kv.k,    f->kv.v,     f->kv.table,
                            f->pool,        f->hidden,    f->logits};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) device_free(f->dev, memory[i]);
    lm_scratch_done(&f->scratch, f->dev);
    lm_close(f->lm);
    safetensors_close(f->st);
    device_close(f->dev);
}

/* Runs tokens at positions first .. first + n - 1 and copies their hidden states to out (or not, if
 * it is NULL).  pos [n][3]; NULL: the position itself. */
static void run_rows(struct fixture *f, const int32_t *ids, int n, int first, const int32_t *pos,
                     float *out)
{
    int32_t seat[MAX_ROWS], axes[MAX_ROWS][3], slot[MAX_ROWS], prefix[MAX_ROWS];
    uint64_t mask[MAX_ROWS];
    int32_t count = n;
    for (int i = 0; i < n; i++) {
        seat[i] = 0;
        for (int axis = 0; axis < 3; axis++) axes[i][axis] = pos ? pos[3 * i + axis] : first + i;
        slot[i] = first + i;
        prefix[i] = first + i + 1;
        mask[i] = 0;
    }
    size_t ints = (size_t)n * sizeof(int32_t);
    stream_copy_in(f->s, f->rows.n, &count, sizeof(count));
    stream_copy_in(f->s, f->rows.seat, seat, ints);
    stream_copy_in(f->s, f->rows.id, ids, ints);
    stream_copy_in(f->s, f->rows.pos, axes, 3 * ints);
    stream_copy_in(f->s, f->rows.slot, slot, ints);
    stream_copy_in(f->s, f->rows.prefix, prefix, ints);
    stream_copy_in(f->s, f->rows.mask, mask, 2 * ints);
    lm_forward(f->lm, f->s, &f->scratch, &f->rows, f->pool, &f->kv, f->hidden);
    if (out)
        stream_copy_out(f->s, out, f->hidden,
                        (size_t)n * (size_t)f->lm->cfg.hidden * sizeof(float));
    stream_wait(f->s);
}

static void last_logits(struct fixture *f, int row, float *out)
{
    size_t hidden = (size_t)f->lm->cfg.hidden, vocab = (size_t)f->lm->cfg.vocab;
    device_ops(f->dev)->gemm(
        f->s, &(struct gemm_args){.w = f->lm->head,
                                  .x = (const float *)f->hidden + (size_t)row * hidden,
                                  .y = f->logits,
                                  .max = 1,
                                  .ldx = f->lm->cfg.hidden,
                                  .ldy = f->lm->cfg.vocab});
    stream_copy_out(f->s, out, f->logits, vocab * sizeof(float));
    stream_wait(f->s);
}

/* ---- golden cases -----------------------------------------------------------------------------
 */

struct golden_case {
    json_t *json;
    struct golden *tensors;
    int32_t ids[MAX_ROWS]; /* image tokens are rows of the vector pool */
    int n;
};

static void read_ints(const json_t *list, int32_t *out)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
}

/* Reads a case, and puts its image features into the fixture's vector pool. */
static struct golden_case open_case(struct fixture *f, const char *folder, const char *name,
                                    int image_token)
{
    char path[256];
    struct golden_case c = {0};
    snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.json", folder, name);
    c.json = json_load_file(test_path(path), 0, NULL);
    if (!c.json) test_fail(__FILE__, __LINE__, "%s cannot be read", path);
    snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.safetensors", folder, name);
    c.tensors = golden_open(test_path(path));
    const json_t *ids = json_object_get(c.json, "input_ids");
    c.n = (int)json_array_size(ids);
    CHECK_INT(c.n + N_STEPS, <=, MAX_ROWS);
    read_ints(ids, c.ids);

    int n_vectors = 0;
    for (int image = 0;; image++) {
        size_t n;
        snprintf(path, sizeof(path), "image_features.%d", image);
        if (!golden_has(c.tensors, path)) break;
        const float *features = golden_f32(c.tensors, path, &n);
        size_t hidden = (size_t)f->lm->cfg.hidden;
        stream_copy_in(f->s, f->pool + (size_t)n_vectors * hidden, features, n * sizeof(float));
        n_vectors += (int)(n / hidden);
    }
    int used = 0;
    for (int i = 0; i < c.n; i++)
        if (c.ids[i] == image_token) c.ids[i] = ~used++;
    CHECK_INT(used, ==, n_vectors);
    return c;
}

static void close_case(struct golden_case *c)
{
    json_decref(c->json);
    golden_close(c->tensors);
}

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static double logprob(const float *logits, int n, int id)
{
    double max = logits[argmax(logits, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - max);
    return (double)logits[id] - max - log(sum);
}

/* float32 on both sides, sums in another order: 3e-5 is what the reference's own versions differ
 * by. */
static const double tolerance = 5e-5;

/* M-RoPE's positions of the prompt, [n][3], or NULL; *delta: of what follows. */
static const int32_t *rope_positions(const struct golden_case *c, int32_t pos[MAX_ROWS][3],
                                     int *delta)
{
    *delta = 0;
    if (!golden_has(c->tensors, "position_ids")) return NULL;
    size_t n;
    const int32_t *axes = golden_i32(c->tensors, "position_ids", &n);
    CHECK_INT(n, ==, 3 * c->n);
    for (int i = 0; i < c->n; i++)
        for (int axis = 0; axis < 3; axis++) pos[i][axis] = axes[axis * c->n + i];
    *delta = (int)json_integer_value(json_object_get(c->json, "rope_deltas"));
    return pos[0];
}

static void check_greedy(struct fixture *f, struct golden_case *c, int delta, float *logits)
{
    int vocab = f->lm->cfg.vocab;
    const json_t *ids = json_object_get(c->json, "greedy_ids");
    const json_t *logprobs = json_object_get(c->json, "greedy_logprobs");
    const json_t *margins = json_object_get(c->json, "margin_top1_top2");
    for (int step = 0; step < N_STEPS; step++) {
        int32_t id = argmax(logits, vocab);
        int wanted = (int)json_integer_value(json_array_get(ids, (size_t)step));
        double margin = json_number_value(json_array_get(margins, (size_t)step));
        if (id != wanted && margin < 2e-4) return; /* a tie of the golden data */
        CHECK_INT(id, ==, wanted);
        float got = (float)logprob(logits, vocab, id);
        float want = (float)json_number_value(json_array_get(logprobs, (size_t)step));
        CHECK_CLOSE(&got, &want, 1, tolerance, 0);
        int at = c->n + step;
        const int32_t pos[3] = {at + delta, at + delta, at + delta};
        run_rows(f, &id, 1, at, pos, NULL);
        last_logits(f, 0, logits);
    }
}

static void check_case(struct fixture *f, const char *folder, const char *name, int image_token)
{
    struct golden_case c = open_case(f, folder, name, image_token);
    float *logits = malloc((size_t)f->lm->cfg.vocab * sizeof(float));
    size_t n;
    int32_t pos[MAX_ROWS][3];
    int delta;
    run_rows(f, c.ids, c.n, 0, rope_positions(&c, pos, &delta), NULL);
    last_logits(f, c.n - 1, logits);
    const float *wanted = golden_f32(c.tensors, "logits_last_prompt_row", &n);
    CHECK_INT(n, ==, f->lm->cfg.vocab);
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)logits[i] - (double)wanted[i]));
    printf("# %s/%s: logits differ by at most %.2g\n", folder, name, worst);
    CHECK_CLOSE(logits, wanted, n, tolerance, 0);
    if (golden_has(c.tensors, "debug.lm_hidden_last_prompt_row")) {
        float last[512];
        size_t hidden = (size_t)f->lm->cfg.hidden;
        const float *all = golden_f32(c.tensors, "debug.lm_hidden_last_prompt_row", &n);
        run_rows(f, c.ids + c.n - 1, 1, c.n - 1, NULL, last);
        CHECK_CLOSE(last, all + n - hidden, hidden, tolerance, 0);
    }
    check_greedy(f, &c, delta, logits);
    free(logits);
    close_case(&c);
}

static const char *const llava_cases[] = {"c1_text",       "c2_system_multiturn",  "c3_one_image",
                                          "c4_two_images", "c5_image_second_turn", "c6_two_sizes",
                                          "c7_unicode"};
static const char *const llama_cases[] = {
    "c1_text", "c2_system_multiturn", "c3_unicode", "c4_code", "c5_long", "c6_spaces"};

static void check_folder(const char *model, const char *goldens, const char *const *names,
                         int n_names, int image_token)
{
    struct lm_config cfg = config_of(model);
    struct fixture f = open_fixture(model, &cfg);
    for (int i = 0; i < n_names; i++) check_case(&f, goldens, names[i], image_token);
    close_fixture(&f);
}

TEST(llava_with_published_names_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/llava15-tiny", "llava15-tiny", llava_cases, 7, 606);
}

TEST(llava_with_the_names_of_transformers_5_gives_the_same)
{
    check_folder("golden/hf/models/llava15-tiny-v5names", "llava15-tiny", llava_cases, 7, 606);
}

TEST(llava_in_shards_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/llava15-sharded-midnames", "llava15-sharded-midnames",
                 llava_cases, 7, 606);
}

TEST(llava_1_6_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/llavanext-tiny", "llavanext-tiny", llava_cases, 7, 606);
}

TEST(qwen_2_5_vl_with_tied_embeddings_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/qwen25vl-tiny", "qwen25vl-tiny", llava_cases, 7, 612);
}

TEST(qwen_2_5_vl_with_the_names_of_transformers_5_gives_the_same)
{
    struct folder folder = folder_new();
    struct lm_config cfg = config_of("golden/hf/models/qwen25vl-tiny");
    folder_write_renamed(&folder, "model.safetensors",
                         test_path("golden/hf/models/qwen25vl-tiny/model.safetensors"), "model.",
                         "model.language_model.");
    struct fixture f = open_folder(folder.path, &cfg);
    check_case(&f, "qwen25vl-tiny", "c6_two_sizes", 612);
    close_fixture(&f);
    folder_remove(&folder);
}

TEST(qwen_2_in_float32_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/qwen2-tiny-f32", "qwen2-tiny-f32", llama_cases, 6, -1);
}

TEST(llama_with_a_head_size_of_its_own_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/llama-tiny", "llama-tiny", llama_cases, 6, -1);
}

TEST(llama_in_float16_gives_the_golden_logits_and_tokens)
{
    check_folder("golden/hf/models/llama-tiny-f16", "llama-tiny-f16", llama_cases, 6, -1);
}

/* ---- hidden states of the ViSpec targets ------------------------------------------------------
 */

static void check_prefill_hidden(const char *model, const char *case_path,
                                 const struct lm_config *cfg, bool has_axes)
{
    struct fixture f = open_fixture(model, cfg);
    struct golden *g = golden_open(test_path(case_path));
    size_t n, n_features = 0, hidden = (size_t)cfg->hidden;
    const int32_t *tokens = golden_i32(g, "input_ids", &n);
    const uint8_t *is_image = golden_u8(g, "image_mask", NULL);
    const int32_t *positions = golden_i32(g, "position_ids", NULL);
    int32_t ids[MAX_ROWS], pos[MAX_ROWS][3];
    CHECK(n > 0 && n <= MAX_ROWS);
    for (size_t i = 0; i < n; i++) {
        ids[i] = is_image[i] ? ~(int32_t)n_features++ : tokens[i];
        for (size_t axis = 0; axis < 3; axis++)
            pos[i][axis] = has_axes ? positions[axis * n + i] : positions[i];
    }
    if (n_features > 0)
        stream_copy_in(f.s, f.pool, golden_f32(g, "vision_features", NULL),
                       n_features * hidden * sizeof(float));
    float *got = malloc(n * hidden * sizeof(float));
    run_rows(&f, ids, (int)n, 0, pos[0], got);
    const float *wanted = golden_f32(g, "prefill_hidden", NULL);
    double worst = 0;
    for (size_t i = 0; i < n * hidden; i++)
        worst = fmax(worst, fabs((double)got[i] - (double)wanted[i]));
    printf("# %s: hidden states differ by at most %.2g\n", case_path, worst);
    CHECK_CLOSE(got, wanted, n * hidden, tolerance, 0);
    free(got);
    golden_close(g);
    close_fixture(&f);
}

TEST(the_vispec_target_gives_the_golden_hidden_states)
{
    const char *model = "golden/vispec/llava-next-tiny";
    struct lm_config cfg = config_of(model);
    check_prefill_hidden(model, "golden/vispec/cases_llava/case_00.safetensors", &cfg, false);
    check_prefill_hidden(model, "golden/vispec/cases_llava/case_01.safetensors", &cfg, false);
    check_prefill_hidden(model, "golden/vispec/cases_llava/case_07.safetensors", &cfg, false);
}

TEST(biases_of_q_k_v_and_rotary_positions_on_three_axes_are_computed)
{
    const char *model = "golden/vispec/qwen2_5_vl-tiny";
    struct lm_config cfg = config_of(model);
    check_prefill_hidden(model, "golden/vispec/cases_qwen/case_01.safetensors", &cfg, true);
}

/* ---- rows -------------------------------------------------------------------------------------
 */

TEST(a_prompt_in_chunks_of_any_size_gives_the_same_bits)
{
    const char *model = "golden/hf/models/llama-tiny";
    struct lm_config cfg = config_of(model);
    struct fixture f = open_fixture(model, &cfg);
    enum { N = 4 * PAGE_LEN + 30 };
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = i * 7919 % 600;
    size_t bytes = (size_t)N * (size_t)cfg.hidden * sizeof(float);
    float *whole = malloc(bytes), *chunked = malloc(bytes);
    run_rows(&f, ids, N, 0, NULL, whole);
    const int sizes[] = {1, 63, 64, 65, 200};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int first = 0; first < N; first += sizes[i]) {
            int n = N - first < sizes[i] ? N - first : sizes[i];
            run_rows(&f, ids + first, n, first, NULL, chunked + (size_t)first * (size_t)cfg.hidden);
        }
        CHECK(memcmp(whole, chunked, bytes) == 0);
        memset(chunked, 0, bytes);
    }
    free(whole);
    free(chunked);
    close_fixture(&f);
}

/* ---- bad input --------------------------------------------------------------------------------
 */

static void check_refused(const struct lm_config *cfg, const char *wanted)
{
    struct device *dev = device_open("cpu", 1);
    struct safetensors *st;
    struct lm *lm = NULL;
    struct error err;
    CHECK_INT(safetensors_open(&st, test_path("golden/hf/models/llava15-tiny"), &err), ==, 0);
    CHECK_INT(lm_open(&lm, dev, st, cfg, 64, &err), ==, -1);
    CHECK(lm == NULL && err.kind == ERROR_BAD_REQUEST && strchr(err.text, '\n') == NULL);
    if (!strstr(err.text, wanted) || !strstr(err.text, "llava15-tiny/model.safetensors: "))
        test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", wanted, err.text);
    safetensors_close(st);
    device_close(dev);
}

TEST(weights_that_do_not_fit_the_config_are_refused_with_both_shapes)
{
    const struct lm_config good = config_of("golden/hf/models/llava15-tiny");
    struct lm_config cfg = good;
    cfg.vocab = 641;
    check_refused(&cfg, "tensor language_model.model.embed_tokens.weight has shape [640, 128], "
                        "not [641, 128]");
    cfg = good;
    cfg.n_layers = 3;
    check_refused(&cfg, "tensor language_model.model.layers.2.self_attn.q_proj.weight is missing");
    cfg = good;
    cfg.intermediate = 256;
    check_refused(&cfg, "tensor language_model.model.layers.0.mlp.gate_proj.weight has shape "
                        "[128, 128], not [256, 128]");
    cfg = good;
    cfg.qkv_bias = true;
    check_refused(&cfg, "self_attn.q_proj.bias is missing");
}
