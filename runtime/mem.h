/* Small host allocations, which abort when memory is out: a daemon that cannot get a few kilobytes
 * cannot answer anybody, and its supervisor restarts it.  What a client can make large is checked
 * against a named limit before it is allocated.  Any thread. */
#ifndef RUNTIME_MEM_H
#define RUNTIME_MEM_H

#include <stddef.h>

void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t len);
char *xprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A byte string that grows.  Zero-initialized is empty; data is NUL-terminated whenever it is not
 * NULL, and belongs to the buffer. */
struct buffer {
    char *data;
    size_t len, capacity;
};

void buffer_append(struct buffer *b, const void *bytes, size_t len);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buffer_done(struct buffer *b); /* frees the content and leaves b empty */

#endif
