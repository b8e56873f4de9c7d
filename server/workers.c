#include "server/workers.h"

#include "runtime/mem.h"

#include <pthread.h>
#include <stdlib.h>

struct queue {
    struct job *first, **last;
};

struct workers {
    int n_threads, max_new;
    pthread_t *threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* All under lock. */
    struct queue finishing,
        starting; /* finishing goes first: somebody waits for an answer that is there */
    int n_starting;
    bool is_stopping, is_stopped;
};

static void push(struct queue *q, struct job *job)
{
    job->next = NULL;
    *q->last = job;
    q->last = &job->next;
}

static struct job *pop(struct queue *q)
{
    struct job *job = q->first;
    if (!job) return NULL;
    q->first = job->next;
    if (!q->first) q->last = &q->first;
    return job;
}

static void *run(void *user)
{
    struct workers *w = user;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct job *job = pop(&w->finishing);
        if (!job) {
            job = pop(&w->starting);
            if (job) w->n_starting--;
        }
        if (job) {
            pthread_mutex_unlock(&w->lock);
            job->run(job);
            pthread_mutex_lock(&w->lock);
        } else if (w->is_stopping) {
            break;
        } else {
            pthread_cond_wait(&w->changed, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int workers_open(struct workers **out, int n_threads, int max_new, struct error *err)
{
    struct workers *w = xcalloc(1, sizeof(*w));
    w->max_new = max_new;
    w->threads = xcalloc((size_t)n_threads, sizeof(*w->threads));
    w->starting.last = &w->starting.first;
    w->finishing.last = &w->finishing.first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    for (; w->n_threads < n_threads; w->n_threads++) {
        if (pthread_create(&w->threads[w->n_threads], NULL, run, w) == 0) continue;
        error_set(err, ERROR_INTERNAL, "no thread for worker %d of %d", w->n_threads + 1,
                  n_threads);
        goto failed;
    }
    *out = w;
    return 0;

failed:
    workers_stop(w);
    workers_close(w);
    return -1;
}

void workers_stop(struct workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->is_stopping = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n_threads; i++) pthread_join(w->threads[i], NULL);
    pthread_mutex_lock(&w->lock);
    w->n_threads = 0;
    w->is_stopped = true;
    /* What was pushed while the last thread left. */
    struct job *job;
    while ((job = pop(&w->finishing)) || (job = pop(&w->starting))) {
        pthread_mutex_unlock(&w->lock);
        job->run(job);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

void workers_close(struct workers *w)
{
    if (!w) return;
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w->threads);
    free(w);
}

bool workers_start(struct workers *w, struct job *job)
{
    pthread_mutex_lock(&w->lock);
    bool has_room = w->n_starting < w->max_new && !w->is_stopping;
    if (has_room) {
        push(&w->starting, job);
        w->n_starting++;
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return has_room;
}

void workers_finish(struct workers *w, struct job *job)
{
    pthread_mutex_lock(&w->lock);
    bool is_stopped = w->is_stopped;
    if (!is_stopped) {
        push(&w->finishing, job);
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    if (is_stopped) job->run(job);
}
