/* The vision tower and its projector: a picture's pixels to image tokens in the vector pool.
 *
 * One picture at a time, so that an image's features never depend on its neighbours.  Engine thread
 * only, but for the first three, which any thread may call. */
#ifndef RUNTIME_MODEL_VISION_H
#define RUNTIME_MODEL_VISION_H

#include "kernels/device.h"
#include "runtime/image/preprocess.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

struct vision;

/* Tokens that a picture of this layout has in the prompt. */
int vision_n_tokens(const struct vision_config *cfg, const struct image_layout *layout);

/* Tokens of one of its rows where rotary positions have axes (M-RoPE), else 0. */
int vision_n_columns(const struct vision_config *cfg, const struct image_layout *layout);

/* What the tower reads beside the pixels: where each row of the picture goes.  The caller frees it;
 * NULL where the order is always the same. */
int32_t *vision_index_new(const struct vision_config *cfg, const struct image_layout *layout);

/* The largest picture that vision_encode will get. */
struct vision_limits {
    int n_tiles, n_tokens;
};

int vision_open(struct vision **out, struct device *dev, const struct safetensors *st,
                const struct vision_config *cfg, const struct vision_limits *limits, int lm_hidden,
                struct error *err);
void vision_close(struct vision *v); /* accepts NULL */

/* A preprocessed picture in host memory. */
struct vision_input {
    struct image_layout layout;
    float *pixels;  /* [layout.n_values], made by preprocess_picture */
    int32_t *index; /* made by vision_index_new */
};

/* Queues the whole tower: features float [vision_n_tokens][lm_hidden] (rows of the vector pool).
 * What `in` points to stays valid until the stream has run. */
void vision_encode(struct vision *v, struct stream *s, const struct vision_input *in,
                   float *features);

#endif
