#include "server/router.h"

#include "server/json_out.h"
#include "server/metrics.h"

#include <string.h>

static const char JSON[] = "application/json";

bool router_target_is_plain(const char *target)
{
    if (target[0] != '/') return false;
    for (const char *c = target; *c; c++) {
        if ((unsigned char)*c <= 0x20 || *c == 0x7f || *c == '\\' || *c == '#') return false;
        if (*c != '%') continue;
        static const char HEX[] = "0123456789abcdefABCDEF";
        if (!c[1] || !c[2] || !strchr(HEX, c[1]) || !strchr(HEX, c[2])) return false;
        bool is_control =
            c[1] == '0' || c[1] == '1' || (c[1] == '7' && (c[2] == 'f' || c[2] == 'F'));
        if (is_control) return false;
    }
    return true;
}

static int health(struct server *s, const char *path, struct buffer *b, struct api_error *err)
{
    bool is_live = strcmp(path, "/health/live") == 0;
    if (atomic_load(&s->is_draining) && !is_live)
        return api_error_set(err, "shutting_down", NULL, "the server is shutting down");
    buffer_printf(b, "{\"status\":\"ok\"}\n");
    return 0;
}

static int version(struct server *s, const char *path, struct buffer *b, struct api_error *err)
{
    (void)path, (void)err;
    buffer_printf(b, "{\"version\":");
    json_out_text(b, s->version);
    buffer_printf(b, "}\n");
    return 0;
}

static int metrics(struct server *s, const char *path, struct buffer *b, struct api_error *err)
{
    (void)path, (void)err;
    metrics_write(s->metrics, b, s->engine, s->limits.model_names[0]);
    return 0;
}

static void write_model(struct server *s, struct buffer *b, const char *name)
{
    const struct engine_info *info = s->limits.info;
    buffer_printf(b, "{\"id\":");
    json_out_text(b, name);
    buffer_printf(
        b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"vispecd\",\"max_model_len\":%d",
        (long long)s->started, info->max_model_len);
    buffer_printf(b, ",\"meta\":{\"vision\":%s,\"draft\":", info->has_vision ? "true" : "false");
    json_out_text(b, info->draft_name);
    buffer_printf(
        b,
        ",\"vocab\":%d,\"defaults\":{\"temperature\":%g,\"top_p\":%g,\"top_k\":%d,\"min_p\":%g,"
        "\"repetition_penalty\":%g}}}",
        info->vocab, info->defaults.temperature, info->defaults.top_p, info->defaults.top_k,
        info->defaults.min_p, info->defaults.repetition_penalty);
}

static int models(struct server *s, const char *path, struct buffer *b, struct api_error *err)
{
    (void)path, (void)err;
    buffer_printf(b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < s->n_listed_names; i++) {
        if (i) buffer_printf(b, ",");
        write_model(s, b, s->limits.model_names[i]);
    }
    buffer_printf(b, "]}\n");
    return 0;
}

static int model(struct server *s, const char *path, struct buffer *b, struct api_error *err)
{
    const char *name = strstr(path, "/models/") + strlen("/models/");
    for (int i = 0; i < s->limits.n_model_names; i++) {
        if (strcmp(name, s->limits.model_names[i]) != 0) continue;
        write_model(s, b, name);
        return 0;
    }
    return api_error_set(err, "model_not_found", "model",
                         "the model '%.200s' does not exist; this server has '%s'", name,
                         s->limits.model_names[0]);
}

/* Names of vLLM and llama.cpp beside OpenAI's; many users forget the /v1. */
static const struct route ROUTES[] = {
    {"/v1/chat/completions", false, false, "POST", NULL, JSON},
    {"/chat/completions", false, false, "POST", NULL, JSON},
    {"/v1/models", false, false, "GET, HEAD", models, JSON},
    {"/models", false, false, "GET, HEAD", models, JSON},
    {"/v1/models/", true, false, "GET, HEAD", model, JSON},
    {"/models/", true, false, "GET, HEAD", model, JSON},
    {"/health", false, true, "GET, HEAD", health, JSON},
    {"/v1/health", false, true, "GET, HEAD", health, JSON},
    {"/health/live", false, true, "GET, HEAD", health, JSON},
    {"/health/ready", false, true, "GET, HEAD", health, JSON},
    {"/version", false, false, "GET, HEAD", version, JSON},
    {"/metrics", false, false, "GET, HEAD", metrics, "text/plain; version=0.0.4; charset=utf-8"},
};

static bool is_allowed(const char *allow, const char *method)
{
    size_t len = strlen(method);
    const char *found = strstr(allow, method);
    return len > 0 && found && (found[len] == '\0' || found[len] == ',') &&
           (found == allow || found[-1] == ' ');
}

const struct route *router_find(const char *method, const char *path, const char **allow,
                                struct api_error *err)
{
    for (size_t i = 0; i < sizeof(ROUTES) / sizeof(ROUTES[0]); i++) {
        const struct route *r = &ROUTES[i];
        size_t len = strlen(r->path);
        bool is_match = r->is_prefix ? strncmp(path, r->path, len) == 0 && path[len]
                                     : strcmp(path, r->path) == 0;
        if (!is_match) continue;
        if (is_allowed(r->allow, method)) return r;
        *allow = r->allow;
        api_error_set(err, "method_not_allowed", NULL, "%.20s is not a method of %s; it has %s",
                      method, r->path, r->allow);
        return NULL;
    }
    api_error_set(err, "unknown_url", NULL,
                  "there is no %.20s %.200s; see docs/api.md for what there is", method, path);
    return NULL;
}
