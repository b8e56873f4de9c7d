#include "server/openai.h"

#include "server/json_in.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    MAX_N = 128, /* OpenAI's limit of `n`; what we can do is 1 */
    MAX_STOP_TOKEN_IDS = 64,
    MAX_LOGIT_BIASES = 1024,
    MAX_MODEL_NAME = 256,
};

_Static_assert((int)MAX_STOP_TOKEN_IDS + (int)MAX_EOS_IDS <= (int)MAX_STOP_IDS,
               "a request's stop ids and the model's fit the device's table");

static int parse_model(struct chat_request *r, const struct openai_limits *limits,
                       struct api_error *err)
{
    const json_t *model = json_in_get(r->root, "model");
    if (!model)
        return api_error_set(err, "missing_required_parameter", "model",
                             "'model' is missing; GET /v1/models lists them");
    if (!json_is_string(model))
        return api_error_set(err, "invalid_type", "model", "'model' must be a string, not %s",
                             json_in_type(model));
    r->model = json_string_value(model);
    for (int i = 0; i < limits->n_model_names; i++)
        if (strcmp(r->model, limits->model_names[i]) == 0) return 0;
    return api_error_set(err, "model_not_found", "model",
                         "the model '%.*s' does not exist; this server has '%s'",
                         (int)MAX_MODEL_NAME, r->model, limits->model_names[0]);
}

static int parse_sampling(struct chat_request *r, const struct openai_limits *limits,
                          struct api_error *err)
{
    const struct generation_config *defaults = &limits->info->defaults;
    struct sampling *s = &r->generation.sampling;
    s->temperature = defaults->temperature;
    s->top_p = defaults->top_p;
    s->min_p = defaults->min_p;
    s->top_k = defaults->top_k;
    s->repetition_penalty = defaults->repetition_penalty;
    if (json_in_real(r->root, "temperature", 0, 2, &s->temperature, err) != 0) return -1;
    if (json_in_real(r->root, "top_p", 0, 1, &s->top_p, err) != 0) return -1;
    if (json_in_real(r->root, "min_p", 0, 1, &s->min_p, err) != 0) return -1;
    if (json_in_real(r->root, "frequency_penalty", -2, 2, &s->frequency_penalty, err) != 0)
        return -1;
    if (json_in_real(r->root, "presence_penalty", -2, 2, &s->presence_penalty, err) != 0) return -1;
    if (json_in_real(r->root, "repetition_penalty", 0, 2, &s->repetition_penalty, err) != 0)
        return -1;
    if (s->repetition_penalty <= 0)
        return api_error_set(err, "invalid_value", "repetition_penalty",
                             "'repetition_penalty' is 0, it must be above 0 and at most 2");
    if (s->top_p <= 0) s->top_p = 1e-6f; /* the smallest nucleus: the best token */

    int64_t top_k = s->top_k;
    if (json_in_int(r->root, "top_k", INT_MIN, INT_MAX, &top_k, err) != 0) return -1;
    s->top_k = top_k > 0 ? (int32_t)top_k : 0;

    int64_t seed;
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) abort(); /* cannot fail for 8 bytes */
    if (json_in_int(r->root, "seed", INT64_MIN, INT64_MAX, &seed, err) != 0) return -1;
    s->seed = (uint64_t)seed;
    return 0;
}

static int parse_logprobs(struct chat_request *r, struct api_error *err)
{
    bool logprobs = false;
    int64_t top_logprobs = 0;
    if (json_in_bool(r->root, "logprobs", &logprobs, err) != 0) return -1;
    if (json_in_int(r->root, "top_logprobs", 0, MAX_LOGPROBS, &top_logprobs, err) != 0) return -1;
    if (top_logprobs > 0 && !logprobs)
        return api_error_set(err, "invalid_value", "top_logprobs",
                             "'top_logprobs' needs 'logprobs': true");
    r->generation.sampling.n_logprobs = logprobs ? (int32_t)top_logprobs : -1;
    return 0;
}

static int parse_lengths(struct chat_request *r, struct api_error *err)
{
    int64_t old_name = -1, min_tokens = 0;
    r->max_tokens = -1;
    if (json_in_int(r->root, "max_tokens", 0, INT_MAX, &old_name, err) != 0) return -1;
    if (json_in_int(r->root, "max_completion_tokens", 0, INT_MAX, &r->max_tokens, err) != 0)
        return -1;
    if (r->max_tokens < 0) r->max_tokens = old_name;
    if (json_in_int(r->root, "min_tokens", 0, INT_MAX, &min_tokens, err) != 0) return -1;
    if (r->max_tokens >= 0 && min_tokens > r->max_tokens)
        return api_error_set(err, "invalid_value", "min_tokens",
                             "'min_tokens' is %lld, more than the %lld of 'max_tokens'",
                             (long long)min_tokens, (long long)r->max_tokens);
    r->generation.sampling.min_tokens = (int32_t)min_tokens;
    return 0;
}

static int add_stop_string(struct generation *g, const json_t *value, const char *param,
                           struct api_error *err)
{
    if (!json_is_string(value))
        return api_error_set(err, "invalid_type", param, "'%s' must be a string, not %s", param,
                             json_in_type(value));
    size_t len = json_string_length(value);
    if (len == 0 || len > MAX_STOP_STRING_LEN)
        return api_error_set(err, "invalid_value", param,
                             "'%s' has %zu bytes, it must have 1 to %d", param, len,
                             MAX_STOP_STRING_LEN);
    memcpy(g->stop_strings[g->n_stop_strings++], json_string_value(value), len + 1);
    return 0;
}

static int parse_stop(struct chat_request *r, struct api_error *err)
{
    struct generation *g = &r->generation;
    const json_t *stop = json_in_get(r->root, "stop");
    if (!stop) return 0;
    if (json_is_string(stop)) return add_stop_string(g, stop, "stop", err);
    if (!json_is_array(stop))
        return api_error_set(err, "invalid_type", "stop",
                             "'stop' must be a string or an array of strings, not %s",
                             json_in_type(stop));
    if (json_array_size(stop) > MAX_STOP_STRINGS)
        return api_error_set(err, "invalid_value", "stop",
                             "'stop' has %zu strings, the limit is %d", json_array_size(stop),
                             MAX_STOP_STRINGS);
    for (size_t i = 0; i < json_array_size(stop); i++) {
        char param[48];
        snprintf(param, sizeof(param), "stop[%zu]", i);
        if (add_stop_string(g, json_array_get(stop, i), param, err) != 0) return -1;
    }
    return 0;
}

static int parse_stop_token_ids(struct chat_request *r, int vocab, struct api_error *err)
{
    const json_t *ids = json_in_get(r->root, "stop_token_ids");
    if (!ids) return 0;
    if (!json_is_array(ids))
        return api_error_set(err, "invalid_type", "stop_token_ids",
                             "'stop_token_ids' must be an array of integers, not %s",
                             json_in_type(ids));
    if (json_array_size(ids) > MAX_STOP_TOKEN_IDS)
        return api_error_set(err, "invalid_value", "stop_token_ids",
                             "'stop_token_ids' has %zu entries, the limit is %d",
                             json_array_size(ids), MAX_STOP_TOKEN_IDS);
    struct sampling *s = &r->generation.sampling;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        char param[48];
        snprintf(param, sizeof(param), "stop_token_ids[%zu]", i);
        int64_t id;
        if (!json_in_value_int(json_array_get(ids, i), &id))
            return api_error_set(err, "invalid_type", param, "'%s' must be an integer, not %s",
                                 param, json_in_type(json_array_get(ids, i)));
        if (id < 0 || id >= vocab)
            return api_error_set(err, "invalid_value", param,
                                 "'%s' is %lld, the vocabulary's ids are 0 to %d", param,
                                 (long long)id, vocab - 1);
        s->stop_ids[s->n_stop_ids++] = (int32_t)id;
    }
    return 0;
}

static int parse_stream(struct chat_request *r, struct api_error *err)
{
    json_t *options;
    if (json_in_bool(r->root, "stream", &r->stream, err) != 0) return -1;
    if (json_in_object(r->root, "stream_options", &options, err) != 0) return -1;
    if (!options) return 0;
    bool include_obfuscation = false; /* padding against traffic analysis: accepted, not done */
    if (json_in_bool(options, "include_usage", &r->include_usage, err) != 0 ||
        json_in_bool(options, "include_obfuscation", &include_obfuscation, err) != 0) {
        char key[sizeof(err->param)];
        snprintf(key, sizeof(key), "%s", err->param);
        snprintf(err->param, sizeof(err->param), "stream_options.%.60s", key);
        return -1;
    }
    return 0;
}

static int parse_extensions(struct chat_request *r, struct api_error *err)
{
    bool use_draft = true;
    r->generation.skip_special_tokens = true;
    if (json_in_bool(r->root, "ignore_eos", &r->generation.ignore_eos, err) != 0 ||
        json_in_bool(r->root, "skip_special_tokens", &r->generation.skip_special_tokens, err) !=
            0 ||
        json_in_bool(r->root, "return_token_ids", &r->return_token_ids, err) != 0 ||
        json_in_bool(r->root, "speculative", &use_draft, err) != 0)
        return -1;
    r->generation.sampling.use_draft = use_draft;
    return 0;
}

/* ---- features that do not exist yet: their neutral values pass, others are refused -------------
 */

static int check_n(const struct chat_request *r, struct api_error *err)
{
    int64_t n = 1;
    if (json_in_int(r->root, "n", 1, MAX_N, &n, err) != 0) return -1;
    if (n == 1) return 0;
    return api_error_set(err, "unsupported_value", "n",
                         "'n' is %lld; this server gives 1 answer a request", (long long)n);
}

static int check_logit_bias(const struct chat_request *r, struct api_error *err)
{
    json_t *biases, *value;
    const char *key;
    if (json_in_object(r->root, "logit_bias", &biases, err) != 0) return -1;
    if (!biases) return 0;
    if (json_object_size(biases) > MAX_LOGIT_BIASES)
        return api_error_set(err, "invalid_value", "logit_bias",
                             "'logit_bias' has %zu entries, the limit is %d",
                             json_object_size(biases), MAX_LOGIT_BIASES);
    json_object_foreach(biases, key, value)
    {
        if (!json_is_number(value))
            return api_error_set(err, "invalid_type", "logit_bias",
                                 "the values of 'logit_bias' must be numbers, not %s",
                                 json_in_type(value));
        double bias = json_number_value(value);
        if (bias < -100 || bias > 100)
            return api_error_set(err, "invalid_value", "logit_bias",
                                 "a bias of %g is out of range, it must be from -100 to 100", bias);
        if (bias != 0)
            return api_error_set(err, "unsupported_parameter", "logit_bias",
                                 "'logit_bias' is not supported by this server");
    }
    return 0;
}

static int check_response_format(const struct chat_request *r, struct api_error *err)
{
    json_t *format;
    if (json_in_object(r->root, "response_format", &format, err) != 0) return -1;
    if (!format) return 0;
    const json_t *type = json_in_get(format, "type");
    if (!type)
        return api_error_set(err, "missing_required_parameter", "response_format.type",
                             "'response_format.type' is missing");
    if (!json_is_string(type))
        return api_error_set(err, "invalid_type", "response_format.type",
                             "'response_format.type' must be a string, not %s", json_in_type(type));
    const char *name = json_string_value(type);
    if (strcmp(name, "text") == 0) return 0;
    bool is_known = strcmp(name, "json_object") == 0 || strcmp(name, "json_schema") == 0;
    return api_error_set(
        err, is_known ? "unsupported_value" : "invalid_value", "response_format.type",
        is_known ? "response_format '%.40s' is not supported by this server; only 'text' is"
                 : "there is no response_format '%.40s'",
        name);
}

/* Tools or functions pass where the client forbids their use, or gives none. */
static int check_tools(const struct chat_request *r, const char *list, const char *choice,
                       struct api_error *err)
{
    const json_t *tools = json_in_get(r->root, list), *chosen = json_in_get(r->root, choice);
    if (tools && !json_is_array(tools))
        return api_error_set(err, "invalid_type", list, "'%s' must be an array, not %s", list,
                             json_in_type(tools));
    const char *how = json_is_string(chosen) ? json_string_value(chosen) : NULL;
    if (how && strcmp(how, "none") == 0) return 0;
    if (json_array_size(tools) > 0)
        return api_error_set(err, "unsupported_parameter", list,
                             "'%s' is not supported by this server, except with \"%s\": \"none\"",
                             list, choice);
    if (chosen && !(how && strcmp(how, "auto") == 0))
        return api_error_set(err, "unsupported_parameter", choice,
                             "'%s' is not supported by this server", choice);
    return 0;
}

static int check_modalities(const struct chat_request *r, struct api_error *err)
{
    const json_t *modalities = json_in_get(r->root, "modalities");
    if (modalities && !json_is_array(modalities))
        return api_error_set(err, "invalid_type", "modalities",
                             "'modalities' must be an array, not %s", json_in_type(modalities));
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const json_t *value = json_array_get(modalities, i);
        if (json_is_string(value) && strcmp(json_string_value(value), "text") == 0) continue;
        return api_error_set(err, "unsupported_value", "modalities",
                             "this server answers with text only; 'modalities' must be [\"text\"]");
    }
    return 0;
}

/* A value that asks for nothing: null, false, {}, "". */
static bool is_neutral(const json_t *value)
{
    return !value || json_is_false(value) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

static int check_unsupported(const struct chat_request *r, struct api_error *err)
{
    static const char *const FIELDS[] = {"chat_template_kwargs", "cache_salt", "timings_per_token",
                                         "chat_template"};
    for (size_t i = 0; i < sizeof(FIELDS) / sizeof(FIELDS[0]); i++)
        if (!is_neutral(json_in_get(r->root, FIELDS[i])))
            return api_error_set(err, "unsupported_parameter", FIELDS[i],
                                 "'%s' is not supported by this server", FIELDS[i]);
    if (check_n(r, err) != 0 || check_logit_bias(r, err) != 0 ||
        check_response_format(r, err) != 0 || check_modalities(r, err) != 0)
        return -1;
    if (check_tools(r, "tools", "tool_choice", err) != 0) return -1;
    return check_tools(r, "functions", "function_call", err);
}

int openai_parse(struct chat_request *out, const char *body, size_t len,
                 const struct openai_limits *limits, struct api_error *err)
{
    struct chat_request r = {0};
    if (json_in_parse(&r.root, body, len, err) != 0) goto failed;
    if (parse_model(&r, limits, err) != 0) goto failed;
    if (parse_stream(&r, err) != 0) goto failed;
    if (parse_sampling(&r, limits, err) != 0) goto failed;
    if (parse_lengths(&r, err) != 0) goto failed;
    if (parse_logprobs(&r, err) != 0) goto failed;
    if (parse_stop(&r, err) != 0) goto failed;
    if (parse_stop_token_ids(&r, limits->info->vocab, err) != 0) goto failed;
    if (parse_extensions(&r, err) != 0) goto failed;
    if (check_unsupported(&r, err) != 0) goto failed;
    if (messages_parse(&r.messages, json_in_get(r.root, "messages"), limits->info->has_vision,
                       err) != 0)
        goto failed;
    *out = r;
    return 0;

failed:
    openai_done(&r);
    return -1;
}

void openai_done(struct chat_request *r)
{
    messages_done(&r->messages);
    json_decref(r->root);
    *r = (struct chat_request){0};
}
