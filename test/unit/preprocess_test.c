#include "runtime/image/preprocess.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/image/decode.h"
#include "runtime/mem.h"
#include "test/golden.h"
#include "test/test.h"

#define CLIP_TYPE "\"image_processor_type\": \"CLIPImageProcessor\""

static char config_path[64];

static const char *write_config(const char *text)
{
    snprintf(config_path, sizeof(config_path), "/tmp/preprocess_test_%d.json", (int)getpid());
    FILE *f = fopen(config_path, "w");
    CHECK(f != NULL);
    fputs(text, f);
    fclose(f);
    return config_path;
}

static struct preprocess_config load(const char *text)
{
    struct preprocess_config cfg;
    struct error err = {0};
    int result = preprocess_config_load(&cfg, write_config(text), &err);
    unlink(config_path);
    if (result != 0) test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg;
}

/* Loading fails with one line that contains the file and the three parts. */
static void check_refused(const char *text, const char *key, const char *value,
                          const char *supported)
{
    struct preprocess_config cfg = {.crop_size = 7};
    struct error err = {0};
    CHECK_INT(preprocess_config_load(&cfg, write_config(text), &err), ==, -1);
    unlink(config_path);
    if (!strstr(err.text, config_path) || !strstr(err.text, key) || !strstr(err.text, value) ||
        !strstr(err.text, supported) || strchr(err.text, '\n'))
        test_fail(__FILE__, __LINE__, "not %s, %s, %s: %s", key, value, supported, err.text);
    CHECK_INT(err.kind, ==, ERROR_BAD_REQUEST);
    CHECK_INT(cfg.crop_size, ==, 7);
}

/* As published with LLaVA-1.5; 336 or another size. */
static struct preprocess_config llava_config(int size)
{
    char text[600];
    snprintf(text, sizeof(text),
             "{\"crop_size\": {\"height\": %d, \"width\": %d}, \"do_center_crop\": true, "
             "\"do_convert_rgb\": true, \"do_normalize\": true, \"do_rescale\": true, "
             "\"do_resize\": true, \"image_mean\": [0.48145466, 0.4578275, 0.40821073], "
             "\"image_std\": [0.26862954, 0.26130258, 0.27577711], " CLIP_TYPE
             ", \"processor_class\": \"LlavaProcessor\", \"resample\": 3, "
             "\"rescale_factor\": 0.00392156862745098, \"size\": {\"shortest_edge\": %d}}",
             size, size, size);
    return load(text);
}

static json_t *read_json(const char *relative)
{
    json_error_t why;
    json_t *json = json_load_file(test_path(relative), 0, &why);
    if (!json) test_fail(__FILE__, __LINE__, "%s: %s", relative, why.text);
    return json;
}

static struct picture read_picture(const char *relative)
{
    size_t len;
    uint8_t *bytes = golden_bytes(test_path(relative), &len);
    struct picture p;
    struct error err = {0};
    if (decode_image(bytes, len, &image_limits_default, &p, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s: %s", relative, err.text);
    free(bytes);
    return p;
}

static void preprocess(const struct preprocess_config *cfg, const struct picture *in, float *values)
{
    struct image_layout layout;
    struct error err;
    CHECK_INT(preprocess_layout(cfg, in->width, in->height, &layout, &err), ==, 0);
    preprocess_picture(cfg, &layout, in, values);
}

TEST(a_config_as_published_is_read)
{
    struct preprocess_config cfg = llava_config(336);
    CHECK_INT(cfg.family, ==, PREPROCESS_CLIP);
    CHECK_INT(cfg.has_resize, ==, true);
    CHECK_INT(cfg.shortest_edge, ==, 336);
    CHECK_INT(cfg.crop_size, ==, 336);
    CHECK(cfg.rescale_factor == 1.0 / 255);
    CHECK(cfg.mean[1] == 0.4578275F && cfg.std[2] == 0.27577711F);
}

TEST(absent_and_null_keys_have_the_values_of_the_reference)
{
    struct preprocess_config cfg =
        load("{\"feature_extractor_type\": \"CLIPFeatureExtractor\", \"size\": null}");
    CHECK_INT(cfg.has_resize, ==, true);
    CHECK_INT(cfg.shortest_edge, ==, 224);
    CHECK_INT(cfg.crop_size, ==, 224);
    CHECK(cfg.rescale_factor == 1.0 / 255);
    CHECK(cfg.mean[0] == 0.48145466F && cfg.std[0] == 0.26862954F);
}

TEST(sizes_may_be_plain_numbers)
{
    struct preprocess_config cfg = load("{" CLIP_TYPE ", \"size\": 56, \"crop_size\": 48}");
    CHECK_INT(cfg.shortest_edge, ==, 56);
    CHECK_INT(cfg.crop_size, ==, 48);
}

TEST(steps_can_be_switched_off)
{
    struct preprocess_config cfg = load(
        "{" CLIP_TYPE ", \"do_resize\": false, \"do_rescale\": false, \"do_normalize\": false, "
        "\"do_pad\": false, \"crop_size\": 2}");
    struct picture in;
    picture_init(&in, 4, 4);
    for (int i = 0; i < 48; i++) in.rgb[i] = (uint8_t)(5 * i);
    float values[12];
    preprocess(&cfg, &in, values);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < 2; y++)
            for (int x = 0; x < 2; x++)
                CHECK(values[(c * 2 + y) * 2 + x] == in.rgb[((y + 1) * 4 + x + 1) * 3 + c]);
    picture_done(&in);
}

TEST(what_is_not_supported_is_refused_by_file_key_and_value)
{
    check_refused("{\"image_processor_type\": \"Qwen2VLImageProcessor\"}", "image_processor_type",
                  "\"Qwen2VLImageProcessor\"", "CLIPImageProcessor");
    check_refused("{}", "image_processor_type", "absent", "CLIPImageProcessor");
    check_refused("{" CLIP_TYPE ", \"resample\": 2}", "resample", "2", "3 (bicubic)");
    check_refused("{" CLIP_TYPE ", \"size\": {\"height\": 336, \"width\": 336}}", "size",
                  "{\"height\":336,\"width\":336}", "shortest_edge");
    check_refused("{" CLIP_TYPE ", \"size\": 0}", "size", "0", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"size\": 4097}", "size", "4097", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"crop_size\": {\"height\": 336, \"width\": 224}}", "crop_size",
                  "{\"height\":336,\"width\":224}", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"crop_size\": \"336\"}", "crop_size", "\"336\"", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"do_center_crop\": false}", "do_center_crop", "false", "true");
    check_refused("{" CLIP_TYPE ", \"do_resize\": 1}", "do_resize", "1", "true, false");
    check_refused("{" CLIP_TYPE ", \"do_pad\": true}", "do_pad", "true", "false");
    check_refused("{" CLIP_TYPE ", \"rescale_factor\": -1.5}", "rescale_factor", "-1.5",
                  "positive");
    check_refused("{" CLIP_TYPE ", \"image_mean\": [1, 2]}", "image_mean", "[1,2]",
                  "three numbers");
    check_refused("{" CLIP_TYPE ", \"image_mean\": [1, 2, \"3\"]}", "image_mean", "[1,2,\"3\"]",
                  "three numbers");
    check_refused("{" CLIP_TYPE ", \"image_std\": [1, 0, 1]}", "image_std", "[1,0,1]", "above");
    check_refused("[]", "not a JSON object", "", "");
    check_refused("{\n\"size\": }", "line 2", "", "");
}

TEST(a_file_that_is_not_there_is_named)
{
    struct preprocess_config cfg;
    struct error err = {0};
    CHECK_INT(preprocess_config_load(&cfg, "/nowhere/preprocessor_config.json", &err), ==, -1);
    CHECK(strstr(err.text, "/nowhere/preprocessor_config.json") != NULL);
}

TEST(sizes_and_crops_are_those_of_the_reference)
{
    struct preprocess_config cfg = llava_config(336);
    json_t *cases = read_json("golden/hf/preprocess/geometry.json");
    CHECK_INT(json_array_size(cases), ==, 200);
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        int width, height, want_width, want_height, top, left;
        CHECK(json_unpack(one, "{s:i, s:i, s:{s:[i,i], s:i, s:i}}", "width", &width, "height",
                          &height, "llava15", "resized_hw", &want_height, &want_width, "crop_top",
                          &top, "crop_left", &left) == 0);
        struct preprocess_geometry g = preprocess_geometry_of(&cfg, width, height);
        CHECK_INT(g.resized_width, ==, want_width);
        CHECK_INT(g.resized_height, ==, want_height);
        CHECK_INT(g.crop_left, ==, left);
        CHECK_INT(g.crop_top, ==, top);
    }
    json_decref(cases);
}

/* We composite on white and reduce 16-bit grey by >> 8; the golden list has both that and what the
 * reference does by default. */
static bool is_our_behaviour(const char *key)
{
    static const char *const others[] = {"09_rgba", "11_palette4_trns", "12_gray16", "21_graya",
                                         "06_exif6_noexif"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (strcmp(key, others[i]) == 0) return false;
    return true;
}

static void check_mean_and_std(const char *key, const json_t *want, const float *values, size_t n)
{
    for (size_t c = 0; c < 3; c++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) sum += (double)values[c * n + i];
        double mean = sum / (double)n;
        for (size_t i = 0; i < n; i++) squares += pow((double)values[c * n + i] - mean, 2);
        double std = sqrt(squares / (double)n);
        double want_mean = json_number_value(json_array_get(json_object_get(want, "mean"), c));
        double want_std = json_number_value(json_array_get(json_object_get(want, "std"), c));
        /* Printed to 7 digits; the reference sums in float32. */
        if (!(fabs(mean - want_mean) < 3e-6 && fabs(std - want_std) < 3e-6))
            test_fail(__FILE__, __LINE__, "%s: channel %zu: mean %.7f, std %.7f, not %.7f, %.7f",
                      key, c, mean, std, want_mean, want_std);
    }
}

TEST(every_golden_picture_becomes_the_reference_s_pixel_values_in_every_bit)
{
    struct preprocess_config cfg = llava_config(336);
    struct golden *golden = golden_open(test_path("golden/hf/preprocess/llava-1.5.safetensors"));
    json_t *cases = read_json("golden/hf/preprocess/preprocess.json");
    size_t n = (size_t)3 * 336 * 336, n_checked = 0, i;
    float *values = xcalloc(n, sizeof(*values));
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        const char *key = json_string_value(json_object_get(one, "key"));
        if (!is_our_behaviour(key)) continue;
        char name[200];
        snprintf(name, sizeof(name), "golden/hf/images/%s",
                 json_string_value(json_object_get(one, "file")));
        struct picture p = read_picture(name);
        preprocess(&cfg, &p, values);
        picture_done(&p);

        snprintf(name, sizeof(name), "%s.val", key);
        size_t n_samples;
        const float *want = golden_f32(golden, name, &n_samples);
        CHECK_INT(n_samples, ==, golden_n_samples(n));
        for (size_t k = 0; k < n_samples; k++)
            if (values[golden_sample_index(n, k)] != want[k])
                test_fail(__FILE__, __LINE__, "%s: sample %zu is %.9g, not %.9g", key, k,
                          (double)values[golden_sample_index(n, k)], (double)want[k]);
        check_mean_and_std(key, json_object_get(one, "llava-1.5"), values, n / 3);
        n_checked++;
    }
    CHECK_INT(n_checked, ==, 22);
    json_decref(cases);
    golden_close(golden);
    free(values);
}

TEST(every_picture_of_the_tiny_model_s_cases_is_cropped_to_the_reference_s_pixels)
{
    static const char *const names[] = {"c3_one_image", "c4_two_images", "c5_image_second_turn",
                                        "c6_two_sizes", "c7_unicode"};
    struct preprocess_config cfg = llava_config(56);
    for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
        char path[200];
        snprintf(path, sizeof(path), "golden/hf/goldens/llava15-tiny/%s.json", names[k]);
        json_t *info = read_json(path);
        snprintf(path, sizeof(path), "golden/hf/goldens/llava15-tiny/%s.safetensors", names[k]);
        struct golden *golden = golden_open(test_path(path));
        size_t i;
        json_t *file;
        json_array_foreach(json_object_get(info, "images"), i, file)
        {
            snprintf(path, sizeof(path), "golden/hf/models/images/%s", json_string_value(file));
            struct picture p = read_picture(path), crop;
            preprocess_crop(&cfg, &p, &crop);
            snprintf(path, sizeof(path), "pixels_u8.%zu", i);
            size_t n;
            const uint8_t *want = golden_u8(golden, path, &n);
            CHECK_INT(n, ==, 3 * 56 * 56);
            for (size_t at = 0; at < n; at++)
                CHECK_INT(crop.rgb[at % (56 * 56) * 3 + at / (56 * 56)], ==, want[at]);
            picture_done(&p);
            picture_done(&crop);
        }
        golden_close(golden);
        json_decref(info);
    }
}

TEST(a_picture_smaller_than_the_crop_lies_on_black)
{
    struct preprocess_config cfg = load("{" CLIP_TYPE ", \"size\": 4, \"crop_size\": 9}");
    struct picture in, out;
    picture_init(&in, 5, 4);
    memset(in.rgb, 200, 5 * 4 * 3);
    preprocess_crop(&cfg, &in, &out);
    /* 9 - 5 = 4: 2 left and 2 right; 9 - 4 = 5: 3 above and 2 below, as the reference rounds. */
    for (int y = 0; y < 9; y++)
        for (int x = 0; x < 9; x++) {
            bool is_inside = y >= 3 && y < 7 && x >= 2 && x < 7;
            CHECK_INT(out.rgb[(y * 9 + x) * 3 + 1], ==, is_inside ? 200 : 0);
        }
    float values[3 * 9 * 9];
    preprocess_normalize(&cfg, &out, values);
    CHECK(values[0] == (0.0F - cfg.mean[0]) / cfg.std[0]);
    picture_done(&in);
    picture_done(&out);
}

TEST(pictures_of_every_size_from_1_to_64_and_of_extreme_aspect_are_preprocessed)
{
    struct preprocess_config cfg = llava_config(56);
    float *values = xcalloc((size_t)3 * 56 * 56, sizeof(*values));
    for (int i = 1; i <= 64 * 64 + 4; i++) {
        int n = i - 64 * 64;
        int width = n <= 0 ? 1 + i % 64 : n == 1 ? 200 : n == 2 ? 1 : n == 3 ? 16384 : 82;
        int height = n <= 0 ? 1 + i / 64 % 64 : n == 1 ? 1 : n == 2 ? 200 : n == 3 ? 82 : 16384;
        struct picture p;
        picture_init(&p, width, height);
        memset(p.rgb, 77, (size_t)width * (size_t)height * 3);
        preprocess(&cfg, &p, values);
        for (int k = 0; k < 56 * 56; k++)
            CHECK(values[k] == ((float)(77 * cfg.rescale_factor) - cfg.mean[0]) / cfg.std[0]);
        picture_done(&p);
    }
    free(values);
}
