#include "server/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { KIND_TEXT, KIND_INT, KIND_NAMES, KIND_FLAG, KIND_SECRET };

static const struct spec {
    const char *name, *arg, *help;
    enum kind kind;
    size_t offset; /* of the value in struct options */
    int low, high; /* of KIND_INT */
} SPECS[] = {
    {"model", "DIR", "model folder as published on Hugging Face [the embedded model]", KIND_TEXT,
     offsetof(struct options, engine.model_dir), 0, 0},
    {"draft", "DIR|none", "draft folder, or none [DIR/draft if it is there]", KIND_TEXT,
     offsetof(struct options, engine.draft_dir), 0, 0},
    {"draft-vocab", "all|FILE",
     "ids that a draft may propose, one a line [all; of over 65536 the first 32768 and special "
     "ones]",
     KIND_TEXT, offsetof(struct options, engine.draft_vocab), 0, 0},
    {"served-model-name", "NAME[,NAME]", "what clients call the model [the folder's name]",
     KIND_NAMES, 0, 0, 0},
    {"chat-template", "NAME", "a built-in chat template [the folder's]", KIND_TEXT,
     offsetof(struct options, engine.chat_template), 0, 0},
    {"host", "ADDRESS", "address to listen on [127.0.0.1]", KIND_TEXT,
     offsetof(struct options, host), 0, 0},
    {"port", "N", "port to listen on; 0 takes a free one [8000]", KIND_INT,
     offsetof(struct options, port), 0, 65535},
    {"api-key-file", "FILE", "keys that clients must send, one a line; mode 600 [none]", KIND_TEXT,
     offsetof(struct options, api_key_file), 0, 0},
    {"api-key", "", "", KIND_SECRET, 0, 0, 0},
    {"device", "auto|cpu|cuda", "where to compute [auto: cuda where there is one]", KIND_TEXT,
     offsetof(struct options, engine.device), 0, 0},
    {"dtype", "TYPE", "bfloat16 or float16 on a GPU [the checkpoint's], float32 on the CPU",
     KIND_TEXT, offsetof(struct options, engine.dtype), 0, 0},
    {"threads", "N", "threads of the CPU device [all cores]", KIND_INT,
     offsetof(struct options, engine.n_threads), 1, 1024},
    {"max-model-len", "N", "tokens of prompt and answer [the model's, or what the cache holds]",
     KIND_INT, offsetof(struct options, engine.max_model_len), 16, INT_MAX},
    {"min-pixels", "N", "pixels of a resized picture, Qwen2.5-VL [the folder's]", KIND_INT,
     offsetof(struct options, engine.min_pixels), 1, INT_MAX},
    {"max-pixels", "N", "pixels of a resized picture, Qwen2.5-VL [the folder's]", KIND_INT,
     offsetof(struct options, engine.max_pixels), 1, INT_MAX},
    {"max-num-seqs", "N", "answers that run at once [8]", KIND_INT,
     offsetof(struct options, engine.max_num_seqs), 1, 4096},
    {"max-num-batched-tokens", "N", "rows of one step [512, or what the trees need]", KIND_INT,
     offsetof(struct options, engine.max_num_batched_tokens), 1, 1 << 20},
    {"prefill-chunk", "N", "prompt rows of one sequence in one step [all that fit]", KIND_INT,
     offsetof(struct options, engine.prefill_chunk), 1, 1 << 20},
    {"kv-cache-tokens", "N", "slots of the cache [what the sequences can need, at most 64k]",
     KIND_INT, offsetof(struct options, engine.kv_cache_tokens), 64, INT_MAX},
    {"max-queue", "N", "requests that wait for a seat; more get 503 [64]", KIND_INT,
     offsetof(struct options, engine.max_queue), 1, 1 << 20},
    {"draft-depth", "N", "levels of a draft tree [the device's default]", KIND_INT,
     offsetof(struct options, engine.draft_depth), 1, MAX_NODES},
    {"draft-top-k", "N", "children of a node [the device's default]", KIND_INT,
     offsetof(struct options, engine.draft_top_k), 1, MAX_TOP_K},
    {"draft-nodes", "N", "nodes of a tree, the root included [the device's default]", KIND_INT,
     offsetof(struct options, engine.draft_nodes), 2, MAX_NODES},
    {"draft-max-seqs", "N",
     "beside so many others an answer starts without draft [the device's default]", KIND_INT,
     offsetof(struct options, engine.draft_max_seqs), 1, 1 << 16},
    {"drain-timeout", "SECONDS", "for running answers after SIGTERM or Ctrl-C [30]", KIND_INT,
     offsetof(struct options, drain_seconds), 0, 24 * 3600},
    {"help", NULL, "this text", KIND_FLAG, offsetof(struct options, wants_help), 0, 0},
    {"version", NULL, "the version", KIND_FLAG, offsetof(struct options, wants_version), 0, 0},
};

enum { N_SPECS = sizeof(SPECS) / sizeof(SPECS[0]) };

static int set_int(int *out, const struct spec *spec, const char *text, struct error *err)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end || errno != 0 || value < spec->low || value > spec->high)
        return error_set(err, ERROR_BAD_REQUEST,
                         "--%s is '%.60s', it must be a number from %d to %d", spec->name, text,
                         spec->low, spec->high);
    *out = (int)value;
    return 0;
}

static int set_names(struct options *o, char *text, struct error *err)
{
    char *rest = NULL;
    o->n_served_names = 0;
    for (char *name = strtok_r(text, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (o->n_served_names == MAX_SERVED_NAMES)
            return error_set(err, ERROR_BAD_REQUEST, "--served-model-name has more than %d names",
                             MAX_SERVED_NAMES);
        o->served_names[o->n_served_names++] = name;
    }
    if (o->n_served_names > 0) return 0;
    return error_set(err, ERROR_BAD_REQUEST, "--served-model-name is empty");
}

static int set(struct options *o, const struct spec *spec, char *text, struct error *err)
{
    char *field = (char *)o + spec->offset;
    switch (spec->kind) {
    case KIND_TEXT:
        *(const char **)field = text;
        return 0;
    case KIND_INT:
        return set_int((int *)field, spec, text, err);
    case KIND_NAMES:
        return set_names(o, text, err);
    case KIND_FLAG:
        *(bool *)field = true;
        return 0;
    case KIND_SECRET:
        break;
    }
    return error_set(err, ERROR_BAD_REQUEST,
                     "--%s: everybody on this machine can read a command line; use --api-key-file",
                     spec->name);
}

int options_parse(struct options *out, int argc, char **argv, struct error *err)
{
    struct options o = {.host = "127.0.0.1", .port = 8000, .drain_seconds = 30};
    struct option longs[N_SPECS + 1] = {0};
    for (int i = 0; i < N_SPECS; i++)
        longs[i] = (struct option){SPECS[i].name, SPECS[i].arg ? required_argument : no_argument,
                                   NULL, i + 1};
    opterr = 0;
    optind = 0; /* glibc: start afresh, for callers that parse twice */
    int at;
    while ((at = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
        if (at == ':')
            return error_set(err, ERROR_BAD_REQUEST, "%.60s needs a value", argv[optind - 1]);
        if (at < 1 || at > N_SPECS)
            return error_set(err, ERROR_BAD_REQUEST, "unknown option %.60s", argv[optind - 1]);
        if (set(&o, &SPECS[at - 1], optarg, err) != 0) return -1;
    }
    if (optind < argc)
        return error_set(err, ERROR_BAD_REQUEST, "unexpected argument '%.60s'", argv[optind]);
    *out = o;
    return 0;
}

void options_help(FILE *out)
{
    fputs("vispecd serves a vision-language model over OpenAI's HTTP API, with speculative "
          "decoding.\n\n"
          "usage: vispecd [options]\n\n",
          out);
    for (int i = 0; i < N_SPECS; i++) {
        if (SPECS[i].kind == KIND_SECRET) continue;
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", SPECS[i].name, SPECS[i].arg ? " " : "",
                 SPECS[i].arg ? SPECS[i].arg : "");
        fprintf(out, "  %-32s %s\n", left, SPECS[i].help);
    }
    fputs("\nSIGTERM and Ctrl-C let running answers finish; a second one cuts them off.\n"
          "exit status: 0 ended in order, 1 could not start or end, 64 wrong command line\n",
          out);
}
