#include "server/work.h"

#include "runtime/engine/prompt.h"
#include "server/clock.h"
#include "server/ids.h"
#include "server/log.h"
#include "server/metrics.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

void work_wake_locked(struct request *r)
{
    if (!r->suspended) return;
    struct MHD_Connection *c = r->suspended;
    r->suspended = NULL;
    MHD_resume_connection(c);
}

static void fail(struct request *r, const struct api_error *failure)
{
    pthread_mutex_lock(&r->lock);
    r->failure = *failure;
    work_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
}

/* ---- the engine's thread ------------------------------------------------------------------------
 */

/* A worker's: the answer is complete, make it one reply. */
static void finish(struct job *job)
{
    struct request *r = (struct request *)job;
    struct api_error failure = {0};
    struct buffer body = {0};
    /* Nobody else touches the events of a finished answer that is not a stream. */
    if (reply_failure(&r->end, &failure) == 0)
        reply_completion(&body, &r->reply, &r->events, &r->end);
    pthread_mutex_lock(&r->lock);
    r->failure = failure;
    r->answer_body = body;
    r->is_answered = true;
    work_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
    request_unref(r); /* the engine's, handed over */
}

static void observe_locked(struct request *r, const struct gen_event *event)
{
    struct metrics *m = r->server->metrics;
    int64_t now = clock_us();
    if (event->n_tokens > 0 && r->n_tokens == 0) {
        r->first_us = now;
        metrics_observe(m, METRIC_FIRST_TOKEN, (double)(now - r->admitted_us) / 1e6, 1);
    } else if (event->n_tokens > 0) {
        metrics_observe(m, METRIC_INTER_TOKEN, (double)(now - r->last_us) / 1e6 / event->n_tokens,
                        event->n_tokens);
    }
    if (event->n_tokens > 0) r->last_us = now;
    r->n_tokens += event->n_tokens;
    if (!event->is_last) return;
    metrics_observe(m, METRIC_QUEUE, event->timings.queue_ms / 1e3, 1);
    if (event->finish == GEN_STOP || event->finish == GEN_LENGTH)
        metrics_observe(m, METRIC_END_TO_END, (double)(now - r->admitted_us) / 1e6, 1);
}

static void on_event(void *user, const struct gen_event *event)
{
    struct request *r = user;
    pthread_mutex_lock(&r->lock);
    observe_locked(r, event);
    if (r->is_streaming && r->events.len >= STREAM_BUFFER_MAX) r->is_overrun = true;
    if (!r->is_gone && !r->is_overrun) answer_append(&r->events, event);
    if (event->is_last) {
        r->is_finished = true;
        r->end = (struct reply_end){event->finish, event->timings};
    }
    /* An overrun stream is closed by request_tick. */
    bool is_streaming = r->is_streaming;
    if (is_streaming) work_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
    if (!event->is_last) return;

    if (event->finish == GEN_FAILED)
        log_line("request=%s failure=%s", r->id, event->failure ? event->failure : "unknown");
    if (is_streaming) {
        request_unref(r);
    } else {
        r->job.run = finish;
        workers_finish(r->server->workers, &r->job);
    }
}

/* ---- a worker -----------------------------------------------------------------------------------
 */

static void fill_reply(struct request *r, const struct chat_request *chat,
                       const struct prompt *prompt)
{
    struct reply *reply = &r->reply;
    reply->engine = r->server->engine;
    reply->version = r->server->version;
    ids_make(reply->id, "chatcmpl-");
    reply->created = time(NULL);
    reply->model = xstrdup(chat->model);
    reply->n_prompt = prompt_n_tokens(prompt);
    reply->logprobs = chat->generation.sampling.n_logprobs >= 0;
    reply->include_usage = chat->stream && chat->include_usage;
    reply->return_token_ids = chat->return_token_ids;
    if (chat->return_token_ids) {
        size_t size = (size_t)reply->n_prompt * sizeof(*reply->prompt_ids);
        reply->prompt_ids = xcalloc(size, 1);
        memcpy(reply->prompt_ids, prompt_tokens(prompt), size);
    }
    r->n_images = chat->messages.n_images;
}

/* Gives the prompt to the engine, which takes it. */
static int submit(struct request *r, const struct chat_request *chat, struct prompt *prompt,
                  struct api_error *failure)
{
    int64_t room = r->server->limits.info->max_model_len - prompt_n_tokens(prompt);
    struct generation g = chat->generation;
    g.prompt = prompt;
    g.sampling.max_tokens =
        (int32_t)(chat->max_tokens < 0 || chat->max_tokens > room ? room : chat->max_tokens);
    g.on_event = on_event;
    g.user = r;

    uint64_t id;
    struct error err;
    request_ref(r); /* the engine's */
    if (engine_submit(r->server->engine, &g, &id, &err) != 0) {
        request_unref(r);
        if (err.kind == ERROR_INTERNAL) log_line("request=%s failure=%s", r->id, err.text);
        if (err.kind == ERROR_BUSY && atomic_load(&r->server->is_draining))
            return api_error_set(failure, "shutting_down", NULL, "the server is shutting down");
        return api_error_from(failure, &err, "messages");
    }
    pthread_mutex_lock(&r->lock);
    r->has_generation = true;
    r->generation = id;
    r->is_admitted = true;
    bool is_cancelled = r->is_cancelled && !r->is_finished;
    if (r->is_streaming) work_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
    /* Whoever cancelled before could not know the id. */
    if (is_cancelled) engine_cancel(r->server->engine, id);
    return 0;
}

static int prepare(struct request *r, struct api_error *failure)
{
    struct chat_request chat = {0};
    struct prompt *prompt = NULL;
    struct error err;
    if (openai_parse(&chat, r->body.data ? r->body.data : "", r->body.len, &r->server->limits,
                     failure) != 0)
        return -1;
    atomic_fetch_sub(&r->server->body_bytes, r->body.len);
    buffer_done(&r->body);
    if (prompt_build(&prompt, r->server->engine, chat.messages.list, chat.messages.n,
                     chat.messages.image_urls, chat.messages.n_images, &err) != 0) {
        if (err.kind == ERROR_INTERNAL) log_line("request=%s failure=%s", r->id, err.text);
        api_error_from(failure, &err, "messages");
        goto failed;
    }
    fill_reply(r, &chat, prompt);
    pthread_mutex_lock(&r->lock);
    r->is_streaming = chat.stream;
    bool is_wanted = !r->is_cancelled;
    pthread_mutex_unlock(&r->lock);
    if (!is_wanted) {
        prompt_free(prompt);
        api_error_set(failure, "shutting_down", NULL, "the server is shutting down");
        goto failed;
    }
    int rc = submit(r, &chat, prompt, failure);
    openai_done(&chat);
    return rc;

failed:
    openai_done(&chat);
    return -1;
}

void work_prepare(struct job *job)
{
    struct request *r = (struct request *)job;
    struct api_error failure;
    pthread_mutex_lock(&r->lock);
    bool is_gone = r->is_gone; /* left while it waited: spare the work */
    pthread_mutex_unlock(&r->lock);
    if (!is_gone && prepare(r, &failure) != 0) fail(r, &failure);
    request_unref(r); /* the worker's */
}
