#include "server/stream.h"

#include "server/json_out.h"

static void open_chunk(struct buffer *b, const struct reply *r)
{
    buffer_printf(b, "data: {");
    reply_head(b, r, "chat.completion.chunk");
}

static void close_chunk(struct buffer *b, const struct reply *r)
{
    /* A client that asked for usage finds the key in every chunk. */
    buffer_printf(b, r->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

void stream_begin(struct buffer *b, const struct reply *r)
{
    open_chunk(b, r);
    buffer_printf(b,
                  ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\","
                  "\"refusal\":null},\"logprobs\":null,\"finish_reason\":null}]");
    reply_prompt_ids(b, r);
    close_chunk(b, r);
}

void stream_part(struct buffer *b, const struct reply *r, const struct answer_part *part)
{
    bool has_tokens = part->n_tokens > 0 && (r->logprobs || r->return_token_ids);
    if (part->text_len == 0 && !has_tokens) return;
    struct buffer logprobs = {0}, ids = {0};
    reply_tokens(r, *part, &logprobs, &ids);
    open_chunk(b, r);
    buffer_printf(b, ",\"choices\":[{\"index\":0,\"delta\":{\"content\":");
    json_out_string(b, part->text, part->text_len);
    buffer_printf(b, "}");
    reply_token_members(b, r, &logprobs, &ids);
    reply_finish_reason(b, NULL);
    buffer_printf(b, "}]");
    close_chunk(b, r);
    buffer_done(&logprobs);
    buffer_done(&ids);
}

void stream_end(struct buffer *b, const struct reply *r, const struct reply_end *end)
{
    struct api_error err;
    if (reply_failure(end, &err) != 0) {
        buffer_printf(b, "data: ");
        api_error_body(b, &err);
        buffer_printf(b, "\n\ndata: [DONE]\n\n");
        return;
    }
    open_chunk(b, r);
    buffer_printf(b, ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null");
    reply_finish_reason(b, end);
    buffer_printf(b, "}]");
    reply_timings(b, end);
    close_chunk(b, r);
    if (r->include_usage) {
        open_chunk(b, r);
        buffer_printf(b, ",\"choices\":[]");
        reply_usage(b, r, end);
        buffer_printf(b, "}\n\n");
    }
    buffer_printf(b, "data: [DONE]\n\n");
}

void stream_ping(struct buffer *b)
{
    buffer_printf(b, ": ping\n\n");
}
