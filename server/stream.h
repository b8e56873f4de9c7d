/* Answers as server-sent events.  One event is one line "data: {...}" and an empty line:
 *
 *   role chunk, content chunks..., finish chunk, [usage chunk], [DONE]        (or an error, [DONE])
 *
 * Comment lines (": ping") keep proxies from closing a silent stream.  Nothing else is ever sent:
 * other fields of the event-stream format break official clients (docs/api.md).  Any thread. */
#ifndef SERVER_STREAM_H
#define SERVER_STREAM_H

#include "server/reply.h"

void stream_begin(struct buffer *b, const struct reply *r);

/* Nothing where the part has neither text nor anything that the client asked for about tokens. */
void stream_part(struct buffer *b, const struct reply *r, const struct answer_part *part);
void stream_end(struct buffer *b, const struct reply *r, const struct reply_end *end);
void stream_ping(struct buffer *b);

#endif
