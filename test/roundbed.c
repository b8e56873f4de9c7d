#include "test/roundbed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "test/test.h"

void roundbed_open(struct roundbed *b, struct device *dev, const char *target, const char *draft,
                   const struct roundbed_limits *l)
{
    struct error err = {0};
    *b = (struct roundbed){.model.dev = dev};
    struct model *m = &b->model;
    const char *dir = test_path(target);
    char tokenizer[600];
    snprintf(tokenizer, sizeof(tokenizer), "%s/tokenizer.json", dir);
    if (tokenizer_open(&m->tokenizer, tokenizer, &err) != 0 ||
        config_load(dir, &m->cfg, &err) != 0 || safetensors_open(&m->tensors, dir, &err) != 0 ||
        lm_open(&m->lm, dev, m->tensors, &m->cfg.lm, ROUNDBED_MAX_LEN + PAGE_LEN, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    struct round_limits limits = {.max_seqs = l->max_seqs,
                                  .max_rows = l->max_rows,
                                  .max_pages = (ROUNDBED_MAX_LEN + 2 * PAGE_LEN) / PAGE_LEN,
                                  .n_image_rows = l->max_seqs * ROUNDBED_MAX_LEN,
                                  .depth = 3,
                                  .k = 8,
                                  .n_nodes = 30};
    limits.n_pages = l->max_seqs * limits.max_pages;
    const struct draft_limits draft_limits = {.max_seqs = l->max_seqs,
                                              .max_extend = l->max_rows + l->max_seqs,
                                              .k = limits.k,
                                              .n_positions = ROUNDBED_MAX_LEN + PAGE_LEN,
                                              .max_image_tokens = ROUNDBED_MAX_LEN};
    const char *draft_dir = strcmp(draft, "none") == 0 ? draft : test_path(draft);
    if (draft_open(&b->draft, dev, draft_dir, m->lm, &draft_limits, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    b->round = round_open(dev, m->lm, b->draft, &limits);
    const struct scheduler_config cfg = {.model = m,
                                         .draft = b->draft,
                                         .round = b->round,
                                         .limits = limits,
                                         .prefill_chunk = l->prefill_chunk,
                                         .draft_max_seqs = l->max_seqs,
                                         .max_in_flight = l->max_in_flight};
    b->scheduler = scheduler_new(&cfg);
}

void roundbed_close(struct roundbed *b)
{
    scheduler_free(b->scheduler);
    round_close(b->round);
    draft_close(b->draft);
    lm_close(b->model.lm);
    safetensors_close(b->model.tensors);
    tokenizer_close(b->model.tokenizer);
    device_close(b->model.dev);
}

struct prompt *roundbed_prompt(const int32_t *ids, const uint8_t *is_image, size_t n,
                               const json_t *grids)
{
    struct prompt *p = xcalloc(1, sizeof(*p));
    token_list_append(&p->tokens, ids, n);
    for (size_t t = 0; t < n; t++) {
        if (!is_image[t]) continue;
        CHECK_INT(p->n_images, <, MAX_IMAGES);
        struct prompt_image *im = &p->images[p->n_images];
        im->first = (int)t;
        while (t < n && is_image[t]) im->n++, t++;
        im->n_columns = roundbed_item(json_array_get(grids, (size_t)p->n_images), 2) / 2;
        p->n_images++;
    }
    prompt_set_rope_deltas(p);
    return p;
}

size_t roundbed_set_features(struct prompt *p, int i, const float *features, size_t width)
{
    struct prompt_image *im = &p->images[i];
    const size_t n = (size_t)im->n * width;
    im->features = xcalloc(n, sizeof(float));
    memcpy(im->features, features, n * sizeof(float));
    return n;
}

struct job *roundbed_job(struct roundbed *b, struct prompt *prompt, bool use_draft,
                         void (*on_event)(void *user, const struct gen_event *event), void *user)
{
    struct job *job = xcalloc(1, sizeof(*job));
    job->gen = (struct generation){.prompt = prompt, .on_event = on_event, .user = user};
    job->gen.sampling = (struct sampling){
        .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .use_draft = use_draft};
    output_init(&job->output, b->model.tokenizer, &job->gen);
    return job;
}

/* ---- golden cases of ViSpec -------------------------------------------------------------------
 */

const struct roundbed_family roundbed_llava = {"golden/vispec/cases_llava",
                                               "golden/vispec/llava-next-tiny",
                                               "golden/vispec/llava-next-tiny-vispec"};
const struct roundbed_family roundbed_qwen = {"golden/vispec/cases_qwen",
                                              "golden/vispec/qwen2_5_vl-tiny",
                                              "golden/vispec/qwen2_5_vl-tiny-vispec"};

static const char *case_path(const struct roundbed_family *family, int i, const char *suffix)
{
    static char path[160];
    if (i == ROUNDBED_TWO_IMAGES)
        snprintf(path, sizeof(path), "%s/two_images.%s", family->cases, suffix);
    else
        snprintf(path, sizeof(path), "%s/case_%02d.%s", family->cases, i, suffix);
    return path;
}

json_t *roundbed_case(const struct roundbed_family *family, int i)
{
    return roundbed_json(case_path(family, i, "json"));
}

static struct prompt *case_prompt(const struct golden *g, const json_t *json)
{
    size_t n, n_features, n_used = 0;
    const int32_t *ids = golden_i32(g, "input_ids", &n);
    const json_t *grids = json_object_get(json, "image_grid_thw");
    struct prompt *p = roundbed_prompt(ids, golden_u8(g, "image_mask", NULL), n, grids);
    if (grids) {
        int delta = p->n_images > 0 ? p->images[p->n_images - 1].rope_delta : 0;
        CHECK_INT(delta, ==, roundbed_field(json, "rope_delta"));
    }
    for (int i = 0; i < p->n_images; i++) {
        const float *features = golden_f32(g, "vision_features", &n_features);
        int64_t shape[8];
        golden_shape(g, "vision_features", shape);
        n_used += roundbed_set_features(p, i, features + n_used, (size_t)shape[1]);
        CHECK_INT(n_used, <=, n_features);
    }
    return p;
}

struct job *roundbed_case_job(struct roundbed *b, const struct roundbed_family *family, int i,
                              const json_t *json, bool use_draft,
                              void (*on_event)(void *user, const struct gen_event *event),
                              void *user)
{
    const int with_prompt = i == 5 ? 2 : i; /* case 5 has the prompt of case 2 */
    struct golden *g = golden_open(test_path(case_path(family, with_prompt, "safetensors")));
    struct job *job = roundbed_job(b, case_prompt(g, json), use_draft, on_event, user);
    golden_close(g);
    job->id = (uint64_t)i + 2;
    if (i == ROUNDBED_TWO_IMAGES) return job;
    job->gen.sampling.max_tokens = roundbed_field(json, "max_new_tokens");
    job->gen.sampling.n_stop_ids = 1;
    job->gen.sampling.stop_ids[0] = roundbed_field(json, "eos_token_id");
    return job;
}

/* ---- golden JSON ----------------------------------------------------------------------------- */

json_t *roundbed_json(const char *path)
{
    json_t *json = json_load_file(test_path(path), 0, NULL);
    if (!json) test_fail(__FILE__, __LINE__, "%s cannot be read", path);
    return json;
}

int roundbed_field(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) test_fail(__FILE__, __LINE__, "no integer %s", key);
    return (int)json_integer_value(value);
}

int roundbed_item(const json_t *array, size_t i)
{
    return (int)json_integer_value(json_array_get(array, i));
}
