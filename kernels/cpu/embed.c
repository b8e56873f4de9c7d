/* Operations that only move rows: embeddings, gathered rows, patches of a picture, positions. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

static void embed_run(const struct embed_args *a)
{
    const int n = cpu_n_rows(a->n, a->max);
    const size_t row_bytes = (size_t)a->width * dtype_size(a->table_type);
    REQUIRE(a->ld >= a->width);
#pragma omp parallel for if ((size_t)n * a->width > PARALLEL_WORK)
    for (int r = 0; r < n; r++) {
        float *out = (float *)a->out + (size_t)r * a->ld;
        int32_t id = a->id[r];
        if (id >= 0)
            widen(out, (const char *)a->table + (size_t)id * row_bytes, a->table_type, a->width);
        else
            memcpy(out, a->pool + (size_t)~id * a->width, (size_t)a->width * sizeof(*out));
    }
}

static void gather_rows_run(const struct gather_rows_args *a)
{
    const int n = cpu_n_rows(a->n, a->max);
    const size_t width = (size_t)a->width;
#pragma omp parallel for if (n * width > PARALLEL_WORK)
    for (int r = 0; r < n; r++) {
        REQUIRE(a->row[r] >= 0);
        memcpy((float *)a->out + r * width, (const float *)a->in + a->row[r] * width,
               width * sizeof(float));
    }
}

static void to_float_run(const struct to_float_args *a)
{
    memcpy(a->dst, a->src, (size_t)a->n * a->width * sizeof(float));
}

static void patches_run(const struct patches_args *a)
{
    const int p = a->patch, n_x = a->width / p, n_y = a->height / p;
    const size_t plane = (size_t)a->height * a->width, line_bytes = (size_t)p * sizeof(float);
    REQUIRE(p > 0 && a->width % p == 0 && a->height % p == 0);
#pragma omp parallel for if (plane > PARALLEL_WORK)
    for (int i = 0; i < n_y * n_x; i++) {
        float *out = (float *)a->out + (size_t)i * 3 * p * p;
        const float *corner = a->pixels + (size_t)(i / n_x) * p * a->width + (size_t)(i % n_x) * p;
        for (int channel = 0; channel < 3; channel++)
            for (int y = 0; y < p; y++, out += p)
                memcpy(out, corner + channel * plane + (size_t)y * a->width, line_bytes);
    }
}

static void add_positions_run(const struct add_positions_args *a)
{
    const size_t width = (size_t)a->width;
    const int first = a->cls != NULL ? 1 : 0;
#pragma omp parallel for if (a->n * width > PARALLEL_WORK)
    for (int r = 0; r < a->n + first; r++) {
        const float *in = r < first ? a->cls : (const float *)a->patches + (r - first) * width;
        for (size_t i = 0; i < width; i++)
            ((float *)a->out)[r * width + i] = in[i] + a->pos[r * width + i];
    }
}

CPU_OPERATION(embed, embed_args)
CPU_OPERATION(gather_rows, gather_rows_args)
CPU_OPERATION(to_float, to_float_args)
CPU_OPERATION(patches, patches_args)
CPU_OPERATION(add_positions, add_positions_args)
