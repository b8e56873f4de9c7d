#include "runtime/model/model.h"

#include "runtime/mem.h"

#include <stdio.h>
#include <stdlib.h>

/* The tokenizer's ids all have a row in the model. */
static int check_vocabulary(const struct model *m, const char *dir, struct error *err)
{
    int n_ids = tokenizer_n_ids(m->tokenizer);
    if (n_ids > m->cfg.lm.vocab)
        return error_set(
            err, ERROR_BAD_REQUEST,
            "%s/tokenizer.json: largest id is %d, but config.json has a vocabulary of %d", dir,
            n_ids - 1, m->cfg.lm.vocab);
    return 0;
}

static int open_text(struct model *m, const char *dir, const char *template_name, struct error *err)
{
    char *path = xprintf("%s/tokenizer.json", dir);
    int result = tokenizer_open(&m->tokenizer, path, err);
    free(path);
    if (result != 0) return -1;
    if (check_vocabulary(m, dir, err) != 0) return -1;
    return chat_template_choose(&m->chat_template, dir, template_name, err);
}

/* The pictures that the folder prepares are those that its tower takes. */
static int check_preprocess(const struct model *m, const char *path, struct error *err)
{
    static const enum preprocess_family families[] = {[VISION_CLIP] = PREPROCESS_CLIP,
                                                      [VISION_ANYRES] = PREPROCESS_ANYRES,
                                                      [VISION_QWEN] = PREPROCESS_QWEN};
    const struct vision_config *vision = &m->cfg.vision;
    const struct preprocess_config *pre = &m->preprocess;
    if (pre->family != families[vision->kind])
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s: image_processor_type is not that of the model's family", path);
    if (vision->kind == VISION_QWEN) {
        if (pre->patch == vision->patch && pre->merge == vision->merge) return 0;
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s: patch_size and merge_size are %d and %d, but the tower's are %d and "
                         "%d",
                         path, pre->patch, pre->merge, vision->patch, vision->merge);
    }
    if (pre->crop_size == vision->image_size) return 0;
    return error_set(err, ERROR_BAD_REQUEST,
                     "%s: crop_size is %d, but the tower's image_size is %d", path, pre->crop_size,
                     vision->image_size);
}

static int open_vision(struct model *m, const struct model_options *options, struct error *err)
{
    if (!m->cfg.has_vision) return 0;
    char *path = xprintf("%s/preprocessor_config.json", options->dir);
    int result = preprocess_config_load(&m->preprocess, path, err);
    if (result == 0) result = check_preprocess(m, path, err);
    free(path);
    if (result != 0 ||
        preprocess_limit_pixels(&m->preprocess, options->min_pixels, options->max_pixels, err) != 0)
        return -1;
    struct image_layout largest;
    preprocess_largest(&m->preprocess, &largest);
    m->max_image_tokens = vision_n_tokens(&m->cfg.vision, &largest);
    if (m->max_image_tokens > options->n_positions) m->max_image_tokens = options->n_positions;
    const struct vision_limits limits = {.n_tiles = largest.n_tiles,
                                         .n_tokens = m->max_image_tokens};
    return vision_open(&m->vision, m->dev, m->tensors, &m->cfg.vision, &limits, m->cfg.lm.hidden,
                       err);
}

/* What checkpoints carry and nobody computes: the tower's layers behind the feature layer, its last
 * norm, tables that older versions stored, the output matrix of tied embeddings. */
static const char *const ignored_tensors[] = {
    ".encoder.layers.", ".post_layernorm.", ".position_ids", ".inv_freq", "lm_head.weight", NULL};

int model_open(struct model **out, struct device *dev, const struct model_config *cfg,
               const struct model_options *options, struct error *err)
{
    struct model *m = xcalloc(1, sizeof(*m));
    const char *dir = options->dir;
    m->dev = dev;
    m->cfg = *cfg;
    if (config_load_generation(dir, &m->generation, err) != 0) goto failed;
    if (open_text(m, dir, options->chat_template, err) != 0) goto failed;
    if (safetensors_open(&m->tensors, dir, err) != 0) goto failed;
    if (lm_open(&m->lm, dev, m->tensors, &m->cfg.lm, options->n_positions, err) != 0) goto failed;
    if (open_vision(m, options, err) != 0) goto failed;
    if (safetensors_check_used(m->tensors, ignored_tensors, err) != 0) goto failed;
    *out = m;
    return 0;

failed:
    model_close(m);
    return -1;
}

void model_close(struct model *m)
{
    if (!m) return;
    vision_close(m->vision);
    lm_close(m->lm);
    safetensors_close(m->tensors);
    tokenizer_close(m->tokenizer);
    free(m);
}
