/* Kernels around what stands in ptx.cuh, and around the words of CUDA that kernels use
 * (wrappers.cu).
 *
 * Each works on numbers of its own and writes the words that came out: copies, layouts and whole
 * numbers, so every right machine writes the same ones. */
#ifndef TEST_EMU_WRAPPERS_H
#define TEST_EMU_WRAPPERS_H

#include "kernels/device.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    WRAPPERS_IN_WORDS = 4096, /* of `in`, which the test fills */
    WRAPPERS_N_VALUES = 1 << 16,
    WRAPPERS_N_CHAINED = 200,
};

/* `in` is read by the copies only.  is_f16: else bf16, where a wrapper has types. */
typedef void wrappers_call(struct stream *s, const uint32_t *in, uint32_t *out, bool is_f16);
wrappers_call wrappers_to_float;   /* [N_VALUES] every value of the type; NaN as 0 */
wrappers_call wrappers_from_float; /* [N_VALUES] floats around those that the type holds */
wrappers_call wrappers_copies;     /* [256] copy_async of 0 to 16 bytes, in two groups */
wrappers_call wrappers_bulk;       /* [4096] copy_bulk through a ring of two places */
wrappers_call wrappers_matrices;   /* [256] load_matrices, and transposed */
wrappers_call wrappers_products;   /* [256] multiply_add, twice */
wrappers_call wrappers_tiles_64;   /* [8192] tiles_multiply without and with add */
wrappers_call wrappers_tiles_128;  /* [16384] */
wrappers_call wrappers_warps;      /* [1024] shuffles, votes and bits */
wrappers_call wrappers_atomics;    /* [16] */
wrappers_call wrappers_chain;      /* [128] N_CHAINED kernels, each after the one before */

/* y[i] = exp2_fast(x[i]), n of them. */
void wrappers_exp2(struct stream *s, const float *x, float *y, int n);
/* Two readings of the clock. */
void wrappers_clock(struct stream *s, uint64_t *out);

#endif
