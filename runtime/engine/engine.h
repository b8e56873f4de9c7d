/* The engine: a loaded model, its draft, the caches, and the one thread that owns the device.
 *
 * Other threads build prompts (prompt.h), hand in generations and get events back.  A generation's
 * life:
 *
 *   engine_submit --> waiting --admit--> prefill --> rounds --> last event
 *        |               |                  |           |
 *        +- ERROR_BUSY   +------------ engine_cancel ---+--> last event (GEN_CANCELLED)
 *
 * Exactly one event has is_last, also after cancelling or when the engine closes; nothing is called
 * after it. */
#ifndef RUNTIME_ENGINE_ENGINE_H
#define RUNTIME_ENGINE_ENGINE_H

#include "kernels/sequence.h"
#include "runtime/error.h"
#include "runtime/model/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct prompt;

/* Zero and NULL take the default in brackets. */
struct engine_options {
    const char *model_dir;
    const char *draft_dir;     /* [model_dir/draft if it is there]; "none" */
    const char *draft_vocab;   /* "all", a file of token ids [draft_vocab.h] */
    const char *chat_template; /* built-in template's name [recognised by the folder's text] */
    const char *device;        /* "auto", "cpu", "cuda" [auto: cuda where there is one] */
    const char *dtype; /* of activations: "auto", "bfloat16", "float16", "float32" [auto: float32 on
                          the CPU, elsewhere the checkpoint's] */
    int n_threads;     /* of the CPU device [all cores] */
    int min_pixels,
        max_pixels;    /* of a resized picture, where the family has such limits [folder] */
    int max_model_len; /* tokens of prompt and answer [the config's, or what the cache holds] */
    int max_num_seqs;  /* answers that run at once [8] */
    int max_num_batched_tokens; /* rows of one step [512, or what the trees need] */
    int prefill_chunk;   /* prompt rows of one sequence in one step [max_num_batched_tokens] */
    int kv_cache_tokens; /* slots of the target's cache [max_num_seqs * max_model_len, at most 64k]
                          */
    int max_queue;       /* generations that wait [64] */
    int draft_depth, draft_top_k, draft_nodes; /* nodes count the root [the device's default] */
    int draft_max_seqs; /* an answer that starts beside as many others decodes plainly [the
                           device's default] */
};

/* What an open engine says about itself; constant, any thread. */
struct engine_info {
    const char *model_name;               /* last part of model_dir */
    const char *device_name, *draft_name; /* draft "none" where there is none */
    int max_model_len, max_num_seqs, vocab;
    int kv_cache_tokens; /* what was reserved, after rounding to pages */
    bool has_vision;
    int draft_depth, draft_top_k, draft_nodes;
    struct generation_config defaults; /* where a client is silent */
};

int engine_open(struct engine **out, const struct engine_options *options, struct error *err);

/* Ends all generations (their last event is GEN_CANCELLED) and frees everything.  Accepts NULL. */
void engine_close(struct engine *e);
const struct engine_info *engine_info(const struct engine *e);

enum gen_finish { GEN_STOP, GEN_LENGTH, GEN_CANCELLED, GEN_FAILED };

struct gen_token {
    int id;
    float logprob; /* this and the next two only if logprobs were asked for */
    int n_top;
    const struct token_logprobs *top;
};

/* llama.cpp's names.  Times in milliseconds of a monotonic clock. */
struct gen_timings {
    int prompt_n, predicted_n;
    int rounds; /* verify passes after the prefill */
    int draft_n, draft_n_accepted;
    double queue_ms;     /* waiting for a seat */
    double prompt_ms;    /* from the seat to the first token */
    double predicted_ms; /* from the first token to the last */
};

/* What happened since the last event; pointers live during the call only. */
struct gen_event {
    const char *text; /* whole UTF-8 characters, stop strings and special tokens taken out */
    size_t text_len;
    const struct gen_token *tokens; /* tokens picked; their text may still be held back */
    int n_tokens;
    bool is_last;
    enum gen_finish finish;     /* if is_last */
    struct gen_timings timings; /* if is_last */
    const char *failure;        /* if GEN_FAILED: one line for the log */
};

enum { MAX_STOP_STRINGS = 16, MAX_STOP_STRING_LEN = 256 };

struct generation {
    struct prompt *prompt; /* taken by engine_submit, also when it fails */
    struct sampling
        sampling;    /* seed set; max_tokens 0 is a prefill only; stop_ids only the request's own */
    bool ignore_eos; /* the model's end tokens do not end the answer */
    bool skip_special_tokens; /* in the text; token ids are always all there */
    int n_stop_strings;
    char stop_strings[MAX_STOP_STRINGS][MAX_STOP_STRING_LEN + 1];

    /* Called on the engine's thread: returns at once, takes no lock that waits for the engine. */
    void (*on_event)(void *user, const struct gen_event *event);
    void *user;
};

/* Any thread.  Fails with ERROR_BUSY (queue full, or draining); then no event comes.  *id names the
 * generation for engine_cancel. */
int engine_submit(struct engine *e, const struct generation *gen, uint64_t *id, struct error *err);
void engine_cancel(struct engine *e, uint64_t id); /* any thread; unknown ids are ignored */
void engine_refuse_new(struct engine *e);          /* any thread; running answers go on (drain) */

/* Counters for /metrics and /health; any thread. */
struct engine_stats {
    int n_running, n_waiting, kv_pages_used, kv_pages;
    uint64_t prompt_tokens, generation_tokens, rounds, drafts, draft_tokens, accepted_tokens;
    uint64_t accepted_per_pos[MAX_NODES];
    uint64_t n_finished[4]; /* by enum gen_finish */
    /* Seconds of the device: apply, extend and expansions; the target's pass and logits; sampling
     * to compact. */
    double draft_s, verify_s, rest_s;
};
void engine_get_stats(struct engine *e, struct engine_stats *out);

#endif
