#include "runtime/text/added_tokens.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/text/utf8.h"

/* A trie: the children of a node are a list through `sibling`; those of the two roots are found
 * through `first`, because most bytes of a text begin no token. */
struct node {
    unsigned char byte;
    int32_t child, sibling; /* node or -1 */
    int32_t token;          /* the token that ends here, or -1 */
};

struct added_tokens {
    struct added_token *tokens; /* [n_tokens]; contents owned */
    size_t n_tokens;
    struct node *nodes; /* [n_nodes] */
    size_t n_nodes, nodes_capacity;
    int32_t first[2][256]; /* [is_normalized][byte]: node or -1 */
};

static int32_t new_node(struct added_tokens *a, unsigned char byte)
{
    if (a->n_nodes == a->nodes_capacity) {
        a->nodes_capacity = a->nodes_capacity ? 2 * a->nodes_capacity : 256;
        a->nodes = xrealloc(a->nodes, a->nodes_capacity * sizeof(*a->nodes));
    }
    a->nodes[a->n_nodes] = (struct node){.byte = byte, .child = -1, .sibling = -1, .token = -1};
    return (int32_t)a->n_nodes++;
}

static int32_t find_child(const struct added_tokens *a, int32_t parent, unsigned char byte)
{
    int32_t i = a->nodes[parent].child;
    while (i >= 0 && a->nodes[i].byte != byte) i = a->nodes[i].sibling;
    return i;
}

static void insert(struct added_tokens *a, bool is_normalized, const char *text, size_t len,
                   int32_t token)
{
    if (len == 0) return;
    int32_t *first = &a->first[is_normalized][(unsigned char)text[0]];
    if (*first < 0) *first = new_node(a, (unsigned char)text[0]);
    int32_t at = *first;
    for (size_t i = 1; i < len; i++) {
        int32_t child = find_child(a, at, (unsigned char)text[i]);
        if (child < 0) {
            child = new_node(a, (unsigned char)text[i]);
            a->nodes[child].sibling = a->nodes[at].child;
            a->nodes[at].child = child;
        }
        at = child;
    }
    a->nodes[at].token = token;
}

static int read_token(struct added_token *token, const json_t *json, int n_max_ids,
                      struct error *err)
{
    const json_t *content = json_object_get(json, "content");
    const json_t *id = json_object_get(json, "id");
    if (!json_is_string(content) || !json_is_integer(id))
        return error_set(err, ERROR_BAD_REQUEST, "added_tokens: an entry without content or id");
    json_int_t value = json_integer_value(id);
    if (value < 0 || value >= n_max_ids)
        return error_set(err, ERROR_BAD_REQUEST,
                         "added_tokens: %.64s has id %lld, which is outside 0..%d",
                         json_string_value(content), (long long)value, n_max_ids - 1);
    *token = (struct added_token){
        .content = xstrndup(json_string_value(content), json_string_length(content)),
        .len = json_string_length(content),
        .id = (int32_t)value,
        .is_special = json_is_true(json_object_get(json, "special")),
        .is_normalized = json_is_true(json_object_get(json, "normalized")),
        .strips_left = json_is_true(json_object_get(json, "lstrip")),
        .strips_right = json_is_true(json_object_get(json, "rstrip")),
        .is_single_word = json_is_true(json_object_get(json, "single_word")),
    };
    return 0;
}

int added_tokens_open(struct added_tokens **out, const struct json_t *json,
                      const struct normalizer *normalizer, int n_max_ids, struct error *err)
{
    struct added_tokens *a = xcalloc(1, sizeof(*a));
    memset(a->first, -1, sizeof(a->first));
    size_t n = json_array_size(json);
    a->tokens = xcalloc(n, sizeof(*a->tokens));
    struct buffer normal = {0}, scratch = {0};
    int result = -1;
    for (size_t i = 0; i < n; i++) {
        struct added_token *token = &a->tokens[i];
        if (read_token(token, json_array_get(json, i), n_max_ids, err) != 0) goto done;
        a->n_tokens++;
        if (token->is_normalized) {
            normalizer_apply(normalizer, token->content, token->len, &normal, &scratch);
            insert(a, true, normal.data, normal.len, (int32_t)i);
        } else {
            insert(a, false, token->content, token->len, (int32_t)i);
        }
    }
    result = 0;

done:
    buffer_done(&normal);
    buffer_done(&scratch);
    if (result == 0)
        *out = a;
    else
        added_tokens_close(a);
    return result;
}

void added_tokens_close(struct added_tokens *a)
{
    if (!a) return;
    for (size_t i = 0; i < a->n_tokens; i++) free((char *)a->tokens[i].content);
    free(a->tokens);
    free(a->nodes);
    free(a);
}

const struct added_token *added_tokens_all(const struct added_tokens *a, size_t *n)
{
    *n = a->n_tokens;
    return a->tokens;
}

/* The longest token that begins at text, or NULL; *end gets its length. */
static const struct added_token *longest_at(const struct added_tokens *a, int32_t node,
                                            const char *text, size_t len, size_t *end)
{
    const struct added_token *longest = NULL;
    for (size_t i = 1; node >= 0; i++) {
        if (a->nodes[node].token >= 0) {
            longest = &a->tokens[a->nodes[node].token];
            *end = i;
        }
        node = i < len ? find_child(a, node, (unsigned char)text[i]) : -1;
    }
    return longest;
}

/* Start of the character that ends before text[end]. */
static size_t character_before(const char *text, size_t end)
{
    size_t i = end - 1;
    while (i > 0 && ((unsigned char)text[i] & 0xC0) == 0x80) i--;
    return i;
}

static bool is_word_character(uint32_t c)
{
    if (c < 0x80)
        return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    utf8proc_category_t category = utf8proc_category((int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC;
}

static bool stands_alone(const char *text, size_t len, size_t start, size_t end)
{
    size_t n;
    if (start > 0 && is_word_character(utf8_decode(text + character_before(text, start), &n)))
        return false;
    return end == len || !is_word_character(utf8_decode(text + end, &n));
}

/* Widens the match over the white space that the token takes, to the left as far as pos. */
static void strip(const struct added_token *token, const char *text, size_t len, size_t pos,
                  struct token_match *match)
{
    size_t n;
    while (token->strips_left && match->start > pos) {
        size_t before = character_before(text, match->start);
        if (before < pos || !utf8_is_white_space(utf8_decode(text + before, &n))) break;
        match->start = before;
    }
    while (token->strips_right && match->end < len) {
        if (!utf8_is_white_space(utf8_decode(text + match->end, &n))) break;
        match->end += n;
    }
}

bool added_tokens_next(const struct added_tokens *a, bool is_normalized, enum token_filter filter,
                       const char *text, size_t len, size_t pos, struct token_match *out)
{
    for (size_t i = pos; i < len;) {
        int32_t node = a->first[is_normalized][(unsigned char)text[i]];
        size_t length = 0;
        const struct added_token *token =
            node < 0 ? NULL : longest_at(a, node, text + i, len - i, &length);
        if (!token) {
            i++;
            continue;
        }
        bool counts = filter == FILTER_ALL || token->is_special == (filter == FILTER_SPECIAL_ONLY);
        if (counts && (!token->is_single_word || stands_alone(text, len, i, i + length))) {
            *out = (struct token_match){i, i + length, token->id};
            strip(token, text, len, pos, out);
            return true;
        }
        i += length;
    }
    return false;
}
