/* Random weights of a shape: the language model, and a ViSpec draft over it. */
#ifndef BENCH_GPU_WEIGHTS_H
#define BENCH_GPU_WEIGHTS_H

#include "bench/gpu/bench.h"
#include "runtime/draft/vispec_impl.h"
#include "runtime/model/lm.h"

void bench_fill_lm(struct bench *b, struct lm *lm, const struct shape *m, int n_positions);
void bench_free_lm(struct bench *b, struct lm *lm);

/* The published drafts' layer: the target's sizes, every head with keys of its own.  Embeddings,
 * norms and rotary table are borrowed from the target. */
void bench_fill_draft(struct bench *b, struct vispec *v, const struct lm *target,
                      const struct draft_limits *limits);
void bench_free_draft(struct bench *b, struct vispec *v);

/* Bytes of weights that a forward of such a draft reads at least: the layer, one matrix at its
 * input, lm_head. */
double bench_draft_bytes(const struct shape *m);

#endif
