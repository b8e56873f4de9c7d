#include "server/http.h"

#include "server/auth.h"
#include "server/clock.h"
#include "server/conns.h"
#include "server/ids.h"
#include "server/log.h"
#include "server/request.h"
#include "server/router.h"

#include <ctype.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTION_MEMORY =
        64 << 10, /* bytes of a connection: its head, and half of it a piece of a body */
    STREAM_BLOCK = 32 << 10,
    LAST_WORDS_MS = 3000, /* for cancelled answers to reach their clients */
};

struct http {
    struct server *server; /* borrowed */
    struct conns *conns;
    struct MHD_Daemon *daemon;
};

/* ---- the head -----------------------------------------------------------------------------------
 */

struct head {
    int n_lengths, n_encodings, n_hosts;
    bool is_bad;
    uint64_t length;
    bool is_chunked, expects_continue;
};

static enum MHD_Result read_header(void *user, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    (void)kind;
    struct head *h = user;
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("!#$%&'*+-.^_`|~", *c)) h->is_bad = true;
    if (!name[0]) h->is_bad = true;
    if (strcasecmp(name, "Content-Length") == 0) {
        h->n_lengths++;
        size_t len = value ? strlen(value) : 0;
        if (len == 0 || len > 18 || strspn(value, "0123456789") != len)
            h->is_bad = true;
        else
            h->length = strtoull(value, NULL, 10);
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        h->n_encodings++;
        h->is_chunked = true;
        if (!value || strcasecmp(value, "chunked") != 0) h->is_bad = true;
    } else if (strcasecmp(name, "Host") == 0) {
        h->n_hosts++;
    } else if (strcasecmp(name, "Expect") == 0) {
        h->expects_continue = true;
    }
    return MHD_YES;
}

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static void choose_id(struct request *r, const char *wanted)
{
    size_t len = wanted ? strlen(wanted) : 0;
    bool is_good = len > 0 && len <= 128;
    for (size_t i = 0; i < len && is_good; i++)
        is_good = isalnum((unsigned char)wanted[i]) || strchr("._-", wanted[i]);
    if (is_good) {
        memcpy(r->id, wanted, len + 1);
        return;
    }
    ids_make(r->id, "req-");
}

static int check_content_type(const char *type, struct api_error *err)
{
    static const char WANTED[] = "application/json";
    size_t len = sizeof(WANTED) - 1;
    if (type && strncasecmp(type, WANTED, len) == 0 &&
        (type[len] == '\0' || strchr("; \t", type[len])))
        return 0;
    return api_error_set(err, "unsupported_media_type", NULL,
                         "the content type is '%.60s', it must be application/json; with curl: "
                         "-H 'Content-Type: application/json'",
                         type ? type : "");
}

/* Decides what a request is from its head.  -1: it will be refused, once its body has been read. */
static int check_head(struct http *h, struct request *r, struct MHD_Connection *c, const char *path,
                      const struct head *head)
{
    struct api_error *err = &r->error;
    if (r->is_bad_uri || head->is_bad || head->n_lengths + head->n_encodings > 1 ||
        head->n_hosts > 1)
        return api_error_set(err, "malformed_request", NULL,
                             "the request's head is malformed or ambiguous");
    r->route = router_find(r->method, path, &r->allow, err);
    if (!r->route || !r->route->is_public) {
        struct api_error denied;
        const char *x_api_key = header(c, "x-api-key");
        if (!auth_allows(h->server->auth, header(c, "Authorization"),
                         x_api_key ? x_api_key : header(c, "api-key"))) {
            api_error_set(&denied, "invalid_api_key", NULL,
                          "this server wants an API key: send 'Authorization: Bearer KEY'");
            *err = denied;
            return -1;
        }
    }
    if (!r->route) return -1;
    if (r->route->answer) return 0;
    if (check_content_type(header(c, "Content-Type"), err) != 0) return -1;
    if (head->length > MAX_BODY)
        return api_error_set(err, "request_too_large", NULL,
                             "the body has %llu bytes, the limit is %d",
                             (unsigned long long)head->length, (int)MAX_BODY);
    return 0;
}

/* ---- replies ------------------------------------------------------------------------------------
 */

static void add_lines(struct MHD_Response *response, const char *lines)
{
    while (lines && *lines) {
        const char *colon = strchr(lines, ':'), *end = strchr(lines, '\n');
        char name[64], value[128];
        snprintf(name, sizeof(name), "%.*s", (int)(colon - lines), lines);
        snprintf(value, sizeof(value), "%.*s", (int)(end - colon - 2), colon + 2);
        MHD_add_response_header(response, name, value);
        lines = end + 1;
    }
}

static enum MHD_Result queue(struct request *r, struct MHD_Connection *c, int status,
                             struct MHD_Response *response)
{
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "x-request-id", r->id);
    r->status = status;
    enum MHD_Result rc = MHD_queue_response(c, (unsigned)status, response);
    MHD_destroy_response(response);
    return rc;
}

/* Sends a whole body, which is taken. */
static enum MHD_Result reply(struct request *r, struct MHD_Connection *c, int status,
                             const char *content_type, const char *lines, struct buffer *body)
{
    conn_reply(r->conn, body->len);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body->len, body->data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        buffer_done(body);
        return MHD_NO;
    }
    *body = (struct buffer){0};
    MHD_add_response_header(response, "Content-Type", content_type);
    if (status == 405 && r->allow) MHD_add_response_header(response, "Allow", r->allow);
    add_lines(response, lines);
    return queue(r, c, status, response);
}

static enum MHD_Result refuse(struct request *r, struct MHD_Connection *c,
                              const struct api_error *err)
{
    struct buffer body = {0};
    r->error = *err;
    api_error_body(&body, err);
    buffer_printf(&body, "\n");
    return reply(r, c, err->status, "application/json", err->headers, &body);
}

struct stream_source {
    struct request *request; /* borrowed: the connection's reference outlives the response */
    struct MHD_Connection *connection;
};

static ssize_t read_stream(void *user, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct stream_source *source = user;
    long n = request_read(source->request, source->connection, out, max);
    if (n == REQUEST_READ_END) return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == REQUEST_READ_ABORT) return MHD_CONTENT_READER_END_WITH_ERROR;
    return n;
}

static enum MHD_Result begin_stream(struct request *r, struct MHD_Connection *c)
{
    struct stream_source *source = xcalloc(1, sizeof(*source));
    *source = (struct stream_source){r, c};
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, source, free);
    if (!response) {
        free(source);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    return queue(r, c, 200, response);
}

/* ---- requests, on the event thread --------------------------------------------------------------
 */

static enum MHD_Result begin(struct http *h, struct request *r, struct MHD_Connection *c,
                             const char *path)
{
    struct head head = {0};
    MHD_get_connection_values(c, MHD_HEADER_KIND, read_header, &head);
    r->is_head_seen = true;
    r->path = xstrdup(path);
    choose_id(r, header(c, "x-request-id"));
    conn_body(r->conn);
    if (check_head(h, r, c, path, &head) == 0) return MHD_YES;
    /* Before the body is read is the only chance to answer a client that sends more than we read,
     * or that waits for leave to send.  libmicrohttpd closes the connection after such an answer.
     */
    bool is_malformed = r->error.status == 400;
    if (is_malformed || head.length > MAX_DRAIN || (head.expects_continue && head.length > 0)) {
        if (!r->error.headers) r->error.headers = "Connection: close\n";
        return refuse(r, c, &r->error);
    }
    return MHD_YES;
}

static enum MHD_Result take_body(struct http *h, struct request *r, const char *data, size_t len)
{
    conn_received(r->conn, len);
    if (r->error.status == 0 && !r->route->answer) {
        if (r->body.len + len > MAX_BODY)
            api_error_set(&r->error, "request_too_large", NULL,
                          "the body has more than the limit of %d bytes", (int)MAX_BODY);
        else if (atomic_fetch_add(&h->server->body_bytes, len) + len > MAX_BODIES) {
            atomic_fetch_sub(&h->server->body_bytes, len);
            api_error_set(&r->error, "server_overloaded", NULL, "too many large requests at once");
        } else {
            buffer_append(&r->body, data, len);
            return MHD_YES;
        }
        atomic_fetch_sub(&h->server->body_bytes, r->body.len);
        buffer_done(&r->body);
    }
    r->n_discarded += len;
    return r->n_discarded <= MAX_DRAIN ? MHD_YES : MHD_NO;
}

static enum MHD_Result answer_simple(struct http *h, struct request *r, struct MHD_Connection *c)
{
    struct buffer body = {0};
    struct api_error err;
    if (r->route->answer(h->server, r->path, &body, &err) != 0) {
        buffer_done(&body);
        return refuse(r, c, &err);
    }
    return reply(r, c, 200, r->route->content_type, NULL, &body);
}

static enum MHD_Result next_step(struct request *r, struct MHD_Connection *c)
{
    switch (request_next(r, c)) {
    case REQUEST_SUSPENDED:
        return MHD_YES;
    case REQUEST_STREAM:
        return begin_stream(r, c);
    case REQUEST_REPLY:
        if (r->failure.status != 0) return refuse(r, c, &r->failure);
        return reply(r, c, 200, "application/json", NULL, &r->answer_body);
    case REQUEST_CLOSE:
        break;
    }
    return MHD_NO;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *protocol, const char *data,
                                  size_t *len, void **request)
{
    (void)protocol;
    struct http *h = user;
    struct request *r = *request;
    if (!r->is_head_seen) {
        r->method = method;
        return begin(h, r, c, path);
    }
    if (*len > 0) {
        size_t n = *len;
        *len = 0;
        return take_body(h, r, data, n);
    }
    if (r->admitted_us != 0) return next_step(r, c);
    if (r->error.status != 0) return refuse(r, c, &r->error);
    if (r->route->answer) return answer_simple(h, r, c);

    /* First count as working, then look: http_drain does it the other way round, so one sees the
     * other. */
    struct api_error err;
    conn_work(r->conn, r);
    if (atomic_load(&h->server->is_draining)) {
        api_error_set(&err, "shutting_down", NULL, "the server is shutting down");
        return refuse(r, c, &err);
    }
    if (request_admit(r, &err) != 0) return refuse(r, c, &err);
    return next_step(r, c);
}

static struct conn *conn_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* Called with the target as it came, before anything else; what it returns is the request's
 * context. */
static void *on_target(void *user, const char *target, struct MHD_Connection *c)
{
    struct http *h = user;
    struct request *r = request_new(h->server);
    r->conn = conn_of(c);
    r->is_bad_uri = !router_target_is_plain(target);
    conn_head(r->conn);
    return r;
}

static void on_completed(void *user, struct MHD_Connection *c, void **request,
                         enum MHD_RequestTerminationCode why)
{
    (void)user, (void)c, (void)why;
    struct request *r = *request;
    if (!r) return;
    *request = NULL;
    conn_idle(r->conn);
    request_completed(r);
}

static void on_connection(void *user, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct http *h = user;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = conns_add(h->conns, info->connect_fd);
    } else {
        conns_remove(*context);
        *context = NULL;
    }
}

/* ---- life ---------------------------------------------------------------------------------------
 */

int http_open(struct http **out, struct server *server, int listen_fd, struct error *err)
{
    struct http *h = xcalloc(1, sizeof(*h));
    h->server = server;
    if (conns_open(&h->conns, err) != 0) goto failed;
    if (listen(listen_fd, SOMAXCONN) != 0) {
        error_set(err, ERROR_INTERNAL, "cannot listen");
        goto failed;
    }
    h->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL,
                                 NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET, listen_fd,
                                 MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                 (size_t)CONNECTION_MEMORY, MHD_OPTION_URI_LOG_CALLBACK, on_target,
                                 h, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
    if (!h->daemon) {
        error_set(err, ERROR_INTERNAL, "libmicrohttpd does not start");
        goto failed;
    }
    *out = h;
    return 0;

failed:
    close(listen_fd);
    http_close(h);
    return -1;
}

/* Waits until no request waits for an answer.  False: time is up, or hurry_fd (-1: none) is
 * readable. */
static bool wait_idle(struct http *h, int wait_ms, int hurry_fd)
{
    int64_t until = clock_ms() + wait_ms;
    conns_drain(h->conns);
    while (conns_n_working(h->conns) > 0) {
        struct pollfd fds[2] = {{.fd = conns_idle_fd(h->conns), .events = POLLIN},
                                {.fd = hurry_fd, .events = POLLIN}};
        int64_t left = until - clock_ms();
        if (left <= 0 || poll(fds, 2, (int)left) <= 0 || fds[1].revents) return false;
        uint64_t count;
        (void)!read(fds[0].fd, &count, sizeof(count));
    }
    return true;
}

bool http_drain(struct http *h, int drain_ms, int hurry_fd)
{
    atomic_store(&h->server->is_draining, true);
    engine_refuse_new(h->server->engine);
    log_line("draining: new requests are refused, %d running, at most %d s",
             conns_n_working(h->conns), drain_ms / 1000);
    if (!wait_idle(h, drain_ms, hurry_fd)) {
        log_line("cancelling %d requests", conns_n_working(h->conns));
        conns_cancel(h->conns);
    }
    int fd = MHD_quiesce_daemon(h->daemon);
    if (fd >= 0) close(fd);
    if (wait_idle(h, LAST_WORDS_MS, -1)) return true;
    conns_abandon(h->conns);
    return wait_idle(h, LAST_WORDS_MS, -1);
}

void http_close(struct http *h)
{
    if (!h) return;
    if (h->daemon) MHD_stop_daemon(h->daemon);
    conns_close(h->conns);
    free(h);
}
