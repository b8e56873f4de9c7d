/* A model folder, opened: everything that is the same for all requests.
 *
 * The text and image parts are immutable and used by any thread; lm and vision belong to the
 * engine's thread. */
#ifndef RUNTIME_MODEL_MODEL_H
#define RUNTIME_MODEL_MODEL_H

#include "runtime/image/preprocess.h"
#include "runtime/model/lm.h"
#include "runtime/model/vision.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

struct model {
    struct device *dev; /* borrowed */
    struct model_config cfg;
    struct generation_config generation;
    struct safetensors *tensors; /* mapped while the model is open */
    struct lm *lm;
    struct vision *vision; /* NULL without a tower */
    struct tokenizer *tokenizer;
    const struct chat_template *chat_template; /* built in */
    struct preprocess_config preprocess;       /* if vision */
    int max_image_tokens; /* of one picture that fits the context; 0 without a tower */
};

struct model_options {
    const char *dir;
    const char *chat_template;  /* a built-in one's name; NULL: the folder's must be a known one */
    int n_positions;            /* that can occur, trees included, as for lm_open */
    int min_pixels, max_pixels; /* of a picture, for preprocess_limit_pixels */
};

/* cfg: the folder's, by config_load. */
int model_open(struct model **out, struct device *dev, const struct model_config *cfg,
               const struct model_options *options, struct error *err);
void model_close(struct model *m); /* accepts NULL */

#endif
