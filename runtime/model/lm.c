#include "runtime/model/lm.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"

/* ---- one layer ------------------------------------------------------------------------------ */

int decoder_layer_load(struct decoder_layer *layer, const struct weights *w, bool is_draft,
                       const struct lm_config *cfg, struct error *err)
{
    int q = cfg->n_heads * cfg->head_dim, kv = cfg->n_kv_heads * cfg->head_dim;
    int hidden = cfg->hidden, wide = cfg->intermediate, pair = is_draft ? 0 : cfg->head_dim / 2;
    const struct weights_part qkv[] = {{"self_attn.q_proj.weight", q},
                                       {"self_attn.k_proj.weight", kv},
                                       {"self_attn.v_proj.weight", kv}};
    const struct weights_part bias[] = {
        {"self_attn.q_proj.bias", q}, {"self_attn.k_proj.bias", kv}, {"self_attn.v_proj.bias", kv}};
    const struct weights_part o = {"self_attn.o_proj.weight", hidden};
    const struct weights_part gate_up[] = {{"mlp.gate_proj.weight", wide},
                                           {"mlp.up_proj.weight", wide}};
    const struct weights_part down = {"mlp.down_proj.weight", hidden};
    const struct weights_part input_norm = {"input_layernorm.weight", hidden};
    const struct weights_part post_norm = {"post_attention_layernorm.weight", hidden};
    if (weights_packed(&layer->qkv, w, qkv, 3, hidden, pair, err) != 0 ||
        (cfg->qkv_bias && weights_vector(&layer->qkv_bias, w, bias, 3, err) != 0) ||
        weights_packed(&layer->o, w, &o, 1, q, 0, err) != 0 ||
        weights_packed(&layer->gate_up, w, gate_up, 2, hidden, wide, err) != 0 ||
        weights_packed(&layer->down, w, &down, 1, wide, 0, err) != 0 ||
        (!is_draft && weights_vector(&layer->input_norm, w, &input_norm, 1, err) != 0) ||
        weights_vector(&layer->post_norm, w, &post_norm, 1, err) != 0)
        return -1;
    return 0;
}

void decoder_layer_done(struct decoder_layer *layer, struct device *dev)
{
    const struct ops *ops = device_ops(dev);
    ops->packed_free(dev, layer->qkv);
    ops->packed_free(dev, layer->o);
    ops->packed_free(dev, layer->gate_up);
    ops->packed_free(dev, layer->down);
    device_free(dev, layer->qkv_bias);
    device_free(dev, layer->input_norm);
    device_free(dev, layer->post_norm);
    memset(layer, 0, sizeof(*layer));
}

float *rope_table_new(struct device *dev, double theta, int head_dim, int n_axes, int n_positions)
{
    /* Step by step in float, as the models were trained: at large positions the rounding of the
     * angle shows. */
    int half = head_dim / 2, n_pairs = half / n_axes;
    size_t n = (size_t)n_positions * (size_t)half * 2;
    float *table = xcalloc(n, sizeof(float));
    for (int i = 0; i < half; i++) {
        float exponent = (float)(i % n_pairs) / (float)n_pairs;
        float frequency = 1.0F / powf((float)theta, exponent);
        for (int p = 0; p < n_positions; p++) {
            float angle = (float)p * frequency;
            float *pair = table + ((size_t)p * (size_t)half + (size_t)i) * 2;
            pair[0] = (float)cos((double)angle);
            pair[1] = (float)sin((double)angle);
        }
    }
    float *on_device = weights_upload(dev, table, n * sizeof(float), "rotary table");
    free(table);
    return on_device;
}

/* ---- loading ----------------------------------------------------------------------------------
 */

/* Published names of the same tensors, newest first where they differ by age only. */
static const char *const body_prefixes[] = {"model.language_model.", "language_model.model.",
                                            "model."};
static const char *const head_prefixes[] = {"lm_head.", "language_model.lm_head.",
                                            "model.lm_head."};

/* The first prefix under which one of the tensors stands; if there is none, the last, whose
 * missing tensor is then reported. */
static const char *find_prefix(const struct safetensors *st, struct device *dev,
                               const char *const *prefixes, int n_prefixes,
                               const char *const names[2])
{
    for (int i = 0; i < n_prefixes; i++) {
        struct weights w = {dev, st, prefixes[i]};
        if (weights_has(&w, names[0]) || weights_has(&w, names[1])) return prefixes[i];
    }
    return prefixes[n_prefixes - 1];
}

static int load_layers(struct lm *lm, struct weights *body, struct error *err)
{
    const char *prefix = body->prefix;
    for (int i = 0; i < lm->cfg.n_layers; i++) {
        char *layer_prefix = xprintf("%slayers.%d.", prefix, i);
        struct weights w = {body->dev, body->st, layer_prefix};
        int result = decoder_layer_load(&lm->layers[i], &w, false, &lm->cfg, err);
        free(layer_prefix);
        if (result != 0) return -1;
    }
    return 0;
}

static int load_ends(struct lm *lm, const struct weights *body, struct error *err)
{
    const int64_t shape[2] = {lm->cfg.vocab, lm->cfg.hidden};
    const struct weights_part norm = {"norm.weight", lm->cfg.hidden};
    static const char *const head_names[2] = {"weight", "weight"};
    if (weights_raw(&lm->embeddings, &lm->embeddings_type, body, "embed_tokens.weight", shape, 2,
                    err) != 0 ||
        weights_vector(&lm->final_norm, body, &norm, 1, err) != 0)
        return -1;
    struct weights head = *body;
    struct weights_part weight = {"embed_tokens.weight", lm->cfg.vocab};
    if (!lm->cfg.tie_embeddings) {
        head.prefix = find_prefix(body->st, lm->dev, head_prefixes, 3, head_names);
        weight.name = "weight";
        if (!weights_has(&head, weight.name)) head.prefix = head_prefixes[0];
    }
    char text[WEIGHTS_NAME_SIZE];
    lm->head_tensor = safetensors_find(head.st, weights_name(text, head.prefix, weight.name));
    return weights_packed(&lm->head, &head, &weight, 1, lm->cfg.hidden, 0, err);
}

struct packed *lm_pack_head_rows(const struct lm *lm, const int32_t *ids, int n)
{
    const struct tensor *t = lm->head_tensor;
    size_t row = (size_t)lm->cfg.hidden * dtype_size(t->dtype);
    char *rows = xcalloc((size_t)n, row);
    for (size_t i = 0; i < (size_t)n; i++)
        memcpy(rows + i * row, (const char *)t->data + (size_t)ids[i] * row, row);
    struct packed *w = device_ops(lm->dev)->pack(lm->dev, rows, t->dtype, n, lm->cfg.hidden, 0);
    free(rows);
    return w;
}

int lm_open(struct lm **out, struct device *dev, const struct safetensors *st,
            const struct lm_config *cfg, int n_positions, struct error *err)
{
    assert(n_positions > 0);
    static const char *const names[2] = {"embed_tokens.weight", "layers.0.mlp.down_proj.weight"};
    struct weights body = {dev, st, find_prefix(st, dev, body_prefixes, 3, names)};
    struct lm *lm = xcalloc(1, sizeof(*lm));
    lm->cfg = *cfg;
    lm->dev = dev;
    lm->layers = xcalloc((size_t)cfg->n_layers, sizeof(*lm->layers));
    if (load_ends(lm, &body, err) != 0 || load_layers(lm, &body, err) != 0) {
        lm_close(lm);
        return -1;
    }
    lm->rope.table = rope_table_new(dev, cfg->rope_theta, cfg->head_dim, 1, n_positions);
    lm->rope.n_pos = n_positions;
    memcpy(lm->rope.section, cfg->rope_section, sizeof(lm->rope.section));
    *out = lm;
    return 0;
}

void lm_close(struct lm *lm)
{
    if (!lm) return;
    for (int i = 0; i < lm->cfg.n_layers; i++) decoder_layer_done(&lm->layers[i], lm->dev);
    device_free(lm->dev, lm->embeddings);
    device_ops(lm->dev)->packed_free(lm->dev, lm->head);
    device_free(lm->dev, lm->final_norm);
    device_free(lm->dev, (void *)lm->rope.table);
    free(lm->layers);
    free(lm);
}
