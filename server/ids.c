#include "server/ids.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

void ids_make(char out[ID_LEN], const char *prefix)
{
    uint32_t r[3];
    if (getrandom(r, sizeof(r), 0) != sizeof(r)) abort(); /* cannot fail for 12 bytes */
    snprintf(out, ID_LEN, "%.16s%08x%08x%08x", prefix, r[0], r[1], r[2]);
}
