#include "runtime/error.h"

#include <stdarg.h>
#include <stdio.h>

static void fill(struct error *err, enum error_kind kind, const char *code, const char *format,
                 va_list args)
{
    err->kind = kind;
    snprintf(err->code, sizeof(err->code), "%s", code);
    vsnprintf(err->text, sizeof(err->text), format, args);
}

int error_set(struct error *err, enum error_kind kind, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, kind, "", format, args);
    va_end(args);
    return -1;
}

int error_set_code(struct error *err, enum error_kind kind, const char *code, const char *format,
                   ...)
{
    va_list args;
    va_start(args, format);
    fill(err, kind, code, format, args);
    va_end(args);
    return -1;
}
