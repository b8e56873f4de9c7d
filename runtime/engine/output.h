/* From picked tokens to text: detokenizes, finds stop strings, and holds back what may become one.
 *
 * One per generation; the engine's thread only, because a stop string ends the generation's life on
 * the device. All of this is a pure function of the tokens, so an answer ends at the same token
 * whether its tokens came one a round or several. */
#ifndef RUNTIME_ENGINE_OUTPUT_H
#define RUNTIME_ENGINE_OUTPUT_H

#include "runtime/engine/engine.h"
#include "runtime/mem.h"
#include "runtime/text/detokenizer.h"

struct output {
    struct detokenizer detokenizer;
    const struct generation *gen; /* borrowed: the stop strings */
    struct buffer held;  /* text not yet given out; the longest tail that may begin a stop string */
    bool is_stopped;     /* a stop string was found */
    struct buffer ready; /* text of this round, given out by output_take */
};

/* t and gen are borrowed until output_done. */
void output_init(struct output *out, const struct tokenizer *t, const struct generation *gen);
void output_done(struct output *out);

/* Adds a token's text; true if it completed a stop string, whose text and all behind it is dropped.
 */
bool output_push(struct output *out, int token);

/* No token follows: gives out what was held back. */
void output_finish(struct output *out);

/* The text that became ready since the last call; valid until the next push. */
const char *output_take(struct output *out, size_t *len);

#endif
