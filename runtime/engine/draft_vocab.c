#include "runtime/engine/draft_vocab.h"

#include "runtime/mem.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE_LEN = 31 };

/* A file of ids while it is read. */
struct reader {
    const char *path;
    int vocab, line;
    int *line_of; /* [vocab] where each id stood; 0: nowhere */
    struct error *err;
};

/* What is no number is shown without the characters that a terminal obeys. */
static int refuse_text(const struct reader *r, char *text)
{
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    return error_set(r->err, ERROR_BAD_REQUEST, "%s: line %d: '%.*s' is not a token id", r->path,
                     r->line, MAX_LINE_LEN, text);
}

static int read_id(const struct reader *r, char *text)
{
    size_t n_digits = strspn(text, "0123456789");
    if (n_digits == 0 || text[n_digits]) return refuse_text(r, text);
    long id = n_digits < 10 ? strtol(text, NULL, 10) : r->vocab;
    if (id >= r->vocab)
        return error_set(r->err, ERROR_BAD_REQUEST,
                         "%s: line %d: %s is not below the vocabulary's %d", r->path, r->line, text,
                         r->vocab);
    if (r->line_of[id])
        return error_set(r->err, ERROR_BAD_REQUEST, "%s: line %d: %ld stands in line %d already",
                         r->path, r->line, id, r->line_of[id]);
    r->line_of[id] = r->line;
    return 0;
}

static int read_lines(struct reader *r, FILE *file)
{
    char text[MAX_LINE_LEN + 1];
    while (fgets(text, sizeof(text), file)) {
        r->line++;
        size_t len = strcspn(text, "\n");
        if (text[len] != '\n' && !feof(file)) return refuse_text(r, text); /* longer, or with NUL */
        text[len] = 0;
        if (read_id(r, text) != 0) return -1;
    }
    if (!ferror(file)) return 0;
    return error_set(r->err, ERROR_BAD_REQUEST, "%s: %s", r->path, strerror(errno));
}

static int read_file(const struct draft_vocab *v, int *line_of, struct error *err)
{
    struct reader r = {.path = v->option, .vocab = v->vocab, .line_of = line_of, .err = err};
    FILE *file = fopen(v->option, "re");
    if (!file) return error_set(err, ERROR_BAD_REQUEST, "%s: %s", v->option, strerror(errno));
    int result = read_lines(&r, file);
    fclose(file);
    if (result != 0 || r.line >= v->k) return result;
    return error_set(err, ERROR_BAD_REQUEST, "%s: %d token ids, but --draft-top-k is %d", v->option,
                     r.line, v->k);
}

static void mark(const struct draft_vocab *v, int *is_chosen, int id)
{
    if (id < v->vocab) is_chosen[id] = 1;
}

static void mark_default(const struct draft_vocab *v, int *is_chosen)
{
    size_t n;
    const struct added_token *added = tokenizer_added_tokens(v->tokenizer, &n);
    for (int id = 0; id < DRAFT_VOCAB_FIRST; id++) mark(v, is_chosen, id);
    for (size_t i = 0; i < n; i++) mark(v, is_chosen, added[i].id);
    for (int i = 0; i < v->generation->n_eos_ids; i++)
        mark(v, is_chosen, v->generation->eos_ids[i]);
}

int draft_vocab_choose(struct token_list *out, const struct draft_vocab *v, struct error *err)
{
    *out = (struct token_list){0};
    if (v->option ? strcmp(v->option, "all") == 0 : v->vocab <= DRAFT_VOCAB_FULL) return 0;
    int *is_chosen = xcalloc((size_t)v->vocab, sizeof(*is_chosen)), result = 0;
    if (v->option)
        result = read_file(v, is_chosen, err);
    else
        mark_default(v, is_chosen);
    for (int id = 0; result == 0 && id < v->vocab; id++)
        if (is_chosen[id]) token_list_push(out, id);
    free(is_chosen);
    return result;
}
