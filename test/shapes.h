/* The sizes that operations are tested on: edges first, then sizes of real models. */
#ifndef TEST_SHAPES_H
#define TEST_SHAPES_H

#include "kernels/sequence.h"

#define N_SHAPES(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Rows in use, of a capacity that is one more than the largest. */
enum { SHAPE_MAX_ROWS = 131 };
static const int shape_rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 30, 64, 97, 130};

/* Widths: around a vector of 8 and a panel of 16, then the embedded model's and CLIP's. */
static const int shape_widths[] = {1, 7, 8, 9, 15, 16, 17, 31, 64, 100, 192, 1024};

/* Sizes of heads: multiples of 8. */
static const int shape_head_dims[] = {8, 16, 24, 32, 40, 64, 80, 96, 128};

/* Committed slots in front of a row: around pages. */
static const int shape_contexts[] = {0,
                                     1,
                                     7,
                                     PAGE_LEN - 1,
                                     PAGE_LEN,
                                     PAGE_LEN + 1,
                                     2 * PAGE_LEN - 1,
                                     2 * PAGE_LEN,
                                     2 * PAGE_LEN + 1,
                                     5 * PAGE_LEN - 30};

#endif
