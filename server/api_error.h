/* Errors as an OpenAI client sees them, and the one place where HTTP statuses are chosen.
 *
 * A struct api_error with status 0 is "no error".  Any thread. */
#ifndef SERVER_API_ERROR_H
#define SERVER_API_ERROR_H

#include "runtime/error.h"
#include "runtime/mem.h"

struct api_error {
    int status;
    const char *type; /* static text */
    char code[40];
    char param[96]; /* where in the request, "" if nowhere */
    char text[512];
    const char *headers; /* further response headers "Name: value\n..." ; static text, or NULL */
};

/* Fills err and returns -1.  The code decides status, type and headers; see the table in
 * api_error.c and docs/api.md.  param may be NULL. */
int api_error_set(struct api_error *err, const char *code, const char *param, const char *format,
                  ...) __attribute__((format(printf, 4, 5)));

/* The same from a failure of the runtime. */
int api_error_from(struct api_error *err, const struct error *cause, const char *param);

/* {"error":{"message":...,"type":...,"param":...,"code":...}} */
void api_error_body(struct buffer *b, const struct api_error *err);

#endif
