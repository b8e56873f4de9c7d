#include "server/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINES = 256, MAX_LINE = 512, CLOSE_SECONDS = 1 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    /* All under lock.  A ring of lines. */
    bool is_open, is_closing, is_done;
    unsigned first, n, n_dropped;
    char lines[MAX_LINES][MAX_LINE];
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void write_line(const char *line)
{
    size_t len = strlen(line);
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, line, len);
        if (n <= 0) return; /* nobody reads: nothing sensible is left to do */
        line += n;
        len -= (size_t)n;
    }
}

static void *run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&queue.lock);
    for (;;) {
        while (queue.n == 0 && !queue.is_closing) pthread_cond_wait(&queue.changed, &queue.lock);
        if (queue.n == 0) break;
        char line[MAX_LINE], dropped[64] = "";
        memcpy(line, queue.lines[queue.first % MAX_LINES], sizeof(line));
        queue.first++;
        queue.n--;
        if (queue.n_dropped > 0)
            snprintf(dropped, sizeof(dropped), "(%u log lines dropped)\n", queue.n_dropped);
        queue.n_dropped = 0;
        pthread_mutex_unlock(&queue.lock);
        write_line(dropped);
        write_line(line);
        pthread_mutex_lock(&queue.lock);
    }
    queue.is_done = true;
    pthread_cond_broadcast(&queue.changed);
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

void log_open(void)
{
    pthread_mutex_lock(&queue.lock);
    queue.is_open = pthread_create(&queue.thread, NULL, run, NULL) == 0;
    pthread_mutex_unlock(&queue.lock);
}

void log_close(void)
{
    pthread_mutex_lock(&queue.lock);
    if (queue.is_open) {
        queue.is_closing = true;
        pthread_cond_broadcast(&queue.changed);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += CLOSE_SECONDS;
        int rc = 0;
        while (!queue.is_done && rc == 0)
            rc = pthread_cond_timedwait(&queue.changed, &queue.lock, &until);
        if (queue.is_done)
            pthread_join(queue.thread, NULL);
        else
            pthread_detach(queue.thread); /* stuck in a write that the end of the process ends */
        queue.is_open = false;
    }
    pthread_mutex_unlock(&queue.lock);
}

void log_line(const char *format, ...)
{
    char line[MAX_LINE];
    time_t now = time(NULL);
    struct tm tm;
    size_t len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%SZ ", gmtime_r(&now, &tm));
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + len, sizeof(line) - len - 1, format, args);
    va_end(args);
    if (n < 0) return;
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    len = strlen(line);
    line[len] = '\n';
    line[len + 1] = '\0';

    pthread_mutex_lock(&queue.lock);
    bool is_open = queue.is_open;
    if (is_open && queue.n == MAX_LINES) {
        queue.n_dropped++;
    } else if (is_open) {
        memcpy(queue.lines[(queue.first + queue.n) % MAX_LINES], line, len + 2);
        queue.n++;
        pthread_cond_broadcast(&queue.changed);
    }
    pthread_mutex_unlock(&queue.lock);
    if (!is_open) write_line(line);
}
