/* Picks that accept a prescribed share of what a draft proposes: where no trained draft is, its
 * speed still depends on how far walks go. */
#ifndef BENCH_GPU_PRESCRIBE_H
#define BENCH_GPU_PRESCRIBE_H

#include "kernels/ops.h"

/* Queued behind ops->pick, whose picks it replaces: where a row's node has children, the first
 * child's token with probability *rate (device memory); else a token that no child carries.  A hash
 * of round, seat and node decides. */
void bench_prescribe(struct stream *s, const struct pick_args *a, const float *rate);

#endif
