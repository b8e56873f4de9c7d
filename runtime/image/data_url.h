/* The bytes in "data:[mime][;param]*;base64,...", the only form in which a client may send an
 * image.
 *
 * The mime type is ignored: clients often guess it.  The base64 text is the standard alphabet,
 * padded or not, and nothing else, no white space either.  Worker threads; reentrant. */
#ifndef RUNTIME_IMAGE_DATA_URL_H
#define RUNTIME_IMAGE_DATA_URL_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/error.h"

/* At most max_len bytes are accepted, which is checked before they get memory.  On success the
 * caller owns *bytes (free), and *bytes_len is at least 1. */
int data_url_decode(const char *url, size_t url_len, size_t max_len, uint8_t **bytes,
                    size_t *bytes_len, struct error *err);

#endif
