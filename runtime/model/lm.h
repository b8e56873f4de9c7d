/* The language model: weights on the device, and a forward pass over rows.
 *
 * One pass serves everything: prompt chunks, single decode rows and trees are rows of one batch
 * (kernels/sequence.h).  Engine thread only. */
#ifndef RUNTIME_MODEL_LM_H
#define RUNTIME_MODEL_LM_H

#include "kernels/device.h"
#include "kernels/ops.h"
#include "runtime/model/config.h"
#include "runtime/model/weights.h"

/* One decoder layer.  Also the draft's only layer (then input_norm is NULL: no norm before
 * attention; and qkv has no pairs, since draft_attention rotates). */
struct decoder_layer {
    struct packed *qkv;     /* [(n_heads + 2 n_kv_heads) head_dim][hidden]; pairs of each head */
    float *qkv_bias;        /* [(n_heads + 2 n_kv_heads) head_dim] or NULL */
    struct packed *o;       /* [hidden][n_heads head_dim] */
    struct packed *gate_up; /* [2 intermediate][hidden], gate first; pairs of both */
    struct packed *down;    /* [hidden][intermediate] */
    float *input_norm, *post_norm; /* [hidden] */
};

struct lm {
    struct lm_config cfg;
    struct device *dev; /* borrowed */
    void *embeddings;   /* [vocab][hidden] in the checkpoint's type, device memory */
    enum dtype embeddings_type;
    struct packed *head;              /* lm_head, [vocab][hidden] */
    const struct tensor *head_tensor; /* the same as in the file; borrowed from it */
    float *final_norm;                /* [hidden] */
    struct decoder_layer *layers;
    struct rope rope; /* table [n_positions][head_dim/2][2] in device memory */
};

/* Intermediate rows of a pass; a pass of n rows touches the first n only. */
struct lm_scratch {
    int max_rows;
    void *x;       /* act [max_rows][hidden] residual stream */
    void *normed;  /* act [max_rows][hidden] */
    void *q;       /* act [max_rows][n_heads head_dim]; the draft's: q, k and v heads */
    void *mixed;   /* act [max_rows][n_heads head_dim] attention output */
    void *product; /* act [max_rows][intermediate] */
};

/* Reads the tensors of the language model by any of the published names (models.md e:
 * language_model.model.*, model.language_model.*, model.*; lm_head or tied) and packs them.
 * n_positions rows of the rotary table are made: the longest position that a row can have, plus
 * one. */
int lm_open(struct lm **out, struct device *dev, const struct safetensors *st,
            const struct lm_config *cfg, int n_positions, struct error *err);
void lm_close(struct lm *lm); /* accepts NULL */

void lm_scratch_init(struct lm_scratch *scratch, struct device *dev, const struct lm_config *cfg,
                     bool is_draft, int max_rows);
void lm_scratch_done(struct lm_scratch *scratch, struct device *dev);

/* Queues the pass over rows: embeddings (or vectors of `pool`), all layers, final norm; `hidden`
 * act [rows.max][hidden] gets the result, keys and values go to kv. */
void lm_forward(const struct lm *lm, struct stream *s, const struct lm_scratch *scratch,
                const struct rows *rows, const float *pool, const struct kv_pool *kv, void *hidden);

/* Packs n rows of lm_head, while the tensors given to lm_open are open.  Freed with
 * ops->packed_free. */
struct packed *lm_pack_head_rows(const struct lm *lm, const int32_t *ids, int n);

/* Reads one decoder layer whose tensors are named prefix + "self_attn.q_proj.weight" and so on. */
int decoder_layer_load(struct decoder_layer *layer, const struct weights *w, bool is_draft,
                       const struct lm_config *cfg, struct error *err);
void decoder_layer_done(struct decoder_layer *layer, struct device *dev);

/* What comes behind a layer's attention, for n rows: scratch->x += o(scratch->mixed), then x +=
 * MLP(norm(x)). */
struct layer_args {
    const struct decoder_layer *layer;
    const struct lm_config *cfg;
    const struct lm_scratch *scratch;
    const struct ops *ops;
    const int32_t *n;
    int max;
};
void decoder_layer_finish(const struct layer_args *a, struct stream *s);

/* The rotary table of theta for n_positions, in device memory; freed by the caller.  With n_axes >
 * 1 (vision towers) the head_dim / 2 pairs fall into as many runs of the same frequencies. */
float *rope_table_new(struct device *dev, double theta, int head_dim, int n_axes, int n_positions);

#endif
