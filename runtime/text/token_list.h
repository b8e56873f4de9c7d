/* A list of token ids that grows.  Zero-initialized is empty; the ids belong to the list.  Any
 * thread, one at a time. */
#ifndef RUNTIME_TEXT_TOKEN_LIST_H
#define RUNTIME_TEXT_TOKEN_LIST_H

#include <stddef.h>
#include <stdint.h>

struct token_list {
    int32_t *ids; /* [n] */
    size_t n, capacity;
};

void token_list_push(struct token_list *list, int32_t id);
void token_list_append(struct token_list *list, const int32_t *ids, size_t n);
void token_list_repeat(struct token_list *list, int32_t id, size_t n); /* pushes id n times */
void token_list_done(struct token_list *list); /* frees the ids and leaves the list empty */

#endif
