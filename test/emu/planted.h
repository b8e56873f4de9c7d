/* Launches of the kernels in planted.cu; n values of out are 128. */
#ifndef TEST_EMU_PLANTED_H
#define TEST_EMU_PLANTED_H

#include <stdbool.h>
#include <stdint.h>

struct stream;

void planted_neighbour(struct stream *s, int32_t *out, bool has_barrier);
void planted_exchange(struct stream *s, int32_t *out, bool has_syncwarp);
void planted_reuse(struct stream *s, int32_t *out, bool has_barrier);
void planted_agreement(struct stream *s, int32_t *out, bool is_one);
void planted_count(struct stream *s, int32_t *out, bool has_barrier);
void planted_fetch(struct stream *s, int32_t *out, const int32_t *in, bool has_barrier);
void planted_matrix(struct stream *s, int32_t *out, bool has_syncwarp);
void planted_copy(struct stream *s, int32_t *out, const int32_t *in, bool has_wait);
void planted_write(struct stream *s, int32_t *out, int distance, bool is_shared);
void planted_vote(struct stream *s, int32_t *out, uint32_t mask);
void planted_divergence(struct stream *s, int32_t *out);
/* n kernels; out [n + 1][128], each row is the one before plus 1. */
void planted_chain(struct stream *s, int32_t *out, int n, bool waits_first);
/* *turn is 0. */
void planted_turns(struct stream *s, int32_t *out, int32_t *turn, bool is_ordered);
void planted_workspace(struct stream *s, int32_t *out, bool is_one_kernel);
void planted_ticket(struct stream *s, bool gives_back);
void planted_impatience(struct stream *s, int32_t *out);

#endif
