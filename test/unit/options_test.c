/* The command line. */
#include "server/options.h"

#include "test/test.h"

/* What is parsed borrows the words, until the next call. */
static int parse(struct options *out, struct error *err, const char *a, const char *b)
{
    static char first[64], second[64];
    snprintf(first, sizeof(first), "%s", a ? a : "");
    snprintf(second, sizeof(second), "%s", b ? b : "");
    char *argv[] = {(char *)"vispecd", a ? first : NULL, b ? second : NULL, NULL};
    return options_parse(out, 1 + !!a + !!b, argv, err);
}

TEST(without_options_there_are_defaults)
{
    struct options o;
    struct error err;
    CHECK_INT(parse(&o, &err, NULL, NULL), ==, 0);
    CHECK_STR(o.host, "127.0.0.1");
    CHECK_INT(o.port, ==, 8000);
    CHECK_INT(o.drain_seconds, ==, 30);
    CHECK(!o.engine.model_dir && !o.api_key_file);
}

TEST(options_reach_their_fields)
{
    struct options o;
    struct error err;
    CHECK_INT(parse(&o, &err, "--port=0", "--max-model-len=512"), ==, 0);
    CHECK_INT(o.port, ==, 0);
    CHECK_INT(o.engine.max_model_len, ==, 512);
    CHECK_INT(parse(&o, &err, "--draft", "none"), ==, 0);
    CHECK_STR(o.engine.draft_dir, "none");
    CHECK_INT(parse(&o, &err, "--draft-vocab", "all"), ==, 0);
    CHECK_STR(o.engine.draft_vocab, "all");
    char names[] = "--served-model-name=a,b";
    char *argv[] = {(char *)"vispecd", names, NULL};
    CHECK_INT(options_parse(&o, 2, argv, &err), ==, 0);
    CHECK_INT(o.n_served_names, ==, 2);
    CHECK_STR(o.served_names[1], "b");
}

TEST(a_bad_option_is_named)
{
    static const char *const BAD[][2] = {
        {"--nonsense", NULL}, {"-x", NULL},         {"--port", "70000"},
        {"--port", "x"},      {"--port", "1x"},     {"--port", NULL},
        {"stray", NULL},      {"--max-queue", "0"}, {"--served-model-name", ","},
        {"--help=1", NULL}};
    struct options o;
    struct error err;
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        CHECK_INT(parse(&o, &err, BAD[i][0], BAD[i][1]), ==, -1);
        CHECK(err.text[0] && !strchr(err.text, '\n'));
    }
}

TEST(a_key_on_the_command_line_is_refused_and_not_repeated)
{
    struct options o;
    struct error err;
    CHECK_INT(parse(&o, &err, "--api-key", "sk-secret"), ==, -1);
    CHECK(!strstr(err.text, "sk-secret"));
    CHECK(strstr(err.text, "--api-key-file"));
}
