#include "runtime/model/vision.h"

#include <assert.h>
#include <stdlib.h>

#include "runtime/mem.h"
#include "runtime/model/clip_tower.h"

struct vision {
    struct vision_config cfg;
    struct clip_tower *clip; /* CLIP */
};

int vision_n_tokens(const struct vision_config *cfg, const struct image_layout *layout)
{
    switch (cfg->kind) {
    case VISION_CLIP:
        return cfg->n_tokens;
    case VISION_ANYRES:
    case VISION_QWEN:
        break;
    }
    (void)layout;
    assert(!"a kind of tower that does not exist yet");
    return 0;
}

int vision_open(struct vision **out, struct device *dev, const struct safetensors *st,
                const struct vision_config *cfg, const struct image_layout *largest, int lm_hidden,
                struct error *err)
{
    struct vision *v = xcalloc(1, sizeof(*v));
    v->cfg = *cfg;
    (void)largest;
    if (clip_tower_open(&v->clip, dev, st, cfg, lm_hidden, err) != 0) {
        vision_close(v);
        return -1;
    }
    *out = v;
    return 0;
}

void vision_close(struct vision *v)
{
    if (!v) return;
    clip_tower_close(v->clip);
    free(v);
}

void vision_encode(struct vision *v, struct stream *s, const struct image_layout *layout,
                   const float *pixels, float *features)
{
    (void)layout;
    clip_tower_encode(v->clip, s, pixels, features);
}
