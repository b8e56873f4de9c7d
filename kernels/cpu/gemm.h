/* Products with packed weights, for operations that make something of the sums. */
#ifndef KERNELS_CPU_GEMM_H
#define KERNELS_CPU_GEMM_H

#include "kernels/cpu/vector.h"

enum { PANEL = 2 * WIDE }; /* outputs of a panel */

struct packed {
    int n_out, n_in, pair, n_panels;
    enum dtype type;
    size_t panel_bytes;
    char *panels; /* [n_panels][n_in][PANEL] of type, owned */
};

/* Sums of a panel for some rows: PANEL of each row; of pairs WIDE first ones and then their
 * seconds. */
struct gemm_sums {
    int panel, row0, n_rows, ld;
    const float *sum; /* [n_rows][ld] */
};

/* x W^T of n rows; any thread calls `finish`. */
struct gemm_product {
    const struct packed *w;
    const float *x;
    int n, ldx;
    void (*finish)(const void *args, const struct gemm_sums *s);
    const void *args;
};

void gemm_multiply(const struct gemm_product *p);

#endif
