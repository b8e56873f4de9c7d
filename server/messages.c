#include "server/messages.h"

#include "runtime/engine/prompt.h"
#include "server/json_in.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Where in the request the parser is, for errors: "messages[2].content[0]" and a key behind it. */
struct place {
    char text[64];
    struct api_error *err;
};

static int missing(const struct place *at, const char *key)
{
    char param[96];
    snprintf(param, sizeof(param), "%s.%s", at->text, key);
    return api_error_set(at->err, "missing_required_parameter", param, "'%s' is missing", param);
}

static int wrong_type(const struct place *at, const char *key, const char *wanted,
                      const json_t *value)
{
    char param[96];
    snprintf(param, sizeof(param), "%s%s%s", at->text, key[0] ? "." : "", key);
    return api_error_set(at->err, "invalid_type", param, "'%s' must be %s, not %s", param, wanted,
                         json_in_type(value));
}

static void add_part(struct messages *m, struct chat_part part)
{
    if (m->n_parts == m->parts_capacity) {
        m->parts_capacity = m->parts_capacity ? 2 * m->parts_capacity : 16;
        m->parts = xrealloc(m->parts, m->parts_capacity * sizeof(*m->parts));
    }
    m->parts[m->n_parts++] = part;
}

static void add_text(struct messages *m, const json_t *text)
{
    add_part(m, (struct chat_part){.kind = CHAT_TEXT,
                                   .text = json_string_value(text),
                                   .len = json_string_length(text)});
}

static int parse_image(struct messages *m, const json_t *part, bool has_vision,
                       const struct place *at)
{
    const json_t *image = json_in_get(part, "image_url");
    if (!image) return missing(at, "image_url");
    if (!json_is_object(image))
        return wrong_type(at, "image_url", "an object {\"url\": \"data:...\"}", image);
    const json_t *url = json_in_get(image, "url");
    if (!url) return missing(at, "image_url.url");
    if (!json_is_string(url)) return wrong_type(at, "image_url.url", "a string", url);

    char param[96];
    const json_t *detail = json_in_get(image, "detail");
    snprintf(param, sizeof(param), "%s.image_url.detail", at->text);
    if (detail && !json_is_string(detail))
        return wrong_type(at, "image_url.detail", "a string", detail);
    if (detail && strcmp(json_string_value(detail), "auto") != 0 &&
        strcmp(json_string_value(detail), "low") != 0 &&
        strcmp(json_string_value(detail), "high") != 0)
        return api_error_set(at->err, "invalid_value", param, "'%s' must be auto, low or high",
                             param);

    snprintf(param, sizeof(param), "%s.image_url.url", at->text);
    if (strncasecmp(json_string_value(url), "data:", 5) != 0)
        return api_error_set(at->err, "invalid_image_url", param,
                             "'%s' must be a data: URL with base64; this server fetches nothing",
                             param);
    if (!has_vision)
        return api_error_set(at->err, "unsupported_value", param, "this model takes no images");
    if (m->n_images == MAX_IMAGES)
        return api_error_set(at->err, "invalid_value", param,
                             "a request can have at most %d images", MAX_IMAGES);
    m->image_urls = xrealloc(m->image_urls, (size_t)(m->n_images + 1) * sizeof(*m->image_urls));
    m->image_urls[m->n_images] = json_string_value(url);
    add_part(m, (struct chat_part){.kind = CHAT_IMAGE, .image = m->n_images++});
    return 0;
}

static int parse_part(struct messages *m, const json_t *part, const char *role, bool has_vision,
                      const struct place *at)
{
    if (!json_is_object(part)) return wrong_type(at, "", "an object", part);
    const json_t *type = json_in_get(part, "type");
    if (!type) return missing(at, "type");
    if (!json_is_string(type)) return wrong_type(at, "type", "a string", type);
    const char *name = json_string_value(type);

    bool is_refusal = strcmp(name, "refusal") == 0 && strcmp(role, "assistant") == 0;
    if (strcmp(name, "text") == 0 || is_refusal) {
        const json_t *text = json_in_get(part, name);
        if (!text) return missing(at, is_refusal ? "refusal" : "text");
        if (!json_is_string(text))
            return wrong_type(at, is_refusal ? "refusal" : "text", "a string", text);
        add_text(m, text);
        return 0;
    }
    char param[96];
    snprintf(param, sizeof(param), "%s.type", at->text);
    if (strcmp(name, "image_url") == 0) {
        if (strcmp(role, "user") == 0) return parse_image(m, part, has_vision, at);
        return api_error_set(at->err, "invalid_value", param,
                             "only user messages can have images, not %s messages", role);
    }
    bool is_known = strcmp(name, "input_audio") == 0 || strcmp(name, "file") == 0;
    return api_error_set(at->err, is_known ? "unsupported_value" : "invalid_value", param,
                         "'%s' is '%.40s'; this server takes text and image_url", param, name);
}

static int parse_content(struct messages *m, const json_t *content, const char *role,
                         bool has_vision, const struct place *at)
{
    if (!content) return strcmp(role, "assistant") == 0 ? 0 : missing(at, "content");
    if (json_is_string(content)) {
        add_text(m, content);
        return 0;
    }
    if (!json_is_array(content))
        return wrong_type(at, "content", "a string or an array of parts", content);
    if (json_array_size(content) == 0) {
        char param[96];
        snprintf(param, sizeof(param), "%s.content", at->text);
        return api_error_set(at->err, "invalid_value", param, "'%s' has no parts", param);
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        struct place part = {.err = at->err};
        snprintf(part.text, sizeof(part.text), "%.32s.content[%zu]", at->text, i);
        if (parse_part(m, json_array_get(content, i), role, has_vision, &part) != 0) return -1;
    }
    return 0;
}

static int parse_role(const json_t *message, enum chat_role *out, const struct place *at)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } ROLES[] = {{"system", CHAT_SYSTEM},
                 {"developer", CHAT_SYSTEM},
                 {"user", CHAT_USER},
                 {"assistant", CHAT_ASSISTANT}};
    const json_t *role = json_in_get(message, "role");
    if (!role) return missing(at, "role");
    if (!json_is_string(role)) return wrong_type(at, "role", "a string", role);
    const char *name = json_string_value(role);
    for (size_t i = 0; i < sizeof(ROLES) / sizeof(ROLES[0]); i++) {
        if (strcmp(name, ROLES[i].name) != 0) continue;
        *out = ROLES[i].role;
        return 0;
    }
    char param[96];
    snprintf(param, sizeof(param), "%s.role", at->text);
    bool is_known = strcmp(name, "tool") == 0 || strcmp(name, "function") == 0;
    return api_error_set(at->err, is_known ? "unsupported_value" : "invalid_value", param,
                         "'%s' is '%.40s'; this server knows system, developer, user and assistant",
                         param, name);
}

int messages_parse(struct messages *out, const struct json_t *json, bool has_vision,
                   struct api_error *err)
{
    if (!json)
        return api_error_set(err, "missing_required_parameter", "messages",
                             "'messages' is missing");
    if (!json_is_array(json))
        return api_error_set(err, "invalid_type", "messages", "'messages' must be an array, not %s",
                             json_in_type(json));
    size_t n = json_array_size(json);
    if (n == 0 || n > MAX_MESSAGES)
        return api_error_set(err, "invalid_value", "messages",
                             "'messages' has %zu entries, it must have 1 to %d", n, MAX_MESSAGES);
    out->list = xcalloc(n, sizeof(*out->list));
    for (size_t i = 0; i < n; i++) {
        struct place at = {.err = err};
        snprintf(at.text, sizeof(at.text), "messages[%zu]", i);
        const json_t *message = json_array_get(json, i);
        if (!json_is_object(message)) return wrong_type(&at, "", "an object", message);
        struct chat_message *m = &out->list[out->n];
        if (parse_role(message, &m->role, &at) != 0) return -1;
        const char *role = json_string_value(json_object_get(message, "role"));
        size_t first = out->n_parts;
        if (parse_content(out, json_in_get(message, "content"), role, has_vision, &at) != 0)
            return -1;
        m->n_parts = out->n_parts - first;
        out->n++;
    }
    /* The parts have stopped moving. */
    size_t first = 0;
    for (int i = 0; i < out->n; i++) {
        out->list[i].parts = out->parts + first;
        first += out->list[i].n_parts;
    }
    return 0;
}

void messages_done(struct messages *m)
{
    free(m->list);
    free(m->parts);
    free(m->image_urls);
    *m = (struct messages){0};
}
