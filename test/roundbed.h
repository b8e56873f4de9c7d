/* What the tests of whole rounds share: a golden model with a draft, on the device under test and
 * behind a scheduler, and golden conversations as its jobs.  There is no tower: stored features
 * stand for pictures. */
#ifndef TEST_ROUNDBED_H
#define TEST_ROUNDBED_H

#include <jansson.h>

#include "runtime/engine/scheduler.h"
#include "test/golden.h"

enum { ROUNDBED_MAX_LEN = 512 }; /* of a sequence */

struct roundbed_limits {
    int max_seqs, max_rows, prefill_chunk, max_in_flight;
};

struct roundbed {
    struct model model;
    struct draft *draft;
    struct round *round;
    struct scheduler *scheduler;
};

/* Folders of the test data; draft "none" is no draft.  Trees are 3/8/30. */
void roundbed_open(struct roundbed *b, struct device *dev, const char *target, const char *draft,
                   const struct roundbed_limits *limits);
void roundbed_close(struct roundbed *b); /* the device too */

/* The prompt of a case.  Each run of image tokens is one picture; grids: of Qwen's pictures, before
 * the 2 x 2 merge, or NULL. */
struct prompt *roundbed_prompt(const int32_t *ids, const uint8_t *is_image, size_t n,
                               const json_t *grids);
/* Gives picture i its features, of `width` numbers a token; returns how many they are. */
size_t roundbed_set_features(struct prompt *p, int i, const float *features, size_t width);

/* Greedy, without stop tokens; takes the prompt. */
struct job *roundbed_job(struct roundbed *b, struct prompt *prompt, bool use_draft,
                         void (*on_event)(void *user, const struct gen_event *event), void *user);

/* ---- golden cases of ViSpec --------------------------------------------------------------------
 */

struct roundbed_family {
    const char *cases, *target, *draft;
};
extern const struct roundbed_family roundbed_llava, roundbed_qwen;

enum { ROUNDBED_TWO_IMAGES = -1 }; /* a case that the authors' draft cannot take: tokens only */

/* A case's JSON, and the job with its prompt, end token and limit of tokens where it has them. */
json_t *roundbed_case(const struct roundbed_family *family, int i);
struct job *roundbed_case_job(struct roundbed *b, const struct roundbed_family *family, int i,
                              const json_t *json, bool use_draft,
                              void (*on_event)(void *user, const struct gen_event *event),
                              void *user);

/* ---- golden JSON -------------------------------------------------------------------------------
 */

/* A file among the test data; a whole number in an object, where it must be, or in an array. */
json_t *roundbed_json(const char *path);
int roundbed_field(const json_t *object, const char *key);
int roundbed_item(const json_t *array, size_t i);

#endif
