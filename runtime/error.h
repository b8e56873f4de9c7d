/* How a failure travels: an int 0 or -1, and one line of text made where the cause is known.
 *
 * A function that can fail takes `struct error *err` last, returns -1 after filling it once, and
 * writes its out parameters on success only.  `kind` says whose fault it is; server/ alone maps it
 * to an HTTP status, so nothing else needs to know about HTTP.  Thread: the caller's. */
#ifndef RUNTIME_ERROR_H
#define RUNTIME_ERROR_H

enum error_kind {
    ERROR_INTERNAL,    /* our fault or the machine's */
    ERROR_BAD_REQUEST, /* the client's, or for a model folder the operator's */
    ERROR_TOO_LONG,    /* the prompt does not fit the context */
    ERROR_BUSY,        /* a bounded queue is full; trying later may work */
};

struct error {
    enum error_kind kind;
    char code[40];  /* OpenAI's error code where a client should see one, else empty */
    char text[480]; /* names the thing and the values; one line, no newline */
};

/* Fills err and returns -1, so that `return error_set(...)` is one line. */
int error_set(struct error *err, enum error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for an error that a client of the HTTP API sees: code is OpenAI's, for instance
 * "invalid_base64_image" (reference: docs/api.md). */
int error_set_code(struct error *err, enum error_kind kind, const char *code, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

#endif
