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

enum {
    MAX_PINPOINTS = 64,
    MAX_PREPROCESS_PIXELS = 1 << 26, /* of QWEN's resized picture */
};

struct preprocess_config {
    enum preprocess_family family;
    double rescale_factor; /* 1 where the config asks for no rescaling */
    float mean[3], std[3]; /* 0 and 1 where it asks for no normalization */

    int crop_size;     /* CLIP, ANYRES: S, both sides of what the tower gets */
    bool has_resize;   /* CLIP */
    int shortest_edge; /* CLIP: after resizing */

    int n_pinpoints; /* ANYRES: resolutions to choose from, (height, width), multiples of S */
    int pinpoints[MAX_PINPOINTS][2];

    int patch, merge;           /* QWEN: sides are multiples of patch * merge pixels */
    int min_pixels, max_pixels; /* QWEN: of the resized picture */
};

/* path: of the preprocessor_config.json. */
int preprocess_config_load(struct preprocess_config *cfg, const char *path, struct error *err);

/* Replaces QWEN's limits by those of the command line; 0 leaves one as it is.  Refused for families
 * that know no such limits. */
int preprocess_limit_pixels(struct preprocess_config *cfg, int min_pixels, int max_pixels,
                            struct error *err);

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

/* A layout that has at least as many tokens as any that preprocess_layout gives. */
void preprocess_largest(const struct preprocess_config *cfg, struct image_layout *out);

/* Where the picture comes to lie after resizing: its new size, and the window of it that is kept,
 * S x S (CLIP), the chosen resolution (ANYRES), all of it (QWEN).  A window that begins at negative
 * coordinates, or is larger than the picture, is filled up with black. */
struct preprocess_geometry {
    int resized_width, resized_height;
    int left, top, width, height; /* the window */
};

struct preprocess_geometry preprocess_geometry_of(const struct preprocess_config *cfg,
                                                  const struct image_layout *layout);

/* *out becomes the window.  The caller owns out's pixels. */
void preprocess_resize(const struct preprocess_geometry *geometry, const struct picture *in,
                       struct picture *out);

/* The whole way: values [layout->n_values], each ((float)(rgb * rescale_factor) - mean) / std.
 *
 * CLIP [3][S][S]; ANYRES [n_tiles][3][S][S], the squeezed picture first, then tiles by rows; QWEN
 * [grid_h/m][grid_w/m][m][m][3][p][p], patches in the order of their merged tokens (the second
 * frame of the temporal patch is a copy and is left out). */
void preprocess_picture(const struct preprocess_config *cfg, const struct image_layout *layout,
                        const struct picture *in, float *values);

#endif
