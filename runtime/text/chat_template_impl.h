/* What chat_template.c, chat_render.c and chat_sources.c share.  Nobody else includes it. */
#ifndef RUNTIME_TEXT_CHAT_TEMPLATE_IMPL_H
#define RUNTIME_TEXT_CHAT_TEMPLATE_IMPL_H

#include "runtime/text/chat_template.h"

typedef void chat_render_fn(const struct chat_message *messages, size_t n_messages,
                            bool opens_answer, struct chat_segments *out);

chat_render_fn chat_render_llava, chat_render_llava_first, chat_render_qwen2_5_vl,
    chat_render_qwen2_5_text, chat_render_llama_text, chat_render_llama_2, chat_render_vicuna,
    chat_render_llava_v1;

/* The published Jinja texts that we recognise, each with the name of the template that renders it.
 */
struct chat_source {
    const char *name, *text;
};
extern const struct chat_source chat_sources[];
extern const size_t chat_n_sources;

#endif
