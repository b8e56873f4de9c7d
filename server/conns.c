#include "server/conns.h"

#include "server/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEAD_MS = 10 * 1000,
    IDLE_MS = 75 * 1000,
    TRANSFER_MS = 30 * 1000,
    MIN_BYTES_PER_MS = 64, /* 64 KiB/s */
    TICK_MS = 250,
    SEND_BUFFER = 128 << 10, /* of the kernel, a connection; else it grows to megabytes */
    MAX_EVENTS = 64,
};

enum phase { PHASE_HEAD, PHASE_BODY, PHASE_WORK, PHASE_REPLY };

struct conn {
    struct conns *table;
    struct conn *prev, *next;
    uint64_t serial; /* names the connection in epoll: events may be older than its end */
    int fd;
    enum phase phase;
    int64_t deadline_ms;
    size_t n_received;
    struct request *request; /* borrowed from PHASE_WORK to the end of the reply, else NULL */
    bool is_watched;
};

struct conns {
    pthread_mutex_t lock;
    /* All under lock, but the descriptors. */
    struct conn *first;
    uint64_t last_serial;
    int n_working;
    bool is_draining, is_closing;
    int epoll_fd, wake_fd, idle_fd;
    pthread_t thread;
    bool has_thread;
};

static void signal_fd(int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof(one)) < 0) return; /* full: it is readable already */
}

static struct conn *find_locked(struct conns *c, uint64_t serial)
{
    struct conn *conn = c->first;
    while (conn && conn->serial != serial) conn = conn->next;
    return conn;
}

/* libmicrohttpd can send nothing while a body is coming, but the socket is free then. */
static void send_timeout(int fd)
{
    static const char BODY[] =
        "{\"error\":{\"message\":\"the request's body came too slowly\",\"type\":"
        "\"invalid_request_error\",\"param\":null,\"code\":\"request_timeout\"}}";
    char text[512];
    int n = snprintf(
        text, sizeof(text),
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
        "Connection: close\r\n\r\n%s",
        sizeof(BODY) - 1, BODY);
    (void)!send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void check_locked(struct conn *conn, int64_t now)
{
    bool is_late = false;
    switch (conn->phase) {
    case PHASE_HEAD:
    case PHASE_REPLY:
        is_late = now >= conn->deadline_ms;
        break;
    case PHASE_BODY:
        is_late = now >= conn->deadline_ms + (int64_t)(conn->n_received / MIN_BYTES_PER_MS);
        if (is_late) send_timeout(conn->fd);
        break;
    case PHASE_WORK:
        is_late = request_tick(conn->request, now);
        if (is_late) request_client_left(conn->request);
        break;
    }
    /* The event thread sees the end of the connection and closes it. */
    if (is_late) shutdown(conn->fd, SHUT_RDWR);
}

static void *run(void *user)
{
    struct conns *c = user;
    struct epoll_event events[MAX_EVENTS];
    bool is_closing = false;
    int timeout = -1;
    while (!is_closing) {
        int n = epoll_wait(c->epoll_fd, events, MAX_EVENTS, timeout);
        pthread_mutex_lock(&c->lock);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == 0) {
                uint64_t count;
                (void)!read(c->wake_fd, &count, sizeof(count));
                continue;
            }
            struct conn *conn = find_locked(c, events[i].data.u64);
            if (conn && conn->phase == PHASE_WORK) request_client_left(conn->request);
        }
        int64_t now = clock_ms();
        for (struct conn *conn = c->first; conn; conn = conn->next) check_locked(conn, now);
        timeout = c->first ? TICK_MS : -1;
        is_closing = c->is_closing;
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

int conns_open(struct conns **out, struct error *err)
{
    struct conns *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->idle_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = 0};
    if (c->epoll_fd < 0 || c->wake_fd < 0 || c->idle_fd < 0 ||
        epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wake_fd, &wake) != 0) {
        error_set(err, ERROR_INTERNAL, "no descriptors to watch connections: %s", strerror(errno));
        goto failed;
    }
    if (pthread_create(&c->thread, NULL, run, c) != 0) {
        error_set(err, ERROR_INTERNAL, "no thread to watch connections");
        goto failed;
    }
    c->has_thread = true;
    *out = c;
    return 0;

failed:
    conns_close(c);
    return -1;
}

void conns_close(struct conns *c)
{
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->is_closing = true;
    pthread_mutex_unlock(&c->lock);
    if (c->has_thread) {
        signal_fd(c->wake_fd);
        pthread_join(c->thread, NULL);
    }
    if (c->epoll_fd >= 0) close(c->epoll_fd);
    if (c->wake_fd >= 0) close(c->wake_fd);
    if (c->idle_fd >= 0) close(c->idle_fd);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void enter_locked(struct conn *conn, enum phase phase, int64_t limit_ms)
{
    conn->phase = phase;
    conn->deadline_ms = clock_ms() + limit_ms;
}

struct conn *conns_add(struct conns *c, int fd)
{
    struct conn *conn = xcalloc(1, sizeof(*conn));
    conn->table = c;
    conn->fd = fd;
    int size = SEND_BUFFER;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    pthread_mutex_lock(&c->lock);
    conn->serial = ++c->last_serial;
    enter_locked(conn, PHASE_HEAD, HEAD_MS);
    bool is_first = !c->first;
    conn->next = c->first;
    if (c->first) c->first->prev = conn;
    c->first = conn;
    pthread_mutex_unlock(&c->lock);
    if (is_first) signal_fd(c->wake_fd); /* the thread may sleep without a timeout */
    return conn;
}

static void leave_work_locked(struct conn *conn)
{
    struct conns *c = conn->table;
    if (conn->is_watched) epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    conn->is_watched = false;
    if (!conn->request) return;
    conn->request = NULL;
    if (--c->n_working == 0 && c->is_draining) signal_fd(c->idle_fd);
}

void conns_remove(struct conn *conn)
{
    struct conns *c = conn->table;
    pthread_mutex_lock(&c->lock);
    leave_work_locked(conn);
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        c->first = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    pthread_mutex_unlock(&c->lock);
    free(conn);
}

static void enter(struct conn *conn, enum phase phase, int64_t limit_ms)
{
    pthread_mutex_lock(&conn->table->lock);
    conn->n_received = 0;
    enter_locked(conn, phase, limit_ms);
    pthread_mutex_unlock(&conn->table->lock);
}

void conn_head(struct conn *conn)
{
    enter(conn, PHASE_HEAD, HEAD_MS);
}

void conn_body(struct conn *conn)
{
    enter(conn, PHASE_BODY, TRANSFER_MS);
}

void conn_received(struct conn *conn, size_t n)
{
    pthread_mutex_lock(&conn->table->lock);
    conn->n_received += n;
    pthread_mutex_unlock(&conn->table->lock);
}

void conn_work(struct conn *conn, struct request *request)
{
    struct conns *c = conn->table;
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = conn->serial};
    pthread_mutex_lock(&c->lock);
    enter_locked(conn, PHASE_WORK, 0);
    conn->request = request;
    c->n_working++;
    conn->is_watched = epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) == 0;
    pthread_mutex_unlock(&c->lock);
}

void conn_reply(struct conn *conn, size_t len)
{
    struct conns *c = conn->table;
    pthread_mutex_lock(&c->lock);
    enter_locked(conn, PHASE_REPLY, TRANSFER_MS + (int64_t)(len / MIN_BYTES_PER_MS));
    pthread_mutex_unlock(&c->lock);
}

void conn_idle(struct conn *conn)
{
    struct conns *c = conn->table;
    pthread_mutex_lock(&c->lock);
    leave_work_locked(conn);
    enter_locked(conn, PHASE_HEAD, IDLE_MS);
    pthread_mutex_unlock(&c->lock);
}

int conns_n_working(struct conns *c)
{
    pthread_mutex_lock(&c->lock);
    int n = c->n_working;
    pthread_mutex_unlock(&c->lock);
    return n;
}

int conns_idle_fd(struct conns *c)
{
    return c->idle_fd;
}

void conns_drain(struct conns *c)
{
    pthread_mutex_lock(&c->lock);
    c->is_draining = true;
    if (c->n_working == 0) signal_fd(c->idle_fd);
    pthread_mutex_unlock(&c->lock);
}

static void end_all(struct conns *c, void (*end)(struct request *r))
{
    pthread_mutex_lock(&c->lock);
    for (struct conn *conn = c->first; conn; conn = conn->next)
        if (conn->request) end(conn->request);
    pthread_mutex_unlock(&c->lock);
}

void conns_cancel(struct conns *c)
{
    end_all(c, request_cancel);
}

void conns_abandon(struct conns *c)
{
    end_all(c, request_client_left);
}
