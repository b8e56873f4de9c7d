/* Image files in memory, for the tests of the decoders.  Every check fails the test that made it.
 */
#ifndef TEST_IMAGE_FILE_H
#define TEST_IMAGE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/image/decode.h"

struct image_file {
    uint8_t *bytes; /* of exactly len bytes, so that a sanitizer sees a read behind them; owned */
    size_t len;
};

struct image_file image_file_of(const void *bytes, size_t len); /* a copy */
struct image_file image_file_read(const char *relative);        /* as for test_path() */

struct picture image_file_decode(const struct image_file *f); /* must succeed */

/* Decoding fails with this code and a message that contains the part, and leaves out alone. */
void image_file_check_refused(const struct image_file *f, const struct image_limits *limits,
                              const char *code, const char *part);

/* What begins like f and ends before byte `end` is refused as truncated or damaged; what is too
 * short to be told from other formats, by its first magic_len bytes, as of no known format. */
void image_file_check_prefixes(const struct image_file *f, size_t magic_len, size_t end);

/* With any one byte changed, f is decoded or refused, and nothing else happens.  Writes to f. */
void image_file_check_changes(struct image_file *f);

#endif
