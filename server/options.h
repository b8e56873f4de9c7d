/* The command line. */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include "runtime/engine/engine.h"

#include <stdio.h>

enum { MAX_SERVED_NAMES = 8 };

/* Texts are borrowed from argv. */
struct options {
    struct engine_options engine; /* model_dir NULL: the embedded model */
    char *served_names[MAX_SERVED_NAMES];
    int n_served_names;
    const char *host;
    int port;
    const char *api_key_file; /* NULL: none */
    int drain_seconds;
    bool wants_help, wants_version;
};

/* -1: err holds one line. */
int options_parse(struct options *out, int argc, char **argv, struct error *err);
void options_help(FILE *out);

#endif
