/* The linear maps of vision towers: plain weights, the device library's product.
 *
 * Engine thread only. */
#ifndef RUNTIME_MODEL_LINEAR_H
#define RUNTIME_MODEL_LINEAR_H

#include "runtime/model/weights.h"

struct linear {
    void *w;    /* act [n_out][n_in] */
    void *bias; /* act [n_out] or NULL */
    int n_out, n_in;
};

/* Reads NAME.weight and, if has_bias, NAME.bias; of several names the rows, n_rows each, come one
 * below the other. */
struct linear_names {
    int n;
    const char *name[WEIGHTS_MAX_PARTS];
};
int linear_load(struct linear *out, const struct weights *w, struct linear_names names, int n_rows,
                int n_in, bool has_bias, struct error *err);
void linear_done(struct linear *l, struct device *dev); /* accepts an empty one */

/* Queues y = act(x w^T + bias) for n rows without gaps; `add`: y += x w^T + bias. */
void linear_apply(const struct linear *l, struct device *dev, struct stream *s, const void *x,
                  void *y, int n, enum activation activation);
void linear_add(const struct linear *l, struct device *dev, struct stream *s, const void *x,
                void *y, int n);

#endif
