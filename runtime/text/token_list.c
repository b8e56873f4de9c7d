#include "runtime/text/token_list.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"

static void reserve(struct token_list *list, size_t n_more)
{
    if (list->n + n_more <= list->capacity) return;
    size_t capacity = list->capacity ? list->capacity : 64;
    while (capacity < list->n + n_more) capacity *= 2;
    list->ids = xrealloc(list->ids, capacity * sizeof(*list->ids));
    list->capacity = capacity;
}

void token_list_push(struct token_list *list, int32_t id)
{
    reserve(list, 1);
    list->ids[list->n++] = id;
}

void token_list_append(struct token_list *list, const int32_t *ids, size_t n)
{
    if (n == 0) return;
    reserve(list, n);
    memcpy(list->ids + list->n, ids, n * sizeof(*ids));
    list->n += n;
}

void token_list_repeat(struct token_list *list, int32_t id, size_t n)
{
    reserve(list, n);
    for (size_t i = 0; i < n; i++) list->ids[list->n++] = id;
}

void token_list_done(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}
