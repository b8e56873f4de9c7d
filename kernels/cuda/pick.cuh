/* The best of a few tokens, with noise or without: what head and pick share (ops.h, pick).
 *
 * A NaN is a token of id -1 that ranks before all others.  The noise differs from the CPU's in the
 * last bits, as logf does. */
#ifndef KERNELS_CUDA_PICK_CUH
#define KERNELS_CUDA_PICK_CUH

#include "kernels/asked.h"
#include "kernels/cuda/scan.cuh"
#include "kernels/philox.h"

constexpr int N_WORDS = 4; /* tokens of a Philox counter: first .. first + 3, first % 4 == 0 */

/* A row whose token is to be picked. */
struct pick_row {
    uint64_t seed;
    uint32_t position, choice; /* the row's place in the noise */
    float temperature;
    struct asked asked;
};

__device__ __forceinline__ struct pick_row pick_row_of(const struct round_state *st,
                                                       const struct out_rows *out,
                                                       const struct tree *tree, int i)
{
    const size_t i_seat = out->seat[i], node = i_seat * MAX_NODES + out->node[i];
    const struct seat *seat = &st->seats[i_seat];
    const struct sampling *s = &seat->sampling;
    const int depth = tree->depth[node];
    return {s->seed, (uint32_t)(tree->old_len[i_seat] + depth + 1), s->choice, s->temperature,
            asked_of(seat, depth, st->vocab)};
}

/* The better of `best` and the tokens first .. first + N_WORDS - 1; those of -inf are none. */
__device__ __forceinline__ struct scored pick_words(struct scored best, float (&score)[N_WORDS],
                                                    int first, const struct pick_row *row)
{
    const float largest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
    if (row->temperature > 0 && largest > -INFINITY) {
        const struct philox counter = {{(uint32_t)first / N_WORDS, row->position, row->choice, 0}};
        const struct philox words = philox4x32(counter, row->seed);
        for (int j = 0; j < N_WORDS; j++)
            if (score[j] > -INFINITY) score[j] += philox_gumbel(words.word[j]);
    }
    for (int j = 0; j < N_WORDS; j++) {
        const struct scored token = {score[j], first + j};
        if (score[j] > -INFINITY && ranks_before(token, best)) best = token;
    }
    return best;
}

/* A token that stands for a NaN among x. */
__device__ __forceinline__ struct scored pick_nan(struct scored best, const float (&x)[N_WORDS])
{
    for (int j = 0; j < N_WORDS; j++)
        if (x[j] != x[j]) best = {INFINITY, -1};
    return best;
}

#endif
