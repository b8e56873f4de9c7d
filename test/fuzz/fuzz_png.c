/* Any bytes as a PNG file.  The limits are small, so that a run of the fuzzer is many runs. */
#include <stdint.h>

#include "runtime/image/decoders.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct image_limits limits = image_limits_default;
    limits.max_pixels = (int64_t)256 * 256;
    limits.max_scan_pixels = limits.max_pixels * 4;
    struct picture picture;
    struct error err;
    if (decode_png(bytes, len, &limits, &picture, &err) == 0) picture_done(&picture);
    return 0;
}
