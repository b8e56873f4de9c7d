#include "test/roundbed.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/mem.h"
#include "test/test.h"

const struct roundbed_family roundbed_llava = {"cases_llava", "llava-next-tiny",
                                               "llava-next-tiny-vispec"};
const struct roundbed_family roundbed_qwen = {"cases_qwen", "qwen2_5_vl-tiny",
                                              "qwen2_5_vl-tiny-vispec"};

static const char *folder_path(const char *folder)
{
    char name[160];
    snprintf(name, sizeof(name), "golden/vispec/%s", folder);
    return test_path(name);
}

const char *roundbed_path(const struct roundbed_family *family, const char *file)
{
    char name[128];
    snprintf(name, sizeof(name), "%s/%s", family->cases, file);
    return folder_path(name);
}

json_t *roundbed_json(const struct roundbed_family *family, const char *file)
{
    json_t *json = json_load_file(roundbed_path(family, file), 0, NULL);
    CHECK(json);
    return json;
}

void roundbed_open(struct roundbed *b, const struct roundbed_family *family, int max_seqs,
                   int max_rows, int prefill_chunk, int max_in_flight)
{
    struct error err = {0};
    *b = (struct roundbed){.family = family};
    struct model *m = &b->model;
    m->dev = kernels_device(1);
    const char *dir = folder_path(family->target);
    char tokenizer[512];
    snprintf(tokenizer, sizeof(tokenizer), "%s/tokenizer.json", dir);
    if (tokenizer_open(&m->tokenizer, tokenizer, &err) != 0 ||
        config_load(dir, &m->cfg, &err) != 0 || safetensors_open(&m->tensors, dir, &err) != 0 ||
        lm_open(&m->lm, m->dev, m->tensors, &m->cfg.lm, ROUNDBED_MAX_LEN + PAGE_LEN, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    struct round_limits limits = {.max_seqs = max_seqs,
                                  .max_rows = max_rows,
                                  .max_pages = (ROUNDBED_MAX_LEN + 2 * PAGE_LEN) / PAGE_LEN,
                                  .n_image_rows = max_seqs * ROUNDBED_MAX_LEN,
                                  .depth = 3,
                                  .k = 8,
                                  .n_nodes = 30};
    limits.n_pages = max_seqs * limits.max_pages;
    const struct draft_limits draft_limits = {.max_seqs = max_seqs,
                                              .max_extend = max_rows + max_seqs,
                                              .k = limits.k,
                                              .n_positions = ROUNDBED_MAX_LEN + PAGE_LEN,
                                              .max_image_tokens = ROUNDBED_MAX_LEN};
    if (draft_open(&b->draft, m->dev, folder_path(family->draft), m->lm, &draft_limits, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    b->round = round_open(m->dev, m->lm, b->draft, &limits);
    const struct scheduler_config cfg = {.model = m,
                                         .draft = b->draft,
                                         .round = b->round,
                                         .limits = limits,
                                         .prefill_chunk = prefill_chunk,
                                         .draft_max_seqs = max_seqs,
                                         .max_in_flight = max_in_flight};
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

int roundbed_int(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) test_fail(__FILE__, __LINE__, "no integer %s", key);
    return (int)json_integer_value(value);
}

int roundbed_item(const json_t *array, size_t i)
{
    return (int)json_integer_value(json_array_get(array, i));
}

/* The prompt of a case; each run of image tokens is one picture with the stored features. */
static struct prompt *golden_prompt(const struct golden *g, const json_t *json)
{
    struct prompt *p = xcalloc(1, sizeof(*p));
    size_t n, n_features, n_used = 0;
    const int32_t *ids = golden_i32(g, "input_ids", &n);
    token_list_append(&p->tokens, ids, n);
    const uint8_t *mask = golden_u8(g, "image_mask", NULL);
    const json_t *grids =
        json_object_get(json, "image_grid_thw"); /* Qwen: before the 2 x 2 merge */
    for (size_t t = 0; t < n; t++) {
        if (!mask[t]) continue;
        struct prompt_image *im = &p->images[p->n_images];
        im->first = (int)t;
        while (t < n && mask[t]) im->n++, t++;
        im->n_columns = roundbed_item(json_array_get(grids, (size_t)p->n_images), 2) / 2;
        p->n_images++;
    }
    prompt_set_rope_deltas(p);
    if (grids) {
        int delta = p->n_images > 0 ? p->images[p->n_images - 1].rope_delta : 0;
        CHECK_INT(delta, ==, roundbed_int(json, "rope_delta"));
    }
    for (int i = 0; i < p->n_images; i++) {
        const float *features = golden_f32(g, "vision_features", &n_features);
        int64_t shape[8];
        golden_shape(g, "vision_features", shape);
        size_t len = (size_t)p->images[i].n * (size_t)shape[1];
        p->images[i].features = xcalloc(len, sizeof(float));
        CHECK_INT(n_used + len, <=, n_features);
        memcpy(p->images[i].features, features + n_used, len * sizeof(float));
        n_used += len;
    }
    return p;
}

struct job *roundbed_job(struct roundbed *b, const json_t *json, const char *prompt_file,
                         bool use_draft, roundbed_events *on_event, void *user)
{
    struct golden *g = golden_open(roundbed_path(b->family, prompt_file));
    struct job *job = xcalloc(1, sizeof(*job));
    job->gen =
        (struct generation){.prompt = golden_prompt(g, json), .on_event = on_event, .user = user};
    job->gen.sampling = (struct sampling){
        .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .use_draft = use_draft};
    output_init(&job->output, b->model.tokenizer, &job->gen);
    golden_close(g);
    return job;
}

struct job *roundbed_case(struct roundbed *b, int i, bool use_draft, roundbed_events *on_event,
                          void *user, json_t **json)
{
    char name[64];
    snprintf(name, sizeof(name), "case_%02d.json", i);
    *json = roundbed_json(b->family, name);
    /* Case 5 has the prompt of case 2. */
    snprintf(name, sizeof(name), "case_%02d.safetensors", i == 5 ? 2 : i);
    struct job *job = roundbed_job(b, *json, name, use_draft, on_event, user);
    job->id = (uint64_t)i + 1;
    job->gen.sampling.max_tokens = roundbed_int(*json, "max_new_tokens");
    job->gen.sampling.n_stop_ids = 1;
    job->gen.sampling.stop_ids[0] = roundbed_int(*json, "eos_token_id");
    return job;
}
