/* From a picture to the pixel values that a vision tower expects: resize, crop, scale, normalize,
 * as the model folder's preprocessor_config.json says.
 *
 * What a family computes equals Hugging Face's image processor (the one that uses Pillow) in every
 * bit.  A key that asks for anything else is an error, never ignored.
 *
 * The config is read once, at start, and constant afterwards.  Everything else: worker threads;
 * reentrant. */
#ifndef RUNTIME_IMAGE_PREPROCESS_H
#define RUNTIME_IMAGE_PREPROCESS_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/error.h"
#include "runtime/image/picture.h"

enum preprocess_family {
    PREPROCESS_CLIP,   /* LLaVA-1.5: shortest edge to size, crop the center */
    PREPROCESS_ANYRES, /* LLaVA-1.6: the whole picture squeezed, then tiles of it enlarged */
    PREPROCESS_QWEN,   /* Qwen2.5-VL: to multiples of 28 pixels, in patches */
};

struct preprocess_config {
    enum preprocess_family family;
    bool has_resize;
    int shortest_edge;     /* after resizing */
    int crop_size;         /* S, both sides of the result */
    double rescale_factor; /* 1 where the config asks for no rescaling */
    float mean[3], std[3]; /* 0 and 1 where it asks for no normalization */
};

/* path: of the preprocessor_config.json. */
int preprocess_config_load(struct preprocess_config *cfg, const char *path, struct error *err);

/* What a picture of some size becomes; known before its pixels are touched. */
struct image_layout {
    int width, height;        /* of the picture */
    int n_tiles;              /* passes of the tower: 1, ANYRES: 1 + tile_rows * tile_cols */
    int tile_rows, tile_cols; /* ANYRES: tiles of the chosen resolution */
    int grid_h, grid_w;       /* QWEN: patches, multiples of the merge size */
    size_t n_values;          /* floats of the preprocessed picture */
};

/* Fails with the client's error where the family does not take a picture of this size. */
int preprocess_layout(const struct preprocess_config *cfg, int width, int height,
                      struct image_layout *out, struct error *err);

/* The layout with most values (and tokens) of all that preprocess_layout gives. */
void preprocess_largest(const struct preprocess_config *cfg, struct image_layout *out);

/* How a picture of some size will be resized, and where in it the crop begins: negative where the
 * picture is the smaller, for the crop is then filled up with black. */
struct preprocess_geometry {
    int resized_width, resized_height;
    int crop_left, crop_top;
};

struct preprocess_geometry preprocess_geometry_of(const struct preprocess_config *cfg, int width,
                                                  int height);

/* *out becomes the resized and cropped picture, S x S.  The caller owns out's pixels. */
void preprocess_crop(const struct preprocess_config *cfg, const struct picture *in,
                     struct picture *out);

/* values [3][height][width] = ((float)(rgb * rescale_factor) - mean) / std */
void preprocess_normalize(const struct preprocess_config *cfg, const struct picture *in,
                          float *values);

/* The whole way: values [layout->n_values].
 *
 * CLIP [3][S][S]; ANYRES [n_tiles][3][S][S], the squeezed picture first, then tiles by rows; QWEN
 * [grid_h/m][grid_w/m][m][m][3][p][p], patches in the order of their merged tokens (the second
 * frame of the temporal patch is a copy and is left out). */
void preprocess_picture(const struct preprocess_config *cfg, const struct image_layout *layout,
                        const struct picture *in, float *values);

#endif
