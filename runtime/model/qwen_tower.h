/* Qwen2.5-VL's vision tower: patches of any grid to image tokens.
 *
 *   patch embedding -> layers (RMSNorm, attention with 2-D RoPE, gated MLP) -> merger: each 2 x 2
 *   patches become a token
 *
 * Most layers attend inside windows of `window` x `window` tokens, some to the whole picture.  All
 * rows lie in window order while they are in the tower.  Engine thread only, but for the first two.
 */
#ifndef RUNTIME_MODEL_QWEN_TOWER_H
#define RUNTIME_MODEL_QWEN_TOWER_H

#include "kernels/device.h"
#include "runtime/image/preprocess.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

int qwen_n_tokens(const struct vision_config *cfg, const struct image_layout *layout);

/* Window order, positions and windows of a grid; the caller frees it. */
int32_t *qwen_index_new(const struct vision_config *cfg, const struct image_layout *layout);

struct qwen_tower;

int qwen_tower_open(struct qwen_tower **out, struct device *dev, const struct safetensors *st,
                    const struct vision_config *cfg, int max_tokens, int lm_hidden,
                    struct error *err);
void qwen_tower_close(struct qwen_tower *v); /* accepts NULL */

/* Queues rows act [n_tokens][lm_hidden] in the picture's order; pixels float [patches][3 p p] and
 * index stay valid until the stream has run. */
void qwen_tower_encode(struct qwen_tower *v, struct stream *s, const struct image_layout *layout,
                       const float *pixels, const int32_t *index, void *rows);

#endif
