/* Any bytes as a tokenizer.json: opening it either fails with a reason, or gives a tokenizer whose
 * ids lie in its range and whose text is valid UTF-8. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/detokenizer.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "USER: <image>\n caf\xC3\xA9 e\xCC\x81 12 \xF0\x9F\x98\x80"
                               "<|im_end|></s> a b  ab\xFF\xE4\xBD ASSISTANT:";
    struct tokenizer *t = NULL;
    struct error err;
    if (tokenizer_open_memory(&t, (const char *)data, size, &err) != 0) {
        require(t == NULL && memchr(err.text, '\0', sizeof(err.text)) != NULL);
        return 0;
    }
    for (int mode = 0; mode < 2; mode++) {
        struct token_list ids = {0};
        struct buffer out = {0};
        tokenizer_encode(t, text, sizeof(text) - 1, mode ? SPECIALS_PARSED : SPECIALS_AS_TEXT,
                         &ids);
        for (size_t i = 0; i < ids.n; i++)
            require(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_ids(t));
        detokenize(t, ids.ids, ids.n, mode == 0, &out);
        require(utf8_valid_len(out.data, out.len) == out.len);
        token_list_done(&ids);
        buffer_done(&out);
    }
    tokenizer_close(t);
    return 0;
}
