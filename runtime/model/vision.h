/* The vision tower and its projector: a picture's pixels to image tokens in the vector pool.
 *
 * CLIP (quick GELU, pre-norm, learned positions, class token), features of the configured layer,
 * then the two-layer MLP projector.  One image at a time, so that an image's features never depend
 * on its neighbours.  Engine thread only. */
#ifndef RUNTIME_MODEL_VISION_H
#define RUNTIME_MODEL_VISION_H

#include "kernels/device.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

struct vision;

int vision_open(struct vision **out, struct device *dev, const struct safetensors *st,
                const struct vision_config *cfg, int lm_hidden, struct error *err);
void vision_close(struct vision *v); /* accepts NULL */

/* Queues the whole tower: features[0 .. cfg.n_tokens) float [.][lm_hidden] (rows of the vector
 * pool). pixels: float [3][image_size][image_size] in host memory, valid until the stream has run.
 */
void vision_encode(struct vision *v, struct stream *s, const float *pixels, float *features);

#endif
