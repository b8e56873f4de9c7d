#include "server/request.h"

#include "server/clock.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/stream.h"
#include "server/work.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

enum {
    PING_MS = 10 * 1000,  /* silence after which a stream gets a comment line */
    STALL_MS = 30 * 1000, /* a stream that takes nothing for so long has nobody behind it */
    STATUS_CLIENT_LEFT = 499,
};

struct request *request_new(struct server *server)
{
    struct request *r = xcalloc(1, sizeof(*r));
    r->server = server;
    r->arrived_us = clock_us();
    atomic_init(&r->n_refs, 1);
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void request_ref(struct request *r)
{
    atomic_fetch_add(&r->n_refs, 1);
}

void request_unref(struct request *r)
{
    if (atomic_fetch_sub(&r->n_refs, 1) != 1) return;
    atomic_fetch_sub(&r->server->body_bytes, r->body.len);
    free(r->path);
    buffer_done(&r->body);
    buffer_done(&r->reading);
    buffer_done(&r->wire);
    buffer_done(&r->events);
    buffer_done(&r->answer_body);
    reply_done(&r->reply);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

int request_admit(struct request *r, struct api_error *err)
{
    r->admitted_us = clock_us();
    r->job.run = work_prepare;
    request_ref(r); /* the worker's */
    if (workers_start(r->server->workers, &r->job)) return 0;
    request_unref(r);
    return api_error_set(err, "server_overloaded", NULL, "too many requests wait for a worker");
}

static void suspend_locked(struct request *r, struct MHD_Connection *c)
{
    r->suspended = c;
    MHD_suspend_connection(c);
}

enum request_next request_next(struct request *r, struct MHD_Connection *c)
{
    enum request_next next = REQUEST_SUSPENDED;
    pthread_mutex_lock(&r->lock);
    if (r->is_gone) {
        next = REQUEST_CLOSE;
    } else if (r->is_answered || r->failure.status != 0) {
        next = REQUEST_REPLY;
    } else if (r->is_admitted && r->is_streaming) {
        next = REQUEST_STREAM;
        r->read_ms = clock_ms();
    } else {
        suspend_locked(r, c);
    }
    pthread_mutex_unlock(&r->lock);
    return next;
}

/* Formats events into wire, some at a time. */
static void format_events(struct request *r, bool is_finished)
{
    struct answer_part part;
    if (!r->is_begun) stream_begin(&r->wire, &r->reply);
    r->is_begun = true;
    while (r->wire.len < STREAM_CHUNK_MAX && answer_next(&r->reading, &r->read_pos, &part))
        stream_part(&r->wire, &r->reply, &part);
    bool is_read = r->read_pos >= r->reading.len;
    if (is_read && is_finished && !r->is_ended) {
        stream_end(&r->wire, &r->reply, &r->end); /* constant once is_finished */
        r->is_ended = true;
    }
}

long request_read(struct request *r, struct MHD_Connection *c, char *out, size_t max)
{
    if (r->wire_pos == r->wire.len) {
        r->wire.len = r->wire_pos = 0;
        pthread_mutex_lock(&r->lock);
        bool is_aborted = r->is_gone || r->is_overrun;
        if (r->read_pos >= r->reading.len) {
            struct buffer empty = r->reading;
            r->reading = r->events;
            r->events = empty;
            r->events.len = r->read_pos = 0;
        }
        /* The last events and is_finished are seen together. */
        bool is_finished = r->is_finished && r->events.len == 0;
        bool has_ping = r->is_ping_due;
        r->is_ping_due = false;
        r->read_ms = clock_ms();
        pthread_mutex_unlock(&r->lock);
        if (is_aborted) return REQUEST_READ_ABORT;
        if (r->is_ended) return REQUEST_READ_END;

        format_events(r, is_finished);
        if (r->wire.len == 0 && has_ping) stream_ping(&r->wire);
        if (r->wire.len == 0) {
            pthread_mutex_lock(&r->lock);
            bool has_news = r->events.len > 0 || r->is_finished || r->is_gone || r->is_ping_due;
            if (!has_news) suspend_locked(r, c);
            pthread_mutex_unlock(&r->lock);
            return has_news ? request_read(r, c, out, max) : 0;
        }
    }
    size_t n = r->wire.len - r->wire_pos;
    if (n > max) n = max;
    memcpy(out, r->wire.data + r->wire_pos, n);
    r->wire_pos += n;
    return (long)n;
}

static void stop(struct request *r, bool is_gone)
{
    pthread_mutex_lock(&r->lock);
    r->is_cancelled = true;
    if (is_gone) r->is_gone = true;
    work_wake_locked(r);
    bool has_generation = r->has_generation && !r->is_finished;
    uint64_t generation = r->generation;
    pthread_mutex_unlock(&r->lock);
    if (has_generation) engine_cancel(r->server->engine, generation);
}

void request_client_left(struct request *r)
{
    stop(r, true);
}

void request_cancel(struct request *r)
{
    stop(r, false);
}

bool request_tick(struct request *r, int64_t now_ms)
{
    pthread_mutex_lock(&r->lock);
    bool is_streaming = r->is_admitted && r->is_streaming;
    int64_t silence = now_ms - r->read_ms;
    bool is_stuck =
        is_streaming && (r->is_overrun || (!r->suspended && r->read_ms > 0 && silence >= STALL_MS));
    if (is_streaming && r->suspended && silence >= PING_MS) {
        r->is_ping_due = true;
        work_wake_locked(r);
    }
    pthread_mutex_unlock(&r->lock);
    return is_stuck;
}

static const char *finish_name(const struct request *r)
{
    static const char *const NAMES[] = {[GEN_STOP] = "stop",
                                        [GEN_LENGTH] = "length",
                                        [GEN_CANCELLED] = "cancelled",
                                        [GEN_FAILED] = "failed"};
    return r->is_finished ? NAMES[r->end.finish] : "-";
}

/* Probes and scrapes that went well are not worth a line each. */
static bool is_routine(const struct request *r)
{
    return r->status == 200 && r->path &&
           (strncmp(r->path, "/health", 7) == 0 || strcmp(r->path, "/metrics") == 0);
}

static void log_request(struct request *r)
{
    int64_t now = clock_us();
    int64_t start = r->admitted_us ? r->admitted_us : r->arrived_us;
    if (!r->admitted_us || !r->is_admitted) {
        log_line("request=%s method=%s path=%.80s status=%d code=%s ms=%.1f", r->id,
                 r->method ? r->method : "-", r->path ? r->path : "-", r->status,
                 r->error.code[0]     ? r->error.code
                 : r->failure.code[0] ? r->failure.code
                                      : "-",
                 (double)(now - start) / 1e3);
        return;
    }
    const struct gen_timings *t = &r->end.timings;
    log_line(
        "request=%s method=%s path=%.80s status=%d stream=%d finish=%s prompt_tokens=%d images=%d "
        "completion_tokens=%d rounds=%d queue_ms=%.1f ttft_ms=%.1f ms=%.1f",
        r->id, r->method, r->path, r->status, r->is_streaming, finish_name(r), r->reply.n_prompt,
        r->n_images, r->n_tokens, t->rounds, t->queue_ms,
        r->first_us ? (double)(r->first_us - start) / 1e3 : 0, (double)(now - start) / 1e3);
}

void request_completed(struct request *r)
{
    pthread_mutex_lock(&r->lock);
    bool has_reply =
        r->status != 0 && !r->is_gone && (!r->is_streaming || !r->is_admitted || r->is_ended);
    pthread_mutex_unlock(&r->lock);
    if (!has_reply) {
        r->status = STATUS_CLIENT_LEFT;
        request_client_left(r);
    }
    pthread_mutex_lock(&r->lock);
    if (!is_routine(r)) log_request(r);
    pthread_mutex_unlock(&r->lock);
    metrics_response(r->server->metrics, r->status);
    request_unref(r);
}
