/* What the tests of the round's operations share: a device with a round's state, arrays that the
 * test reads and writes directly, and the sampling rules once more, in the most obvious way. */
#ifndef TEST_OPBED_H
#define TEST_OPBED_H

#include "test/kernels.h"

#include <stdbool.h>

struct opbed_shape {
    int max_seqs, vocab, width, max_rows, k, depth;
};

/* All arrays are shared memory full of 0xff, except what a round's owner clears: round, seats,
 * tables of draft heads and rows.  They live until round_close. */
struct opbed {
    struct kernels k;
    struct opbed_shape shape;
    struct round_state state;
    struct round_input *inputs; /* state.inputs, writable */
    struct beam beam;
    struct tree tree;
    struct rows rows;
    struct out_rows out;
    struct draft_rows next;
};

void opbed_open(struct opbed *r, const struct opbed_shape *shape);
void opbed_close(struct opbed *r);

/* `bytes` of memory that the device and the test can use, all 0xff. */
void *opbed_array(struct opbed *r, size_t bytes);
struct draft_rows opbed_draft_rows(struct opbed *r, int max);
void opbed_wait(struct opbed *r);

/* The input of the round to come, emptied; and the output of the one that ran last. */
struct round_input *opbed_input(struct opbed *r);
const struct round_output *opbed_output(const struct opbed *r);

/* Candidates a head. */
int opbed_n_candidates(const struct opbed *r);

/* Greedy, nothing else asked for, max_tokens 1000. */
struct sampling opbed_greedy(void);

/* Puts a sequence into a seat as if its prompt had been read. */
void opbed_seat(struct opbed *r, int seat, int len, int root, const struct sampling *s);

/* ---- the sampling rules, token by token
 * ----------------------------------------------------------- */

/* A sequence at the moment of a pick. */
struct naive_context {
    const struct sampling *sampling;
    const int32_t *prompt, *answer; /* ids; those < 0 are no tokens */
    int n_prompt, n_answer, position;
};

/* scores[vocab] = logits after penalties, bans, temperature and filters. */
void naive_filter(const struct naive_context *c, const float *logits, int vocab, float *scores);
/* The token picked from scores, -1 if there is none or a logit is NaN. */
int naive_pick(const struct naive_context *c, const float *logits, const float *scores, int vocab);

#endif
