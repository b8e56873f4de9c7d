/* Text to token ids, paragraph by paragraph.  Run by tokenizer.py, which times Hugging Face's
 * tokenizers beside it.
 *
 *   tokenizer TOKENIZER_JSON TEXT      paragraphs end with a zero byte */
#include <stdlib.h>
#include <string.h>

#include "bench/turns.h"
#include "runtime/mem.h"
#include "runtime/text/tokenizer.h"

struct bench {
    struct tokenizer *tokenizer;
    struct buffer text;
    struct token_list ids;
};

static _Noreturn void stop(const char *why)
{
    fprintf(stderr, "tokenizer: %s\n", why);
    exit(1);
}

/* Returns the number of ids. */
static double run(void *arg)
{
    struct bench *b = arg;
    size_t n = 0;
    for (const char *at = b->text.data, *end = at + b->text.len; at < end; at += strlen(at) + 1) {
        b->ids.n = 0;
        tokenizer_encode(b->tokenizer, at, strlen(at), SPECIALS_PARSED, &b->ids);
        n += b->ids.n;
    }
    return (double)n;
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct error err;
    if (argc != 3) stop("usage: tokenizer TOKENIZER_JSON TEXT");
    FILE *file = fopen(argv[2], "rb");
    if (!file) stop("the text cannot be opened");
    char block[4096];
    for (size_t n; (n = fread(block, 1, sizeof(block), file)) > 0;)
        buffer_append(&b.text, block, n);
    fclose(file);
    buffer_append(&b.text, "", 1); /* the end, if it is missing */
    if (tokenizer_open(&b.tokenizer, argv[1], &err) != 0) stop(err.text);
    turns_run(run, &b);
    tokenizer_close(b.tokenizer);
    token_list_done(&b.ids);
    buffer_done(&b.text);
    return 0;
}
