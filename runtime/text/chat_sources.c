/* The texts of the published templates, as they stand in chat_template.json (white space at the end
 * left out).  They are compared, never run; chat_render.c says in C what they do. */
#include "runtime/text/chat_template_impl.h"

/* clang-format off */
const struct chat_source chat_sources[] = {
    /* LLaVA-1.5, since the tags that mark what was generated */
    {"llava-1.5",
     "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() "
     "+ ': '}}{% endif %}{# Render all images first #}{% for content in message['content'] | selec"
     "tattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}{# Render all text next #}"
     "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('ty"
     "pe', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in "
     "message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['tex"
     "t'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt"
     " %}{{ 'ASSISTANT:' }}{% endif %}"},
    /* LLaVA-1.5 before; LLaVA-1.6 with Vicuna has the same text, as far as we could find out */
    {"llava-1.5",
     "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() "
     "+ ': '}}{% endif %}{# Render all images first #}{% for content in message['content'] | selec"
     "tattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}{# Render all text next #}"
     "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['t"
     "ext'] + ' '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endi"
     "f %}"},
    /* LLaVA-1.5, first revision: rebuilt from its description; its length agrees */
    {"llava-1.5-first",
     "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['t"
     "ext'] }}{% else %}{{ message['role'].upper() + ': '}}{% endif %}{# Render all images first #"
     "}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>"
     "\\n' }}{% endfor %}{# Render all text next #}{% for content in message['content'] | selectat"
     "tr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% endfor %}{% if add_"
     "generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"},
    /* Qwen2.5-VL */
    {"qwen2.5-vl",
     "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for m"
     "essage in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
     "You are a helpful assistant.<|im_end|>\n"
     "{% endif %}<|im_start|>{{ message['role'] }}\n"
     "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
     "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image'"
     " in content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{"
     "% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad"
     "|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}{% set video_coun"
     "t.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% en"
     "dif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['tex"
     "t'] }}{% endif %}{% endfor %}<|im_end|>\n"
     "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
     "{% endif %}"},
    /* Qwen2.5; we render it without tools */
    {"qwen2.5-text",
     "{%- if tools %}\n"
     "    {{- '<|im_start|>system\\n' }}\n"
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- messages[0]['content'] }}\n"
     "    {%- else %}\n"
     "        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}\n"
     "    {%- endif %}\n"
     "    {{- \"\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user quer"
     "y.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>"
     "\" }}\n"
     "    {%- for tool in tools %}\n"
     "        {{- \"\\n\" }}\n"
     "        {{- tool | tojson }}\n"
     "    {%- endfor %}\n"
     "    {{- \"\\n</tools>\\n\\nFor each function call, return a json object with function name a"
     "nd arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\\"name\\\": <functi"
     "on-name>, \\\"arguments\\\": <args-json-object>}\\n</tool_call><|im_end|>\\n\" }}\n"
     "{%- else %}\n"
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
     "    {%- else %}\n"
     "        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
     "assistant.<|im_end|>\\n' }}\n"
     "    {%- endif %}\n"
     "{%- endif %}\n"
     "{%- for message in messages %}\n"
     "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or "
     "(message.role == \"assistant\" and not message.tool_calls) %}\n"
     "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }"
     "}\n"
     "    {%- elif message.role == \"assistant\" %}\n"
     "        {{- '<|im_start|>' + message.role }}\n"
     "        {%- if message.content %}\n"
     "            {{- '\\n' + message.content }}\n"
     "        {%- endif %}\n"
     "        {%- for tool_call in message.tool_calls %}\n"
     "            {%- if tool_call.function is defined %}\n"
     "                {%- set tool_call = tool_call.function %}\n"
     "            {%- endif %}\n"
     "            {{- '\\n<tool_call>\\n{\"name\": \"' }}\n"
     "            {{- tool_call.name }}\n"
     "            {{- '\", \"arguments\": ' }}\n"
     "            {{- tool_call.arguments | tojson }}\n"
     "            {{- '}\\n</tool_call>' }}\n"
     "        {%- endfor %}\n"
     "        {{- '<|im_end|>\\n' }}\n"
     "    {%- elif message.role == \"tool\" %}\n"
     "        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != \"tool\") %}\n"
     "            {{- '<|im_start|>user' }}\n"
     "        {%- endif %}\n"
     "        {{- '\\n<tool_response>\\n' }}\n"
     "        {{- message.content }}\n"
     "        {{- '\\n</tool_response>' }}\n"
     "        {%- if loop.last or (messages[loop.index0 + 1].role != \"tool\") %}\n"
     "            {{- '<|im_end|>\\n' }}\n"
     "        {%- endif %}\n"
     "    {%- endif %}\n"
     "{%- endfor %}\n"
     "{%- if add_generation_prompt %}\n"
     "    {{- '<|im_start|>assistant\\n' }}\n"
     "{%- endif %}"},
    /* Llama-2 chat */
    {"llama-2",
     "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set syste"
     "m_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set sy"
     "stem_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role']"
     " == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must altern"
     "ate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_mes"
     "sage != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + mes"
     "sage['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message"
     "['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif mes"
     "sage['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% "
     "endfor %}"},
    /* a plain Llama template of the reference data */
    {"llama-text",
     "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>"
     "\\n' + message['content'] | trim + '\\n<</SYS>>\\n\\n' }}{% elif message['role'] == 'user' %"
     "}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% elif message['role'] == 'assista"
     "nt' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% else %}{{ raise_exception('U"
     "nknown role: ' + message['role']) }}{% endif %}{% endfor %}"},
};
/* clang-format on */

const size_t chat_n_sources = sizeof(chat_sources) / sizeof(*chat_sources);
