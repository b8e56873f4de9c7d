/* Both passes are one loop: a weighted sum of rows.  The rows of the second pass are the picture's.
 * For the first pass BAND rows at a time are turned into the columns of a band, so that a column is
 * a row of BAND * 3 values:
 *
 *   in [in_h][in_w][3]  ->  band [in_w][BAND][3]  ->  middle [in_h][width][3]  ->  out [h][w][3]
 *
 * The sum runs over blocks of LANES values whose 32-bit accumulators stay in registers.  It cannot
 * overflow: the weights' absolute values add up to less than 2 * 2^22, times 255 is below 2^31. */
#include "runtime/image/resize.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "runtime/mem.h"

#pragma STDC FP_CONTRACT OFF /* Pillow's weights are computed without fused multiply-add */

#define WEIGHT_BITS 22
#define SUPPORT     2.0 /* of the filter, in pixels of the smaller picture */
#define BAND        16
#define LANES       48
_Static_assert(LANES == BAND * 3, "a column of a band is one block");

/* Output i is the sum over j < n[i] of weights[i * max_n + j] * input[first[i] + j]. */
struct taps {
    int n_outputs, max_n;
    int *first, *n;
    int32_t *weights;
};

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static int32_t fixed_point(double weight)
{
    return (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << WEIGHT_BITS));
}

/* The outputs from `begin` on, n_outputs of them, of in_len pixels resized to out_len.  The order
 * of the operations is Pillow's. */
static void taps_init(struct taps *t, int in_len, int out_len, int begin, int n_outputs)
{
    double scale = (double)in_len / out_len;
    double filter_scale = scale < 1.0 ? 1.0 : scale;
    double support = SUPPORT * filter_scale;
    double inverse = 1.0 / filter_scale;
    int max_n = (int)ceil(support) * 2 + 1;
    if (max_n > in_len) max_n = in_len;
    *t = (struct taps){.n_outputs = n_outputs, .max_n = max_n};
    t->first = xcalloc((size_t)n_outputs, sizeof(*t->first));
    t->n = xcalloc((size_t)n_outputs, sizeof(*t->n));
    t->weights = xcalloc((size_t)n_outputs * (size_t)max_n, sizeof(*t->weights));
    double *exact = xcalloc((size_t)max_n, sizeof(*exact));

    for (int i = 0; i < n_outputs; i++) {
        double center = (begin + i + 0.5) * scale;
        int first = (int)(center - support + 0.5);
        int end = (int)(center + support + 0.5);
        if (first < 0) first = 0;
        if (end > in_len) end = in_len;
        int n = end - first;
        double sum = 0.0;
        for (int j = 0; j < n; j++) {
            exact[j] = bicubic((j + first - center + 0.5) * inverse);
            sum += exact[j];
        }
        int32_t *weights = t->weights + (size_t)i * (size_t)max_n;
        for (int j = 0; j < n; j++)
            weights[j] = fixed_point(sum != 0.0 ? exact[j] / sum : exact[j]);
        t->first[i] = first;
        t->n[i] = n;
    }
    free(exact);
}

static void taps_done(struct taps *t)
{
    free(t->first);
    free(t->n);
    free(t->weights);
}

typedef uint8_t bytes8 __attribute__((vector_size(8)));
typedef int32_t lanes8 __attribute__((vector_size(32)));

static inline void load_lanes(lanes8 *to, const uint8_t *from)
{
#ifdef __AVX2__
    /* What the other branch means.  gcc 12 takes that apart into single bytes, 8 times slower. */
    *to = (lanes8)_mm256_cvtepu8_epi32(_mm_loadu_si64(from));
#else
    bytes8 bytes;
    memcpy(&bytes, from, sizeof(bytes));
    *to = __builtin_convertvector(bytes, lanes8);
#endif
}

/* to[i] = sum over j of weights[j] * from[j * stride + i], rounded and clipped, for i < LANES. */
static void weighted_sum(uint8_t *to, const uint8_t *from, size_t stride, const int32_t *weights,
                         int n)
{
    enum { N_VECTORS = LANES / 8 };
    lanes8 sum[N_VECTORS];
    for (int v = 0; v < N_VECTORS; v++) sum[v] = (lanes8){0} + (1 << (WEIGHT_BITS - 1));
    for (int j = 0; j < n; j++, from += stride)
        for (int v = 0; v < N_VECTORS; v++) {
            lanes8 values;
            load_lanes(&values, from + (size_t)v * 8);
            sum[v] += values * weights[j];
        }

    int32_t lanes[LANES];
    memcpy(lanes, sum, sizeof(lanes));
    for (int i = 0; i < LANES; i++) {
        int32_t value = lanes[i] >> WEIGHT_BITS;
        to[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

/* A part of a picture: rows y0 to y1 of it, and what the resized rows need of its columns. */
struct rows {
    uint8_t *values; /* [y1 - y0][stride], owned; the stride is a multiple of LANES */
    size_t stride;
    int y0, y1;
};

/* band[x][r] = pixel x of row y + r; behind the last row y1 - 1, that row again. */
static void fill_band(uint8_t *band, const struct picture *in, int x0, int x1, int y, int y1)
{
    size_t in_stride = (size_t)in->width * 3;
    const uint8_t *rows[BAND];
    for (int r = 0; r < BAND; r++) {
        int row = y + r < y1 ? y + r : y1 - 1;
        rows[r] = in->rgb + (size_t)row * in_stride + (size_t)x0 * 3;
    }
    size_t n = (size_t)(x1 - x0);
    /* Four bytes are copied for three, the next copy puts the fourth right; so the last column is
     * done apart, for it may end where the memory ends. */
    for (size_t x = 0; x + 1 < n; x++)
        for (size_t r = 0; r < BAND; r++) memcpy(band + x * LANES + r * 3, rows[r] + x * 3, 4);
    for (size_t r = 0; r < BAND; r++)
        memcpy(band + (n - 1) * LANES + r * 3, rows[r] + (n - 1) * 3, 3);
}

/* The first pass: every row of `to` becomes t->n_outputs pixels. */
static void resize_rows(struct rows *to, const struct picture *in, const struct taps *t)
{
    int last = t->n_outputs - 1;
    int x0 = t->first[0], x1 = t->first[last] + t->n[last];
    uint8_t *band = xrealloc(NULL, (size_t)(x1 - x0) * LANES);
    for (int y = to->y0; y < to->y1; y += BAND) {
        fill_band(band, in, x0, x1, y, to->y1);
        uint8_t *row = to->values + (size_t)(y - to->y0) * to->stride;
        int n_rows = to->y1 - y < BAND ? to->y1 - y : BAND;
        for (int x = 0; x < t->n_outputs; x++) {
            uint8_t column[LANES];
            weighted_sum(column, band + (size_t)(t->first[x] - x0) * LANES, LANES,
                         t->weights + (size_t)x * (size_t)t->max_n, t->n[x]);
            for (int r = 0; r < n_rows; r++)
                memcpy(row + (size_t)r * to->stride + (size_t)x * 3, column + (size_t)r * 3, 3);
        }
    }
    free(band);
}

static void copy_rows(struct rows *to, const struct picture *in, int x0, int width)
{
    for (int y = to->y0; y < to->y1; y++)
        memcpy(to->values + (size_t)(y - to->y0) * to->stride,
               in->rgb + ((size_t)y * (size_t)in->width + (size_t)x0) * 3, (size_t)width * 3);
}

/* The second pass. */
static void resize_columns(struct picture *out, const struct rows *middle, const struct taps *t)
{
    size_t row_len = (size_t)out->width * 3;
    for (int y = 0; y < out->height; y++) {
        const uint8_t *from = middle->values + (size_t)(t->first[y] - middle->y0) * middle->stride;
        uint8_t *to = out->rgb + (size_t)y * row_len;
        for (size_t x = 0; x < row_len; x += LANES) {
            uint8_t block[LANES];
            weighted_sum(block, from + x, middle->stride, t->weights + (size_t)y * (size_t)t->max_n,
                         t->n[y]);
            memcpy(to + x, block, row_len - x < LANES ? row_len - x : LANES);
        }
    }
}

void resize_bicubic(const struct picture *in, int width, int height,
                    const struct resize_window *window, struct picture *out)
{
    const struct resize_window *w = window;
    assert(w->x >= 0 && w->y >= 0 && w->width > 0 && w->height > 0);
    assert(w->width <= width - w->x && w->height <= height - w->y);
    struct taps columns = {0}, rows = {0};
    struct rows middle = {.y0 = w->y, .y1 = w->y + w->height};
    if (height != in->height) {
        taps_init(&rows, in->height, height, w->y, w->height);
        middle.y0 = rows.first[0];
        middle.y1 = rows.first[w->height - 1] + rows.n[w->height - 1];
    }
    middle.stride = ((size_t)w->width * 3 + LANES - 1) / LANES * LANES;
    middle.values = xcalloc((size_t)(middle.y1 - middle.y0), middle.stride);
    if (width != in->width) {
        taps_init(&columns, in->width, width, w->x, w->width);
        resize_rows(&middle, in, &columns);
    } else {
        copy_rows(&middle, in, w->x, w->width);
    }

    picture_init(out, w->width, w->height);
    size_t row_len = (size_t)w->width * 3;
    if (height != in->height)
        resize_columns(out, &middle, &rows);
    else
        for (size_t y = 0; y < (size_t)w->height; y++)
            memcpy(out->rgb + y * row_len, middle.values + y * middle.stride, row_len);
    free(middle.values);
    taps_done(&columns);
    taps_done(&rows);
}
