/* CLIP and the two-layer projector of LLaVA: one square of pixels to image tokens.
 *
 * Quick GELU, pre-norm, learned positions, class token; features of the configured layer.  Engine
 * thread only. */
#ifndef RUNTIME_MODEL_CLIP_TOWER_H
#define RUNTIME_MODEL_CLIP_TOWER_H

#include "kernels/device.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

struct clip_tower;

int clip_tower_open(struct clip_tower **out, struct device *dev, const struct safetensors *st,
                    const struct vision_config *cfg, int lm_hidden, struct error *err);
void clip_tower_close(struct clip_tower *v); /* accepts NULL */

/* Queues tower and projector: rows act [cfg.n_tokens][lm_hidden] in device memory.  pixels: float
 * [3][image_size][image_size] in host memory, valid until the stream has run. */
void clip_tower_encode(struct clip_tower *v, struct stream *s, const float *pixels, void *rows);

#endif
