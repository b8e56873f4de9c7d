/* A picture file to the values that a tower takes: decode, orient, resize, crop, normalize.  Run by
 * image.py, which times Pillow beside it.
 *
 *   image PICTURE PREPROCESSOR_CONFIG */
#include <stdlib.h>

#include "bench/turns.h"
#include "runtime/image/decode.h"
#include "runtime/image/preprocess.h"
#include "runtime/mem.h"

struct bench {
    struct preprocess_config cfg;
    uint8_t *bytes;
    size_t len;
};

static _Noreturn void stop(const char *why)
{
    fprintf(stderr, "image: %s\n", why);
    exit(1);
}

/* Returns the mean of the values. */
static double run(void *arg)
{
    const struct bench *b = arg;
    struct picture picture;
    struct image_layout layout;
    struct error err;
    if (decode_image(b->bytes, b->len, &image_limits_default, &picture, &err) != 0 ||
        preprocess_layout(&b->cfg, picture.width, picture.height, &layout, &err) != 0)
        stop(err.text);
    float *values = xcalloc(layout.n_values, sizeof(*values));
    preprocess_picture(&b->cfg, &layout, &picture, values);
    double sum = 0;
    for (size_t i = 0; i < layout.n_values; i++) sum += (double)values[i];
    free(values);
    picture_done(&picture);
    return sum / (double)layout.n_values;
}

int main(int argc, char **argv)
{
    struct bench b;
    struct error err;
    if (argc != 3) stop("usage: image PICTURE PREPROCESSOR_CONFIG");
    FILE *file = fopen(argv[1], "rb");
    if (!file) stop("the picture cannot be opened");
    b.bytes = xcalloc(1, image_limits_default.max_file_len);
    b.len = fread(b.bytes, 1, image_limits_default.max_file_len, file);
    fclose(file);
    if (preprocess_config_load(&b.cfg, argv[2], &err) != 0) stop(err.text);
    turns_run(run, &b);
    free(b.bytes);
    return 0;
}
