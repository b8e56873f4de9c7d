/* Draft folders: what the daemon makes of their tensors and their config.json. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/draft/vispec_impl.h"
#include "runtime/mem.h"
#include "test/draftbed.h"
#include "test/folder.h"
#include "test/test.h"

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
    snprintf(path, sizeof(path), "%s/model.safetensors", DRAFTBED_DRAFT);
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
    snprintf(path, sizeof(path), "%s/config.json", DRAFTBED_DRAFT);
    char *config = folder_read(test_path(path), &n);
    folder_write(&f, "config.json", config, n);
    free(config);
    return f;
}

/* The bits of the scores that a folder's draft gives the candidates behind a prompt. */
struct proposal {
    uint32_t scores[DRAFTBED_N_CANDIDATES];
};

static struct proposal proposed(const char *dir, const char *name)
{
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    static struct draftbed_rows e;
    struct proposal p;
    size_t n;
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, dir);
    struct draftbed_case c = draftbed_case_open(name);
    draftbed_encode(&f, &c);
    draftbed_prompt(&f, &c, &e);
    const float *hidden = golden_f32(c.tensors, "prefill_hidden", &n);
    draftbed_propose(&f, &e, hidden, n, c.n, false);
    memcpy(p.scores, kernels_download(&f.k, f.round.beam.score, sizeof(p.scores)),
           sizeof(p.scores));
    draftbed_case_close(&c);
    draftbed_close(&f);
    return p;
}

static bool same_scores(struct proposal a, struct proposal b)
{
    return memcmp(a.scores, b.scores, sizeof(a.scores)) == 0;
}

static void write_config(struct folder *f, const char *image_rows)
{
    char text[512];
    snprintf(text, sizeof(text),
             "{\"hidden_size\": 128, \"intermediate_size\": 256, \"num_attention_heads\": 4,"
             "\"vocab_size\": 640, \"rms_norm_eps\": 1e-05, \"image_rows\": \"%s\"}",
             image_rows);
    folder_write_text(f, "config.json", text);
}

TEST(eagle_2_is_vispec_with_an_img_fc_that_passes_hidden_states_on)
{
    struct folder eagle = changed_draft(NO_ADAPTOR | NO_IMG_FC);
    struct folder vispec = changed_draft(IDENTITY_IMG_FC);
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, eagle.path);
    CHECK_STR(f.draft->kind->name, "eagle2");
    CHECK_INT(f.draft->image_rows, ==, IMAGE_ROWS_ALL);
    CHECK_INT(f.draft->n_image_outputs, ==, 0);
    draftbed_close(&f);
    CHECK(same_scores(proposed(eagle.path, "cases_llava/case_00"),
                      proposed(vispec.path, "cases_llava/case_00")));
    write_config(&vispec, "all");
    CHECK(same_scores(proposed(eagle.path, "cases_llava/case_01"),
                      proposed(vispec.path, "cases_llava/case_01")));
    folder_remove(&eagle);
    folder_remove(&vispec);
}

TEST(a_draft_s_own_embeddings_count_and_equal_ones_change_nothing)
{
    struct folder without = changed_draft(NO_EMBEDDINGS), other = changed_draft(OTHER_EMBEDDINGS);
    const char *name = "cases_llava/case_01";
    CHECK(same_scores(proposed(test_path(DRAFTBED_DRAFT), name), proposed(without.path, name)));
    CHECK(!same_scores(proposed(without.path, name), proposed(other.path, name)));
    folder_remove(&without);
    folder_remove(&other);
}

TEST(a_picture_s_features_enter_a_draft_of_all_rows_as_embeddings_do)
{
    enum { N = 100 };
    struct folder folder = changed_draft(0);
    write_config(&folder, "all");
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, folder.path);
    size_t width = (size_t)cfg.hidden, n = N * width;
    CHECK_INT(draft_n_image_vectors(f.draft, N), ==, N + 2);
    float *features = kernels_host(&f.k, n * sizeof(float));
    weights_convert(features, DTYPE_F32, f.lm->embeddings, f.lm->embeddings_type, n);
    float *vectors = kernels_empty(&f.k, n * sizeof(float) + 2 * width * sizeof(float));
    f.draft->kind->encode_image(f.draft, f.k.stream, kernels_upload(&f.k, features, 4 * n), N,
                                vectors);
    CHECK_SAME_BITS(kernels_download(&f.k, vectors, 4 * n), ((struct vispec *)f.draft)->table, n);
    draftbed_close(&f);
    folder_remove(&folder);
}

TEST(the_config_may_say_which_image_rows_a_draft_keeps)
{
    static const char *const texts[] = {"adaptor", "all", "none"};
    struct folder folder = changed_draft(0);
    struct lm_config cfg = draftbed_llava_config();
    for (int i = 0; i < 3; i++) {
        write_config(&folder, texts[i]);
        struct draftbed f;
        draftbed_open(&f, DRAFTBED_TARGET, &cfg, folder.path);
        CHECK_INT(f.draft->image_rows, ==, i);
        draftbed_close(&f);
    }
    folder_remove(&folder);
}

/* The best k of the head's log-probabilities over the tokens alone, in double. */
static void check_level_0(struct draftbed *f, const int32_t *tokens, int n)
{
    const struct vispec *v = (const struct vispec *)f->draft;
    size_t vocab = (size_t)v->draft.cfg.vocab;
    float *on_device = kernels_empty(&f->k, vocab * sizeof(float));
    const struct gemm_args head = {.w = f->lm->head,
                                   .x = v->heads,
                                   .y = on_device,
                                   .max = 1,
                                   .ldx = v->draft.cfg.hidden,
                                   .ldy = v->draft.cfg.vocab,
                                   .y_is_float = true};
    f->k.ops->gemm(f->k.stream, &head);
    const float *logits = kernels_download(&f->k, on_device, vocab * sizeof(float));
    const float *scores = kernels_download(&f->k, f->round.beam.score, DRAFTBED_K * sizeof(float));
    const int32_t *ids = kernels_download(&f->k, f->round.beam.token, DRAFTBED_K * sizeof(int32_t));
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[tokens[i]]);
    for (int j = 0; j < DRAFTBED_K; j++) {
        int n_better = 0;
        for (int i = 0; i < n; i++) n_better += logits[tokens[i]] > logits[ids[j]];
        CHECK_INT(n_better, ==, j);
        float want = (float)((double)logits[ids[j]] - log(sum));
        CHECK_CLOSE(&scores[j], &want, 1, 1e-5, 0); /* a float's sum of 300 */
    }
}

TEST(a_draft_of_some_tokens_proposes_these_alone_with_their_own_normaliser)
{
    enum { N = 300 };
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    struct draft_limits limits = draftbed_limits;
    static struct draftbed_rows e;
    int32_t tokens[N];
    struct error err;
    size_t n;
    for (int i = 0; i < N; i++) tokens[i] = 2 * i + 1;
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, test_path(DRAFTBED_DRAFT));
    draft_close(f.draft);
    limits.vocab = tokens;
    limits.n_vocab = N;
    CHECK_INT(draft_open(&f.draft, f.k.dev, test_path(DRAFTBED_DRAFT), f.lm, &limits, &err), ==, 0);
    struct draftbed_case c = draftbed_case_open("cases_llava/case_01");
    draftbed_encode(&f, &c);
    draftbed_prompt(&f, &c, &e);
    const float *hidden = golden_f32(c.tensors, "prefill_hidden", &n);
    draftbed_propose(&f, &e, hidden, n, c.n, false);
    const int32_t *ids =
        kernels_download(&f.k, f.round.beam.token, DRAFTBED_N_CANDIDATES * sizeof(int32_t));
    for (int i = 0; i < DRAFTBED_N_CANDIDATES; i++) CHECK(ids[i] % 2 == 1 && ids[i] < 2 * N);
    check_level_0(&f, tokens, N);
    draftbed_case_close(&c);
    draftbed_close(&f);
}

TEST(no_draft_is_a_kind_that_needs_no_pages)
{
    struct lm_config cfg = draftbed_llava_config();
    struct draftbed f;
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, "none");
    CHECK_STR(f.draft->kind->name, "none");
    CHECK_INT(f.draft->cfg.n_layers, ==, 0);
    CHECK_INT(f.draft->n_image_outputs, ==, 0);
    CHECK_INT(f.draft->image_rows, ==, IMAGE_ROWS_NONE);
    f.draft->kind->propose(f.draft, f.k.stream, &f.round);
    draftbed_close(&f);
}

/* ---- bad input --------------------------------------------------------------------------------
 */

static void check_refused(const char *dir, const char *wanted)
{
    struct kernels k;
    struct safetensors *st;
    struct lm *lm;
    struct draft *draft = NULL;
    struct lm_config cfg = draftbed_llava_config();
    struct error err;
    kernels_open(&k);
    CHECK_INT(safetensors_open(&st, test_path(DRAFTBED_TARGET), &err), ==, 0);
    CHECK_INT(lm_open(&lm, k.dev, st, &cfg, 64, &err), ==, 0);
    CHECK_INT(draft_open(&draft, k.dev, dir, lm, &draftbed_limits, &err), ==, -1);
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

TEST(a_draft_that_proposes_more_at_once_than_its_head_takes_is_refused)
{
    struct draftbed f;
    struct lm_config cfg = draftbed_llava_config();
    draftbed_open(&f, DRAFTBED_TARGET, &cfg, test_path(DRAFTBED_DRAFT));
    static const struct {
        int max_seqs, k, vocab;
        const char *wanted;
    } cases[] = {
        {41, 32, 640,
         "--draft-max-seqs 41 times --draft-top-k 32 is 1312, more than the 1280 rows"},
        {1, 32, 31, "--draft-top-k 32 is more than the 31 tokens that the draft proposes"},
        {40, 32, 1 << 17, "too many for a draft of 131072 tokens; see --draft-vocab"},
    };
    for (int i = 0; i < 3; i++) {
        struct lm target = *f.lm;
        struct draft_limits limits = draftbed_limits;
        struct draft *draft;
        struct error err;
        target.cfg.vocab = cases[i].vocab;
        limits.max_seqs = cases[i].max_seqs;
        limits.k = cases[i].k;
        int result = draft_open(&draft, f.k.dev, test_path(DRAFTBED_DRAFT), &target, &limits, &err);
        CHECK_INT(result, ==, -1);
        if (!strstr(err.text, cases[i].wanted)) test_fail(__FILE__, __LINE__, "%s", err.text);
    }
    draftbed_close(&f);
}
