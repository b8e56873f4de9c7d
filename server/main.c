/* The program: command line, model, HTTP, and an orderly end.
 *
 * Threads: this one waits for signals; libmicrohttpd's event thread and the connections' watcher
 * (http.h, conns.h); the workers (workers.h); the log's (log.h); and what the engine starts. */
#include "server/auth.h"
#include "server/clock.h"
#include "server/http.h"
#include "server/listen.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/workers.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const char EMBEDDED_MODEL[] = MODELS_DIR "/vispecd-tiny";

enum {
    EXIT_USAGE = 64,
    N_WORKERS = 2,
    MAX_WAITING_FOR_WORKER = 256,
};

struct program {
    struct options options;
    struct server server;
    const char *names[MAX_SERVED_NAMES + 1];
    struct http *http;
    char *url;
    bool is_local;
    int listen_fd, signal_fd;
};

/* From here on SIGTERM and SIGINT are read from signal_fd; threads that start later inherit the
 * mask. */
static int take_signals(struct program *p, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    return p->signal_fd >= 0 ? 0 : error_set(err, ERROR_INTERNAL, "no signalfd");
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= 2 * MAX_CONNECTIONS) return;
    limit.rlim_cur = limit.rlim_max < 2 * MAX_CONNECTIONS ? limit.rlim_max : 2 * MAX_CONNECTIONS;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Clients may use the served names and the folder's own name; the first is the one shown. */
static void name_model(struct program *p, const struct engine_info *info)
{
    int n = 0;
    for (; n < p->options.n_served_names; n++) p->names[n] = p->options.served_names[n];
    p->server.n_listed_names = n > 0 ? n : 1;
    p->names[n++] = info->model_name;
    p->server.limits =
        (struct openai_limits){.info = info, .model_names = p->names, .n_model_names = n};
}

static int start(struct program *p, struct error *err)
{
    struct server *s = &p->server;
    const struct options *o = &p->options;
    raise_descriptor_limit();
    if (take_signals(p, err) != 0) return -1;
    if (o->api_key_file && auth_open(&s->auth, o->api_key_file, err) != 0) return -1;
    if (listen_bind(&p->listen_fd, &p->url, &p->is_local, o->host, o->port, err) != 0) return -1;
    if (engine_open(&s->engine, &o->engine, err) != 0) return -1;
    name_model(p, engine_info(s->engine));
    s->version = VERSION;
    s->started = time(NULL);
    s->metrics = metrics_new();
    if (workers_open(&s->workers, N_WORKERS, MAX_WAITING_FOR_WORKER, err) != 0) return -1;
    log_open();
    int fd = p->listen_fd;
    p->listen_fd = -1;
    return http_open(&p->http, s, fd, err);
}

static void close_all(struct program *p)
{
    struct server *s = &p->server;
    http_close(p->http);
    if (s->workers) workers_stop(s->workers);
    engine_close(s->engine);
    workers_close(s->workers);
    log_close();
    metrics_free(s->metrics);
    auth_close(s->auth);
    if (p->listen_fd >= 0) close(p->listen_fd);
    if (p->signal_fd >= 0) close(p->signal_fd);
    free(p->url);
}

static void greet(const struct program *p, double seconds)
{
    const struct engine_info *info = p->server.limits.info;
    printf("vispecd %s: %s on %s, draft %s, context %d tokens, ready in %.2f s\n%s\n", VERSION,
           p->names[0], info->device_name, info->draft_name, info->max_model_len, seconds, p->url);
    if (!p->is_local && !p->server.auth)
        printf("WARNING: other machines can use this server without a key; see --api-key-file\n");
    printf("try (README.md shows how to send a picture):\n"
           "curl -s %s/v1/chat/completions -H 'Content-Type: application/json' %s-d "
           "'{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"Who are you?\"}]}'\n",
           p->url, p->server.auth ? "-H 'Authorization: Bearer KEY' " : "", p->names[0]);
    fflush(stdout);
}

/* The order to end has been obeyed; a further signal ends what is left of the process at once. */
static void give_signals_back(const struct program *p)
{
    struct signalfd_siginfo info;
    struct pollfd fd = {.fd = p->signal_fd, .events = POLLIN};
    while (poll(&fd, 1, 0) > 0 && read(p->signal_fd, &info, sizeof(info)) > 0) continue;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void wait_for_signal(const struct program *p)
{
    struct signalfd_siginfo info;
    while (read(p->signal_fd, &info, sizeof(info)) != sizeof(info)) continue;
    log_line("signal=%s", strsignal((int)info.ssi_signo));
}

int main(int argc, char **argv)
{
    int64_t begin_us = clock_us();
    static struct program p = {.listen_fd = -1, .signal_fd = -1};
    struct error err;
    if (options_parse(&p.options, argc, argv, &err) != 0) {
        fprintf(stderr, "vispecd: %s\nvispecd --help lists the options\n", err.text);
        return EXIT_USAGE;
    }
    if (p.options.wants_help) {
        options_help(stdout);
        return EXIT_SUCCESS;
    }
    if (p.options.wants_version) {
        printf("vispecd %s\n", VERSION);
        return EXIT_SUCCESS;
    }
    if (!p.options.engine.model_dir) p.options.engine.model_dir = EMBEDDED_MODEL;
    if (start(&p, &err) != 0) {
        close_all(&p);
        fprintf(stderr, "vispecd: %s\n", err.text);
        return EXIT_FAILURE;
    }
    greet(&p, (double)(clock_us() - begin_us) / 1e6);
    wait_for_signal(&p);
    if (!http_drain(p.http, p.options.drain_seconds * 1000, p.signal_fd)) {
        log_line("some requests did not end");
        log_close();
        _exit(EXIT_FAILURE); /* what they hold cannot be freed */
    }
    give_signals_back(&p);
    close_all(&p);
    return EXIT_SUCCESS;
}
