#include "runtime/engine/prompt.h"

#include "runtime/engine/internal.h"
#include "runtime/engine/job.h"
#include "runtime/image/data_url.h"
#include "runtime/image/decode.h"
#include "runtime/mem.h"

#include <stdlib.h>
#include <string.h>

static int too_long(const struct engine *e, size_t n_tokens, struct error *err)
{
    return error_set_code(
        err, ERROR_TOO_LONG, "context_length_exceeded",
        "This model's maximum context length is %d tokens. However, your messages resulted in %zu "
        "tokens, and the answer needs one at least.",
        engine_info(e)->max_model_len, n_tokens);
}

/* A decoded picture to the tower's input.  What does not fit the context with the *n_tokens tokens
 * of the pictures before takes no memory. */
static int preprocess(struct prompt_image *im, const struct engine *e,
                      const struct picture *picture, size_t *n_tokens, struct error *err)
{
    const struct model *m = engine_model(e);
    struct vision_input *in = &im->input;
    if (preprocess_layout(&m->preprocess, picture->width, picture->height, &in->layout, err) != 0)
        return -1;
    im->n = vision_n_tokens(&m->cfg.vision, &in->layout);
    *n_tokens += (size_t)im->n;
    if (*n_tokens >= (size_t)engine_info(e)->max_model_len) return too_long(e, *n_tokens, err);
    im->n_columns = vision_n_columns(&m->cfg.vision, &in->layout);
    in->index = vision_index_new(&m->cfg.vision, &in->layout);
    in->pixels = xcalloc(in->layout.n_values, sizeof(float));
    preprocess_picture(&m->preprocess, &in->layout, picture, in->pixels);
    return 0;
}

/* One picture's way from its data: URL to the tower's input. */
static int load_image(struct prompt_image *im, const struct engine *e, const char *url,
                      size_t *n_tokens, struct error *err)
{
    uint8_t *bytes;
    size_t len;
    const struct image_limits *limits = &image_limits_default;
    if (data_url_decode(url, strlen(url), limits->max_file_len, &bytes, &len, err) != 0) return -1;
    struct picture picture;
    int result = decode_image(bytes, len, limits, &picture, err);
    free(bytes);
    if (result != 0) return -1;
    result = preprocess(im, e, &picture, n_tokens, err);
    picture_done(&picture);
    return result;
}

static int load_images(struct prompt *p, const struct engine *e, const char *const *urls, int n,
                       struct error *err)
{
    size_t n_tokens = 0;
    if (n > 0 && !engine_model(e)->vision)
        return error_set_code(err, ERROR_BAD_REQUEST, "unsupported_value",
                              "this model takes no pictures");
    if (n > MAX_IMAGES)
        return error_set_code(err, ERROR_BAD_REQUEST, "invalid_value",
                              "%d pictures, but at most %d can be in a request", n, MAX_IMAGES);
    for (int i = 0; i < n; i++) {
        if (load_image(&p->images[i], e, urls[i], &n_tokens, err) != 0) return -1;
        p->n_images++;
    }
    return 0;
}

/* Ids of the rendered messages; p->images become known by their places. */
static int tokenize(struct prompt *p, const struct model *m, const struct chat_message *messages,
                    size_t n_messages, struct error *err)
{
    struct chat_segments segments = {0};
    int n_tokens[MAX_IMAGES];
    size_t first[MAX_IMAGES];
    for (int i = 0; i < p->n_images; i++) n_tokens[i] = p->images[i].n;
    int result = chat_template_render(m->chat_template, messages, n_messages, true, &segments, err);
    if (result == 0)
        chat_template_tokens(&segments, m->tokenizer, m->cfg.image_token, n_tokens, &p->tokens,
                             first);
    chat_segments_done(&segments);
    for (int i = 0; result == 0 && i < p->n_images; i++) p->images[i].first = (int)first[i];
    return result;
}

/* Templates may move images, but a prompt's images stand in the order of their tokens. */
static int by_place(const void *a, const void *b)
{
    return ((const struct prompt_image *)a)->first - ((const struct prompt_image *)b)->first;
}

int prompt_build(struct prompt **out, const struct engine *e, const struct chat_message *messages,
                 int n_messages, const char *const *image_urls, int n_images, struct error *err)
{
    const struct model *m = engine_model(e);
    struct prompt *p = xcalloc(1, sizeof(*p));
    if (load_images(p, e, image_urls, n_images, err) != 0) goto failed;
    if (tokenize(p, m, messages, (size_t)n_messages, err) != 0) goto failed;
    qsort(p->images, (size_t)p->n_images, sizeof(p->images[0]), by_place);
    prompt_set_rope_deltas(p);
    if (p->tokens.n >= (size_t)engine_info(e)->max_model_len) {
        too_long(e, p->tokens.n, err);
        goto failed;
    }
    *out = p;
    return 0;

failed:
    prompt_free(p);
    return -1;
}

/* M-RoPE: a picture's tokens share one temporal position and count rows and columns from there;
 * what follows goes on behind the larger of both.  Else a token's rotary position is its own. */
void prompt_set_rope_deltas(struct prompt *p)
{
    int delta = 0;
    for (int i = 0; i < p->n_images; i++) {
        struct prompt_image *im = &p->images[i];
        int n_columns = im->n_columns, n_rows = n_columns > 0 ? im->n / n_columns : 0;
        if (n_columns > 0) delta += (n_rows > n_columns ? n_rows : n_columns) - im->n;
        im->rope_delta = delta;
    }
}

void prompt_rope_position(const struct prompt *p, int pos, int image, bool is_image, int32_t out[3])
{
    int before = is_image ? image - 1 : image;
    int delta = before >= 0 ? p->images[before].rope_delta : 0;
    out[0] = out[1] = out[2] = pos + delta;
    if (!is_image || p->images[image].n_columns == 0) return;
    const struct prompt_image *im = &p->images[image];
    int i = pos - im->first;
    out[0] = im->first + delta;
    out[1] = out[0] + i / im->n_columns;
    out[2] = out[0] + i % im->n_columns;
}

void prompt_free(struct prompt *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_images; i++) {
        free(p->images[i].input.pixels);
        free(p->images[i].input.index);
        free(p->images[i].features);
    }
    token_list_done(&p->tokens);
    free(p);
}

int prompt_n_tokens(const struct prompt *p)
{
    return (int)p->tokens.n;
}

const int32_t *prompt_tokens(const struct prompt *p)
{
    return p->tokens.ids;
}

int prompt_token_bytes(const struct engine *e, int id, char out[64])
{
    size_t len;
    const char *bytes = detokenizer_token_bytes(engine_model(e)->tokenizer, id, &len);
    if (len > 64) len = 64;
    memcpy(out, bytes, len);
    return (int)len;
}
