#include "runtime/model/linear.h"

int linear_load(struct linear *out, const struct weights *w, struct linear_names names, int n_rows,
                int n_in, bool has_bias, struct error *err)
{
    char text[2 * WEIGHTS_MAX_PARTS][WEIGHTS_NAME_SIZE];
    struct weights_part weight[WEIGHTS_MAX_PARTS], bias[WEIGHTS_MAX_PARTS];
    for (int i = 0; i < names.n; i++) {
        weights_name(text[2 * i], names.name[i], ".weight");
        weights_name(text[2 * i + 1], names.name[i], ".bias");
        weight[i] = (struct weights_part){text[2 * i], n_rows};
        bias[i] = (struct weights_part){text[2 * i + 1], n_rows};
    }
    out->n_out = names.n * n_rows;
    out->n_in = n_in;
    if (weights_plain(&out->w, w, weight, names.n, n_in, err) != 0) return -1;
    return has_bias ? weights_plain(&out->bias, w, bias, names.n, 0, err) : 0;
}

void linear_done(struct linear *l, struct device *dev)
{
    device_free(dev, l->w);
    device_free(dev, l->bias);
    *l = (struct linear){0};
}

static struct matmul_args args_of(const struct linear *l, const void *x, void *y, int n)
{
    return (struct matmul_args){.w = l->w,
                                .x = x,
                                .bias = l->bias,
                                .y = y,
                                .n = n,
                                .n_out = l->n_out,
                                .n_in = l->n_in,
                                .ldx = l->n_in,
                                .ldy = l->n_out};
}

void linear_apply(const struct linear *l, struct device *dev, struct stream *s, const void *x,
                  void *y, int n, enum activation activation)
{
    struct matmul_args args = args_of(l, x, y, n);
    args.activation = activation;
    device_ops(dev)->matmul(s, &args);
}

void linear_add(const struct linear *l, struct device *dev, struct stream *s, const void *x,
                void *y, int n)
{
    struct matmul_args args = args_of(l, x, y, n);
    args.add = true;
    device_ops(dev)->matmul(s, &args);
}
