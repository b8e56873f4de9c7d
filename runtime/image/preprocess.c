#include "runtime/image/preprocess.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image/resize.h"
#include "runtime/mem.h"

#define MAX_SIDE         4096 /* of the picture that a vision tower gets */
#define RESAMPLE_BICUBIC 3    /* Pillow's number */

/* What the reference takes where a key is absent (or null). */
static const struct preprocess_config clip_defaults = {
    .family = PREPROCESS_CLIP,
    .has_resize = true,
    .shortest_edge = 224,
    .crop_size = 224,
    .rescale_factor = 1.0 / 255,
    .mean = {0.48145466F, 0.4578275F, 0.40821073F},
    .std = {0.26862954F, 0.26130258F, 0.27577711F},
};

struct reader {
    const char *path;
    const json_t *root;
    struct error *err;
};

/* The value of a key, NULL where it is absent or null. */
static const json_t *value_of(const struct reader *r, const char *key)
{
    const json_t *value = json_object_get(r->root, key);
    return json_is_null(value) ? NULL : value;
}

static int unsupported(const struct reader *r, const char *key, const json_t *value,
                       const char *expected)
{
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    error_set(r->err, ERROR_BAD_REQUEST, "%s: %s is %.100s%s; supported: %s", r->path, key,
              text ? text : "absent", text && strlen(text) > 100 ? "..." : "", expected);
    free(text);
    return -1;
}

/* The readers leave their out parameter as it is where the key is absent. */
static int read_bool(const struct reader *r, const char *key, bool *out)
{
    const json_t *value = value_of(r, key);
    if (!value) return 0;
    if (!json_is_boolean(value)) return unsupported(r, key, value, "true, false");
    *out = json_is_true(value);
    return 0;
}

static bool is_side(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 1 &&
           json_integer_value(value) <= MAX_SIDE;
}

/* size: S, or {"shortest_edge": S} */
static int read_size(const struct reader *r, int *out)
{
    const json_t *value = value_of(r, "size");
    if (!value) return 0;
    const json_t *edge = json_is_object(value) ? json_object_get(value, "shortest_edge") : value;
    if (!is_side(edge) || (json_is_object(value) && json_object_size(value) != 1))
        return unsupported(r, "size", value, "S, {\"shortest_edge\": S}, with S from 1 to 4096");
    *out = (int)json_integer_value(edge);
    return 0;
}

/* crop_size: S, or {"height": S, "width": S} */
static int read_crop_size(const struct reader *r, int *out)
{
    const json_t *value = value_of(r, "crop_size");
    if (!value) return 0;
    const json_t *height = value, *width = value;
    if (json_is_object(value)) {
        height = json_object_get(value, "height");
        width = json_object_get(value, "width");
    }
    if (!is_side(height) || !is_side(width) || !json_equal(height, width))
        return unsupported(r, "crop_size", value,
                           "S, {\"height\": S, \"width\": S}, with S from 1 to 4096");
    *out = (int)json_integer_value(height);
    return 0;
}

static int read_factor(const struct reader *r, double *out)
{
    const json_t *value = value_of(r, "rescale_factor");
    if (!value) return 0;
    double factor = json_number_value(value);
    if (!(factor > 0) || !isfinite(factor))
        return unsupported(r, "rescale_factor", value, "a positive number");
    *out = factor;
    return 0;
}

/* min: the smallest value that makes sense. */
static int read_channels(const struct reader *r, const char *key, double min, float out[3])
{
    const json_t *value = value_of(r, key);
    if (!value) return 0;
    float channels[3];
    bool is_good = json_array_size(value) == 3;
    for (size_t c = 0; c < 3 && is_good; c++) {
        const json_t *channel = json_array_get(value, c);
        channels[c] = (float)json_number_value(channel);
        is_good = json_is_number(channel) && isfinite(channels[c]) && channels[c] >= (float)min;
    }
    if (!is_good) return unsupported(r, key, value, "three numbers, a std above 1e-6");
    memcpy(out, channels, sizeof(channels));
    return 0;
}

static int check_family(const struct reader *r)
{
    static const char *const clip_names[] = {"CLIPImageProcessor", "CLIPImageProcessorFast",
                                             "CLIPFeatureExtractor"};
    const char *key = value_of(r, "image_processor_type") || !value_of(r, "feature_extractor_type")
                          ? "image_processor_type"
                          : "feature_extractor_type";
    const json_t *value = value_of(r, key);
    for (size_t i = 0; value && i < sizeof(clip_names) / sizeof(clip_names[0]); i++)
        if (json_is_string(value) && strcmp(json_string_value(value), clip_names[i]) == 0) return 0;
    return unsupported(r, key, value, "CLIPImageProcessor");
}

static int check_resample(const struct reader *r)
{
    const json_t *value = value_of(r, "resample");
    if (!value || (json_is_integer(value) && json_integer_value(value) == RESAMPLE_BICUBIC))
        return 0;
    return unsupported(r, "resample", value, "3 (bicubic)");
}

/* A step that is switched on and that we do not know would change the pixels. */
static int check_other_steps(const struct reader *r)
{
    static const char *const known[] = {"do_resize", "do_center_crop", "do_rescale", "do_normalize",
                                        "do_convert_rgb"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)r->root, key, value)
    {
        bool is_known = strncmp(key, "do_", 3) != 0;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            is_known = is_known || strcmp(key, known[i]) == 0;
        if (!is_known && !json_is_false(value) && !json_is_null(value))
            return unsupported(r, key, value, "false");
    }
    return 0;
}

static int read_config(const struct reader *r, struct preprocess_config *out)
{
    struct preprocess_config cfg = clip_defaults;
    bool has_crop = true, has_rescale = true, has_normalize = true, is_rgb = true;
    if (!json_is_object(r->root))
        return error_set(r->err, ERROR_BAD_REQUEST, "%s: not a JSON object", r->path);
    if (check_family(r) != 0 || check_resample(r) != 0 || check_other_steps(r) != 0 ||
        read_bool(r, "do_resize", &cfg.has_resize) != 0 ||
        read_bool(r, "do_center_crop", &has_crop) != 0 ||
        read_bool(r, "do_rescale", &has_rescale) != 0 ||
        read_bool(r, "do_normalize", &has_normalize) != 0 ||
        read_bool(r, "do_convert_rgb", &is_rgb) != 0 || read_size(r, &cfg.shortest_edge) != 0 ||
        read_crop_size(r, &cfg.crop_size) != 0 || read_factor(r, &cfg.rescale_factor) != 0 ||
        read_channels(r, "image_mean", -1e6, cfg.mean) != 0 ||
        read_channels(r, "image_std", 1e-6, cfg.std) != 0)
        return -1;
    /* Without the crop results would differ in size.  do_convert_rgb may be false: our pictures are
     * RGB anyway. */
    if (!has_crop) return unsupported(r, "do_center_crop", value_of(r, "do_center_crop"), "true");
    if (!has_rescale) cfg.rescale_factor = 1.0;
    for (int c = 0; c < 3 && !has_normalize; c++) {
        cfg.mean[c] = 0.0F;
        cfg.std[c] = 1.0F;
    }
    *out = cfg;
    return 0;
}

int preprocess_config_load(struct preprocess_config *cfg, const char *path, struct error *err)
{
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return error_set(err, ERROR_BAD_REQUEST, "%s: line %d: %s", path, why.line, why.text);
    int result = read_config(&(struct reader){path, root, err}, cfg);
    json_decref(root);
    return result;
}

/* floor(a / 2) */
static int half(int a)
{
    return (a - (a < 0)) / 2;
}

struct preprocess_geometry preprocess_geometry_of(const struct preprocess_config *cfg, int width,
                                                  int height)
{
    struct preprocess_geometry g = {.resized_width = width, .resized_height = height};
    if (cfg->has_resize) {
        int64_t edge = cfg->shortest_edge;
        bool is_upright = width <= height;
        g.resized_width = (int)(is_upright ? edge : edge * width / height);
        g.resized_height = (int)(is_upright ? edge * height / width : edge);
    }
    g.crop_left = half(g.resized_width - cfg->crop_size);
    g.crop_top = half(g.resized_height - cfg->crop_size);
    return g;
}

/* The part of a crop of crop_len that lies on a line of len pixels. */
static int overlap(int crop_begin, int crop_len, int len, int *begin)
{
    *begin = crop_begin > 0 ? crop_begin : 0;
    int end = crop_begin + crop_len < len ? crop_begin + crop_len : len;
    return end - *begin;
}

void preprocess_crop(const struct preprocess_config *cfg, const struct picture *in,
                     struct picture *out)
{
    struct preprocess_geometry g = preprocess_geometry_of(cfg, in->width, in->height);
    struct resize_window window;
    window.width = overlap(g.crop_left, cfg->crop_size, g.resized_width, &window.x);
    window.height = overlap(g.crop_top, cfg->crop_size, g.resized_height, &window.y);
    struct picture part;
    resize_bicubic(in, g.resized_width, g.resized_height, &window, &part);
    if (part.width == cfg->crop_size && part.height == cfg->crop_size) {
        *out = part;
        return;
    }

    picture_init(out, cfg->crop_size, cfg->crop_size);
    size_t row_len = (size_t)out->width * 3, part_len = (size_t)part.width * 3;
    memset(out->rgb, 0, row_len * (size_t)out->height);
    size_t left = (size_t)(window.x - g.crop_left), top = (size_t)(window.y - g.crop_top);
    for (size_t y = 0; y < (size_t)part.height; y++)
        memcpy(out->rgb + (top + y) * row_len + left * 3, part.rgb + y * part_len, part_len);
    picture_done(&part);
}

void preprocess_normalize(const struct preprocess_config *cfg, const struct picture *in,
                          float *values)
{
    size_t n = (size_t)in->width * (size_t)in->height;
    for (size_t c = 0; c < 3; c++) {
        float value_of_byte[256];
        for (int byte = 0; byte < 256; byte++)
            value_of_byte[byte] =
                ((float)(byte * cfg->rescale_factor) - cfg->mean[c]) / cfg->std[c];
        for (size_t i = 0; i < n; i++) values[c * n + i] = value_of_byte[in->rgb[i * 3 + c]];
    }
}

int preprocess_layout(const struct preprocess_config *cfg, int width, int height,
                      struct image_layout *out, struct error *err)
{
    (void)err; /* a square crop exists of any picture */
    size_t side = (size_t)cfg->crop_size;
    *out = (struct image_layout){
        .width = width, .height = height, .n_tiles = 1, .n_values = 3 * side * side};
    return 0;
}

void preprocess_largest(const struct preprocess_config *cfg, struct image_layout *out)
{
    struct error err;
    preprocess_layout(cfg, cfg->crop_size, cfg->crop_size, out, &err);
}

void preprocess_picture(const struct preprocess_config *cfg, const struct image_layout *layout,
                        const struct picture *in, float *values)
{
    (void)layout;
    struct picture crop;
    preprocess_crop(cfg, in, &crop);
    preprocess_normalize(cfg, &crop, values);
    picture_done(&crop);
}
