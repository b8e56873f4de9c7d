#include "runtime/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_abort(void *p)
{
    if (!p) {
        fputs("vispecd: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    return or_abort(calloc(n ? n : 1, size ? size : 1));
}

void *xrealloc(void *p, size_t size)
{
    return or_abort(realloc(p, size ? size : 1));
}

char *xstrdup(const char *s)
{
    return or_abort(strdup(s));
}

char *xstrndup(const char *s, size_t len)
{
    return or_abort(strndup(s, len));
}

static char *format_new(const char *format, va_list args, size_t *len)
{
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    *len = n < 0 ? 0 : (size_t)n;
    return or_abort(n < 0 ? NULL : text);
}

char *xprintf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t len;
    char *text = format_new(format, args, &len);
    va_end(args);
    return text;
}

void buffer_append(struct buffer *b, const void *bytes, size_t len)
{
    if (b->len + len + 1 > b->capacity) {
        size_t capacity = b->capacity ? b->capacity : 64;
        while (capacity < b->len + len + 1) capacity *= 2;
        b->data = xrealloc(b->data, capacity);
        b->capacity = capacity;
    }
    if (len) memcpy(b->data + b->len, bytes, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t len;
    char *text = format_new(format, args, &len);
    va_end(args);
    buffer_append(b, text, len);
    free(text);
}

void buffer_done(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}
