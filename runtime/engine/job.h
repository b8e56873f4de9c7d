/* A generation inside the engine, and its prompt.  Internal to runtime/engine. */
#ifndef RUNTIME_ENGINE_JOB_H
#define RUNTIME_ENGINE_JOB_H

#include "runtime/engine/engine.h"
#include "runtime/engine/output.h"
#include "runtime/engine/prompt.h"
#include "runtime/model/vision.h"
#include "runtime/text/token_list.h"

/* Image tokens first .. first + n - 1 of the prompt stand for one picture, given as input of the
 * tower or as the tower's features. */
struct prompt_image {
    int first, n;
    int n_columns;             /* tokens of a row of the picture under M-RoPE, else 0 */
    int rope_delta;            /* of the tokens behind the picture: rotary position - position */
    struct vision_input input; /* pixels and index are owned; pixels NULL if there are features */
    float *features;           /* [n][hidden], owned */
};

struct prompt {
    struct token_list tokens; /* image tokens expanded */
    int n_images;
    struct prompt_image images[MAX_IMAGES];
};

/* Sets the images' rope_delta, once their places and sizes are known. */
void prompt_set_rope_deltas(struct prompt *p);

/* Rotary position of a token on three axes.  `image`: the picture that holds it if is_image, else
 * the last one before it, -1 where there is none. */
void prompt_rope_position(const struct prompt *p, int pos, int image, bool is_image,
                          int32_t out[3]);

/* Owned by the engine's queue while it waits, then by the seat it sits in.  gen.sampling is
 * complete: limits clamped, the model's end tokens among stop_ids. */
struct job {
    struct job *next; /* in the waiting queue */
    uint64_t id;
    struct generation gen;
    struct output output;
    bool is_prefill_only; /* max_tokens 0: the one token that the device picks is dropped */
    double submitted_ms, seated_ms, first_token_ms, last_token_ms;
    struct gen_timings counts; /* times are filled in at the end */
};

/* Frees a job that nobody will hear of; job_end does it for all others. */
void job_free(struct job *job);

/* Sends the last event and frees the job. */
void job_end(struct job *job, enum gen_finish finish, const char *failure);

double now_ms(void); /* monotonic */

#endif
