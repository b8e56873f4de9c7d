/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011; Random123): a counter-based random generator; and
 * the noise that pick makes of its words.
 *
 * It has no state: the same counter and key always give the same four words, so the noise of a
 * token can be computed by whoever needs it, in any order (pick, in ops.h).  CPU and CUDA device
 * include this file. */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

#include "kernels/inline.h"

#include <math.h>
#include <stdint.h>

struct philox {
    uint32_t word[4];
};

BOTH_INLINE struct philox philox4x32(struct philox counter, uint64_t key)
{
    uint32_t key_0 = (uint32_t)key, key_1 = (uint32_t)(key >> 32);
    uint32_t *c = counter.word;
    for (int round = 0; round < 10; round++) {
        uint64_t product_0 = (uint64_t)0xd2511f53u * c[0];
        uint64_t product_1 = (uint64_t)0xcd9e8d57u * c[2];
        struct philox next = {{(uint32_t)(product_1 >> 32) ^ c[1] ^ key_0, (uint32_t)product_1,
                               (uint32_t)(product_0 >> 32) ^ c[3] ^ key_1, (uint32_t)product_0}};
        counter = next;
        key_0 += 0x9e3779b9u;
        key_1 += 0xbb67ae85u;
    }
    return counter;
}

/* Gumbel noise of a word. */
BOTH_INLINE float philox_gumbel(uint32_t word)
{
    float u = ((float)word + 0.5f) * 0x1p-32f;
    return -logf(-log1pf(-u));
}

#endif
