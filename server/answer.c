#include "server/answer.h"

#include <string.h>

struct head {
    uint32_t len; /* of the whole part */
    uint32_t text_len;
    int32_t n_tokens;
};

struct token_head {
    int32_t id;
    float logprob;
    int32_t n_top;
};

void answer_append(struct buffer *b, const struct gen_event *event)
{
    struct head head = {.text_len = (uint32_t)event->text_len, .n_tokens = event->n_tokens};
    size_t start = b->len;
    buffer_append(b, &head, sizeof(head));
    buffer_append(b, event->text, event->text_len);
    for (int i = 0; i < event->n_tokens; i++) {
        const struct gen_token *token = &event->tokens[i];
        int n_top = !token->top ? 0 : token->n_top < MAX_LOGPROBS ? token->n_top : MAX_LOGPROBS;
        struct token_head t = {token->id, token->logprob, n_top};
        buffer_append(b, &t, sizeof(t));
        if (n_top == 0) continue;
        buffer_append(b, token->top->ids, (size_t)n_top * sizeof(token->top->ids[0]));
        buffer_append(b, token->top->logprobs, (size_t)n_top * sizeof(token->top->logprobs[0]));
    }
    head.len = (uint32_t)(b->len - start);
    memcpy(b->data + start, &head, sizeof(head));
}

bool answer_next(const struct buffer *b, size_t *pos, struct answer_part *out)
{
    if (*pos >= b->len) return false;
    struct head head;
    memcpy(&head, b->data + *pos, sizeof(head));
    const char *text = b->data + *pos + sizeof(head);
    *out = (struct answer_part){.text = text,
                                .text_len = head.text_len,
                                .n_tokens = head.n_tokens,
                                .next = text + head.text_len};
    *pos += head.len;
    return true;
}

void answer_token(struct answer_part *part, struct answer_token *out)
{
    struct token_head t;
    memcpy(&t, part->next, sizeof(t));
    part->next += sizeof(t);
    out->id = t.id;
    out->logprob = t.logprob;
    out->n_top = t.n_top;
    size_t n = (size_t)t.n_top;
    memcpy(out->top_ids, part->next, n * sizeof(out->top_ids[0]));
    part->next += n * sizeof(out->top_ids[0]);
    memcpy(out->top_logprobs, part->next, n * sizeof(out->top_logprobs[0]));
    part->next += n * sizeof(out->top_logprobs[0]);
}
