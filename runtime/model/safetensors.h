/* The tensors of a checkpoint: one .safetensors file, or the shards that
 * model.safetensors.index.json names.  Files are mapped, never read twice; every header is checked
 * against the file's size before a pointer is handed out (format: the 8-byte little-endian header
 * length, a JSON object of name -> {dtype, shape, data_offsets}, then the data).  What was looked
 * up is remembered, so one thread loads. */
#ifndef RUNTIME_MODEL_SAFETENSORS_H
#define RUNTIME_MODEL_SAFETENSORS_H

#include "kernels/ops.h"
#include "runtime/error.h"

#include <stdbool.h>
#include <stdint.h>

struct safetensors;

enum { TENSOR_MAX_DIMS = 8 };

struct tensor {
    const char *name; /* borrowed from the file */
    enum dtype dtype;
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS];
    size_t n;         /* elements */
    const void *data; /* borrowed from the mapping; may be unaligned */
};

/* Opens dir/model.safetensors, or the shards of dir/model.safetensors.index.json.  A folder that
 * has only pytorch_model.bin is refused with a line that names the conversion script. */
int safetensors_open(struct safetensors **out, const char *dir, struct error *err);

/* One file's bytes, borrowed until close; `path` is for messages.  For tests and fuzzing. */
int safetensors_parse(struct safetensors **out, const void *bytes, size_t len, const char *path,
                      struct error *err);
void safetensors_close(struct safetensors *st); /* accepts NULL */

/* The file, or the folder of shards, for messages. */
const char *safetensors_path(const struct safetensors *st);

/* The tensor, or NULL if there is none or its type is not one of enum dtype (checkpoints carry
 * integer buffers that nobody computes with). */
const struct tensor *safetensors_find(const struct safetensors *st, const char *name);

/* Finds a tensor and checks its shape: n_dims sizes.  The error names file, tensor and both
 * shapes. */
int safetensors_get(const struct safetensors *st, const char *name, const int64_t *shape,
                    int n_dims, const struct tensor **out, struct error *err);

/* Fails if there is a tensor that nobody looked up: the model has a part that we would leave out.
 * Names that contain one of `ignored`, which ends with NULL, may stay. */
int safetensors_check_used(const struct safetensors *st, const char *const *ignored,
                           struct error *err);

#endif
