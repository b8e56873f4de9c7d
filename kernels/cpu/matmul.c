/* y = act(x W^T + bias) (+ y), by OpenBLAS; for the vision tower, whose weights lie as they came.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

#include <cblas.h>

static void finish_row(const struct matmul_args *a, float *y)
{
    for (int col = 0; col < a->n_out; col += VEC) {
        int n = a->n_out - col < VEC ? a->n_out - col : VEC;
        vec value = vec_load_n(y + col, n);
        if (a->bias != NULL) value += vec_load_n((const float *)a->bias + col, n);
        vec_store_n(y + col, vec_activate(value, a->activation), n);
    }
}

/* A small product stays on one thread, for the reason given at PARALLEL_FMAS.  The number depends
 * on the shape alone, so an image's features do not vary. */
static void choose_threads(const struct matmul_args *a)
{
    bool is_small = (size_t)a->n * a->n_out * a->n_in <= 4 * (size_t)PARALLEL_FMAS;
    int n_threads = is_small ? 1 : omp_get_max_threads();
    if (openblas_get_num_threads() != n_threads) openblas_set_num_threads(n_threads);
}

static void matmul_run(const struct matmul_args *a)
{
    REQUIRE(a->ldx >= a->n_in && a->ldy >= a->n_out);
    REQUIRE(!a->add || a->activation == ACT_NONE); /* sgemm adds before an activation could come */
    if (a->n == 0) return;
    choose_threads(a);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, a->n, a->n_out, a->n_in, 1, a->x, a->ldx,
                a->w, a->n_in, a->add ? 1 : 0, a->y, a->ldy);
    if (a->bias == NULL && a->activation == ACT_NONE) return;
#pragma omp parallel for if ((size_t)a->n * a->n_out > PARALLEL_WORK)
    for (int r = 0; r < a->n; r++) finish_row(a, (float *)a->y + (size_t)r * a->ldy);
}

CPU_OPERATION(matmul, matmul_args)
