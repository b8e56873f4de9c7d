/* out = silu(gate) * up, silu(x) = x / (1 + e^-x):  in [n][2 width], gate first; out [n][width]. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

static void silu_mul_run(const struct silu_mul_args *a)
{
    /* exp makes an element about 4 times as dear as a multiply-add. */
#pragma omp parallel for if ((size_t)a->n * a->width * 4 > PARALLEL_WORK)
    for (int r = 0; r < a->n; r++) {
        const float *gate = (const float *)a->in + (size_t)r * 2 * a->width;
        const float *up = gate + a->width;
        float *out = (float *)a->out + (size_t)r * a->width;
        for (int i = 0; i < a->width; i += VEC) {
            int n = a->width - i < VEC ? a->width - i : VEC;
            vec x = vec_load_n(gate + i, n);
            vec_store_n(out + i, x * vec_sigmoid(x) * vec_load_n(up + i, n), n);
        }
    }
}

CPU_OPERATION(silu_mul, silu_mul_args)
