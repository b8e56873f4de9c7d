/* What the tests of drafts share: a golden target with a draft, what a round would own for them,
 * and golden cases as rows of an extend.  Sequences sit in seat 0. */
#ifndef TEST_DRAFTBED_H
#define TEST_DRAFTBED_H

#include <jansson.h>

#include "runtime/draft/draft.h"
#include "test/golden.h"
#include "test/kernels.h"

#define DRAFTBED_TARGET "golden/vispec/llava-next-tiny"
#define DRAFTBED_DRAFT  "golden/vispec/llava-next-tiny-vispec"

enum {
    DRAFTBED_K = 8, /* trees: children a node, and levels below the first */
    DRAFTBED_DEPTH = 3,
    DRAFTBED_N_CANDIDATES = DRAFTBED_K + DRAFTBED_DEPTH * DRAFTBED_K * DRAFTBED_K,
    DRAFTBED_MAX_ROWS = MAX_GEMM_ROWS / DRAFTBED_K, /* of an extend; each may start a tree */
    DRAFTBED_N_PAGES = 6,
};

extern const struct draft_limits draftbed_limits;

/* A target, a draft of it, and what a round would own. */
struct draftbed {
    struct kernels k;
    struct safetensors *st;
    struct lm *lm;
    struct draft *draft;
    struct draft_round round;
    struct seat *seats;
    float *pool;    /* the vector pool: see draftbed.c for its rows */
    float *hidden;  /* [DRAFTBED_MAX_ROWS][hidden] */
    float *encoded; /* host copy of what encode_image made first: compressed token, term of g */
};

struct lm_config draftbed_llava_config(void);
/* Opens the tensors of `target`, a path among the test data, and the draft in `draft_dir`. */
void draftbed_open(struct draftbed *f, const char *target, const struct lm_config *cfg,
                   const char *draft_dir);
void draftbed_close(struct draftbed *f);
/* n ints on the device, all -1. */
int32_t *draftbed_ints(struct kernels *k, size_t n);

/* ---- golden cases -----------------------------------------------------------------------------
 */

/* One conversation: its JSON, tensors, and the prompt's n tokens. */
struct draftbed_case {
    json_t *json;
    struct golden *tensors;
    const int32_t *ids;
    const uint8_t *is_image;
    int n;
};

/* `name` as in "cases_llava/case_00". */
struct draftbed_case draftbed_case_open(const char *name);
void draftbed_case_close(struct draftbed_case *c);
/* A number of golden JSON. */
int draftbed_int(const json_t *object, const char *key);

/* ---- rounds -----------------------------------------------------------------------------------
 */

/* Rows of an extend, on the host. */
struct draftbed_rows {
    int n;
    int32_t seat[DRAFTBED_MAX_ROWS], id[DRAFTBED_MAX_ROWS], pos[DRAFTBED_MAX_ROWS][3],
        slot[DRAFTBED_MAX_ROWS], prefix[DRAFTBED_MAX_ROWS];
    uint64_t mask[DRAFTBED_MAX_ROWS];
    int32_t kind[DRAFTBED_MAX_ROWS], h_row[DRAFTBED_MAX_ROWS], g_row[DRAFTBED_MAX_ROWS];
};

/* One more row, of the token in `slot`. */
void draftbed_row(struct draftbed_rows *e, int slot, int id, enum draft_row kind, int h_row,
                  int g_row);
/* A whole prompt with the first picked token behind it. */
void draftbed_prompt(const struct draftbed *f, const struct draftbed_case *c,
                     struct draftbed_rows *e);
/* Proposes; the trees start at the last row, or at every row of the extend. */
void draftbed_propose(struct draftbed *f, const struct draftbed_rows *e, const float *hidden,
                      size_t n_hidden, int len, bool all_are_heads);
/* Puts the picture's features, and what the draft makes of them, into the vector pool; without a
 * picture or an adaptor g is zero. */
void draftbed_encode(struct draftbed *f, const struct draftbed_case *c);

#endif
