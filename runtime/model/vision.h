/* The vision tower and its projector: a picture's pixels to image tokens in the vector pool.
 *
 * One picture at a time, so that an image's features never depend on its neighbours.  Engine thread
 * only, but for vision_n_tokens. */
#ifndef RUNTIME_MODEL_VISION_H
#define RUNTIME_MODEL_VISION_H

#include "kernels/device.h"
#include "runtime/image/preprocess.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

struct vision;

/* Tokens that a picture of this layout has in the prompt.  Any thread. */
int vision_n_tokens(const struct vision_config *cfg, const struct image_layout *layout);

/* largest: the layout with most pixel values and most tokens that vision_encode will get. */
int vision_open(struct vision **out, struct device *dev, const struct safetensors *st,
                const struct vision_config *cfg, const struct image_layout *largest, int lm_hidden,
                struct error *err);
void vision_close(struct vision *v); /* accepts NULL */

/* Queues the whole tower: features float [vision_n_tokens][lm_hidden] (rows of the vector pool).
 * pixels: float [layout->n_values], what preprocess_picture made, in host memory, valid until the
 * stream has run. */
void vision_encode(struct vision *v, struct stream *s, const struct image_layout *layout,
                   const float *pixels, float *features);

#endif
