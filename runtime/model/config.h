/* config.json and generation_config.json of a Hugging Face folder, read into plain structs with
 * every default filled in.  An unknown family or a value that we do not compute is one line that
 * names file, key and value. */
#ifndef RUNTIME_MODEL_CONFIG_H
#define RUNTIME_MODEL_CONFIG_H

#include "kernels/ops.h"
#include "runtime/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_family {
    FAMILY_LLAVA,      /* LLaVA-1.5 */
    FAMILY_LLAVA_NEXT, /* LLaVA-1.6 */
    FAMILY_QWEN2_5_VL,
    FAMILY_LLAMA, /* text only */
    FAMILY_QWEN2, /* text only */
};

/* A decoder of the Llama kind: RMSNorm, rotary positions, grouped heads, gated MLP with SiLU. */
struct lm_config {
    int hidden, intermediate, n_layers, n_heads, n_kv_heads, head_dim;
    int vocab, max_positions;
    float rms_eps;
    double rope_theta;
    int rope_section[3]; /* pairs of head_dim/2 per axis; {head_dim/2, 0, 0} is 1-D */
    bool qkv_bias, tie_embeddings;
};

enum vision_kind {
    VISION_CLIP,   /* LLaVA-1.5: CLIP and a two-layer MLP projector */
    VISION_ANYRES, /* LLaVA-1.6: the same tower on several tiles, unpadded, with newlines */
    VISION_QWEN,   /* Qwen2.5-VL: windows, 2-D RoPE, merger */
};

struct vision_config {
    enum vision_kind kind;
    int hidden, intermediate, n_layers, n_heads;
    int image_size, patch;
    int n_used_layers; /* layers computed: feature layer -2 of 24 is 23 */
    float layer_norm_eps;
    enum activation activation, projector_activation;
    bool projector_bias;
    bool drop_class; /* select strategy "default" drops the class token, "full" keeps it */
    int n_tokens;    /* CLIP, ANYRES: tokens of one pass of the tower, after that */

    int merge;            /* QWEN: merge x merge patches become a token */
    int n_frames;         /* QWEN: copies of a picture in a temporal patch */
    int window;           /* QWEN: tokens of a window's side */
    uint64_t full_layers; /* QWEN: bit i: layer i attends to the whole picture */
};

struct model_config {
    enum model_family family;
    enum dtype
        act; /* activations on a device of 16-bit types: torch_dtype; f32's range is bf16's */
    struct lm_config lm;
    bool has_vision;
    struct vision_config vision; /* if has_vision */
    int image_token;             /* placeholder id, -1 if there is none */
};

enum { MAX_EOS_IDS = 8 };

/* generation_config.json: what applies where a client is silent.  A missing file or key gives
 * OpenAI's defaults (temperature 1, everything else off). */
struct generation_config {
    float temperature, top_p, min_p, repetition_penalty;
    int top_k;
    int n_eos_ids;
    int eos_ids[MAX_EOS_IDS]; /* from generation_config.json, else config.json */
};

/* do_sample false means temperature 0. */
int config_load(const char *dir, struct model_config *out, struct error *err);
int config_load_generation(const char *dir, struct generation_config *out, struct error *err);

/* Which rows of an image the draft keeps: the adaptor's compressed tokens (ViSpec), all image
 * tokens (EAGLE-2 as its authors ran it), or none. */
enum image_rows { IMAGE_ROWS_ADAPTOR, IMAGE_ROWS_ALL, IMAGE_ROWS_NONE };

struct draft_config {
    struct lm_config layer; /* n_layers is 1, n_kv_heads is n_heads, positions are 1-D */
    bool has_image_rows;    /* the key "image_rows" is there: "adaptor", "all" or "none" */
    enum image_rows image_rows;
};

/* A draft folder's config.json: one decoder layer, MHA; the vocabulary is the target's.  Checked
 * against the target: a hidden size or vocabulary that differs is refused with both values.
 * layer.qkv_bias is the key's word if it is there; a bias in the file decides otherwise. */
int config_load_draft(const char *dir, const struct lm_config *target, struct draft_config *out,
                      struct error *err);

/* The same from the text of config.json; `path` is for messages. */
int config_parse(const char *text, size_t len, const char *path, struct model_config *out,
                 struct error *err);

#endif
