/* The published templates as code.  Each function is checked against what the reference renders. */
#include <string.h>

#include "runtime/text/chat_template_impl.h"
#include "runtime/text/utf8.h"

static void add(struct chat_segments *out, struct chat_segment segment)
{
    if (out->n == out->capacity) {
        out->capacity = out->capacity ? 2 * out->capacity : 32;
        out->items = xrealloc(out->items, out->capacity * sizeof(*out->items));
    }
    out->items[out->n++] = segment;
}

static void add_scaffold(struct chat_segments *out, const char *text)
{
    add(out, (struct chat_segment){.kind = SEGMENT_SCAFFOLD, .text = text, .len = strlen(text)});
}

static void add_content(struct chat_segments *out, const char *text, size_t len)
{
    add(out, (struct chat_segment){.kind = SEGMENT_CONTENT, .text = text, .len = len});
}

static void add_image(struct chat_segments *out, int image)
{
    add(out, (struct chat_segment){.kind = SEGMENT_IMAGE, .image = image});
}

/* The texts of a message, joined as the reference joins them where a template expects one string.
 */
static void add_joined(const struct chat_message *message, struct chat_segments *out)
{
    for (size_t i = 0; i < message->n_parts; i++)
        if (message->parts[i].kind == CHAT_TEXT)
            add_content(out, message->parts[i].text, message->parts[i].len);
}

/* ---- LLaVA ---- */

/* All images of a message, each on a line of its own. */
static void add_llava_images(const struct chat_message *message, struct chat_segments *out)
{
    for (size_t i = 0; i < message->n_parts; i++) {
        if (message->parts[i].kind != CHAT_IMAGE) continue;
        add_image(out, message->parts[i].image);
        add_scaffold(out, "\n");
    }
}

/* The images first, then the texts, each with a space. */
static void add_llava_parts(const struct chat_message *message, struct chat_segments *out)
{
    add_llava_images(message, out);
    for (size_t i = 0; i < message->n_parts; i++) {
        if (message->parts[i].kind != CHAT_TEXT) continue;
        add_content(out, message->parts[i].text, message->parts[i].len);
        add_scaffold(out, " ");
    }
}

static void add_llava_role(const struct chat_message *message, struct chat_segments *out)
{
    if (message->role == CHAT_USER) add_scaffold(out, "USER: ");
    if (message->role == CHAT_ASSISTANT) add_scaffold(out, "ASSISTANT: ");
}

void chat_render_llava(const struct chat_message *messages, size_t n_messages, bool opens_answer,
                       struct chat_segments *out)
{
    for (size_t m = 0; m < n_messages; m++) {
        add_llava_role(&messages[m], out);
        add_llava_parts(&messages[m], out);
    }
    if (opens_answer) add_scaffold(out, "ASSISTANT:");
}

/* LLaVA-1.5's first revision wrote a system message's first text twice: bare, then like any other.
 */
void chat_render_llava_first(const struct chat_message *messages, size_t n_messages,
                             bool opens_answer, struct chat_segments *out)
{
    for (size_t m = 0; m < n_messages; m++) {
        const struct chat_message *message = &messages[m];
        if (message->role == CHAT_SYSTEM && message->n_parts > 0 &&
            message->parts[0].kind == CHAT_TEXT)
            add_content(out, message->parts[0].text, message->parts[0].len);
        add_llava_role(message, out);
        add_llava_parts(message, out);
    }
    if (opens_answer) add_scaffold(out, "ASSISTANT:");
}

/* ---- Vicuna ---- */

/* The prompt of Vicuna 1.1 and of LLaVA before it had a template: no line ends, and an answer ends
 * with its token.  A system message stands in place of the default one. */
static void add_vicuna(const char *default_system, const struct chat_message *messages,
                       size_t n_messages, bool opens_answer, struct chat_segments *out)
{
    if (n_messages == 0 || messages[0].role != CHAT_SYSTEM) add_scaffold(out, default_system);
    for (size_t m = 0; m < n_messages; m++) {
        add_llava_role(&messages[m], out);
        add_llava_images(&messages[m], out);
        add_joined(&messages[m], out);
        add_scaffold(out, messages[m].role == CHAT_ASSISTANT ? "</s>" : " ");
    }
    if (opens_answer) add_scaffold(out, "ASSISTANT:");
}

void chat_render_vicuna(const struct chat_message *messages, size_t n_messages, bool opens_answer,
                        struct chat_segments *out)
{
    add_vicuna("A chat between a curious user and an artificial intelligence assistant. The "
               "assistant gives helpful, detailed, and polite answers to the user's questions. ",
               messages, n_messages, opens_answer, out);
}

void chat_render_llava_v1(const struct chat_message *messages, size_t n_messages, bool opens_answer,
                          struct chat_segments *out)
{
    add_vicuna("A chat between a curious human and an artificial intelligence assistant. The "
               "assistant gives helpful, detailed, and polite answers to the human's questions. ",
               messages, n_messages, opens_answer, out);
}

/* ---- Qwen2.5 ---- */

static void add_qwen_role(enum chat_role role, struct chat_segments *out)
{
    static const char *const openings[] = {[CHAT_SYSTEM] = "<|im_start|>system\n",
                                           [CHAT_USER] = "<|im_start|>user\n",
                                           [CHAT_ASSISTANT] = "<|im_start|>assistant\n"};
    add_scaffold(out, openings[role]);
}

void chat_render_qwen2_5_vl(const struct chat_message *messages, size_t n_messages,
                            bool opens_answer, struct chat_segments *out)
{
    if (n_messages > 0 && messages[0].role != CHAT_SYSTEM)
        add_scaffold(out, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n");
    for (size_t m = 0; m < n_messages; m++) {
        add_qwen_role(messages[m].role, out);
        for (size_t i = 0; i < messages[m].n_parts; i++) {
            const struct chat_part *part = &messages[m].parts[i];
            if (part->kind == CHAT_TEXT) {
                add_content(out, part->text, part->len);
                continue;
            }
            add_scaffold(out, "<|vision_start|>");
            add_image(out, part->image);
            add_scaffold(out, "<|vision_end|>");
        }
        add_scaffold(out, "<|im_end|>\n");
    }
    if (opens_answer) add_qwen_role(CHAT_ASSISTANT, out);
}

void chat_render_qwen2_5_text(const struct chat_message *messages, size_t n_messages,
                              bool opens_answer, struct chat_segments *out)
{
    if (n_messages > 0 && messages[0].role != CHAT_SYSTEM)
        add_scaffold(out, "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
                          "helpful assistant.<|im_end|>\n");
    for (size_t m = 0; m < n_messages; m++) {
        add_qwen_role(messages[m].role, out);
        add_joined(&messages[m], out);
        add_scaffold(out, "<|im_end|>\n");
    }
    if (opens_answer) add_qwen_role(CHAT_ASSISTANT, out);
}

/* ---- Llama ---- */

/* What Python's str.strip() takes away.  Returns the length of such a character at text, or 0. */
static size_t space_at(const char *text, size_t len)
{
    for (size_t n = 1; n <= 4 && n <= len; n++) {
        if (utf8_status(text, n) != UTF8_COMPLETE) continue;
        uint32_t c = utf8_decode(text, &n);
        return utf8_is_white_space(c) || (c >= 0x1C && c <= 0x1F) ? n : 0;
    }
    return 0;
}

/* Takes white space from both ends of the segments from `first` on. */
static void trim(struct chat_segments *out, size_t first)
{
    for (size_t i = first; i < out->n; i++) {
        struct chat_segment *s = &out->items[i];
        for (size_t n; s->len > 0 && (n = space_at(s->text, s->len)) > 0; s->len -= n) s->text += n;
        if (s->len > 0) break;
    }
    for (size_t i = out->n; i > first; i--) {
        struct chat_segment *s = &out->items[i - 1];
        for (size_t n = 1; n <= 4 && n <= s->len;) {
            if (space_at(s->text + s->len - n, n) == n) {
                s->len -= n;
                n = 1;
            } else {
                n++;
            }
        }
        if (s->len > 0) break;
    }
}

/* Adds the message's text without white space at both ends. */
static void add_trimmed(const struct chat_message *message, struct chat_segments *out)
{
    size_t first = out->n;
    add_joined(message, out);
    trim(out, first);
}

void chat_render_llama_text(const struct chat_message *messages, size_t n_messages,
                            bool opens_answer, struct chat_segments *out)
{
    (void)opens_answer; /* "[/INST]" opens it */
    static const char *const openings[] = {
        [CHAT_SYSTEM] = "<<SYS>>\n", [CHAT_USER] = "[INST] ", [CHAT_ASSISTANT] = " "};
    static const char *const closings[] = {
        [CHAT_SYSTEM] = "\n<</SYS>>\n\n", [CHAT_USER] = " [/INST]", [CHAT_ASSISTANT] = " </s>"};
    add_scaffold(out, "<s>");
    for (size_t m = 0; m < n_messages; m++) {
        add_scaffold(out, openings[messages[m].role]);
        add_trimmed(&messages[m], out);
        add_scaffold(out, closings[messages[m].role]);
    }
}

/* Llama-2's own: each question with its answer begins anew, the system message is part of the first
 * question. */
void chat_render_llama_2(const struct chat_message *messages, size_t n_messages, bool opens_answer,
                         struct chat_segments *out)
{
    (void)opens_answer; /* "[/INST]" opens it */
    const struct chat_message *system =
        n_messages > 0 && messages[0].role == CHAT_SYSTEM ? &messages[0] : NULL;
    for (size_t m = system ? 1 : 0; m < n_messages; m++) {
        if (messages[m].role == CHAT_ASSISTANT) {
            add_scaffold(out, " ");
            add_trimmed(&messages[m], out);
            add_scaffold(out, " </s>");
            continue;
        }
        add_scaffold(out, "<s>[INST] ");
        size_t question = out->n;
        if (m == 1 && system) {
            add_scaffold(out, "<<SYS>>\n");
            add_joined(system, out);
            add_scaffold(out, "\n<</SYS>>\n\n");
        }
        add_joined(&messages[m], out);
        trim(out, question);
        add_scaffold(out, " [/INST]");
    }
}
