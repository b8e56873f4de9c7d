#include "runtime/image/preprocess.h"

#include <math.h>
#include <string.h>

#include "runtime/image/resize.h"

enum { MAX_ASPECT = 200 }; /* QWEN: of the longer side to the shorter */

/* ---- sizes ---------------------------------------------------------------------------------- */

/* The pinpoint in which the picture keeps most of its pixels, of equal ones the smallest.  In the
 * reference's floating-point steps: rounding decides where a picture fits exactly. */
static const int *best_pinpoint(const struct preprocess_config *cfg, int width, int height)
{
    const int *best = NULL;
    int64_t most = 0, least_waste = 0;
    for (int i = 0; i < cfg->n_pinpoints; i++) {
        const int *p = cfg->pinpoints[i];
        double scale = fmin((double)p[1] / width, (double)p[0] / height);
        int64_t kept = (int64_t)(width * scale) * (int64_t)(height * scale);
        if (kept > (int64_t)width * height) kept = (int64_t)width * height;
        int64_t waste = (int64_t)p[0] * p[1] - kept;
        if (best && (kept < most || (kept == most && waste >= least_waste))) continue;
        best = p;
        most = kept;
        least_waste = waste;
    }
    return best;
}

/* Sides that are multiples of `unit` nearest to the picture's, or within the limits on its area. */
static void smart_resize(const struct preprocess_config *cfg, int width, int height, int *out_width,
                         int *out_height)
{
    double unit = cfg->patch * cfg->merge, area = (double)width * height;
    double w = rint(width / unit) * unit, h = rint(height / unit) * unit;
    if (w * h > cfg->max_pixels) {
        double beta = sqrt(area / cfg->max_pixels);
        w = fmax(unit, floor(width / beta / unit) * unit);
        h = fmax(unit, floor(height / beta / unit) * unit);
    } else if (w * h < cfg->min_pixels) {
        double beta = sqrt(cfg->min_pixels / area);
        w = ceil(width * beta / unit) * unit;
        h = ceil(height * beta / unit) * unit;
    }
    *out_width = (int)w;
    *out_height = (int)h;
}

static void set_grid(const struct preprocess_config *cfg, int grid_h, int grid_w,
                     struct image_layout *out)
{
    out->grid_h = grid_h;
    out->grid_w = grid_w;
    out->n_values = 3 * (size_t)grid_h * (size_t)grid_w * (size_t)(cfg->patch * cfg->patch);
}

int preprocess_layout(const struct preprocess_config *cfg, int width, int height,
                      struct image_layout *out, struct error *err)
{
    size_t tile_values = 3 * (size_t)cfg->crop_size * (size_t)cfg->crop_size;
    int longer = width > height ? width : height, shorter = width > height ? height : width;
    *out = (struct image_layout){.width = width, .height = height, .n_tiles = 1};
    switch (cfg->family) {
    case PREPROCESS_CLIP:
        break;
    case PREPROCESS_ANYRES: {
        const int *pinpoint = best_pinpoint(cfg, width, height);
        out->tile_rows = pinpoint[0] / cfg->crop_size;
        out->tile_cols = pinpoint[1] / cfg->crop_size;
        out->n_tiles += out->tile_rows * out->tile_cols;
        break;
    }
    case PREPROCESS_QWEN:
        if (longer > MAX_ASPECT * shorter)
            return error_set_code(err, ERROR_BAD_REQUEST, "image_too_small",
                                  "the image is %dx%d pixels, its shorter side must have at least "
                                  "1/%d of the longer",
                                  width, height, MAX_ASPECT);
        smart_resize(cfg, width, height, &width, &height);
        set_grid(cfg, height / cfg->patch, width / cfg->patch, out);
        return 0;
    }
    out->n_values = (size_t)out->n_tiles * tile_values;
    return 0;
}

/* Tokens of QWEN's picture with most: max_pixels, or what rounding up to whole tokens, at least one
 * a side, makes of a picture of min_pixels or of extreme aspect. */
static int most_tokens(const struct preprocess_config *cfg)
{
    double area = pow(cfg->patch * cfg->merge, 2);
    double largest = cfg->max_pixels / area, smallest = cfg->min_pixels / area;
    double longest = sqrt(largest * MAX_ASPECT);
    double rounded = smallest + sqrt(smallest * MAX_ASPECT) + sqrt(smallest / MAX_ASPECT) + 1;
    return (int)fmax(fmax(largest, longest), rounded);
}

void preprocess_largest(const struct preprocess_config *cfg, struct image_layout *out)
{
    struct error err;
    int n_pinpoints = cfg->family == PREPROCESS_ANYRES ? cfg->n_pinpoints : 0;
    preprocess_layout(cfg, 1, 1, out, &err);
    if (cfg->family == PREPROCESS_QWEN)
        set_grid(cfg, cfg->merge, most_tokens(cfg) * cfg->merge, out);
    for (int i = 0; i < n_pinpoints; i++) { /* a picture that fills one keeps all tokens */
        struct image_layout layout;
        preprocess_layout(cfg, cfg->pinpoints[i][1], cfg->pinpoints[i][0], &layout, &err);
        if (layout.n_tiles > out->n_tiles ||
            (layout.n_tiles == out->n_tiles && layout.tile_rows > out->tile_rows))
            *out = layout;
    }
}

/* floor(a / 2) */
static int half(int a)
{
    return (a - (a < 0)) / 2;
}

/* The largest size of the picture's shape inside width x height. */
static void fit(const struct image_layout *layout, int width, int height,
                struct preprocess_geometry *g)
{
    double scale_w = (double)width / layout->width, scale_h = (double)height / layout->height;
    g->resized_width = width;
    g->resized_height = height;
    if (scale_w < scale_h)
        g->resized_height = (int)fmin(ceil(layout->height * scale_w), height);
    else
        g->resized_width = (int)fmin(ceil(layout->width * scale_h), width);
}

struct preprocess_geometry preprocess_geometry_of(const struct preprocess_config *cfg,
                                                  const struct image_layout *layout)
{
    int64_t edge = cfg->shortest_edge, width = layout->width, height = layout->height;
    struct preprocess_geometry g = {.resized_width = layout->width,
                                    .resized_height = layout->height};
    switch (cfg->family) {
    case PREPROCESS_CLIP:
        if (cfg->has_resize) {
            g.resized_width = (int)(width <= height ? edge : edge * width / height);
            g.resized_height = (int)(width <= height ? edge * height / width : edge);
        }
        g.width = g.height = cfg->crop_size;
        g.left = half(g.resized_width - g.width);
        g.top = half(g.resized_height - g.height);
        break;
    case PREPROCESS_ANYRES:
        g.width = layout->tile_cols * cfg->crop_size;
        g.height = layout->tile_rows * cfg->crop_size;
        fit(layout, g.width, g.height, &g);
        /* The padding that cannot be halved goes right and below. */
        g.left = -((g.width - g.resized_width) / 2);
        g.top = -((g.height - g.resized_height) / 2);
        break;
    case PREPROCESS_QWEN:
        g.resized_width = g.width = layout->grid_w * cfg->patch;
        g.resized_height = g.height = layout->grid_h * cfg->patch;
        break;
    }
    return g;
}

/* ---- pixels --------------------------------------------------------------------------------- */

/* The part of a window of window_len that lies on a line of len pixels. */
static int overlap(int window_begin, int window_len, int len, int *begin)
{
    *begin = window_begin > 0 ? window_begin : 0;
    int end = window_begin + window_len < len ? window_begin + window_len : len;
    return end - *begin;
}

void preprocess_resize(const struct preprocess_geometry *g, const struct picture *in,
                       struct picture *out)
{
    struct resize_window window;
    window.width = overlap(g->left, g->width, g->resized_width, &window.x);
    window.height = overlap(g->top, g->height, g->resized_height, &window.y);
    struct picture part;
    resize_bicubic(in, g->resized_width, g->resized_height, &window, &part);
    if (part.width == g->width && part.height == g->height) {
        *out = part;
        return;
    }

    picture_init(out, g->width, g->height);
    size_t row_len = (size_t)out->width * 3, part_len = (size_t)part.width * 3;
    memset(out->rgb, 0, row_len * (size_t)out->height);
    size_t left = (size_t)(window.x - g->left), top = (size_t)(window.y - g->top);
    for (size_t y = 0; y < (size_t)part.height; y++)
        memcpy(out->rgb + (top + y) * row_len + left * 3, part.rgb + y * part_len, part_len);
    picture_done(&part);
}

/* The values of the 256 bytes in each channel. */
struct scale {
    float value[3][256];
};

static void scale_init(struct scale *scale, const struct preprocess_config *cfg)
{
    for (int c = 0; c < 3; c++)
        for (int byte = 0; byte < 256; byte++)
            scale->value[c][byte] =
                ((float)(byte * cfg->rescale_factor) - cfg->mean[c]) / cfg->std[c];
}

/* The square of a picture at (left, top) as values [3][side][side]; returns what is behind them. */
static float *normalize(const struct scale *scale, const struct picture *in, int left, int top,
                        int side, float *values)
{
    for (size_t c = 0; c < 3; c++)
        for (int y = top; y < top + side; y++) {
            const uint8_t *byte = in->rgb + ((size_t)y * (size_t)in->width + (size_t)left) * 3 + c;
            for (int x = 0; x < side; x++) *values++ = scale->value[c][byte[(size_t)x * 3]];
        }
    return values;
}

/* Patches in the order of their merged tokens. */
static void normalize_patches(const struct preprocess_config *cfg, const struct scale *scale,
                              const struct image_layout *layout, const struct picture *in,
                              float *values)
{
    int p = cfg->patch, m = cfg->merge;
    for (int y = 0; y < layout->grid_h; y += m)
        for (int x = 0; x < layout->grid_w; x += m)
            for (int i = 0; i < m * m; i++)
                values = normalize(scale, in, (x + i % m) * p, (y + i / m) * p, p, values);
}

void preprocess_picture(const struct preprocess_config *cfg, const struct image_layout *layout,
                        const struct picture *in, float *values)
{
    struct scale scale;
    struct picture resized;
    struct preprocess_geometry g = preprocess_geometry_of(cfg, layout);
    int side = cfg->crop_size;
    scale_init(&scale, cfg);
    if (cfg->family == PREPROCESS_ANYRES) {
        const struct preprocess_geometry squeezed = {side, side, 0, 0, side, side};
        preprocess_resize(&squeezed, in, &resized);
        values = normalize(&scale, &resized, 0, 0, side, values);
        picture_done(&resized);
    }
    preprocess_resize(&g, in, &resized);
    if (cfg->family == PREPROCESS_QWEN)
        normalize_patches(cfg, &scale, layout, &resized, values);
    else
        for (int top = 0; top < g.height; top += side)
            for (int left = 0; left < g.width; left += side)
                values = normalize(&scale, &resized, left, top, side, values);
    picture_done(&resized);
}
