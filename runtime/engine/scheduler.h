/* The scheduler: seats, pages and rounds.  It turns jobs into round inputs and round outputs into
 * events.
 *
 * A seat's life (host side; the device's own record is struct seat):
 *
 *   FREE --scheduler_admit--> JOINING --launch--> RUNNING --finish, stop string, cancel--> ENDING
 *    ^                                                                                      |
 *    +---- the round that carried the leave has finished ---- LEAVING <------- launch ------+
 *
 * Invariants:
 *  1. Pages, image rows and the seat return only after the round that carried the leave has
 * finished, so no round in flight can touch memory of another sequence.
 *  2. A seat holds from its admission on every page that its request can need: nothing is ever
 * preempted.
 *  3. Rounds in flight behind a seat's end may still pick tokens for it; they are discarded and
 * count nowhere. Engine thread only. */
#ifndef RUNTIME_ENGINE_SCHEDULER_H
#define RUNTIME_ENGINE_SCHEDULER_H

#include "runtime/engine/job.h"
#include "runtime/engine/round.h"
#include "runtime/model/model.h"

enum { MIN_PROMPT_ROWS = 64 }; /* of a round while prompts wait, however many trees it holds */

struct scheduler;

struct scheduler_config {
    const struct model *model; /* these three are borrowed */
    struct draft *draft;
    struct round *round;
    struct round_limits limits; /* as the round was opened with */
    int prefill_chunk;
    int draft_max_seqs; /* admitted beside as many, a request decodes plainly to its end */
    int max_in_flight;  /* rounds; ROUNDS_IN_FLIGHT, or 1 for tests that look at a round's state */
};

struct scheduler *scheduler_new(const struct scheduler_config *cfg);
void scheduler_free(struct scheduler *s); /* no job is seated; accepts NULL */

/* Slots that a request of so many tokens can touch: its own, the last tree's and the draft's
 * scratch. */
int scheduler_slots(const struct round_limits *limits, int n_tokens);

/* Seats the job (takes it) if a seat, pages and image rows are free; else returns false. */
bool scheduler_admit(struct scheduler *s, struct job *job);

/* Ends the job of that id, if it is seated, with `finish`. */
void scheduler_cancel(struct scheduler *s, uint64_t id, enum gen_finish finish);
void scheduler_cancel_all(struct scheduler *s, enum gen_finish finish);

/* Launches a round if there is work and room in flight, else waits for the oldest and delivers its
 * tokens. Returns false if there was nothing to do. */
bool scheduler_step(struct scheduler *s);

/* Adds to *out what the scheduler counts. */
void scheduler_get_stats(const struct scheduler *s, struct engine_stats *out);

#endif
