/* LLaVA-1.6's way with a picture: CLIP on the squeezed whole and on each tile, then the features
 * put together again.
 *
 *   [ the whole, g x g ][ row 0 of all tiles ][newline][ row 1 ][newline] ...        g = tokens a
 * side
 *
 * The tiles' features lie side by side as the tiles do; what is only padding is cut off before.
 * Engine thread only, but for the first two. */
#ifndef RUNTIME_MODEL_ANYRES_TOWER_H
#define RUNTIME_MODEL_ANYRES_TOWER_H

#include "kernels/device.h"
#include "runtime/image/preprocess.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

int anyres_n_tokens(const struct vision_config *cfg, const struct image_layout *layout);

/* For each token the row that it comes from: 0 the newline, 1 + t * g * g + i feature i of pass t.
 * The caller frees it. */
int32_t *anyres_index_new(const struct vision_config *cfg, const struct image_layout *layout);

struct anyres_tower;

/* At most n_tiles passes a picture, the whole included, and n_tokens tokens. */
int anyres_tower_open(struct anyres_tower **out, struct device *dev, const struct safetensors *st,
                      const struct vision_config *cfg, int n_tiles, int n_tokens, int lm_hidden,
                      struct error *err);
void anyres_tower_close(struct anyres_tower *v); /* accepts NULL */

/* Queues rows act [n_tokens][lm_hidden]; pixels and index stay valid until the stream has run. */
void anyres_tower_encode(struct anyres_tower *v, struct stream *s,
                         const struct image_layout *layout, const float *pixels,
                         const int32_t *index, void *rows);

#endif
