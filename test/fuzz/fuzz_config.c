/* config.json of outside bytes: refused with a line, or sizes that later products can hold. */
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>

#include "runtime/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(int condition)
{
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct model_config cfg;
    struct error err = {.text = ""};
    if (config_parse((const char *)data, len, "fuzz", &cfg, &err) != 0) {
        require(err.text[0] != 0);
        return 0;
    }
    const struct lm_config *lm = &cfg.lm;
    require(lm->hidden > 0 && lm->n_heads % lm->n_kv_heads == 0 && lm->head_dim % 2 == 0);
    require((long)(lm->n_heads + 2 * lm->n_kv_heads) * lm->head_dim <= INT_MAX);
    require(2 * (long)lm->intermediate <= INT_MAX && 3 * (long)lm->hidden <= INT_MAX);
    require(cfg.image_token < lm->vocab);
    if (cfg.has_vision) {
        const struct vision_config *v = &cfg.vision;
        require(v->hidden % v->n_heads == 0 && v->patch > 0);
        if (v->kind == VISION_QWEN) {
            require(v->merge > 0 && v->window > 0 && v->n_frames > 0);
            require((long)v->merge * v->merge * v->hidden <= INT_MAX);
        } else {
            require(v->n_used_layers >= 0 && v->n_used_layers <= v->n_layers);
            require(v->image_size % v->patch == 0 && v->n_tokens > 0);
        }
    }
    return 0;
}
