/* Any bytes as an image file of any format.  The limits are small, so that a run of the fuzzer is
 * many runs. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/image/decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct image_limits limits = image_limits_default;
    limits.max_pixels = (int64_t)256 * 256;
    limits.max_scan_pixels = limits.max_pixels * 4;
    struct picture picture;
    struct error err = {0};
    if (decode_image(bytes, len, &limits, &picture, &err) == 0)
        picture_done(&picture);
    else if (err.kind != ERROR_BAD_REQUEST || !err.code[0])
        abort();
    return 0;
}
