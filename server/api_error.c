#include "server/api_error.h"

#include "server/json_out.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct kind {
    const char *name; /* what api_error_set is given */
    const char *code; /* what the client sees */
    int status;
    const char *type;
    const char *headers;
};

/* Codes that are not here are faults of a request's content: 400, invalid_request_error. */
static const struct kind KINDS[] = {
    {"invalid_api_key", "invalid_api_key", 401, "authentication_error",
     "WWW-Authenticate: Bearer\n"},
    {"model_not_found", "model_not_found", 404, "invalid_request_error", NULL},
    {"unknown_url", "unknown_url", 404, "invalid_request_error", NULL},
    /* The router adds Allow. */
    {"method_not_allowed", "method_not_allowed", 405, "invalid_request_error", NULL},
    {"request_too_large", "request_too_large", 413, "invalid_request_error", "Connection: close\n"},
    {"unsupported_media_type", "unsupported_media_type", 415, "invalid_request_error", NULL},
    {"malformed_request", "invalid_value", 400, "invalid_request_error", "Connection: close\n"},
    {"server_overloaded", "server_overloaded", 503, "server_error", "Retry-After: 1\n"},
    {"shutting_down", "shutting_down", 503, "unavailable_error",
     "Retry-After: 1\nConnection: close\n"},
    {"internal_error", "internal_error", 500, "server_error", NULL},
    /* A fault that this very request causes would come back with a retry. */
    {"generation_failed", "internal_error", 500, "server_error", "x-should-retry: false\n"},
};

static int set(struct api_error *err, const char *code, const char *param, const char *text)
{
    *err = (struct api_error){.status = 400, .type = "invalid_request_error"};
    for (size_t i = 0; i < sizeof(KINDS) / sizeof(KINDS[0]); i++) {
        if (strcmp(KINDS[i].name, code) != 0) continue;
        code = KINDS[i].code;
        err->status = KINDS[i].status;
        err->type = KINDS[i].type;
        err->headers = KINDS[i].headers;
    }
    snprintf(err->code, sizeof(err->code), "%s", code);
    snprintf(err->param, sizeof(err->param), "%s", param ? param : "");
    snprintf(err->text, sizeof(err->text), "%s", text);
    return -1;
}

int api_error_set(struct api_error *err, const char *code, const char *param, const char *format,
                  ...)
{
    char text[sizeof(err->text)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return set(err, code, param, text);
}

int api_error_from(struct api_error *err, const struct error *cause, const char *param)
{
    switch (cause->kind) {
    case ERROR_BAD_REQUEST:
        return set(err, cause->code[0] ? cause->code : "invalid_value", param, cause->text);
    case ERROR_TOO_LONG:
        /* Frameworks look for the code or for these three words. */
        if (strstr(cause->text, "maximum context length"))
            return set(err, "context_length_exceeded", param, cause->text);
        return api_error_set(err, "context_length_exceeded", param,
                             "the request exceeds the maximum context length: %s", cause->text);
    case ERROR_BUSY:
        return set(err, "server_overloaded", NULL, cause->text);
    case ERROR_INTERNAL:
        break;
    }
    /* The cause is for the log; it may name files of this machine. */
    return set(err, "internal_error", NULL, "the server failed to process this request");
}

void api_error_body(struct buffer *b, const struct api_error *err)
{
    buffer_printf(b, "{\"error\":{\"message\":");
    json_out_text(b, err->text);
    buffer_printf(b, ",\"type\":\"%s\",\"param\":", err->type);
    if (err->param[0])
        json_out_text(b, err->param);
    else
        buffer_printf(b, "null");
    buffer_printf(b, ",\"code\":");
    json_out_text(b, err->code);
    buffer_printf(b, "}}");
}
