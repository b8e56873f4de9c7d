/* Attention of rows over the slots that they see; attention and draft_attention. */
#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/ops.h"

/* out[r] for the first n rows, whose q lie ldq elements apart; else as in struct attention_args. */
void attention_rows(const struct attention_args *a, int n, size_t ldq);

#endif
