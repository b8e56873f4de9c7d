/* One round: extend, expand, select, verify, accept, compact, for all sequences at once, as one
 * graph.
 *
 *   host                                 device
 *   round_input  -> fill                 round n-1 runs
 *   round_launch -> round n queued       ...
 *   round_finish <- waits for n-1        round n runs: reads input n, writes output n
 *
 * The host is at most ROUNDS_IN_FLIGHT rounds ahead.  It tells a round what changes (joins, leaves,
 * pages, prompt rows) in the round's input and learns what came out from its output, both in rings
 * of shared memory; lengths, trees and picks stay on the device.  A graph exists for each class of
 * row counts; everything else is read on the device.  Engine thread only. */
#ifndef RUNTIME_ENGINE_ROUND_H
#define RUNTIME_ENGINE_ROUND_H

#include "kernels/device.h"
#include "kernels/ops.h"
#include "runtime/draft/draft.h"
#include "runtime/model/lm.h"

enum { ROUNDS_IN_FLIGHT = 2 };

struct round_limits {
    int max_seqs;
    int max_rows;          /* of a verify pass: tree rows and prompt rows */
    int n_pages;           /* of the target's pool */
    int max_pages;         /* of one sequence */
    int n_image_rows;      /* vector pool rows for images */
    int depth, k, n_nodes; /* of a tree; n_nodes counts the root */
};

struct round;

/* lm and draft are borrowed.  Memory is taken here and never again; the draft's pool gets n_pages
 * pages too, unless the draft keeps no rows. */
struct round *round_open(struct device *dev, const struct lm *lm, struct draft *draft,
                         const struct round_limits *limits);
void round_close(struct round *r); /* waits for rounds in flight; accepts NULL */

struct stream *round_stream(struct round *r);

/* Vector pool in device memory, float [.][hidden].  Rows for images are 0 .. n_image_rows-1 of what
 * round_image_row counts; round_zero_row is a row of zeros. */
float *round_vectors(struct round *r, int32_t pool_row);
int32_t round_image_row(const struct round *r, int image_row); /* pool row of an image row */
int32_t round_zero_row(const struct round *r);

/* The next round's input, empty; filled by the caller before round_launch, within the capacities:
 * max_seqs leaves, joins and chunks, max_seqs * max_pages * 2 page entries, max_rows prompt rows.
 */
struct round_input *round_input(struct round *r);

/* Queues the round.  n_rows: the verify rows that it may need at most; a smaller class cuts trees.
 * At most ROUNDS_IN_FLIGHT rounds are queued. */
void round_launch(struct round *r, int n_rows);

/* Waits for the oldest round in flight; its output is valid until the next launch. */
const struct round_output *round_finish(struct round *r);

/* Rounds launched and finished since the start: round i is in flight if finished <= i < launched.
 */
uint64_t round_n_launched(const struct round *r);
uint64_t round_n_finished(const struct round *r);

/* Operation calls of a round: the same for any number of sequences. */
int round_n_ops(const struct round *r);

/* Seconds that finished rounds have spent on the device: drafting (apply, extend, expansions),
 * verifying (select, target forward, lm_head), and the rest (sampling, accept, compact). */
struct round_times {
    double draft_s, verify_s, rest_s;
};
void round_get_times(const struct round *r, struct round_times *out);

/* For tests: the device's state after the last finished round. */
struct round_view {
    struct tree tree;
    struct rows rows;
    struct beam beam;
    struct draft_rows extend;
    struct kv_pool target, draft;
    struct seat *seats;
    const void *hidden;
};
struct round_view round_view(const struct round *r);

#endif
