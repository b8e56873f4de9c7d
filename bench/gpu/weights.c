#include "bench/gpu/weights.h"

/* A matrix of random numbers, another part of them for each `seed`; in pairs where pair > 0. */
static struct packed *matrix(struct bench *b, int n_out, int n_in, int pair, int seed)
{
    return b->ops->pack(b->dev, b->random + seed * 64 % 4096, b->ops->act, n_out, n_in, pair);
}

static struct decoder_layer layer_of(struct bench *b, const struct lm_config *cfg, bool is_draft,
                                     int seed)
{
    const int mixed = cfg->n_heads * cfg->head_dim, kv = cfg->n_kv_heads * cfg->head_dim;
    return (struct decoder_layer){
        .qkv = matrix(b, mixed + 2 * kv, cfg->hidden, is_draft ? 0 : cfg->head_dim / 2, seed),
        .o = matrix(b, cfg->hidden, mixed, 0, seed + 1),
        .gate_up = matrix(b, 2 * cfg->intermediate, cfg->hidden, cfg->intermediate, seed + 2),
        .down = matrix(b, cfg->hidden, cfg->intermediate, 0, seed + 3),
    };
}

static void free_layer(struct bench *b, struct decoder_layer *layer)
{
    b->ops->packed_free(b->dev, layer->qkv);
    b->ops->packed_free(b->dev, layer->o);
    b->ops->packed_free(b->dev, layer->gate_up);
    b->ops->packed_free(b->dev, layer->down);
}

void bench_fill_lm(struct bench *b, struct lm *lm, const struct shape *m, int n_positions)
{
    *lm = (struct lm){.cfg = {.hidden = m->hidden,
                              .intermediate = m->intermediate,
                              .n_layers = m->n_layers,
                              .n_heads = m->n_heads,
                              .n_kv_heads = m->n_kv_heads,
                              .head_dim = m->head_dim,
                              .vocab = m->vocab,
                              .max_positions = n_positions,
                              .rms_eps = 1e-6F},
                      .dev = b->dev};
    lm->embeddings_type = b->ops->act;
    lm->embeddings = bench_random(b, (size_t)m->vocab * (size_t)m->hidden * 2);
    lm->head = matrix(b, m->vocab, m->hidden, 0, 1);
    lm->final_norm = bench_random(b, (size_t)m->hidden * sizeof(float));
    lm->rope.n_pos = n_positions;
    lm->rope.table = bench_random(b, (size_t)n_positions * (size_t)m->head_dim * sizeof(float));
    lm->rope.section[0] = m->head_dim / 2;
    lm->layers = calloc((size_t)m->n_layers, sizeof(*lm->layers));
    for (int i = 0; i < m->n_layers; i++) {
        lm->layers[i] = layer_of(b, &lm->cfg, false, 4 * i);
        lm->layers[i].input_norm = lm->layers[i].post_norm = lm->final_norm;
    }
}

void bench_free_lm(struct bench *b, struct lm *lm)
{
    for (int i = 0; i < lm->cfg.n_layers; i++) free_layer(b, &lm->layers[i]);
    b->ops->packed_free(b->dev, lm->head);
    device_free(b->dev, lm->embeddings);
    device_free(b->dev, lm->final_norm);
    device_free(b->dev, (void *)lm->rope.table);
    free(lm->layers);
}

void bench_fill_draft(struct bench *b, struct vispec *v, const struct lm *target,
                      const struct draft_limits *limits)
{
    static const struct draft_kind kind = {.name = "vispec", .propose = vispec_propose};
    *v = (struct vispec){.draft = {.kind = &kind, .cfg = target->cfg},
                         .dev = b->dev,
                         .ops = b->ops,
                         .target = target,
                         .limits = *limits,
                         .table = target->embeddings,
                         .head = target->head,
                         .n_vocab = target->cfg.vocab,
                         .rope = target->rope};
    struct lm_config *cfg = &v->draft.cfg;
    cfg->n_layers = 1;
    cfg->n_kv_heads = cfg->n_heads;
    v->h_weights = matrix(b, cfg->hidden, cfg->hidden, 0, 1);
    v->layer = layer_of(b, cfg, true, 3);
    v->layer.post_norm = target->final_norm;
    vispec_take_buffers(v);
}

void bench_free_draft(struct bench *b, struct vispec *v)
{
    b->ops->packed_free(b->dev, v->h_weights);
    free_layer(b, &v->layer);
    vispec_free_buffers(v);
}

double bench_draft_bytes(const struct shape *m)
{
    const double hidden = m->hidden, mixed = (double)m->n_heads * m->head_dim;
    return 2 * hidden * (4 * mixed + 3.0 * m->intermediate + hidden + m->vocab);
}
