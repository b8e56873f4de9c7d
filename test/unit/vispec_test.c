#include <stdio.h>
#include <stdlib.h>

#include "runtime/mem.h"
#include "test/draftbed.h"
#include "test/test.h"

/* float32 on both sides, sums in another order.  Scores are stored with six decimals. */
static const double tolerance = 3e-5;

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

static int item(const json_t *list, size_t i)
{
    return (int)json_integer_value(json_array_get(list, i));
}

/* What the verify pass of a golden round accepted. */
static void accepted_rows(const json_t *round, struct draftbed_rows *e)
{
    const json_t *nodes = json_object_get(round, "accepted_nodes");
    const json_t *tokens = json_object_get(round, "accepted_tokens");
    int len = draftbed_int(round, "context_tokens");
    size_t n = json_array_size(nodes);
    e->n = 0;
    for (size_t i = 0; i < n; i++)
        draftbed_row(e, len + (int)i + 1,
                     i + 1 < n ? item(tokens, i) : draftbed_int(round, "bonus_token"),
                     DRAFT_ROW_FUSED, item(nodes, i), 0);
}

/* The halves of fc and img_fc that meet g, or h. */
static float *right_half(const struct safetensors *st, const char *name, int width)
{
    const int64_t shape[2] = {width, 2 * width};
    const struct tensor *t;
    struct error err;
    if (safetensors_get(st, name, shape, 2, &t, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    float *half = xcalloc((size_t)width * (size_t)width, sizeof(float));
    for (int i = 0; i < width; i++)
        weights_convert(half + (ptrdiff_t)i * width, DTYPE_F32,
                        (const char *)t->data + (2 * i + 1) * width * (int)dtype_size(t->dtype),
                        t->dtype, (size_t)width);
    return half;
}

/* What fc makes of g: Fh (Ig g). */
static void global_term(const char *draft, const float *g, int width, float *out)
{
    struct safetensors *st;
    struct error err;
    if (safetensors_open(&st, test_path(draft), &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    float *fc = right_half(st, "fc.weight", width),
          *img_fc = right_half(st, "img_fc.weight", width);
    for (int i = 0; i < width; i++) {
        double sum = 0;
        for (int j = 0; j < width; j++)
            for (int k = 0; k < width; k++)
                sum += (double)fc[i * width + j] * (double)img_fc[j * width + k] * (double)g[k];
        out[i] = (float)sum;
    }
    free(fc);
    free(img_fc);
    safetensors_close(st);
}

static void check_adaptor(const struct draftbed *f, const struct draftbed_case *c,
                          const char *draft)
{
    float wanted[128];
    size_t width = (size_t)f->draft->cfg.hidden;
    CHECK_INT(width, ==, 128);
    CHECK_INT(f->draft->n_image_outputs, ==, 2);
    CHECK_CLOSE(f->encoded, golden_f32(c->tensors, "draft_compressed", NULL), width, tolerance, 0);
    global_term(draft, golden_f32(c->tensors, "draft_global", NULL), (int)width, wanted);
    CHECK_CLOSE(f->encoded + width, wanted, width, tolerance, 0);
}

/* The 8 best log-probabilities of every row of the prompt are those of the golden layer outputs. */
static void check_all_rows(struct draftbed *f, const struct draftbed_case *c,
                           const struct draftbed_rows *e)
{
    struct kernels *k = &f->k;
    size_t n, width = (size_t)f->draft->cfg.hidden;
    const float *outputs = golden_f32(c->tensors, "draft_prefill_output", &n);
    size_t n_rows = n / width;
    CHECK_INT(n_rows, ==, e->n);
    const struct topk_args topk = {.w = f->lm->head,
                                   .x = kernels_upload(k, outputs, n * sizeof(float)),
                                   .ids = draftbed_ints(k, n_rows * DRAFTBED_K),
                                   .logprobs =
                                       kernels_empty(k, n_rows * DRAFTBED_K * sizeof(float)),
                                   .max = (int32_t)n_rows,
                                   .ldx = (int32_t)width,
                                   .vocab = f->draft->cfg.vocab,
                                   .k = DRAFTBED_K};
    k->ops->topk(k->stream, &topk);
    const float *wanted = kernels_download(k, topk.logprobs, n_rows * DRAFTBED_K * sizeof(float));
    const float *scores =
        kernels_download(k, f->round.beam.score, n_rows * DRAFTBED_K * sizeof(float));
    CHECK_CLOSE(scores, wanted, n_rows * DRAFTBED_K, tolerance, 0);
}

/* The k children of one node in golden data: tokens and scores. */
static double check_children(const int32_t *tokens, const float *scores, const json_t *want_tokens,
                             const json_t *want_scores)
{
    double worst = 0;
    for (size_t j = 0; j < DRAFTBED_K; j++) {
        float wanted = (float)json_number_value(json_array_get(want_scores, j));
        CHECK_INT(tokens[j], ==, item(want_tokens, j));
        CHECK_CLOSE(scores + j, &wanted, 1, tolerance, 0);
        worst = fmax(worst, fabs((double)scores[j] - (double)wanted));
    }
    return worst;
}

/* All candidates, level by level, and the beams that were fed. */
static double check_candidates(struct draftbed *f, const json_t *levels)
{
    struct kernels *k = &f->k;
    const struct beam *beam = &f->round.beam;
    const int32_t *tokens =
        kernels_download(k, beam->token, DRAFTBED_N_CANDIDATES * sizeof(int32_t));
    const float *scores = kernels_download(k, beam->score, DRAFTBED_N_CANDIDATES * sizeof(float));
    const int32_t *nodes =
        kernels_download(k, beam->node, DRAFTBED_DEPTH * DRAFTBED_K * sizeof(int32_t));
    const json_t *level = json_array_get(levels, 0);
    double worst = check_children(tokens, scores, json_object_get(level, "tokens"),
                                  json_object_get(level, "logp"));
    for (size_t row = 0; row < DRAFTBED_DEPTH * DRAFTBED_K; row++) {
        size_t b = row % DRAFTBED_K, first = DRAFTBED_K + row * DRAFTBED_K;
        level = json_array_get(levels, 1 + row / DRAFTBED_K);
        CHECK_INT(tokens[nodes[row]], ==, item(json_object_get(level, "beam_tokens"), b));
        const json_t *want_tokens = json_array_get(json_object_get(level, "child_tokens"), b);
        const json_t *want_scores = json_array_get(json_object_get(level, "child_cum_logp"), b);
        worst =
            fmax(worst, check_children(tokens + first, scores + first, want_tokens, want_scores));
    }
    return worst;
}

static void check_case(struct draftbed *f, const char *draft, const char *name, bool has_all_rows)
{
    struct draftbed_case c = draftbed_case_open(name);
    static struct draftbed_rows e;
    char tensor[64];
    size_t n, n_positions;
    f->round.beam.depth = DRAFTBED_DEPTH;
    stream_fill(f->k.stream, f->round.kv.valid, 0, DRAFTBED_N_PAGES * sizeof(uint64_t));
    draftbed_encode(f, &c);
    if (golden_has(c.tensors, "vision_features")) check_adaptor(f, &c, draft);

    draftbed_prompt(f, &c, &e);
    const int32_t *positions = golden_i32(c.tensors, "draft_prefill_positions", &n_positions);
    CHECK_INT(n_positions, ==, e.n);
    for (int i = 0; i < e.n; i++) CHECK_INT(e.pos[i][0], ==, positions[i]);
    const float *hidden = golden_f32(c.tensors, "prefill_hidden", &n);
    if (has_all_rows) {
        f->round.beam.depth = 0;
        draftbed_propose(f, &e, hidden, n, c.n, true);
        check_all_rows(f, &c, &e);
        f->round.beam.depth = DRAFTBED_DEPTH;
    }

    draftbed_propose(f, &e, hidden, n, c.n, false);
    const json_t *rounds = json_object_get(c.json, "rounds");
    double worst = 0;
    for (size_t i = 0; i < 3 && i < json_array_size(rounds); i++) {
        const json_t *round = json_array_get(rounds, i), *tree = json_object_get(round, "tree");
        CHECK_INT(f->seats[0].len, ==, draftbed_int(round, "context_tokens"));
        worst = fmax(worst, check_candidates(f, json_object_get(tree, "levels")));
        snprintf(tensor, sizeof(tensor), "round%zu_verify_hidden", i);
        if (!golden_has(c.tensors, tensor)) break;
        accepted_rows(round, &e);
        const float *verified = golden_f32(c.tensors, tensor, &n);
        draftbed_propose(f, &e, verified, n, f->seats[0].len + e.n, false);
    }
    printf("# %s: scores differ by at most %.2g\n", name, worst);
    draftbed_case_close(&c);
}

TEST(the_llava_draft_proposes_the_golden_trees)
{
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, test_path(DRAFTBED_DRAFT));
    CHECK_STR(f.draft->kind->name, "vispec");
    CHECK_INT(f.draft->image_rows, ==, IMAGE_ROWS_ADAPTOR);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_00", true);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_01", true);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_02", true);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_03", true);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_04", true);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_06", false);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_07", true);
    check_case(&f, DRAFTBED_DRAFT, "cases_llava/case_08", false);
    draftbed_close(&f);
}

TEST(the_qwen_draft_with_its_biases_proposes_the_golden_trees)
{
    struct draftbed f;
    struct lm_config cfg = qwen_config();
    const char *draft = "golden/vispec/qwen2_5_vl-tiny-vispec";
    draftbed_open(&f, "golden/vispec/qwen2_5_vl-tiny", &cfg, test_path(draft));
    check_case(&f, draft, "cases_qwen/case_01", true);
    check_case(&f, draft, "cases_qwen/case_03", true);
    draftbed_close(&f);
}

/* Attention over tokens that are all there equally often is attention over them once. */
TEST(a_picture_of_more_tokens_than_a_gemm_takes_is_compressed_as_one_of_few)
{
    enum { N_ONCE = 100, N = 15 * N_ONCE };
    _Static_assert((int)N > (int)MAX_GEMM_ROWS, "the adaptor has to cut it");
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, test_path(DRAFTBED_DRAFT));
    struct draft_limits limits = draftbed_limits;
    limits.max_image_tokens = N;
    struct draft *draft;
    struct error err;
    CHECK_INT(draft_open(&draft, f.k.dev, test_path(DRAFTBED_DRAFT), f.lm, &limits, &err), ==, 0);

    const size_t width = (size_t)cfg.hidden, n_out = 2 * width;
    float *features = kernels_random(&f.k, N * width, 5, 1);
    for (size_t i = N_ONCE * width; i < N * width; i++) features[i] = features[i - N_ONCE * width];
    const float *on_device = kernels_upload(&f.k, features, N * width * sizeof(float));
    float *vectors = kernels_empty(&f.k, 2 * n_out * sizeof(float));
    draft->kind->encode_image(draft, f.k.stream, on_device, N_ONCE, vectors);
    draft->kind->encode_image(draft, f.k.stream, on_device, N, vectors + n_out);
    const float *got = kernels_download(&f.k, vectors, 2 * n_out * sizeof(float));
    CHECK_CLOSE(got + n_out, got, n_out, tolerance, 0);

    draft_close(draft);
    limits.max_image_tokens = MAX_POOLED + 1;
    CHECK_INT(draft_open(&draft, f.k.dev, test_path(DRAFTBED_DRAFT), f.lm, &limits, &err), ==, -1);
    CHECK(strstr(err.text, "pictures may have 40001 tokens, and the draft's adaptor takes 40000"));
    draftbed_close(&f);
}
