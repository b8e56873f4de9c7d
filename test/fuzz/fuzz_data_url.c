/* Any bytes as an image URL. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/image/data_url.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    uint8_t *decoded;
    size_t decoded_len;
    struct error err;
    if (data_url_decode((const char *)bytes, len, 1000, &decoded, &decoded_len, &err) == 0)
        free(decoded);
    return 0;
}
