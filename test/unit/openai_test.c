/* The request contract of docs/api.md, field by field. */
#include "server/openai.h"

#include "test/test.h"

#include <stdio.h>

static const struct engine_info INFO = {
    .model_name = "tiny",
    .max_model_len = 2048,
    .vocab = 1000,
    .has_vision = true,
    .defaults = {.temperature = 0.25f,
                 .top_p = 0.5f,
                 .min_p = 0.125f,
                 .repetition_penalty = 1.5f,
                 .top_k = 7},
};
static const char *const NAMES[] = {"served", "tiny"};
static const struct openai_limits LIMITS = {&INFO, NAMES, 2};

static int parse(struct chat_request *out, const char *body, struct api_error *err)
{
    *err = (struct api_error){0};
    return openai_parse(out, body, strlen(body), &LIMITS, err);
}

/* The request with further members, for instance "\"n\":1"; must be accepted. */
static struct chat_request accept(const char *members)
{
    char body[4096];
    snprintf(body, sizeof(body),
             "{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]%s%s}",
             members[0] ? "," : "", members);
    struct chat_request r;
    struct api_error err;
    if (parse(&r, body, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s refused: %s", members, err.text);
    return r;
}

static void refuse_body(const char *body, int status, const char *code, const char *param)
{
    struct chat_request r;
    struct api_error err;
    if (parse(&r, body, &err) == 0) test_fail(__FILE__, __LINE__, "accepted: %s", body);
    if (err.status != status || strcmp(err.code, code) != 0 || strcmp(err.param, param) != 0)
        test_fail(__FILE__, __LINE__, "%s gives %d %s param '%s' (%s), not %d %s '%s'", body,
                  err.status, err.code, err.param, err.text, status, code, param);
    CHECK(err.text[0] != '\0');
}

static void refuse(const char *members, const char *code, const char *param)
{
    char body[4096];
    snprintf(body, sizeof(body),
             "{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],%s}",
             members);
    refuse_body(body, 400, code, param);
}

TEST(a_silent_client_gets_the_model_s_defaults)
{
    struct chat_request r = accept("");
    const struct sampling *s = &r.generation.sampling;
    CHECK(s->temperature == 0.25f);
    CHECK(s->top_p == 0.5f);
    CHECK(s->min_p == 0.125f);
    CHECK(s->repetition_penalty == 1.5f);
    CHECK_INT(s->top_k, ==, 7);
    CHECK(s->frequency_penalty == 0 && s->presence_penalty == 0);
    CHECK_INT(s->n_logprobs, ==, -1);
    CHECK_INT(s->use_draft, ==, 1);
    CHECK_INT(s->min_tokens, ==, 0);
    CHECK_INT(r.max_tokens, ==, -1);
    CHECK(!r.stream && !r.include_usage && !r.return_token_ids);
    CHECK(!r.generation.ignore_eos && r.generation.skip_special_tokens);
    CHECK_INT(r.generation.n_stop_strings, ==, 0);
    openai_done(&r);
}

TEST(two_silent_clients_get_different_seeds)
{
    struct chat_request a = accept(""), b = accept("");
    CHECK(a.generation.sampling.seed != b.generation.sampling.seed);
    openai_done(&a);
    openai_done(&b);
}

TEST(every_field_arrives)
{
    struct chat_request r = accept(
        "\"temperature\":0,\"top_p\":0.75,\"min_p\":0.5,\"top_k\":3,\"repetition_penalty\":2,"
        "\"frequency_penalty\":-2,\"presence_penalty\":1.5,\"seed\":-5,\"max_completion_tokens\":9,"
        "\"max_tokens\":4,\"min_tokens\":2,\"logprobs\":true,\"top_logprobs\":20,\"stop\":[\"a\","
        "\"bc\"],"
        "\"stop_token_ids\":[0,999],\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"ignore_eos\":true,\"skip_special_tokens\":false,\"return_token_ids\":true,"
        "\"speculative\":false");
    const struct sampling *s = &r.generation.sampling;
    CHECK(s->temperature == 0 && s->top_p == 0.75f && s->min_p == 0.5f &&
          s->repetition_penalty == 2);
    CHECK(s->frequency_penalty == -2 && s->presence_penalty == 1.5f);
    CHECK_INT(s->top_k, ==, 3);
    CHECK_INT((int64_t)s->seed, ==, -5);
    CHECK_INT(r.max_tokens, ==, 9);
    CHECK_INT(s->min_tokens, ==, 2);
    CHECK_INT(s->n_logprobs, ==, 20);
    CHECK_INT(r.generation.n_stop_strings, ==, 2);
    CHECK_STR(r.generation.stop_strings[1], "bc");
    CHECK_INT(s->n_stop_ids, ==, 2);
    CHECK_INT(s->stop_ids[1], ==, 999);
    CHECK(r.stream && r.include_usage && r.return_token_ids);
    CHECK(r.generation.ignore_eos && !r.generation.skip_special_tokens);
    CHECK_INT(s->use_draft, ==, 0);
    openai_done(&r);
}

TEST(null_is_the_same_as_absent_for_every_optional_field)
{
    static const char *const FIELDS[] = {"temperature",
                                         "top_p",
                                         "min_p",
                                         "top_k",
                                         "repetition_penalty",
                                         "frequency_penalty",
                                         "presence_penalty",
                                         "seed",
                                         "max_tokens",
                                         "max_completion_tokens",
                                         "min_tokens",
                                         "logprobs",
                                         "top_logprobs",
                                         "stop",
                                         "stop_token_ids",
                                         "stream",
                                         "stream_options",
                                         "ignore_eos",
                                         "skip_special_tokens",
                                         "return_token_ids",
                                         "speculative",
                                         "n",
                                         "logit_bias",
                                         "response_format",
                                         "tools",
                                         "tool_choice",
                                         "functions",
                                         "function_call",
                                         "modalities",
                                         "chat_template_kwargs",
                                         "cache_salt",
                                         "timings_per_token",
                                         "user",
                                         "metadata",
                                         "store",
                                         "service_tier",
                                         "audio"};
    for (size_t i = 0; i < sizeof(FIELDS) / sizeof(FIELDS[0]); i++) {
        char member[64];
        snprintf(member, sizeof(member), "\"%s\":null", FIELDS[i]);
        struct chat_request r = accept(member);
        CHECK(r.generation.sampling.temperature == 0.25f);
        CHECK_INT(r.max_tokens, ==, -1);
        openai_done(&r);
    }
}

TEST(integral_reals_are_integers)
{
    struct chat_request r =
        accept("\"max_tokens\":12.0,\"seed\":3.0,\"top_k\":5.0,\"n\":1.0,\"temperature\":1");
    CHECK_INT(r.max_tokens, ==, 12);
    CHECK_INT(r.generation.sampling.seed, ==, 3);
    CHECK_INT(r.generation.sampling.top_k, ==, 5);
    CHECK(r.generation.sampling.temperature == 1);
    openai_done(&r);
    refuse("\"max_tokens\":12.5", "invalid_type", "max_tokens");
}

TEST(edges_of_every_range_are_accepted)
{
    static const char *const MEMBERS[] = {
        "\"temperature\":2",
        "\"temperature\":0.0",
        "\"top_p\":1",
        "\"min_p\":1",
        "\"min_p\":0",
        "\"frequency_penalty\":2",
        "\"presence_penalty\":-2",
        "\"repetition_penalty\":0.01",
        "\"top_k\":-1",
        "\"top_k\":0",
        "\"seed\":9223372036854775807",
        "\"seed\":-9223372036854775808",
        "\"max_tokens\":0",
        "\"max_tokens\":2147483647",
        "\"top_logprobs\":0",
        "\"logprobs\":true,\"top_logprobs\":0",
        "\"stop\":[]",
        "\"stop\":\"x\"",
        "\"stop_token_ids\":[]",
        "\"n\":1",
        "\"min_tokens\":3,\"max_tokens\":3",
        "\"stream\":false,\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":true}",
    };
    for (size_t i = 0; i < sizeof(MEMBERS) / sizeof(MEMBERS[0]); i++) {
        struct chat_request r = accept(MEMBERS[i]);
        openai_done(&r);
    }
    struct chat_request r = accept("\"top_p\":0");
    CHECK(r.generation.sampling.top_p > 0);
    openai_done(&r);
}

TEST(values_out_of_range_are_refused_by_name)
{
    refuse("\"temperature\":2.01", "invalid_value", "temperature");
    refuse("\"temperature\":-0.1", "invalid_value", "temperature");
    refuse("\"top_p\":1.1", "invalid_value", "top_p");
    refuse("\"min_p\":-1", "invalid_value", "min_p");
    refuse("\"frequency_penalty\":2.5", "invalid_value", "frequency_penalty");
    refuse("\"presence_penalty\":-3", "invalid_value", "presence_penalty");
    refuse("\"repetition_penalty\":0", "invalid_value", "repetition_penalty");
    refuse("\"repetition_penalty\":2.5", "invalid_value", "repetition_penalty");
    refuse("\"max_tokens\":-1", "invalid_value", "max_tokens");
    refuse("\"max_completion_tokens\":2147483648", "invalid_value", "max_completion_tokens");
    refuse("\"min_tokens\":-1", "invalid_value", "min_tokens");
    refuse("\"min_tokens\":4,\"max_tokens\":3", "invalid_value", "min_tokens");
    refuse("\"logprobs\":true,\"top_logprobs\":21", "invalid_value", "top_logprobs");
    refuse("\"top_logprobs\":1", "invalid_value", "top_logprobs");
    refuse("\"stop\":\"\"", "invalid_value", "stop");
    refuse("\"stop\":[\"a\",\"\"]", "invalid_value", "stop[1]");
    refuse("\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\","
           "\"d\",\"e\",\"f\","
           "\"g\",\"h\"]",
           "invalid_value", "stop");
    refuse("\"stop_token_ids\":[1000]", "invalid_value", "stop_token_ids[0]");
    refuse("\"stop_token_ids\":[1,-1]", "invalid_value", "stop_token_ids[1]");
    refuse("\"n\":0", "invalid_value", "n");
    refuse("\"n\":129", "invalid_value", "n");
    refuse("\"logit_bias\":{\"1\":101}", "invalid_value", "logit_bias");
    refuse("\"response_format\":{\"type\":\"yaml\"}", "invalid_value", "response_format.type");
}

TEST(values_of_the_wrong_type_are_refused_by_name)
{
    static const char *const NUMBERS[] = {"temperature",
                                          "top_p",
                                          "min_p",
                                          "top_k",
                                          "repetition_penalty",
                                          "frequency_penalty",
                                          "presence_penalty",
                                          "seed",
                                          "max_tokens",
                                          "max_completion_tokens",
                                          "min_tokens",
                                          "top_logprobs",
                                          "n"};
    static const char *const WRONG[] = {"\"1\"", "true", "[1]", "{}"};
    char member[96];
    for (size_t i = 0; i < sizeof(NUMBERS) / sizeof(NUMBERS[0]); i++)
        for (size_t k = 0; k < 4; k++) {
            snprintf(member, sizeof(member), "\"%s\":%s", NUMBERS[i], WRONG[k]);
            refuse(member, "invalid_type", NUMBERS[i]);
        }
    static const char *const BOOLS[] = {"stream",           "logprobs",
                                        "ignore_eos",       "skip_special_tokens",
                                        "return_token_ids", "speculative"};
    for (size_t i = 0; i < sizeof(BOOLS) / sizeof(BOOLS[0]); i++) {
        snprintf(member, sizeof(member), "\"%s\":1", BOOLS[i]);
        refuse(member, "invalid_type", BOOLS[i]);
    }
    refuse("\"stop\":1", "invalid_type", "stop");
    refuse("\"stop\":[1]", "invalid_type", "stop[0]");
    refuse("\"stop_token_ids\":1", "invalid_type", "stop_token_ids");
    refuse("\"stop_token_ids\":[\"1\"]", "invalid_type", "stop_token_ids[0]");
    refuse("\"stream_options\":true", "invalid_type", "stream_options");
    refuse("\"stream_options\":{\"include_usage\":1}", "invalid_type",
           "stream_options.include_usage");
    refuse("\"logit_bias\":[]", "invalid_type", "logit_bias");
    refuse("\"logit_bias\":{\"1\":\"x\"}", "invalid_type", "logit_bias");
    refuse("\"response_format\":\"text\"", "invalid_type", "response_format");
    refuse("\"tools\":{}", "invalid_type", "tools");
    refuse("\"modalities\":\"text\"", "invalid_type", "modalities");
}

TEST(features_that_do_not_exist_are_refused_and_their_neutral_values_pass)
{
    refuse("\"n\":2", "unsupported_value", "n");
    refuse("\"logit_bias\":{\"5\":1}", "unsupported_parameter", "logit_bias");
    refuse("\"response_format\":{\"type\":\"json_object\"}", "unsupported_value",
           "response_format.type");
    refuse("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}", "unsupported_value",
           "response_format.type");
    refuse("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
           "unsupported_parameter", "tools");
    refuse("\"tool_choice\":\"required\"", "unsupported_parameter", "tool_choice");
    refuse("\"functions\":[{\"name\":\"f\"}]", "unsupported_parameter", "functions");
    refuse("\"chat_template_kwargs\":{\"a\":1}", "unsupported_parameter", "chat_template_kwargs");
    refuse("\"cache_salt\":\"x\"", "unsupported_parameter", "cache_salt");
    refuse("\"timings_per_token\":true", "unsupported_parameter", "timings_per_token");
    refuse("\"chat_template\":\"{{x}}\"", "unsupported_parameter", "chat_template");
    refuse("\"modalities\":[\"text\",\"audio\"]", "unsupported_value", "modalities");
    struct chat_request r = accept("\"logit_bias\":{\"foo\":0},\"response_format\":{\"type\":"
                                   "\"text\"},\"tools\":[{\"type\":\"function\"}],"
                                   "\"tool_choice\":\"none\",\"functions\":[{}],\"function_call\":"
                                   "\"none\",\"modalities\":[\"text\"],"
                                   "\"timings_per_token\":false,\"chat_template_kwargs\":{}");
    openai_done(&r);
    r = accept("\"tools\":[],\"tool_choice\":\"auto\"");
    openai_done(&r);
}

TEST(what_needs_no_action_is_ignored_whatever_its_type)
{
    struct chat_request r =
        accept("\"user\":{\"id\":1},\"safety_identifier\":7,\"metadata\":\"x\",\"store\":true,"
               "\"service_tier\":\"auto\","
               "\"prompt_cache_key\":\"k\",\"prompt_cache_retention\":\"24h\",\"parallel_tool_"
               "calls\":true,"
               "\"verbosity\":\"low\",\"reasoning_effort\":\"none\",\"audio\":{\"format\":\"wav\","
               "\"voice\":\"alloy\"},"
               "\"prediction\":{\"type\":\"content\",\"content\":\"x\"},\"web_search_options\":{},"
               "\"moderation\":{},"
               "\"priority\":1,\"request_id\":\"r\",\"something_new\":[1,2,{\"a\":null}]");
    openai_done(&r);
}

TEST(the_model_is_found_by_any_of_its_names)
{
    struct chat_request r;
    struct api_error err;
    CHECK_INT(parse(&r,
                    "{\"model\":\"served\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                    &err),
              ==, 0);
    CHECK_STR(r.model, "served");
    openai_done(&r);
    refuse_body("{\"model\":\"gpt\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", 404,
                "model_not_found", "model");
    refuse_body("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", 400,
                "missing_required_parameter", "model");
    refuse_body("{\"model\":3,\"messages\":[]}", 400, "invalid_type", "model");
}

TEST(a_body_that_is_no_json_object_is_refused)
{
    static const char *const BODIES[] = {"",
                                         " ",
                                         "x",
                                         "[]",
                                         "3",
                                         "null",
                                         "{",
                                         "{\"model\":\"tiny\"} x",
                                         "{\"model\":\"tiny\",\"model\":\"tiny\"}",
                                         "{\"model\":\"\\u0000\"}",
                                         "{\"model\":\"\\ud800\"}",
                                         "{\"model\":\"\xff\"}",
                                         "{\"a\":1e400}",
                                         "{\"a\":99999999999999999999}",
                                         "\xef\xbb\xbf{}",
                                         "{'model':1}",
                                         "{\"a\":NaN}"};
    for (size_t i = 0; i < sizeof(BODIES) / sizeof(BODIES[0]); i++)
        refuse_body(BODIES[i], 400, "invalid_json", "");
}

TEST(json_that_is_deep_or_has_many_values_is_refused_before_it_is_parsed)
{
    enum { DEPTH = 65, VALUES = 200001 };
    struct buffer body = {0};
    buffer_printf(&body, "{\"a\":");
    for (int i = 0; i < DEPTH; i++) buffer_append(&body, "[", 1);
    for (int i = 0; i < DEPTH; i++) buffer_append(&body, "]", 1);
    buffer_append(&body, "}", 1);
    refuse_body(body.data, 400, "invalid_json", "");

    body.len = 0;
    buffer_printf(&body, "{\"a\":[1");
    for (int i = 0; i < VALUES; i++) buffer_append(&body, ",1", 2);
    buffer_append(&body, "]}", 2);
    refuse_body(body.data, 400, "invalid_json", "");

    /* Inside a string they are no values. */
    body.len = 0;
    buffer_printf(&body, "{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"\\\"");
    for (int i = 0; i < VALUES; i++) buffer_append(&body, "[", 1);
    buffer_append(&body, "\"}]}", 4);
    struct chat_request r;
    struct api_error err;
    CHECK_INT(parse(&r, body.data, &err), ==, 0);
    openai_done(&r);
    buffer_done(&body);
}

/* ---- messages
 * ------------------------------------------------------------------------------------ */

static void refuse_messages(const char *messages, const char *code, const char *param)
{
    char body[4096];
    snprintf(body, sizeof(body), "{\"model\":\"tiny\",\"messages\":%s}", messages);
    refuse_body(body, 400, code, param);
}

TEST(messages_become_roles_and_parts)
{
    static const char BODY[] =
        "{\"model\":\"tiny\",\"messages\":["
        "{\"role\":\"developer\",\"content\":\"be brief\",\"name\":\"x\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"cache_control\":{}},"
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/"
        "png;base64,QQ==\",\"detail\":\"low\"}},"
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"DATA:;base64,Qg==\"}},{\"type\":\"text\","
        "\"text\":\"\"}]},"
        "{\"role\":\"assistant\",\"content\":null},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}]},"
        "{\"role\":\"user\",\"content\":\"b\"}]}";
    struct chat_request r;
    struct api_error err;
    CHECK_INT(parse(&r, BODY, &err), ==, 0);
    const struct messages *m = &r.messages;
    CHECK_INT(m->n, ==, 5);
    CHECK_INT(m->list[0].role, ==, CHAT_SYSTEM);
    CHECK_STR(m->list[0].parts[0].text, "be brief");
    CHECK_INT(m->list[1].role, ==, CHAT_USER);
    CHECK_INT(m->list[1].n_parts, ==, 4);
    CHECK_INT(m->list[1].parts[0].len, ==, 1);
    CHECK_INT(m->list[1].parts[1].kind, ==, CHAT_IMAGE);
    CHECK_INT(m->list[1].parts[2].image, ==, 1);
    CHECK_INT(m->n_images, ==, 2);
    CHECK_STR(m->image_urls[1], "DATA:;base64,Qg==");
    CHECK_INT(m->list[2].role, ==, CHAT_ASSISTANT);
    CHECK_INT(m->list[2].n_parts, ==, 0);
    CHECK_STR(m->list[3].parts[0].text, "no");
    CHECK_STR(m->list[4].parts[0].text, "b");
    openai_done(&r);
}

TEST(a_fault_in_a_message_is_named_with_its_place)
{
    refuse_body("{\"model\":\"tiny\"}", 400, "missing_required_parameter", "messages");
    refuse_messages("null", "missing_required_parameter", "messages");
    refuse_messages("{}", "invalid_type", "messages");
    refuse_messages("[]", "invalid_value", "messages");
    refuse_messages("[3]", "invalid_type", "messages[0]");
    refuse_messages("[{}]", "missing_required_parameter", "messages[0].role");
    refuse_messages("[{\"role\":1}]", "invalid_type", "messages[0].role");
    refuse_messages("[{\"role\":\"king\"}]", "invalid_value", "messages[0].role");
    refuse_messages("[{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"x\"}]",
                    "unsupported_value", "messages[0].role");
    refuse_messages("[{\"role\":\"user\"}]", "missing_required_parameter", "messages[0].content");
    refuse_messages("[{\"role\":\"user\",\"content\":null}]", "missing_required_parameter",
                    "messages[0].content");
    refuse_messages("[{\"role\":\"user\",\"content\":5}]", "invalid_type", "messages[0].content");
    refuse_messages("[{\"role\":\"user\",\"content\":[]}]", "invalid_value", "messages[0].content");
    refuse_messages(
        "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[\"a\"]}]",
        "invalid_type", "messages[1].content[0]");
    refuse_messages("[{\"role\":\"user\",\"content\":[{}]}]", "missing_required_parameter",
                    "messages[0].content[0].type");
    refuse_messages("[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]",
                    "missing_required_parameter", "messages[0].content[0].text");
    refuse_messages("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}]",
                    "invalid_type", "messages[0].content[0].text");
    refuse_messages("[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]",
                    "unsupported_value", "messages[0].content[0].type");
    refuse_messages("[{\"role\":\"user\",\"content\":[{\"type\":\"smell\"}]}]", "invalid_value",
                    "messages[0].content[0].type");
}

TEST(images_come_as_data_urls_in_user_messages_only)
{
#define USER_IMAGE(image) "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"" image "}]}]"
    refuse_messages(USER_IMAGE(""), "missing_required_parameter",
                    "messages[0].content[0].image_url");
    refuse_messages(USER_IMAGE(",\"image_url\":\"data:,\""), "invalid_type",
                    "messages[0].content[0].image_url");
    refuse_messages(USER_IMAGE(",\"image_url\":{}"), "missing_required_parameter",
                    "messages[0].content[0].image_url.url");
    refuse_messages(USER_IMAGE(",\"image_url\":{\"url\":1}"), "invalid_type",
                    "messages[0].content[0].image_url.url");
    refuse_messages(USER_IMAGE(",\"image_url\":{\"url\":\"https://a/b.png\"}"), "invalid_image_url",
                    "messages[0].content[0].image_url.url");
    refuse_messages(USER_IMAGE(",\"image_url\":{\"url\":\"file:///etc/passwd\"}"),
                    "invalid_image_url", "messages[0].content[0].image_url.url");
    refuse_messages(USER_IMAGE(",\"image_url\":{\"url\":\"data:,\",\"detail\":\"huge\"}"),
                    "invalid_value", "messages[0].content[0].image_url.detail");
    refuse_messages("[{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
                    "\"url\":\"data:,\"}}]}]",
                    "invalid_value", "messages[0].content[0].type");
}

TEST(a_model_without_eyes_refuses_images)
{
    struct engine_info info = INFO;
    info.has_vision = false;
    struct openai_limits limits = LIMITS;
    limits.info = &info;
    static const char BODY[] =
        "{\"model\":\"tiny\",\"messages\":" USER_IMAGE(",\"image_url\":{\"url\":\"data:,\"}") "}";
    struct chat_request r;
    struct api_error err;
    CHECK_INT(openai_parse(&r, BODY, strlen(BODY), &limits, &err), ==, -1);
    CHECK_STR(err.code, "unsupported_value");
}
