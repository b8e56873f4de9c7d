/* Softmax attention of one query over any list of keys: the inner part of all attentions.
 *
 * The list is taken in tiles of ATTEND_TILE keys, in its order.  What is computed depends on the
 * list's length and content only, not on where its keys lie in memory; so the same context gives
 * the same bits whether a token was decoded alone, in a prompt's chunk or as a node of a tree. */
#ifndef KERNELS_CPU_ATTEND_H
#define KERNELS_CPU_ATTEND_H

#include "kernels/cpu/rope.h"
#include "kernels/cpu/vector.h"

enum { ATTEND_TILE = 64 };

/* One query on its way through the tiles. */
struct attend {
    int head_dim;          /* multiple of VEC, at most MAX_HEAD_DIM */
    float max;             /* largest score so far */
    vec sum;               /* of e^(score - max), eight partial sums */
    float q[MAX_HEAD_DIM]; /* divided by sqrt(head_dim) */
    float o[MAX_HEAD_DIM];
};

void attend_begin(struct attend *a, const float *q, int head_dim);

/* The next n <= ATTEND_TILE keys, k + offset[i], and values, v + offset[i].  All tiles but the last
 * are full.  offset has room for ATTEND_TILE entries; those behind n are overwritten. */
void attend_tile(struct attend *a, const float *k, const float *v, size_t *offset, int n);

/* out[head_dim]; zeros if there was no key. */
void attend_end(const struct attend *a, float *out);

#endif
