/* From a checkpoint's tensors to device memory: checked shapes, merged parts, converted types.
 *
 * What is computed together is merged here, once: q, k and v become one matrix, gate and up
 * another. Each function checks its tensors by safetensors_get and fails with that line.  While the
 * daemon starts only. */
#ifndef RUNTIME_MODEL_WEIGHTS_H
#define RUNTIME_MODEL_WEIGHTS_H

#include "kernels/device.h"
#include "kernels/ops.h"
#include "runtime/model/safetensors.h"

/* Where tensors come from and go to; all borrowed. */
struct weights {
    struct device *dev;
    const struct safetensors *st;
    const char *prefix; /* stands before all names */
};

enum { WEIGHTS_NAME_SIZE = 256, WEIGHTS_MAX_PARTS = 3 };

/* prefix + name, in the caller's text, which is returned. */
const char *weights_name(char text[WEIGHTS_NAME_SIZE], const char *prefix, const char *name);

/* Is there a tensor of this name that we compute with? */
bool weights_has(const struct weights *w, const char *name);

/* A tensor, or n_rows of a merged one. */
struct weights_part {
    const char *name; /* behind the prefix */
    int n_rows;
};

/* The parts, each [n_rows][n_in], one below the other, packed, in pairs where pair > 0 (ops.h).
 * Freed with ops->packed_free. */
int weights_packed(struct packed **out, const struct weights *w, const struct weights_part *parts,
                   int n_parts, int n_in, int pair, struct error *err);

/* The parts, each [n_rows], one behind the other, as floats in device memory. */
int weights_vector(float **out, const struct weights *w, const struct weights_part *parts,
                   int n_parts, struct error *err);

/* The parts, each [n_rows][n_in] or, where n_in is 0, [n_rows], plain, in the device's type of
 * activations (for ops->matmul). */
int weights_plain(void **out, const struct weights *w, const struct weights_part *parts,
                  int n_parts, int n_in, struct error *err);

/* One tensor of any shape as it is in the checkpoint, and its type. */
int weights_raw(void **out, enum dtype *type, const struct weights *w, const char *name,
                const int64_t *shape, int n_dims, struct error *err);

/* One tensor of any shape, plain in the type of activations, or as floats. */
int weights_plain_tensor(void **out, const struct weights *w, const char *name,
                         const int64_t *shape, int n_dims, struct error *err);
int weights_float_tensor(float **out, const struct weights *w, const char *name,
                         const int64_t *shape, int n_dims, struct error *err);

/* Device memory with a copy of bytes of host memory; returns when the copy is done. */
void *weights_upload(struct device *dev, const void *host, size_t bytes, const char *what);

/* Values in another type; `in` may be unaligned.  Widening is exact, narrowing rounds to nearest
 * even. */
void weights_convert(void *out, enum dtype to, const void *in, enum dtype from, size_t n);

#endif
