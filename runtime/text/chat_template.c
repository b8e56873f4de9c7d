#include "runtime/text/chat_template.h"

#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/text/chat_template_impl.h"

#define MAX_SOURCE_LEN (1 << 20)

struct chat_template {
    const char *name;
    const char *image_token; /* NULL: takes no images */
    chat_render_fn *render;
    bool alternates; /* user and assistant by turns, behind at most one system message */
};

static const struct chat_template templates[] = {
    {"llava-1.5", "<image>", chat_render_llava, false},
    {"llava-1.5-first", "<image>", chat_render_llava_first, false},
    {"llava-1.6", "<image>", chat_render_llava, false}, /* its text is a revision of 1.5's */
    {"llava-v1", "<image>", chat_render_llava_v1, false},
    {"vicuna", "<image>", chat_render_vicuna, false},
    {"qwen2.5-vl", "<|image_pad|>", chat_render_qwen2_5_vl, false},
    {"qwen2.5-text", NULL, chat_render_qwen2_5_text, false},
    {"llama-2", NULL, chat_render_llama_2, true},
    {"llama-text", NULL, chat_render_llama_text, false},
};
#define N_TEMPLATES (sizeof(templates) / sizeof(*templates))

void chat_segments_done(struct chat_segments *segments)
{
    free(segments->items);
    *segments = (struct chat_segments){0};
}

const struct chat_template *chat_template_by_name(const char *name)
{
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0) return &templates[i];
    return NULL;
}

const struct chat_template *chat_template_by_text(const char *text, size_t len)
{
    while (len > 0 && strchr(" \t\r\n", text[len - 1])) len--;
    for (size_t i = 0; i < chat_n_sources; i++) {
        const struct chat_source *source = &chat_sources[i];
        if (strlen(source->text) == len && memcmp(source->text, text, len) == 0)
            return chat_template_by_name(source->name);
    }
    return NULL;
}

const char *chat_template_name(const struct chat_template *t)
{
    return t->name;
}

const char *chat_template_image_token(const struct chat_template *t)
{
    return t->image_token;
}

/* "what; choose one with --chat-template: a, b, c" */
static int unknown(struct error *err, const char *where, const char *what)
{
    char names[200] = "";
    for (size_t i = 0; i < N_TEMPLATES; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "", templates[i].name);
    }
    return error_set(err, ERROR_BAD_REQUEST, "%.200s: %s; choose one with --chat-template: %s",
                     where, what, names);
}

/* Appends the file's content; false if there is no such file, or it cannot be read. */
static bool read_file(const char *path, struct buffer *out)
{
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    char block[4096];
    size_t n;
    while (out->len < MAX_SOURCE_LEN && (n = fread(block, 1, sizeof(block), file)) > 0)
        buffer_append(out, block, n);
    bool is_read = !ferror(file);
    fclose(file);
    return is_read;
}

/* The template text in a JSON file's "chat_template", or in the entry "default" of a list of them.
 */
static const json_t *find_source(const json_t *root)
{
    const json_t *value = json_object_get(root, "chat_template");
    if (!json_is_array(value)) return json_is_string(value) ? value : NULL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        const json_t *text = json_object_get(entry, "template");
        if (name && strcmp(name, "default") == 0 && json_is_string(text)) return text;
    }
    return NULL;
}

/* Appends the template text of a JSON file, if there is such a file and it has one. */
static int read_json_text(const char *path, struct buffer *out, bool *is_found, struct error *err)
{
    json_error_t why;
    *is_found = false;
    if (access(path, F_OK) != 0) return 0;
    /* model_max_length is often 10^30, which as an integer jansson refuses. */
    json_t *root = json_load_file(path, JSON_DECODE_INT_AS_REAL, &why);
    if (!root)
        return error_set(err, ERROR_BAD_REQUEST, "%.200s: line %d: %s", path, why.line, why.text);
    const json_t *text = find_source(root);
    if (text) buffer_append(out, json_string_value(text), json_string_length(text));
    *is_found = text != NULL;
    json_decref(root);
    return 0;
}

/* Appends the folder's template text; *path gets where it was found, owned by the caller, or NULL.
 */
static int find_text(const char *model_dir, struct buffer *out, char **path, struct error *err)
{
    *path = xprintf("%s/chat_template.jinja", model_dir);
    if (read_file(*path, out)) return 0;
    free(*path);
    static const char *const files[] = {"chat_template.json", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        *path = xprintf("%s/%s", model_dir, files[i]);
        bool is_found;
        int result = read_json_text(*path, out, &is_found, err);
        if (result == 0 && is_found) return 0;
        free(*path);
        *path = NULL;
        if (result != 0) return -1;
    }
    return 0;
}

int chat_template_choose(const struct chat_template **out, const char *model_dir, const char *name,
                         struct error *err)
{
    const struct chat_template *t = NULL;
    if (name) {
        t = chat_template_by_name(name);
        if (!t) return unknown(err, name, "there is no built-in chat template of this name");
        *out = t;
        return 0;
    }
    struct buffer text = {0};
    char *path = NULL;
    if (find_text(model_dir, &text, &path, err) != 0) {
        buffer_done(&text);
        return -1;
    }
    if (path) t = chat_template_by_text(text.data ? text.data : "", text.len);
    if (t)
        *out = t;
    else if (path)
        unknown(err, path, "this chat template is not built in");
    else
        unknown(err, model_dir, "the folder has no chat template");
    free(path);
    buffer_done(&text);
    return t ? 0 : -1;
}

int chat_template_render(const struct chat_template *t, const struct chat_message *messages,
                         size_t n_messages, bool opens_answer, struct chat_segments *out,
                         struct error *err)
{
    for (size_t m = 0; m < n_messages && !t->image_token; m++)
        for (size_t i = 0; i < messages[m].n_parts; i++)
            if (messages[m].parts[i].kind == CHAT_IMAGE)
                return error_set(err, ERROR_BAD_REQUEST,
                                 "messages[%zu]: this model takes no images", m);
    size_t first = n_messages > 0 && messages[0].role == CHAT_SYSTEM;
    for (size_t m = first; m < n_messages && t->alternates; m++)
        if (messages[m].role != ((m - first) % 2 == 0 ? CHAT_USER : CHAT_ASSISTANT))
            return error_set(err, ERROR_BAD_REQUEST,
                             "messages[%zu]: this model takes a system message, then user and "
                             "assistant by turns",
                             m);
    t->render(messages, n_messages, opens_answer, out);
    return 0;
}

void chat_template_text(const struct chat_template *t, const struct chat_segments *segments,
                        struct buffer *out)
{
    for (size_t i = 0; i < segments->n; i++) {
        const struct chat_segment *s = &segments->items[i];
        if (s->kind == SEGMENT_IMAGE)
            buffer_append(out, t->image_token, strlen(t->image_token));
        else if (s->len > 0)
            buffer_append(out, s->text, s->len);
    }
}

/* One call of chat_template_tokens. */
struct assembly {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    struct buffer run; /* text since the last control token */
    bool is_behind_control;
};

static void end_run(struct assembly *a)
{
    if (a->run.len > 0) {
        if (a->is_behind_control)
            tokenizer_encode_rest(a->tokenizer, a->run.data, a->run.len, SPECIALS_AS_TEXT, a->out);
        else
            tokenizer_encode(a->tokenizer, a->run.data, a->run.len, SPECIALS_AS_TEXT, a->out);
    }
    a->run.len = 0;
    a->is_behind_control = true;
}

static void add_scaffold(struct assembly *a, const char *text, size_t len)
{
    size_t done = 0;
    struct token_match match;
    while (tokenizer_next_special(a->tokenizer, text, len, done, &match)) {
        buffer_append(&a->run, text + done, match.start - done);
        end_run(a);
        token_list_push(a->out, match.id);
        done = match.end;
    }
    buffer_append(&a->run, text + done, len - done);
}

/* Whether the template begins with the control token that the tokenizer would put in front. */
static bool writes_prefix(const struct chat_segments *segments, const struct tokenizer *tokenizer,
                          const int32_t *prefix)
{
    if (segments->n == 0 || segments->items[0].kind != SEGMENT_SCAFFOLD) return false;
    const struct chat_segment *first = &segments->items[0];
    struct token_match match;
    return tokenizer_next_special(tokenizer, first->text, first->len, 0, &match) &&
           match.start == 0 && match.id == prefix[0];
}

void chat_template_tokens(const struct chat_segments *segments, const struct tokenizer *tokenizer,
                          int32_t image_token, const int *n_image_tokens, struct token_list *out,
                          size_t *image_pos)
{
    struct assembly a = {.tokenizer = tokenizer, .out = out};
    size_t n_prefix;
    const int32_t *prefix = tokenizer_prefix(tokenizer, &n_prefix);
    if (n_prefix > 0 && !writes_prefix(segments, tokenizer, prefix))
        token_list_append(out, prefix, n_prefix);
    for (size_t i = 0; i < segments->n; i++) {
        const struct chat_segment *s = &segments->items[i];
        switch (s->kind) {
        case SEGMENT_SCAFFOLD:
            add_scaffold(&a, s->text, s->len);
            break;
        case SEGMENT_CONTENT:
            if (s->len > 0) buffer_append(&a.run, s->text, s->len);
            break;
        case SEGMENT_IMAGE:
            end_run(&a);
            assert(n_image_tokens[s->image] >= 0);
            if (image_pos) image_pos[s->image] = out->n;
            token_list_repeat(out, image_token, (size_t)n_image_tokens[s->image]);
            break;
        }
    }
    end_run(&a);
    buffer_done(&a.run);
}
