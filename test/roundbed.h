/* What the tests of whole rounds share: a golden target of test/golden/vispec with the authors'
 * draft, opened on the device under test without a tower (the golden features stand for pictures),
 * and golden cases as jobs of its scheduler. */
#ifndef TEST_ROUNDBED_H
#define TEST_ROUNDBED_H

#include <jansson.h>

#include "runtime/engine/round.h"
#include "runtime/engine/scheduler.h"
#include "test/golden.h"
#include "test/kernels.h"

enum { ROUNDBED_MAX_LEN = 512, ROUNDBED_N_CASES = 9 };

struct roundbed_family {
    const char *cases, *target, *draft; /* folders of test/golden/vispec */
};
extern const struct roundbed_family roundbed_llava, roundbed_qwen;

struct roundbed {
    const struct roundbed_family *family;
    struct model model;
    struct draft *draft;
    struct round *round;
    struct scheduler *scheduler;
};

void roundbed_open(struct roundbed *b, const struct roundbed_family *family, int max_seqs,
                   int max_rows, int prefill_chunk, int max_in_flight);
void roundbed_close(struct roundbed *b);

/* "cases_llava/case_00.json" of the family's folder; and its parsed JSON. */
const char *roundbed_path(const struct roundbed_family *family, const char *file);
json_t *roundbed_json(const struct roundbed_family *family, const char *file);

/* An integer of golden JSON, which must be there. */
int roundbed_int(const json_t *object, const char *key);
int roundbed_item(const json_t *array, size_t i);

/* A job for the prompt of a case, greedy.  The file of the prompt may be another than the JSON's.
 * The job's events come with `user`. */
typedef void roundbed_events(void *user, const struct gen_event *event);
struct job *roundbed_job(struct roundbed *b, const json_t *json, const char *prompt_file,
                         bool use_draft, roundbed_events *on_event, void *user);
/* The same for case i, with its limits; *json is the caller's. */
struct job *roundbed_case(struct roundbed *b, int i, bool use_draft, roundbed_events *on_event,
                          void *user, json_t **json);

#endif
