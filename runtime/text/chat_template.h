/* Chat messages to a prompt: the published chat templates, rendered by code.
 *
 * A model folder's template is recognised by its text; there is no Jinja here.  A template that is
 * not built in is an error that lists those that are, from which the operator chooses one by name.
 *
 * Rendering gives segments, not a string, because the parts of a prompt are not trusted alike:
 * control tokens in the template's own text are real, in a user's text they are text, and the
 * places of images come from image parts alone.  Everything here is immutable or the caller's: any
 * thread. */
#ifndef RUNTIME_TEXT_CHAT_TEMPLATE_H
#define RUNTIME_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/error.h"
#include "runtime/mem.h"
#include "runtime/text/tokenizer.h"

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };
enum chat_part_kind { CHAT_TEXT, CHAT_IMAGE };

struct chat_part {
    enum chat_part_kind kind;
    const char *text; /* TEXT: borrowed, [len], UTF-8 */
    size_t len;
    int image; /* IMAGE: index of the request's image */
};

/* A content that is one string is one text part. */
struct chat_message {
    enum chat_role role;
    const struct chat_part *parts; /* [n_parts], borrowed */
    size_t n_parts;
};

enum chat_segment_kind {
    SEGMENT_SCAFFOLD, /* the template's own text: control tokens are parsed */
    SEGMENT_CONTENT,  /* a message's text: control tokens are text */
    SEGMENT_IMAGE,    /* the place of one image */
};

struct chat_segment {
    enum chat_segment_kind kind;
    const char *text; /* borrowed from the template or from the messages */
    size_t len;
    int image;
};

/* Zero-initialized is empty. */
struct chat_segments {
    struct chat_segment *items; /* [n] */
    size_t n, capacity;
};

void chat_segments_done(struct chat_segments *segments);

/* A built-in template; static, so nobody frees it. */
struct chat_template;

/* The template for a model folder: the one called name if name is not NULL, else the one whose text
 * is in chat_template.jinja, chat_template.json or tokenizer_config.json (the first that is there).
 */
int chat_template_choose(const struct chat_template **out, const char *model_dir, const char *name,
                         struct error *err);

/* NULL: not built in.  White space at the end of a text does not count. */
const struct chat_template *chat_template_by_name(const char *name);
const struct chat_template *chat_template_by_text(const char *text, size_t len);

const char *chat_template_name(const struct chat_template *t);
const char *chat_template_image_token(const struct chat_template *t); /* NULL: takes no images */

/* Appends the segments of the messages, and of the beginning of the answer if opens_answer.  They
 * borrow the messages' text.  Fails if the template takes no images and there is one, or does not
 * take the roles in this order. */
int chat_template_render(const struct chat_template *t, const struct chat_message *messages,
                         size_t n_messages, bool opens_answer, struct chat_segments *out,
                         struct error *err);

/* Appends the prompt as text, one image token an image: what the published template gives. */
void chat_template_text(const struct chat_template *t, const struct chat_segments *segments,
                        struct buffer *out);

/* Appends the prompt's ids, with the tokenizer's prefix (BOS) unless the template writes it itself.
 *
 * Text between two control tokens of the template is encoded in one piece, in which control tokens
 * are text.  Image i becomes n_image_tokens[i] times image_token; image_pos[i], unless image_pos is
 * NULL, gets the index of the first of them in out. */
void chat_template_tokens(const struct chat_segments *segments, const struct tokenizer *tokenizer,
                          int32_t image_token, const int *n_image_tokens, struct token_list *out,
                          size_t *image_pos);

#endif
