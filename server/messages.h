/* The `messages` of a chat request: checked, and laid out as the chat template takes them.  Any
 * thread. */
#ifndef SERVER_MESSAGES_H
#define SERVER_MESSAGES_H

#include "runtime/text/chat_template.h"
#include "server/api_error.h"

#include <stdbool.h>

enum { MAX_MESSAGES = 1024 };

struct json_t;

/* Texts and URLs are borrowed from the JSON they were parsed from; the arrays are owned. */
struct messages {
    struct chat_message *list;
    int n;
    struct chat_part *parts; /* of all messages, in order */
    size_t n_parts, parts_capacity;
    const char **image_urls; /* of the image parts, in order; data: URLs */
    int n_images;
};

/* json is the value of "messages" or NULL.  out is zeroed; on failure too it is given to
 * messages_done. */
int messages_parse(struct messages *out, const struct json_t *json, bool has_vision,
                   struct api_error *err);
void messages_done(struct messages *m);

#endif
